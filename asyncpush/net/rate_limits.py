"""Rate limits: the Hub's quota of requests, and the user's own limit on bytes per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from asyncpush.protocol.hints import RateLimit

LOW_WATER = 0.1
"""When less than this share of the quota is left, requests are spread out."""


class Pacer:
    """Delays requests to the Hub to stay within its quota. Times are seconds of `clock`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._open_at = 0.0
        self._gap = 0.0
        self._gap_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request need not call `wait`."""
        now = self._clock()
        return now >= self._open_at and now >= self._gap_until

    async def wait(self, on_wait: Callable[[float], None]) -> None:
        """Wait until a request may be sent. `on_wait` is called for every wait of a second or
        more."""
        while (wait := self._open_at - self._clock()) > 0:
            if wait >= 1:
                on_wait(wait)
            await self._sleep(wait)
        if self._clock() < self._gap_until:
            self._open_at = self._clock() + self._gap

    def hold(self, seconds: float) -> None:
        """Let no request go out for this many seconds."""
        self._open_at = max(self._open_at, self._clock() + seconds)

    def note(self, limit: RateLimit | None, *, longest: float) -> None:
        """Learn from the rate-limit headers of an answer. No wait becomes longer than `longest`."""
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


class Bandwidth:
    """A token bucket of bytes: `take` waits until they may be sent.

    It refills at `rate` bytes per second and holds at most the bytes of `burst` seconds, which may
    be sent at once after a pause. It is empty to begin with: from the first call on, the average is
    at most `rate`. In any other period of T seconds, the bytes of at most T + `burst` seconds may
    be sent, and one amount that was waiting.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        burst: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._free_at: float | None = None

    @property
    def rate(self) -> float | None:
        """Bytes per second; None when there is no limit."""
        return self._rate

    @property
    def limited(self) -> bool:
        return self._rate is not None

    async def take(self, amount: int) -> None:
        if self._rate is None:
            return
        now = self._clock()
        free_at = now if self._free_at is None else max(self._free_at, now - self._burst)
        self._free_at = free_at + amount / self._rate
        if (wait := self._free_at - now) <= 0:
            return
        try:
            await self._sleep(wait)
        except BaseException:
            self._free_at -= amount / self._rate  # these bytes were never sent
            raise
