"""Blocking work that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from asyncpush.threads import NICENESS, in_thread, settled, step_back


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Work:
    """Runs in a thread until it is let go; `failure` is how it ends."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.started = asyncio.Event()
        self.go = threading.Event()
        self.running = False
        self._failure = failure
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> str:
        self.running = True
        self._loop.call_soon_threadsafe(self.started.set)
        assert self.go.wait(5)
        self.running = False
        if self._failure is not None:
            raise self._failure
        return "done"


async def test_the_result_comes_back(threads: ThreadPoolExecutor) -> None:
    assert await in_thread(threads, lambda: 5) == 5


async def test_what_it_raises_comes_back(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(KeyError, match="k"):
        await in_thread(threads, lambda: dict[str, int]()["k"])


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("failure", [None, ValueError("too late")], ids=["ends well", "fails"])
async def test_a_cancelled_task_waits_for_its_thread(
    threads: ThreadPoolExecutor, times: int, failure: Exception | None
) -> None:
    work = Work(failure)
    stopped: list[bool] = []
    task = asyncio.create_task(in_thread(threads, work, on_cancel=lambda: stopped.append(True)))
    await work.started.wait()
    for _ in range(times):
        task.cancel()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
    assert stopped == [True]
    assert work.running
    assert not task.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not work.running


@pytest.mark.parametrize("times", [1, 2])
async def test_what_came_too_late_to_be_taken_is_discarded(
    threads: ThreadPoolExecutor, times: int
) -> None:
    """A file that was opened, say, must be closed."""
    work = Work()
    discarded: list[str] = []
    task = asyncio.create_task(in_thread(threads, work, discard=discarded.append))
    await work.started.wait()
    for _ in range(times):
        task.cancel()
        await anyio.lowlevel.checkpoint()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert discarded == ["done"]


async def test_what_was_taken_is_not_discarded(threads: ThreadPoolExecutor) -> None:
    discarded: list[int] = []
    assert await in_thread(threads, lambda: 5, discard=discarded.append) == 5
    assert discarded == []


async def test_a_failure_that_came_too_late_has_nothing_to_discard(
    threads: ThreadPoolExecutor,
) -> None:
    work = Work(ValueError("too late"))
    discarded: list[str] = []
    task = asyncio.create_task(in_thread(threads, work, discard=discarded.append))
    await work.started.wait()
    task.cancel()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert discarded == []


async def test_a_cancelled_scope_waits_for_its_thread(threads: ThreadPoolExecutor) -> None:
    work = Work()
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await in_thread(threads, work, on_cancel=work.go.set)

        group.start_soon(run)
        await work.started.wait()
        group.cancel_scope.cancel()
    assert not work.running


async def test_settled_takes_any_end() -> None:
    loop = asyncio.get_running_loop()
    for end in (
        lambda job: job.set_result(1),
        lambda job: job.set_exception(ValueError("seen")),
        lambda job: job.cancel(),
    ):
        job: asyncio.Future[int] = loop.create_future()
        loop.call_soon(end, job)
        await settled(job)
        assert job.done()
        await settled(job)


async def test_settled_hands_a_cancellation_on_when_the_job_is_over() -> None:
    job: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(settled(job))
    await anyio.lowlevel.checkpoint()
    task.cancel()
    await anyio.lowlevel.checkpoint()
    assert not task.done()
    job.set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a process's elsewhere")
def test_our_threads_step_back_and_the_users_do_not() -> None:
    before = os.nice(0)
    with ThreadPoolExecutor(1, initializer=step_back) as ours:
        assert ours.submit(os.nice, 0).result() == min(19, before + NICENESS)
    assert os.nice(0) == before
