from __future__ import annotations

from dataclasses import replace

import pytest

from asyncpush.events import PartProgress, PartStored, RetryScheduled, TransferChosen
from asyncpush.listeners.result_stats import ActivityTally, RetryTally
from asyncpush.models import Activity
from tests.listeners.helpers import planned, record
from tests.listeners.timeline.scripts import EventScript, in_time, one_file


def test_retries_and_their_waits_add_up() -> None:
    tally = RetryTally()
    for event in (
        planned(1, 1),
        RetryScheduled("part", 2, 0.5, "reset", "a", 1),
        RetryScheduled("commit", 2, 2.0, "HTTP 503"),
    ):
        tally.on_event(record(event))
    assert (tally.retries, tally.waited_seconds) == (2, 2.5)


def busy(activity: Activity) -> dict[str, float]:
    return {kind: round(sum(seconds), 3) for kind, seconds in activity.busy}


def test_the_course_of_a_push_in_small() -> None:
    tally = ActivityTally()
    for each in in_time([one_file()]):
        tally.on_event(each)
    activity = tally.activity()
    assert busy(activity) == {
        "call": 0.75,
        "commit": 1.0,
        "hash": 0.8,
        "retry": 1.0,
        "send": 2.5,
        "wait": 1.0,
    }
    assert activity.slice_seconds * len(activity.sent) == pytest.approx(6.0, abs=0.07)
    assert {len(seconds) for _, seconds in activity.busy} == {len(activity.sent)}
    assert len(activity.sent) <= 128


def test_bytes_count_again_when_sent_again() -> None:
    script = EventScript()
    for at, sent in ((1.0, 400_000), (2.0, 900_000), (3.0, 500_000), (4.0, 1_000_000)):
        script.progress("w.bin", 1, at, sent)
    script.emit(4.0, PartStored("w.bin", 1, 1_000_000))
    script.done(5.0)
    tally = ActivityTally()
    for each in script.records:
        tally.on_event(each)
    assert sum(tally.activity().sent) == pytest.approx(1_900_000, abs=64)


def test_nothing_is_kept_of_ended_work() -> None:
    tally = ActivityTally()
    records = in_time([one_file()])
    for hour in range(60):
        for each in records:
            tally.on_event(replace(each, time=each.time + hour * 3600))
    assert not tally._attempts
    activity = tally.activity()
    assert 64 <= len(activity.sent) <= 128
    assert busy(activity)["commit"] == pytest.approx(60.0)


def test_a_push_that_did_nothing_has_no_course() -> None:
    assert sum(ActivityTally().activity().sent) == 0


def test_a_transfer_without_requests_counts_network_bytes() -> None:
    script = EventScript()
    script.emit(0.0, TransferChosen("xet", "offered"))
    for at, sent in ((1.0, 0), (2.0, 300_000), (3.0, 300_000), (4.0, 500_000)):
        script.emit(at, PartProgress("x.bin", 1, sent, 1_000_000, sent))
    script.done(5.0)
    tally = ActivityTally()
    for each in in_time([script]):
        tally.on_event(each)
    assert sum(tally.activity().sent) == pytest.approx(500_000, abs=64)
    assert busy(tally.activity()) == {"send": 2.0}
