"""Hedged requests: the progress of parts in flight is monitored, and a slow one is sent again on
another connection. The adaptive limit reads the same samples.

Near the end of a push one slow connection holds up all the rest. When a slot is idle and a part has
taken half as long as others took whole, while what is left of it would take more than twice as long
as sending it anew, it is sent anew; whichever is answered first counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

LEAST = 1 << 20
"""Bytes from which parts are monitored: smaller ones fit into the kernel's buffers, where their
progress cannot be seen."""

INTERVAL = 0.025
"""Seconds between samples: with 0.1 a short push would be over after a few."""

WINDOW = 20
"""Samples over which a part's current rate is measured: half a second."""

REMEMBERED = 5
"""How many of the latest stored parts give the typical rate: near the end fewer parts share the
network and the processor, so that rates rise."""

ENOUGH = 3
"""Parts that must have been stored before any is called slow."""

FACTOR = 2.0
"""How many times longer the rest must take than sending the whole part anew: a second request is
not free, and rates vary by less than this by chance."""


class InFlightPart:
    """One part being sent. `delivered` returns how many of its bytes have arrived so far."""

    def __init__(
        self,
        size: int,
        delivered: Callable[[], int],
        again: Callable[[], None] | None,
        now: float,
        moving: Callable[[int], None] = lambda arrived: None,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self.size = size
        self.began = now
        self._delivered = delivered
        self._moving = moving
        self._paused = paused
        self._samples: deque[tuple[float, int]] = deque([(now, 0)], maxlen=WINDOW + 1)
        self.again = again

    def look(self, now: float) -> None:
        arrived = self._delivered()
        if self._paused():  # the pause is not the connection's doing
            self.began += now - self._samples[-1][0]
            self._samples.clear()
        self._samples.append((now, arrived))
        self._moving(arrived)

    def crawls(self, now: float, typical: float) -> bool:
        """Whether it is worth sending again, at `typical` bytes a second."""
        whole = self.size / typical
        left = self.size - self._samples[-1][1]
        (then, before), (_, arrived) = self._samples[0], self._samples[-1]
        rate = (arrived - before) / max(now - then, 1e-6)
        # Half that time distinguishes a slow connection from a new one.
        return now - self.began > whole / 2 and left > rate * FACTOR * whole


class StragglerMonitor:
    """Samples the parts in flight, while there are any. `idle` returns whether a slot is free."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._idle = idle
        self._in_flight: dict[InFlightPart, None] = {}
        self._rates: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def following(
        self,
        size: int,
        delivered: Callable[[], int],
        again: Callable[[], None] | None,
        moving: Callable[[int], None] = lambda arrived: None,
        paused: Callable[[], bool] = lambda: False,
    ) -> Iterator[InFlightPart]:
        """Monitor a part within this block. `moving` is called with the bytes that have arrived;
        `again` once, if the part is slow enough to be sent a second time; `paused` tells whether
        the part is paused."""
        loop = asyncio.get_running_loop()
        in_flight = InFlightPart(size, delivered, again, loop.time(), moving, paused)
        if size > LEAST:
            self._in_flight[in_flight] = None
            if self._timer is None:
                self._timer = loop.call_later(INTERVAL, self._look)
        try:
            yield in_flight
        finally:
            self._in_flight.pop(in_flight, None)
            if not self._in_flight and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def stored(self, in_flight: InFlightPart) -> None:
        """A part has been stored: its rate counts towards the typical one."""
        if in_flight.size > LEAST:
            seconds = asyncio.get_running_loop().time() - in_flight.began
            self._rates.append(in_flight.size / max(seconds, 1e-6))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self._look)
        now = loop.time()
        for in_flight in self._in_flight:
            in_flight.look(now)
        if len(self._rates) < ENOUGH:
            return
        typical = median(self._rates)
        for in_flight in tuple(self._in_flight):
            if not self._idle():
                return
            if in_flight.again is not None and in_flight.crawls(now, typical):
                again, in_flight.again = in_flight.again, None
                again()
