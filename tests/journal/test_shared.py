"""Writes of many threads in one transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from asyncpush.journal.group_commit import GroupCommit


class Disk:
    """Makes changes, when it may; knows how many went together, and which were to be durable."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.together: list[tuple[int, bool]] = []
        self.busy = threading.Event()
        self.may = threading.Event()
        self.may.set()
        self.is_there = True
        self._connection = connection

    def write(
        self, work: Callable[[sqlite3.Connection], list[Any]], durable: bool
    ) -> list[Any] | None:
        self.busy.set()
        assert self.may.wait(10)
        if not self.is_there:
            return None
        results = work(self._connection)
        self.together.append((len(results), durable))
        return results


@pytest.fixture
def disk() -> Iterator[Disk]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield Disk(connection)


@pytest.fixture
def commits(disk: Disk) -> Iterator[GroupCommit]:
    commits = GroupCommit(disk.write)
    yield commits
    disk.may.set()
    commits.close()


def number(value: int) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute("SELECT ?", (value,)).fetchone()[0])


def test_writes_during_a_commit_share_one_transaction(disk: Disk, commits: GroupCommit) -> None:
    disk.may.clear()
    first = commits.add(number(0), durable=False)
    assert disk.busy.wait(10)
    later = [commits.add(number(value), durable=value == 7) for value in range(1, 10)]
    disk.may.set()
    assert [future.result(10) for future in (first, *later)] == list(range(10))
    assert disk.together == [(1, False), (9, True)]


def test_nobody_suffers_for_a_change_that_cannot_be_made(disk: Disk, commits: GroupCommit) -> None:
    disk.may.clear()
    commits.add(number(0), durable=False)
    assert disk.busy.wait(10)
    before = commits.add(number(1), durable=True)
    wrong = commits.add(lambda connection: 1 // 0, durable=True)
    after = commits.add(number(2), durable=True)
    disk.may.set()
    assert (before.result(10), after.result(10)) == (1, 2)
    with pytest.raises(ZeroDivisionError):
        wrong.result(10)


def test_without_a_database_nothing_comes_of_it(disk: Disk, commits: GroupCommit) -> None:
    disk.is_there = False
    assert commits.add(number(1), durable=True).result(10) is None


def test_closing_writes_only_earlier_requests(disk: Disk, commits: GroupCommit) -> None:
    disk.may.clear()
    futures = [commits.add(number(value), durable=False) for value in range(3)]
    closed = threading.Thread(target=commits.close)
    closed.start()
    disk.may.set()
    closed.join(10)
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert commits.add(number(3), durable=False).result(0) is None


def test_a_requested_change_cannot_be_cancelled(disk: Disk, commits: GroupCommit) -> None:
    """A push that is cancelled leaves the parts that were stored to whoever resumes it."""
    disk.may.clear()
    future = commits.add(number(5), durable=True)
    assert not future.cancel()
    disk.may.set()
    assert future.result(10) == 5
