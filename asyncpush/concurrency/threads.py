"""Blocking work in threads that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeVar

import anyio

from asyncpush.lazy_dataclass import dataclass

T = TypeVar("T")
P = ParamSpec("P")
Item = TypeVar("Item")

NICENESS = 10

WIDTH = 4
"""The most threads of one kind that a push uses."""

LEAST_TOGETHER = 8
"""Up to this many short jobs go into one thread: together they take about as long as a hop, which
is a call in a thread and the return to the event loop."""

HOP_BYTES = 1 << 20
"""The most bytes that the short jobs of one hop read."""

HOP_SECONDS = 0.02
"""Seconds after which a hop starts no further job. On a slow or hanging disk each job then has a
hop of its own, and cancellation waits for only one. It is two hundred times the cost of a hop."""


class ProcessLock:
    """Like `threading.Lock`, but free in a forked child, whichever thread of the parent held it at
    that moment: that thread does not exist in the child, and would never release it."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, *, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def lower_priority() -> None:
    """Lowers the priority of a thread that reads and hashes: where cores are scarce, the event loop
    and the user's own threads go first. It still gets a tenth of their share, so that a push never
    stops. (On Linux niceness is per thread; elsewhere it would be per process.)"""
    if sys.platform == "linux" and hasattr(os, "nice"):
        with contextlib.suppress(OSError):  # Where this is forbidden, they have the same priority.
            os.nice(NICENESS)


def is_cancelled() -> bool:
    """Whether this task itself is being cancelled. If not, a `CancelledError` in it comes from
    another task that it awaited."""
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

    When the task is cancelled, `on_cancel` tells the work to stop, and the cancellation proceeds
    once it has: a thread that is still reading must not find a closed file or a reused buffer.
    (anyio's own `to_thread` leaves the thread behind under asyncio's native cancellation.) Work
    that has not started by then never does. A result that comes too late is given to `discard`:
    what was opened must be closed.
    """
    future = threads.submit(work)
    job = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        on_cancel()
        if future.cancel():  # No thread has started it, and none will.
            raise
        try:
            await wait_until_done(job)
        finally:
            if not job.cancelled() and job.exception() is None:
                discard(job.result())
        raise


FEW = 100
"""A hop into a thread and back takes as long as computing something from this many items."""


async def in_thread_if_many(threads: Executor, items: Sized, work: Callable[[], T]) -> T:
    """Compute something from all of `items`, which are in memory: in a thread, as `in_thread` does,
    unless they are `FEW`. For work that waits for nothing and takes about 1 µs for each."""
    return work() if len(items) <= FEW else await in_thread(threads, work)


async def in_thread_anyway(threads: Executor, work: Callable[[], object]) -> None:
    """Run blocking work that must be done even while this task is being cancelled, and wait for it:
    what was acquired must be released."""
    job = asyncio.wrap_future(threads.submit(work))
    await wait_until_done(job)
    job.result()


async def wait_until_done(job: asyncio.Future[Any]) -> None:
    """Wait until a job has ended, in whatever way, however often this task is cancelled meanwhile;
    the cancellation is raised then."""
    interrupted: asyncio.CancelledError | None = None
    if not job.done():
        with anyio.CancelScope(shield=True):
            while not job.done():
                try:
                    await asyncio.wait([job])
                except asyncio.CancelledError as exc:
                    interrupted = exc
    if not job.cancelled():
        job.exception()  # Retrieved, so that asyncio does not log it.
    if interrupted is not None:
        raise interrupted


async def each_in_thread(
    threads: Executor, items: Iterable[Item], work: Callable[[Item], T]
) -> list[T]:
    """Do short work in a thread for one item after the other; returns the results, in order. The
    thread is released every `HOP_SECONDS`, and a cancelled task waits for only one item."""
    results: list[T] = []
    remaining = iter(items)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True

    def some() -> bool:
        deadline = time.monotonic() + HOP_SECONDS
        for item in remaining:
            results.append(work(item))
            if stopped or time.monotonic() >= deadline:
                return True
        return False

    while await in_thread(threads, some, on_cancel=stop):
        pass
    return results


class SharedThreads:
    """Threads that several pushes share fairly, each through a lane of its own.

    A lane holds at most `share` of them. A thread that becomes free goes to the lane that holds the
    fewest, and the last `reserve` go only to lanes that hold none: a push that waits for a slow or
    hanging disk does not stop the others.
    """

    def __init__(self, count: int, name: str, *, share: int, reserve: int) -> None:
        self._pool = ThreadPoolExecutor(count, name, lower_priority)
        self._share = share
        self._reserve = reserve
        self._free = count
        # Lanes that wait for a thread, by how many they hold; in order of arrival.
        self._waiting: list[dict[Lane, None]] = [{} for _ in range(share + 1)]
        self._open = True
        self._lock = threading.Lock()
        self._abandoned: set[Future[Any]] = set()

    def lane(self) -> Lane:
        """A push's access to the threads."""
        return Lane(self._put)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for running jobs; those that have not started never do, and fail."""
        with self._lock:
            self._open = False
            left = [job for lanes in self._waiting for lane in lanes for job in lane.jobs]
            for lanes in self._waiting:
                lanes.clear()
        for future, _ in left:
            _fail(future, RuntimeError("the threads are closed"))
        self._pool.shutdown()

    def _put(self, lane: Lane, job: _Pending) -> None:
        with self._lock:
            if not self._open:
                raise RuntimeError("cannot schedule new futures after shutdown")
            lane.jobs.append(job)
            self._queue(lane)
            self._dispatch()

    def _queue(self, lane: Lane) -> None:
        if lane.jobs:
            self._waiting[lane.held][lane] = None

    def _dispatch(self) -> None:
        while (taken := self._take()) is not None:
            lane, job = taken
            try:
                self._pool.submit(self._run, lane, job)
            except RuntimeError as exc:  # No more threads can be started.
                self._give_back(lane)
                self._abandoned.add(job[0])  # An existing thread may still take it.
                _fail(job[0], exc)

    def _take(self) -> tuple[Lane, _Pending] | None:
        """The next job, and a thread for it."""
        for held, lanes in enumerate(self._waiting[: self._share]):
            if lanes and self._free > (self._reserve if held else 0):
                lane = next(iter(lanes))
                del lanes[lane]
                lane.held += 1
                self._free -= 1
                job = lane.jobs.popleft()
                self._queue(lane)
                return lane, job
        return None

    def _give_back(self, lane: Lane) -> None:
        self._waiting[lane.held].pop(lane, None)
        lane.held -= 1
        self._free += 1
        if self._open:
            self._queue(lane)

    def _run(self, lane: Lane, job: _Pending) -> None:
        """Run this job, and those that wait after it, in the same thread while there are any."""
        if job[0] in self._abandoned:
            return
        taken: tuple[Lane, _Pending] | None = (lane, job)
        del job
        while taken is not None:
            lane, (future, work) = taken
            del taken
            result, failure = None, None
            wanted = future.set_running_or_notify_cancel()
            if wanted:
                try:
                    result = work()
                except BaseException as exc:
                    failure = exc
            with self._lock:
                self._give_back(lane)
                taken = self._take()
            if failure is not None:
                future.set_exception(failure)
            elif wanted:
                future.set_result(result)
            del future, work, result, failure  # Not kept alive while the next one runs.


_Pending: TypeAlias = tuple["Future[Any]", Callable[[], Any]]


class Lane(Executor):
    """One push's share of `SharedThreads`. Its jobs start in order."""

    def __init__(self, put: Callable[[Lane, _Pending], None]) -> None:
        self._put = put
        self.jobs: deque[_Pending] = deque()
        self.held = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._put(self, (future, partial(fn, *args, **kwargs)))
        return future


def _fail(future: Future[Any], error: Exception) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


@dataclass(frozen=True, slots=True)
class PushThreads:
    """The threads of one push, by what their work may have to wait for."""

    read: BatchedThreads
    """For the source: files are opened, checked, and hashed if they are small."""
    hash: Executor
    """For the source's large files."""
    send: BatchedThreads
    """For the network: parts are read, their MD5 computed, and written to plain sockets."""
    journal: Executor
    """For writes to the journal."""
    look_up: BatchedThreads
    """For journal lookups, which need no sync."""


MOST_HASH_WORKERS = 256
"""More threads for hashing than any machine has use for."""


class SessionThreads:
    """The threads that the pushes of an `Uploader` share. Reading, hashing, sending and the journal
    have threads of their own, so that none waits for another."""

    def __init__(self, stack: ExitStack | AsyncExitStack, *, hash_workers: int) -> None:
        """The threads end when `stack` is closed."""
        enter = stack.enter_context
        hash_workers = min(hash_workers, MOST_HASH_WORKERS)
        self._read = enter(SharedThreads(12, "asyncpush-read", share=WIDTH, reserve=3))
        self._send = enter(SharedThreads(12, "asyncpush-send", share=WIDTH, reserve=3))
        self._hash = enter(
            SharedThreads(hash_workers + 1, "asyncpush-hash", share=hash_workers, reserve=1)
        )
        # Most of these threads wait for a disk sync that they share.
        self.journal: Executor = enter(ThreadPoolExecutor(32, "asyncpush-journal"))
        self.look_up = BatchedThreads(enter(ThreadPoolExecutor(1, "asyncpush-lookup")), 1)

    def for_push(self) -> PushThreads:
        """The push's own lanes, and the threads that all pushes share."""
        return PushThreads(
            BatchedThreads(self._read.lane(), WIDTH),
            self._hash.lane(),
            BatchedThreads(self._send.lane(), WIDTH),
            self.journal,
            self.look_up,
        )


class BatchedThreads:
    """Short blocking work: jobs that are requested at the same time go into a thread together.

    A hop into a thread and back costs 0.1 ms of CPU, and on a busy machine two waits for a core;
    opening, reading or checking a small file costs a tenth of that. Where jobs take longer than
    expected, those not started within `HOP_SECONDS` go into another hop. Work that is known to be
    long (a large file) belongs in `in_thread`.
    """

    def __init__(self, threads: Executor, width: int) -> None:
        """Uses at most `width` of the threads at once."""
        self.threads = threads
        self._width = width
        self._waiting: deque[_Job[Any]] = deque()
        self._running = 0
        self._starting = False
        self._lock = threading.Lock()

    async def run(
        self,
        work: Callable[[], T],
        *,
        size: int = 0,
        on_cancel: Callable[[], None] = lambda: None,
        discard: Callable[[T], object] = lambda result: None,
    ) -> T:
        """Like `in_thread`, for work that reads about `size` bytes."""
        loop = asyncio.get_running_loop()
        job = _Job(work, size, loop.create_future())
        self._waiting.append(job)
        if not self._starting:
            self._starting = True
            # Jobs that are requested in the same iteration of the event loop go together.
            loop.call_soon(self._start)
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
        with self._lock:
            begun = job.begun
            job.begun = True  # If it has not started, it never does.
        if begun and not job.over:
            job.ended = asyncio.get_running_loop().create_future()
            await wait_until_done(job.ended)

    def _start(self) -> None:
        self._starting = False
        while self._running < self._width and (jobs := self._next_jobs()):
            done: list[_Job[Any]] = []
            try:
                future = self.threads.submit(self._run_some, jobs, done)
            except RuntimeError as exc:  # The threads are closed.
                _end(jobs, exc)
            else:
                self._running += 1
                hop = asyncio.wrap_future(future)
                hop.add_done_callback(partial(self._arrived, jobs, done))

    def _next_jobs(self) -> list[_Job[Any]]:
        share = -(-len(self._waiting) // (self._width - self._running))
        count = min(len(self._waiting), max(share, LEAST_TOGETHER))
        jobs: list[_Job[Any]] = []
        size = 0
        while self._waiting and len(jobs) < count:
            size += self._waiting[0].size
            if jobs and size > HOP_BYTES:
                break
            job = self._waiting.popleft()
            if not job.begun:  # Otherwise it was withdrawn.
                jobs.append(job)
        return jobs

    def _run_some(self, jobs: Sequence[_Job[Any]], done: list[_Job[Any]]) -> None:
        deadline = time.monotonic() + HOP_SECONDS
        for job in jobs:
            with self._lock:
                if job.begun:
                    continue
                job.begun = True
            job.run()
            done.append(job)
            if time.monotonic() >= deadline:
                return

    def _arrived(
        self,
        jobs: Sequence[_Job[Any]],
        done: Sequence[_Job[Any]],
        hop: asyncio.Future[None],
    ) -> None:
        self._running -= 1
        failure = None if hop.cancelled() else hop.exception()
        if failure is not None:  # There was no thread for it.
            _end(jobs, failure)
        _end(done)
        self._waiting.extendleft(job for job in reversed(jobs) if not job.begun)
        self._start()


class _Job(Generic[T]):
    """A job with its outcome; `over` is set once that is known on the event loop."""

    __slots__ = ("_result", "_work", "begun", "ended", "error", "over", "size")

    def __init__(self, work: Callable[[], T], size: int, ended: asyncio.Future[None]) -> None:
        self._work = work
        self.size = size
        self.ended = ended
        self.begun = False
        """Started or withdrawn: no thread may start it."""
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


def _end(jobs: Sequence[_Job[Any]], failure: BaseException | None = None) -> None:
    for job in jobs:
        if failure is not None:
            job.begun, job.error = True, failure
        job.over = True
        if not job.ended.done():  # Otherwise its task was cancelled.
            job.ended.set_result(None)
