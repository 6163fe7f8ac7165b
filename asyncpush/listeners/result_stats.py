"""Totals of a push's events: retries, waits, and its activity over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from asyncpush.events import (
    FileHashed,
    FileStored,
    PartProgress,
    PartStored,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    RetryScheduled,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Activity

SLICES = 128

FIRST_REPORT = 0.2
"""The bytes of a part's first progress event count as sent evenly over so many seconds before
it."""

SAME_TIME = 0.002
"""Progress of several parts within so many seconds is distributed together: hundreds of small files
move in one report of a transfer."""


class RetryTally:
    """Counters. The seconds of parallel waits are added up."""

    wants_headers = False
    wants_events = frozenset({RetryScheduled})

    def __init__(self) -> None:
        self.retries = 0
        self.waited_seconds = 0.0

    def on_event(self, record: Record) -> None:
        if isinstance(record.event, RetryScheduled):
            self.retries += 1
            self.waited_seconds += record.event.delay


_Attempt: TypeAlias = tuple[str, float, int]
"""A request that is under way: its call, when it started, and the bytes of its body."""


@dataclass(slots=True)
class _Moment:
    """Bytes sent from `start` to `end` by several parts, and the sum of the seconds they took."""

    start: float
    end: float
    amount: int = 0
    seconds: float = 0.0


class ActivityTally:
    """Distributes activity over slices of time. Memory is bounded by what is in flight."""

    wants_headers = False
    wants_events = frozenset(
        {
            PushStarted,
            PartProgress,
            PartStored,
            FileStored,
            RequestStarted,
            RequestFinished,
            RequestFailed,
            FileHashed,
            RetryScheduled,
            PushFinished,
            PushFailed,
        }
    )

    def __init__(self) -> None:
        self._began: float | None = None
        self._now = 0.0
        self._sent = TimeBins(SLICES)
        self._busy: dict[str, TimeBins] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._part_requests = 0
        self._positions: dict[tuple[str, int], tuple[int, float]] = {}
        self._moment: _Moment | None = None
        """What was sent last, not distributed yet."""

    def on_event(self, record: Record) -> None:
        if self._began is None:
            self._began = record.time
        now = record.time - self._began
        if now < self._now:
            now = self._now
        self._now = now
        match record.event:
            case PartProgress() as event:
                self._moved(event, now)
            case PartStored() as event:
                known = self._positions.pop((event.path, event.part_number), None)
                if known is None and not event.resumed:  # so small that it made no progress events
                    self._sent.spread(now - FIRST_REPORT, now, event.size)
            case FileStored() as event:  # Xet's files have one part, and no `PartStored`
                self._positions.pop((event.path, 1), None)
            case RequestStarted() as event:
                self._attempts[record.span_id] = event.call, now, event.bytes_out
                self._part_requests += event.call == "part"
            case RequestFinished() as event:
                self._ended(record.span_id, now, failed=event.status >= 400)
            case RequestFailed():
                self._ended(record.span_id, now, failed=True)
            case FileHashed() as event:
                seconds = event.elapsed_ms / 1000
                self._spent("hash", now - seconds, now, seconds)
            case RetryScheduled() as event:
                self._spent("wait", now, now + event.delay, event.delay)

    def activity(self) -> Activity:
        """The activity up to now: slices of one width that cover the whole time."""
        self._add_moment()
        self._sent.spread(self._now, self._now, 0)  # all of the time that has passed
        series = [self._sent, *self._busy.values()]
        width = max(each.width for each in series)
        count = int(self._now / width) + 1
        for each in series:
            each.widen_to(width)
        busy = {kind: _cut(each.sums, count) for kind, each in self._busy.items()}
        sent = tuple(round(amount) for amount in _cut(self._sent.sums, count))
        return Activity(width, sent, tuple(sorted(busy.items())))

    def _moved(self, event: PartProgress, now: float) -> None:
        key = (event.path, event.part_number)
        before, since = self._positions.get(key, (0, max(0.0, now - FIRST_REPORT)))
        if event.sent < before:  # tried again, from its beginning
            before = 0
        own_requests = not self._part_requests  # the transfer makes requests of its own
        self._positions[key] = (event.sent, now)
        if event.sent > before:
            self._add_sent(since, now, event.sent - before, now - since if own_requests else 0.0)

    def _add_sent(self, start: float, end: float, amount: int, seconds: float) -> None:
        last = self._moment
        if last is None or end - last.end > SAME_TIME or abs(start - last.start) > SAME_TIME:
            self._add_moment()
            last = self._moment = _Moment(start, end)
        last.amount += amount
        last.seconds += seconds

    def _add_moment(self) -> None:
        last, self._moment = self._moment, None
        if last is not None:
            self._sent.spread(last.start, last.end, last.amount)
            self._spent("send", last.start, last.end, last.seconds)

    def _ended(self, span_id: str, now: float, *, failed: bool) -> None:
        attempt = self._attempts.pop(span_id, None)
        if attempt is None:
            return
        call, started, bytes_out = attempt
        self._part_requests -= call == "part"
        kind = "send" if call == "part" else "commit" if call == "commit" else "call"
        what = "retry" if failed and kind != "call" else kind
        self._spent(what, started, now, now - started)
        if kind == "commit" and not failed:
            self._sent.spread(started, now, bytes_out)

    def _spent(self, kind: str, start: float, end: float, seconds: float) -> None:
        if end > start and seconds > 0:
            slices = self._busy.get(kind)
            if slices is None:
                slices = self._busy[kind] = TimeBins(SLICES)
            slices.spread(start, end, seconds)


def _cut(sums: tuple[float, ...], count: int) -> tuple[float, ...]:
    return (*sums[:count], *(0.0 for _ in range(count - len(sums))))


FINEST = 1 / 128
"""Width of a slice at the beginning, in seconds."""


class TimeBins:
    """Sums over equal slices of time.

    When time goes beyond the last slice, the width of all slices is doubled, so that there are
    never more than `count`. Times are seconds from 0.
    """

    def __init__(self, count: int, width: float = FINEST) -> None:
        assert count >= 2
        assert count % 2 == 0
        self.width = width
        self._count = count
        self._sums = [0.0] * count
        self._used = 0

    @property
    def sums(self) -> tuple[float, ...]:
        """The sums from time 0 to the last slice that is not empty."""
        return tuple(self._sums[: self._used])

    def spread(self, start: float, end: float, amount: float) -> None:
        """Add an amount that arrived evenly from `start` to `end`; time before 0 counts as 0."""
        # This runs for each request: comparisons cost less than calls of `max`.
        if start < 0.0:
            start = 0.0
        if end < start:
            end = start
        while end >= self.width * self._count:
            self._widen()
        first, last = int(start / self.width), int(end / self.width)
        if last >= self._used:
            self._used = last + 1
        if first == last:
            self._sums[first] += amount
            return
        pace = amount / (end - start)
        self._sums[first] += pace * ((first + 1) * self.width - start)
        for at in range(first + 1, last):
            self._sums[at] += pace * self.width
        self._sums[last] += pace * (end - last * self.width)

    def widen_to(self, width: float) -> None:
        """Make the slices at least this wide, to compare them with others."""
        while self.width < width:
            self._widen()

    def _widen(self) -> None:
        half = self._count // 2
        pairs = [self._sums[2 * at] + self._sums[2 * at + 1] for at in range(half)]
        self._sums = pairs + [0.0] * half
        self._used = (self._used + 1) // 2
        self.width *= 2


def rebinned(width: float, sums: Sequence[float], at_most: int) -> tuple[float, list[float]]:
    """Adjacent sums added up until there are at most this many. Returns their width and the
    sums."""
    share = max(1, -(-len(sums) // at_most))
    bins = [sum(sums[at : at + share]) for at in range(0, len(sums), share)]
    return width * share, bins
