"""Time as tests want it."""

from __future__ import annotations

import anyio
import anyio.lowlevel

NOW = 1_750_000_000.0
"""For clocks that tell seconds since the epoch."""


class Clock:
    """Seconds that pass when a test says so, or while somebody sleeps by it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


async def settle(turns: int = 32) -> None:
    """Let the loop turn, so that whatever can go on has gone on; no time passes."""
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
