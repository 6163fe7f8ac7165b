"""Task groups fail with groups; callers see the error that matters."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from asyncpush.concurrency.task_groups import single_error
from asyncpush.errors import HubError


def raise_group(*errors: BaseException) -> None:
    with single_error():
        raise BaseExceptionGroup("group", errors)


def test_one_error_comes_out_as_itself_with_its_cause() -> None:
    error, cause = HubError("no"), OSError("the cable")
    error.__cause__ = cause
    with pytest.raises(HubError) as caught:
        raise_group(error)
    assert caught.value is error
    assert caught.value.__cause__ is cause
    assert not hasattr(error, "__notes__")


def test_the_first_of_several_errors_counts_the_others() -> None:
    first = HubError("first")
    with pytest.raises(HubError) as caught:
        raise_group(first, HubError("second"), ValueError("third"))
    assert caught.value is first
    assert first.__notes__ == ["(2 more failed at the same time)"]


def test_groups_within_groups_are_looked_into() -> None:
    with pytest.raises(ValueError, match="deep") as caught:
        raise_group(ExceptionGroup("a", [ExceptionGroup("b", [ValueError("deep")])]))
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_program_goes_before_errors(kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        raise_group(ValueError("x"), kind())


def test_other_errors_and_none_pass() -> None:
    with single_error():
        pass
    with pytest.raises(KeyError), single_error():
        raise KeyError


async def test_with_a_task_group_siblings_are_cancelled() -> None:
    ended: list[str] = []

    async def sibling() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("sibling")

    async def failing() -> None:
        raise HubError("no")

    with pytest.raises(HubError), single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(sibling)
            group.start_soon(failing)
    assert ended == ["sibling"]


async def test_cancellation_from_outside_passes() -> None:
    async def work() -> None:
        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)

    task = asyncio.create_task(work())
    await anyio.lowlevel.checkpoint()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
