"""An adaptive concurrency limit for parts: as few in flight as still give the full goodput.

A part in flight is lost when the process is killed, and it occupies a connection to the store and
one of our buffers. So more than necessary should never be in flight.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from asyncpush.lazy_dataclass import dataclass

START = 16
"""Large parts in flight at first: enough to fill a fast link whose connections are each limited."""

PIONEERS = 3
"""Large parts that begin before the others. Their rate among few parts is measured first, to be
compared with their rate among many."""

HEAD_START = 0.025
"""Seconds by which these parts are ahead of the others."""

FIRST_CHECK_INTERVAL = 0.008
"""Seconds between two samples of a part's position, until those two rates have been compared. It is
short, so that a few samples are taken during the head start."""

COMPARED = 64 << 10
"""Bytes that a part must have moved, on average, before its rate is compared. Less may only have
gone into buffers."""

FIRST_BYTES = 10 << 10
"""Bytes of a part that its peer may acknowledge before reading any. Up to here a new part has not
slowed down the others."""

SHARED = 0.6
"""If the rate of a part among many is below this share of its rate among few, the parts share one
bandwidth, and fewer of them carry as much."""

JOINED = 0.3
"""More parts may begin at once if those that joined the first ones bring, on average, at least this
share of the rate of one. On a busy machine they take a while to get going. Until then the rate of
the first ones does not fall, although all may share one bandwidth."""

FEWEST = 4
"""The limit never narrows below this many large parts. With fewer, the link would be idle while
each part waits for its answer, and there is little to gain: so few parts hold little that could be
lost."""

SMALL_PARTS = 32
"""Parts in flight while only small ones are waiting. Small parts hold little that could be lost,
and waiting for the answer takes longer than sending them."""

WORTH_IT = 0.4
"""A higher limit is kept if it brings at least this share of what it would bring on an unlimited
link. Random variation brings less. So does a saturated CPU core, on which more parts in flight only
slow down the event loop."""

CARRIES = 0.95
"""The limit narrows to the fewest parts that give this share of the best goodput."""

TOLERANCE = 0.05
"""Relative differences in goodput below this are treated as noise."""

NARROWER = 0.75
"""When a higher limit did not help, the limit is multiplied by this to see whether fewer parts are
enough."""

STILL_GROWING = 1.2
"""While goodput grows by more than this factor between two measurements, the connections are still
in TCP's own slow start (RFC 5681), and nothing can be concluded yet."""

SETTLING = 0.05
"""After parts were paused, measuring waits at least this many seconds, because the data in their
buffers is still arriving."""

QUIET = 0.01
"""After bytes of a paused part have arrived, measuring waits this many seconds."""

PAUSE = 10.0
"""A paused part sends one more piece after this many seconds: S3 closes connections on which
nothing moves for about 20 seconds."""

COOLDOWN = 4
"""After a rise that did not help, the next one waits until this many times the limit of parts have
been stored. The number is doubled each time."""

LONGEST_COOLDOWN = 64


AT_ONCE = 4
"""Parts that may begin in one iteration of the event loop. Starting a part takes about a
millisecond; sixteen at once delayed everything else by twenty."""

A_FEW = 8
"""The last parts of a push may exceed the limit by the limit divided by this. Otherwise those few
would be sent after all the others, and the push would take that much longer."""


@dataclass(frozen=True, slots=True)
class GrowthMode:
    """How the limit grows: by which factor, and how early a part that has just begun is measured.
    With an `eagerness` of 8, an eighth of a part counts as much as a whole part."""

    growth: float
    eagerness: float


SLOW_START = GrowthMode(growth=2.0, eagerness=8.0)
"""Like TCP's slow start: nothing is known yet, and a short push has no time to wait for whole
parts. The comparison is fair, because the connections of both limits are new."""

STEADY = GrowthMode(growth=1.5, eagerness=1.0)
"""Used once the limit was found to be too large. A rise then compares new connections with warm
ones, and only whole parts are long enough for a fair comparison."""


def _never() -> bool:
    return False


@dataclass(slots=True, eq=False)
class Slot:
    """A slot that a part holds: the limit (`width`) it was measured under, and the part's position
    at the time `since`."""

    epoch: int
    width: int
    since: float
    position: int = 0
    small: bool = False
    begun: float = 0.0
    """When the slot was taken."""
    is_compared: Callable[[], bool] = _never
    """Whether this part has joined others just now, whose rate before and since is compared."""
    resumed: asyncio.Event | None = None
    """Set when the part may continue; None while the part is not paused."""

    @property
    def paused(self) -> bool:
        return self.resumed is not None

    async def wait_while_paused(self) -> None:
        """Wait while the part is paused, for `PAUSE` seconds at most. Called before each piece."""
        if self.resumed is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self.resumed.wait()


@dataclass(frozen=True, slots=True)
class Measured:
    """A limit and its goodput in bytes per second."""

    width: int
    goodput: float

    @property
    def rate(self) -> float:
        """Bytes per second of one part."""
        return self.goodput / self.width


_Sample: TypeAlias = tuple[float, int]
"""A time, and the position of a part at that time."""


class HeadStart:
    """The rate of some parts, the pioneers, before and after others joined them.

    If it falls when the others join, all parts share one bandwidth. This is known a few hundredths
    of a second after the first bytes have arrived, when hardly anything could be lost.
    """

    def __init__(self, pioneers: Iterable[Slot] = ()) -> None:
        self.pioneers = set(pioneers)
        self.over = bool(self.pioneers)
        self.joined = False
        self._first: dict[Slot, _Sample] = {}  # the last sample before it moved
        self._latest: dict[Slot, _Sample] = {}
        self._alone: dict[Slot, _Sample] = {}  # the last sample in which the others had no part
        self._among: dict[Slot, _Sample] = {}  # the first sample after they joined
        self._others: dict[Slot, _Sample] = {}  # the first sample of each of them since then

    def moved(self, slot: Slot, now: float, position: int) -> None:
        sample = now, position
        if slot not in self.pioneers:
            self.joined = self.joined or position >= FIRST_BYTES
            self._others.setdefault(slot, sample)
            self._latest[slot] = sample
        elif not self.joined:
            if self._first.setdefault(slot, sample)[1] == position:
                self._first[slot] = sample
            self._alone[slot] = self._latest.get(slot, sample)
            self._latest[slot] = sample
        elif slot in self._first:
            self._among.setdefault(slot, self._latest[slot])
            self._latest[slot] = sample

    @property
    def comparing(self) -> bool:
        """Whether the rates will soon be known."""
        return bool(self._among)

    def rates(self) -> tuple[float, float] | None:
        """Bytes per second of one part, alone and among the others; None while they are not
        known."""
        if not self._among:
            return None
        among = _rate(self._among, self._latest)
        alone = _rate(self._first, self._alone) or 0.0
        if among is None:
            return None
        expected = (len(self._among) + JOINED * len(self._others)) * alone
        separate = among >= SHARED * alone and self.goodput() >= expected
        if not separate and not self._is_sure:
            return None
        return alone, among

    def goodput(self) -> float:
        """Bytes per second of all parts since the others joined."""
        since = {**self._others, **self._among}
        until = self._latest
        return sum(
            (until[slot][1] - position) / (until[slot][0] - began)
            for slot, (began, position) in since.items()
            if until[slot][0] > began
        )

    @property
    def _is_sure(self) -> bool:
        """Whether the rate among the others was measured as long as the rate alone. Pausing parts
        because of a short measurement would cost more than waiting for a longer one."""
        first = self._among.items()
        return all(self._latest[slot][0] - since >= HEAD_START for slot, (since, _) in first)


def _rate(since: Mapping[Slot, _Sample], until: Mapping[Slot, _Sample]) -> float | None:
    """Bytes per second of one part, or None while they have hardly moved."""
    seconds = moved = 0.0
    for slot, (began, position) in since.items():
        seconds += until[slot][0] - began
        moved += until[slot][1] - position
    return moved / seconds if seconds and moved >= COMPARED * len(since) else None


_Holder: TypeAlias = tuple[Hashable, Hashable, bool]
"""A push, one of its files, and whether the part is small."""


class AdaptiveLimit:
    """Limits how many parts are in flight.

    The limit starts at `START`, but only `PIONEERS` parts begin at once and the others after
    `HEAD_START`. If the first parts become much slower then, all parts share one bandwidth: those
    beyond the number that seems to be needed are paused, to see whether the others give the same
    goodput.

    Otherwise the limit doubles as long as goodput grows with it, and each rise is compared in the
    same way. When goodput no longer grows, all parts beyond the fewest are paused, and the rate of
    the others tells how many are needed. It ends at the fewest parts that give `CARRIES` of the
    best goodput. From then on it tries now and then whether half as many more help, or a quarter
    fewer are enough. When the store is overloaded, the limit returns to its value before the last
    rise, or is halved.

    Goodput is bytes per second of slot time, times the limit. Small parts are not measured. Up to
    `SMALL_PARTS` of them are sent at once, unless the store has reported an overload: then one
    limit applies to all parts.

    A free slot goes to the push with the fewest slots, and within it to the file with the fewest.
    So one slow file does not delay the others, and one push does not delay another.
    """

    def __init__(self, maximum: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole = maximum
        self._sharers = 1
        self._maximum = maximum
        self._limit = min(START, maximum)
        self._in_flight = self._large = self._begun = 0
        self._held: dict[Hashable, int] = {}  # slots by push, and by push and file
        self._waiting: dict[_Holder, deque[asyncio.Event]] = {}
        self._epoch = self._fell_at = 0
        self._count_anew()
        self._head_start = HeadStart() if HEAD_START else None
        # The parts from before a rise are measured until the first bytes of a new part arrive.
        self._only_earlier = False
        self._earlier_bytes = 0
        self._earlier_seconds = 0.0
        self._alone = 0.0  # bytes per second of one part among few
        # the measurements before each rise since the limit last fell
        self._rises: list[Measured] = []
        self._refused = False
        self._risen: Measured | None = None  # the latest goodput after the present rise
        self._risen_at = 0.0
        self._tried: Measured | None = None  # a few parts that seemed to carry too little
        self._trial: Measured | None = None  # what the present limit is compared with
        self._sending: dict[Slot, None] = {}  # large parts, in the order they began
        self._paused: dict[Slot, None] = {}
        self._growing: float | None = 0.0  # the last goodput at `START`; None once it was steady
        self._first = 0  # the limit when goodput was first steady
        self._rate = 0.0  # bytes per second of one part when the fewest were in flight
        self._part_size = 0
        self._latency = math.inf  # seconds from taking a slot to the part's first bytes
        self._measured_from = 0.0
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
    def check_interval(self) -> float | None:
        """Seconds between two samples, while they must be more frequent than usual."""
        return FIRST_CHECK_INTERVAL if self._head_start is not None else None

    @property
    def idle(self) -> bool:
        """Whether a slot is free and no part is waiting for one."""
        return not self._waiting and self._large < self._limit

    def slot(self, of: Hashable = None, push: Hashable = None, *, small: bool = False) -> HeldSlot:
        """Wait for a slot for a part of this file of this push, and hold it. Pass the slot to
        `moving`, `succeeded` and `overloaded`."""
        return HeldSlot(self, (push, of, small))

    def share(self, sharers: int) -> None:
        """Use only one share of this host's limit, which `sharers` processes divide among them."""
        if sharers == self._sharers:
            return
        share = max(2, self._limit * self._sharers // sharers)
        self._sharers = sharers
        self._maximum = max(1, self._whole // sharers)
        self._steer(max(1, min(self._limit, self._maximum, share)))
        self._rises.clear()
        self._trial = None

    def moving(self, slot: Slot, position: int, size: int) -> None:
        """Report that this many bytes of a part of `size` have arrived. The first report starts the
        part's clock: the time before was spent connecting, and the first bytes may only be in
        buffers."""
        if self._head_start is not None and position and not slot.small:
            self._compare(self._head_start, slot, position)
        if slot.position < FIRST_BYTES <= position:
            self._latency = min(self._latency, self._clock() - slot.begun)
        if slot.position:
            self._count(slot, position, size)
        elif position:
            if slot.epoch == self._epoch and not slot.small:
                self._only_earlier = False
            slot.since, slot.position = self._clock(), position

    def succeeded(self, slot: Slot, size: int) -> None:
        """Report that a part of this size is stored."""
        if self._head_start is not None and self._head_start.joined:
            self._head_start = None
        if slot.epoch == self._epoch:
            self._rest = max(0, self._rest - 1)
        if not slot.small or self._refused:
            self._count(slot, size, size)

    def overloaded(self, slot: Slot) -> None:
        """Report that the store answered 429 or 503 to this slot's part, or that its connection
        timed out.

        Parts that began before the limit last fell are ignored: if one overload of the store hits
        everything in flight, it counts once.
        """
        self._refused = True
        if slot.epoch < self._fell_at:
            return
        while self._rises and self._rises[-1].width >= slot.width:
            self._rises.pop()
        self._trial = self._growing = self._head_start = None
        # The slot may have been taken before this process shared the host's limit.
        before = self._rises.pop().width if self._rises else slot.width // 2
        self._fall(min(before, self._limit))

    def _compare(self, head_start: HeadStart, slot: Slot, position: int) -> None:
        head_start.moved(slot, self._clock(), position)
        rates = head_start.rates()
        if rates is None:
            return
        self._head_start = None
        alone, among = rates
        # While the rate grows, the connections are still in TCP's slow start.
        if not alone or among > STILL_GROWING * alone:
            return
        before = self._trial
        width = min(self._limit, self._large)
        now = Measured(width, width * among)
        if before is not None:
            if among < SHARED * alone:
                self._trial = None
                self._rises.clear()
                self._try_fewer(Measured(before.width, before.width * alone))
        elif among < SHARED * alone:
            self._alone, self._growing = alone, None
            # What the pioneers have beyond their share is lacking elsewhere.
            self._try_fewer(Measured(width, min(now.goodput, head_start.goodput())))
        elif self._waiting and self._limit < self._maximum:
            self._alone, self._growing = alone, None
            self._rise(now)

    def _count(self, slot: Slot, position: int, size: int) -> None:
        now = self._clock()
        moved, seconds = max(0, position - slot.position), now - slot.since
        slot.position, slot.since = max(slot.position, position), now
        measured = not slot.small or self._refused
        if self._only_earlier and measured and slot.epoch == self._epoch - 1:
            self._earlier_bytes += moved
            self._earlier_seconds += seconds
        if slot.paused and moved and self._trial is not None:
            # What is left in the buffers of paused parts still takes its share of the network.
            self._measured_from = max(self._measured_from, now + QUIET)
            self._count_anew()
        if slot.epoch != self._epoch or not measured or now < self._measured_from or slot.paused:
            return
        self._part_size = size
        self._bytes += moved
        self._seconds += seconds
        self._observed += min(1.0, self._mode.eagerness * moved / max(size, 1))
        # A limit that is not reached cannot be judged.
        if 2 * self._observed >= self._limit <= (self._in_flight if self._refused else self._large):
            goodput = self._limit * self._bytes / max(self._seconds, 1e-6)
            self._judge(Measured(self._limit, goodput))

    def _judge(self, now: Measured) -> None:
        if self._trial is None and self._head_start is not None and self._head_start.comparing:
            self._count_anew()
        elif self._trial is None:
            self._judge_alone(now)
        elif self._trial.width < now.width:
            self._judge_rise(self._trial, now)
        else:
            self._judge_narrower(self._trial, now)

    def _judge_alone(self, now: Measured) -> None:
        tried, self._tried = self._tried, None
        if tried is not None and tried.goodput >= (CARRIES - TOLERANCE) * now.goodput:
            needed = min(now.width, self._needed(now.goodput, tried.rate))
            self._settle(max(tried.width, needed))
            return
        if self._growing is not None:
            if now.goodput > STILL_GROWING * self._growing:
                self._growing = now.goodput
                self._count_anew()
                return
            # Take the better of the two: if this machine was busy for a moment, the network was not
            # slower.
            now = Measured(now.width, max(now.goodput, self._growing))
            self._growing = None
            if now.width > FEWEST and self._limit >= self._maximum and self._waiting:
                self._try_fewer(now)
                return
        if self._rest or self._limit >= self._maximum or not self._waiting:
            self._count_anew()
        else:
            self._rise(now)

    def _judge_rise(self, before: Measured, now: Measured) -> None:
        if self._earlier_bytes >= COMPARED * before.width:
            earlier = before.width * self._earlier_bytes / max(self._earlier_seconds, 1e-6)
            before = Measured(before.width, earlier)
        worth = before.goodput * (1 + WORTH_IT * (now.width / before.width - 1))
        if now.goodput < worth and self._mode is SLOW_START:
            # While the new connections are in TCP's slow start, a round trip doubles their rate.
            early = self._clock() < self._risen_at + self._round_trip
            if early or self._risen is None or now.goodput > STILL_GROWING * self._risen.goodput:
                if not early:
                    self._risen, self._risen_at = now, self._clock()
                self._count_anew()
                return
        self._trial = None
        if now.goodput >= worth:
            self._cooldown = COOLDOWN
            self._judge_alone(now)
            return
        best = max(before.goodput, now.goodput)
        if self._mode is SLOW_START and before.width > FEWEST:
            self._rises.clear()
            self._try_fewer(Measured(before.width, best))
            return
        needed = min(now.width, self._needed(best, max(self._rate, before.rate)))
        if now.goodput < (1 + TOLERANCE) * before.goodput:
            # Nothing was gained: the limit before is enough, and may be too high as well.
            share = 1.0 if self._mode is SLOW_START else NARROWER
            needed = min(needed, math.ceil(share * before.width))
        self._rises.clear()
        self._settle(max(needed, min(FEWEST, before.width)))
        if self._limit < before.width:
            self._trial = Measured(before.width, best)

    def _try_fewer(self, enough: Measured) -> None:
        fewer = self._needed(enough.goodput, self._alone) if self._alone else FEWEST
        if fewer >= NARROWER * enough.width:
            self._settle(enough.width)  # all of them are needed
            return
        self._trial, self._first = enough, enough.width
        self._narrow(max(FEWEST, fewer))

    def _judge_narrower(self, before: Measured, now: Measured) -> None:
        """`before` is the narrowest limit so far that carries its goodput."""
        self._rate = now.rate
        self._trial = None
        starting = self._mode is SLOW_START
        carried = now.goodput >= (CARRIES - TOLERANCE) * before.goodput
        best, rate, most = before.goodput, now.rate, before.width
        if starting and self._alone:
            best, most = max(best, now.goodput), self._first
            # If too few were left, the rate of a part among few was not what it seemed.
            rate = max(rate, self._alone) if carried else rate
        needed = max(now.width, min(most, self._needed(best, rate)))
        if carried:
            fewer = not self._alone or self._needed(best, rate) < NARROWER * now.width
            if starting and now.width >= 1.5 * FEWEST and fewer:
                self._trial = Measured(now.width, before.goodput)
                self._narrow(FEWEST)
            elif starting:
                self._settle(needed)
            else:
                self._count_anew()
        elif starting and before.width == self._first and needed >= NARROWER * before.width:
            if self._alone and not self._rises and self._limit < self._maximum:
                # Either the first comparison was wrong, or the goodput before was overestimated
                # because it went into buffers. It is measured again.
                self._alone = 0.0
                self._tried = now
                self._steer(min(START, self._maximum))
            else:
                self._settle(before.width)  # all of them are needed
        elif starting:
            self._settle(max(needed, now.width + 1))
        else:
            self._steer(max(needed, now.width + 1))
        self._wake()

    @property
    def _round_trip(self) -> float:
        """The shortest time that a part's first bytes took, or 0 while it is not known."""
        return 0.0 if math.isinf(self._latency) else self._latency

    def _needed(self, goodput: float, rate: float) -> int:
        """How many parts give this goodput if each has this rate, including the gaps between
        parts. Where the gaps matter there is one part more, since several parts may end at the
        same time."""
        gap = self._round_trip * rate / max(self._part_size, 1)
        spare = gap > TOLERANCE
        return math.ceil(CARRIES * goodput / max(rate, 1e-6) * (1 + gap)) + spare

    def _rise(self, now: Measured) -> None:
        self._rises.append(now)
        self._trial = now
        self._risen, self._risen_at = None, self._clock()
        self._earlier_bytes, self._earlier_seconds = 0, 0.0
        wider = max(self._limit + 1, int(self._limit * self._mode.growth))
        self._steer(min(self._maximum, wider))
        self._only_earlier = True
        if HEAD_START and self._mode is SLOW_START:
            self._head_start = HeadStart(self._sending)
        self._wake()

    def _narrow(self, limit: int) -> None:
        """Lower the limit, pause the parts beyond it, and measure those that continue."""
        self._steer(limit)
        self._pause()
        self._measured_from = self._clock() + max(SETTLING, self._round_trip)
        for slot in self._sending:
            if not slot.paused:
                slot.epoch, slot.width = self._epoch, limit

    def _settle(self, limit: int) -> None:
        """Fall to this limit and pause the parts beyond it: the slow start is over, or a rise did
        not help."""
        self._fall(limit)
        self._pause()

    def _fall(self, limit: int) -> None:
        self._mode = STEADY
        self._steer(max(1, min(limit, self._maximum)))
        self._rest = self._cooldown * self._limit
        self._cooldown = min(2 * self._cooldown, LONGEST_COOLDOWN)
        self._fell_at = self._epoch

    def _steer(self, limit: int) -> None:
        self._limit = limit
        self._epoch += 1
        self._count_anew()
        self._resume()

    def _pause(self) -> None:
        """Pause the parts beyond the limit, starting with those that began last."""
        going = [slot for slot in self._sending if not slot.paused]
        for slot in going[self._limit :]:
            slot.resumed = asyncio.Event()
            self._paused[slot] = None

    def _resume(self) -> None:
        while self._paused and len(self._sending) - len(self._paused) < self._limit:
            slot = min(self._paused, key=list(self._sending).index)
            del self._paused[slot]
            assert slot.resumed is not None
            slot.resumed.set()
            slot.resumed = None
            slot.epoch, slot.width = self._epoch, self._limit

    def _count_anew(self) -> None:
        self._bytes = 0
        self._seconds = self._observed = 0.0

    def _width(self, small: bool) -> int:
        """How many parts may be in flight when another one of this kind begins."""
        if not small or self._refused:
            return self._limit
        return max(self._limit, min(SMALL_PARTS // self._sharers, self._maximum), 1)

    def _begin(self, small: bool) -> Slot:
        now = self._clock()
        slot = Slot(self._epoch, self._width(small), now, small=small, begun=now)
        if not small:
            head_start = self._head_start
            if head_start is not None and self._is_held_back:
                head_start.pioneers.add(slot)
            elif head_start is not None:
                slot.is_compared = lambda: self._head_start is head_start
            self._sending[slot] = None
        return slot

    def _end(self, slot: Slot) -> None:
        if not slot.small:
            self._sending.pop(slot, None)
            self._paused.pop(slot, None)

    async def _acquire(self, of: _Holder) -> None:
        free = not self._waiting and self._is_free(of[2])
        if self._begun < AT_ONCE and (free or self._is_due(of)):
            self._take(of)
            return
        slot = asyncio.Event()
        self._waiting.setdefault(of, deque()).append(slot)
        try:
            await slot.wait()
        except BaseException:
            if slot.is_set():  # a slot was already given to us: pass it on
                self._leave(of)
            else:
                self._remove(of, slot)
            raise

    def _leave(self, of: _Holder) -> None:
        self._in_flight -= 1
        self._large -= not of[2]
        if self._head_start is not None and not self._large:
            self._head_start = HeadStart()  # too few parts to compare: the next push may have more
        for each in (of, of[0]):
            self._held[each] -= 1
            if not self._held[each]:
                del self._held[each]
        self._resume()
        self._wake()

    def _take(self, of: _Holder) -> None:
        self._in_flight += 1
        self._large += not of[2]
        for each in (of, of[0]):
            self._held[each] = self._held.get(each, 0) + 1
        if self._head_start is not None and not of[2] and self._large == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(HEAD_START, self._end_head_start, self._head_start)
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._start_more)
        self._begun += 1

    @property
    def _is_held_back(self) -> bool:
        return self._head_start is not None and not self._head_start.over

    def _end_head_start(self, head_start: HeadStart) -> None:
        head_start.over = True
        self._wake()

    def _start_more(self) -> None:
        self._begun = 0
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._begun < AT_ONCE:
            few = self._are_few_left()
            free = {small: few or self._is_free(small) for small in (True, False)}
            ready = [of for of in self._waiting if free[of[2]] or self._is_due(of)]
            if not ready:
                return
            of = ready[0] if len(ready) == 1 else min(ready, key=self._slots_of)
            self._take(of)
            slot = self._waiting[of][0]
            self._remove(of, slot)
            slot.set()

    def _slots_of(self, of: _Holder) -> tuple[int, int]:
        """How many slots its push holds, and of these its file."""
        return self._held.get(of[0], 0), self._held.get(of, 0)

    def _is_free(self, small: bool) -> bool:
        if small or self._refused:
            return self._in_flight < self._width(small)
        if self._is_held_back:
            return self._large < PIONEERS
        return self._large < self._limit and self._in_flight < self._maximum

    def _are_few_left(self) -> bool:
        """Whether the waiting parts are so few that they may exceed the limit: to send the last two
        parts alone would take as long as to send thirty. No part exceeds the limit once the store
        has reported an overload."""
        if self._refused or self._is_held_back:
            return False
        wanted = self._in_flight + sum(map(len, self._waiting.values()))
        return wanted <= min(self._maximum, self._limit + self._limit // A_FEW)

    def _is_due(self, of: _Holder) -> bool:
        """Whether a part may exceed the limit because its push has none in flight: all slots may be
        held by a push whose source is slow or hangs. No part exceeds the limit once the store has
        reported an overload."""
        return of[0] not in self._held and self._in_flight < self._maximum and not self._refused

    def _remove(self, of: _Holder, slot: asyncio.Event) -> None:
        queue = self._waiting[of]
        queue.remove(slot)
        if not queue:
            del self._waiting[of]


class HeldSlot:
    """The block of `AdaptiveLimit.slot`. A class, as a generator would cost several times as much
    for each small part."""

    __slots__ = ("_holder", "_limit", "_slot")

    def __init__(self, limit: AdaptiveLimit, holder: _Holder) -> None:
        self._limit = limit
        self._holder = holder

    async def __aenter__(self) -> Slot:
        await self._limit._acquire(self._holder)
        self._slot = self._limit._begin(self._holder[2])
        return self._slot

    async def __aexit__(self, *exc_info: object) -> None:
        self._limit._end(self._slot)
        self._limit._leave(self._holder)
