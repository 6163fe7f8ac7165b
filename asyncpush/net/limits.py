"""How much at once: parts in flight, bytes per second, buffers."""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

START = 16
"""Parts in flight to begin with: enough for a fat pipe with a cap per connection."""


class PartLimit:
    """Parts in flight, steered: halved when the store is overloaded, raised by one after as many
    successes as there are parts in flight (additive increase, multiplicative decrease).

    First come, first served, whichever file a part is of.
    """

    def __init__(self, maximum: int) -> None:
        self._whole = maximum
        self._sharers = 1
        self._maximum = maximum
        self._limit = min(START, maximum)
        self._in_flight = 0
        self._successes = 0
        self._halvings = 0
        self._waiting: deque[anyio.Event] = deque()

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a slot and hold it; what it yields is for `overloaded`."""
        await self._acquire()
        try:
            yield self._halvings
        finally:
            self._in_flight -= 1
            self._wake()

    def share(self, sharers: int) -> None:
        """Take one share of what this host may have in flight, being one of `sharers`."""
        if sharers == self._sharers:
            return
        self._sharers = sharers
        self._maximum = max(1, self._whole // sharers)
        self._limit = max(1, min(self._limit, self._maximum, max(2, START // sharers)))

    def succeeded(self) -> None:
        self._successes += 1
        if self._successes >= self._limit and self._limit < self._maximum:
            self._successes = 0
            self._limit += 1
            self._wake()

    def overloaded(self, turn: int) -> None:
        """The store said 429 or 503, or a connection timed out, in the slot of this `turn`.

        Parts that had begun before the last halving tell nothing new: one bad moment of the store,
        met by all that is in flight, counts once.
        """
        if turn == self._halvings:
            self._halvings += 1
            self._successes = 0
            self._limit = max(1, self._limit // 2)

    async def _acquire(self) -> None:
        if self._in_flight < self._limit and not self._waiting:
            self._in_flight += 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # a slot had been given to us already: hand it on
                self._in_flight -= 1
                self._wake()
            else:
                self._waiting.remove(turn)
            raise

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self._limit:
            self._in_flight += 1
            self._waiting.popleft().set()


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


class BufferPool:
    """Reused buffers of one size: fresh memory costs page faults (0.2 CPU s per GiB, measured).

    They are anonymous maps, so that they begin with a page: copies out of the page cache to a few
    bytes after one, where a `bytearray` begins, cost 0.4 CPU s per GiB more (measured).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        return self._free.pop() if self._free else mmap.mmap(-1, self.size)

    def give_back(self, buffer: mmap.mmap) -> None:
        self._free.append(buffer)

    def clear(self) -> None:
        self._free.clear()
