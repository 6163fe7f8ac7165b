"""Which parts are sent again: a decision on samples, and a monitor on a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from asyncpush.net.parts import ENOUGH, INTERVAL, LEAST, InFlightPart, StragglerMonitor
from tests.net.timetravel import TimeTravelLoop

MB = 1_000_000


@pytest.mark.parametrize(
    ("seconds", "rate", "slow"),
    [
        pytest.param(0.4, 1.0, False, id="too young to tell"),
        pytest.param(0.6, 1.0, True, id="what is left takes far longer than the whole elsewhere"),
        pytest.param(0.6, 4.0, False, id="half as fast as others: not worth it"),
        pytest.param(0.6, 0.0, True, id="nothing moves"),
        pytest.param(5.0, 1.5, False, id="nearly there"),
    ],
)
def test_a_part_is_sent_again_when_that_is_worth_it(
    seconds: float, rate: float, slow: bool
) -> None:
    """Parts of 8 MB, others at 8 MB/s; this one at `rate` MB/s."""
    arrived = 0
    in_flight = InFlightPart(8 * MB, lambda: arrived, None, 0.0)
    steps = round(seconds / INTERVAL)
    for step in range(1, steps + 1):
        arrived = int(step * INTERVAL * rate * MB)
        in_flight.sample(step * INTERVAL)
    assert in_flight.is_slow(seconds, 8 * MB) is slow


def test_connection_setup_does_not_make_a_part_slow() -> None:
    """Nothing for 0.3 s, then as fast as the others."""
    arrived = 0
    in_flight = InFlightPart(8 * MB, lambda: arrived, None, 0.0)
    for step in range(1, round(0.6 / INTERVAL)):
        now = step * INTERVAL
        arrived = int(max(0.0, now - 0.3) * 8 * MB)
        in_flight.sample(now)
        assert not in_flight.is_slow(now, 8 * MB)


def test_a_slowed_part_is_judged_by_its_present_rate() -> None:
    arrived = 0
    in_flight = InFlightPart(8 * MB, lambda: arrived, None, 0.0)
    for step in range(1, 121):
        arrived = min(4 * MB, step * MB)
        in_flight.sample(step * INTERVAL)
    assert in_flight.is_slow(3.0, 8 * MB)


def test_a_part_that_was_paused_is_not_slow() -> None:
    """Paused for two seconds in the middle, as fast as the others before and after."""
    arrived, paused = 0, False
    in_flight = InFlightPart(8 * MB, lambda: arrived, None, 0.0, paused=lambda: paused)
    for step in range(1, 110):
        now = step * INTERVAL
        paused = 0.5 <= now <= 2.5
        arrived = int(min(now, 0.5 + max(0.0, now - 2.5)) * 8 * MB)
        in_flight.sample(now)
        assert not in_flight.is_slow(now, 8 * MB)


class Scene:
    """A monitor, parts that were stored in a tenth of a second, and one that does not move."""

    def __init__(self, *, idle: bool = True, stored: int = ENOUGH, size: int = 2 * MB) -> None:
        self._size = size
        self.idle = idle
        self.calls: list[float] = []
        self._stored = stored

    async def play(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        monitor = StragglerMonitor(lambda: self.idle)
        with ExitStack() as stack:
            quick = [
                stack.enter_context(monitor.following(self._size, lambda: 0, None))
                for _ in range(self._stored)
            ]
            slow = monitor.following(self._size, lambda: 0, lambda: self.calls.append(loop.time()))
            stack.enter_context(slow)
            await asyncio.sleep(0.1)
            for in_flight in quick:
                monitor.stored(in_flight)
            await asyncio.sleep(seconds)
        assert monitor._timer is None


@pytest.fixture
def travel() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=TimeTravelLoop) as runner:
        yield runner


def test_a_crawling_part_is_sent_again_once(travel: asyncio.Runner) -> None:
    scene = Scene()
    travel.run(scene.play(10))
    (called,) = scene.calls
    assert called <= 0.1 + 2 * INTERVAL + 0.01


def test_parts_are_compared_with_recently_stored_ones(travel: asyncio.Runner) -> None:
    """In the middle each took 8 s, as many shared the road; now that it is free, 0.1 s."""
    called: list[float] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        monitor = StragglerMonitor(lambda: True)
        with ExitStack() as stack:
            middle = [
                stack.enter_context(monitor.following(2 * MB, lambda: 0, None)) for _ in range(32)
            ]
            await asyncio.sleep(8)
            for in_flight in middle:
                monitor.stored(in_flight)
        with ExitStack() as stack:
            slow = monitor.following(2 * MB, lambda: 0, lambda: called.append(loop.time()))
            stack.enter_context(slow)
            late = [
                stack.enter_context(monitor.following(2 * MB, lambda: 0, None)) for _ in range(3)
            ]
            await asyncio.sleep(0.1)
            for in_flight in late:
                monitor.stored(in_flight)
            await asyncio.sleep(1)

    travel.run(play())
    assert called == pytest.approx([8.1], abs=2 * INTERVAL)


def test_who_steers_hears_how_far_each_part_is(travel: asyncio.Runner) -> None:
    recorded: list[int] = []

    async def fly() -> None:
        loop = asyncio.get_running_loop()
        monitor = StragglerMonitor(lambda: False)
        with monitor.following(2 * MB, lambda: int(loop.time() * MB), None, recorded.append):
            await asyncio.sleep(3.5 * INTERVAL)

    travel.run(fly())
    assert recorded == pytest.approx([INTERVAL * MB, 2 * INTERVAL * MB, 3 * INTERVAL * MB], abs=1)


def test_no_part_is_sent_again_while_every_slot_is_wanted(travel: asyncio.Runner) -> None:
    scene = Scene(idle=False)
    travel.run(scene.play(10))
    assert scene.calls == []


def test_with_nothing_to_compare_with_nothing_is_slow(travel: asyncio.Runner) -> None:
    scene = Scene(stored=ENOUGH - 1)
    travel.run(scene.play(10))
    assert scene.calls == []


def test_parts_that_fit_the_kernel_buffer_are_not_monitored(travel: asyncio.Runner) -> None:
    scene = Scene(size=LEAST)
    travel.run(scene.play(10))
    assert scene.calls == []
