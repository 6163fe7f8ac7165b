"""From part events to snapshots of one push, and the snapshots to whoever wants them.

`ProgressAggregator` counts; `ProgressPublisher` decides when a snapshot is worth telling.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio

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
    PushFailed,
    PushFinished,
    Record,
    TransferStarted,
)
from asyncpush.models import Phase, UploadProgress

logger = logging.getLogger("asyncpush.progress")

RATE_WINDOW = 5.0
"""Seconds over which the rate is taken."""
SNAPSHOT_INTERVAL = 0.1
"""Seconds between two snapshots while bytes move."""
IDLE_INTERVAL = 1.0
"""Seconds between two snapshots while nothing happens and the rate sinks to zero."""
BURST = 64
"""Completed files that get a snapshot of their own within one interval; the rest share one."""
CLOSE_GRACE = 5.0
"""Seconds that `aclose` gives an async callback to take the last snapshot."""

_CANCEL_GRACE = 1.0
_UNKNOWN_SIZE = 1 << 62  # until an event tells a file's size; the push's total still bounds it
_LEAST_SPAN = 0.2  # seconds: a rate over less than this is noise


class InFlight(NamedTuple):
    """A file whose bytes are moving. `sent` is the highest position reached, in bytes."""

    path: str
    sent: int
    size: int | None


class _File:
    """What is known of one file in flight; dropped when the file is complete."""

    __slots__ = ("counted", "last_move", "parts", "raw", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.raw = 0  # sum of the parts' highest marks
        self.counted = 0  # the same, at most `size`: a new upload may cut parts differently
        self.last_move = 0
        self.parts: dict[int, list[int]] = {}  # part number -> [highest mark, latest position]


class ProgressAggregator:
    """The state of one push, from its events: `on_event` is cheap, `snapshot` does the sums.

    However events are ordered, repeated or lost, `bytes_sent` never falls from one snapshot to the
    next and never passes `total_bytes`. A part counts by its highest position, so a retry that
    starts at zero lowers nothing; a file that is skipped, deduplicated or stored counts whole;
    inline files count when the commit that carries them is done.

    Memory: the parts of files in flight, and one set entry for each completed file (it keeps a
    straggling event from counting a file twice; the string is the plan's own).

    Args:
        clock: seconds, monotonic; the rate is measured with it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: Phase = "hashing"
        self._planned = False
        self._total_bytes = 0
        self._total_files = 0
        self._finished = False
        self._raw = 0  # bytes that count, before they are bounded by the total
        self._shown = 0
        self._shown_files = 0
        self._moves = 0
        self._files: dict[str, _File] = {}
        self._inline: dict[str, int] = {}  # routed inline, waiting for the commit: path -> size
        self._done: set[str] = set()
        self._hashing: dict[str, int] = {}
        self._hashed = 0
        self._wire = 0
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def planned(self) -> bool:
        """Whether the totals are known."""
        return self._planned

    @property
    def wire_bytes(self) -> int:
        """Bytes that went out, resent ones too; not what was resumed or deduplicated."""
        return self._wire

    @property
    def hashed_bytes(self) -> int:
        """Bytes hashed so far, or known from the hash cache."""
        return min(self._hashed + sum(self._hashing.copy().values()), self._total_bytes)

    def in_flight(self) -> list[InFlight]:
        """The files whose bytes are moving, the one that began first at the front."""
        return [
            InFlight(path, file.counted, None if file.size == _UNKNOWN_SIZE else file.size)
            for path, file in self._files.copy().items()
        ]

    def on_event(self, record: Record) -> None:
        event = record.event
        if type(event) is PartProgress:  # by far the most frequent: spared the dispatch below
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
        """Where the push is now."""
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
        # A second plan may be smaller than the first: what was shown stays the lower bound.
        total = max(self._total_bytes, self._shown)
        sent = total if self._finished else max(self._shown, min(self._raw, total))
        self._shown = sent
        return sent, total

    def _rate(self) -> float:
        now, samples = self._clock(), self._samples
        if not samples or self._wire == 0:
            # Until the first byte moves, the window starts now: waiting does not dilute the rate.
            samples.clear()
            samples.append((now, self._wire))
            return 0.0
        if now - samples[-1][0] >= SNAPSHOT_INTERVAL / 2:
            samples.append((now, self._wire))
        while len(samples) > 2 and samples[1][0] <= now - RATE_WINDOW:
            samples.popleft()
        began, wire_then = samples[0]
        span = now - began
        return (self._wire - wire_then) / span if span >= _LEAST_SPAN else 0.0

    def _current_file(self) -> str | None:
        # Bars take snapshots in a thread of their own; copying a dict is atomic, a loop is not.
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
            return  # which of the inline files this commit carried is for `FileStored` to say
        for path, size in tuple(self._inline.items()):
            self._complete(path, size)

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


class ProgressPublisher:
    """Tells the newest snapshot to a callback and to subscribers, and holds the upload up for none.

    Snapshots are at least 100 ms apart, except that a completed file, a new phase and the end are
    told at once (when thousands of tiny files complete together, they share snapshots). When
    events stop, a trailing snapshot shows the last state, and others follow each second until the
    rate has sunk to zero.

    A plain callback is called in place. An async one runs as one task at a time: while it is busy
    the newest snapshot waits for it and older ones are dropped. What a callback raises is reported
    once (logged, and handed to `notify`) and otherwise ignored.

    Use it on the event loop's thread; `latest` may be read from any.

    Args:
        callback: plain or async callable of `UploadProgress`, or None.
        notify: told in words when the callback misbehaves, to emit a `Notice`.
        aggregator: where the state is kept.
        call_later: schedules as the running loop's does, which is what None takes.
    """

    wants_headers = False

    def __init__(
        self,
        callback: Callable[[UploadProgress], Awaitable[None] | None] | None = None,
        *,
        notify: Callable[[str], None] | None = None,
        aggregator: ProgressAggregator | None = None,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self.aggregator = ProgressAggregator() if aggregator is None else aggregator
        self.latest = self.aggregator.snapshot()
        self._callback = callback
        self._notify = notify
        self._call_later = call_later
        self._reported = False
        self._version = 0
        self._ended = False
        self._changed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._throttled = False  # a snapshot went out within the last interval
        self._dirty = False
        self._burst = BURST
        self._task: asyncio.Future[None] | None = None
        self._next: UploadProgress | None = None

    def on_event(self, record: Record) -> None:
        if self._ended:
            return
        self.aggregator.on_event(record)
        self._dirty = True
        kind = type(record.event)
        if self._throttled:
            if kind not in _AT_ONCE:
                return
            if kind not in _LAST:
                if self._burst == 0:
                    return
                self._burst -= 1
        else:
            self._throttle()
        self._publish()
        if kind in _LAST:
            self._end()

    def subscribe(self) -> AsyncIterator[UploadProgress]:
        """Snapshots as they come, the newest only; ends with the push. Any number may subscribe."""
        return _Subscription(self)

    async def aclose(self) -> None:
        """Publish what is unsaid, end the subscriptions, and let the callback have the last word.

        Waits up to 5 seconds for an async callback, then cancels it. Safe to call again.
        """
        if not self._ended:
            if self._dirty:
                self._publish()
            self._end()
        deadline = asyncio.get_running_loop().time() + CLOSE_GRACE
        try:
            while (task := self._task) is not None:
                left = deadline - asyncio.get_running_loop().time()
                _, late = await asyncio.wait({task}, timeout=max(0.0, left))
                if late:
                    self._report(f"the progress callback did not return within {CLOSE_GRACE:g} s")
                    break
        finally:
            self._next = None
            if (task := self._task) is not None:
                task.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({task}, timeout=_CANCEL_GRACE)

    def _throttle(self) -> None:
        self._throttled = True
        self._burst = BURST
        self._schedule(SNAPSHOT_INTERVAL, self._interval_over)

    def _schedule(self, delay: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._timer = call_later(delay, action)

    def _interval_over(self) -> None:
        if self._dirty:
            self._throttle()
            self._publish()
            return
        self._throttled = False
        self._timer = None
        if self.latest.bytes_per_second > 0:
            self._schedule(IDLE_INTERVAL, self._idle)

    def _idle(self) -> None:
        self._throttle()
        self._publish()

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _publish(self) -> None:
        self._dirty = False
        snapshot = self.aggregator.snapshot()
        if self._version and snapshot == self.latest:
            return
        self.latest = snapshot
        self._version += 1
        self._wake()
        if self._callback is not None:
            self._deliver(self._callback, snapshot)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _deliver(
        self, callback: Callable[[UploadProgress], object], snapshot: UploadProgress
    ) -> None:
        if self._task is not None:
            self._next = snapshot
            return
        try:
            outcome = callback(snapshot)
        except (Exception, asyncio.CancelledError) as exc:
            self._report(f"the progress callback failed: {exc!r}", exc)
            return
        if inspect.isawaitable(outcome):
            # Any awaitable will do, hence not create_task(); a coroutine becomes a task.
            self._task = asyncio.ensure_future(outcome)
            self._task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Future[None]) -> None:
        self._task = None
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._report(f"the progress callback failed: {exc!r}", exc)
        if self._next is not None and self._callback is not None:
            snapshot, self._next = self._next, None
            self._deliver(self._callback, snapshot)

    def _report(self, message: str, exc: BaseException | None = None) -> None:
        if self._reported:
            return
        self._reported = True
        logger.warning("%s (the upload goes on)", message, exc_info=exc)
        if self._notify is not None:
            self._notify(message)


_LAST = frozenset({PushFinished, PushFailed})
_AT_ONCE = _LAST | {FileStored, FileSkipped, Committed, PhaseChanged}


class _Subscription(AsyncIterator[UploadProgress]):
    """Not a generator: one that is left half-way would have to be closed by the loop."""

    def __init__(self, publisher: ProgressPublisher) -> None:
        self._publisher = publisher
        self._seen = 0

    async def __anext__(self) -> UploadProgress:
        publisher = self._publisher
        while publisher._version == self._seen:
            if publisher._ended:
                raise StopAsyncIteration
            await publisher._wait()
        self._seen = publisher._version
        return publisher.latest
