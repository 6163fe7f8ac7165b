"""Credentials in the folder: warned of or refused before bytes move, and told by nobody."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncpush import PushOptions, SourceError, UploadConfig, Uploader
from asyncpush.events import Notice, Record
from asyncpush.listeners.logs import JsonFormatter, VerboseFormatter
from asyncpush.localhub import LocalHub
from asyncpush.models import Source
from asyncpush.pipeline import preflight
from asyncpush.sources.leaks import Leak
from asyncpush.sources.problem_report import NOTICES_SHOWN
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.sources.test_leaks import LETTERS, TOKENS, body

SECRET = body(36)
FILES: dict[str, bytes | str] = {
    "config.json": "{}",
    ".env": "DEBUG=1\n",
    "src/run.py": f"import os\n\nlogin('ghp_{SECRET}')\n",
    "weights.bin": b"\0" * 100,
}
STRICT = PushOptions(strict=True)


async def test_a_push_warns_and_goes_on(
    uploader: Uploader, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    result = await uploader.push_to_hub("me/warned", write(FILES))

    assert set(result.files_uploaded) == set(FILES)
    assert result.warnings == (
        "'.env' looks like a file of credentials: is it meant to be published?",
        "'src/run.py', line 3, looks like a GitHub token: is it meant to be published?",
    )
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == list(result.warnings)


@pytest.mark.parametrize("how", ["push", "store", "dry run"])
async def test_a_strict_push_is_refused_before_anything_is_sent(
    uploader: Uploader, write: Callable[..., Path], faults: FaultLayer, how: str
) -> None:
    folder = write(FILES)
    with pytest.raises(SourceError) as caught:
        match how:
            case "push":
                await uploader.push_to_hub("me/strict", folder, STRICT)
            case "store":
                await uploader.upload_files("me/strict", folder, STRICT)
            case _:
                options = PushOptions(strict=True, dry_run=True)
                await uploader.push_to_hub("me/strict", folder, options)

    assert caught.value.problems == (
        "'.env' looks like a file of credentials",
        "'src/run.py', line 3, looks like a GitHub token",
    )
    assert "ignore_patterns" in caught.value.suggestion
    assert not faults.seen


async def test_a_strict_push_searches_files_before_it_writes(
    uploader: Uploader, faults: FaultLayer
) -> None:
    files = {f"{number}.txt": b"%d" % number for number in range(300)}
    with pytest.raises(SourceError, match=r"'\.env' looks like a file of credentials"):
        await uploader.push_to_hub("me/strict", {**files, ".env": b"A=1"}, STRICT)
    assert set(faults.seen) <= {"revision", "paths-info"}


async def test_a_strict_push_of_harmless_files_goes_through(
    uploader: Uploader, write: Callable[..., Path]
) -> None:
    options = PushOptions(strict=True, ignore_patterns=[".env", "*.py"])
    result = await uploader.push_to_hub("me/harmless", write(FILES), options)
    assert (set(result.files_uploaded), result.warnings) == ({"config.json", "weights.bin"}, ())


async def test_bytes_and_streams_are_searched_for_secrets(uploader: Uploader) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"\n"
        yield f"glpat-{body(20)}".encode()

    source: Source = {"a.txt": f"npm_{SECRET}".encode(), "b.txt": stream()}
    with pytest.raises(SourceError) as caught:
        await uploader.push_to_hub("me/memory", source, STRICT)
    assert caught.value.problems == (
        "'a.txt', line 1, looks like an npm token",
        "'b.txt', line 2, looks like a GitLab token",
    )


async def test_many_leaks_are_shown_in_part_and_counted(uploader: Uploader) -> None:
    source: Source = {f"{number:03}/.env": b"A=1" for number in range(600)}  # three thread hops
    result = await uploader.push_to_hub("me/many", source, PushOptions(dry_run=True))

    shown = [w for w in result.warnings if ".env" in w]
    assert [w[:9] for w in shown] == [f"'{n:03}/.env" for n in range(NOTICES_SHOWN)]
    assert f"files with a file of credentials: {600 - NOTICES_SHOWN} more" in result.warnings


async def test_a_scan_ends_when_there_is_more_than_anybody_reads(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LEAKS_LIMIT", 3)
    monkeypatch.setattr(preflight, "WORKERS", 1)
    monkeypatch.setattr(preflight, "FILES_PER_HOP", 2)
    source: Source = {f"{number}/.env": b"A=1" for number in range(9)}
    result = await uploader.push_to_hub("me/ended", source, PushOptions(dry_run=True))

    assert sum(".env" in warning for warning in result.warnings) == 4
    assert "too many possible credentials: the remaining files were not checked" in result.warnings


async def test_a_push_that_is_cancelled_scans_no_further(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, begun, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def endless(files: object, stopped: Callable[[], bool], read: object) -> list[Leak]:
        loop.call_soon_threadsafe(begun.set)
        while not stopped():
            time.sleep(0.001)
        ended.set()
        return []

    monkeypatch.setattr(preflight, "find_leaks", endless)
    push = uploader.start_push("me/cancelled", b"x", PushOptions(path_in_repo="x"))
    await begun.wait()
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    assert ended.is_set()


@pytest.mark.parametrize("variable", ["HF_TOKEN_PATH", "HF_HOME"])
@pytest.mark.parametrize("way", ["itself", "hard link", "named"])
async def test_a_token_file_in_the_source_is_refused(
    uploader: Uploader,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    faults: FaultLayer,
    variable: str,
    way: str,
) -> None:
    out = write({"a.txt": "1", "secret/token": "another-token-than-the-one-given\n"})
    token, source = out / "secret" / "token", cast("Source", out)
    monkeypatch.setenv(variable, str(token if variable == "HF_TOKEN_PATH" else token.parent))
    if way == "hard link":
        os.link(token, out / "link")
    elif way == "named":
        source = {"a.txt": b"1", "secret/token": token}
    with pytest.raises(SourceError, match="'secret/token' contains a Hub token that is in use"):
        await uploader.push_to_hub("me/token", source)

    assert not faults.seen
    if way == "itself":
        left = PushOptions(ignore_patterns="secret/*")
        result = await uploader.push_to_hub("me/token", source, left)
        assert result.files_uploaded == ("a.txt",)


async def test_the_tokens_beside_the_token_file_are_refused_too(
    uploader: Uploader, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write({"a.txt": "1", "stored_tokens": "[one]\nhf_token = x\n"})
    monkeypatch.setenv("HF_HOME", str(out))
    with pytest.raises(SourceError, match="'stored_tokens' contains a Hub token"):
        await uploader.push_to_hub("me/stored", out)


async def test_a_file_with_only_the_token_is_refused(
    uploader: Uploader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "the-token-of-the-environment")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("a-token-that-is-kept\n")
    source: Source = {
        "copy": b"a-token-that-is-kept",  # as in a snapshot
        "given": f"{TOKEN}\n".encode(),
        "env": b"the-token-of-the-environment\r\n",
    }
    with pytest.raises(SourceError) as caught:
        await uploader.push_to_hub("me/in-use", source)

    assert caught.value.problems == (
        "'copy' contains a Hub token that is in use",
        "'env' contains a Hub token that is in use",
        "'given' contains a Hub token that is in use",
    )
    assert TOKEN not in str(caught.value)


@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 1 << 30), strict=st.booleans())
async def test_prop_no_output_of_a_push_has_the_secret(
    hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int, strict: bool
) -> None:
    """Every known form, each with a random secret, in the events, JSON lines, logs and errors."""
    secret = body(16, LETTERS, seed)
    source: Source = {
        f"{number}.txt": token.replace(body(16), secret).encode()
        for number, (_, token) in enumerate(TOKENS.values())
    }
    caplog.set_level(logging.DEBUG, "asyncpush")
    recorded: list[Record] = []
    config = UploadConfig(cache_dir=tmp_path / "cache", progress="none", events=recorded.append)
    reported = []
    async with Uploader(TOKEN, hub.url, config) as up:
        try:
            result = await up.push_to_hub("me/told", source, PushOptions(strict=strict))
            reported.append(repr(result))
        except SourceError as error:
            reported += [
                str(error),
                repr(error),
                *error.problems,
                *traceback.format_exception(error),
            ]
    assert strict == any("looks like" in text and "Error" in text for text in reported)
    assert strict or sum(isinstance(record.event, Notice) for record in recorded) >= 20
    reported += [repr(record) for record in recorded]
    for record in caplog.records:
        reported += [VerboseFormatter().format(record), JsonFormatter().format(record)]
    for text in reported:
        assert secret not in text
        assert body(16) not in text


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 12345\n"


async def test_a_git_lfs_pointer_is_refused_before_anything_is_sent(
    uploader: Uploader, write: Callable[..., Path], faults: FaultLayer
) -> None:
    # As in a clone without `git lfs pull`. Stored as LFS, the repo would hold 130 bytes in place of
    # the weights; in the commit, the Hub would take it for the object that it names.
    folder = write({"model.safetensors": POINTER, "notes.txt": POINTER, "config.json": "{}"})
    with pytest.raises(SourceError) as caught:
        await uploader.push_to_hub("me/pointers", folder)

    assert caught.value.problems == (
        "'model.safetensors' contains a Git LFS pointer, not the file itself",
        "'notes.txt' contains a Git LFS pointer, not the file itself",
    )
    assert "git lfs pull" in caught.value.suggestion
    assert not faults.seen


async def test_a_bucket_may_hold_git_lfs_pointers(
    uploader: Uploader, write: Callable[..., Path]
) -> None:
    result = await uploader.sync(write({"w.bin": POINTER}), "hf://buckets/me/pointers")
    assert result.files_uploaded == ("w.bin",)
    assert result.warnings == (
        "'w.bin' contains a Git LFS pointer, not the file itself: is it meant to be published?",
    )
