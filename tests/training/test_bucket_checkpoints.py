"""Checkpoints of a training run in a bucket: a set each, the newest few of them kept."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncpush import (
    BackgroundUploader,
    CheckpointPusher,
    PushOptions,
    SyncOptions,
    UploadConfig,
    Uploader,
)
from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.pipeline.checkpoint_sets import MARKER
from tests.buckets import BatchLog, bytes_of, rows_of
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.training.test_transformers import Run

RUN = "hf://buckets/me/runs/run-7"
Write = Callable[..., Path]


@pytest.fixture
def log() -> BatchLog:
    return BatchLog()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer, log: BatchLog) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, log.middleware, xet=True) as hub:
        yield hub


async def test_each_checkpoint_is_a_set_and_only_the_newest_stay(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    async with CheckpointPusher(uploader, RUN, keep=2, policy="all") as pusher:
        for step in (8, 9, 10):
            await pusher.push(write({"model.bin": f"{step}", "s/state": "s"}, f"step-{step}"))
        report = await pusher.flush()
    assert [(each.name, each.status, each.pruned) for each in report.outcomes] == [
        ("step-8", "pushed", ()),
        ("step-9", "pushed", ()),
        ("step-10", "pushed", ("step-8",)),
    ]
    last = report.outcomes[-1]
    assert last.result is None
    assert last.synced is not None
    assert last.synced.marker == f"run-7/step-10/{MARKER}"
    assert [each.name for each in await uploader.checkpoints_in(RUN)] == ["step-9", "step-10"]
    found = await bytes_of(hub)
    assert {path.split("/")[1] for path in found} == {"step-9", "step-10"}
    assert found["run-7/step-10/model.bin"] == b"10"


PUSHER = """
import asyncio, sys
from asyncpush import CheckpointPusher, UploadConfig, Uploader

endpoint, token, cache, name, count, keep = sys.argv[1:]

async def main():
    config = UploadConfig(cache_dir=cache, progress="none")
    async with (
        Uploader(token, endpoint, config) as up,
        CheckpointPusher(up, "hf://buckets/me/runs/run-7", keep=int(keep), policy="all") as pusher,
    ):
        for step in range(int(count)):
            files = {"model.bin": f"{name} {step}".encode(), "config.json": b"{}"}
            await pusher.push(files, name=f"{name}-{step}")
        for outcome in (await pusher.flush()).outcomes:
            for warning in outcome.synced.warnings:
                print(warning)
            print(outcome.status, outcome.name, *outcome.pruned)

asyncio.run(main())
"""


@pytest.mark.parametrize("keep", [1, 3])
async def test_two_processes_keep_the_newest_of_both(
    keep: int, uploader: Uploader, hub: LocalHub, tmp_path: Path
) -> None:
    count = 6
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PUSHER, hub.url, TOKEN),
            *(str(tmp_path / f"cache-{name}"), name, str(count), str(keep)),
            stdout=asyncio.subprocess.PIPE,
        )
        for name in ("left", "right")
    ]
    printed = [(await process.communicate())[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    rows = [line.split() for line in "".join(printed).splitlines()]
    names = {f"{name}-{step}" for name in ("left", "right") for step in range(count)}
    assert {(status, name) for status, name, *_ in rows} == {("pushed", name) for name in names}
    there = [found.name for found in await uploader.checkpoints_in(RUN)]
    assert len(there) == keep
    assert {f"left-{count - 1}", f"right-{count - 1}"} & set(there)
    assert names - set(there) <= {gone for _, _, *pruned in rows for gone in pruned}
    left = {path.split("/")[1] for path in await rows_of(hub)}
    assert left == set(there)


async def test_a_name_that_is_used_again_replaces_the_set_whole(
    uploader: Uploader, hub: LocalHub
) -> None:
    url = f"{hub.url}/buckets/me/runs/tree/run-7"
    async with CheckpointPusher(uploader, url, policy="all") as pusher:
        await pusher.push({"a": b"1", "b": b"1"}, name="last")
        await pusher.push({"a": b"2"}, SyncOptions(private=True), name="last")
    assert set(await rows_of(hub)) == {"run-7/last/a", f"run-7/last/{MARKER}"}


async def test_an_unnamed_folder_pushed_again_is_a_warning(
    uploader: Uploader, hub: LocalHub, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Each push replaces the only set that there is, whatever `keep` says."""
    async with CheckpointPusher(uploader, RUN, keep=3, policy="all") as pusher:
        for content, name in (("1", None), ("1", None), ("2", None), ("3", "out"), ("3", "last")):
            await pusher.push(write({"model.bin": content}, "out"), name=name)
            await pusher.flush()
        report = pusher.report
    results = [outcome.synced for outcome in report.outcomes]
    replaced = [[text for text in each.warnings if "replaced" in text] for each in results if each]
    assert [len(warnings) for warnings in replaced] == [0, 0, 1, 0, 0]
    assert replaced[2][0].startswith("this checkpoint replaced the earlier one named 'out'")
    assert replaced[2][0] in caplog.text
    assert [each.name for each in await uploader.checkpoints_in(RUN)] == ["out", "last"]
    assert (await bytes_of(hub))["run-7/out/model.bin"] == b"3"


def test_blocking_code_is_warned_of_a_replaced_checkpoint(
    bg: BackgroundUploader, write: Write
) -> None:
    checkpoints = bg.checkpoints(RUN)
    with pytest.raises(ValueError, match="give the checkpoint a name"):
        checkpoints.push({"model.bin": b"1"})
    for content in ("1", "2"):
        checkpoints.push(write({"model.bin": content}, "out"))
        report = checkpoints.flush()
    last = report.outcomes[-1].synced
    assert last is not None
    assert "replaced the earlier one named 'out'" in last.warnings[0]


async def test_an_unchanged_checkpoint_pushed_again_is_the_newest(
    uploader: Uploader, log: BatchLog
) -> None:
    async with CheckpointPusher(uploader, RUN, keep=2, policy="all") as pusher:
        for name in ("1", "2", "3"):
            await pusher.push({"a": name.encode()}, name=name)
        await pusher.flush()
        log.batches.clear()
        await pusher.push({"a": b"2"}, name="2")  # as after a return to an earlier step
        report = await pusher.flush()
    assert log.written() == [("addFile", f"run-7/2/{MARKER}")]  # complete all the time
    last = report.outcomes[-1].synced
    assert last is not None
    assert (last.files_unchanged, last.files_uploaded) == (("run-7/2/a",), ())
    assert [each.name for each in await uploader.checkpoints_in(RUN)] == ["3", "2"]
    async with CheckpointPusher(uploader, RUN, keep=1) as pusher:
        await pusher.push({"a": b"3"}, name="3")
        report = await pusher.flush()
    assert report.outcomes[0].pruned == ("2",)
    assert [each.name for each in await uploader.checkpoints_in(RUN)] == ["3"]


async def test_older_checkpoints_that_cannot_be_removed_are_a_warning(
    uploader: Uploader, log: BatchLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.refuse = lambda row: "not allowed" if row["path"] == "run-7/1/a" else None
    async with CheckpointPusher(uploader, RUN, keep=1, policy="all") as pusher:
        log.refuse = lambda row: None
        await pusher.push({"a": b"1"}, name="1")
        await pusher.flush()
        log.refuse = lambda row: "not allowed" if row["path"] == "run-7/1/a" else None
        await pusher.push({"a": b"2"}, name="2")
        report = await pusher.flush()
    last = report.outcomes[-1]
    assert (last.status, last.pruned) == ("pushed", ())
    assert last.synced is not None
    assert "older checkpoints were not removed" in last.synced.warnings[0]
    warned = [r for r in caplog.records if r.name == "asyncpush.checkpoints"]
    assert [record.levelno for record in warned] == [logging.WARNING]


async def test_a_name_that_is_not_one_folder_is_refused(uploader: Uploader) -> None:
    """With a backslash it would be two folders, and the set would never be listed or removed."""
    name: Any
    async with CheckpointPusher(uploader, RUN) as pusher:
        for name in ("", "a/b", "a\\b", "..", "a\0", "x" * 300, 5):
            with pytest.raises(ValueError, match="the checkpoint's name"):
                await pusher.push({"a": b"1"}, name=name)
        assert (await pusher.flush()).outcomes == ()


async def test_what_does_not_go_together_is_said_at_once(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="keep is only for buckets"):
        CheckpointPusher(uploader, "me/m", keep=3)
    with pytest.raises(ValueError, match="at least 1"):
        CheckpointPusher(uploader, RUN, keep=0)
    with pytest.raises(ValueError, match="takes SyncOptions, not PushOptions"):
        CheckpointPusher(uploader, RUN, PushOptions())
    with pytest.raises(ValueError, match="takes PushOptions, not SyncOptions"):
        CheckpointPusher(uploader, "me/m", SyncOptions())
    with pytest.raises(ValueError, match="dry_run cannot be used for checkpoints"):
        CheckpointPusher(uploader, RUN, SyncOptions(dry_run=True))
    async with CheckpointPusher(uploader, RUN) as pusher:
        with pytest.raises(ValueError, match="dry_run cannot be used for checkpoints"):
            await pusher.push({"a": b"1"}, SyncOptions(dry_run=True), name="1")
        for source, name in (({"a": b"1"}, None), ({"a": b"1"}, "a/b"), ({"a": b"1"}, "..")):
            with pytest.raises(ValueError, match="name"):
                await pusher.push(source, name=name)


@pytest.fixture
def bg(tmp_path: Path, config: UploadConfig) -> Iterator[BackgroundUploader]:
    with (
        serve_in_thread(tmp_path / "hub", token=TOKEN, xet=True) as hub,
        BackgroundUploader(TOKEN, hub.url, config) as uploader,
    ):
        yield uploader


def test_blocking_code_syncs_with_a_ticket(bg: BackgroundUploader) -> None:
    ticket = bg.sync({"a": b"1"}, RUN)
    assert ticket.result(60).files_uploaded == ("run-7/a",)
    assert (ticket.repo_id, ticket.done(), ticket.exception()) == ("me/runs", True, None)
    with pytest.raises(ValueError, match="not the address of a bucket"):
        bg.sync({"a": b"1"}, "me/m")


@pytest.mark.heavy
def test_the_trainers_saves_become_sets(bg: BackgroundUploader, tmp_path: Path) -> None:
    from asyncpush.training.transformers import PushCheckpoints

    callback = PushCheckpoints(RUN, keep=2, with_state=True, policy="all", uploader=bg)
    run = Run(callback, tmp_path / "out")
    run.steps(30)
    run.end()
    assert [each.name for each in callback.report.outcomes] == ["step-10", "step-20", "step-30"]
    assert [each.status for each in callback.report.outcomes] == ["pushed"] * 3
    assert callback.report.outcomes[-1].pruned == ("step-10",)
    synced = callback.report.outcomes[-1].synced
    assert synced is not None
    assert "run-7/step-30/optimizer.pt" in synced.files_uploaded
