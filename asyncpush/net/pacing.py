"""Being polite: one place where the whole session learns to wait.

A hint met by one request (Retry-After, an empty rate-limit window) holds back all of them. As a
window runs low, calls are spread over what is left of it instead of being refused at its end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from asyncpush.protocol.hints import RateLimit

LOW_WATER = 0.1
"""Share of the quota below which calls are spread out."""


class Pacer:
    """Holds calls back until it is their turn. Times in seconds of `clock`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._open_at = 0.0
        self._gap = 0.0
        self._gap_until = 0.0

    async def turn(self, on_wait: Callable[[float], None]) -> None:
        """Wait until a call may be made; `on_wait` hears of every wait of a second or more."""
        while (wait := self._open_at - self._clock()) > 0:
            if wait >= 1:
                on_wait(wait)
            await self._sleep(wait)
        if self._clock() < self._gap_until:
            self._open_at = self._clock() + self._gap

    def hold(self, seconds: float) -> None:
        """Nobody calls for so long."""
        self._open_at = max(self._open_at, self._clock() + seconds)

    def note(self, limit: RateLimit | None, *, longest: float) -> None:
        """Learn from the rate-limit headers that came with an answer; never wait over `longest`."""
        if limit is None:
            return
        reset = min(limit.reset, longest)
        if limit.remaining == 0:
            self.hold(reset)
        elif limit.quota is not None and limit.remaining <= limit.quota * LOW_WATER:
            self._gap = reset / (limit.remaining + 1)
            self._gap_until = self._clock() + reset
        else:
            self._gap_until = 0.0
