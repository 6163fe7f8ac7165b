from __future__ import annotations

import errno
import fcntl
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

import pytest

from asyncpush import own_files
from asyncpush.concurrency.threads import ProcessLock
from asyncpush.journal import Claim, Journal, NullJournal, locks
from asyncpush.own_files import Announcement
from tests.journal.helpers import SCOPE, SHA, processes
from tests.journal.workers import hold_claim

Context: TypeAlias = SpawnContext | ForkServerContext


@contextmanager
def another_process(
    directory: Path, context: Context = processes
) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that has tried to claim `SHA` and lives on."""
    ours, theirs = context.Pipe()
    process = context.Process(target=hold_claim, args=(directory, SCOPE, SHA, theirs))
    process.start()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
        theirs.close()


def test_a_claim_is_exclusive_until_released(journal: Journal) -> None:
    claim = journal.claim(SCOPE, SHA)
    assert claim is not None
    assert journal.claim(SCOPE, SHA) is None
    claim.release()
    claim.release()
    with journal.claim(SCOPE, SHA) or pytest.fail("not released"):
        assert journal.claim(SCOPE, SHA) is None
    again = journal.claim(SCOPE, SHA)
    assert again is not None
    again.release()


def test_claims_on_other_objects_and_repos_are_other_claims(journal: Journal) -> None:
    with journal.claim(SCOPE, SHA) or pytest.fail("free"):
        with journal.claim("other", SHA) or pytest.fail("free"):
            pass
        with journal.claim(SCOPE, "other") or pytest.fail("free"):
            pass


def test_two_journals_of_one_process_share_their_claims(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as one, Journal.open(tmp_path) as two:
        with one.claim(SCOPE, SHA) or pytest.fail("free"):
            assert two.claim(SCOPE, SHA) is None
        with two.claim(SCOPE, SHA) or pytest.fail("free"):
            assert one.claim(SCOPE, SHA) is None


def test_of_many_threads_one_gets_the_claim(journal: Journal) -> None:
    start = threading.Barrier(8)
    claims: list[Claim | None] = []

    def run() -> None:
        start.wait()
        claims.append(journal.claim(SCOPE, SHA))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [claim for claim in claims if claim is not None]
    won.release()


def test_a_claim_passes_on_when_its_holder_is_killed(
    tmp_path: Path,
) -> None:
    spawn = multiprocessing.get_context("spawn")
    with Journal.open(tmp_path) as journal, another_process(tmp_path, spawn) as (holder, answers):
        assert answers.recv() is True
        assert journal.claim(SCOPE, SHA) is None
        with journal.claim(SCOPE, "other") or pytest.fail("only one object is claimed"):
            pass
        assert holder.pid is not None
        os.kill(holder.pid, 9)
        holder.join()
        with journal.claim(SCOPE, SHA) or pytest.fail("its holder is dead"):
            pass


def test_two_processes_pass_a_claim_on(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        with journal.claim(SCOPE, SHA) or pytest.fail("free"):
            # Opening and closing the journal again must not free the locks of this process.
            Journal.open(tmp_path).close()
            with another_process(tmp_path) as (_, answers):
                assert answers.recv() is False
        with another_process(tmp_path) as (_, answers):
            assert answers.recv() is True
            assert journal.claim(SCOPE, SHA) is None
            answers.send("release")
            assert answers.recv() == "released"
            with journal.claim(SCOPE, SHA) or pytest.fail("released"):
                pass


# Python ≥ 3.12 warns of forking with threads about, as a user's data loader does all the same.
forks = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def run_forked(check: Callable[[], bool]) -> bool:
    """What `check` finds in a forked child of this process."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        os._exit(0 if check() else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@forks
def test_a_forked_child_needs_no_thread_of_its_parent(tmp_path: Path) -> None:
    """A thread that held a lock at that moment does not exist in the child."""
    shared = locks.HostLocks.shared(tmp_path / "locks")
    held, done = threading.Event(), threading.Event()
    lock = ProcessLock()

    def hold() -> None:
        with shared._guard, locks._registry_guard, own_files._guard, lock:
            held.set()
            done.wait()

    def in_child() -> bool:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang ends the child alone
        signal.alarm(20)
        with lock, Announcement(tmp_path, "the test's"):
            return locks.HostLocks.shared(tmp_path / "locks").claim(SCOPE, SHA) is not None

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        held.wait()
        assert run_forked(in_child)
    finally:
        done.set()
        thread.join()
        shared.leave()


@forks
def test_a_forked_child_has_no_claims(journal: Journal) -> None:
    claim = journal.claim(SCOPE, SHA)
    assert claim is not None

    def in_child() -> bool:
        claim.release()
        refused = journal.claim(SCOPE, SHA) is None
        other = journal.claim(SCOPE, "other")
        return refused and other is not None

    assert run_forked(in_child)
    assert not run_forked(lambda: journal.claim(SCOPE, SHA) is not None)
    claim.release()
    assert run_forked(lambda: journal.claim(SCOPE, SHA) is not None)


@forks
def test_a_forked_child_can_claim_what_its_parent_released(journal: Journal) -> None:
    released, release = os.pipe()
    claim = journal.claim(SCOPE, SHA)
    assert claim is not None
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.read(released, 1)
        os._exit(0 if journal.claim(SCOPE, SHA) else 1)
    claim.release()
    os.write(release, b".")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    os.close(released)
    os.close(release)


@forks
def test_a_surviving_child_does_not_keep_its_parents_claim(tmp_path: Path) -> None:
    alive, ending = os.pipe()
    parent = os.fork()
    if parent == 0:  # pragma: no cover
        journal = Journal.open(tmp_path)
        assert journal.claim(SCOPE, SHA)
        os.close(ending)
        if os.fork() == 0:
            os.read(alive, 1)  # until the test ends
        os._exit(0)
    os.close(alive)
    os.waitpid(parent, 0)
    with (
        Journal.open(tmp_path) as journal,
        journal.claim(SCOPE, SHA) or pytest.fail("the holder is gone"),
    ):
        os.close(ending)


def test_a_claim_survives_the_closing_of_its_journal(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    claim = journal.claim(SCOPE, SHA)
    assert claim is not None
    journal.close()
    with Journal.open(tmp_path) as later:
        assert later.claim(SCOPE, SHA) is None
        claim.release()
        with later.claim(SCOPE, SHA) or pytest.fail("released"):
            pass
    late = journal.claim(SCOPE, SHA)
    assert late is not None
    late.release()


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    journal = Journal.open(tmp_path)
    with journal.claim(SCOPE, SHA) or pytest.fail("free"):
        journal.close()
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert locks._registry == {}


def test_a_deleted_cache_folder_does_not_split_claims(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as old:
        os.unlink(tmp_path / "journal" / "locks")
        with Journal.open(tmp_path) as new, Journal.open(tmp_path) as newer:
            with new.claim(SCOPE, SHA) or pytest.fail("free"):
                assert newer.claim(SCOPE, SHA) is None
            with old.claim(SCOPE, SHA) or pytest.fail("free"):
                assert old.claim(SCOPE, SHA) is None
            os.unlink(tmp_path / "journal" / "locks")
            (tmp_path / "journal" / "locks").touch()
            with Journal.open(tmp_path) as newest:
                assert newest.disabled_reason is None


@pytest.mark.parametrize("where", ["locking", "unlocking", "no fcntl"])
def test_without_file_locks_claims_hold_in_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def lockf(descriptor: int, command: int, length: int, start: int) -> None:
        if (command == fcntl.LOCK_UN) is (where == "unlocking"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if where == "no fcntl":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "lockf", lockf)
    with Journal.open(tmp_path) as journal:
        for _ in range(2):
            with journal.claim(SCOPE, SHA) or pytest.fail("free"):
                assert journal.claim(SCOPE, SHA) is None


def test_opening_waits_for_who_is_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal.open(tmp_path) as journal:
        opening = journal._locks.wait(locks.OPENING, 0)
        assert opening is not None
        polls: list[float] = []

        def release(seconds: float) -> None:
            polls.append(seconds)
            opening.release()

        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", release)
            with Journal.open(tmp_path) as other:
                assert other.disabled_reason is None
        assert locks._POLL in polls

        monkeypatch.setattr("asyncpush.journal.database.BUSY_TIMEOUT", 0.05)
        with (
            journal._locks.wait(locks.OPENING, 0) or pytest.fail("free"),
            Journal.open(tmp_path) as other,
        ):
            assert other.disabled_reason is not None
            assert "locked by another process" in other.disabled_reason
    assert len(caplog.records) == 1


def test_a_journal_that_remembers_nothing_gives_claims() -> None:
    with NullJournal() as journal, journal.claim(SCOPE, SHA) or pytest.fail("free"):
        assert journal.claim(SCOPE, SHA) is None
        with NullJournal() as other, other.claim(SCOPE, SHA) or pytest.fail("free"):
            pass


def test_the_module_loads_where_there_is_no_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    without = importlib.util.find_spec("asyncpush.journal.locks")
    assert without is not None
    assert without.loader is not None
    module = importlib.util.module_from_spec(without)
    without.loader.exec_module(module)
    assert module.fcntl is None
