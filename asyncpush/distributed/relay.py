"""Events of uploads on other machines, on their way to the driver that shows them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from asyncpush.events import (
    Emitter,
    Event,
    FilesPlanned,
    HashProgress,
    PartProgress,
    PhaseChanged,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
)

Report: TypeAlias = tuple[int, Sequence[Event]]
"""The source that the events belong to, and the events."""

FLUSH_INTERVAL = 0.25
"""Seconds between two messages of one upload."""
WAITING_MOST = 10_000
"""Messages kept for a driver that does not fetch them; older ones are dropped. Progress survives
that."""
LONG_POLL = 1.0
"""Seconds for which a request waits for events."""

_OWN = (PushStarted, PushFinished, PushFailed)
"""Events for the start and end of one machine's upload, which are not those of the push."""


class Outbox:
    """Collects the events of one upload. Progress events come hundreds of times a second: only the
    newest of each part is kept; all other events are sent as they came."""

    def __init__(self, send: Callable[[list[Event]], Any]) -> None:
        self._send = send
        self._events: list[Event] = []
        self._positions: dict[tuple[str, int], int] = {}  # Of a part: its position in the list.

    def on_event(self, record: Record) -> None:
        event = record.event
        match event:
            case PartProgress():
                self._newest((event.path, event.part_number), event)
            case HashProgress():
                self._newest((event.path, 0), event)
            case _ if not isinstance(event, _OWN):
                self._events.append(event)

    def _newest(self, key: tuple[str, int], event: Event) -> None:
        place = self._positions.setdefault(key, len(self._events))
        if place == len(self._events):
            self._events.append(event)
        else:
            self._events[place] = event

    def flush(self) -> Any:
        """Send what has been collected; returns what sending returned, or None when there was
        nothing."""
        events, self._events = self._events, []
        self._positions.clear()
        return self._send(events) if events else None

    async def run(self) -> None:
        """Flush from time to time, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL)
            self.flush()


class Relay:
    """Between the uploads, which send events, and the driver, which fetches them: a Ray actor."""

    def __init__(self) -> None:
        self._reports: deque[Report] = deque(maxlen=WAITING_MOST)
        self._news = asyncio.Event()

    async def tell(self, number: int, events: Sequence[Event]) -> None:
        self._reports.append((number, events))
        self._news.set()

    async def take(self, timeout: float = LONG_POLL) -> list[Report]:
        """The events since the last call; waits a moment when there are none."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return []
        reports = list(self._reports)
        self._reports.clear()
        self._news.clear()
        return reports


class Merger:
    """Many uploads as one: plans are added up, the phase changes once, everything else passes
    unchanged."""

    def __init__(self, events: Emitter) -> None:
        self._events = events
        self._plans: dict[int, FilesPlanned] = {}
        self._uploading = False

    def on_report(self, report: Report) -> None:
        number, events = report
        for event in events:
            match event:
                case FilesPlanned():
                    self._plans[number] = event  # One that starts over announces its plan again.
                    self._events.emit(self._total())
                case PhaseChanged():
                    self._on_phase(event)
                case _:
                    self._events.emit(event)

    def _on_phase(self, event: PhaseChanged) -> None:
        if event.phase == "uploading" and not self._uploading:
            self._uploading = True
            self._events.emit(event)

    def _total(self) -> FilesPlanned:
        plans = self._plans.values()
        return FilesPlanned(
            sum(plan.total_files for plan in plans), sum(plan.total_bytes for plan in plans)
        )
