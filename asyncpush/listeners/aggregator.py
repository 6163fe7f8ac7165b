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
    TransferChosen,
    TransferStarted,
)
from asyncpush.models import Phase, UploadProgress

RATE_WINDOW = 5.0
"""Seconds over which the rate is measured."""

_SAMPLE_INTERVAL = 0.05  # seconds between two of the positions that the rate is taken from
_LEAST_SPAN = 0.2  # seconds: a rate over less than this is noise
_HELD_BACK = 64 << 20  # bytes read that a transfer packs before it sends them (a xorb of Xet's)
_UNKNOWN_SIZE = 1 << 62  # until an event tells a file's size; the push's total still bounds it


class InFlight(NamedTuple):
    """A file that is being sent. `sent` is the highest position reached, in bytes. `read` is how
    far it was read by a transfer that reads while it sends."""

    path: str
    sent: int
    size: int | None
    read: int | None = None


class _Sample(NamedTuple):
    """Where the counters were at a time."""

    time: float
    wire: int
    moved: int
    processed: int


class _File:
    """What is known of a file in flight; dropped when the file is complete."""

    __slots__ = ("counted", "last_move", "parts", "raw", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.raw = 0  # sum of the parts' highest positions
        self.counted = 0  # the same, at most `size`: a new upload may cut parts differently
        self.last_move = 0
        self.parts: dict[int, list[int]] = {}
        """By part number: the highest position, the latest one, and the bytes sent for that."""


class ProgressAggregator:
    """The state of one push, from its events. `on_event` is cheap; `snapshot` does the computing.

    However events are ordered, repeated or lost, `bytes_sent` never falls from one snapshot to the
    next and never passes `total_bytes`; `bytes_processed` falls only when a new plan is smaller. A
    part counts by its highest position, so a retry that starts at zero lowers nothing; a file that
    is skipped, deduplicated or stored counts whole; inline files count when the commit that carries
    them is done.

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
        self._current: str | None = None  # the file that moved last, if it is still in flight
        self._files: dict[str, _File] = {}
        self._inline: dict[str, int] = {}  # routed inline, waiting for the commit: path -> size
        self._done: set[str] = set()
        self._hashing: dict[str, int] = {}
        self._partly_hashed = 0  # the sum of these
        self._hashed = 0
        self._hashed_files: set[str] = set()  # of those that are not done
        self._shown_processed = 0
        self._wire = 0  # bytes that went out, resent ones too; not those resumed or deduplicated
        self._moved = 0  # the same, with those that a transfer found in the store
        self._reads_while_sending = False
        self._samples: deque[_Sample] = deque()

    @property
    def planned(self) -> bool:
        """Whether the totals are known."""
        return self._planned

    @property
    def sent_of_read(self) -> int | None:
        """Bytes sent by a transfer that reads files while it sends them; None when there is no such
        transfer at work."""
        uploading = self._phase in ("hashing", "uploading")
        at_work = self._reads_while_sending and (self._hashing or self._moved)
        return self._wire if at_work and uploading else None

    @property
    def is_reading(self) -> bool:
        """Whether a transfer reads, and the store has nothing of it yet."""
        return (
            self.sent_of_read is not None
            and self._moved == 0
            and self._shown_processed < self._total_bytes
        )

    @property
    def is_all_sent(self) -> bool:
        """Whether nothing is left to send: files only wait until the store confirms them."""
        count = len(self._done) + len(self._files) + len(self._inline)
        if not self._files or count < self._total_files:
            return False
        return all(file.counted >= file.size for file in self._files.copy().values())

    def in_flight(self) -> list[InFlight]:
        """The files that are being sent, starting with the one that began first."""
        return [
            InFlight(
                path,
                file.counted,
                None if file.size == _UNKNOWN_SIZE else file.size,
                self._hashing.get(path, 0) if self._reads_while_sending else None,
            )
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
            position = sent + event.deduplicated
            if position > event.size:
                position = event.size
            self._moves += 1
            file.last_move = self._moves
            self._current = event.path
            part = file.parts.get(event.part_number)
            if part is None:
                part = file.parts[event.part_number] = [0, 0, 0]
            highest, latest, latest_sent = part
            part[1] = position
            part[2] = sent
            self._moved += position - latest if position >= latest else position
            self._wire += sent - latest_sent if sent >= latest_sent else sent
            if position > highest:
                self._raise(file, part, position)
        elif not self._finished:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def snapshot(self) -> UploadProgress:
        """The current progress of the push."""
        sent, total = self._bytes()
        processed = total if self._finished else max(sent, self._processed(total))
        self._shown_processed = processed
        wire_rate, moved_rate, read_rate = self._rates()
        eta: float | None = None
        if self._finished:
            eta = 0.0
        elif self._moved and self._phase in ("hashing", "uploading") and not self.is_all_sent:
            # A transfer that reads while it sends is limited by reading, unless it has read
            # more than it packs at a time and not sent it.
            reading = self._reads_while_sending and processed < total
            if reading and processed - sent <= _HELD_BACK:
                eta = (total - processed) / read_rate if read_rate > 0 else None
            elif moved_rate > 0:
                eta = (total - sent) / moved_rate
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
            bytes_per_second=wire_rate,
            eta_seconds=eta,
            bytes_processed=processed,
        )

    def _bytes(self) -> tuple[int, int]:
        # A second plan may be smaller than the first: what was already shown stays the lower bound.
        total = max(self._total_bytes, self._shown)
        sent = total if self._finished else max(self._shown, min(self._raw, total))
        self._shown = sent
        return sent, total

    def _processed(self, total: int) -> int:
        known = self._hashed + self._partly_hashed
        return min(max(self._shown_processed, known), total)

    def _rates(self) -> tuple[float, float, float]:
        """Bytes a second: sent, sent or found in the store, and read."""
        now, samples = self._clock(), self._samples
        latest = _Sample(now, self._wire, self._moved, self._shown_processed)
        if not samples or self._moved == 0:
            # Until the first byte moves, the window starts now: waiting does not dilute the rate.
            samples.clear()
            samples.append(latest)
            return 0.0, 0.0, 0.0
        if now - samples[-1].time >= _SAMPLE_INTERVAL:
            samples.append(latest)
        while len(samples) > 2 and samples[1].time <= now - RATE_WINDOW:
            samples.popleft()
        first = samples[0]
        span = now - first.time
        if span < _LEAST_SPAN:
            return 0.0, 0.0, 0.0
        wire, moved = latest.wire - first.wire, latest.moved - first.moved
        return wire / span, moved / span, (latest.processed - first.processed) / span

    def _current_file(self) -> str | None:
        # Bars take snapshots in a thread of their own. Copying a dict is atomic, iterating over it
        # is not.
        if self._current in self._files:
            return self._current
        moving = [(file.last_move, path) for path, file in self._files.copy().items()]
        if moving:
            self._current = max(moving)[1]
            return self._current
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
        self._is_hashed(path, size)
        self._hashed_files.discard(path)
        file = self._files.pop(path, None)
        self._raw += size - (file.counted if file is not None else 0)

    def _on_planned(self, event: FilesPlanned) -> None:
        self._planned = True
        self._total_files = event.total_files
        self._total_bytes = event.total_bytes

    def _on_phase(self, event: PhaseChanged) -> None:
        self._phase = event.phase

    def _on_hash_progress(self, event: HashProgress) -> None:
        path = event.path
        if path not in self._done and path not in self._hashed_files:
            before = self._hashing.get(path, 0)
            self._hashing[path] = max(before, event.hashed)
            self._partly_hashed += max(before, event.hashed) - before

    def _on_hashed(self, event: FileHashed) -> None:
        if event.path not in self._done:
            self._is_hashed(event.path, event.size)

    def _is_hashed(self, path: str, size: int) -> None:
        self._partly_hashed -= self._hashing.pop(path, 0)
        if path not in self._hashed_files:
            self._hashed_files.add(path)
            self._hashed += size

    def _on_routed(self, event: FileRouted) -> None:
        if event.route == "inline" and event.path not in self._done:
            self._inline[event.path] = event.size
            self._is_hashed(event.path, event.size)  # it goes with the commit, and needs no reading
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
        self._current = event.path
        counted = min(file.raw, file.size)
        self._raw += counted - file.counted
        file.counted = counted

    def _on_part_stored(self, event: PartStored) -> None:
        if event.path in self._done:
            return
        file = self._files.get(event.path) or self._start(event.path)
        part = file.parts.setdefault(event.part_number, [0, 0, 0])
        if not event.resumed:
            self._moved += max(0, event.size - part[1])
            self._wire += max(0, event.size - part[2])
        part[1] = part[2] = event.size
        self._moves += 1
        file.last_move = self._moves
        self._current = event.path
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
        self._hashed_files -= inline.keys()
        for path in self._files.keys() & inline.keys():
            self._raw -= self._files.pop(path).counted

    def _on_finished(self, event: PushFinished) -> None:
        self._finished = True
        self._phase = "done"
        for state in (
            self._files,
            self._inline,
            self._hashing,
            self._hashed_files,
            self._done,
        ):
            state.clear()

    def _on_chosen(self, event: TransferChosen) -> None:
        self._reads_while_sending = event.reads_while_sending


_HANDLERS: dict[type[Event], Callable[[ProgressAggregator, Any], None]] = {
    FilesPlanned: ProgressAggregator._on_planned,
    PhaseChanged: ProgressAggregator._on_phase,
    HashProgress: ProgressAggregator._on_hash_progress,
    FileHashed: ProgressAggregator._on_hashed,
    FileRouted: ProgressAggregator._on_routed,
    FileSkipped: ProgressAggregator._on_skipped,
    TransferStarted: ProgressAggregator._on_started,
    PartStored: ProgressAggregator._on_part_stored,
    TransferChosen: ProgressAggregator._on_chosen,
    FileStored: ProgressAggregator._on_stored,
    Committed: ProgressAggregator._on_committed,
    PushFinished: ProgressAggregator._on_finished,
}

HANDLED: frozenset[type[Event]] = frozenset({PartProgress, *_HANDLERS})
"""The events that change the progress."""
