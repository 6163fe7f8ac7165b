"""Snapshots: what is pushed stays as it was, whatever the trainer does to its folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncpush import PushOptions, SourceChangedError, SourceError
from asyncpush.sources import snapshot as module
from asyncpush.sources import walk
from asyncpush.sources.snapshot import Snapshot, SnapshotChoice, SnapshotStoppedError

Write = Callable[..., Path]


def take(
    source: Path,
    options: PushOptions | None = None,
    how: SnapshotChoice = True,
    stopped: threading.Event | None = None,
) -> Snapshot:
    return Snapshot(source, options or PushOptions(), how, stopped or threading.Event())


def content(root: str) -> dict[str, bytes]:
    below = Path(root)
    return {
        str(path.relative_to(below)): path.read_bytes()
        for path in below.rglob("*")
        if path.is_file()
    }


def leftovers(parent: Path) -> list[Path]:
    return list(parent.rglob(".asyncpush-snapshots"))


def test_a_copy_ignores_writes_in_place(write: Write, tmp_path: Path) -> None:
    source = write({"model.bin": b"first", "deep/config.json": b"{}"})
    os.utime(source / "model.bin", ns=(5, 7))
    copy = take(source)
    with (source / "model.bin").open("r+b") as file:
        file.write(b"worse")
    (source / "deep" / "config.json").unlink()
    assert content(copy.path) == {"model.bin": b"first", "deep/config.json": b"{}"}
    assert os.stat(os.path.join(copy.path, "model.bin")).st_mtime_ns == 7
    assert os.path.basename(copy.path) == source.name  # commit messages name it

    copy.remove()
    assert leftovers(tmp_path) == []


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(SourceError, match="empty path"):
        Snapshot("", PushOptions(), True, threading.Event())


def test_a_hard_link_keeps_only_replaced_files(write: Write) -> None:
    source = write({"replaced.bin": b"first", "in_place.bin": b"first"})
    link = take(source, how="hardlink")
    (source / "replaced.bin.tmp").write_bytes(b"second")
    os.replace(source / "replaced.bin.tmp", source / "replaced.bin")
    (source / "in_place.bin").write_bytes(b"second")
    assert content(link.path) == {"replaced.bin": b"first", "in_place.bin": b"second"}
    link.remove()


def test_where_there_are_no_hard_links_files_are_copied(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = write({"model.bin": b"first"})
    copy = take(source, how="hardlink")
    (source / "model.bin").write_bytes(b"second")
    assert content(copy.path) == {"model.bin": b"first"}
    copy.remove()


@pytest.mark.parametrize("reflinks", ["taken", "no fcntl"])
def test_a_reflink_is_taken_where_there_is_one(
    reflinks: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's file system may have none: what is asked of it is looked at here."""
    asked: list[int] = []

    class Fcntl:
        def ioctl(self, target: int, request: int, source: int) -> None:
            asked.append(request)
            os.write(target, os.read(source, 99))  # what the file system would do

    monkeypatch.setattr(module, "fcntl", Fcntl() if reflinks == "taken" else None)
    monkeypatch.setattr(Snapshot, "_copy", Snapshot._copy if reflinks != "taken" else None)
    copy = take(write({"model.bin": b"first"}))
    assert content(copy.path) == {"model.bin": b"first"}
    assert asked == ([0x40049409] if reflinks == "taken" else [])
    copy.remove()


def test_only_what_would_be_pushed_is_copied(write: Write) -> None:
    source = write({"model.bin": b"m", "optimizer.pt": b"o", ".git/HEAD": b"h"})
    (source / ".asyncpush-snapshots").mkdir()
    (source / ".asyncpush-snapshots" / "of another").write_bytes(b"s")
    copy = take(source, PushOptions(ignore_patterns="*.pt"))
    assert content(copy.path) == {"model.bin": b"m"}
    copy.remove()


@pytest.mark.parametrize("how", [True, "hardlink"])
def test_links_to_files_become_files(how: SnapshotChoice, write: Write) -> None:
    source = write({"blob": b"weights"}, "elsewhere")
    folder = write({"a.txt": b"a"})
    (folder / "model.bin").symlink_to(source / "blob")
    copy = take(folder, how=how)
    assert content(copy.path) == {"a.txt": b"a", "model.bin": b"weights"}
    assert not os.path.islink(os.path.join(copy.path, "model.bin"))
    copy.remove()


def test_a_file_alone_keeps_its_name(write: Write) -> None:
    copy = take(write({"model.bin": b"m"}) / "model.bin")
    assert os.path.basename(copy.path) == "model.bin"
    assert Path(copy.path).read_bytes() == b"m"
    copy.remove()


@pytest.mark.parametrize("what", ["missing folder", "broken link", "pipe", "unlistable", "no room"])
def test_what_cannot_be_copied_is_named_and_leaves_nothing(
    what: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write({"a.txt": b"a"})
    wanted = str(source / "odd")
    match what:
        case "missing folder":
            source = tmp_path / "nowhere"
            wanted = "does not exist"
        case "broken link":
            (source / "odd").symlink_to("nowhere")
        case "pipe":
            os.mkfifo(source / "odd")
        case "unlistable":
            (source / "odd").mkdir()
            entries = walk._entries

            def refuse(path: str, *, through_links: bool) -> object:
                if path == str(source / "odd"):
                    raise PermissionError(13, "Permission denied")
                return entries(path, through_links=through_links)

            monkeypatch.setattr(walk, "_entries", refuse)
        case _:

            def full(self: Snapshot, *files: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(Snapshot, "_copy", full)
            wanted = "No space left"
    with pytest.raises(SourceError, match=wanted):
        take(source)
    assert leftovers(tmp_path) == []


def test_a_file_that_changes_meanwhile_is_no_snapshot(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write({"model.bin": b"first"})
    copy = Snapshot._copy

    def writing(self: Snapshot, *files: object) -> None:
        copy(self, *files)  # type: ignore[arg-type]
        (source / "model.bin").write_bytes(b"second one")

    monkeypatch.setattr(Snapshot, "_copy", writing)
    with pytest.raises(SourceChangedError, match=r"model\.bin"):
        take(source, PushOptions(on_change="error"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [5, 11 << 20])
def test_a_growing_log_is_copied_consistently(
    size: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write({"train.log": b"s" * size})
    copy = Snapshot._copy

    def writing(self: Snapshot, *files: object) -> None:
        copy(self, *files)  # type: ignore[arg-type]
        with (source / "train.log").open("ab") as log:
            log.write(b"more")

    monkeypatch.setattr(Snapshot, "_copy", writing)
    snapshot = take(source)
    assert Path(snapshot.path, "train.log").read_bytes() == b"s" * size + b"more"
    snapshot.remove()


def test_a_snapshot_that_nobody_wants_any_more_stops(write: Write, tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(SnapshotStoppedError):
        take(write({"model.bin": b"first"}), stopped=stopped)
    with pytest.raises(SnapshotStoppedError):
        take(tmp_path / "out" / "model.bin", stopped=stopped)
    assert leftovers(tmp_path) == []
