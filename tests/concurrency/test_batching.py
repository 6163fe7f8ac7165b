from __future__ import annotations

from collections.abc import Mapping

import anyio
import anyio.lowlevel
import pytest

from asyncpush.concurrency.task_groups import Batcher, single_error


class Calls:
    """Calls that wait for their turn: each answers ten times the number asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.open = anyio.Event()
        self.running = 0
        self.most = 0

    async def __call__(self, items: list[int]) -> Mapping[int, int]:
        self.asked.append(items)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.open.wait()
        self.running -= 1
        return {item: 10 * item for item in items}


async def ask_all(batcher: Batcher[int, int], items: list[int], answers: dict[int, int]) -> None:
    async def ask(item: int) -> None:
        answers[item] = await batcher.ask(item)

    async with anyio.create_task_group() as askers:
        for item in items:
            askers.start_soon(ask, item)


async def test_those_who_ask_in_the_same_breath_go_together() -> None:
    calls, answers = Calls(), dict[int, int]()
    calls.open.set()
    async with anyio.create_task_group() as group:
        await ask_all(Batcher(group, calls, limit=10), [1, 2, 3], answers)

    assert calls.asked == [[1, 2, 3]]
    assert answers == {1: 10, 2: 20, 3: 30}


async def test_a_single_question_waits_for_nobody() -> None:
    calls, answers = Calls(), dict[int, int]()
    calls.open.set()
    async with anyio.create_task_group() as group:
        await ask_all(Batcher(group, calls, limit=100), [1], answers)

    assert (calls.asked, answers) == ([[1]], {1: 10})


async def test_heavy_items_take_more_calls() -> None:
    calls, answers = Calls(), dict[int, int]()
    calls.open.set()
    async with anyio.create_task_group() as group:
        batcher = Batcher[int, int](group, calls, limit=4, weigh=lambda item: item, heaviest=10)
        await ask_all(batcher, [4, 6, 1, 50, 2, 3, 0, 1, 1], answers)

    assert calls.asked == [[4, 6], [1], [50], [2, 3, 0, 1], [1]]
    assert sorted(answers) == [0, 1, 2, 3, 4, 6, 50]


async def test_questions_during_a_call_share_the_next() -> None:
    calls, answers = Calls(), dict[int, int]()
    async with anyio.create_task_group() as group:
        batcher = Batcher(group, calls, limit=10)
        group.start_soon(ask_all, batcher, [1], answers)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask_all, batcher, [2, 3], answers)
        group.start_soon(ask_all, batcher, [4], answers)
        await anyio.wait_all_tasks_blocked()
        assert calls.asked == [[1]]
        calls.open.set()

    assert calls.asked == [[1], [2, 3, 4]]
    assert answers == {item: 10 * item for item in (1, 2, 3, 4)}


async def test_half_a_batch_starts_beside_a_running_call() -> None:
    calls, answers = Calls(), dict[int, int]()
    async with anyio.create_task_group() as group:
        batcher = Batcher(group, calls, limit=4)
        group.start_soon(ask_all, batcher, [1], answers)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask_all, batcher, [2, 3], answers)
        await anyio.wait_all_tasks_blocked()
        assert calls.asked == [[1], [2, 3]]
        calls.open.set()

    assert calls.most == 2


@pytest.mark.parametrize(("limit", "width"), [(1, 1), (1, 4), (3, 1), (3, 2), (7, 3), (256, 4)])
async def test_calls_keep_to_their_limit_and_width(limit: int, width: int) -> None:
    calls, answers = Calls(), dict[int, int]()
    items = list(range(50))
    async with anyio.create_task_group() as group:
        batcher = Batcher(group, calls, limit=limit, width=width)
        group.start_soon(ask_all, batcher, items, answers)
        await anyio.wait_all_tasks_blocked()
        assert calls.running <= width
        calls.open.set()

    assert [item for call in calls.asked for item in call] == items
    assert max(len(call) for call in calls.asked) <= limit
    assert calls.most <= width
    assert answers == {item: 10 * item for item in items}


async def test_a_failing_call_fails_its_group_and_ends_waits() -> None:
    async def refuse(items: list[int]) -> Mapping[int, int]:
        raise ValueError(f"no answer to {items}")

    answers: dict[int, int] = {}
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no answer")):
        async with anyio.create_task_group() as group:
            await ask_all(Batcher(group, refuse, limit=10), [1, 2], answers)

    assert answers == {}


async def test_an_asker_that_is_cancelled_leaves_the_others_theirs() -> None:
    calls, answers = Calls(), dict[int, int]()
    async with anyio.create_task_group() as group:
        batcher = Batcher(group, calls, limit=10)
        async with anyio.create_task_group() as doomed:
            doomed.start_soon(ask_all, batcher, [1], {})
            group.start_soon(ask_all, batcher, [2], answers)
            await anyio.wait_all_tasks_blocked()
            doomed.cancel_scope.cancel()
        calls.open.set()

    assert answers == {2: 20}


def test_no_error_passes() -> None:
    with single_error():
        pass


def test_an_error_alone_is_left_as_it_is() -> None:
    with pytest.raises(KeyError), single_error():
        raise KeyError("a")


def test_a_group_of_one_becomes_its_error_with_its_cause() -> None:
    cause = OSError("disk")
    error = ValueError("v")
    error.__cause__ = cause

    with pytest.raises(ValueError, match="v") as caught, single_error():
        raise ExceptionGroup("g", [ExceptionGroup("inner", [error])])

    assert caught.value is error
    assert error.__cause__ is cause
    assert not hasattr(error, "__notes__")


def test_the_first_of_many_counts_the_others() -> None:
    with pytest.raises(ValueError, match="first") as caught, single_error():
        raise ExceptionGroup(
            "g", [ExceptionGroup("h", [ValueError("first"), KeyError("b")]), OSError("c")]
        )

    assert caught.value.__notes__ == ["(2 more failed at the same time)"]


def test_what_stops_the_program_comes_before_errors() -> None:
    with pytest.raises(KeyboardInterrupt), single_error():
        raise BaseExceptionGroup("g", [ValueError("first"), KeyboardInterrupt()])
