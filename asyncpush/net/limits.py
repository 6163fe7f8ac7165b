"""How much at once: parts in flight, bytes per second, buffers."""

from __future__ import annotations

import mmap
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

START = 16
"""Parts in flight to begin with: enough for a fat pipe with a cap per connection."""

WORTH_IT = 1.1
"""What goodput must gain by a rise to half as many again: noise gains less, a free pipe 1.5."""

PATIENCE = 8
"""Half waves to wait before rising again where it did not help; doubled each time it does not."""

MOST_PATIENCE = 128


@dataclass(frozen=True, slots=True)
class Turn:
    """A slot held: when it was taken, and under which width."""

    wave: int
    width: int
    began: float


class PartLimit:
    """Parts in flight, steered. The width rises by half while that makes goodput rise, and goes
    back when it does not. When the store is overloaded it goes back to what was good before, or
    falls by half.

    Goodput is bytes per second of slot time, times the width: parts that began under another width
    do not count, so that it may be judged after half a wave. A slot that comes free goes to the
    file that holds the fewest: one slow file does not hold the rest.
    """

    def __init__(self, maximum: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole = maximum
        self._sharers = 1
        self._maximum = maximum
        self._limit = min(START, maximum)
        self._in_flight = 0
        self._held: Counter[Hashable] = Counter()  # slots by file
        self._waiting: dict[Hashable, deque[anyio.Event]] = {}
        self._wave = self._fell_at = 0
        self._count_anew()
        self._rises: list[tuple[int, float]] = []  # widths that were risen from; their goodput
        self._on_trial = False  # whether the last rise is still to show what it is worth
        self._patience = PATIENCE
        self._rest = 0

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def idle(self) -> bool:
        """Whether a slot is free and nobody wants it."""
        return not self._waiting and self._in_flight < self._limit

    @asynccontextmanager
    async def slot(self, of: Hashable = None) -> AsyncIterator[Turn]:
        """Wait for a slot and hold it, for a part of this file; what it yields is for `succeeded`
        and `overloaded`."""
        await self._acquire(of)
        try:
            yield Turn(self._wave, self._limit, self._clock())
        finally:
            self._leave(of)

    def share(self, sharers: int) -> None:
        """Take one share of what this host may have in flight, being one of `sharers`."""
        if sharers == self._sharers:
            return
        self._sharers = sharers
        self._maximum = max(1, self._whole // sharers)
        self._steer(max(1, min(self._limit, self._maximum, max(2, START // sharers))))
        self._rises.clear()
        self._on_trial = False

    def succeeded(self, turn: Turn, size: int) -> None:
        """A part of so many bytes is stored."""
        if turn.wave != self._wave:
            return
        self._parts += 1
        self._bytes += size
        self._slot_seconds += self._clock() - turn.began
        # With nobody waiting, a wider limit would not be used and could not be judged.
        if 2 * self._parts >= self._limit and self._waiting:
            self._judge(self._limit * self._bytes / max(self._slot_seconds, 1e-6))

    def overloaded(self, turn: Turn) -> None:
        """The store said 429 or 503, or a connection timed out, in the slot of this turn.

        Parts that had begun before the last fall tell nothing new: one bad moment of the store,
        met by all that is in flight, counts once.
        """
        if turn.wave < self._fell_at:
            return
        while self._rises and self._rises[-1][0] >= turn.width:
            self._rises.pop()
        self._fall(self._rises.pop()[0] if self._rises else turn.width // 2)

    def _judge(self, goodput: float) -> None:
        if self._on_trial and goodput < WORTH_IT * self._rises[-1][1]:
            self._fall(self._rises.pop()[0])
            return
        if self._on_trial:
            self._on_trial = False
            self._patience = PATIENCE
        if self._rest or self._limit >= self._maximum:
            self._rest = max(0, self._rest - 1)
            self._count_anew()
        else:
            self._rises.append((self._limit, goodput))
            self._on_trial = True
            self._steer(min(self._maximum, self._limit + max(1, self._limit // 2)))
            self._wake()

    def _fall(self, limit: int) -> None:
        self._on_trial = False
        self._rest = self._patience
        self._patience = min(2 * self._patience, MOST_PATIENCE)
        # The turn that fell may be of a time before this process shared the host's limit.
        self._steer(max(1, min(limit, self._limit, self._maximum)))
        self._fell_at = self._wave

    def _steer(self, limit: int) -> None:
        self._limit = limit
        self._wave += 1
        self._count_anew()

    def _count_anew(self) -> None:
        self._parts = self._bytes = 0
        self._slot_seconds = 0.0

    async def _acquire(self, of: Hashable) -> None:
        if self._in_flight < self._limit and not self._waiting:
            self._take(of)
            return
        turn = anyio.Event()
        queue = self._waiting.setdefault(of, deque())
        queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # a slot had been given to us already: hand it on
                self._leave(of)
            else:
                queue.remove(turn)
                if not queue:
                    del self._waiting[of]
            raise

    def _leave(self, of: Hashable) -> None:
        self._in_flight -= 1
        self._held[of] -= 1
        if not self._held[of]:
            del self._held[of]
        self._wake()

    def _take(self, of: Hashable) -> None:
        self._in_flight += 1
        self._held[of] += 1

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self._limit:
            of = min(self._waiting, key=lambda of: self._held[of])
            self._take(of)
            queue = self._waiting[of]
            queue.popleft().set()
            if not queue:
                del self._waiting[of]


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
