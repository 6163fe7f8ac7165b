"""What asyncpush writes itself is no source, wherever it lies and whatever leads to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest

from asyncpush import PushOptions, SourceError, UploadConfig, Uploader
from asyncpush.journal import Journal
from asyncpush.listeners.jsonl import EVENTS
from asyncpush.localhub import LocalHub
from asyncpush.own_files import Announcement, write_atomically
from asyncpush.sources.snapshot import Snapshot
from tests.conftest import TOKEN
from tests.reading import files_of

OURS = ".gitattributes"


async def test_a_journal_in_the_source_is_left_out(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path]
) -> None:
    out = write({"weights.bin": os.urandom(100_000), "cache/notes.txt": "the user's own"})
    config = replace(config, cache_dir=out / "cache")
    async with Uploader(TOKEN, hub.url, config) as up:
        first = await up.push_to_hub("me/journal", out)
        (out / "other.txt").write_text("2")
        second = await up.push_to_hub("me/journal", out)
        report = await up.audit("me/journal", out)

    assert await files_of(hub, "me/journal") - {OURS} == {
        "weights.bin",
        "cache/notes.txt",
        "other.txt",
    }
    journal = str(out / "cache" / "journal")
    assert first.warnings == (f"{journal!r} is the resume journal of asyncpush: left out",)
    assert second.files_uploaded == ("other.txt",)
    assert report.exact


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
async def test_a_default_cache_within_the_source_is_left_out(
    hub: LocalHub, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    out = write({"a.txt": "1"})
    monkeypatch.delenv("ASYNCPUSH_CACHE")
    monkeypatch.setenv(variable, str(out / "home"))
    async with Uploader(TOKEN, hub.url, UploadConfig(progress="none")) as up:
        result = await up.push_to_hub("me/home", out)

    assert result.files_uploaded == ("a.txt",)


@pytest.mark.parametrize("way", ["symlink", "hard link", "linked folder", "named", "within"])
async def test_no_path_leads_to_the_journal(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path], way: str
) -> None:
    out = write({"a.txt": "1"})
    Journal.open(Path(config.cache_dir)).close()
    async with Uploader(TOKEN, hub.url, config) as up:
        journal = Path(config.cache_dir) / "journal"
        database = journal / "journal.sqlite3"
        options, source = PushOptions(follow_symlinks=True), out
        match way:
            case "symlink":
                (out / "db").symlink_to(database)
            case "hard link":
                os.link(database, out / "db")
            case "linked folder":
                (out / "link").symlink_to(journal)
            case "named":
                source = {"a.txt": out / "a.txt", "db": database}  # type: ignore[assignment]
            case "within":
                (journal / "sub").mkdir()
                (journal / "sub" / "file").write_text("2")
                (out / "link").symlink_to(journal / "sub")
        result = await up.push_to_hub("me/paths", source, options)

    assert result.files_uploaded == ("a.txt",)
    assert len(result.warnings) == 1
    assert "the resume journal of asyncpush: left out" in result.warnings[0]


async def test_a_journal_is_known_by_its_files(
    uploader: Uploader, write: Callable[..., Path]
) -> None:
    names = ("journal.sqlite3", "journal.sqlite3-wal", "locks")
    out = write({"a.txt": "1", **{f"old/journal/{name}": "x" for name in names}})

    assert (await uploader.push_to_hub("me/other", out)).files_uploaded == ("a.txt",)


async def test_what_a_killed_command_leaves_behind_is_left_out(
    uploader: Uploader, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    out = write({"a.txt": "1", "asyncpush-spool-host-x/1": "a stream"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)
        patch.setattr(Path, "unlink", lambda path: None)
        write_atomically(out / "timeline.svg", b"<svg/>")

    assert len(os.listdir(out)) == 3
    assert (await uploader.push_to_hub("me/killed", out)).files_uploaded == ("a.txt",)


async def test_a_source_of_only_own_files_is_refused(
    uploader: Uploader, config: UploadConfig
) -> None:
    journal = Path(config.cache_dir) / "journal"
    for source in (journal, journal / "locks", {"locks": journal / "locks"}):
        with pytest.raises(SourceError, match="is the resume journal of asyncpush: left out"):
            await uploader.push_to_hub("me/none", source)


async def test_a_file_of_events_within_the_source_is_left_out(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path]
) -> None:
    out = write({"a.txt": "1", "events.jsonl": ""})
    config = replace(config, events=out / "events.jsonl")
    async with Uploader(TOKEN, hub.url, config) as up:
        result = await up.push_to_hub("me/events", out)
        alike = await up.push_to_hub("me/alike", {"a.txt": b"1", "log": out / "events.jsonl"})

    events = str(out / "events.jsonl")
    assert result.files_uploaded == alike.files_uploaded == ("a.txt",)
    assert result.warnings == (f"{events!r} is {EVENTS}: left out",)


async def test_a_closed_events_file_can_be_uploaded(
    uploader: Uploader, config: UploadConfig, hub: LocalHub, write: Callable[..., Path]
) -> None:
    out = write({"a.txt": "1"})
    async with Uploader(TOKEN, hub.url, replace(config, events=out / "events.jsonl")) as up:
        await up.push_to_hub("me/before", out)

    result = await uploader.push_to_hub("me/after", out)

    assert set(result.files_uploaded) == {"a.txt", "events.jsonl"}


@pytest.fixture
def log_to() -> Iterator[Callable[[str, Path], None]]:
    """Have a logger write to a file."""
    added = []

    def log_to(name: str, path: Path) -> None:
        log, handler = logging.getLogger(name), logging.FileHandler(path)
        log.addHandler(handler)
        added.append((log, handler))

    yield log_to
    for log, handler in added:
        log.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("name", ["asyncpush", "asyncpush.push", "root"])
async def test_the_pushs_log_is_left_out(
    uploader: Uploader,
    write: Callable[..., Path],
    log_to: Callable[[str, Path], None],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    caplog.set_level(logging.INFO, "asyncpush")
    out = write({"a.txt": "1"})
    log_to("" if name == "root" else name, out / "train.log")

    result = await uploader.push_to_hub("me/log", out)

    assert result.files_uploaded == ("a.txt",)
    assert "a log that asyncpush's own messages go to: left out" in result.warnings[0]


async def test_an_unrelated_log_file_is_uploaded(
    uploader: Uploader, write: Callable[..., Path], log_to: Callable[[str, Path], None]
) -> None:
    out = write({"train.log": "epoch 1\n"})
    log_to("", out / "train.log")  # at the level of warnings, by default

    assert (await uploader.push_to_hub("me/quiet", out)).files_uploaded == ("train.log",)


async def test_only_the_hubs_data_is_left_out(
    config: UploadConfig, tmp_path: Path, write: Callable[..., Path]
) -> None:
    out = write({"a.txt": "1", "data/b.txt": "2"})
    async with LocalHub(out, token=TOKEN) as hub, Uploader(TOKEN, hub.url, config) as up:
        result = await up.push_to_hub("me/beside", out)
        inner = await up.push_to_hub("me/inner", out / "data")

    assert result.files_uploaded == ("a.txt", "data/b.txt")
    assert all(warning.endswith("the embedded Hub's own data: left out")
               for warning in result.warnings)  # fmt: skip
    assert inner.files_uploaded == ("b.txt",)


def test_a_snapshot_takes_none_of_it(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    out = write({"a.txt": "1", "cache/journal/x": "2", "events.jsonl": "3"})
    with (
        Announcement(out / "cache" / "journal", "ours"),
        Announcement(out / "events.jsonl", "ours"),
    ):
        snapshot = Snapshot(out, PushOptions(), True, Event())

    assert [path.name for path in Path(snapshot.path).rglob("*")] == ["a.txt"]
    assert "events.jsonl' is ours: left out" in caplog.text
    snapshot.remove()
