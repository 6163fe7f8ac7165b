from __future__ import annotations

from asyncpush.events import RetryScheduled
from asyncpush.listeners.tally import RetryTally
from tests.listeners.helpers import planned, record


def test_retries_and_their_waits_add_up() -> None:
    tally = RetryTally()
    for event in (
        planned(1, 1),
        RetryScheduled("part", 2, 0.5, "reset", "a", 1),
        RetryScheduled("commit", 2, 2.0, "HTTP 503"),
    ):
        tally.on_event(record(event))
    assert (tally.retries, tally.waited_seconds) == (2, 2.5)
