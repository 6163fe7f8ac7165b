"""A source to a bucket: what is sent, what shows, what is said when it does not."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, HfFileSystem, close_session, constants
from safetensors.numpy import load

import asyncpush
from asyncpush import (
    AuthError,
    InvalidRepoIdError,
    PushOptions,
    RepoNotFoundError,
    SourceError,
    SyncError,
    SyncOptions,
    Tensors,
    UploadConfig,
    Uploader,
)
from asyncpush.errors import AsyncPushError, RetriesExhaustedError
from asyncpush.events import PushFailed, PushFinished, PushStarted, RetryScheduled, Verified
from asyncpush.localhub import LocalHub
from asyncpush.pipeline import verification
from asyncpush.protocol import buckets
from asyncpush.transfers.xet.engine import XetEngine
from tests.buckets import BatchLog, bytes_of, rows_of
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer

pytestmark = pytest.mark.no_cover

Write = Callable[..., Path]

RUN = "hf://buckets/me/runs/run"
NOISE = random.Random(20).randbytes(300_000)
FILES: dict[str, bytes | str] = {"a.bin": NOISE, "sub/b.txt": "b", "empty": b"", "ö/ü.json": "{}"}


@pytest.fixture
def log() -> BatchLog:
    return BatchLog()


@pytest.fixture
def recorded() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def config(config: UploadConfig, recorded: EventRecorder) -> UploadConfig:
    return replace(config, events=recorded)


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer, log: BatchLog) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, log.middleware, xet=True) as hub:
        yield hub


@pytest.fixture
async def api(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HfApi]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    yield HfApi(endpoint=hub.url, token=TOKEN)
    close_session()


def below(folder: str, files: dict[str, bytes | str]) -> dict[str, bytes]:
    return {
        f"{folder}/{path}": content.encode() if isinstance(content, str) else content
        for path, content in files.items()
    }


async def test_a_folder_shows_below_the_address_byte_for_byte(
    uploader: Uploader, hub: LocalHub, write: Write, recorded: EventRecorder
) -> None:
    result = await uploader.sync(write(FILES), RUN)

    assert await bytes_of(hub) == below("run", FILES)
    assert set(result.files_uploaded) == set(below("run", FILES))
    assert (result.verified, result.files_unchanged, result.marker) == (True, (), None)
    assert result.bucket_url == f"{hub.url}/buckets/me/runs"
    assert result.bytes_transferred > len(NOISE)
    assert [(e.repo_id, e.repo_type, e.revision) for e in recorded.of(PushStarted)] == [
        ("me/runs", "bucket", "")
    ]
    assert [event.files for event in recorded.of(Verified)] == [len(FILES)]
    assert [(e.what, e.files_uploaded) for e in recorded.of(PushFinished)] == [("sync", len(FILES))]


async def test_the_official_client_and_sync_read_each_others_files(
    uploader: Uploader, hub: LocalHub, api: HfApi, write: Write, tmp_path: Path
) -> None:
    source = write(FILES)
    await uploader.sync(source, RUN)
    await asyncio.to_thread(api.sync_bucket, RUN, str(tmp_path / "back"))
    back = tmp_path / "back"
    assert {path: (back / path).read_bytes() for path in FILES} == {
        path: content.encode() if isinstance(content, str) else content
        for path, content in FILES.items()
    }
    assert (back / "a.bin").stat().st_mtime == pytest.approx((source / "a.bin").stat().st_mtime, 1)

    def read() -> bytes:
        fs = HfFileSystem(endpoint=hub.url, token=TOKEN, skip_instance_cache=True)
        return bytes(fs.cat_file("buckets/me/runs/run/a.bin"))

    assert await asyncio.to_thread(read) == NOISE
    await asyncio.to_thread(api.sync_bucket, str(source), "hf://buckets/me/runs/theirs")
    result = await uploader.sync(source, "hf://buckets/me/runs/theirs")
    assert (result.files_uploaded, result.bytes_transferred) == ((), 0)


async def test_a_change_of_equal_size_and_time_is_sent(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write(FILES)
    await uploader.sync(source, RUN)
    status = (source / "sub/b.txt").stat()
    (source / "sub/b.txt").write_bytes(b"c")
    os.utime(source / "sub/b.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    result = await uploader.sync(source, RUN)
    assert result.files_uploaded == ("run/sub/b.txt",)
    assert (await bytes_of(hub))["run/sub/b.txt"] == b"c"
    assert result.bytes_transferred < 2000


async def test_a_remembered_hash_spares_reading_the_file(
    uploader: Uploader,
    write: Write,
    settled_files: None,
    log: BatchLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write(FILES)
    await uploader.sync(source, RUN)

    async def read(self: XetEngine, files: object, changed: object) -> dict[str, str]:
        raise AssertionError("a file was read to be hashed")

    monkeypatch.setattr(XetEngine, "hash_files", read)
    result = await uploader.sync(source, RUN)
    assert (len(result.files_unchanged), result.bytes_transferred) == (len(FILES), 0)
    assert len(log.batches) == 1


async def test_an_mtime_no_listing_can_show_becomes_now(
    uploader: Uploader, api: HfApi, write: Write
) -> None:
    folder = write({"late": b"2", "usual": b"3"})
    os.utime(folder / "late", (1e12, 1e12))
    os.utime(folder / "usual", (1e9, 1e9))
    if (folder / "late").stat().st_mtime != 1e12:
        pytest.skip("this file system cannot store the time")
    assert (await uploader.sync(folder, RUN)).verified

    def years() -> dict[str, int]:
        infos = api.get_bucket_paths_info("me/runs", ["run/late", "run/usual"])
        return {info.path: info.mtime.year for info in infos if info.mtime}

    shown = await asyncio.to_thread(years)
    assert shown == {"run/late": datetime.now(UTC).year, "run/usual": 2001}


async def test_bytes_streams_tensors_and_shards_are_sources_too(
    uploader: Uploader, hub: LocalHub
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield NOISE[:100_000] * 11

    weights = {
        name: np.full(100_000, value, np.float32)
        for name, value in zip("abc", range(3), strict=True)
    }
    result = await uploader.sync(
        {"raw": b"raw", "s.bin": stream(), "model.safetensors": Tensors(weights)},
        RUN,
        SyncOptions(max_shard_size="500KB"),
    )
    found = await bytes_of(hub)
    assert set(result.files_uploaded) == set(found)
    assert found["run/raw"] == b"raw"
    assert found["run/s.bin"] == NOISE[:100_000] * 121
    shards = [load(content) for path, content in found.items() if path.endswith(".safetensors")]
    assert len(shards) == 3
    assert {name for shard in shards for name in shard} == set("abc")


async def test_one_file_lands_at_the_address_or_below_it(uploader: Uploader, hub: LocalHub) -> None:
    await uploader.sync(b"1", "hf://buckets/me/runs/one.txt")
    await uploader.sync({"x.txt": b"2"}, f"{hub.url}/buckets/me/runs/tree/below")
    assert await bytes_of(hub) == {"one.txt": b"1", "below/x.txt": b"2"}


async def test_delete_removes_whole_segments_and_what_the_patterns_choose(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.sync(
        {
            "logs/a": b"a",
            "logs/b": b"b",
            "logs/keep.tmp": b"t",
            "logs.json": b"{}",
            "logs2/c": b"c",
        },
        "hf://buckets/me/runs",
    )
    options = SyncOptions(delete=True, ignore_patterns="*.tmp")
    result = await uploader.sync({"a": b"new"}, "hf://buckets/me/runs/logs", options)
    assert result.files_deleted == ("logs/b",)
    assert await bytes_of(hub) == {
        "logs/a": b"new",
        "logs/keep.tmp": b"t",
        "logs.json": b"{}",
        "logs2/c": b"c",
    }


async def test_skipped_source_files_are_not_deleted(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    there = {
        "a": b"a",
        "data/train": b"1",
        "data/x/y": b"2",
        "__pycache__/m.pyc": b"3",
        "data2": b"4",
    }
    await uploader.sync(there, RUN)
    folder = write({"a": b"new", "__pycache__/m.pyc": b"3"}, "src")
    (folder / "data").symlink_to(write({"train": b"1"}, "elsewhere"))
    for marker in (False, True):
        options = SyncOptions(delete=True, complete_marker=marker)
        result = await uploader.sync(folder, RUN, options)
        assert result.files_deleted == (() if marker else ("run/data2",))
        shown = await bytes_of(hub)
        kept = {"run/a", "run/data/train", "run/data/x/y", "run/__pycache__/m.pyc"}
        assert {path for path in shown if not path.endswith(".json")} == kept


async def test_a_file_named_like_a_folder_is_a_warning(uploader: Uploader, hub: LocalHub) -> None:
    """The bucket takes both, but `hf sync` cannot download them."""
    await uploader.sync({"state/a": b"a", "log": b"log"}, RUN)
    below = await uploader.sync({"log/1": b"1"}, RUN)
    assert below.warnings == (
        "'run/log' is a file in the bucket and also the folder of 'run/log/1': no file system can"
        " hold both; remove one of them from the bucket",
    )
    above = await uploader.sync(b"state", f"{RUN}/state")
    assert [each.split(":")[0] for each in above.warnings] == [
        "'run/state' is a file in the bucket and also the folder of 'run/state/a'"
    ]
    both = SyncOptions(delete=True, ignore_patterns="log/*", dry_run=True)
    kept = await uploader.sync({"log": b"log"}, RUN, both)
    assert [each.split(":")[0] for each in kept.warnings] == [
        "'run/log' is a file in the bucket and also the folder of 'run/log/1'"
    ]
    # What is deleted is no longer in the way.
    cleaned = await uploader.sync({"state/a": b"a", "log/1": b"1"}, RUN, SyncOptions(delete=True))
    assert cleaned.warnings == ()
    assert set(await bytes_of(hub)) == {"run/state/a", "run/log/1"}


@pytest.mark.parametrize("below", ["/run", "/run/", ""])
async def test_a_single_file_deletes_nothing(
    uploader: Uploader, hub: LocalHub, write: Write, below: str
) -> None:
    there = {"run/a": b"a", "b": b"b"}
    await uploader.sync(there, "hf://buckets/me/runs")
    address = f"hf://buckets/me/runs{below}"
    options = SyncOptions(delete=True)
    with pytest.raises(SourceError, match="this is a single file"):
        await uploader.sync(write({"one": b"1"}) / "one", address, options)
    with pytest.raises(SourceError, match="this is a single file"):
        await uploader.sync(b"1", f"{address.rstrip('/')}/x", options)
    await uploader.push_to_hub("me/staged", {"one": b"1"})
    for source in ("hf://me/staged/one", "hf://buckets/me/runs/b"):
        with pytest.raises(SourceError, match="this is a single file"):
            await uploader.copy(source, address, options)
    assert await bytes_of(hub) == there


async def test_an_empty_source_deletes_nothing(
    uploader: Uploader, hub: LocalHub, tmp_path: Path
) -> None:
    await uploader.sync({"a": b"a"}, RUN)
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="contains no files"):
        await uploader.sync(tmp_path / "none", RUN, SyncOptions(delete=True))
    assert await bytes_of(hub) == {"run/a": b"a"}


async def test_a_dry_run_has_a_plan_and_changes_nothing(
    uploader: Uploader, hub: LocalHub, write: Write, log: BatchLog
) -> None:
    dry = SyncOptions(delete=True, dry_run=True)
    result = await uploader.sync({"a": b"a"}, RUN, dry)
    assert [(file.path_in_repo, file.action) for file in result.plan] == [("run/a", "xet")]
    assert "would be created" in result.warnings[0]
    with pytest.raises(RepoNotFoundError):
        await uploader.sync({"a": b"a"}, RUN, SyncOptions(create_bucket=False))

    source = write({"a": "a", "b": "b"})
    await uploader.sync(source, RUN)
    before, batches = await rows_of(hub), len(log.batches)
    (source / "b").rename(source / "c")
    result = await uploader.sync(source, RUN, dry)
    assert {file.path_in_repo: file.action for file in result.plan} == {
        "run/a": "unchanged",
        "run/b": "delete",
        "run/c": "xet",
    }
    assert (await rows_of(hub), len(log.batches)) == (before, batches)


async def test_files_are_added_in_batches_before_any_is_deleted(
    uploader: Uploader, hub: LocalHub, log: BatchLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "OPERATIONS_LIMIT", 10)
    monkeypatch.setattr(buckets, "PATHS_LIMIT", 7)
    await uploader.sync({f"old-{n}": bytes([n]) for n in range(25)}, RUN)
    log.batches.clear()
    new = {f"new-{n}": bytes([n]) for n in range(25)}
    result = await uploader.sync(new, RUN, SyncOptions(delete=True))
    kinds = [kind for kind, _ in log.written()]
    assert kinds == ["addFile"] * 25 + ["deleteFile"] * 25
    assert max(map(len, log.batches)) == 10
    assert len(result.files_deleted) == 25
    assert await bytes_of(hub) == {f"run/{path}": content for path, content in new.items()}


async def test_an_operation_that_failed_is_sent_again(
    uploader: Uploader, hub: LocalHub, log: BatchLog, recorded: EventRecorder
) -> None:
    refused = ["a"]

    def refuse(row: dict[str, Any]) -> str | None:
        return "storage is busy" if row["path"] == "run/a" and refused and refused.pop() else None

    log.refuse = refuse
    result = await uploader.sync({"a": b"a", "b": b"b"}, RUN)
    assert result.files_uploaded == ("run/a", "run/b")
    assert [[row["path"] for row in batch] for batch in log.batches][1] == ["run/a"]
    assert [event.reason for event in recorded.of(RetryScheduled)] == ["storage is busy"]


@pytest.mark.parametrize(("reason", "tries"), [("storage is busy", 3), ("Invalid path", 1)])
async def test_what_keeps_failing_is_reported_with_what_went_through(
    uploader: Uploader, hub: LocalHub, log: BatchLog, reason: str, tries: int
) -> None:
    await uploader.sync({"old": b"old"}, RUN)
    log.batches.clear()
    log.refuse = lambda row: reason if row["path"] == "run/a" else None
    with pytest.raises(SyncError, match=f"run/a: {reason}") as caught:
        await uploader.sync({"a": b"a", "b": b"b"}, RUN, SyncOptions(delete=True))
    assert [(each.path, each.reason) for each in caught.value.failures] == [("run/a", reason)]
    assert caught.value.result.files_uploaded == ("run/b",)
    assert not caught.value.result.verified
    assert ("ignore_patterns" in caught.value.suggestion) is (tries == 1)
    assert len(log.batches) == tries
    assert set(await bytes_of(hub)) == {"run/old", "run/b"}  # nothing was deleted


async def test_all_operations_may_fail_in_one_422(
    uploader: Uploader, log: BatchLog, hub: LocalHub
) -> None:
    log.refuse = lambda row: "quota exceeded"
    with pytest.raises(SyncError) as caught:
        await uploader.sync({"a": b"a", "b": b"b"}, RUN)
    assert {each.path for each in caught.value.failures} == {"run/a", "run/b"}
    assert await bytes_of(hub) == {}


async def test_a_failed_deletion_of_a_gone_file_is_no_failure(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    await uploader.sync({"a": b"a", "b": b"b"}, RUN)

    async def remove() -> None:
        log.refuse = lambda row: None
        await uploader.sync({"a": b"a"}, RUN, SyncOptions(delete=True))
        log.refuse = lambda row: "Entry not found" if row["type"] == "deleteFile" else None

    log.before = [remove]
    result = await uploader.sync({"a": b"a"}, RUN, SyncOptions(delete=True))
    assert result.verified
    assert await bytes_of(hub) == {"run/a": b"a"}


@pytest.mark.parametrize("kind", ["done, then reset", "done, then 504", "504"])
async def test_a_lost_answer_is_replaced_by_a_look(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, log: BatchLog, kind: str
) -> None:
    faults.add("bucket-batch", kind)
    result = await uploader.sync({"a": b"a"}, RUN)
    assert result.verified
    assert faults.seen["bucket-batch"] == (2 if kind == "504" else 1)
    assert await bytes_of(hub) == {"run/a": b"a"}


async def test_a_batch_landed_on_its_last_attempt_succeeds(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "done, then 504", times=9)
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=0)) as uploader:
        result = await uploader.sync({"a": b"a"}, RUN)
    assert result.files_uploaded == ("run/a",)


async def test_a_falsely_confirmed_batch_is_an_error(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "nothing applied")
    with pytest.raises(SyncError, match="run/a: missing"):
        await uploader.sync({"a": b"a"}, RUN)


async def test_nothing_is_deleted_before_what_was_added_is_there(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    await uploader.sync({"old": b"a"}, RUN)
    faults.add("bucket-batch", "nothing applied", nth=2)
    with pytest.raises(SyncError, match="run/renamed: missing") as caught:
        await uploader.sync({"renamed": b"a"}, RUN, SyncOptions(delete=True))
    assert caught.value.result.files_deleted == ()
    assert await bytes_of(hub) == {"run/old": b"a"}


async def test_without_verify_the_hubs_answer_is_believed(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "nothing applied")
    result = await uploader.sync({"a": b"a"}, RUN, SyncOptions(verify=False))
    assert (result.files_uploaded, result.verified) == (("run/a",), False)


async def test_a_listing_that_lags_behind_is_looked_at_again(
    uploader: Uploader, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    parse = buckets.parse_paths_info

    def late(response: Any) -> dict[str, buckets.BucketFile]:
        nonlocal checks
        checks += 1
        return parse(response) if checks > 3 else {}

    monkeypatch.setattr(buckets, "parse_paths_info", late)
    assert (await uploader.sync({"a": b"a"}, RUN)).verified
    assert checks == 4 <= verification.CHECKS


async def test_a_hub_that_goes_away_after_the_batch_hides_nothing(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    faults.add("bucket-paths-info", "500", nth=2, times=99)
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        with pytest.raises(SyncError, match="did not finish") as caught:
            await uploader.sync({"a": b"a"}, RUN)
    assert caught.value.result.files_uploaded == ("run/a",)
    assert isinstance(caught.value.__cause__, RetriesExhaustedError)


@pytest.mark.parametrize("kind", ["done, then 504", "done, then reset"])
async def test_a_lost_answer_is_not_an_unchanged_bucket(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, kind: str
) -> None:
    faults.add("bucket-batch", kind)
    faults.add("bucket-paths-info", "503", nth=2, times=99)
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        with pytest.raises(SyncError, match="run/a: ") as caught:
            await uploader.sync({"a": b"a"}, RUN)
    assert await bytes_of(hub) == {"run/a": b"a"}
    assert caught.value.result.files_uploaded == ()


async def test_a_lost_answer_before_a_refusal_is_a_sync_error(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "504")  # it may still be done later
    faults.add("bucket-batch", "403", nth=2, times=99)
    with pytest.raises(SyncError, match="run/a: "):
        await uploader.sync({"a": b"a"}, RUN)


async def test_changes_of_a_batch_survive_an_unreadable_listing(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, log: BatchLog
) -> None:
    log.refuse = lambda row: "storage is busy" if row["path"] == "run/a" else None
    faults.add("bucket-paths-info", "500", nth=2, times=99)
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        with pytest.raises(SyncError) as caught:
            await uploader.sync({"a": b"a", "b": b"b"}, RUN)
    assert caught.value.result.files_uploaded == ("run/b",)
    assert await bytes_of(hub) == {"run/b": b"b"}


async def test_a_sync_that_is_cancelled_says_what_it_has_changed(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-paths-info", "answer never sent", nth=2)
    running = uploader.start_sync({"a": b"a"}, RUN)
    await faults.stalled.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    [note] = caught.value.__notes__
    assert "/buckets/me/runs before that, and not verified: 1 file(s) added (run/a)" in note


async def test_a_sync_cancelled_before_a_change_has_no_note(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-paths-info", "answer never sent")
    running = uploader.start_sync({"a": b"a"}, RUN)
    await faults.stalled.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert not getattr(caught.value, "__notes__", ())


async def test_a_cancelled_batch_may_have_changed_the_bucket(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "done, answer never sent")
    running = uploader.start_sync({"a": b"a"}, RUN)
    await faults.stalled.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    [note] = caught.value.__notes__
    assert "the answer to a batch did not come: more may have been changed" in note


@pytest.mark.parametrize(
    ("route", "nth", "reported"),
    [("bucket-paths-info", 2, ("run/a",)), ("bucket-batch", 1, ())],
    ids=["verifying", "in a batch"],
)
async def test_a_timeout_after_a_change_names_the_changes(
    route: str,
    nth: int,
    reported: tuple[str, ...],
    uploader: Uploader,
    faults: FaultLayer,
    recorded: EventRecorder,
) -> None:
    faults.add(route, "answer never sent", nth=nth)
    with pytest.raises(SyncError, match="took longer than its timeout of 1") as caught:
        await uploader.sync({"a": b"a"}, RUN, SyncOptions(timeout=1.0))
    assert caught.value.result.files_uploaded == reported
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert [event.error_type for event in recorded.of(PushFailed)] == ["SyncError"]


async def test_a_timeout_before_a_change_is_a_timeout(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-paths-info", "answer never sent")
    with pytest.raises(TimeoutError):
        await uploader.sync({"a": b"a"}, RUN, SyncOptions(timeout=0.5))


async def test_a_refusal_before_anything_has_changed_is_itself(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "403", times=9)
    with pytest.raises(AuthError):
        await uploader.sync({"a": b"a"}, RUN)


@pytest.mark.parametrize("kind", ["409 owner", "403 namespace", "done, then reset"])
async def test_a_bucket_created_meanwhile_is_used(
    uploader: Uploader, hub: LocalHub, api: HfApi, faults: FaultLayer, kind: str
) -> None:
    faults.add("bucket", "404 repo")
    faults.add("bucket-create", kind, nth=2)
    await asyncio.to_thread(api.create_bucket, "me/runs")
    assert (await uploader.sync({"a": b"a"}, RUN)).verified


async def test_a_bucket_that_may_not_be_created_is_said_so(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("bucket-create", "403 namespace")
    with pytest.raises(AuthError, match="may not create repos under me"):
        await uploader.sync({"a": b"a"}, RUN)


async def test_private_is_asked_for(uploader: Uploader, api: HfApi) -> None:
    await uploader.sync({"a": b"a"}, RUN, SyncOptions(private=True))
    info = await asyncio.to_thread(api.bucket_info, "me/runs")
    assert (info.private, info.total_files) == (True, 1)


async def test_there_is_no_way_in_but_xet(
    hub: LocalHub, config: UploadConfig, log: BatchLog
) -> None:
    async with Uploader(TOKEN, hub.url, replace(config, transfer="lfs")) as uploader:
        with pytest.raises(AsyncPushError, match="only through Xet"):
            await uploader.sync({"a": b"a"}, RUN)
    assert log.batches == []


async def test_addresses_of_the_wrong_kind_name_the_right_command(uploader: Uploader) -> None:
    with pytest.raises(InvalidRepoIdError, match="use sync"):
        await uploader.push_to_hub(RUN, {"a": b"a"})
    for address in ("me/model", "hf://me/model", "hf://datasets/me/d"):
        with pytest.raises(InvalidRepoIdError, match="push_to_hub"):
            await uploader.sync({"a": b"a"}, address)


async def test_a_source_with_a_credential_is_refused_when_strict(
    uploader: Uploader, log: BatchLog
) -> None:
    source = {".env": b"HF_TOKEN=hf_" + b"a1B2" * 9}
    with pytest.raises(SourceError):
        await uploader.sync(source, RUN, SyncOptions(strict=True))
    assert log.batches == []


async def test_an_audit_compares_size_and_xet_hash(
    uploader: Uploader, hub: LocalHub, write: Write, api: HfApi
) -> None:
    source = write(FILES)
    with pytest.raises(RepoNotFoundError):
        await uploader.audit(RUN, source)
    await uploader.sync(source, RUN, SyncOptions(complete_marker=True))
    report = await uploader.audit(RUN, source)
    assert report.exact
    assert len(report.matching) == len(FILES)
    assert (await uploader.audit(RUN, {"a.bin": NOISE, "empty": b""})).complete

    (source / "sub/b.txt").write_text("c")
    (source / "empty").unlink()
    (source / "new").write_text("new")
    report = await uploader.audit("hf://buckets/me/runs", source, PushOptions(path_in_repo="run"))
    assert report.different == ("run/sub/b.txt",)
    assert report.missing == ("run/new",)
    assert report.extra == ("run/empty",)
    with pytest.raises(InvalidRepoIdError, match="revision 'dev' contradicts"):
        await uploader.audit(RUN, source, PushOptions(revision="dev"))


async def test_an_audit_knows_what_the_official_client_wrote(
    uploader: Uploader, hub: LocalHub, api: HfApi
) -> None:
    def fill() -> None:
        api.create_bucket("me/runs")
        api.batch_bucket_files("me/runs", add=[(NOISE, "run/a.bin"), (b"x", "run/b")])

    await asyncio.to_thread(fill)
    assert (await uploader.audit(RUN, {"a.bin": NOISE, "b": b"x"})).exact
    assert (await uploader.audit(RUN, {"a.bin": NOISE, "b": b"y"})).different == ("run/b",)


async def test_an_audit_hashes_many_files_at_once(
    uploader: Uploader, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write({f"{number:03}.bin": bytes([number]) * 1000 for number in range(150)})
    await uploader.sync(source, RUN)
    together: list[int] = []
    hash_files = XetEngine.hash_files

    async def counted(self: XetEngine, files: Any, changed: Any) -> dict[str, str]:
        together.append(len(files))
        return await hash_files(self, files, changed)

    monkeypatch.setattr(XetEngine, "hash_files", counted)
    assert (await uploader.audit(RUN, source)).exact
    assert together == [64, 64, 22]


async def test_the_doctor_looks_at_a_bucket(
    uploader: Uploader, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verdicts() -> dict[str, tuple[str, str]]:
        found = await uploader.doctor(RUN)
        return {each.name: (each.verdict, each.found) for each in found}

    found = await verdicts()
    assert found["repo"] == (
        "ok",
        "bucket me/runs does not exist, or is hidden from this token; a sync creates it",
    )
    await uploader.sync({"a": b"a"}, RUN)
    found = await verdicts()
    assert found["repo"][0] == "ok"
    assert "bucket me/runs" in found["repo"][1]
    assert found["verify"][0] == "ok"
    assert found["write"][0] == "ok"
    assert "branch" not in found
    faults.add("bucket-xet-write-token", "403", nth=faults.seen["bucket-xet-write-token"] + 1)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    found = await verdicts()
    assert found["write"] == ("failed", "the token may not write to me/runs")
    assert found["xet"][0] == "failed"


async def test_one_call_is_enough(hub: LocalHub, config: UploadConfig) -> None:
    result = await asyncpush.sync({"a": b"a"}, RUN, token=TOKEN, endpoint=hub.url, config=config)
    assert result.files_uploaded == ("run/a",)
