"""How many parts at once, steered by what that brings."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

START = 16
"""Parts in flight to begin with: enough for a fat pipe with a cap per connection."""

WORTH_IT = 0.4
"""What a rise must bring, of what it would bring on a free pipe. Noise brings less, and so does a
core that has more than enough to do already: there more in flight only makes the loop late."""

COOLDOWN = 4
"""Waves of parts to wait before rising again where it did not help; doubled each time."""

LONGEST_COOLDOWN = 64


AT_ONCE = 4
"""Parts that begin in one turn of the event loop: each takes it about a millisecond, and sixteen of
them made everything else wait for twenty."""

A_FEW = 8
"""What part of the width may go beyond it, so as not to be left for last."""


@dataclass(frozen=True, slots=True)
class GrowthMode:
    """How the width grows: by which factor, and how soon a part that has just begun is measured.
    With an `eagerness` of 8, an eighth of a part counts as much as a whole one."""

    growth: float
    eagerness: float


SLOW_START = GrowthMode(growth=2.0, eagerness=8.0)
"""As TCP's: nothing is known yet, and a short push has no time to wait for whole parts. A start is
fair to both widths, since the connections of both are new."""

STEADY = GrowthMode(growth=1.5, eagerness=1.0)
"""Once the width was too large. Then a rise's new connections are held against warm ones: only
whole parts are long enough to be fair."""


@dataclass(slots=True)
class Slot:
    """A slot held: under which width, and how far its part was when."""

    epoch: int
    width: int
    since: float
    position: int = 0


_Holder: TypeAlias = tuple[Hashable, Hashable]
"""A push, and one of its files."""


class AdaptiveLimit:
    """Parts in flight, steered. The width rises while that makes goodput rise, and goes back when
    it does not: it doubles until it was too large once, and rises by half from then on. When the
    store is overloaded it goes back to what was good before, or falls by half.

    Goodput is bytes per second of slot time, times the width, judged as soon as half the slots have
    told enough: parts that began under another width do not count. A slot that comes free goes to
    the push that holds the fewest, and of its files to the one that holds the fewest: one slow file
    does not hold the rest, nor one push another.
    """

    def __init__(self, maximum: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole = maximum
        self._sharers = 1
        self._maximum = maximum
        self._limit = min(START, maximum)
        self._in_flight = self._begun = 0
        self._held: Counter[Hashable] = Counter()  # slots by push, and by push and file
        self._waiting: dict[_Holder, deque[asyncio.Event]] = {}
        self._epoch = self._fell_at = 0
        self._count_anew()
        self._rises: list[tuple[int, float]] = []  # widths that were risen from; their goodput
        self._refused = False
        self._on_trial = False  # whether the last rise is still to show what it is worth
        self._mode = SLOW_START
        self._cooldown = COOLDOWN
        self._rest = 0  # parts to be stored before the next rise

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
    async def slot(self, of: Hashable = None, push: Hashable = None) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it, for a part of this file of this push; what it yields is for
        `moving`, `succeeded` and `overloaded`."""
        holder = push, of
        await self._acquire(holder)
        try:
            yield Slot(self._epoch, self._limit, self._clock())
        finally:
            self._leave(holder)

    def share(self, sharers: int) -> None:
        """Take one share of what this host may have in flight, being one of `sharers`."""
        if sharers == self._sharers:
            return
        self._sharers = sharers
        self._maximum = max(1, self._whole // sharers)
        self._steer(max(1, min(self._limit, self._maximum, max(2, START // sharers))))
        self._rises.clear()
        self._on_trial = False

    def moving(self, slot: Slot, position: int, size: int) -> None:
        """So many bytes of a part of `size` have arrived. The first ones start its clock: before
        them the connection was made, and they may be no further than in buffers."""
        if slot.position:
            self._count(slot, position, size)
        elif position:
            slot.since, slot.position = self._clock(), position

    def succeeded(self, slot: Slot, size: int) -> None:
        """A part of so many bytes is stored."""
        if slot.epoch == self._epoch:
            self._rest = max(0, self._rest - 1)
        self._count(slot, size, size)

    def overloaded(self, slot: Slot) -> None:
        """The store said 429 or 503, or a connection timed out, in this slot.

        Parts that had begun before the last fall tell nothing new: one bad moment of the store,
        met by all that is in flight, counts once.
        """
        self._refused = True
        if slot.epoch < self._fell_at:
            return
        while self._rises and self._rises[-1][0] >= slot.width:
            self._rises.pop()
        self._fall(self._rises.pop()[0] if self._rises else slot.width // 2)

    def _count(self, slot: Slot, position: int, size: int) -> None:
        now = self._clock()
        moved, seconds = max(0, position - slot.position), now - slot.since
        slot.position, slot.since = max(slot.position, position), now
        if slot.epoch != self._epoch:
            return
        self._bytes += moved
        self._seconds += seconds
        self._told += min(1.0, self._mode.eagerness * moved / max(size, 1))
        # A width that is not used cannot be judged.
        if 2 * self._told >= self._limit <= self._in_flight:
            self._judge(self._limit * self._bytes / max(self._seconds, 1e-6))

    def _judge(self, goodput: float) -> None:
        if self._on_trial:
            before, was = self._rises[-1]
            if goodput < was * (1 + WORTH_IT * (self._limit / before - 1)):
                self._fall(self._rises.pop()[0])
                return
            self._on_trial = False
            self._cooldown = COOLDOWN
        if self._rest or self._limit >= self._maximum or not self._waiting:
            self._count_anew()
        else:
            self._rises.append((self._limit, goodput))
            self._on_trial = True
            wider = max(self._limit + 1, int(self._limit * self._mode.growth))
            self._steer(min(self._maximum, wider))
            self._wake()

    def _fall(self, limit: int) -> None:
        self._on_trial = False
        self._mode = STEADY
        # The slot may have been taken before this process shared the host's limit.
        self._steer(max(1, min(limit, self._limit, self._maximum)))
        self._rest = self._cooldown * self._limit
        self._cooldown = min(2 * self._cooldown, LONGEST_COOLDOWN)
        self._fell_at = self._epoch

    def _steer(self, limit: int) -> None:
        self._limit = limit
        self._epoch += 1
        self._count_anew()

    def _count_anew(self) -> None:
        self._bytes = 0
        self._seconds = self._told = 0.0

    async def _acquire(self, of: _Holder) -> None:
        free = self._in_flight < self._limit and not self._waiting
        if self._begun < AT_ONCE and (free or self._is_due(of)):
            self._take(of)
            return
        slot = asyncio.Event()
        self._waiting.setdefault(of, deque()).append(slot)
        try:
            await slot.wait()
        except BaseException:
            if slot.is_set():  # a slot had been given to us already: hand it on
                self._leave(of)
            else:
                self._remove(of, slot)
            raise

    def _leave(self, of: _Holder) -> None:
        self._in_flight -= 1
        for each in (of, of[0]):
            self._held[each] -= 1
            if not self._held[each]:
                del self._held[each]
        self._wake()

    def _take(self, of: _Holder) -> None:
        self._in_flight += 1
        self._held.update((of, of[0]))
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1

    def _next_turn(self) -> None:
        self._begun = 0
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._begun < AT_ONCE:
            of = min(self._waiting, key=lambda of: (self._held[of[0]], self._held[of]))
            if not self._has_room() and not self._is_due(of):
                return
            self._take(of)
            slot = self._waiting[of][0]
            self._remove(of, slot)
            slot.set()

    def _has_room(self) -> bool:
        """Whether another part may go. When all that wait are a few, they go too: two parts in a
        wave of their own would take as long as the thirty before them. Not to a store that has
        refused before: it means its number."""
        if self._in_flight < self._limit:
            return True
        wanted = self._in_flight + sum(map(len, self._waiting.values()))
        few = min(self._maximum, self._limit + self._limit // A_FEW)
        return wanted <= few and not self._refused

    def _is_due(self, of: _Holder) -> bool:
        """Whether a part may go beyond the width, since its push has none in flight: the slots may
        be held by a push whose source is slow, or hangs. A store that has refused before means its
        number."""
        return not self._held[of[0]] and self._in_flight < self._maximum and not self._refused

    def _remove(self, of: _Holder, slot: asyncio.Event) -> None:
        queue = self._waiting[of]
        queue.remove(slot)
        if not queue:
            del self._waiting[of]
