"""How far the files are: from hf_xet's threads, and ours, to events on the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from asyncpush.events import Emitter, PartProgress, TransferStarted, XetProgress
from asyncpush.models import FileSource


class XetPositions:
    """Of all files of one push: events for what has moved since the last report."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._files: dict[Any, tuple[FileSource, Emitter]] = {}
        self._sent: dict[Any, int] = {}
        self._ended = False

    def begin(self, file: FileSource) -> Emitter:
        emit = self._emit.child()
        emit.emit(TransferStarted(file.path_in_repo, file.size, 1))
        return emit

    def follow(self, task: Any, file: FileSource) -> None:
        """Its positions will come with hf_xet's reports."""
        self._files[task] = file, self.begin(file)

    def on_read(self, file: FileSource, emit: Emitter, position: int) -> None:
        """From a thread of ours: so much of a file was handed over."""
        event = PartProgress(file.path_in_repo, 1, position, file.size)
        self._loop.call_soon_threadsafe(emit.emit, event)

    def end(self) -> None:
        """What comes from now on is of yesterday."""
        self._ended = True

    def on_report(self, group: Any, items: Mapping[Any, Any]) -> None:
        """On a thread of hf_xet: take plain values, and let the loop do the rest."""
        positions = [(task, item.bytes_completed) for task, item in items.items()]
        done, sent = group.total_bytes_completed, group.total_transfer_bytes_completed
        total = XetProgress(sent, max(0, done - sent), group.total_bytes)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._tell, positions, total)

    def _tell(self, positions: Sequence[tuple[Any, int]], total: XetProgress) -> None:
        if self._ended:
            return
        for task, position in positions:
            known = self._files.get(task)
            if known is None or self._sent.get(task) == position:
                continue
            self._sent[task] = position
            file, emit = known
            emit.emit(PartProgress(file.path_in_repo, 1, min(position, file.size), file.size))
        self._emit.emit(total)
