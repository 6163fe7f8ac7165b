"""Waiting for the Hub's windows, the whole session together."""

from __future__ import annotations

import anyio
import pytest

from asyncpush.net.rate_limits import Pacer
from asyncpush.protocol.hints import RateLimit
from tests.fake_clock import FakeClock


@pytest.fixture
def pacer(clock: FakeClock) -> Pacer:
    return Pacer(clock=clock, sleep=clock.sleep)


async def times(pacer: Pacer, clock: FakeClock, calls: int) -> list[float]:
    began, taken = clock.now, []
    for _ in range(calls):
        await pacer.wait(lambda seconds: None)
        taken.append(clock.now - began)
    return taken


async def test_nothing_waits_without_a_reason(pacer: Pacer, clock: FakeClock) -> None:
    assert await times(pacer, clock, 3) == [0, 0, 0]
    assert clock.slept == []


async def test_everybody_is_held_back(pacer: Pacer, clock: FakeClock) -> None:
    pacer.hold(10)
    reported: list[float] = []
    arrived: list[float] = []

    async def call() -> None:
        await pacer.wait(reported.append)
        arrived.append(clock.now - 1000)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call)
    assert min(arrived) >= 10
    assert reported[0] == 10


async def test_a_shorter_hint_does_not_shorten_a_longer_one(pacer: Pacer, clock: FakeClock) -> None:
    pacer.hold(10)
    pacer.hold(2)
    assert await times(pacer, clock, 1) == [10]


async def test_a_hint_during_the_wait_extends_it(clock: FakeClock) -> None:
    async def sleep(seconds: float) -> None:
        if not clock.slept:
            late.hold(seconds + 5)
        await clock.sleep(seconds)

    late = Pacer(clock=clock, sleep=sleep)
    late.hold(10)
    assert await times(late, clock, 1) == [15]


async def test_short_waits_are_not_reported(pacer: Pacer) -> None:
    reported: list[float] = []
    pacer.hold(0.9)
    await pacer.wait(reported.append)
    assert reported == []


@pytest.mark.parametrize(
    ("limit", "waits"),
    [
        pytest.param(None, [0, 0, 0], id="no headers"),
        pytest.param(RateLimit(400, 55, 500), [0, 0, 0], id="plenty"),
        pytest.param(RateLimit(51, 55, 500), [0, 0, 0], id="just enough"),
        pytest.param(RateLimit(50, 51, 500), [0, 1, 2], id="low: spread out"),
        pytest.param(RateLimit(1, 100, 500), [0, 50, 100], id="one left"),
        pytest.param(RateLimit(0, 55, 500), [55, 55, 55], id="none left"),
        pytest.param(RateLimit(0, 0, 500), [0, 0, 0], id="none left, for no time"),
        pytest.param(RateLimit(5, 55, None), [0, 0, 0], id="no quota told"),
        pytest.param(RateLimit(0, 86_400, 500), [900, 900, 900], id="hours"),
        pytest.param(RateLimit(0, 10**9, 0), [900, 900, 900], id="nonsense"),
    ],
)
async def test_a_window_is_made_to_last(
    pacer: Pacer, clock: FakeClock, limit: RateLimit | None, waits: list[float]
) -> None:
    pacer.note(limit, longest=900)
    assert await times(pacer, clock, 3) == pytest.approx(waits)


async def test_a_new_window_ends_the_spreading(pacer: Pacer, clock: FakeClock) -> None:
    pacer.note(RateLimit(9, 100, 500), longest=900)
    await times(pacer, clock, 2)
    pacer.note(RateLimit(499, 300, 500), longest=900)
    await pacer.wait(lambda seconds: None)  # the gap that had been set
    assert await times(pacer, clock, 3) == [0, 0, 0]


async def test_spreading_ends_with_its_window(pacer: Pacer, clock: FakeClock) -> None:
    pacer.note(RateLimit(9, 10, 500), longest=900)
    await times(pacer, clock, 2)
    clock.now += 100
    assert await times(pacer, clock, 3) == [0, 0, 0]


async def test_a_cancelled_wait_holds_back_nobody_else(pacer: Pacer, clock: FakeClock) -> None:
    async def sleep(seconds: float) -> None:
        await anyio.sleep_forever()

    slow = Pacer(clock=clock, sleep=sleep)
    slow.hold(10)
    with anyio.move_on_after(0):
        await slow.wait(lambda seconds: None)
    clock.now += 10
    await slow.wait(lambda seconds: None)
