"""What is drawn of a run, and where its time went."""

from __future__ import annotations

import pytest

from asyncpush.events import FileStored, PushFailed, TransferStarted, Waiting
from asyncpush.listeners.timeline.layout import (
    FILES,
    LANES,
    Block,
    Section,
    bottleneck,
    columns_of,
    facts,
    headline,
    sections,
    verdict,
)
from asyncpush.listeners.timeline.model import Kind, Span, Timeline
from tests.listeners.timeline.scripts import MB, EventScript, one_file, timeline_of

COLUMNS = 800


def section(timeline: Timeline, title: str) -> Section:
    (found,) = [s for s in sections(timeline, COLUMNS) if s.title.startswith(title)]
    return found


def test_sections_go_from_the_hub_to_the_files() -> None:
    titles = [s.title for s in sections(timeline_of(one_file()), COLUMNS)]
    assert titles == ["Hub calls", "hashing", "waiting to retry", "connections (2)", "1 file"]


def test_a_connection_shows_its_parts_by_number() -> None:
    second = section(timeline_of(one_file()), "connections").rows[1]
    assert [(block.shade, block.label) for block in second.blocks] == [
        ("connect", ""),
        ("send", "#1"),
        ("answer", ""),
        ("send", "#2"),
    ]


def test_a_file_sent_by_a_library_has_a_lane() -> None:
    script = EventScript()
    script.emit(1.0, TransferStarted("x.bin", MB, 1))
    script.emit(3.0, FileStored("x.bin", MB, "xet"))
    (row,) = section(timeline_of(script), "transfers").rows
    assert row.blocks == [Block("send", 1.0, 3.0, "x.bin")]


def test_parts_of_several_files_are_named_where_needed() -> None:
    script = EventScript()
    script.part("deep/one.bin", 1, 0.0, 1.0, connected=0.0, connection=1)
    script.part("deep/two.bin", 1, 0.0, 1.0, connected=0.0, connection=2)
    script.part("deep/two.bin", 2, 0.0, 1.0, connected=0.0, connection=3)
    script.done(1.0)
    rows = section(timeline_of(script), "connections").rows
    assert {row.blocks[0].label for row in rows} == {"one.bin", "two.bin #1", "two.bin #2"}


def test_a_file_is_a_grey_bar_under_its_spans() -> None:
    script = EventScript()
    script.hashed("w.bin", 0.0, 1.0)
    script.transfer("w.bin", 1.0, 2)
    script.part("w.bin", 1, 2.0, 4.0, connected=2.0, connection=1)
    script.part("w.bin", 2, 2.0, 5.0, connected=2.0, connection=2, status=503)
    script.stored("w.bin", 8.0)
    script.done(8.0)
    (row,) = section(timeline_of(script), "1 file").rows
    pixel = 8 / COLUMNS
    assert row.label == "w.bin"
    assert row.blocks == [
        Block("queued", 0.0, 8.0),
        Block("hash", 0.0, 1.0),
        Block("send", 2.0, 4.0),
        Block("retry", 4.0, 5.0),  # red only where nothing else of it was on its way
    ]
    assert pixel < 0.1


def test_a_failure_beside_what_went_well_is_a_mark() -> None:
    script = EventScript()
    script.part("w.bin", 1, 0.0, 8.0, connected=0.0, connection=1)
    script.part("w.bin", 2, 2.0, 5.0, connected=2.0, connection=2, status=503)
    script.done(8.0)
    (row,) = section(timeline_of(script), "1 file").rows
    marks = [block for block in row.blocks if block.shade == "retry"]
    assert marks == [Block("retry", 5.0 - 16 / COLUMNS, 5.0)]


def test_many_files_share_rows_and_many_connections_share_lanes() -> None:
    script = EventScript()
    for number in range(500):
        name = f"f{number}.bin"
        script.hashed(name, number / 100, number / 100 + 0.01)
        script.part(name, 1, 1.0 + number % 10, 2.0 + number % 10, connected=1.0 + number % 10,
                   connection=number)  # fmt: skip
        script.stored(name, number / 100 + 2)
    script.done(13.0)
    timeline = timeline_of(script)
    files = section(timeline, "500 files, 96 rows")
    assert len(files.rows) == FILES
    assert {row.label for row in files.rows} == {""}
    connections = section(timeline, "connections (50)")
    assert len(connections.rows) == LANES
    assert connections.rows[0].label == "1"
    for drawn in sections(timeline, COLUMNS):
        assert 3 <= drawn.height <= 13
        assert sum(len(row.blocks) for row in drawn.rows) <= 3 * 500


def test_a_lane_of_thousands_is_drawn_by_pixels() -> None:
    def kind(at: int) -> Kind:
        return "retry" if at == 5_555 else "send" if at % 10 else "answer"

    spans = [
        Span(
            kind=kind(at),
            group="connection",
            lane=0,
            start=at / 1000,
            end=(at + 1) / 1000,
            name="",
            push=0,
        )
        for at in range(10_000)
    ]
    blocks = columns_of(spans, 0.0125)
    assert len(blocks) <= 3
    assert [block.shade for block in blocks] == ["send", "retry", "send"]  # the one is seen
    assert blocks[0].start == 0
    assert blocks[-1].end == pytest.approx(10, abs=0.02)


def test_pixels_that_are_mostly_idle_stay_white() -> None:
    spans = [Span(kind="send", group="connection", lane=0, start=0.0, end=0.1, name="", push=0)]
    assert columns_of(spans, 1.0) == []


def test_with_several_pushes_files_name_their_repo() -> None:
    first, second = EventScript("a", "me/a"), EventScript("b", "me/b")
    for script in (first, second):
        script.hashed("w.bin", 0.0, 1.0)
        script.done(2.0)
    timeline = timeline_of(first, second)
    labels = {row.label for row in section(timeline, "2 files").rows}
    assert labels == {"me/a: w.bin", "me/b: w.bin"}
    assert headline(timeline) == "2 pushes: 2 done"


def test_where_the_time_went_adds_up() -> None:
    judged = verdict(timeline_of(one_file()))
    spent = dict(judged.seconds)
    assert sum(spent.values()) == pytest.approx(6.0)
    assert spent["hash"] == pytest.approx(0.8)  # hashing hides the call beside it
    assert spent["commit"] == pytest.approx(1.0)
    assert spent["wait"] == pytest.approx(0.5)  # from the answer of the one to the other's start
    # 1.5 to 1.75: shared by the connection that opens and the part that will fail
    assert spent["connect"] == pytest.approx(0.125)
    assert spent["retry"] == pytest.approx(0.125 + 0.75 / 2)
    assert judged.most == 1
    assert judged.moving == pytest.approx(2.0)
    assert judged.wasted == pytest.approx(1.0 / 3.5)


def spent_mostly_on(what: str) -> EventScript:
    script = EventScript()
    match what:
        case "send":
            script.part("w", 1, 0.0, 9.0, connected=0.0, sent=9.0)
        case "hash":
            script.hashed("w", 0.0, 9.0)
        case "answer":
            script.part("w", 1, 0.0, 9.0, connected=0.0, sent=0.5)
        case "connect":
            script.part("w", 1, 0.0, 9.0, connected=8.5)
        case "retry":
            script.part("w", 1, 0.0, 9.0, connected=0.0, status=500)
        case "wait":
            script.emit(0.0, Waiting(9.0, "rate limit"))
        case "idle":
            pass
        case _:
            script.call(what, 0.0, 9.0)
    script.done(10.0)
    return script


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("send", "sending, at 111 kB/s on 1.0 connections (at most 1)"),
        ("hash", "hash_workers"),
        ("answer", "the store's answer"),
        ("connect", "opening connections"),
        ("retry", "attempts that failed (red); 100 % of the connections' time"),
        ("wait", "before trying again"),
        ("commit", "the commit"),
        ("preupload", "requests to the Hub's API"),
        ("idle", "nothing being hashed"),
    ],
)
def test_the_bottleneck_is_named(what: str, words: str) -> None:
    timeline = timeline_of(spent_mostly_on(what))
    sentence = bottleneck(verdict(timeline), timeline)
    assert sentence.startswith("Most of the time ")
    assert words in sentence


def test_without_a_single_bottleneck_none_is_claimed() -> None:
    script = EventScript()
    script.hashed("w", 0.0, 4.0)
    script.call("commit", 4.0, 7.0)
    script.call("preupload", 7.0, 10.0)
    script.done(10.0)
    timeline = timeline_of(script)
    assert bottleneck(verdict(timeline), timeline).startswith("The largest share of the time went")


def test_nothing_is_reported_nothing() -> None:
    timeline = timeline_of(EventScript())
    assert bottleneck(verdict(timeline), timeline) == "Nothing took any time."
    assert sections(timeline, COLUMNS) == []
    assert (
        headline(
            Timeline(
                began=0.0,
                seconds=0.0,
                pushes=(),
                spans=(),
                files=(),
                holds=(),
                slice_seconds=1.0,
                throughput=(),
            )
        )
        == "no push"
    )
    assert facts(timeline) == "0 B sent in 0.00 s · 0 LFS files · 0 parts"


def test_the_facts_in_a_line() -> None:
    script = one_file()
    assert facts(timeline_of(script)) == (
        "2.00 MB sent in 6.00 s (333 kB/s) · 1 LFS file · 2 parts · 1 failed attempt"
    )
    assert headline(timeline_of(script)) == "me/m: done"


def test_pushes_of_several_ends() -> None:
    failed, killed = EventScript("a"), EventScript("b")
    failed.emit(1.0, PushFailed("boom", "HubError"))
    assert headline(timeline_of(failed, killed)) == "2 pushes: 1 failed, 1 unfinished"
