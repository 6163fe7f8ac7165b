"""Bytes per second, over all who take of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpush.net.rate_limits import Bandwidth
from asyncpush.transfers.xet.engine import READ_BURST
from tests.fake_clock import FakeClock, let_tasks_run


@pytest.mark.parametrize("rate", [1000.0, 1 << 20, 50e6], ids=str)
@pytest.mark.parametrize("piece", [100, 256 << 10], ids=["small pieces", "large pieces"])
async def test_bytes_flow_at_the_rate(rate: float, piece: int) -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(rate, clock=clock, sleep=clock.sleep)
    began, count = clock.now, 1000
    for _ in range(count):
        await bandwidth.take(piece)
    assert clock.now - began == pytest.approx(count * piece / rate, rel=0.05, abs=0.05)


async def test_several_takers_share_the_rate() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(1000, clock=clock, sleep=_shared_sleep(clock))

    async def take() -> None:
        for _ in range(10):
            await bandwidth.take(100)

    began = clock.now
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(take)
    assert clock.now - began == pytest.approx(4.0, rel=0.05)


def _shared_sleep(clock: FakeClock) -> Callable[[float], Awaitable[None]]:
    """Sleeps of several tasks at once: time goes to the latest, not to the sum."""

    async def sleep(seconds: float) -> None:
        until = clock.now + seconds
        await let_tasks_run()
        clock.now = max(clock.now, until)

    return sleep


async def test_a_pause_saves_up_50_ms_at_most() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(1000, clock=clock, sleep=clock.sleep)
    await bandwidth.take(100)
    clock.now += 3600
    before = clock.now
    await bandwidth.take(1000)
    assert clock.now - before == pytest.approx(0.95)


async def test_unsent_bytes_delay_nobody() -> None:
    clock = FakeClock()

    async def sleep(seconds: float) -> None:
        await anyio.sleep_forever()

    bandwidth = Bandwidth(1000, clock=clock, sleep=sleep)
    taking = [asyncio.create_task(bandwidth.take(10_000)) for _ in range(5)]
    await let_tasks_run()
    for task in taking:
        task.cancel()
    await let_tasks_run()
    bandwidth._sleep = clock.sleep
    before = clock.now
    await bandwidth.take(1000)
    assert clock.now - before == pytest.approx(1)


@pytest.mark.parametrize("burst", [0.05, READ_BURST], ids=["LFS", "Xet"])
async def test_six_megabytes_take_no_less_than_their_time(burst: float) -> None:
    """The bucket is empty to begin with, whatever it may hold later."""
    clock = FakeClock()
    bandwidth = Bandwidth(1.2e6, burst=burst, clock=clock, sleep=clock.sleep)
    began = clock.now
    for _ in range(24):
        await bandwidth.take(250_000)
    assert clock.now - began == pytest.approx(5)


@given(
    burst=st.sampled_from([0.05, READ_BURST]),
    steps=st.lists(
        st.tuples(st.integers(1, 5000), st.floats(0, 3) | st.just(0.0)), min_size=1, max_size=40
    ),
)
def test_in_no_period_is_more_sent_than_promised(
    burst: float, steps: list[tuple[int, float]]
) -> None:
    rate = 1000.0

    async def send() -> tuple[float, list[tuple[float, int]]]:
        clock = FakeClock()
        bandwidth = Bandwidth(rate, burst=burst, clock=clock, sleep=clock.sleep)
        began, sent = clock.now, list[tuple[float, int]]()
        for amount, pause in steps:
            await bandwidth.take(amount)
            sent.append((clock.now, amount))
            clock.now += pause
        return began, sent

    began, sent = asyncio.run(send())
    for start, (since, waiting) in enumerate(sent):
        total = 0
        for until, amount in sent[start:]:
            total += amount
            assert total <= rate * (until - since + burst) + waiting + 1e-3
    total = 0
    for until, amount in sent:
        total += amount
        assert total <= rate * (until - began) + 1e-3


async def test_without_a_rate_nothing_waits() -> None:
    async def never(seconds: float) -> None:
        raise AssertionError

    await Bandwidth(None, sleep=never).take(1 << 60)
