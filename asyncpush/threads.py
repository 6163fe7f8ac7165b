"""Blocking work in threads that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

T = TypeVar("T")

NICENESS = 10

LEAST_TOGETHER = 8
"""Short jobs that are not spread over several threads: they take about as long as a hop does."""


def step_back() -> None:
    """To begin a thread that reads and hashes: where cores are scarce, the event loop and the
    user's own threads go before it. It still gets a tenth of their share, so that a push never
    stands still. (On Linux niceness is a thread's own; elsewhere it would be the process's.)"""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # where that is forbidden, they go side by side
            os.nice(NICENESS)


def is_cancelled() -> bool:
    """Whether a `CancelledError` in this task is one that somebody asked for, rather than that of
    another task, let out by code which awaited it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def in_thread(
    threads: Executor,
    work: Callable[[], T],
    *,
    on_cancel: Callable[[], None] = lambda: None,
    discard: Callable[[T], object] = lambda result: None,
) -> T:
    """Run blocking work in a thread.

    When the task is cancelled, `on_cancel` tells the work to stop, and the cancellation goes on
    once it has: a thread that still reads must not meet a closed file or a reused buffer. (anyio's
    own `to_thread` leaves the thread behind under asyncio's native cancellation.) A result that
    comes too late to be taken goes to `discard`: what was opened must be closed.
    """
    job = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        on_cancel()
        try:
            await settled(job)
        finally:
            if not job.cancelled() and job.exception() is None:
                discard(job.result())
        raise


async def settled(job: asyncio.Future[Any]) -> None:
    """Wait until a job has ended, in whatever way, however often this task is cancelled meanwhile;
    a cancellation that came goes on then."""
    interrupted: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError as exc:
                interrupted = exc
    if not job.cancelled():
        job.exception()  # seen: nobody waits for it any more
    if interrupted is not None:
        raise interrupted


class Hops:
    """Short blocking work: what is asked for at the same time goes into a thread together.

    A hop into a thread and back costs 0.1 ms of CPU, and on a busy machine two turns on a core;
    to open, read or look at a small file costs a tenth of that. Work that may take long (a sync,
    a large file) belongs in `in_thread`: here others would wait for it.
    """

    def __init__(self, threads: Executor, width: int) -> None:
        """At most `width` of the threads are used at once."""
        self.threads = threads
        self._width = width
        self._waiting: deque[_Job[Any]] = deque()
        self._running = 0
        self._starting = False

    async def run(
        self,
        work: Callable[[], T],
        *,
        on_cancel: Callable[[], None] = lambda: None,
        discard: Callable[[T], object] = lambda result: None,
    ) -> T:
        """As `in_thread`; work that has not begun when its task is cancelled never does."""
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future())
        self._waiting.append(job)
        if not self._starting:
            self._starting = True
            loop.call_soon(self._start)  # those who ask in the same turn of the loop go along
        try:
            await job.ended
        except asyncio.CancelledError:
            on_cancel()
            try:
                await self._withdraw(job)
            finally:
                if job.over and job.error is None:
                    discard(job.take())
            raise
        return job.take()

    async def _withdraw(self, job: _Job[Any]) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        elif not job.over:
            job.ended = asyncio.get_running_loop().create_future()
            await settled(job.ended)

    def _start(self) -> None:
        self._starting = False
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < self._width:
            share = -(-len(self._waiting) // (self._width - self._running))
            count = min(len(self._waiting), max(share, LEAST_TOGETHER))
            jobs = [self._waiting.popleft() for _ in range(count)]
            try:
                hop = loop.run_in_executor(self.threads, _run_all, jobs)
            except RuntimeError as exc:  # the threads are closed, or there can be no more of them
                for job in jobs:
                    job.error = exc
                _end(jobs)
            else:
                self._running += 1
                hop.add_done_callback(partial(self._arrived, jobs))

    def _arrived(self, jobs: Sequence[_Job[Any]], hop: asyncio.Future[None]) -> None:
        self._running -= 1
        _end(jobs)
        self._start()


class _Job(Generic[T]):
    """Work with its outcome; `over` once that is known on the loop."""

    __slots__ = ("_result", "_work", "ended", "error", "over")

    def __init__(self, work: Callable[[], T], ended: asyncio.Future[None]) -> None:
        self._work = work
        self.ended = ended
        self.over = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as exc:
            self.error = exc

    def take(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result


def _run_all(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        job.run()


def _end(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        job.over = True
        if not job.ended.done():  # else its task was cancelled
            job.ended.set_result(None)
