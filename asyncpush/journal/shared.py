"""One write for all who ask meanwhile: a sync of the disk takes long, a row does not."""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncpush.journal.rows import Row


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
