"""Files of events as they are found: cut short, appended to, mixed with other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncpush.errors import SourceError
from asyncpush.listeners.timeline.recording import read_timeline
from tests.listeners.timeline.scripts import BEGAN, EventScript, one_file, timeline_of, write_events


def test_a_file_reads_as_what_was_heard_live(tmp_path: Path) -> None:
    read, others = read_timeline(write_events(tmp_path / "e.jsonl", one_file()))
    recorded = timeline_of(one_file())
    assert read.spans == recorded.spans
    assert read.files == recorded.files
    assert read.pushes == recorded.pushes
    assert (others, read.skipped) == (0, 0)
    assert read.bytes_sent == pytest.approx(recorded.bytes_sent)


def test_cut_and_foreign_lines_are_counted(tmp_path: Path) -> None:
    path = write_events(tmp_path / "e.jsonl", one_file())
    whole = path.read_bytes()
    foreign = [
        b"Traceback (most recent call last):",
        b"[1, 2]",
        b"7",
        b'{"event": "push.started"}',
        b'{"event": "push.started", "push_id": "p1", "time": "yesterday"}',
        b'{"event": "push.started", "push_id": "p1", "time": "2026-01-01T00:00:00"}',
        b'{"event": "push.started", "push_id": "p1", "time": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
    ]
    path.write_bytes(b"\n".join(foreign) + b"\n\n \n" + whole[: whole.rindex(b"push.finished")])
    read, _ = read_timeline(path)
    assert read.skipped == len(foreign) + 1
    assert read.spans == timeline_of(one_file()).spans
    assert read.pushes[0].outcome == "unfinished"


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    script = EventScript()
    script.hashed("\udcff.bin", 0.0, 1.0)
    read, _ = read_timeline(write_events(tmp_path / "e.jsonl", script))
    assert read.skipped == 0
    assert read.files[0].path == "\udcff.bin"


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"not JSON\n"], ids=["empty", "blank", "foreign"]
)
def test_a_file_without_events_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="holds no events of a push"):
        read_timeline(path)


def test_the_last_run_of_a_file_is_read(tmp_path: Path) -> None:
    old, first, second = (
        EventScript("old"),
        EventScript("aa", began=BEGAN + 99),
        EventScript("ab", began=BEGAN + 101),
    )
    for script in (old, first, second):
        script.hashed("w", 0.0, 3.0)
        script.done(4.0)
    path = write_events(tmp_path / "e.jsonl", old, first, second)

    read, others = read_timeline(path)
    assert [push.push_id for push in read.pushes] == ["aa", "ab"]
    assert (others, read.seconds) == (1, 6.0)

    read, _ = read_timeline(path, "old")
    assert [(push.push_id, push.outcome) for push in read.pushes] == [("old", "done")]


@pytest.mark.parametrize(("prefix", "found"), [("a", "2 pushes"), ("z", "no pushes")])
def test_an_id_must_name_one_push(tmp_path: Path, prefix: str, found: str) -> None:
    path = write_events(tmp_path / "e.jsonl", EventScript("aa"), EventScript("ab"))
    with pytest.raises(SourceError, match=found) as caught:
        read_timeline(path, prefix)
    assert "aa, ab" in caught.value.suggestion
