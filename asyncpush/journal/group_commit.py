"""Group commit and write-behind: many rows share a transaction, because syncing to disk is much
slower than writing a row."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from asyncpush.journal.tables import Row
from asyncpush.lazy_dataclass import dataclass
from asyncpush.own_files import library_logger

if TYPE_CHECKING:
    import sqlite3

logger = library_logger("journal")

T = TypeVar("T")
Change: TypeAlias = "Callable[[sqlite3.Connection], T]"

WRITE_EVERY = 1.0
"""Seconds for which rows that nobody waits for are collected: what a killed process may lose."""

WRITTEN_AT_ONCE = 2_000
"""With this many rows, they are written without further delay."""

GATHERED = 50_000
"""Rows kept in memory while the disk accepts none. Further rows are dropped: they hold only a
cache."""


class GroupCommit:
    """Makes the changes of many threads in one writer thread. All changes that arrive while the
    disk is busy go into the next transaction and share its sync."""

    def __init__(self, write: Callable[[Change[list[Any]], bool], list[Any] | None]) -> None:
        """`write` makes a change in a transaction of its own, synced when it is durable; it
        returns None when there is no database any more."""
        self._write = write
        self._change = threading.Condition()
        self._waiting: list[_Asked] = []
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, work: Change[T], *, durable: bool) -> Future[T | None]:
        """Returns the result once it is committed (and synced, if `durable`). Changes are made in
        order, and cannot be withdrawn."""
        future: Future[T | None] = Future()
        future.set_running_or_notify_cancel()
        with self._change:
            if self._closed:
                future.set_result(None)
                return future
            self._waiting.append(_Asked(work, durable, future))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncpush-journal-writer", daemon=True
                )
                self._thread.start()
            self._change.notify_all()
        return future

    def close(self) -> None:
        """Make the changes that are pending, and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                asked, self._waiting = self._waiting, []
            if not asked:
                return
            if not self._make(asked):
                for each in asked:  # One that cannot be made must not fail the others.
                    self._make([each], alone=True)

    def _make(self, asked: list[_Asked], *, alone: bool = False) -> bool:
        def make(connection: sqlite3.Connection) -> list[Any]:
            return [each.work(connection) for each in asked]

        try:
            results = self._write(make, any(each.durable for each in asked))
        except Exception as exc:
            if alone:
                asked[0].future.set_exception(exc)
            return alone
        for each, result in zip(asked, results or [None] * len(asked), strict=True):
            each.future.set_result(result)
        return True


@dataclass(frozen=True, slots=True)
class _Asked:
    work: Change[Any]
    durable: bool
    future: Future[Any]


class WriteBehind:
    """Writes rows that nobody waits for, in a separate thread and many in one transaction. Until
    they are written, they can be read here."""

    def __init__(self, write: Callable[[list[Row]], object]) -> None:
        self._write = write
        self._change = threading.Condition()
        self._waiting: dict[Row, Row] = {}
        self._writing: dict[Row, Row] = {}
        self._urgent = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, rows: Mapping[Row, Row], *, urgent: bool = False) -> None:
        """Accept rows by their keys. `urgent`: they are written now, though nobody waits."""
        with self._change:
            if self._closed or len(self._waiting) + len(rows) > GATHERED:
                return
            first = not self._waiting
            self._waiting.update(rows)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncpush-journal-hashes", daemon=True
                )
                self._thread.start()
            if urgent or len(self._waiting) >= WRITTEN_AT_ONCE:
                self._urgent = True
            if first or self._urgent:  # Otherwise it is waiting for time to pass.
                self._change.notify_all()

    def get(self, keys: Iterable[Row]) -> dict[Row, Row]:
        """The rows of these keys that may not be on disk yet."""
        with self._change:
            there = {**self._writing, **self._waiting} if self._writing else self._waiting
            return {key: there[key] for key in keys if key in there} if there else {}

    def drop(self, unwanted: Callable[[Row], bool]) -> None:
        """Drop rows by their keys. Those that are being written at this moment are on disk when
        this returns, to be deleted there."""
        with self._change:
            for key in [key for key in self._waiting if unwanted(key)]:
                del self._waiting[key]
            self._change.wait_for(lambda: not self._writing)

    def flush(self) -> None:
        """Wait until all rows are written."""
        with self._change:
            self._urgent = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._waiting and not self._writing)

    def close(self) -> None:
        """Write what is left, and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._gather():
            try:
                self._write(list(self._writing.values()))
            except (
                Exception
            ):  # Whoever waits for the flush, or for the end, must not wait for ever.
                logger.exception("hashes could not be remembered")
            finally:
                with self._change:
                    self._writing = {}
                    self._change.notify_all()

    def _gather(self) -> bool:
        """Wait for rows and move them to `_writing`; returns False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            self._change.wait_for(lambda: self._urgent or self._closed, WRITE_EVERY)
            self._urgent = False
            self._waiting, self._writing = {}, self._waiting
            return bool(self._writing)
