"""A journal that is not what it should be: set aside with a warning, and a fresh one begun."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from asyncpush.journal import Journal, database, filesystem
from tests.fake_clock import FakeClock
from tests.journal.helpers import (
    SCOPE,
    SHA,
    connection_of,
    database_file,
    make_commit,
    make_identity,
    make_upload,
    set_aside,
)


def fill(directory: Path, clock: FakeClock) -> None:
    with Journal.open(directory, clock=clock) as journal:
        journal.remember_hashes(
            (f"/folder/{number}", make_identity(), "sha256", f"{number:064x}")
            for number in range(500)
        )
        journal.begin_upload(SCOPE, make_upload(parts=200, etags={1: "e1", 2: "e2"}))
        journal.begin_commit(SCOPE, make_commit())


def meddle(statement: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)

    return apply


def overwrite(offset: int, content: bytes) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    return apply


def become_a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def become_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def become_another_database(path: Path) -> None:
    path.unlink()
    meddle("CREATE TABLE theirs (a)")(path)


DAMAGE = {
    "garbage": lambda path: path.write_bytes(random.Random(1).randbytes(20_000)),
    "text": lambda path: path.write_text("hello " * 1000),
    "header gone": overwrite(0, bytes(100)),
    "first page zeroed": overwrite(0, bytes(4096)),
    "a page zeroed": overwrite(4096 * 6, bytes(4096)),
    "a page overwritten": overwrite(4096 * 5, b"\xff" * 4096),
    "truncated to a page": lambda path: os.truncate(path, 4096),
    "truncated to half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "truncated within a page": lambda path: os.truncate(path, 4096 * 3 + 100),
    "truncated to a stub": lambda path: os.truncate(path, 50),
    "a folder": become_a_folder,
    "a link": become_a_link,
    "another program's": become_another_database,
    "newer": meddle("PRAGMA user_version=2"),
    "older": meddle("PRAGMA user_version=0"),
    "no application id": meddle("PRAGMA application_id=0"),
    "a table missing": meddle("DROP TABLE parts"),
    "a table of another shape": meddle("ALTER TABLE parts ADD COLUMN more"),
    "a table too many": meddle("CREATE TABLE more (a)"),
    "a trigger": meddle("CREATE TRIGGER t AFTER INSERT ON parts BEGIN SELECT 1; END"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_a_journal_is_set_aside(
    tmp_path: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    fill(tmp_path, clock)
    damage(database_file(tmp_path))
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "set aside" in record.getMessage()
        (aside,) = set_aside(tmp_path)
        assert aside in record.getMessage()
        assert journal.find_upload(SCOPE, SHA) is None
        journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.find_upload(SCOPE, SHA) == make_upload(etags={1: "e"})
    assert len(caplog.records) == 1


@pytest.mark.no_cover
def test_random_damage_never_stops_a_push(tmp_path: Path, clock: FakeClock) -> None:
    fill(tmp_path, clock)
    whole = database_file(tmp_path).read_bytes()
    rng = random.Random(7)
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(damaged))
            length = rng.choice([1, 8, 200, 4096])
            damaged[start : start + length] = rng.randbytes(length)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        database_file(tmp_path).write_bytes(damaged)
        with Journal.open(tmp_path, clock=clock) as journal:
            found = [
                journal.hash_of(f"/folder/{number}", make_identity(), "sha256")
                for number in range(500)
            ]
            # Unknown or right, never wrong.
            assert {oid for n, oid in enumerate(found) if oid != f"{n:064x}"} <= {None}
            upload = journal.find_upload(SCOPE, SHA)
            if upload is not None:
                assert upload.part_urls == make_upload(parts=200).part_urls
                assert upload.etags.items() <= {1: "e1", 2: "e2"}.items()
            assert journal.pending_commits(SCOPE, "f1") in ([], [make_commit()])
            journal.begin_upload(SCOPE, make_upload())
            journal.part_stored(SCOPE, SHA, 3, "e3")
            journal.begin_commit(SCOPE, make_commit())
            journal.expire()


def test_damage_turns_off_the_journal_until_the_next_push(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, clock)
    with Journal.open(tmp_path, clock=clock) as journal:
        size = database_file(tmp_path).stat().st_size
        overwrite(4096, b"\xff" * (size - 4096))(database_file(tmp_path))
        for number in range(500):
            assert journal.hash_of(f"/folder/{number}", make_identity(), "sha256") is None
        assert journal.disabled_reason is not None
        assert "malformed" in journal.disabled_reason
        assert len(set_aside(tmp_path)) == 1
        with journal.claim(SCOPE, SHA) or pytest.fail("free"):
            pass
    assert len(caplog.records) == 1
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        assert journal.stats().hashes == 0


@pytest.mark.parametrize("state", ["replaced", "gone", "being opened"])
def test_a_damaged_file_handled_elsewhere_is_left_alone(
    tmp_path: Path, clock: FakeClock, state: str
) -> None:
    damaged = sqlite3.DatabaseError("database disk image is malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal._database is not None
        opening = journal._locks.wait(0, 0) if state == "being opened" else None
        if state != "being opened":
            database_file(tmp_path).rename(tmp_path / "old")
        if state == "replaced":
            database_file(tmp_path).touch()
        journal._database._give_up(damaged)
        if opening is not None:
            opening.release()
    assert set_aside(tmp_path) == []
    assert database_file(tmp_path).exists() is (state != "gone")


def test_a_file_of_another_user_is_set_aside(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, clock)
    inode = database_file(tmp_path).stat().st_ino
    is_ours = filesystem._is_ours
    monkeypatch.setattr(
        filesystem, "_is_ours", lambda status: status.st_ino != inode and is_ours(status)
    )
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        assert journal.stats().hashes == 0
    assert len(set_aside(tmp_path)) == 1


def test_a_new_journal_damaged_again_is_turned_off(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path) -> None:
        raise filesystem.DamagedError("it cannot be")

    monkeypatch.setattr(database, "prepare_file", damaged)
    fill_path = database_file(tmp_path)
    fill_path.parent.mkdir(mode=0o700)
    fill_path.touch()
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason == f"{fill_path}: it cannot be"


def test_an_empty_file_is_a_fresh_journal(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, clock)
    os.truncate(database_file(tmp_path), 0)
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.stats().hashes == 0
    assert caplog.records == []


def test_the_log_of_a_missing_database_is_dropped(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_commit(SCOPE, make_commit())
        log = database_file(tmp_path).with_name("journal.sqlite3-wal").read_bytes()
    database_file(tmp_path).unlink()
    database_file(tmp_path).with_name("journal.sqlite3-wal").write_bytes(log)
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        assert journal.pending_commits(SCOPE, "f1") == []


@pytest.mark.parametrize("content", [b"", b"garbage" * 5000], ids=["emptied", "garbage"])
def test_a_damaged_log_costs_what_was_in_it_at_most(
    tmp_path: Path, clock: FakeClock, content: bytes
) -> None:
    fill(tmp_path, clock)
    journal = Journal.open(tmp_path, clock=clock)
    journal.begin_upload("later", make_upload())
    copy = tmp_path / "copy"
    (copy / "journal").mkdir(parents=True, mode=0o700)
    database_file(copy).write_bytes(database_file(tmp_path).read_bytes())
    database_file(copy).with_name("journal.sqlite3-wal").write_bytes(content)
    journal.close()
    with Journal.open(copy, clock=clock) as journal:
        assert journal.disabled_reason is None
        assert journal.find_upload(SCOPE, SHA) is not None
        assert journal.find_upload("later", SHA) is None


def test_only_the_last_few_are_kept_aside(tmp_path: Path, clock: FakeClock) -> None:
    for _ in range(5):
        fill(tmp_path, clock)
        database_file(tmp_path).write_text("garbage " * 1000)
        database_file(tmp_path).with_name("journal.sqlite3-wal").touch()
    become_a_folder(database_file(tmp_path))
    fill(tmp_path, clock)
    asides = set_aside(tmp_path)
    folders = [name for name in asides if (tmp_path / "journal" / name).is_dir()]
    assert len(folders) == 1
    assert len(asides) == filesystem.KEPT_ASIDE + 1
    assert len(list((tmp_path / "journal").glob("*-wal"))) <= filesystem.KEPT_ASIDE + 1


def test_files_set_aside_have_different_names(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20250101T000000")
    for _ in range(2):
        fill(tmp_path, clock)
        database_file(tmp_path).write_text("garbage " * 1000)
    fill(tmp_path, clock)
    assert set_aside(tmp_path) == [
        "journal.sqlite3.corrupt-20250101T000000",
        "journal.sqlite3.corrupt-20250101T000000-1",
    ]


def test_a_fault_that_is_no_damage_sets_nothing_aside(journal: Journal, tmp_path: Path) -> None:
    connection_of(journal).execute("DROP TABLE commits")
    journal.end_commit(SCOPE, make_commit())
    assert journal.disabled_reason is not None
    assert set_aside(tmp_path) == []


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checks of whole journals that are made, of which none counts as small."""
    made: list[str] = []
    connect = database._connect

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(
            lambda statement: made.append(statement) if "quick_check" in statement else None
        )
        return connection

    monkeypatch.setattr(database, "_connect", traced)
    monkeypatch.setattr(database, "SMALL", 0)
    return made


@pytest.mark.parametrize("network", [False, True])
def test_a_large_journal_is_checked_after_a_crash(
    tmp_path: Path,
    clock: FakeClock,
    checks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    network: bool,
) -> None:
    monkeypatch.setattr(database, "on_network", lambda folder: network)
    fill(tmp_path / "one", clock)
    with Journal.open(tmp_path / "one", clock=clock) as journal:
        journal.begin_commit(SCOPE, make_commit())
        Journal.open(tmp_path / "one", clock=clock).close()  # its log is that of somebody alive
        assert checks == []
        writer = connection_of(journal)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM hashes")
        writer.execute("PRAGMA cache_spill=1").fetchone()
        shutil.copytree(tmp_path / "one", tmp_path / "power cut")
        writer.execute("ROLLBACK")
    with Journal.open(tmp_path / "power cut", clock=clock) as journal:
        assert journal.hash_of("/folder/7", make_identity(), "sha256") == f"{7:064x}"
        journal.end_commit(SCOPE, make_commit())
        assert journal.disabled_reason is None
    assert len(checks) == 1
    Journal.open(tmp_path / "power cut", clock=clock).close()
    assert len(checks) == 1


def test_a_journal_of_before_the_index_is_given_it(tmp_path: Path, clock: FakeClock) -> None:
    fill(tmp_path, clock)
    meddle("DROP INDEX hashes_by_age")(database_file(tmp_path))
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.hash_of("/folder/7", make_identity(), "sha256") == f"{7:064x}"
        found = connection_of(journal).execute("SELECT name FROM sqlite_master WHERE type='index'")
        assert ("hashes_by_age",) in found.fetchall()
    assert set_aside(tmp_path) == []
