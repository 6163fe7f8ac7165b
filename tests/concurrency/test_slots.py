"""Files at once: each push has a turn of its own, all pushes share the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.concurrency.task_groups import FairSlots, SharedSlots, SlotQueue


class Bench:
    """Work that takes until it is told to end."""

    def __init__(self, group: TaskGroup, shared: SharedSlots) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._ends: dict[str, anyio.Event] = {}
        self._queue = SlotQueue(group, FairSlots(shared), self._work)

    def put(self, *items: str) -> None:
        for item in items:
            self._ends[item] = anyio.Event()
            self._queue.put(item)

    def end(self, *items: str) -> None:
        for item in items:
            self._ends[item].set()

    @property
    def running(self) -> set[str]:
        return set(self.begun) - set(self.ended)

    async def _work(self, item: str) -> None:
        self.begun.append(item)
        await self._ends[item].wait()
        self.ended.append(item)


async def let_tasks_run() -> None:
    """Until nobody has anything to do."""
    await anyio.wait_all_tasks_blocked()


async def test_a_push_alone_uses_all_turns_and_its_own() -> None:
    shared = SharedSlots(2)
    async with anyio.create_task_group() as group:
        push = Bench(group, shared)
        push.put("a", "b", "c", "d", "e")
        await let_tasks_run()
        assert push.begun == ["a", "b", "c"]
        push.end("b")
        await let_tasks_run()
        assert push.begun == ["a", "b", "c", "d"]
        push.end("a", "c", "d", "e")
    assert push.ended == ["b", "a", "c", "d", "e"]
    assert shared.free == 2


async def test_each_push_has_a_slot_of_its_own() -> None:
    """None of its files lies with someone who waits for a turn."""
    shared = SharedSlots(2)
    async with anyio.create_task_group() as group:
        large, small = Bench(group, shared), Bench(group, shared)
        large.put("x", "y", "z")
        await let_tasks_run()
        small.put("a", "b", "c")
        for name in "abc":
            await let_tasks_run()
            assert small.running == {name}
            small.end(name)
        await let_tasks_run()
        assert small.ended == ["a", "b", "c"]
        assert large.ended == []
        large.end("x", "y", "z")
    assert shared.free == 2


async def test_waiting_pushes_get_shared_slots_in_turn() -> None:
    shared = SharedSlots(1)
    async with anyio.create_task_group() as group:
        first, second = Bench(group, shared), Bench(group, shared)
        first.put("a", "b", "c", "d")
        await let_tasks_run()
        second.put("x", "y", "z")
        await let_tasks_run()
        assert first.running == {"a", "b"}
        assert second.running == {"x"}
        first.end("b")  # of the two that wait, this push came first
        await let_tasks_run()
        assert first.running == {"a", "c"}
        first.end("c")
        await let_tasks_run()
        assert first.running == {"a"}
        assert second.running == {"x", "y"}
        second.end("y")
        await let_tasks_run()
        assert first.running == {"a", "d"}
        first.end("a", "d")
        second.end("x", "z")
    assert shared.free == 1


async def test_without_shared_slots_a_push_does_one_job() -> None:
    async with anyio.create_task_group() as group:
        push = Bench(group, SharedSlots(0))
        push.put("a", "b")
        await let_tasks_run()
        assert push.running == {"a"}
        push.end("a", "b")
    assert push.ended == ["a", "b"]


async def test_a_cancelled_task_gives_back_its_slots() -> None:
    shared = SharedSlots(1)
    async with anyio.create_task_group() as outer:
        other = Bench(outer, shared)
        async with anyio.create_task_group() as group:
            gone = Bench(group, shared)
            gone.put("a", "b", "c")
            await let_tasks_run()
            other.put("x", "y")
            await let_tasks_run()
            assert other.running == {"x"}
            group.cancel_scope.cancel()
        await let_tasks_run()
        assert other.running == {"x", "y"}
        other.end("x", "y")
    assert shared.free == 1
    assert not shared.waiting


async def test_a_slot_of_a_cancelled_waiter_is_passed_on() -> None:
    shared = SharedSlots(1)
    holder, late = FairSlots(shared), FairSlots(shared)
    assert await holder.take()
    assert not await holder.take()
    assert await late.take()
    waiting = asyncio.create_task(late.take())
    await let_tasks_run()
    holder.give_back(own=False)  # it comes, and the waiter is cancelled before it wakes
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert shared.free == 1


async def test_descriptors_limit_the_files_of_a_push() -> None:
    shared = SharedSlots(9)
    running = most = 0
    done: list[int] = []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await let_tasks_run()
        running -= 1
        done.append(item)

    async with anyio.create_task_group() as group:
        queue = SlotQueue(group, FairSlots(shared, most=2), work)
        for number in range(20):
            queue.put(number)
    assert sorted(done) == list(range(20))
    assert most == 2
    assert shared.free == 9


async def test_work_that_fails_gives_its_turn_back() -> None:
    shared = SharedSlots(1)

    async def fail(item: str) -> None:
        raise ValueError(item)

    with suppress(ExceptionGroup):
        async with anyio.create_task_group() as group:
            queue = SlotQueue(group, FairSlots(shared), fail)
            queue.put("a")
            queue.put("b")
    assert shared.free == 1


@pytest.mark.parametrize("count", [0, 1, 3])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=30))
async def test_prop_all_work_is_done_within_the_limit(
    count: int, steps: list[tuple[int, bool]]
) -> None:
    """Whatever order things are put and ended in: nothing is lost, nothing stands still, and no
    more is under way than the shared turns and one for each push."""
    shared = SharedSlots(count)
    async with anyio.create_task_group() as group:
        pushes = [Bench(group, shared) for _ in range(3)]
        names: Callable[[int, int], str] = lambda push, number: f"{push}-{number}"  # noqa: E731
        put = [0, 0, 0]
        for which, adds in steps:
            push = pushes[which]
            if adds:
                push.put(names(which, put[which]))
                put[which] += 1
            elif push.running:
                push.end(min(push.running))
            await let_tasks_run()
            assert sum(len(each.running) for each in pushes) <= count + 3
            for each, number in zip(pushes, put, strict=True):
                assert each.running or len(each.ended) == number
        for which, push in enumerate(pushes):
            push.end(*(names(which, number) for number in range(put[which])))
    assert [len(each.ended) for each in pushes] == put
    assert shared.free == count
    assert not shared.waiting
