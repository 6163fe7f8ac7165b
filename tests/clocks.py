"""Time as tests want it."""

from __future__ import annotations

import anyio

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
