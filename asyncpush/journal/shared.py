"""Writes that go together: a sync of the disk takes long, a row does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from asyncpush.journal.rows import Row

logger = logging.getLogger("asyncpush.journal")

WRITE_EVERY = 1.0
"""Seconds for which rows that nobody waits for are gathered: what a killed process may lose."""

WRITTEN_AT_ONCE = 2_000
"""Rows that are not gathered any longer."""

GATHERED = 50_000
"""Rows kept in memory while the disk does not take them. More are forgotten: they are a cache."""


class SharedWrites:
    """Rows from many threads, written together by whichever comes first."""

    def __init__(self, write: Callable[[list[Row]], None]) -> None:
        self._write = write
        self._change = threading.Condition()
        self._waiting: list[Row] = []
        self._writing = False
        self._added = 0
        self._written = 0

    def add(self, row: Row) -> None:
        """Return when the row has been written, by this thread or another."""
        with self._change:
            self._waiting.append(row)
            self._added += 1
            mine = self._added
            self._change.wait_for(lambda: not self._writing or self._written >= mine)
            if self._written >= mine:
                return
            rows, self._waiting = self._waiting, []
            written = self._added
            self._writing = True
        try:
            self._write(rows)
        finally:
            with self._change:
                self._writing = False
                self._written = written
                self._change.notify_all()


class WriteBehind:
    """Rows that nobody waits for: written by a thread of their own, many in one transaction. Until
    then they are found here."""

    def __init__(self, write: Callable[[list[Row]], object]) -> None:
        self._write = write
        self._change = threading.Condition()
        self._waiting: dict[Row, Row] = {}
        self._writing: dict[Row, Row] = {}
        self._hurry = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, rows: Mapping[Row, Row], *, hurry: bool = False) -> None:
        """Take rows by their keys. `hurry`: they go to the disk now, though nobody waits."""
        with self._change:
            if self._closed or len(self._waiting) + len(rows) > GATHERED:
                return
            self._waiting.update(rows)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncpush-journal-hashes", daemon=True
                )
                self._thread.start()
            if hurry or len(self._waiting) >= WRITTEN_AT_ONCE:
                self._hurry = True
            self._change.notify_all()

    def get(self, key: Row) -> Row | None:
        """The row of this key, if it is not known to be on the disk yet."""
        with self._change:
            return self._waiting.get(key) or self._writing.get(key)

    def drop(self, unwanted: Callable[[Row], bool]) -> None:
        """Forget rows by their keys. Those that are just being written are on the disk after this,
        to be deleted there."""
        with self._change:
            for key in [key for key in self._waiting if unwanted(key)]:
                del self._waiting[key]
            self._change.wait_for(lambda: not self._writing)

    def flush(self) -> None:
        """Wait until all rows are written."""
        with self._change:
            self._hurry = True
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
            except Exception:  # who waits for the flush, or for the end, must not wait for ever
                logger.exception("hashes could not be remembered")
            finally:
                with self._change:
                    self._writing = {}
                    self._change.notify_all()

    def _gather(self) -> bool:
        """Wait for rows and move them to `_writing`; False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            self._change.wait_for(lambda: self._hurry or self._closed, WRITE_EVERY)
            self._hurry = False
            self._waiting, self._writing = {}, self._waiting
            return bool(self._writing)
