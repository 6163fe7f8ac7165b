"""Hedged requests: parts in flight are monitored, and a slow one is sent again on another
connection. The adaptive limit uses the same samples.

Near the end of a push one slow connection can delay the whole push. A part is sent a second time if
a slot is idle, the part has already taken half as long as other parts took in total, and the rest
of it would take more than twice as long as sending it again from the start. The first answer
counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

LEAST = 1 << 20
"""Parts of at least this many bytes are monitored. Smaller ones fit into the kernel's buffers,
where their progress cannot be seen."""

INTERVAL = 0.025
"""Seconds between samples. With 0.1 a short push would be over after a few of them."""

WINDOW = 20
"""Samples over which a part's current rate is measured: half a second."""

REMEMBERED = 5
"""How many of the latest stored parts give the typical rate. Near the end, fewer parts share the
network and the processor, so rates rise."""

ENOUGH = 3
"""Parts that must have been stored before any part is considered slow."""

FACTOR = 2.0
"""How many times longer the rest must take than sending the whole part again. A second request has
a cost, and random variation of rates stays below this factor."""


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
        if self._paused():  # a pause is not the connection's fault
            self.began += now - self._samples[-1][0]
            self._samples.clear()
        self._samples.append((now, arrived))
        self._moving(arrived)

    def crawls(self, now: float, typical: float) -> bool:
        """Whether the part should be sent again, if `typical` is the usual rate in bytes per
        second."""
        whole = self.size / typical
        left = self.size - self._samples[-1][1]
        (then, before), (_, arrived) = self._samples[0], self._samples[-1]
        rate = (arrived - before) / max(now - then, 1e-6)
        # Half of that time is enough to tell a slow connection from a new one.
        return now - self.began > whole / 2 and left > rate * FACTOR * whole


class StragglerMonitor:
    """Samples the parts in flight while there are any. `idle` returns whether a slot is free."""

    def __init__(
        self, idle: Callable[[], bool], looks: Callable[[], float | None] = lambda: None
    ) -> None:
        self._idle = idle
        self._looks = looks
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
        """Monitor a part within this block. `moving` is called with the number of bytes that have
        arrived; `again` is called once, if the part is slow enough to be sent a second time;
        `paused` returns whether the part is paused."""
        loop = asyncio.get_running_loop()
        in_flight = InFlightPart(size, delivered, again, loop.time(), moving, paused)
        if size > LEAST:
            self._in_flight[in_flight] = None
            if self._timer is None:
                self._timer = loop.call_later(self._looks() or INTERVAL, self._look)
        try:
            yield in_flight
        finally:
            self._in_flight.pop(in_flight, None)
            if not self._in_flight and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def stored(self, in_flight: InFlightPart) -> None:
        """Count the rate of a part that has been stored towards the typical rate."""
        if in_flight.size > LEAST:
            seconds = asyncio.get_running_loop().time() - in_flight.began
            self._rates.append(in_flight.size / max(seconds, 1e-6))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._looks() or INTERVAL, self._look)
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
