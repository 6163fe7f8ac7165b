"""How the public surface is used, for the type checker alone: nothing here runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_type

import numpy as np

import asyncpush
from asyncpush import (
    AuditReport,
    BackgroundCheckpoints,
    BackgroundUploader,
    BackgroundWatch,
    CheckpointOutcome,
    CheckpointPusher,
    CheckpointReport,
    CheckpointSet,
    Push,
    PushHandle,
    PushOptions,
    PushTicket,
    Receipt,
    SyncError,
    SyncFailure,
    SyncHandle,
    SyncOptions,
    SyncResult,
    SyncTicket,
    Tensors,
    UploadConfig,
    Uploader,
    UploadProgress,
    UploadResult,
)
from asyncpush.doctor import Finding
from asyncpush.events import Record


async def chunks() -> AsyncIterator[bytes]:
    yield b""


async def token() -> str:
    return "hf_x"


def plainly(progress: UploadProgress) -> None: ...


async def awaited(progress: UploadProgress) -> None: ...


def listener(record: Record) -> None: ...


async def one_call() -> None:
    assert_type(await asyncpush.push_to_hub("me/m", "out/"), UploadResult)
    await asyncpush.push_to_hub("me/m", Path("out"), PushOptions(private=True), token="hf_x")
    await asyncpush.push_to_hub("me/m", b"bytes", PushOptions(path_in_repo="a"), token=token)
    await asyncpush.push_to_hub("me/m", {"a": "x", "b": b"y", "c": Path("z")}, endpoint="local")
    await asyncpush.push_to_hub("me/m", {"d": chunks()}, config=UploadConfig())
    await asyncpush.push_to_hub("me/m", Tensors({"a": np.zeros(3)}, {"format": "pt"}, copy=True))
    await asyncpush.push_to_hub("me/m", {"a": Tensors({}), "b": b"y"})
    Tensors([np.zeros(3)])  # type: ignore[arg-type]
    await asyncpush.push_to_hub("me/m", "out", PushOptions(repo_type="x"))  # type: ignore[arg-type]
    await asyncpush.push_to_hub("me/m", 5)  # type: ignore[arg-type]


async def copies() -> None:
    options = PushOptions(commit_message="v1.2")
    assert_type(await asyncpush.copy("hf://me/a@v1", "org/b", options, token="hf_x"), UploadResult)
    async with Uploader() as up:
        assert_type(await up.copy("me/a", "hf://org/b@dev/weights", options), UploadResult)
        to_bucket = SyncOptions(complete_marker=True)
        assert_type(await up.copy("me/a", "hf://buckets/me/b", to_bucket), SyncResult)
        assert_type(await up.copy("me/a", "me/b"), UploadResult | SyncResult)


async def one_session() -> None:
    async with Uploader(token=lambda: "hf_x", config=UploadConfig(max_retries=1)) as up:
        assert_type(up.endpoint, str)
        assert_type(await up.push_to_hub("me/m", "out/"), UploadResult)
        handle = up.start_push("me/m", "out/")
        assert_type(handle, PushHandle)
        async for progress in handle:
            assert_type(progress, UploadProgress)
        assert_type(await handle, UploadResult)
        pushes = [Push("me/a", "a/"), Push("me/b", b"", PushOptions(repo_type="dataset"))]
        assert_type(await up.push_many(pushes), list[UploadResult])
        assert_type(
            await up.push_many(pushes, return_exceptions=True), list[UploadResult | BaseException]
        )
        receipts = await up.upload_files("me/m", "out/")
        assert_type(receipts, list[Receipt])
        assert_type(await up.commit("me/m", tuple(receipts)), UploadResult)
        assert_type(await up.audit("me/m", "out/"), AuditReport)
        assert_type(await up.doctor("me/m"), list[Finding])
        assert_type(asyncpush.receipts_to_json(receipts), bytes)
        assert_type(asyncpush.receipts_from_json(b""), list[Receipt])


async def to_buckets() -> None:
    options = SyncOptions(delete=True, complete_marker=True)
    run = "hf://buckets/me/runs/run-7"
    assert_type(await asyncpush.sync("out/", run, options, token="hf_x"), SyncResult)
    async with Uploader() as up:
        assert_type(await up.sync({"a": b"a"}, run), SyncResult)
        handle = up.start_sync(Path("out"), run, options)
        assert_type(handle, SyncHandle)
        assert_type(await handle, SyncResult)
        assert_type(await up.checkpoints_in(run), list[CheckpointSet])
        assert_type(await up.prune_checkpoints(run, keep=3), list[CheckpointSet])
        async with CheckpointPusher(up, run, options, keep=3) as pusher:
            await pusher.push({"a": b"a"}, name="step-1")
        await up.prune_checkpoints(run)  # type: ignore[call-arg]
    with BackgroundUploader() as bg:
        ticket = bg.sync("out/", run, options)
        assert_type(ticket, SyncTicket)
        assert_type(ticket.result(), SyncResult)


def failed(error: SyncError) -> None:
    assert_type(error.failures, tuple[SyncFailure, ...])
    assert_type(error.result, SyncResult)


def on_outcome(outcome: CheckpointOutcome) -> None:
    assert_type(outcome.result, UploadResult | None)
    assert_type(outcome.synced, SyncResult | None)


async def checkpoints() -> None:
    async with (
        Uploader() as up,
        CheckpointPusher(up, "me/m", snapshot="hardlink", on_outcome=on_outcome) as pusher,
    ):
        await pusher.push(Path("out"), PushOptions(commit_message="step 1"))
        assert_type(await pusher.flush(), CheckpointReport)
        CheckpointPusher(up, "me/m", policy="some")  # type: ignore[arg-type]


def blocking() -> None:
    with BackgroundUploader(token=lambda: "hf_x", exit_timeout=None, on_error="cancel") as bg:
        assert_type(bg, BackgroundUploader)
        ticket = bg.push("me/m", "out/", PushOptions(private=True))
        assert_type(ticket, PushTicket)
        assert_type(ticket.result(timeout=1.5), UploadResult)
        assert_type(ticket.exception(), BaseException | None)
        assert_type(ticket.done(), bool)
        assert_type(ticket.progress, UploadProgress | None)
        pusher = bg.checkpoints("me/m", policy="all", snapshot=True)
        assert_type(pusher, BackgroundCheckpoints)
        pusher.push("out/")
        assert_type(pusher.flush(timeout=5), CheckpointReport)
        with bg.watch(Path("out"), "me/m", PushOptions(), every=300) as watch:
            assert_type(watch, BackgroundWatch)
            assert_type(watch.pushes, int)
            assert_type(watch.failures, tuple[Exception, ...])
            assert_type(watch.last_error, Exception | None)
            assert_type(watch.last_result, UploadResult | SyncResult | None)
        watch.stop(timeout=5)
        bg.close(cancel=True, timeout=5)
    BackgroundUploader(on_error="pray")  # type: ignore[arg-type]


def settings() -> None:
    UploadConfig(progress_callback=plainly, events="events.jsonl", allowed_hosts=["a"])
    UploadConfig(progress_callback=awaited, events=listener, cache_dir=Path("c"))
    UploadConfig(5)  # type: ignore[call-arg]
    UploadConfig().max_retries = 3  # type: ignore[misc]
    PushOptions(allow_patterns="*.bin", ignore_patterns=["a"], delete_patterns=("b",))
    PushOptions(revision=None)  # type: ignore[arg-type]
