"""Uploaders of one host know how many of them push."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyncpush.journal import HostPeers, Journal, NullJournal, locks
from asyncpush.journal import locks as peers
from asyncpush.journal.locks import PEERS_LIMIT, HostLocks
from tests.journal.helpers import processes
from tests.journal.workers import take_seats


@pytest.fixture(params=["F_GETLK", "shared locks"])
def counted_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "shared locks":  # where nobody knows how `struct flock` lies in memory
        monkeypatch.setattr(locks, "_FLOCK", {})
    return str(request.param)


@pytest.mark.usefixtures("counted_by")
def test_each_counts_those_of_its_own_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal.open(tmp_path / "journal")) for _ in range(3)]
        sitting = [journal.peers() for journal in journals]
        assert [each.count() for each in sitting] == [1, 1, 1]  # nobody pushes
        for each in sitting:
            each.join()
            each.join()
        assert [each.count() for each in sitting] == [3, 3, 3]
        sitting[1].leave()
        sitting[1].leave()
        assert sitting[0].count() == 2


def test_others_are_counted_however_many_count_at_once(tmp_path: Path, counted_by: str) -> None:
    """Three processes counted up to 35 when a seat was taken to see whether it was free."""
    with Journal.open(tmp_path) as journal, ExitStack() as stack:
        pipes = []
        for seats in (1, 2):
            ours, theirs = processes.Pipe()
            process = processes.Process(
                target=take_seats, args=(tmp_path, seats, counted_by == "F_GETLK", theirs)
            )
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            pipes.append(ours)
            assert ours.recv() == "sitting"
        own = journal.peers()
        own.join()
        for pipe in pipes:
            pipe.send("count")
        assert {own.count() for _ in range(200)} == {4}
        assert [pipe.recv() for pipe in pipes] == [{4}, {4}]
        pipes[0].send("leave")
        assert pipes[0].recv() == "left"
        assert own.count() == 3


def test_more_than_there_are_seats_are_counted_as_so_many() -> None:
    shared = HostLocks.private()
    sitting = [HostPeers(shared) for _ in range(PEERS_LIMIT + 1)]
    for each in sitting:
        each.join()
    assert sitting[-1].count() == PEERS_LIMIT
    for each in sitting:
        each.leave()
    assert sitting[-1].count() == 1


def test_hosts_that_share_a_home_directory_count_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(tmp_path) as journal:
        here = journal.peers()
        here.join()
        monkeypatch.setattr(peers, "_peer_lock_name", lambda: "uploaders of another host")
        there = journal.peers()
        there.join()
        assert there.count() == 1
        there.leave()
        monkeypatch.undo()
        assert here.count() == 1
        here.leave()


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def nonsense(descriptor: int, command: int, request: bytes) -> bytes:
    kind, whence, start, _, pid = struct.unpack("hhqqi", request)
    return struct.pack("hhqqi", kind, whence, start + 10 * PEERS_LIMIT, 1, pid)


@pytest.mark.parametrize("answer", [no_locks, nonsense])
def test_where_the_kernel_cannot_tell_each_counts_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., object]
) -> None:
    with Journal.open(tmp_path) as journal:
        here = journal.peers()
        here.join()
        monkeypatch.setattr(fcntl, "fcntl", answer)
        assert here.count() == 1
        here.leave()


def test_without_a_journal_a_process_counts_itself() -> None:
    with NullJournal() as journal:
        here = journal.peers()
        here.join()
        assert here.count() == 1
        here.leave()


def test_the_host_is_named_where_proc_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BOOT_ID", Path("/proc/none"))
    monkeypatch.setattr("platform.node", lambda: "node-7")
    assert peers._peer_lock_name.__wrapped__() == "uploaders of node-7"
