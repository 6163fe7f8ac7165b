"""The event stream as JSON lines: one row per event, one write per row."""

from __future__ import annotations

import json
import os
from io import FileIO
from typing import Any

import orjson

from asyncpush.events import HashProgress, PartProgress, Record
from asyncpush.events.schema import event_row
from asyncpush.own_files import Announcement, library_logger

logger = library_logger("jsonl")

EVENTS = "a file that events are written to"

_MANY = frozenset({PartProgress, HashProgress})


class JsonlWriter:
    """Appends each event to a file, as `asyncpush push --events FILE` does.

    Rows are written as the events occur, without buffering: a killed process loses none, and
    several processes may append to one file. A new file is private (mode 0600). When the file
    cannot be opened or written (a bad path, a full disk), this is logged once, and the push
    continues without it. While the file is open, no push uploads it.

    Args:
        path: the file; rows are appended to what it already contains.
        verbose: also write the positions within parts and hashes, thousands for a large file.
    """

    def __init__(self, path: str | os.PathLike[str], *, verbose: bool = False) -> None:
        self.path: str = os.fspath(path)
        self.error: OSError | None = None
        """Why not all events were written."""
        self._left_out: frozenset[type] = frozenset() if verbose else _MANY
        self._file: FileIO | None = None
        self._closed = False
        self._announcement: Announcement | None = None

    def on_event(self, record: Record) -> None:
        if self._closed or type(record.event) in self._left_out:
            return
        try:
            if self._file is None:
                self._file = _open_private(self.path)
                self._announcement = Announcement(self._file.fileno(), EVENTS)
            _write_all(self._file, _line(event_row(record)))
        except OSError as exc:
            self.error = exc
            self.close()
            logger.warning(
                "events are no longer written to %s: %s (the upload continues)", self.path, exc
            )

    def close(self) -> None:
        """Stop writing and close the file. Safe to call again."""
        self._closed = True
        if self._file is not None:
            file, self._file = self._file, None
            if self._announcement is not None:
                self._announcement.end()
            try:
                file.close()
            except OSError as exc:  # some network file systems report a full disk only here
                self.error = self.error or exc
                logger.warning("closing %s failed: %s", self.path, exc)


def _line(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # For file names that are not UTF-8, and integers beyond 64 bits: slower, but never refused.
        return json.dumps(row, default=str).encode("ascii") + b"\n"


def _open_private(path: str) -> FileIO:
    file = FileIO(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))
    try:
        if _ends_mid_line(path):
            _write_all(file, b"\n")
    except BaseException:
        file.close()
        raise
    return file


def _ends_mid_line(path: str) -> bool:
    """Whether the last writer was interrupted within a row, so that ours must begin on a new
    line."""
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a full disk first accepts a part of the data; the next write reports it
        rest = rest[file.write(rest) or 0 :]
