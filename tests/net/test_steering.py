"""The steered width against the best fixed one, on three networks, in time that costs none.

`benchmarks` has the same three over real sockets.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import pytest

from asyncpush.net.limits import PartLimit
from tests.net.timetravel import TimeTravelLoop

MB = 1_000_000
PART = 8 * MB
LATENCY = 0.06
BACKOFF = 0.25
TICK = 0.02
WIDTHS = (4, 8, 16, 32)


@dataclass(slots=True)
class Road:
    """Bytes a second for one connection and for all; PUTs in flight above which it answers 503."""

    per_connection: float
    aggregate: float
    refuse_above: int
    in_flight: int = 0
    refused: int = 0

    async def put(self, size: float) -> bool:
        await asyncio.sleep(LATENCY / 2)
        if self.in_flight >= self.refuse_above:
            self.refused += 1
            return False
        self.in_flight += 1
        try:
            while size > 0:
                await asyncio.sleep(TICK)
                size -= TICK * min(self.per_connection, self.aggregate / self.in_flight)
            await asyncio.sleep(LATENCY / 2)
        finally:
            self.in_flight -= 1
        return True


class Width(Protocol):
    def slot(self, of: Any = None) -> AbstractAsyncContextManager[Any]: ...
    def succeeded(self, turn: Any, size: int) -> None: ...
    def overloaded(self, turn: Any) -> None: ...


class Fixed:
    def __init__(self, width: int) -> None:
        self._slots = anyio.Semaphore(width)

    def slot(self, of: Any = None) -> AbstractAsyncContextManager[Any]:
        return self._slots

    def succeeded(self, turn: Any, size: int) -> None: ...
    def overloaded(self, turn: Any) -> None: ...


async def seconds_of(width: Width, road: Road, parts: int) -> float:
    """The time of a push: as many workers as there may be parts in flight, as for a real file."""
    remaining = iter(range(parts))

    async def store() -> None:
        async with width.slot() as turn:
            stored = await road.put(PART)
            if stored:
                width.succeeded(turn, PART)
            else:
                width.overloaded(turn)
        if not stored:
            await asyncio.sleep(BACKOFF)
            await store()

    async def worker() -> None:
        for _ in remaining:
            await store()

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with anyio.create_task_group() as group:
        for _ in range(32):
            group.start_soon(worker)
    return loop.time() - began


def steered(road: Road, parts: int) -> float:
    async def run() -> float:
        clock = asyncio.get_running_loop().time
        return await seconds_of(PartLimit(32, clock=clock), road, parts)

    return _travel(run())


def fixed(width: int, road: Road, parts: int) -> float:
    async def run() -> float:
        return await seconds_of(Fixed(width), road, parts)

    return _travel(run())


def _travel(work: Any) -> float:
    with asyncio.Runner(loop_factory=TimeTravelLoop) as runner:
        result: float = runner.run(work)
        return result


FAT = (25 * MB, 1e12, 10**6)
THIN = (25 * MB, 20 * MB, 10**6)
SHY = (25 * MB, 1e12, 8)


@pytest.mark.parametrize(
    ("road", "parts"),
    [
        pytest.param(FAT, 256, id="a fat pipe with a cap per connection"),
        pytest.param(THIN, 16, id="20 MB/s in all"),
        pytest.param(SHY, 64, id="503 above 8 connections"),
    ],
)
def test_the_steered_width_is_within_15_percent_of_the_best_fixed_one(
    road: tuple[float, float, int], parts: int
) -> None:
    best = min(fixed(width, Road(*road), parts) for width in WIDTHS)
    assert steered(Road(*road), parts) <= 1.15 * best


def test_a_store_that_refuses_is_not_asked_too_much_again_and_again() -> None:
    road = Road(*SHY)
    steered(road, 64)
    assert road.refused <= 16
