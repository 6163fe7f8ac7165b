"""Checkpoints pushed beside a training loop: the two policies, the ways out, no lost word."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncpush import (
    CheckpointOutcome,
    CheckpointPusher,
    CheckpointReport,
    HubError,
    InvalidRepoIdError,
    PushOptions,
    SourceChangedError,
    SourceError,
    Uploader,
)
from asyncpush.localhub import LocalHub
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of

Write = Callable[..., Path]


def step(number: int) -> tuple[dict[str, bytes], PushOptions]:
    return {f"{number}.bin": b"\0%d" % number}, PushOptions(commit_message=f"step {number}")


def summary(report: CheckpointReport) -> list[tuple[str, str]]:
    return [(outcome.name, outcome.status) for outcome in report.outcomes]


def complaints(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == "asyncpush.checkpoints"
    ]


async def test_latest_pushes_the_newest_and_reports_the_rest(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add("part", "stall before reading")
    reported: list[CheckpointOutcome] = []
    async with CheckpointPusher(uploader, "me/m", on_outcome=reported.append) as pusher:
        await pusher.push(*step(1))
        await faults.stalled.wait()
        assert pusher.progress is not None
        assert pusher.progress.total_files == 1
        for number in (2, 3, 4):
            await pusher.push(*step(number))
        assert summary(pusher.report) == [("step 2", "skipped"), ("step 3", "skipped")]
        faults.released.set()
        report = await pusher.flush()
    assert summary(report)[2:] == [("step 1", "pushed"), ("step 4", "pushed")]
    assert str(report) == "2 pushed, 2 skipped"
    assert [outcome.name for outcome in reported] == [outcome.name for outcome in report.outcomes]
    assert all(outcome.result and outcome.result.verified for outcome in reported[2:])
    assert complaints(caplog) == [
        (logging.WARNING, f"checkpoint 'step {number}' was skipped: a newer one replaced it")
        for number in (2, 3)
    ]
    assert await files_of(hub, "me/m") == {".gitattributes", "1.bin", "4.bin"}
    assert pusher.progress is None


async def test_all_pushes_every_one_in_order_and_waits_for_room(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("part", "stall before reading")
    async with CheckpointPusher(uploader, "me/m", policy="all", max_waiting=2) as pusher:
        for number in (1, 2, 3):
            await pusher.push(*step(number))
        await faults.stalled.wait()
        fourth = asyncio.create_task(pusher.push(*step(4)))
        await asyncio.sleep(0)
        assert not fourth.done()
        faults.released.set()
        await fourth
    assert summary(pusher.report) == [(f"step {number}", "pushed") for number in (1, 2, 3, 4)]
    titles = [row["title"] for row in reversed(await commits_of(hub, "me/m"))]
    assert titles[1:] == ["step 1", "step 2", "step 3", "step 4"]


async def test_a_failure_is_logged_and_the_next_checkpoint_runs(
    uploader: Uploader, faults: FaultLayer, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add("commit", "422")
    async with CheckpointPusher(uploader, "me/m", policy="all") as pusher:
        await pusher.push(*step(1))
        await pusher.push(*step(2))
        report = await pusher.flush()
    assert summary(report) == [("step 1", "failed"), ("step 2", "pushed")]
    (failed,) = report.having("failed")
    assert isinstance(failed.error, HubError)
    ((level, text),) = complaints(caplog)
    assert level == logging.ERROR
    assert text.startswith("checkpoint 'step 1' was not pushed: ")
    assert "422" in text


@pytest.mark.parametrize("failures", [1, 2])
async def test_unreported_failures_are_raised_at_the_end(
    failures: int, uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("commit", "422", times=failures)
    wanted: Any = pytest.raises(HubError)
    if failures > 1:
        wanted = pytest.RaisesGroup(HubError, HubError, match="2 checkpoints were not pushed")
    with wanted:
        async with CheckpointPusher(uploader, "me/m", policy="all") as pusher:
            for number in range(failures):
                await pusher.push(*step(number))


async def test_failures_reported_to_the_callback_are_not_raised(
    uploader: Uploader, faults: FaultLayer, caplog: pytest.LogCaptureFixture
) -> None:
    def emit(outcome: CheckpointOutcome) -> None:
        raise LookupError("the callback's own")

    faults.add("commit", "422")
    async with CheckpointPusher(uploader, "me/m", on_outcome=emit) as pusher:
        await pusher.push(*step(1))
    assert summary(pusher.report) == [("step 1", "failed")]
    assert complaints(caplog)[-1] == (
        logging.ERROR,
        "on_outcome failed for checkpoint 'step 1'",
    )


async def test_an_error_in_training_lets_the_checkpoints_end(
    uploader: Uploader, faults: FaultLayer
) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        async with CheckpointPusher(uploader, "me/m") as pusher:
            await pusher.push(*step(1))
            await pusher.push(*step(2))
            raise RuntimeError("out of memory")
    assert summary(pusher.report) == [("step 1", "pushed"), ("step 2", "pushed")]


@pytest.mark.parametrize("how", ["on_error=cancel", "cancelled", "cancelled while it waits"])
async def test_a_way_out_that_cancels_says_so(
    how: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("part", "stall before reading", times=99)
    on_error: Any = "cancel" if how == "on_error=cancel" else "wait"
    pusher = CheckpointPusher(uploader, "me/m", on_error=on_error)
    leaving = asyncio.Event()

    async def train() -> None:
        async with pusher:
            await pusher.push(*step(1))
            await pusher.push(*step(2))
            await faults.stalled.wait()
            leaving.set()
            if how == "on_error=cancel":
                raise RuntimeError("out of memory")
            if how == "cancelled":
                await asyncio.Event().wait()

    training = asyncio.create_task(train())
    await leaving.wait()
    if how == "on_error=cancel":
        with pytest.raises(RuntimeError):
            await training
    else:
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
    assert sorted(summary(pusher.report)) == [("step 1", "cancelled"), ("step 2", "cancelled")]
    assert await files_of(hub, "me/m") == {".gitattributes"}


async def test_the_end_of_the_loop_cancels_what_waits(
    uploader: Uploader, faults: FaultLayer
) -> None:
    """As `asyncio.run` does with the tasks that are left."""
    faults.add("part", "stall before reading", times=99)
    pusher = CheckpointPusher(uploader, "me/m")
    await pusher.push(*step(1))
    await pusher.push(*step(2))
    await faults.stalled.wait()
    (task,) = pusher._busy
    task.cancel()
    await pusher.drained()
    assert summary(pusher.report) == [("step 1", "cancelled"), ("step 2", "cancelled")]


async def test_what_cannot_even_begin_is_an_outcome_too(uploader: Uploader) -> None:
    async with CheckpointPusher(uploader, "no repo") as pusher:
        await pusher.push(*step(1))
        (outcome,) = (await pusher.flush()).outcomes
    assert isinstance(outcome.error, InvalidRepoIdError)


@pytest.mark.parametrize("snapshot", [True, "hardlink"])
async def test_a_trainer_may_overwrite_what_is_being_pushed(
    snapshot: Any, uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "stall before reading")
    folder = write({"model.bin": b"\0first", "config.json": b"{}"})
    async with CheckpointPusher(uploader, "me/m", snapshot=snapshot) as pusher:
        await pusher.push(folder)
        (folder / "model.bin").unlink()
        (folder / "model.bin").write_bytes(b"\0worse")
        await faults.stalled.wait()
        faults.released.set()
    assert summary(pusher.report) == [("out", "pushed")]
    assert await download(hub, "me/m") == {"model.bin": b"\0first", "config.json": b"{}"}
    assert sorted(path.name for path in folder.parent.iterdir() if path.name[0] == ".") == []


@pytest.mark.parametrize("route", ["preupload", "commit"])
async def test_a_checkpoint_that_loses_a_file_is_not_committed(
    route: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    folder = write({"model.bin": b"\0model", "config.json": b"{}"})
    faults.hooks[route] = (folder / "config.json").unlink
    if route == "commit":  # refused once, so that inline files are read again
        faults.add("commit", "412")
    async with CheckpointPusher(uploader, "me/m") as pusher:
        await pusher.push(folder)
        (outcome,) = (await pusher.flush()).outcomes
    assert isinstance(outcome.error, SourceChangedError)
    assert "not whole without config.json" in str(outcome.error)
    assert await download(hub, "me/m") == {}


async def test_skipped_and_cancelled_snapshots_are_removed(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "stall before reading", times=9)
    folder = write({"model.bin": b"\0first"})
    async with CheckpointPusher(uploader, "me/m", snapshot=True) as pusher:
        for _ in range(3):
            await pusher.push(folder)
        await faults.stalled.wait()
        pusher.cancel()
    assert [outcome.status for outcome in pusher.report.outcomes] == [
        "skipped",
        "cancelled",
        "cancelled",
    ]
    assert sorted(path.name for path in folder.parent.iterdir() if path.name[0] == ".") == []


@pytest.mark.parametrize("source", ["nowhere", {"a": "b"}], ids=["missing", "paths in a mapping"])
async def test_a_snapshot_that_fails_is_a_failed_checkpoint(
    source: Any, uploader: Uploader, tmp_path: Path
) -> None:
    if isinstance(source, str):
        source = tmp_path / source
    async with CheckpointPusher(uploader, "me/m", snapshot=True) as pusher:
        await pusher.push(source, PushOptions(path_in_repo="a"))
        (outcome,) = (await pusher.flush()).outcomes
    assert isinstance(outcome.error, SourceError)


def test_the_report_of_nothing_says_so() -> None:
    assert str(CheckpointReport()) == "none"


@pytest.mark.parametrize(
    "wrong",
    [{"policy": "some"}, {"max_waiting": 0}, {"snapshot": "photo"}, {"on_error": "pray"}],
    ids=["policy", "max_waiting", "snapshot", "on_error"],
)
async def test_wrong_settings_are_refused(wrong: dict[str, Any], uploader: Uploader) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CheckpointPusher(uploader, "me/m", **wrong)


async def test_a_snapshot_copies_whatever_in_memory_can_still_change(
    uploader: Uploader, hub: LocalHub
) -> None:
    array, file = bytearray(b"old"), io.BytesIO(b"old")
    whole: Any = array
    parts: Any = {"array": array, "view": memoryview(array), "file": file, "bytes": b"old"}
    options = PushOptions(path_in_repo="whole")
    async with CheckpointPusher(uploader, "me/m", policy="all", snapshot=True) as pusher:
        await pusher.push(whole, options)
        await pusher.push(parts)
        array[:] = file.getbuffer()[:] = b"new"
        report = await pusher.flush()
    assert str(report) == "2 pushed"
    found = await download(hub, "me/m")
    assert {found[name] for name in ("whole", *parts)} == {b"old"}
