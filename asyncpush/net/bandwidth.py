"""How many bytes a second, over all parts: what `max_bandwidth` bounds."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio


class Bandwidth:
    """A bucket of bytes: `take` waits until they may be sent. Refills at `rate` bytes a second,
    and holds at most a twentieth of a second's worth, so that short bursts stay short."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    @property
    def limited(self) -> bool:
        return self._rate is not None

    async def take(self, amount: int) -> None:
        if self._rate is None:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - 0.05) + amount / self._rate
        if (wait := self._free_at - now) <= 0:
            return
        try:
            await self._sleep(wait)
        except BaseException:
            self._free_at -= amount / self._rate  # never sent
            raise
