from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush.journal import Journal, group_commit, tables
from asyncpush.journal.filesystem import in_memory
from asyncpush.journal.tables import Row
from asyncpush.models import FileIdentity
from tests.fake_clock import NOW, FakeClock
from tests.journal.helpers import DAY, GIT, SHA, connection_of, make_identity


def test_a_hash_is_known_again_to_another_process(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.remember_hash("/a", make_identity(), "sha256", SHA)
        journal.remember_hash("/a", make_identity(), "git", GIT)
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.hash_of("/a", make_identity(), "sha256") == SHA
        assert journal.hash_of("/a", make_identity(), "git") == GIT
        assert journal.hash_of("/b", make_identity(), "git") is None


def test_many_hashes_are_looked_up_in_few_queries(tmp_path: Path, clock: FakeClock) -> None:
    """On disk or not yet, in the order asked for, twice asked for or unknown."""
    many = tables.READ_AT_ONCE + 7
    hashes = {f"/{number}": f"{number:064x}" for number in range(many)}
    with Journal.open(tmp_path, clock=clock) as journal:
        items = [(path, make_identity(), "sha256", oid) for path, oid in hashes.items()]
        journal.remember_hashes(items[:-1])
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.remember_hashes(items[-1:])
        queries: list[str] = []
        assert journal.hash_of("/unknown", make_identity(), "sha256") is None  # it is open now
        assert journal._database is not None
        journal._database._reader.set_trace_callback(queries.append)
        asked = ["/unknown", *hashes, "/0", f"/{many - 1}"]
        found = journal.hashes_of([(path, make_identity()) for path in asked], "sha256")
        reader = journal._database._reader
        reader.set_trace_callback(None)
        plans = [reader.execute(f"EXPLAIN QUERY PLAN {query}").fetchall() for query in queries]
    assert found == [hashes.get(path) for path in asked]
    assert len(queries) == 2
    for plan in plans:
        steps = [step for *_, step in plan]
        assert any(step.startswith("SEARCH hashes USING PRIMARY KEY") for step in steps)
        assert not any(step.startswith("SCAN hashes") for step in steps)  # it may have 100,000 rows


@pytest.mark.parametrize(
    "change",
    [
        {"device": 8},
        {"inode": 12},
        {"size": 11},
        {"mtime_ns": make_identity().mtime_ns + 1},
    ],
    ids=str,
)
def test_a_changed_file_has_no_hash(journal: Journal, change: dict[str, int]) -> None:
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    assert journal.hash_of("/a", replace(make_identity(), **change), "sha256") is None


def test_a_path_has_one_hash_of_each_kind(journal: Journal) -> None:
    for size in range(5):
        journal.remember_hash("/a", make_identity(size=size), "sha256", f"{size:064x}")
    assert journal.hash_of("/a", make_identity(size=4), "sha256") == f"{4:064x}"
    assert journal.stats().hashes == 1


@pytest.mark.parametrize(
    ("age", "since_ctime", "remembered"),
    [
        pytest.param(0.05, 0.05, False, id="just written"),
        pytest.param(59, 59, False, id="pages may still be dirty"),
        pytest.param(61, 61, True, id="settled"),
        pytest.param(1e6, 59, False, id="its mtime was put back"),
        pytest.param(1e6, 61, True, id="its mtime was put back long ago"),
        pytest.param(-100.0, 61, False, id="in the future"),
    ],
)
def test_a_just_written_file_is_not_remembered(
    journal: Journal, age: float, since_ctime: float, remembered: bool
) -> None:
    identity = replace(make_identity(age=age), ctime_ns=round((NOW - since_ctime) * 1e9))
    journal.remember_hash("/a", identity, "sha256", SHA)
    assert (journal.hash_of("/a", identity, "sha256") == SHA) is remembered


def test_a_hash_counts_from_when_the_file_was_looked_at(journal: Journal, clock: FakeClock) -> None:
    identity = make_identity(age=0)
    clock.now += 60
    journal.remember_hash("/a", identity, "sha256", SHA, identified_at=NOW)
    assert journal.hash_of("/a", identity, "sha256") is None
    journal.remember_hash("/a", identity, "sha256", SHA, identified_at=NOW + 60)
    assert journal.hash_of("/a", identity, "sha256") == SHA


def test_a_change_that_only_ctime_shows_is_another_file(journal: Journal) -> None:
    """`cp -p`, rsync and tar put mtime back; nothing puts ctime back."""
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    touched = replace(make_identity(), ctime_ns=1)
    assert touched == make_identity()  # a hard link moves ctime as well: no sign of other bytes
    assert journal.hash_of("/a", touched, "sha256") is None


def test_no_hash_of_a_file_in_memory_is_remembered(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map's writes move neither mtime nor ctime there."""
    device = make_identity().device
    monkeypatch.setattr("asyncpush.journal.journal.in_memory", lambda asked: asked == device)
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    assert journal.hash_of("/a", make_identity(), "sha256") is None


def test_what_lies_in_memory_is_reported_by_the_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / /dev/shm rw - tmpfs tmpfs rw\n23 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    )
    assert in_memory(os.makedev(0, 20), mounts)
    assert not in_memory(os.makedev(8, 1), mounts)
    assert not in_memory(os.makedev(8, 2), mounts)
    assert not in_memory(os.makedev(0, 20), tmp_path / "none")  # not Linux


def test_many_are_remembered_at_once(journal: Journal) -> None:
    items = [(f"/{n}", make_identity(size=n), "sha256", f"{n:064x}") for n in range(5_000)]
    items.append(("/fresh", make_identity(age=0), "sha256", SHA))
    journal.remember_hashes(items)
    found = [journal.hash_of(*item[:3]) for item in items]
    assert found == [f"{n:064x}" for n in range(5_000)] + [None]
    journal.remember_hashes([])


@pytest.mark.parametrize("path", ["/a\udcff.bin", "/\ud800", "/ü/雪", "/nul\0", "/" + "x" * 5000])
def test_any_file_name_will_do(journal: Journal, path: str) -> None:
    journal.remember_hash(path, make_identity(), "sha256", SHA)
    assert journal.hash_of(path, make_identity(), "sha256") == SHA


def test_numbers_of_64_bits_will_do(journal: Journal) -> None:
    identity = FileIdentity(2**64 - 1, 2**128 - 1, 2**60, make_identity().mtime_ns)
    journal.remember_hash("/a", identity, "sha256", SHA)
    assert journal.hash_of("/a", identity, "sha256") == SHA


def test_a_relative_path_is_meant_from_where_we_are(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal.remember_hash("a", make_identity(), "sha256", SHA)
    assert journal.hash_of(str(tmp_path / "a"), make_identity(), "sha256") == SHA


def test_a_working_directory_that_is_gone_does_no_harm(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()
    journal.remember_hash("a", make_identity(), "sha256", SHA)
    assert journal.hash_of("a", make_identity(), "sha256") == SHA


def test_a_hash_the_store_disproved_is_forgotten(journal: Journal) -> None:
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    journal.remember_hash("/a", make_identity(), "git", GIT)
    journal.remember_hash("/b", make_identity(), "git", GIT)
    journal.forget_hash("/a")
    assert journal.hash_of("/a", make_identity(), "sha256") is None
    assert journal.hash_of("/a", make_identity(), "git") is None
    assert journal.hash_of("/b", make_identity(), "git") == GIT


def test_a_forgotten_file_loses_its_slices(journal: Journal) -> None:
    cuts = [f"/a#{number:064x}" for number in range(3)]
    others = ["/ab", f"/ab#{1:064x}", "/a#notes.txt"]
    for path in ("/a", *cuts, *others):
        journal.remember_hash(path, make_identity(), "sha256", SHA)
    journal.forget_hash("/a")
    known = [p for p in (*cuts, *others) if journal.hash_of(p, make_identity(), "sha256")]
    assert known == others


@pytest.mark.parametrize(("kind", "oid"), [("sha256", GIT), ("git", SHA), ("md5", "ab" * 16)])
def test_an_oid_of_another_kind_is_a_mistake(journal: Journal, kind: str, oid: str) -> None:
    with pytest.raises(ValueError, match="is not an oid of kind"):
        journal.remember_hash("/a", make_identity(), kind, oid)


@pytest.mark.parametrize(
    "meddle",
    [
        "UPDATE hashes SET oid = zeroblob(32)",
        "UPDATE hashes SET oid = NULL",
        "UPDATE hashes SET seal = 0",
        "UPDATE hashes SET identity = 7",
    ],
)
def test_a_row_with_a_flipped_bit_is_not_believed(journal: Journal, meddle: str) -> None:
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    journal.flush()
    connection_of(journal).execute(meddle)
    assert journal.hash_of("/a", make_identity(), "sha256") is None
    assert journal.disabled_reason is None


def test_hashes_expire(journal: Journal, clock: FakeClock) -> None:
    journal.remember_hash("/old", make_identity(), "sha256", SHA)
    clock.now += 60 * DAY
    journal.remember_hash("/new", make_identity(), "sha256", SHA)
    journal.flush()
    assert journal.expire() == 0
    clock.now += 31 * DAY
    assert journal.expire() == 1
    assert journal.hash_of("/old", make_identity(), "sha256") is None
    assert journal.hash_of("/new", make_identity(), "sha256") == SHA


def test_expiry_is_done_in_short_steps(
    journal: Journal, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EXPIRED_AT_ONCE", 10)
    steps: list[int] = []
    expire_some = tables.expire_some

    def counting(connection: sqlite3.Connection, now: float) -> int:
        steps.append(expire_some(connection, now))
        return steps[-1]

    monkeypatch.setattr(tables, "expire_some", counting)
    journal.remember_hashes((f"/{n}", make_identity(), "sha256", SHA) for n in range(45))
    journal.flush()
    clock.now += 91 * DAY
    assert journal.expire(within=0) == 10
    assert journal.expire() == 35
    assert steps == [10, 10, 10, 10, 5, 0]


def test_space_is_given_back_to_the_disk(journal: Journal, clock: FakeClock) -> None:
    journal.remember_hashes((f"/{n:0500}", make_identity(), "sha256", SHA) for n in range(5000))
    journal.flush()
    before = journal.stats().size
    clock.now += 91 * DAY
    assert journal.expire() == 5000
    assert journal.stats().size < before / 10


def test_a_journal_that_is_closed_stops_expiring(
    journal: Journal, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EXPIRED_AT_ONCE", 1)
    steps: list[int] = []
    expire_some = tables.expire_some

    def closing(connection: sqlite3.Connection, now: float) -> int:
        steps.append(expire_some(connection, now))
        journal._closing.set()
        return steps[-1]

    monkeypatch.setattr(tables, "expire_some", closing)
    journal.remember_hashes((f"/{n}", make_identity(), "sha256", SHA) for n in range(9))
    journal.flush()
    clock.now += 91 * DAY
    assert journal.expire() == 1


def test_a_hash_from_the_future_expires(journal: Journal, clock: FakeClock) -> None:
    clock.now += 4000 * DAY
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    journal.flush()
    clock.now = NOW
    assert journal.expire() == 1


def test_hashes_are_written_together_and_known_before(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    put_hashes = tables.put_hashes

    def counting(connection: sqlite3.Connection, rows: list[Row]) -> None:
        written.append(len(rows))
        put_hashes(connection, rows)

    monkeypatch.setattr(tables, "put_hashes", counting)
    monkeypatch.setattr(group_commit, "WRITE_EVERY", 60.0)
    for number in range(100):
        journal.remember_hash(f"/{number}", make_identity(), "sha256", SHA)
        assert journal.hash_of(f"/{number}", make_identity(), "sha256") == SHA
    assert written == []
    journal.forget_hash("/7")
    assert journal.hash_of("/7", make_identity(), "sha256") is None
    journal.flush()
    assert written == [99]
    assert journal.hash_of("/8", make_identity(), "sha256") == SHA


def test_a_hash_is_on_the_disk_soon_though_nobody_asks(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second, or at once where hashing took long. The first journal is never closed here,
    as with a process that is killed."""
    written = threading.Event()
    put_hashes = tables.put_hashes

    def reporting(connection: sqlite3.Connection, rows: list[Row]) -> None:
        put_hashes(connection, rows)
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        written.set()

    monkeypatch.setattr(tables, "put_hashes", reporting)
    with Journal.open(tmp_path, clock=clock) as one, Journal.open(tmp_path, clock=clock) as two:
        for every, size in ((0.01, 10), (60.0, 1 << 30)):
            monkeypatch.setattr(group_commit, "WRITE_EVERY", every)
            identity = make_identity(size=size)
            one.remember_hash(f"/{size}", identity, "sha256", SHA)
            assert written.wait(10)
            written.clear()
            assert two.hash_of(f"/{size}", identity, "sha256") == SHA


def test_a_hash_that_is_being_written_can_be_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go = threading.Event(), threading.Event()
    put_hashes = tables.put_hashes

    def slowly(connection: sqlite3.Connection, rows: list[Row]) -> None:
        writing.set()
        assert go.wait(10)
        put_hashes(connection, rows)

    monkeypatch.setattr(tables, "put_hashes", slowly)
    monkeypatch.setattr(group_commit, "WRITE_EVERY", 0.0)
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    assert writing.wait(10)
    assert journal.hash_of("/a", make_identity(), "sha256") == SHA
    forgetting = threading.Thread(target=journal.forget_hash, args=("/a",))
    forgetting.start()
    go.set()
    forgetting.join()
    assert journal.hash_of("/a", make_identity(), "sha256") is None


def test_an_unwritable_disk_does_not_fill_memory(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "GATHERED", 10)
    monkeypatch.setattr(group_commit, "WRITE_EVERY", 60.0)
    for number in range(20):
        journal.remember_hash(f"/{number}", make_identity(), "sha256", SHA)
    assert journal.stats().hashes == 10


def test_a_row_that_cannot_be_written_stops_no_later_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tables, "put_hashes", lambda connection, rows: 1 / 0)
        journal.remember_hash("/a", make_identity(), "sha256", SHA)
        journal.flush()
    assert "could not be remembered" in caplog.text
    journal.remember_hash("/b", make_identity(), "sha256", SHA)
    assert journal.stats().hashes == 1
