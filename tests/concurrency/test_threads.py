"""Blocking work that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pytest

from asyncpush.concurrency.threads import (
    HOP_BYTES,
    LEAST_TOGETHER,
    NICENESS,
    WIDTH,
    BatchedThreads,
    SessionThreads,
    SharedThreads,
    each_in_thread,
    in_thread,
    in_thread_anyway,
    lower_priority,
    wait_until_done,
)


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
        assert self.go.wait(30)
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


async def test_a_late_failure_has_nothing_to_discard(
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
        await wait_until_done(job)
        assert job.done()
        await wait_until_done(job)


async def test_a_cancelled_wait_ends_when_the_job_is_done() -> None:
    job: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(wait_until_done(job))
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
    with ThreadPoolExecutor(1, initializer=lower_priority) as ours:
        assert ours.submit(os.nice, 0).result() == min(19, before + NICENESS)
    assert os.nice(0) == before


async def test_a_cancel_does_not_wait_for_unstarted_work(
    threads: ThreadPoolExecutor,
) -> None:
    first, done = Work(), []
    holding = asyncio.create_task(in_thread(threads, first))
    await first.started.wait()
    waiting = asyncio.create_task(in_thread(threads, lambda: done.append("second")))
    await anyio.lowlevel.checkpoint()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting  # though the only thread is busy
    first.go.set()
    await holding
    assert await in_thread(threads, lambda: "third") == "third"
    assert done == []


async def test_in_thread_anyway_runs_in_a_cancelled_task(
    threads: ThreadPoolExecutor,
) -> None:
    first, done = Work(), list[str]()
    holding = asyncio.create_task(in_thread(threads, first))
    await first.started.wait()
    task = asyncio.create_task(in_thread_anyway(threads, partial(done.append, "given back")))
    await anyio.lowlevel.checkpoint()
    task.cancel()
    await anyio.lowlevel.checkpoint()
    assert not task.done()
    first.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["given back"]
    await holding
    with pytest.raises(ZeroDivisionError):
        await in_thread_anyway(threads, lambda: 1 // 0)


async def test_items_are_done_in_order_for_a_limited_time(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.concurrency.threads.HOP_SECONDS", 0)
    first = Work()
    done: list[object] = []

    def work(item: int) -> int:
        if item == 0:
            first()
        done.append(item)
        return item * item

    squares = asyncio.create_task(each_in_thread(threads, range(5), work))
    await first.started.wait()
    between = asyncio.create_task(in_thread(threads, lambda: done.append("another's")))
    await anyio.lowlevel.checkpoint()
    first.go.set()
    assert await squares == [0, 1, 4, 9, 16]
    await between
    assert done == [0, "another's", 1, 2, 3, 4]


async def test_after_a_cancel_one_item_alone_is_waited_for(threads: ThreadPoolExecutor) -> None:
    second, begun = Work(), []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            second()

    task = asyncio.create_task(each_in_thread(threads, range(100), work))
    await second.started.wait()
    task.cancel()
    await anyio.lowlevel.checkpoint()
    second.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == [0, 1]


async def test_a_push_that_hangs_leaves_threads_for_others() -> None:
    with SharedThreads(6, "test", share=3, reserve=2) as threads:
        lanes = [threads.lane() for _ in range(4)]
        hanging = [[Work() for _ in range(5)] for _ in lanes]
        tasks = []
        for lane, works in zip(lanes, hanging, strict=True):
            tasks += [asyncio.create_task(in_thread(lane, work)) for work in works]
            await asyncio.wait_for(works[0].started.wait(), 30)
        # Three for the first, one of what is left for each that comes later.
        assert [sum(work.running for work in works) for works in hanging] == [3, 1, 1, 1]
        for works in hanging:
            for work in works:
                work.go.set()
        assert await asyncio.gather(*tasks) == ["done"] * 20
        assert [lane.held for lane in lanes] == [0] * 4


async def test_a_free_thread_goes_to_the_lane_with_the_fewest() -> None:
    with SharedThreads(2, "test", share=2, reserve=0) as threads:
        large, small = threads.lane(), threads.lane()
        begun: list[str] = []
        works = [Work(), Work()]
        tasks = [asyncio.create_task(in_thread(large, work)) for work in works]
        for work in works:
            await work.started.wait()

        def begin(name: str) -> str:
            begun.append(name)
            return "done"

        for lane, name in ((large, "large"), (large, "large"), (large, "large"), (small, "small")):
            tasks.append(asyncio.create_task(in_thread(lane, partial(begin, name))))
        await anyio.lowlevel.checkpoint()
        works[0].go.set()
        assert await tasks[-1] == "done"
        assert begun[0] == "small"
        works[1].go.set()
        assert await asyncio.gather(*tasks) == ["done"] * 6


async def test_waiting_work_fails_when_threads_are_closed() -> None:
    threads = SharedThreads(1, "test", share=1, reserve=0)
    lane, work = threads.lane(), Work()
    running = asyncio.create_task(in_thread(lane, work))
    await work.started.wait()
    waiting = asyncio.create_task(in_thread(lane, lambda: None))
    await anyio.lowlevel.checkpoint()
    closing = asyncio.create_task(asyncio.to_thread(threads.__exit__, None, None, None))
    with pytest.raises(RuntimeError, match="closed"):
        await waiting
    assert not closing.done()  # it waits for what runs
    work.go.set()
    assert await running == "done"
    await closing
    with pytest.raises(RuntimeError, match="shutdown"):
        await in_thread(lane, lambda: None)


async def test_only_work_without_a_thread_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SharedThreads(2, "test", share=2, reserve=0) as threads:
        lane, work = threads.lane(), Work()
        running = asyncio.create_task(in_thread(lane, work))
        await work.started.wait()
        done: list[str] = []
        with monkeypatch.context() as patch:

            def no_more(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(RuntimeError, match="can't start"):
                await in_thread(lane, lambda: done.append("refused"))
        work.go.set()  # its thread finds in the queue what was refused
        assert await running == "done"
        assert await in_thread(lane, lambda: "after") == "after"
        assert done == []
        assert lane.held == 0


async def test_many_hash_workers_take_little_memory() -> None:
    with ExitStack() as stack:
        threads = SessionThreads(stack, hash_workers=10**30).for_push()
        assert await in_thread(threads.hash, lambda: 5) == 5


async def test_each_kind_of_work_has_threads_of_its_own() -> None:
    """A disk that hangs stops neither parts nor the journal, and the other way round."""
    with ExitStack() as stack:
        session = SessionThreads(stack, hash_workers=1)
        hung, other = session.for_push(), session.for_push()
        works = [Work() for _ in range(3 * WIDTH)]
        kinds = [hung.read.threads, hung.hash, hung.send.threads]
        tasks = [
            asyncio.create_task(in_thread(kinds[number % 3], work))
            for number, work in enumerate(works)
        ]
        for work in works[:3]:
            await work.started.wait()
        for threads in (other.read.threads, other.hash, other.send.threads, other.journal):
            assert await asyncio.wait_for(in_thread(threads, lambda: 5), 30) == 5
        assert await other.look_up.run(lambda: 5) == 5
        for work in works:
            work.go.set()
        await asyncio.gather(*tasks)


@pytest.fixture
def hops() -> Iterator[BatchedThreads]:
    with ThreadPoolExecutor(4) as threads:
        yield BatchedThreads(threads, 4)


async def test_a_short_job_brings_its_result_or_its_failure(hops: BatchedThreads) -> None:
    assert await hops.run(lambda: 5) == 5
    with pytest.raises(KeyError, match="k"):
        await hops.run(lambda: dict[str, int]()["k"])


async def test_short_jobs_of_one_moment_share_few_hops() -> None:
    """A hundred tasks that each read a small file cost four hops, and each gets its own answer."""
    submitted: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            submitted.append(len(args[0]))
            return super().submit(fn, *args, **kwargs)

    def job(number: int) -> int:
        if number % 10 == 3:
            raise ValueError(number)
        return number

    with Counting(4) as threads:
        hops = BatchedThreads(threads, 4)
        answers = await asyncio.gather(
            *(hops.run(lambda number=number: job(number)) for number in range(100)),  # type: ignore[misc]
            return_exceptions=True,
        )
    assert submitted == [25, 25, 25, 25]
    for number, answer in enumerate(answers):
        if number % 10 == 3:
            assert isinstance(answer, ValueError)
            assert answer.args == (number,)
        else:
            assert answer == number


async def test_a_few_short_jobs_take_one_hop(hops: BatchedThreads) -> None:
    names = await asyncio.gather(*(hops.run(threading.get_ident) for _ in range(LEAST_TOGETHER)))
    assert len(set(names)) == 1
    assert threading.get_ident() not in names


async def test_while_all_threads_are_busy_short_jobs_gather() -> None:
    with ThreadPoolExecutor(1) as threads:
        hops = BatchedThreads(threads, 1)
        first = Work()
        holding = asyncio.create_task(hops.run(first))
        await first.started.wait()
        order: list[int] = []
        later = [
            asyncio.create_task(hops.run(lambda n=n: order.append(n)))  # type: ignore[misc]
            for n in range(20)
        ]
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert order == []
        first.go.set()
        assert await holding == "done"
        await asyncio.gather(*later)
        assert order == list(range(20))


async def test_an_unstarted_short_job_is_dropped_by_a_cancel() -> None:
    with ThreadPoolExecutor(1) as threads:
        hops = BatchedThreads(threads, 1)
        first, done = Work(), []
        holding = asyncio.create_task(hops.run(first))
        await first.started.wait()
        waiting = asyncio.create_task(hops.run(lambda: done.append("second")))
        await anyio.lowlevel.checkpoint()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # though the only thread is busy
        first.go.set()
        await holding
        assert await hops.run(lambda: "third") == "third"
        assert done == []


async def test_a_cancel_waits_for_one_short_job() -> None:
    with ThreadPoolExecutor(1) as threads:
        hops = BatchedThreads(threads, 1)
        first = Work()
        done: list[int] = []
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(hops.run(first))]
        tasks += [asyncio.create_task(hops.run(partial(done.append, n))) for n in range(7)]
        await first.started.wait()  # all eight are in this hop
        for task in tasks:
            task.cancel()
        await anyio.lowlevel.checkpoint()
        first.go.set()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert done == []


async def test_jobs_after_a_slow_one_get_another_hop(
    hops: BatchedThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.concurrency.threads.HOP_SECONDS", 0)
    hung = Work()
    slow = [asyncio.create_task(hops.run(hung))]
    quick = [asyncio.create_task(hops.run(lambda: "quick")) for _ in range(3)]
    await hung.started.wait()
    assert not any(task.done() for task in quick)  # they went along with it
    hung.go.set()
    assert await asyncio.gather(*slow, *quick) == ["done", "quick", "quick", "quick"]


async def test_a_hop_reads_no_more_than_so_many_bytes() -> None:
    together: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            together.append(len(args[0]))
            return super().submit(fn, *args, **kwargs)

    with Counting(4) as threads:
        hops = BatchedThreads(threads, 4)
        await asyncio.gather(*(hops.run(lambda: None, size=HOP_BYTES // 2) for _ in range(5)))
    assert together == [2, 2, 1]


@pytest.mark.parametrize("failure", [None, ValueError("too late")], ids=["ends well", "fails"])
async def test_a_cancelled_short_job_is_waited_for(
    hops: BatchedThreads, failure: Exception | None
) -> None:
    work = Work(failure)
    stopped: list[bool] = []
    discarded: list[str] = []
    task = asyncio.create_task(
        hops.run(work, on_cancel=lambda: stopped.append(True), discard=discarded.append)
    )
    await work.started.wait()
    task.cancel()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert stopped == [True]
    assert not task.done()
    task.cancel()  # once more changes nothing
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not work.running
    assert discarded == ([] if failure else ["done"])


async def test_a_result_that_arrives_with_the_cancel_is_discarded(hops: BatchedThreads) -> None:
    """Its future is set, its task not yet awake: nobody will take what was opened."""
    discarded: list[int] = []

    async def cancel_the_other() -> None:
        await hops.run(lambda: None)  # of the same hop, and awake before the other
        task.cancel()

    first = asyncio.create_task(cancel_the_other())
    task = asyncio.create_task(hops.run(lambda: 5, discard=discarded.append))
    with pytest.raises(asyncio.CancelledError):
        await task
    await first
    assert discarded == [5]


async def test_short_jobs_fail_once_the_threads_are_shut_down() -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        await BatchedThreads(threads, 1).run(lambda: 5)
