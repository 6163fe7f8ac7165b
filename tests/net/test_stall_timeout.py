"""What no longer moves is cut, what moves is not."""

from __future__ import annotations

import asyncio
import importlib

import anyio
import pytest

from asyncpush.net.network_errors import StalledError
from asyncpush.net.stall_timeout import StallTimeout
from tests.net.timetravel import TimeTravelLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Limits of seconds cost none here, and a busy machine changes nothing."""
    return "asyncio", {"loop_factory": TimeTravelLoop}


async def test_stillness_is_cut() -> None:
    with pytest.raises(StalledError, match=r"no data was sent or received for 30 s"):
        async with StallTimeout(30):
            await anyio.sleep_forever()


async def test_movement_is_not_cut() -> None:
    stall = StallTimeout(30)
    async with stall:
        for _ in range(10):
            await anyio.sleep(29)
            stall.touch()


async def test_the_guarded_block_can_end_at_once() -> None:
    async with StallTimeout(30):
        pass
    await anyio.sleep(60)  # no timer of it goes off any more


async def test_what_the_block_raises_comes_out() -> None:
    with pytest.raises(KeyError):
        async with StallTimeout(30):
            raise KeyError


async def test_a_timeout_of_somebody_elses_is_not_a_stall() -> None:
    with pytest.raises(TimeoutError) as caught:
        async with StallTimeout(30):
            raise TimeoutError("mine")
    assert str(caught.value) == "mine"


async def test_cancellation_from_outside_stays_cancellation() -> None:
    async def work() -> None:
        async with StallTimeout(30):
            await anyio.sleep_forever()

    task = asyncio.create_task(work())
    await anyio.lowlevel.checkpoint()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    with anyio.move_on_after(10) as scope:
        await work()
    assert scope.cancelled_caught


async def test_an_outer_timeout_stays_the_outer_ones() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10), StallTimeout(30):
            await anyio.sleep_forever()


async def test_a_pause_restarts_the_stall_timeout() -> None:
    stall = StallTimeout(30)
    with pytest.raises(StalledError):
        async with stall:
            with stall.paused():
                await anyio.sleep(100)
            await anyio.sleep(29)
            reached = True
            await anyio.sleep_forever()
    assert reached


async def test_a_blocked_event_loop_is_not_a_stall() -> None:
    """Something blocks it, or the process is stopped: what arrives meanwhile is not noticed."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TimeTravelLoop)
    stall = StallTimeout(30)
    with pytest.raises(StalledError):
        async with stall:
            for _ in range(3):
                await anyio.sleep(20)
                loop.block(100)
                await anyio.sleep(1)
                stall.touch()
            reached = loop.time()
            await anyio.sleep_forever()
    assert reached == 363
    assert 30 <= loop.time() - reached <= 31


def test_a_short_timeout_ends_with_uvloop() -> None:
    """Its timers of less than a millisecond are of another kind."""

    async def stall() -> None:
        with pytest.raises(StalledError):
            async with StallTimeout(0.001):
                await asyncio.sleep(30)

    uvloop = importlib.import_module("uvloop")
    uvloop.run(stall())
