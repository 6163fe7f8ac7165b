"""Bad machines: whatever the disk does, a push goes on; one warning says that it is unprotected."""

from __future__ import annotations

import errno
import logging
import os
import pwd
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.journal import Journal, NullJournal, database, filesystem
from asyncpush.localhub import LocalHub
from asyncpush.options import default_cache_dir
from tests.conftest import TOKEN
from tests.fake_clock import FakeClock
from tests.journal.helpers import (
    SCOPE,
    SHA,
    connection_of,
    database_file,
    make_commit,
    make_identity,
    make_upload,
    processes,
    set_aside,
)
from tests.journal.workers import fill_small_disk


def use_everything(journal: Journal) -> None:
    """Call every method, as a push would, and see that nothing is remembered."""
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    assert journal.hash_of("/a", make_identity(), "sha256") is None
    journal.forget_hash("/a")
    journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    journal.part_stored(SCOPE, SHA, 2, "e")
    assert journal.find_upload(SCOPE, SHA) is None
    journal.end_upload(SCOPE, SHA)
    journal.begin_commit(SCOPE, make_commit())
    assert journal.pending_commits(SCOPE, "f1") == []
    journal.end_commit(SCOPE, make_commit())
    with journal.claim(SCOPE, SHA) or pytest.fail("a journal that is off gives claims"):
        assert journal.claim(SCOPE, SHA) is None
    assert journal.expire() == 0
    assert journal.clear() == 0
    assert journal.entries() == []
    stats = journal.stats()
    assert (stats.hashes, stats.uploads, stats.parts, stats.commits) == (0, 0, 0, 0)
    assert stats.disabled_reason == journal.disabled_reason


def test_the_null_journal_remembers_nothing() -> None:
    with NullJournal() as journal:
        use_everything(journal)
        assert journal.disabled_reason == "resume is off"
        assert journal.stats().path == ""
        journal.close()


def test_a_closed_journal_remembers_nothing_and_warns_of_nothing(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(tmp_path, clock=clock)
    journal.begin_upload(SCOPE, make_upload())
    journal.close()
    journal.close()
    use_everything(journal)
    assert caplog.records == []


def test_a_full_disk_turns_off_the_journal_with_one_warning(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    connection_of(journal).execute("PRAGMA max_page_count=1").fetchone()
    journal.begin_upload(SCOPE, make_upload())
    items = [(f"/{number}", make_identity(), "sha256", SHA) for number in range(5_000)]
    journal.remember_hashes(items)
    journal.flush()
    assert journal.disabled_reason is not None
    assert "database or disk is full" in journal.disabled_reason
    use_everything(journal)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "database or disk is full" in record.getMessage()
    assert "the resume journal is off" in record.getMessage()


def test_records_from_before_a_full_disk_remain(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload())
        journal.part_stored(SCOPE, SHA, 1, "e")
        connection_of(journal).execute("PRAGMA max_page_count=1").fetchone()
        journal.part_stored(SCOPE, SHA, 2, "e" * 100_000)
        assert journal.disabled_reason is not None
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.find_upload(SCOPE, SHA) == make_upload(etags={1: "e"})
    assert set_aside(tmp_path) == []


def test_files_that_cannot_grow_turn_the_journal_off(tmp_path: Path) -> None:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=fill_small_disk, args=(tmp_path, theirs))
    process.start()
    theirs.close()
    reason, claimed = ours.recv()
    process.join()
    assert process.exitcode == 0
    process.close()
    ours.close()
    assert reason is not None
    assert claimed
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason is None
        assert journal.stats().hashes > 0
    assert set_aside(tmp_path) == []


def test_a_journal_locked_for_too_long_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    with Journal.open(tmp_path) as one, Journal.open(tmp_path) as two:
        connection_of(one).execute("BEGIN IMMEDIATE")
        two.remember_hash("/a", make_identity(), "sha256", SHA)
        two.flush()
        connection_of(one).execute("ROLLBACK")
        assert two.disabled_reason is not None
        assert "locked" in two.disabled_reason
        assert one.disabled_reason is None
    assert len(caplog.records) == 1


def test_only_a_lock_is_waited_for(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    connection_of(journal).execute("BEGIN")
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 3600.0)
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    journal.flush()  # a transaction within another
    assert journal.disabled_reason is not None


def remembers_once_let(journal: Journal, other: Journal) -> None:
    """While the other one is in a transaction, which ends a moment later."""
    timer = threading.Timer(0.1, lambda: connection_of(other).execute("ROLLBACK"))
    timer.start()
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    journal.flush()
    timer.join()
    assert journal.disabled_reason is None
    assert other.hash_of("/a", make_identity(), "sha256") == SHA


def test_a_short_lock_is_waited_out(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as one, Journal.open(tmp_path) as two:
        connection_of(one).execute("BEGIN IMMEDIATE")
        remembers_once_let(two, one)


def test_a_commit_waits_for_a_blocking_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "on_network", lambda folder: True)
    with Journal.open(tmp_path) as one, Journal.open(tmp_path) as two:
        connection_of(one).execute("BEGIN")
        connection_of(one).execute("SELECT * FROM commits").fetchall()
        remembers_once_let(two, one)


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda path: path.touch(), id="a file where the folder should be"),
        pytest.param(lambda path: path.symlink_to("/dev/null"), id="a link to no folder"),
        pytest.param(lambda path: path.symlink_to(path), id="a link to itself"),
        pytest.param(lambda path: (path / "locks").mkdir(parents=True), id="locks is a folder"),
    ],
)
def test_an_impossible_folder_turns_off_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prepare: Callable[[Path], None]
) -> None:
    prepare(tmp_path / "journal")
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason is not None
        assert str(tmp_path) in journal.disabled_reason
        use_everything(journal)
    (record,) = caplog.records
    assert record.getMessage().startswith("no resume journal: ")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, os.strerror(errno.EROFS), "journal.sqlite3"),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "journal.sqlite3"),
    ],
    ids=["read-only", "too many open files", "disk full"],
)
def test_a_file_that_cannot_be_made_is_done_without(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(database, "prepare_file", fail)
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason is not None
        assert str(error.strerror) in journal.disabled_reason
        use_everything(journal)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("call", [1, 2], ids=["first connection", "second connection"])
def test_a_database_that_cannot_be_opened_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0
    connect = database._connect

    def fail(path: Path) -> sqlite3.Connection:
        nonlocal calls
        calls += 1
        if calls == call:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path)

    monkeypatch.setattr(database, "_connect", fail)
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason is not None
        assert journal.disabled_reason.endswith("unable to open database file")


def test_an_error_during_a_change_undoes_it(journal: Journal) -> None:
    assert journal._database is not None

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM commits")
        raise KeyboardInterrupt

    journal.begin_commit(SCOPE, make_commit())
    with pytest.raises(KeyboardInterrupt):
        journal._database.write(fail, durable=True)
    assert journal.pending_commits(SCOPE, "f1") == [make_commit()]
    assert journal.disabled_reason is None


def test_a_journal_closed_during_a_wait_does_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClosedMeanwhile:
        def __enter__(self) -> None:
            monkeypatch.undo()
            journal.close()

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(journal._database, "_write_lock", ClosedMeanwhile())
    journal.end_commit(SCOPE, make_commit())
    assert journal.disabled_reason is None


def test_two_threads_that_meet_the_same_failure_warn_once(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    assert journal._database is not None
    failure = sqlite3.OperationalError("disk I/O error")
    journal._database._give_up(failure)
    journal._database._give_up(failure)
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_touch_the_journal(journal: Journal) -> None:
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    child = os.fork()
    if child == 0:  # pragma: no cover
        quiet = journal.hash_of("/a", make_identity(), "sha256") is None
        journal.close()
        os._exit(0 if quiet and journal.expire() == 0 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert journal.hash_of("/a", make_identity(), "sha256") == SHA


def test_an_unwritable_place_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    with Journal.open(Path("/proc/asyncpush")) as journal:
        use_everything(journal)
    assert len(caplog.records) == 1


def test_on_a_network_filesystem_there_is_no_shared_memory(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "on_network", lambda folder: True)
    with Journal.open(tmp_path, clock=clock) as one, Journal.open(tmp_path, clock=clock) as two:
        assert connection_of(one).execute("PRAGMA journal_mode").fetchone() == ("delete",)
        one.begin_upload(SCOPE, make_upload())
        assert two.find_upload(SCOPE, SHA) == make_upload()
        two.part_stored(SCOPE, SHA, 2, "e")
        assert one.find_upload(SCOPE, SHA) == make_upload(etags={2: "e"})
        assert not database_file(tmp_path).with_name("journal.sqlite3-shm").exists()
    monkeypatch.undo()
    with Journal.open(tmp_path, clock=clock) as journal:
        assert connection_of(journal).execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert journal.find_upload(SCOPE, SHA) == make_upload(etags={2: "e"})


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", False), ("nfs4", True), ("fuse.sshfs", True)]
)
def test_a_network_filesystem_is_known_by_its_mount(
    tmp_path: Path, kind: str, expected: bool
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 999:1 / / rw - nfs4 server:/ rw\n"
        f"23 1 {os.major(device)}:{os.minor(device)} / /home rw - {kind} /dev/sda rw\n"
    )
    assert filesystem.on_network(tmp_path, mounts) is expected
    mounts.write_text("22 1 999:1 / / rw - nfs4 server:/ rw\n")
    assert filesystem.on_network(tmp_path, mounts) is False
    assert filesystem.on_network(tmp_path, tmp_path / "none") is False


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as a user nobody knows."""

    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "HF_HOME", "ASYNCPUSH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("named", [None, "~/cache"])
async def test_without_a_home_directory_there_is_no_journal(
    no_home: None,
    hub: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    named: str | None,
) -> None:
    if named is not None:
        monkeypatch.setenv("ASYNCPUSH_CACHE", named)

    async def long() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"\0" * (1 << 18)

    config = UploadConfig(progress="none", transfer="lfs", max_memory=1 << 20)
    async with Uploader(TOKEN, hub.url, config) as up:
        result = await up.push_to_hub("me/homeless", {"a.txt": b"1", "spooled.bin": long()})

    assert result.verified
    (warning,) = result.warnings
    assert "could not have been resumed" in warning
    assert "no home directory" in warning
    assert "set ASYNCPUSH_CACHE" in warning


def test_a_cache_of_ones_own_needs_no_home_directory(no_home: None, tmp_path: Path) -> None:
    with Journal.open(default_cache_dir()) as journal:
        assert journal.disabled_reason is not None
    assert not (tmp_path / "temporary").exists()
    with Journal.open(tmp_path / "cache") as journal:
        assert journal.disabled_reason is None
