"""Progress snapshots for callbacks and `async for`, at a bounded rate."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from asyncpush.events import (
    Committed,
    Event,
    FileSkipped,
    FileStored,
    PhaseChanged,
    PushFailed,
    PushFinished,
    Record,
)
from asyncpush.listeners.aggregator import HANDLED, ProgressAggregator
from asyncpush.models import UploadProgress
from asyncpush.own_files import library_logger

logger = library_logger("progress")

SNAPSHOT_INTERVAL = 0.1
"""Seconds between two snapshots while bytes are being sent."""
IDLE_INTERVAL = 1.0
"""Seconds between two snapshots while nothing happens and the rate falls to zero."""
BURST = 64
"""Completed files that get a snapshot of their own within one interval; further ones share one."""
CLOSE_GRACE = 5.0
"""Seconds that `aclose` gives an async callback to process the last snapshot."""

_CANCEL_GRACE = 1.0


class ProgressPublisher:
    """Passes the newest snapshot to a callback and to subscribers, without ever delaying the
    upload.

    Snapshots are at least 100 ms apart. Only a completed file, a new phase and the end are reported
    at once (when thousands of tiny files complete together, or when nobody waits for a snapshot,
    they share snapshots). When no more events come, a last snapshot shows the final state, and
    others follow every second until the rate has fallen to zero.

    A plain callback is called directly. An async one runs as one task at a time: while it is busy,
    the newest snapshot waits for it and older ones are dropped. An exception from a callback is
    logged once and otherwise ignored.

    Use it on the event loop's thread; `latest` may be read from any thread.

    Args:
        callback: plain or async callable of `UploadProgress`, or None.
        aggregator: where the state is kept.
        call_later: like the event loop's method; None uses that of the running loop.
    """

    wants_headers = False
    wants_events: frozenset[type[Event]] = HANDLED | {PushFailed}

    def __init__(
        self,
        callback: Callable[[UploadProgress], Awaitable[None] | None] | None = None,
        *,
        aggregator: ProgressAggregator | None = None,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self.aggregator: ProgressAggregator = (
            ProgressAggregator() if aggregator is None else aggregator
        )
        self.latest: UploadProgress = self.aggregator.snapshot()
        self._callback = callback
        self._call_later = call_later
        self._reported = False
        self._version = 0
        self._ended = False
        self._changed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._throttled = False  # a snapshot was published within the last interval
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
                if self._burst == 0 or (kind in _FILES and not self._is_followed):
                    return
                self._burst -= 1
        else:
            self._throttle()
        self._publish()
        if kind in _LAST:
            self._end()

    @property
    def _is_followed(self) -> bool:
        """Whether a callback or a subscriber waits for the next snapshot."""
        return self._callback is not None or self._changed is not None

    def subscribe(self) -> AsyncIterator[UploadProgress]:
        """Snapshots as they are published, always the newest; ends with the push. Any number may
        subscribe."""
        return _Subscription(self)

    async def aclose(self) -> None:
        """Publish the last snapshot, end the subscriptions, and wait until the callback has
        processed it.

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
            # Any awaitable is accepted, hence not create_task(); a coroutine becomes a task.
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
        logger.warning("%s (the upload continues)", message, exc_info=exc)


_LAST = frozenset({PushFinished, PushFailed})
_FILES = frozenset({FileStored, FileSkipped})
_AT_ONCE = _LAST | _FILES | {Committed, PhaseChanged}


class _Subscription(AsyncIterator[UploadProgress]):
    """Not a generator: one that is not read to its end would have to be closed by the loop."""

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
