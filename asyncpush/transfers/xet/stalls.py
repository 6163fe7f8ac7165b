"""Whether hf_xet still moves, and calls of it that are never waited for without bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from asyncpush.transfers.xet.access import XetFailedError

T = TypeVar("T")

GRACE = 0.5
"""Seconds that a call which was told to stop gets to do so; then it is left behind."""


class XetStalledError(XetFailedError):
    """Nothing moved for `stall_timeout`. Another attempt may succeed."""


class XetStallDetector:
    """When something moved last in one upload commit.

    A move is any change in what hf_xet reports: bytes found new, bytes sent, bytes the store has,
    files described. While it reads and hashes 64 MiB for the next xorb it reports nothing; on Linux
    the place up to which it has read each file is looked at as well. Time in which our own source
    keeps us waiting does not count.

    Once all bytes have been sent and only an answer is missing, the timeout is multiplied by
    `attempt`: a store that is always slow to answer gets the time it needs in the end.
    """

    def __init__(self, timeout: float, attempt: int = 1) -> None:
        self._timeout = timeout
        self._attempt = attempt
        self._last = time.monotonic()
        self._seen: object = None
        self._all_sent = False
        self.sent = 0
        """Bytes that went over the wire."""
        self._read: dict[int, tuple[str, int]] = {}
        self._reading = 0
        self._lock = threading.Lock()
        self.paths: set[str] = set()
        """The files that hf_xet opens by itself."""

    def moved(self) -> None:
        self._last = time.monotonic()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around waiting for our own source; in any thread."""
        with self._lock:
            self._reading += 1
        try:
            yield
        finally:
            self.moved()
            with self._lock:
                self._reading -= 1

    def on_report(self, group: Any) -> None:
        """On a thread of hf_xet, so that a busy event loop hides no move."""
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

    @property
    def patience(self) -> float:
        """Seconds without a move after which it has stalled."""
        return self._timeout * (self._attempt if self._all_sent else 1)

    def left(self) -> float:
        """Seconds until it has stalled, if nothing moves; 0 when it has."""
        if self._reading:
            return self.patience
        left = self._last + self.patience - time.monotonic()
        if left <= 0 and (read := positions(self.paths)) != self._read:
            self._read = read
            self.moved()
            return self.patience
        return max(0.0, left)


def positions(paths: Collection[str]) -> dict[int, tuple[str, int]]:
    """How far this process has read those of the files that it holds open: path and position by
    file descriptor. Empty where the system does not tell (it is Linux that does)."""
    found = {}
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd") if paths else ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                path = os.readlink(f"/proc/self/fd/{number}")
                if path in paths:
                    with open(f"/proc/self/fdinfo/{number}") as info:
                        found[int(number)] = path, int(info.readline().split()[1])
    return found


def in_background(work: Callable[[], T]) -> Future[T]:
    """Blocking work in a daemon thread: should it never return, the process can still exit."""
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


async def watched(
    work: Callable[[], T],
    watch: XetStallDetector,
    *,
    stop: Callable[[], object] = lambda: None,
    discard: Callable[[T], object] = lambda result: None,
) -> T:
    """Run blocking work of hf_xet. Raises `XetStalledError` when nothing moves any more.

    Then, and when this task is cancelled, `stop` (in a thread: it may hang as well) tells the work
    to end. Work that does not end within `GRACE` is left behind; what it still returns goes to
    `discard`.
    """
    watch.moved()
    future = in_background(work)
    job = asyncio.wrap_future(future)
    job.add_done_callback(lambda job: job.cancelled() or job.exception())  # told where it matters
    try:
        while not job.done():
            left = watch.left()
            if left <= 0:
                raise XetStalledError(f"nothing moved for {watch.patience:g} seconds")
            await asyncio.wait([job], timeout=left)
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
    """Wait for it, `GRACE` seconds at most, also while this task is being cancelled."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell(future: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(tell)
    waiting = asyncio.ensure_future(ended.wait())
    deadline = loop.time() + GRACE
    while not waiting.done() and (left := deadline - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting], timeout=left)
    waiting.cancel()
    return future.done()
