"""What real pushes tell: JSON lines against the shipped schema, names and fields of OBS-004, and
what verbose mode shows of it (OBS-005)."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from jsonschema import Draft202012Validator

from asyncpush import AuthError, PushOptions, UploadConfig, Uploader
from asyncpush.events import FileStored, PhaseChanged, Verified
from asyncpush.events.schema import SCHEMA_PATH
from asyncpush.listeners.logs import VerboseFormatter
from asyncpush.localhub import LocalHub
from asyncpush.net import parts, session
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer

PART = 256 << 10
Row = dict[str, Any]

ABOUT: dict[str, set[str]] = {
    "hf_hub.create": {"repo_id"},
    "hf_hub.preupload": {"repo_id", "file", "size"},
    "hf_hub.lfs_batch": {"repo_id", "objects"},
    "hf_hub.part": {"file", "size", "part_number"},
    "hf_hub.complete": {"file", "size", "oid"},
    "hf_hub.verify": {"file", "size", "oid"},
    "hf_hub.commit": {"repo_id", "revision"},
}
"""Calls by the names of the specification, and what their events are about."""


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, part_size=PART) as hub:
        yield hub


@pytest.fixture
def config(config: UploadConfig, tmp_path: Path) -> UploadConfig:
    return replace(config, events=tmp_path / "events.jsonl")


@pytest.mark.no_cover
async def test_rows_of_real_pushes_fit_the_schema(
    uploader: Uploader,
    faults: FaultLayer,
    write: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "asyncpush")
    folder = write({"README.md": "---\nlicense: mit\n---\n", "m.bin": b"\0" * (2 * PART + 1)})
    faults.add("part", "503", nth=2)
    faults.add("batch", "reset before the body")
    await uploader.push_to_hub("me/m", folder)
    await uploader.push_to_hub("me/m", folder)  # unchanged
    await uploader.push_to_hub("me/m", {"new.txt": b"1"}, PushOptions(create_pr=True))
    faults.add("preupload", "403", nth=faults.seen["preupload"] + 1)
    with pytest.raises(AuthError):
        await uploader.push_to_hub("me/m", {"new.txt": b"2"})

    rows: list[Row] = [
        json.loads(line) for line in (tmp_path / "events.jsonl").read_bytes().splitlines()
    ]
    validator = Draft202012Validator(json.loads(SCHEMA_PATH.read_bytes()))
    for row in rows:
        validator.validate(row)
    check_calls(rows)
    check_failures(rows)
    check_spans(rows)
    check_verbose("\n".join(map(VerboseFormatter().format, caplog.records)))
    assert TOKEN not in (tmp_path / "events.jsonl").read_text()
    assert "X-Amz" not in (tmp_path / "events.jsonl").read_text()


def check_calls(rows: list[Row]) -> None:
    for name, about in ABOUT.items():
        before = [row for row in rows if row["event"] == name]
        after = [row for row in rows if row["event"] == f"{name}.response"]
        assert before, name
        for row in before:
            assert about | {"method", "url", "attempt", "bytes_out", "headers"} <= set(row)
        for row in after:
            assert about | {"status", "elapsed_ms", "bytes_in", "headers"} <= set(row)
            assert row["request_id"], name
    answers = [row for row in rows if row["event"] == "hf_hub.preupload.response"]
    # Before the repo was created, there was no answer, or it was 404.
    (modes, *_) = [row for row in answers if row["status"] == 200]
    assert modes["files"] == [
        {"file": "README.md", "size": 21, "route": "inline"},
        {"file": "m.bin", "size": 2 * PART + 1, "route": "lfs"},
    ]
    (batch,) = [row for row in rows if row["event"] == "hf_hub.lfs_batch.response"]
    assert batch["upload_url"].startswith("http://127.0.0.1:")


def check_failures(rows: list[Row]) -> None:
    """Of the batch whose connection broke, the part that was refused, and the push that failed."""
    failed = {row["call"]: row for row in rows if row["event"] == "hf_hub.upload.failed"}
    assert set(failed) == {"lfs_batch", "part", "preupload"}
    assert failed["lfs_batch"]["status"] is None
    assert failed["lfs_batch"]["backoff_ms"] is not None
    part = failed["part"]
    assert (part["status"], part["retry_attempt"]) == (503, 1)
    assert part["body"] == '{"error": "Service Unavailable"}'
    assert part["headers"]
    assert failed["preupload"]["backoff_ms"] is None
    for row in failed.values():
        assert {"error", "error_type", "suggestion", "url", "method"} <= set(row)
        assert row["elapsed_seconds"] > 0


def check_spans(rows: list[Row]) -> None:
    """Each row's span is one of its own push, and so is its parent."""
    for push_id in {row["push_id"] for row in rows}:
        ours = [row for row in rows if row["push_id"] == push_id]
        roots = {row["span_id"] for row in ours if row["parent_id"] is None}
        assert len(roots) == 1
        spans = {row["span_id"] for row in ours}
        assert all(row["parent_id"] in spans | {None} for row in ours)
    # A failure, and the wait after it, are of the span of the attempt that failed.
    begun = {row["span_id"]: row for row in rows if "bytes_out" in row and "bytes_in" not in row}
    for row in rows:
        if row["event"] in ("hf_hub.upload.failed", "retry.scheduled"):
            attempt = begun[row["span_id"]]
            assert attempt["event"] == f"hf_hub.{row['call']}"
            assert attempt["parent_id"] == row["parent_id"]
            assert attempt["attempt"] == row.get("retry_attempt", row.get("attempt"))


def check_verbose(text: str) -> None:
    assert "    > Content-Type: application/json\n" in text
    assert "    > Authorization: <redacted>\n" in text
    assert "    < x-request-id: Root=1-" in text
    assert '    files = [{"file":"README.md","size":21,"route":"inline"}' in text
    assert "    upload_url = http://127.0.0.1:" in text
    assert "    commit_sha = " in text
    assert '    body = {"error": "Service Unavailable"}\n' in text
    for secret in (TOKEN, "X-Amz", "Bearer"):
        assert secret not in text


async def test_the_phase_never_runs_backwards(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, write: Callable[..., Path]
) -> None:
    """Not where the commit is refused and objects are stored again, nor on another head."""
    recorded = EventRecorder()
    source = write({"m.bin": b"\0" * (PART + 1), "a.txt": "a"})
    faults.hooks["commit"] = lambda: shutil.rmtree(hub.root / "lfs" / "objects")
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader:
        await uploader.push_to_hub("me/m", source)
    assert faults.seen["commit"] == 2
    assert len(recorded.of(FileStored)) == 2
    phases = [event.phase for event in recorded.of(PhaseChanged)]
    assert phases == ["hashing", "uploading", "committing", "verifying", "done"]


async def test_files_shown_late_are_verified(
    config: UploadConfig, faults: FaultLayer, tmp_path: Path
) -> None:
    @web.middleware
    async def late(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.match_info.route.name == "paths-info" and faults.seen["paths-info"] == 1:
            return web.json_response(json.loads(response.body)[:1])  # type: ignore[attr-defined]
        return response

    recorded = EventRecorder()

    def forget() -> None:  # the paths are asked for beside the head, too
        faults.seen.pop("paths-info", None)

    faults.hooks["commit"] = forget
    async with (
        open_hub(tmp_path / "late", faults, late) as hub,
        Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader,
    ):
        await uploader.push_to_hub("me/m", {"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"})
    assert faults.seen["paths-info"] == 2
    (verified,) = recorded.of(Verified)
    assert verified.files == 3


async def test_a_push_that_nobody_watches_redacts_no_headers(
    hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redacting them takes about as long as all listeners together (profiled)."""
    redacted: list[object] = []

    def redact(headers: Mapping[str, str], *secrets: str) -> dict[str, str]:
        redacted.append(headers)
        return {}

    for module in (session, parts):
        monkeypatch.setattr(module, "redact_headers", redact)
    logging.getLogger("asyncpush.http").setLevel(logging.INFO)
    try:
        async with Uploader(TOKEN, hub.url, replace(config, events=None)) as uploader:
            await uploader.push_to_hub("me/m", {"a.bin": b"\0a", "b.txt": b"b"})
    finally:
        logging.getLogger("asyncpush.http").setLevel(logging.NOTSET)
    assert not redacted
