"""The progress of a push, counted from its events. Repeated or lost events never make a count
fall."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from asyncpush.events import (
    Committed,
    Event,
    FileHashed,
    FileRouted,
    FileSkipped,
    FilesPlanned,
    FileStored,
    HashProgress,
    PartProgress,
    PartStored,
    PhaseChanged,
    PushFinished,
    Record,
    TransferStarted,
)
from asyncpush.models import Phase, UploadProgress

RATE_WINDOW = 5.0
"""Seconds over which the rate is measured."""

_SAMPLE_INTERVAL = 0.05  # seconds between two of the positions that the rate is computed from
_LEAST_SPAN = 0.2  # seconds; a rate over less time would be noise
_UNKNOWN_SIZE = 1 << 62  # until an event tells a file's size; the push's total still bounds it


class InFlight(NamedTuple):
    """A file that is being sent. `sent` is the highest position reached, in bytes."""

    path: str
    sent: int
    size: int | None


class _File:
    """What is known of a file in flight; dropped when the file is complete."""

    __slots__ = ("counted", "last_move", "parts", "raw", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.raw = 0  # sum of the parts' highest positions
        self.counted = 0  # the same, at most `size`: a new upload may cut parts differently
        self.last_move = 0
        self.parts: dict[int, list[int]] = {}  # part number -> [highest position, latest position]


class ProgressAggregator:
    """The state of one push, from its events. `on_event` is cheap; `snapshot` does the computing.

    In whatever order events come, repeated or lost, `bytes_sent` never falls from one snapshot to
    the next and never exceeds `total_bytes`. A part counts by its highest position, so a retry that
    starts at zero lowers nothing. A file that is skipped, deduplicated or stored counts in full;
    inline files count when the commit that contains them is done.

    Memory: the parts of files in flight, and one set entry for each completed file, which keeps a
    late event from counting a file twice (the string is the plan's own).

    Args:
        clock: seconds, monotonic; used to measure the rate.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: Phase = "hashing"
        self._planned = False
        self._total_bytes = 0
        self._total_files = 0
        self._finished = False
        self._raw = 0  # bytes that count, before they are limited to the total
        self._shown = 0
        self._shown_files = 0
        self._moves = 0
        self._files: dict[str, _File] = {}
        self._inline: dict[str, int] = {}  # routed inline, waiting for the commit: path -> size
        self._done: set[str] = set()
        self._hashing: dict[str, int] = {}
        self._hashed = 0
        self._wire = 0  # bytes sent, including repeated ones; not those resumed or deduplicated
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def planned(self) -> bool:
        """Whether the totals are known."""
        return self._planned

    @property
    def hashed_bytes(self) -> int:
        """Bytes hashed so far, or known from the hash cache."""
        return min(self._hashed + sum(self._hashing.copy().values()), self._total_bytes)

    def in_flight(self) -> list[InFlight]:
        """The files that are being sent, starting with the one that began first."""
        return [
            InFlight(path, file.counted, None if file.size == _UNKNOWN_SIZE else file.size)
            for path, file in self._files.copy().items()
        ]

    def on_event(self, record: Record) -> None:
        event = record.event
        # by far the most frequent event: it skips the dispatch below
        if type(event) is PartProgress:
            file = self._files.get(event.path)
            if file is None:
                if self._finished or event.path in self._done:
                    return
                file = self._start(event.path)
            sent = event.sent
            if sent > event.size:
                sent = event.size
            self._moves += 1
            file.last_move = self._moves
            part = file.parts.get(event.part_number)
            if part is None:
                part = file.parts[event.part_number] = [0, 0]
            latest = part[1]
            part[1] = sent
            self._wire += sent - latest if sent >= latest else sent
            if sent > part[0]:
                self._raise(file, part, sent)
        elif not self._finished:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def snapshot(self) -> UploadProgress:
        """The current progress of the push."""
        sent, total = self._bytes()
        rate = self._rate()
        eta: float | None = None
        if self._finished:
            eta = 0.0
        elif rate > 0 and self._phase in ("hashing", "uploading"):
            eta = (total - sent) / rate
        total_files = max(self._total_files, self._shown_files)
        done = total_files if self._finished else min(len(self._done), total_files)
        self._shown_files = done
        return UploadProgress(
            bytes_sent=sent,
            total_bytes=total,
            current_file=self._current_file(),
            files_completed=done,
            total_files=total_files,
            phase=self._phase,
            bytes_per_second=rate,
            eta_seconds=eta,
        )

    def _bytes(self) -> tuple[int, int]:
        # A second plan may be smaller than the first: what was already shown stays the lower bound.
        total = max(self._total_bytes, self._shown)
        sent = total if self._finished else max(self._shown, min(self._raw, total))
        self._shown = sent
        return sent, total

    def _rate(self) -> float:
        now, samples = self._clock(), self._samples
        if not samples or self._wire == 0:
            # Until the first byte is sent the window starts now, so that waiting does not lower the
            # rate.
            samples.clear()
            samples.append((now, self._wire))
            return 0.0
        if now - samples[-1][0] >= _SAMPLE_INTERVAL:
            samples.append((now, self._wire))
        while len(samples) > 2 and samples[1][0] <= now - RATE_WINDOW:
            samples.popleft()
        began, wire_then = samples[0]
        span = now - began
        return (self._wire - wire_then) / span if span >= _LEAST_SPAN else 0.0

    def _current_file(self) -> str | None:
        # Bars take snapshots in a thread of their own. Copying a dict is atomic, iterating over it
        # is not.
        moving = [(file.last_move, path) for path, file in self._files.copy().items()]
        if moving:
            return max(moving)[1]
        return next(iter(self._hashing.copy()), None)

    def _start(self, path: str, size: int = _UNKNOWN_SIZE) -> _File:
        file = self._files[path] = _File(size)
        return file

    def _raise(self, file: _File, part: list[int], mark: int) -> None:
        file.raw += mark - part[0]
        part[0] = mark
        counted = file.raw if file.raw < file.size else file.size
        self._raw += counted - file.counted
        file.counted = counted

    def _complete(self, path: str, size: int) -> None:
        if path in self._done:
            return
        self._done.add(path)
        self._inline.pop(path, None)
        self._hashing.pop(path, None)
        file = self._files.pop(path, None)
        self._raw += size - (file.counted if file is not None else 0)

    def _on_planned(self, event: FilesPlanned) -> None:
        self._planned = True
        self._total_files = event.total_files
        self._total_bytes = event.total_bytes

    def _on_phase(self, event: PhaseChanged) -> None:
        self._phase = event.phase

    def _on_hash_progress(self, event: HashProgress) -> None:
        if event.path not in self._done:
            self._hashing[event.path] = event.hashed

    def _on_hashed(self, event: FileHashed) -> None:
        self._hashing.pop(event.path, None)
        self._hashed += event.size

    def _on_routed(self, event: FileRouted) -> None:
        if event.route == "inline" and event.path not in self._done:
            self._inline[event.path] = event.size
        else:
            self._inline.pop(event.path, None)

    def _on_skipped(self, event: FileSkipped) -> None:
        self._complete(event.path, event.size)

    def _on_started(self, event: TransferStarted) -> None:
        if event.path in self._done:
            return
        file = self._files.get(event.path)
        if file is None:
            file = self._start(event.path)
        file.size = event.size
        self._moves += 1
        file.last_move = self._moves
        counted = min(file.raw, file.size)
        self._raw += counted - file.counted
        file.counted = counted

    def _on_part_stored(self, event: PartStored) -> None:
        if event.path in self._done:
            return
        file = self._files.get(event.path) or self._start(event.path)
        part = file.parts.setdefault(event.part_number, [0, 0])
        if not event.resumed:
            self._wire += max(0, event.size - part[1])
        part[1] = event.size
        self._moves += 1
        file.last_move = self._moves
        if event.size > part[0]:
            self._raise(file, part, event.size)

    def _on_stored(self, event: FileStored) -> None:
        self._complete(event.path, event.size)

    def _on_committed(self, event: Committed) -> None:
        if not event.final:
            return  # `FileStored` says which of the inline files this commit contained
        # All at once: there may be a hundred thousand of them. None of them is completed yet.
        inline, self._inline = self._inline, {}
        self._done |= inline.keys()
        self._raw += sum(inline.values())
        for path in self._hashing.keys() & inline.keys():
            del self._hashing[path]
        for path in self._files.keys() & inline.keys():
            self._raw -= self._files.pop(path).counted

    def _on_finished(self, event: PushFinished) -> None:
        self._finished = True
        self._phase = "done"
        for state in (self._files, self._inline, self._hashing, self._done):
            state.clear()


_HANDLERS: dict[type[Event], Callable[[ProgressAggregator, Any], None]] = {
    FilesPlanned: ProgressAggregator._on_planned,
    PhaseChanged: ProgressAggregator._on_phase,
    HashProgress: ProgressAggregator._on_hash_progress,
    FileHashed: ProgressAggregator._on_hashed,
    FileRouted: ProgressAggregator._on_routed,
    FileSkipped: ProgressAggregator._on_skipped,
    TransferStarted: ProgressAggregator._on_started,
    PartStored: ProgressAggregator._on_part_stored,
    FileStored: ProgressAggregator._on_stored,
    Committed: ProgressAggregator._on_committed,
    PushFinished: ProgressAggregator._on_finished,
}
