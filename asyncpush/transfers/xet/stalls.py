"""Detects when hf_xet makes no more progress, and never waits for its calls without a limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from asyncpush.transfers.xet.installation import XetFailedError

T = TypeVar("T")

GRACE = 0.5
"""Seconds to wait for a call that was told to stop; then it is abandoned."""


CHECKS = 4
"""How many times within the timeout to check for progress. A check that comes late shows that the
event loop did not run: that time does not count."""

WAIT_FOR_OTHERS = 10
"""How many times the timeout an upload may wait while others of the same session make progress."""


class XetStalledError(XetFailedError):
    """There was no progress for `stall_timeout`. Another attempt may succeed."""


class SharedProgress:
    """The time of the last progress of any upload of a session."""

    def __init__(self) -> None:
        self.last = 0.0

    def moved(self) -> None:
        self.last = time.monotonic()


class XetStallDetector:
    """The time of the last progress of one upload commit.

    Progress is any change in hf_xet's reports: bytes found to be new, bytes sent, bytes the store
    has, files described. While hf_xet reads and hashes 64 MiB for the next xorb it reports nothing,
    so on Linux its position in each file is checked as well. Time spent waiting for our own source
    does not count.

    hf_xet sends only a few xorbs at a time, whichever upload they belong to. While others of the
    session make progress (`shared`), this one may be waiting for them, for a while.

    Once all bytes have been sent and only an answer is missing, the timeout is multiplied by
    `attempt`, so that a store that always answers slowly gets enough time in the end.
    """

    def __init__(
        self, timeout: float, attempt: int = 1, shared: SharedProgress | None = None
    ) -> None:
        self._timeout = timeout
        self._attempt = attempt
        self._shared = shared or SharedProgress()
        self._last = time.monotonic()
        self._others_last = 0.0
        """The last progress of the others, later if the event loop did not run since."""
        self._seen: object = None
        self._all_sent = False
        self.sent = 0
        """Bytes sent over the network."""
        self._read: dict[int, tuple[tuple[int, int], int]] = {}
        self._reading = 0
        self._lock = threading.Lock()
        self.files: set[tuple[int, int]] = set()
        """The files that hf_xet opens itself, by device and inode."""

    def moved(self) -> None:
        self._last = time.monotonic()

    def ran_late(self, seconds: float) -> None:
        """Note that the event loop, and perhaps the whole process, did not run for so long."""
        now = time.monotonic()
        self._last = min(self._last + seconds, now)
        self._others_last = min(max(self._others_last, self._shared.last) + seconds, now)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Use this around waiting for our own source, in any thread."""
        with self._lock:
            self._reading += 1
        try:
            yield
        finally:
            self.moved()
            with self._lock:
                self._reading -= 1

    def on_report(self, group: Any) -> None:
        """Called on a thread of hf_xet, so that a busy event loop does not hide progress."""
        done, total = group.total_bytes_completed, group.total_bytes
        sent, to_send = group.total_transfer_bytes_completed, group.total_transfer_bytes
        shard = group.shard
        shards = shard and (
            shard.total_shards,
            shard.total_shard_bytes_upload_completed,
            shard.total_shard_validation_entries_completed,
            shard.total_shards_completed,
        )
        self.sent = sent
        seen = (done, total, sent, to_send, shards)
        if seen != self._seen:
            self._seen = seen
            self._all_sent = done >= total and sent >= to_send
            self.moved()
            self._shared.moved()

    @property
    def limit(self) -> float:
        """Seconds without progress after which it has stalled."""
        return self._timeout * (self._attempt if self._all_sent else 1)

    def left(self) -> float:
        """Seconds until it has stalled if nothing happens; 0 when it has."""
        if self._reading:
            return self.limit
        left = self._last + self.limit - time.monotonic()
        if left <= 0 and (read := positions(self.files)) != self._read:
            self._read = read
            self.moved()
            return self.limit
        if left <= 0:
            allowed = self._last + WAIT_FOR_OTHERS * self.limit
            others_last = max(self._others_last, self._shared.last)
            left = min(others_last + self.limit, allowed) - time.monotonic()
        return max(0.0, left)


def positions(files: Collection[tuple[int, int]]) -> dict[int, tuple[tuple[int, int], int]]:
    """This process's positions in those of the files that it has open: device and inode, and the
    position, by file descriptor. Empty where the system does not provide them (only Linux does)."""
    found = {}
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd") if files else ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = os.stat(f"/proc/self/fd/{number}")
                file = status.st_dev, status.st_ino
                if file in files:
                    with open(f"/proc/self/fdinfo/{number}") as info:
                        found[int(number)] = file, int(info.readline().split()[1])
    return found


def in_background(work: Callable[[], T]) -> Future[T]:
    """Run blocking work in a daemon thread, so that the process can exit even if it never
    returns."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="asyncpush-xet", daemon=True).start()
    return future


async def unless_stalled(
    work: Callable[[], T],
    watch: XetStallDetector,
    *,
    stop: Callable[[], object] = lambda: None,
    discard: Callable[[T], object] = lambda result: None,
) -> T:
    """Run blocking work of hf_xet. Raises `XetStalledError` when there is no more progress.

    Then, and when this task is cancelled, `stop` tells the work to end. It runs in a thread, since
    it may hang as well. Work that does not end within `GRACE` is abandoned; what it still returns
    is passed to `discard`.
    """
    watch.moved()
    future = in_background(work)
    job = asyncio.wrap_future(future)
    job.add_done_callback(lambda job: job.cancelled() or job.exception())  # errors are raised below
    try:
        while not job.done():
            left = watch.left()
            if left <= 0:
                raise XetStalledError(f"no progress for {watch.limit:g} seconds")
            due = time.monotonic() + (pause := min(left, watch.limit / CHECKS))
            await asyncio.wait([job], timeout=pause)
            watch.ran_late(max(0.0, time.monotonic() - due))
    except BaseException:

        def drop(ended: Future[T]) -> None:
            if not ended.cancelled() and ended.exception() is None:
                discard(ended.result())

        in_background(stop)
        await ends_soon(future)
        future.add_done_callback(drop)
        raise
    return job.result()


async def ends_soon(future: Future[Any]) -> bool:
    """Wait for it, `GRACE` seconds at most, even while this task is being cancelled."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wake(future: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(wake)
    waiting = asyncio.ensure_future(ended.wait())
    deadline = loop.time() + GRACE
    while not waiting.done() and (left := deadline - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting], timeout=left)
    waiting.cancel()
    return future.done()
