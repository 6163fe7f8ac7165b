from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.serialization._base import parse_size_to_int

from asyncpush import Push, PushOptions, SyncOptions, UploadConfig
from asyncpush.options import default_cache_dir, parse_size

BAD_CONFIG: list[tuple[str, Any]] = [
    *(("max_retries", value) for value in (-1, 1.5, "5", None, True)),
    *(("max_concurrent_files", value) for value in (0, "1", False)),
    *(("max_concurrent_parts", value) for value in (0, 2.0)),
    *(("hash_workers", value) for value in (0, None)),
    *(("chunk_size", value) for value in (0, 1023, (64 << 20) + 1, "1 MB")),
    *(("max_memory", value) for value in ((1 << 20) - 1, 2e9)),
    *(("initial_backoff_ms", value) for value in (-1, math.nan, "500", 30_001)),
    *(("max_backoff_ms", value) for value in (-1, math.nan, None)),
    *(("outage_timeout", value) for value in (-1, math.nan, None)),
    *(("max_retry_after", value) for value in (-1, math.nan, None)),
    *(("connect_timeout", value) for value in (0, -1, math.nan, math.inf, None)),
    *(("stall_timeout", value) for value in (0, True, math.inf)),
    *(("response_timeout", value) for value in (0, "1", math.inf)),
    *(("max_bandwidth", value) for value in (0, -5, "1MB", math.nan)),
    ("progress", "bars"),
    ("progress", None),
    ("progress", []),
    *(("transfer", value) for value in ("s3", "XET", None)),
    ("progress_callback", "print"),
    *(("allowed_hosts", value) for value in ("store.example", 5, [1])),
    *(("cache_dir", value) for value in (5, None, "")),
    *((name, 1) for name in ("verify_etag", "trust_mtime", "resume")),
    ("verify_etag", None),
    ("events", 5),
    ("events", ""),
    ("events", ["run.jsonl", 5]),
    ("events", b"run.jsonl"),
]

BAD_OPTIONS: list[tuple[str, Any]] = [
    *(("repo_type", value) for value in ("models", None)),
    *(("revision", value) for value in ("", None, 5)),
    *(("max_shard_size", value) for value in ("1" * 400, "9" * 310 + "GB", 1 << 61)),
    *(("revision", value) for value in ("a..b", "x.lock", "a.lock/b", "-x", "a b", "a\x07b", "@")),
    *(("revision", value) for value in ("a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a@{1}")),
    *(("revision", value) for value in ("a//b", "/a", "a/", ".a", "a/.b", "a.", "x" * 251)),
    *(("path_in_repo", value) for value in (None, Path("a"))),
    *(("commit_description", value) for value in (None, 5)),
    ("commit_message", 5),
    *((name, "mod\udce8le") for name in ("revision", "commit_message", "commit_description")),
    *((name, "mod\udce8le") for name in ("path_in_repo", "allow_patterns", "delete_patterns")),
    ("allow_patterns", ["*.bin", "mod\udce8le"]),
    *(("parent_commit", value) for value in ("main", "abc123", "A" * 40, "a" * 65, 5)),
    *(("max_files_per_commit", value) for value in (0, 1.5, True)),
    *(("max_shard_size", value) for value in (0, -1, True, 1.5, "", "4 XB", "-4GB", "0GB", "GB")),
    *(("timeout", value) for value in (0, -1, math.nan, "10")),
    *(("space_sdk", value) for value in ("flask", 5)),
    *(("visibility", value) for value in ("secret", 5)),
    *((name, value) for name in ("region", "resource_group") for value in ("", 5)),
    *(("allow_patterns", value) for value in (5, [5])),
    *(("ignore_patterns", value) for value in (5, [None])),
    *(("delete_patterns", value) for value in (5, [b"*"])),
    *(("verify", value) for value in (None, 0, "")),  # no verification only by False
    *(("private", value) for value in ("", "false", 0)),  # "" would be public
    *(("dry_run", value) for value in ("false", "0")),  # nothing would be pushed
    *((name, None) for name in ("create_repo", "create_branch", "create_pr", "follow_symlinks")),
    ("strict", "yes"),
]


def shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(("name", "value"), BAD_CONFIG, ids=shown)
def test_a_bad_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        UploadConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS, ids=shown)
def test_a_bad_option_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        PushOptions(**{name: value})


def test_a_part_in_flight_fits_into_memory() -> None:
    UploadConfig(chunk_size=1 << 20, max_memory=4 << 20)
    with pytest.raises(ValueError, match=r"^chunk_size must be at most 1/4 of max_memory"):
        UploadConfig(chunk_size=(1 << 20) + 1, max_memory=4 << 20)


@pytest.mark.parametrize(
    "good",
    [
        {"max_retries": 0, "initial_backoff_ms": 0, "max_backoff_ms": 0},
        {"chunk_size": 1024, "max_memory": 1 << 20, "max_bandwidth": 0.5},
        {"allowed_hosts": ["a", "b"], "events": print, "progress_callback": print},
        {"allowed_hosts": (), "events": Path("e.jsonl"), "cache_dir": "x"},
        {"events": ["e.jsonl", print]},
        {"progress": "none", "transfer": "lfs"},
    ],
    ids=lambda good: ", ".join(good),
)
def test_settings_at_their_bounds(good: dict[str, Any]) -> None:
    config = UploadConfig(**good)

    assert {name: getattr(config, name) for name in good} == good


@pytest.mark.parametrize(
    "good",
    [
        {"repo_type": "space", "space_sdk": "gradio", "visibility": "protected"},
        {"visibility": "public", "region": "eu", "resource_group": "rg-1"},
        {"parent_commit": "abcdef0", "max_files_per_commit": 1, "create_pr": True},
        {"parent_commit": "a" * 64, "timeout": 0.1},
        {"revision": "refs/pr/12"},
        {"revision": "feature/ä-1.2_x@y"},
        {"revision": "0123456789abcdef0123456789abcdef01234567"},  # for audit
        {"allow_patterns": "*.bin", "ignore_patterns": ("a", "b"), "delete_patterns": []},
        {"max_files_per_commit": 5, "revision": "dev", "commit_message": "m"},
    ],
    ids=lambda good: ", ".join(good),
)
def test_options_at_their_bounds(good: dict[str, Any]) -> None:
    options = PushOptions(**good)

    assert {name: getattr(options, name) for name in good} == good


def test_a_series_with_create_pr_starts_from_main() -> None:
    with pytest.raises(ValueError, match="max_files_per_commit with create_pr"):
        PushOptions(max_files_per_commit=5, create_pr=True, revision="dev")


def test_a_merge_cannot_keep_a_pinned_parent() -> None:
    with pytest.raises(ValueError, match="parent_commit cannot be combined"):
        PushOptions(max_files_per_commit=5, parent_commit="abcdef0")
    PushOptions(max_files_per_commit=5, parent_commit="abcdef0", revision="dev")


@pytest.mark.parametrize(
    ("name", "value"),
    [("region", ""), ("timeout", 0), ("max_shard_size", "x"), ("delete", "*"), ("verify", None)],
)
def test_a_bad_option_of_a_sync_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        SyncOptions(**{name: value})


@pytest.mark.parametrize("settings", [UploadConfig(), PushOptions(), Push("me/m", b"")], ids=repr)
def test_settings_are_frozen(settings: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, dataclasses.fields(settings)[0].name, 1)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ASYNCPUSH_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"ASYNCPUSH_CACHE": "~/c"}, "/home/me/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/asyncpush"),
        ({}, "/home/me/.cache/asyncpush"),
    ],
    ids=["ASYNCPUSH_CACHE", "a tilde", "XDG_CACHE_HOME", "home"],
)
def test_where_the_cache_lies(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASYNCPUSH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)

    assert default_cache_dir() == Path(expected)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("4GB", 4_000_000_000),
        (" 500 mb ", 500_000_000),
        ("1.5KB", 1500),
        ("2TB", 2 * 10**12),
        ("1KiB", 1024),
        ("1 GiB", 1 << 30),
        ("12", 12),
        ("12B", 12),
        (7, 7),
    ],
)
def test_sizes_are_read_as_in_transformers(size: int | str, count: int) -> None:
    assert parse_size(size) == count
    assert PushOptions(max_shard_size=size).max_shard_size == size
    if isinstance(size, str) and size[-2:] in ("KB", "MB", "GB", "TB"):
        assert parse_size_to_int(size) == count


@pytest.mark.parametrize("base", ["$HOME/caches", "~/caches"])
@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "ASYNCPUSH_CACHE"])
def test_the_cache_lies_where_the_environment_says(
    name: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASYNCPUSH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, base)
    below = "asyncpush" if name == "XDG_CACHE_HOME" else ""
    assert default_cache_dir() == tmp_path / "caches" / below


def test_private_and_visibility_are_not_both_given() -> None:
    with pytest.raises(ValueError, match="set only one of them"):
        PushOptions(private=True, visibility="private")
