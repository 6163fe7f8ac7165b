"""How often a push had to try again, and how long it waited for that."""

from __future__ import annotations

from asyncpush.events import Record, RetryScheduled


class RetryTally:
    """Counts; seconds of parallel waits add up."""

    def __init__(self) -> None:
        self.retries = 0
        self.waited_seconds = 0.0

    def on_event(self, record: Record) -> None:
        if isinstance(record.event, RetryScheduled):
            self.retries += 1
            self.waited_seconds += record.event.delay
