"""The trace against the rules of its format."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncpush.events import PushFailed, Waiting
from asyncpush.listeners.timeline.recording import check_target, render
from asyncpush.listeners.timeline.trace import trace_events
from tests.listeners.timeline.scripts import EventScript, one_file, timeline_of


def events(*scripts: EventScript) -> list[dict[str, Any]]:
    document = orjson.loads(trace_events(timeline_of(*scripts)))
    assert document["displayTimeUnit"] == "ms"
    rows: list[dict[str, Any]] = document["traceEvents"]
    for row in rows:
        check(row)
    return rows


def check(row: dict[str, Any]) -> None:
    """What the format asks of each event."""
    assert row["ph"] in "XMbeCi"
    assert isinstance(row["name"], str)
    for number in ("pid", "tid", "ts"):
        assert isinstance(row[number], int)
        assert row[number] >= 0
    if row["ph"] == "X":
        assert isinstance(row["dur"], int)
        assert row["dur"] >= 0
    if row["ph"] in "be":
        assert row["cat"]
        assert "id" in row
    if row["ph"] == "C":
        assert all(isinstance(value, float) for value in row["args"].values())
    if row["ph"] == "i":
        assert row["s"] in "gpt"


def test_spans_are_complete_events_in_microseconds() -> None:
    (commit,) = [row for row in events(one_file()) if row["name"] == "commit"]
    assert (commit["ph"], commit["cat"], commit["ts"], commit["dur"]) == (
        *("X", "commit", 5_000_000, 1_000_000),
    )
    parts = [row for row in events(one_file()) if row["name"] == "w.bin #1" and row["ph"] == "X"]
    assert [row["cat"] for row in parts] == ["connect", "send", "answer"]
    assert parts[1]["args"] == {
        "file": "w.bin",
        "part": 1,
        "bytes": 1_000_000,
        "attempt": 1,
        "queued_ms": 250.0,
        "local_port": 50_001,
    }


def test_lanes_are_named_threads_without_overlaps() -> None:
    rows = events(one_file())
    names = {
        (row["pid"], row["tid"]): row["args"]["name"]
        for row in rows
        if row["name"] == "thread_name"
    }
    assert set(names.values()) == {
        *("Hub call 1", "hashing 1", "waiting 1", "connection 1", "connection 2"),
    }
    threads: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["ph"] == "X":
            threads.setdefault((row["pid"], row["tid"]), []).append(row)
    assert set(threads) == set(names)
    for spans in threads.values():
        spans.sort(key=lambda row: int(row["ts"]))
        for before, after in pairwise(spans):
            assert before["ts"] + before["dur"] <= after["ts"]


def test_pushes_are_processes_and_files_async_pairs() -> None:
    first, second = EventScript("a", "me/a"), EventScript("b", "")
    for script in (first, second):
        script.hashed("w.bin", 0.0, 1.0)
    second.emit(2.0, PushFailed("boom", "HubError"))
    first.emit(1.0, Waiting(0.5, "rate limit"))
    rows = events(first, second)
    names = {row["pid"]: row["args"]["name"] for row in rows if row["name"] == "process_name"}
    assert names == {0: "session", 1: "me/a", 2: "b"}
    pairs: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        if row["ph"] in "be":
            pairs.setdefault((row["cat"], row["id"]), []).append(row["ph"])
    assert pairs == {("file", 0): ["b", "e"], ("file", 1): ["b", "e"], ("wait", 0): ["b", "e"]}
    ends = [row["name"] for row in rows if row["ph"] == "i"]
    assert ends == ["unfinished", "failed: HubError: boom"]


def test_throughput_is_a_counter_that_ends_at_zero() -> None:
    rates = [row["args"]["MB/s"] for row in events(one_file()) if row["ph"] == "C"]
    assert max(rates) == pytest.approx(1.0, abs=0.1)
    assert rates[-1] == 0


def test_names_from_anywhere_are_cleaned() -> None:
    script = EventScript()
    script.hashed("a\x1b[31m\udcff.bin", 0.0, 1.0)
    assert "a?[31m?.bin" in {row["name"] for row in events(script)}


def test_the_ending_says_what_is_written() -> None:
    timeline = timeline_of(one_file())
    assert render(timeline, Path("x.JSON")) == trace_events(timeline)
    with pytest.raises(ValueError, match="must end in"):
        render(timeline, Path("x.png"))


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncpush.listeners.timeline.recording.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'asyncpush\[viz\]'"):
        check_target(Path("x.svg"))
    check_target(Path("x.json"))


def test_a_library_that_is_there_but_broken_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpush.listeners.timeline.svg", None)
    with pytest.raises(ImportError, match=r"pip install 'asyncpush\[viz\]'"):
        render(timeline_of(one_file()), Path("x.svg"))
