"""Each operation is called by its own name: in logs, by the bars, on timelines and in traces."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asyncpush import AsyncPushError, PushOptions, Receipt, SyncOptions, UploadConfig, Uploader
from asyncpush.events import Operation, PushFailed, PushFinished, PushStarted, Record
from asyncpush.listeners.format import UNICODE
from asyncpush.listeners.otel import OpenTelemetry
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.layout import facts, headline
from asyncpush.listeners.timeline.parsed_events import moment_of
from asyncpush.listeners.timeline.recording import read_timeline
from asyncpush.listeners.view import PushView
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer

FILES = {"model.bin": b"\0model" * 100, "config.json": b"{}"}
BUCKET = "hf://buckets/me/runs/step-1"

Call = Callable[[Uploader, Any], Awaitable[object]]


async def upload_and_commit(uploader: Uploader, source: Any) -> object:
    return await uploader.commit("me/new", await uploader.upload_files("me/new", source))


OPERATIONS: dict[str, tuple[str, Call, str, str, str]] = {
    "push": (
        "push",
        lambda up, source: up.push_to_hub("me/new", source),
        "pushing to model me/new, revision main",
        "pushed 2 files",
        "Upload",
    ),
    "upload": (
        "upload",
        lambda up, source: up.upload_files("me/new", source),
        "uploading to model me/new, revision main",
        "stored 2 files",
        "Upload",
    ),
    "commit": (
        "commit",
        upload_and_commit,
        "committing to model me/new, revision main",
        "committed 2 files",
        "Commit",
    ),
    "copy": (
        "copy",
        lambda up, source: up.copy("me/m", "me/new", PushOptions(allow_patterns=source)),
        "copying to model me/new, revision main",
        "copied 2 files",
        "Copy",
    ),
    "copy to a bucket": (
        "copy",
        lambda up, source: up.copy("me/m", BUCKET, SyncOptions(allow_patterns=source)),
        "copying to bucket me/runs",
        "copied 2 files",
        "Copy",
    ),
    "sync": (
        "sync",
        lambda up, source: up.sync(source, BUCKET),
        "syncing to bucket me/runs",
        "synced 2 files",
        "Sync",
    ),
    "audit": (
        "audit",
        lambda up, source: up.audit("me/m", source),
        "comparing with model me/m, revision main",
        "compared 2 files",
        "Audit",
    ),
}
COMPLETE = {
    "push": "Upload complete",
    "upload": "Stored, not yet committed",
    "commit": "Commit complete",
    "copy": "Copy complete",
    "sync": "Sync complete",
    "audit": "Compared",
}
RECEIPTS = [Receipt("model.bin", 600, "a" * 64, "lfs")]


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_succeeds_is_named(
    name: str, hub: LocalHub, config: UploadConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    operation, call, begins, done, _ = OPERATIONS[name]
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", FILES)
    recorded, spans = EventRecorder(), InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    path = tmp_path / "events.jsonl"
    listeners: list[Any] = [recorded, path, OpenTelemetry(tracer_provider=tracers)]
    caplog.set_level(logging.INFO, "asyncpush")
    source = list(FILES) if operation == "copy" else FILES
    async with Uploader(TOKEN, hub.url, replace(config, events=listeners)) as uploader:
        await call(uploader, source)

    assert recorded.of(PushStarted)[-1].operation == operation
    assert recorded.of(PushFinished)[-1].operation == operation
    pushes = [entry.getMessage() for entry in caplog.records if entry.name == "asyncpush.push"]
    assert begins in pushes
    assert pushes[-1].startswith(f"{done}, ")
    assert closing_line(recorded).startswith(f"✓ {COMPLETE[operation]}  me/")
    assert [span.attributes["asyncpush.operation"] for span in named(spans)][-1] == operation
    timeline, _ = read_timeline(path)
    assert headline(timeline).endswith("done" if operation == "push" else f"{operation} done")
    assert ("LFS file" in facts(timeline)) == ("bucket" not in begins)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_fails_is_named(
    name: str, hub: LocalHub, config: UploadConfig, caplog: pytest.LogCaptureFixture
) -> None:
    operation, call, *_, noun = OPERATIONS[name]
    recorded = EventRecorder()
    async with Uploader("hf_" + "x" * 30, hub.url, replace(config, events=recorded)) as uploader:
        with pytest.raises(AsyncPushError):
            if operation == "commit":
                await uploader.commit("me/new", RECEIPTS)
            else:
                await call(uploader, list(FILES) if operation == "copy" else FILES)

    assert recorded.of(PushFailed)[-1].operation == operation
    assert caplog.records[-1].getMessage().startswith(f"{operation} failed: ")
    assert closing_line(recorded).startswith(f"✗ {noun} failed  me/")


async def test_a_timeout_names_what_took_too_long(hub: LocalHub, config: UploadConfig) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        with pytest.raises(TimeoutError, match=r"^the sync took longer than .*: try again; what"):
            await uploader.sync(FILES, BUCKET, SyncOptions(timeout=0.0001))


@pytest.mark.parametrize(("operation", "would"), [("push", "would push"), ("sync", "would sync")])
async def test_a_dry_run_names_what_it_is_of(
    operation: str,
    would: str,
    hub: LocalHub,
    config: UploadConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "asyncpush")
    async with Uploader(TOKEN, hub.url, config) as uploader:
        if operation == "push":
            await uploader.push_to_hub("me/m", FILES, PushOptions(dry_run=True))
        else:
            await uploader.sync(FILES, BUCKET, SyncOptions(dry_run=True))
    assert caplog.records[-1].getMessage().startswith(f"{would} 2 files")


def test_a_timeline_of_several_operations_mentions_no_push() -> None:
    builder = Builder()
    operations: tuple[Operation, ...] = ("push", "sync")
    for number, operation in enumerate(operations):
        started = PushStarted("me/m", "model", "main", operation)
        ended = PushFailed("no", "HubError", operation=operation)
        for event in (started, ended):
            builder.add(moment_of(Record(event, float(number), str(number), "span", None)))
    assert headline(builder.timeline()) == "2 operations: 2 failed"


def closing_line(recorded: EventRecorder) -> str:
    view = PushView("")
    last = recorded.records[-1].push_id
    for record in recorded.records:
        if record.push_id == last:
            view.on_event(record)
    return view.closing(80, UNICODE) or ""


def named(spans: InMemorySpanExporter) -> list[Any]:
    return [span for span in spans.get_finished_spans() if span.name == "asyncpush.push"]
