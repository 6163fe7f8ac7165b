from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncpush.events import FileHashed
from asyncpush.listeners import jsonl
from asyncpush.listeners.jsonl import JsonlWriter
from tests.listeners.helpers import OID, SIGNED_URL, answered, one_of_each, planned, record


def rows(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_each_event_is_a_row_at_once(path: Path) -> None:
    writer = JsonlWriter(path)
    writer.on_event(record(planned(2, 30)))
    assert rows(path) == [
        {
            "event": "push.planned",
            "time": "2025-10-09T08:53:20.250000Z",
            "push_id": "push-1",
            "span_id": "0000000a0000000b",
            "parent_id": None,
            "total_files": 2,
            "total_bytes": 30,
        }
    ]
    writer.close()
    writer.close()
    writer.on_event(record(planned(2, 30)))
    assert len(rows(path)) == 1


def test_api_calls_have_the_specified_names_and_fields(path: Path) -> None:
    writer = JsonlWriter(path)
    for event in one_of_each():
        writer.on_event(record(event))
    writer.close()
    by_name = {row["event"]: row for row in rows(path)}
    asked = by_name["hf_hub.preupload"]
    assert (asked["repo_id"], asked["file"], asked["size"]) == ("me/m", "big.bin", 100)
    answered = by_name["hf_hub.preupload.response"]
    assert (answered["status"], answered["elapsed_ms"]) == (200, 12.5)
    assert answered["files"] == [{"file": "big.bin", "size": 100, "route": "lfs"}]
    assert by_name["hf_hub.lfs_batch.response"]["upload_url"] == SIGNED_URL.partition("?")[0]
    failed = by_name["hf_hub.upload.failed"]
    assert (failed["retry_attempt"], failed["backoff_ms"]) == (1, 500.0)


def test_positions_are_written_when_asked_for(path: Path, tmp_path: Path) -> None:
    everything = tmp_path / "all.jsonl"
    brief, verbose = JsonlWriter(path), JsonlWriter(everything, verbose=True)
    for event in one_of_each():
        brief.on_event(record(event))
        verbose.on_event(record(event))
    brief.close()
    verbose.close()
    positions = {"part.progress", "file.hashing"}
    assert not positions & {row["event"] for row in rows(path)}
    assert positions <= {row["event"] for row in rows(everything)}


def test_a_new_file_is_private_and_an_existing_one_appended(path: Path) -> None:
    for _ in range(2):
        writer = JsonlWriter(str(path))
        writer.on_event(record(planned(1, 1)))
        writer.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(rows(path)) == 2


def test_a_row_that_was_cut_short_spoils_only_itself(path: Path) -> None:
    path.write_bytes(b'{"event": "push.pl')
    writer = JsonlWriter(path)
    writer.on_event(record(planned(1, 1)))
    writer.close()
    first, second = path.read_bytes().splitlines()
    assert first == b'{"event": "push.pl'
    assert orjson.loads(second)["event"] == "push.planned"


def test_an_empty_file_gets_no_empty_line(path: Path) -> None:
    path.touch()
    writer = JsonlWriter(path)
    writer.on_event(record(planned(1, 1)))
    writer.close()
    assert len(rows(path)) == 1


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(FileHashed("\udcff.bin", 1, OID, cached=False), id="name not UTF-8"),
        pytest.param(planned(1, 1 << 80), id="huge number"),
    ],
)
def test_what_orjson_refuses_is_written_all_the_same(path: Path, event: FileHashed) -> None:
    writer = JsonlWriter(path)
    writer.on_event(record(event))
    writer.close()
    assert path.read_bytes().count(b"\n") == 1
    assert event.name.encode() in path.read_bytes()


def test_values_of_foreign_types_are_written_as_text(path: Path) -> None:
    writer = JsonlWriter(path)
    writer.on_event(record(answered(where=Path("a/b"))))
    writer.close()
    assert rows(path)[0]["where"] == "a/b"


def test_a_bad_path_is_reported_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JsonlWriter(tmp_path / "missing" / "events.jsonl")
    for _ in range(3):
        writer.on_event(record(planned(1, 1)))
    writer.close()
    assert len(caplog.records) == 1
    assert "events.jsonl" in caplog.text


def test_a_full_disk_is_reported_once_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not os.path.exists("/dev/full"):  # pragma: no cover
        pytest.skip("no /dev/full here")
    writer = JsonlWriter("/dev/full")
    for _ in range(3):
        writer.on_event(record(planned(1, 1)))
    assert [entry.name for entry in caplog.records] == ["asyncpush.jsonl"]
    assert os.strerror(errno.ENOSPC) in caplog.text


def test_an_unreadable_file_is_not_left_open(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(name: str) -> bool:
        raise PermissionError(errno.EACCES, "no", name)

    monkeypatch.setattr(jsonl, "_ends_mid_line", unreadable)
    JsonlWriter(path).on_event(record(planned(1, 1)))  # ResourceWarning would be an error
    assert len(caplog.records) == 1


def test_a_disk_that_takes_a_part_gets_the_rest(path: Path) -> None:
    class Sluggish(FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:7])

    with Sluggish(path, "ab") as file:
        jsonl._write_all(file, b"x" * 20 + b"\n")
    assert path.read_bytes() == b"x" * 20 + b"\n"


def test_trouble_at_the_very_end_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Remote(FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EDQUOT, "quota")

    writer = JsonlWriter(path)
    writer._file = Remote(path, "ab")
    writer.close()
    writer.close()
    assert len(caplog.records) == 1
