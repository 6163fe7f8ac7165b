"""`--timeline` and `asyncpush timeline`: what is drawn, of what, and what is refused before."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from xml.etree import ElementTree

import pytest

from asyncpush.cli.output import UNWRITTEN
from tests.cli.conftest import Cli, Site
from tests.listeners.timeline.scripts import BEGAN, EventScript, one_file, write_events

pytestmark = pytest.mark.usefixtures("environment")


def trace(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_bytes())["traceEvents"]
    return rows


def kinds(path: Path) -> Counter[str]:
    return Counter(row["cat"] for row in trace(path) if row["ph"] == "X")


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """What a push has told."""
    return write_events(tmp_path / "events.jsonl", one_file())


def test_a_push_is_drawn_and_its_events_draw_the_same(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    path, events = tmp_path / "t.json", tmp_path / "events.jsonl"
    ran = cli("push", "me/drawn", folder, "--timeline", path, "--events", events)

    assert ran.code == 0
    assert ran.err.splitlines()[-1] == f"timeline: {path}"
    assert "timeline" not in ran.out
    found = kinds(path)
    assert (found["send"], found["commit"], found["hash"]) == (3, 1, 1)  # parts of 1 MiB at most
    ports = [row["args"].get("local_port") for row in trace(path) if "args" in row]
    assert any(isinstance(port, int) for port in ports)

    assert cli("timeline", events, "-o", tmp_path / "again.json").code == 0
    assert kinds(tmp_path / "again.json") == found


def test_a_push_that_fails_is_drawn_too(cli: Cli, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    ran = cli("push", "me/failed", folder, "--revision", "nowhere", "--timeline", path)

    assert ran.code == 1
    (end,) = [row for row in trace(path) if row["ph"] == "i"]
    assert end["name"].startswith("failed: ")
    assert kinds(path)["call"] > 0


def test_many_pushes_are_drawn_on_one_clock(cli: Cli, folder: Path, tmp_path: Path) -> None:
    rows = [{"repo_id": f"me/many-{name}", "source": "model"} for name in "ab"]
    manifest = tmp_path / "many.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    assert cli("many", manifest, "--quiet", "--timeline", tmp_path / "t.json").code == 0

    names = [r["args"]["name"] for r in trace(tmp_path / "t.json") if r["name"] == "process_name"]
    assert sorted(names) == ["me/many-a", "me/many-b", "session"]


def test_storing_and_committing_are_drawn_apart(cli: Cli, folder: Path, tmp_path: Path) -> None:
    stored, committed = tmp_path / "stored.json", tmp_path / "committed.json"
    receipts = tmp_path / "receipts.json"
    cli("upload", "me/apart", folder, "--receipts", receipts, "--timeline", stored)
    cli("commit", "me/apart", receipts, "--timeline", committed)

    assert kinds(stored)["send"] == 3
    assert kinds(stored)["commit"] == 0
    assert kinds(committed)["send"] == 0
    assert kinds(committed)["commit"] == 1


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("t.png", "must end in .svg"),
        ("no/t.svg", "a folder that exists"),
        ("model.svg", "must be a file"),
    ],
)
@pytest.mark.parametrize("command", ["push", "many"])
def test_what_cannot_be_drawn_is_said_before_anything_happens(
    cli: Cli, folder: Path, tmp_path: Path, site: Site, command: str, file: str, complaint: str
) -> None:
    (tmp_path / "model.svg").mkdir()
    manifest = tmp_path / "many.jsonl"
    manifest.write_text('{"repo_id": "me/never", "source": "model"}\n')
    words = ["me/never", folder] if command == "push" else [manifest]
    ran = cli(command, *words, "--timeline", tmp_path / file)

    assert ran.code == 2
    assert "--timeline" in ran.err
    assert complaint in " ".join(ran.err.split())
    assert not (tmp_path / "many.jsonl.state.jsonl").exists()
    with pytest.raises(HTTPError):
        site.commits("models/me/never")


def test_without_the_extra_it_is_named_before_anything_happens(
    cli: Cli, folder: Path, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.listeners.timeline.recording.find_spec", lambda name: None)
    ran = cli("push", "me/never", folder, "--timeline", tmp_path / "t.svg")

    assert ran.code == 1
    assert "pip install 'asyncpush[viz]'" in ran.err
    with pytest.raises(HTTPError):
        site.commits("models/me/never")


def test_an_unwritable_picture_does_not_fail_the_push(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("asyncpush.cli.running.write_atomically", full)
    ran = cli("push", "me/full", folder, "--json", "--timeline", tmp_path / "t.json")

    assert ran.code == UNWRITTEN
    assert ran.document["ok"] is True
    assert ran.document["verified"] is True
    assert "warning: the timeline could not be written" in ran.err
    assert "No space left" in ran.err


def test_events_become_a_picture(cli: Cli, events: Path, tmp_path: Path) -> None:
    ran = cli("timeline", events, "-o", tmp_path / "t.svg")

    assert (ran.code, ran.err) == (0, "")
    path, summary, bottleneck = ran.out.splitlines()
    assert path == str(tmp_path / "t.svg")
    assert summary.startswith("me/m: done; 2.00 MB sent in 6.00 s ")
    assert summary.endswith("1 LFS file · 2 parts · 1 failed attempt")
    assert bottleneck.startswith("The largest share of the time ")
    drawn = ElementTree.parse(tmp_path / "t.svg").getroot()
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"me/m: done", "w.bin", "throughput", "connections (2)"} <= texts


def test_events_become_a_trace_and_a_summary_for_scripts(
    cli: Cli, events: Path, tmp_path: Path
) -> None:
    ran = cli("timeline", events, "-o", tmp_path / "t.json", "--json")

    assert ran.code == 0
    assert ran.document["pushes"] == [{"push_id": "p1", "repo_id": "me/m", "outcome": "done"}]
    assert (ran.document["parts"], ran.document["failed_attempts"]) == (2, 1)
    assert sum(ran.document["seconds_spent_on"].values()) == pytest.approx(6.0, abs=0.001)
    assert kinds(tmp_path / "t.json")["send"] == 2


def test_what_is_left_out_of_a_file_is_said(cli: Cli, events: Path, tmp_path: Path) -> None:
    with events.open("ab") as file:
        file.write(b'{"event": "push.fini')  # as a killed process leaves it
    write_events(events, EventScript("p2", "me/second", began=BEGAN + 3600))
    ran = cli("timeline", events, "-o", tmp_path / "t.json")

    assert "me/second: unfinished" in ran.out
    assert f"1 line of {events} skipped" in ran.err
    assert "has 2 runs; this draws the last one (--push ID draws another)" in ran.err

    ran = cli("timeline", events, "-o", tmp_path / "t.json", "--push", "p1")
    assert "me/m: done" in ran.out
    assert "runs" not in ran.err


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["{events}", "-o", "t.pdf"], 2, "--output: 't.pdf' must end in .svg"),
        (["{events}"], 2, "Missing option '--output'"),
        (["missing.jsonl", "-o", "t.json"], 2, "cannot read missing.jsonl: No such file"),
        (["empty.jsonl", "-o", "t.json"], 1, "empty.jsonl holds no events of a push"),
        (["empty.jsonl", "-o", "t.json", "--push", "x"], 1, "holds no events of a push"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    cli: Cli, tmp_path: Path, words: list[str], code: int, complaint: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    ran = cli("timeline", *(word.format(events="empty.jsonl") for word in words))
    assert ran.code == code
    assert complaint in ran.err
    assert not list(tmp_path.glob("t.*"))
