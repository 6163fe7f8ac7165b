"""From events to spans: what a run looks like, and that nothing in a file can break it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.events import (
    FileSkipped,
    FileStored,
    PartProgress,
    PushFailed,
    RequestFailed,
    RetryScheduled,
    TransferStarted,
    Waiting,
)
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.layout import merged, pack, without
from asyncpush.listeners.timeline.model import Hold, Span, Timeline
from asyncpush.listeners.timeline.parsed_events import Moment
from asyncpush.listeners.timeline.recording import TimelineRecorder
from tests.listeners.helpers import one_of_each, record
from tests.listeners.timeline.scripts import MB, EventScript, one_file, timeline_of


def drawn(timeline: Timeline) -> set[tuple[str, str, int, float, float, str]]:
    return {
        (s.kind, s.group, s.lane, round(s.start, 3), round(s.end, 3), s.name)
        for s in timeline.spans
    }


def test_a_push_of_one_file() -> None:
    timeline = timeline_of(one_file())

    assert drawn(timeline) == {
        ("call", "hub", 0, 0.0, 0.5, "preupload"),
        ("hash", "hash", 0, 0.2, 1.0, "w.bin"),
        ("call", "hub", 0, 1.0, 1.25, "lfs_batch"),
        ("retry", "connection", 0, 1.5, 2.5, "w.bin #2"),
        ("connect", "connection", 1, 1.5, 1.75, "w.bin #1"),
        ("send", "connection", 1, 1.75, 2.75, "w.bin #1"),
        ("answer", "connection", 1, 2.75, 3.0, "w.bin #1"),
        ("wait", "wait", 0, 2.5, 3.5, "part again"),
        ("send", "connection", 1, 3.5, 4.5, "w.bin #2"),
        ("commit", "hub", 0, 5.0, 6.0, "commit"),
    }
    (push,) = timeline.pushes
    assert (push.repo_id, push.outcome, push.start, push.end) == ("me/m", "done", 0.0, 6.0)
    (file,) = timeline.files
    assert (file.path, file.size, file.stored) == ("w.bin", 2 * MB, True)
    assert (round(file.start, 3), file.end) == (0.2, 4.5)
    assert (timeline.parts, timeline.retries, timeline.seconds) == (2, 1, 6.0)
    queued = [span.queued for span in timeline.spans if span.name == "w.bin #1"]
    assert queued == [0.25, 0.25, 0.25]


def test_without_positions_bytes_are_spread_over_their_part() -> None:
    script = EventScript()
    script.part("w.bin", 1, 1.0, 4.0, connected=2.0, sent=3.0)
    script.done(5.0)
    timeline = timeline_of(script)
    width = timeline.slice_seconds
    rates = {at * width: sent / width for at, sent in enumerate(timeline.throughput) if sent > 1}
    assert 2.0 - width <= min(rates) <= 2.0
    assert 3.0 - 2 * width <= max(rates) <= 3.0
    assert rates[2.5] == pytest.approx(MB)
    assert timeline.bytes_sent == pytest.approx(MB)


def test_positions_tell_when_the_bytes_really_moved() -> None:
    script = EventScript()
    script.part("w.bin", 1, 0.0, 8.0, connected=0.0, sent=8.0)
    script.progress("w.bin", 1, 7.0, MB * 9 // 10)  # a stall: nearly nothing for seven seconds
    script.progress("w.bin", 1, 6.0, 1)
    script.done(8.0)
    timeline = timeline_of(script)
    late = int(6.5 / timeline.slice_seconds)
    assert timeline.throughput[late] / timeline.slice_seconds == pytest.approx(0.9 * MB, rel=0.01)
    assert timeline.bytes_sent == pytest.approx(MB)


def test_a_part_whose_etag_is_wrong_was_sent_in_vain() -> None:
    """It was answered with 200; that it failed is told after."""
    script = EventScript()
    script.transfer("w.bin", 0.0)
    span = script.part("w.bin", 1, 0.0, 1.0, connected=0.0, sent=0.9)
    script.failed("w.bin", 1, 1.0, span, delay=0.5)
    script.part("w.bin", 1, 1.5, 2.5, connected=1.5, sent=2.5, attempt=2)
    script.done(3.0)
    kinds = [(s.kind, s.start, s.end, s.error) for s in timeline_of(script).spans]
    assert ("retry", 0.0, 1.0, "unavailable") in kinds
    assert ("send", 1.5, 2.5, "") in kinds


def test_a_failure_on_an_attempts_span_belongs_to_it() -> None:
    script = EventScript()
    span = script.part("w.bin", 1, 0.0, connected=0.25)
    script.emit(
        1.0,
        RequestFailed(
            call="part", url="u", error="reset", status=None, retry_attempt=1, backoff_ms=None
        ),
        span,
        "file w.bin",
    )
    script.done(2.0)
    kinds = [(s.kind, s.start, s.end, s.error) for s in timeline_of(script).spans]
    assert kinds == [("connect", 0.0, 0.25, "reset"), ("retry", 0.25, 1.0, "reset")]


def test_a_reopened_upload_gives_up_parts_in_flight() -> None:
    script = EventScript()
    script.part("w.bin", 1, 0.0, connected=0.0, connection=1)
    script.part("w.bin", 2, 0.0, 0.5, connected=0.0, connection=2)
    void = RequestFailed(
        call="upload",
        url="u",
        error="opened anew",
        status=403,
        retry_attempt=1,
        backoff_ms=1.0,
        fields={"file": "w.bin"},
    )
    script.emit(1.0, void)
    script.done(4.0)
    ends = {(s.part, s.kind): s.end for s in timeline_of(script).spans}
    assert ends == {(1, "retry"): 1.0, (2, "send"): 0.5}


def test_spans_end_when_the_push_fails() -> None:
    script = EventScript()
    script.transfer("w.bin", 0.0, size=MB)
    script.part("w.bin", 1, 0.5, connected=0.5)
    script.emit(2.0, PushFailed("boom", "HubError"))
    timeline = timeline_of(script)
    (span,) = timeline.spans
    assert (span.kind, span.start, span.end, span.error) == ("send", 0.5, 2.0, "unfinished")
    (file,) = timeline.files
    assert (file.end, file.stored) == (2.0, False)
    assert (timeline.pushes[0].outcome, timeline.pushes[0].error) == ("failed", "HubError: boom")


def test_a_cancelled_push_says_so() -> None:
    script = EventScript()
    script.emit(2.0, PushFailed("", "CancelledError", cancelled=True))
    (push,) = timeline_of(script).pushes
    assert (push.outcome, push.error) == ("cancelled", "")


def test_a_push_that_was_killed_is_unfinished() -> None:
    script = EventScript()
    script.call("preupload", 0.0, 0.5)
    assert timeline_of(script).pushes[0].outcome == "unfinished"


def test_a_wait_for_another_attempt_ends_with_the_push() -> None:
    script = EventScript()
    script.emit(1.0, RetryScheduled("commit", 1, 60.0, "busy"))
    script.emit(2.0, PushFailed("", "CancelledError", cancelled=True))
    (span,) = timeline_of(script).spans
    assert (span.kind, span.start, span.end) == ("wait", 1.0, 2.0)


def test_a_wait_of_the_session_is_reported_once() -> None:
    script = EventScript()
    for at in (1.0, 1.5, 8.0):
        script.emit(at, Waiting(2.0, "rate limit"))
    script.done(9.0)
    assert timeline_of(script).holds == (
        Hold(1.0, 3.5, "rate limit"),
        Hold(8.0, 9.0, "rate limit"),
    )


def test_a_file_sent_by_a_library_is_one_span() -> None:
    script = EventScript()
    script.emit(1.0, TransferStarted("x.bin", MB, 1))
    script.emit(1.0, TransferStarted("y.bin", MB, 1))
    script.emit(1.0, PartProgress("x.bin", 1, 0, MB))
    script.emit(2.0, PartProgress("x.bin", 1, MB // 2, MB, MB // 2))  # the store had half of it
    script.emit(3.0, PartProgress("y.bin", 1, MB // 2, MB))
    for name in ("x.bin", "y.bin"):
        script.emit(3.5, FileStored(name, MB, "xet"))
    script.done(4.0)
    timeline = timeline_of(script)
    assert drawn(timeline) == {
        ("send", "transfer", 0, 1.0, 2.0, "x.bin"),
        ("send", "transfer", 1, 1.0, 3.5, "y.bin"),
    }
    assert timeline.bytes_sent == pytest.approx(MB)
    width = timeline.slice_seconds
    assert timeline.throughput[int(1.5 / width)] == pytest.approx(MB / 2 * width)


def test_without_progress_a_stored_file_counts() -> None:
    script = EventScript()
    script.emit(1.0, TransferStarted("x.bin", MB, 1))
    script.emit(3.0, FileStored("x.bin", MB, "xet", bytes_sent=MB // 2))
    script.done(4.0)
    timeline = timeline_of(script)
    assert drawn(timeline) == {("send", "transfer", 0, 1.0, 3.0, "x.bin")}
    assert timeline.bytes_sent == pytest.approx(MB // 2)


def test_inline_files_have_no_row() -> None:
    script = EventScript()
    script.emit(0.5, FileStored("README.md", 10, "inline"))
    script.hashed("same.bin", 0.5, 1.0)
    script.emit(1.5, FileSkipped("same.bin", MB, "unchanged"))
    script.emit(1.5, FileSkipped("README.md", 10, "unchanged"))
    script.done(4.0)
    (file,) = timeline_of(script).files
    assert (file.path, file.end, file.stored) == ("same.bin", 1.5, True)


def test_connections_keep_lanes_and_overlapping_calls_get_more() -> None:
    script = EventScript()
    for number, (start, connection) in enumerate([(0, 7), (0, 8), (1, 8), (2, 7)], start=1):
        script.part("w", number, start, start + 1, connected=float(start), connection=connection)
    script.call("verify", 0.0, 2.0)
    script.call("verify", 1.0, 3.0)
    script.done(4.0)
    timeline = timeline_of(script)
    lanes = {s.part: s.lane for s in timeline.spans if s.part}
    assert lanes[1] == lanes[4] != lanes[2] == lanes[3]
    assert sorted(s.lane for s in timeline.spans if s.group == "hub") == [0, 1]


def test_pushes_that_went_side_by_side_share_a_clock() -> None:
    first, second = EventScript("a", "me/a"), EventScript("b", "me/b", began=1_760_000_002.0)
    first.hashed("w", 0.0, 3.0)
    second.hashed("w", 0.0, 3.0)
    timeline = timeline_of(first, second)
    assert [(push.repo_id, push.start, push.end) for push in timeline.pushes] == [
        ("me/a", 0.0, 3.0),
        ("me/b", 2.0, 5.0),
    ]
    assert {(s.push, s.lane, s.start) for s in timeline.spans} == {(0, 0, 0.0), (1, 1, 2.0)}
    assert len(timeline.files) == 2


def test_every_kind_of_event_is_taken() -> None:
    recorder = TimelineRecorder()
    for number, event in enumerate(one_of_each()):
        recorder.on_event(record(event, 1_760_000_000 + number))
    (push,) = recorder.timeline().pushes
    assert (push.repo_id, push.outcome) == ("me/m", "failed")


NAMES = st.sampled_from(
    [
        "push.started",
        "push.finished",
        "push.failed",
        "file.hashed",
        "file.routed",
        "file.skipped",
        "file.started",
        "file.stored",
        "part.connected",
        "part.progress",
        "hf_hub.upload.failed",
        "retry.scheduled",
        "session.waiting",
        "hf_hub.part",
        "hf_hub.part.response",
        "hf_hub.commit",
        "hf_hub.commit.response",
        "hf_hub.",
        "else",
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["w.bin", "part", "xet", "lfs", "inline", "commit", "\x00", "hf_" + "x" * 30]),
    st.lists(st.integers(), max_size=2),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "path",
            "file",
            "size",
            "part_number",
            "elapsed_ms",
            "sent_ms",
            "status",
            "attempt",
            "connection",
            "sent",
            "delay",
            "seconds",
            "call",
            "retry_attempt",
            "route",
            "queued_ms",
            "bytes_out",
            "error",
            "repo_id",
            "reason",
            "cancelled",
        ]
    ),
    VALUES,
)
IDS = st.sampled_from(["a", "b", "c"])
MOMENTS = st.lists(st.builds(Moment, NAMES, st.floats(0, 1e10), IDS, IDS, IDS, FIELDS), max_size=40)


@settings(max_examples=30)
@given(MOMENTS)
def test_prop_spans_lie_within_the_run_without_overlap(
    moments: list[Moment],
) -> None:
    builder = Builder()
    for moment in moments:
        builder.add(moment)
    timeline = builder.timeline()
    lanes: dict[tuple[str, int], list[Span]] = {}
    for span in timeline.spans:
        assert 0 <= span.start <= span.end
        assert "hf_x" not in span.name + span.error
        lanes.setdefault((span.group, span.lane), []).append(span)
    for spans in lanes.values():
        spans.sort(key=lambda span: (span.start, span.end))
        for before, after in pairwise(spans):
            assert before.end <= after.start
    assert all(0 <= hold.start <= hold.end for hold in timeline.holds)
    assert all(amount >= 0 for amount in timeline.throughput)
    assert len(timeline.throughput) <= 512


INTERVALS: Any = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda t: (t[0], t[0] + t[1])),
    max_size=20,
)


@settings(max_examples=25)
@given(INTERVALS)
def test_prop_lanes_are_as_few_as_there_are_at_once(intervals: list[tuple[int, int]]) -> None:
    intervals = [(start, end) for start, end in intervals if end > start]
    lanes = pack(intervals)
    at_once = max(
        (sum(start <= moment < end for start, end in intervals) for moment in range(40)), default=0
    )
    assert len(set(lanes)) == at_once
    for moment in range(40):
        used = [
            lane
            for lane, (start, end) in zip(lanes, intervals, strict=True)
            if start <= moment < end
        ]
        assert len(used) == len(set(used))


@settings(max_examples=25)
@given(INTERVALS, INTERVALS)
def test_prop_merging_and_taking_away_are_those_of_sets(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    def points(intervals: Any) -> set[int]:
        return {at for start, end in intervals for at in range(int(start), int(end))}

    assert points(merged(ours)) == points(ours)
    assert points(without(merged(ours), merged(theirs))) == points(ours) - points(theirs)
