"""A clock that tests move forward."""

from __future__ import annotations

import anyio
import anyio.lowlevel

NOW = 1_750_000_000.0
"""For clocks that tell seconds since the epoch."""


class FakeClock:
    """Seconds that pass when a test adds them, or while somebody sleeps by this clock."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


async def let_tasks_run(iterations: int = 32) -> None:
    """Run the event loop until every task waits for something; no time passes."""
    for _ in range(iterations):
        await anyio.lowlevel.checkpoint()
