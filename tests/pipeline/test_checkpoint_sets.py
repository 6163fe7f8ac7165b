"""Sets of files in a bucket: whole or not there, whoever fails, is killed, or writes as well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush import SourceError, SyncError, SyncOptions, UploadConfig, Uploader
from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.pipeline.checkpoint_sets import MARKER, PRUNED, SetMarker
from asyncpush.protocol import buckets
from tests.buckets import BatchLog, bytes_of, rows_of
from tests.conftest import TOKEN, open_hub
from tests.fake_bucket import FakeBucket, Killed, prune, sync_to
from tests.faults import FaultLayer

pytestmark = pytest.mark.no_cover

RUN = "hf://buckets/me/runs/run"
STEP = f"{RUN}/step-1"
WHOLE = SyncOptions(complete_marker=True, delete=True)
NAMES = ("a", "b", "c")
NOTE = f"run/step-1/{PRUNED}"


def version(number: int, names: tuple[str, ...] = NAMES) -> dict[str, bytes]:
    return {name: f"{name} {number}".encode() for name in names}


@pytest.fixture
def log() -> BatchLog:
    return BatchLog()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer, log: BatchLog) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, log.middleware, xet=True) as hub:
        yield hub


async def batch(hub: LocalHub, lines: list[dict[str, str]]) -> None:
    """Change the bucket as a tool does that knows of no markers."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    url = f"{hub.url}/api/buckets/me/runs/batch"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.post(url, data=data) as answer,
    ):
        assert answer.status == 200


async def names_in(uploader: Uploader) -> list[str]:
    return [each.name for each in await uploader.checkpoints_in(RUN)]


async def test_the_marker_is_removed_first_and_written_last(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    result = await uploader.sync(version(1), STEP, WHOLE)
    assert result.marker == f"run/step-1/{MARKER}"
    [found] = await uploader.checkpoints_in(RUN)
    assert (found.address, found.name, found.files) == (STEP, "step-1", NAMES)
    assert found.size == sum(map(len, version(1).values()))
    log.batches.clear()

    await uploader.sync(version(2, ("a", "b")), STEP, WHOLE)
    marker = f"run/step-1/{MARKER}"
    assert log.batches[0] == [{"type": "deleteFile", "path": marker}]
    assert [row["path"] for row in log.batches[-1]] == [marker]
    assert log.batches[-1][0]["type"] == "addFile"
    changes = [row["path"] for batch in log.batches[1:-1] for row in batch if row["path"] != marker]
    assert sorted(changes[:2]) == ["run/step-1/a", "run/step-1/b"]
    assert changes[2:] == ["run/step-1/c"]
    assert json.loads((await bytes_of(hub))[marker])["files"][0]["path"] == "a"


async def test_an_unchanged_set_is_not_written_again(uploader: Uploader, log: BatchLog) -> None:
    await uploader.sync(version(1), STEP, WHOLE)
    count = len(log.batches)
    result = await uploader.sync(version(1), STEP, WHOLE)
    assert result.marker == f"run/step-1/{MARKER}"
    assert len(log.batches) == count


async def test_a_sync_into_an_unmarked_set_leaves_no_marker(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.sync(version(1), STEP, WHOLE)
    await uploader.sync(version(1), f"{RUN}/step-2", WHOLE)
    result = await uploader.sync({"step-1/a": b"other", "step-2/a": version(1)["a"]}, RUN)
    assert result.warnings == (
        f"run/step-1/{MARKER} was removed, since files in its folder have changed; sync that folder"
        " with complete_marker (--marker) to mark it as complete again",
    )
    assert await names_in(uploader) == ["step-2"]
    assert f"run/step-1/{MARKER}" not in await rows_of(hub)
    within = await uploader.sync(version(1), f"{RUN}/step-2/within", WHOLE)  # with its own marker
    assert within.warnings == (
        f"run/step-2/{MARKER} was removed, since files in its folder have changed; sync that folder"
        " with complete_marker (--marker) to mark it as complete again",
    )


async def test_more_sets_may_change_than_a_batch_has_operations(
    uploader: Uploader, hub: LocalHub, log: BatchLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "OPERATIONS_LIMIT", 5)
    await uploader.sync(version(1), STEP, WHOLE)
    marker = (await bytes_of(hub))[f"run/step-1/{MARKER}"]
    mirror: dict[str, bytes] = {}
    for number in range(12):
        mirror |= {f"s{number}/{name}": content for name, content in version(1).items()}
        mirror[f"s{number}/{MARKER}"] = marker
    await uploader.sync(mirror, RUN)
    assert len(await names_in(uploader)) == 13
    log.batches.clear()

    changed = {f"s{number}/a": b"other" for number in range(11)}
    result = await uploader.sync(changed, RUN, SyncOptions(verify=False))
    assert len(result.files_uploaded) == 11
    assert len(result.warnings) == 11  # one for each of the first ten, and how many more there are
    assert sorted(await names_in(uploader)) == ["s11", "step-1"]
    assert max(map(len, log.batches)) == 5
    for batch in log.batches:  # a set's marker is removed again with each change of its files
        paths = {row["path"] for row in batch}
        names = {path.removesuffix("/a") for path in paths if path.endswith("/a")}
        assert {f"{name}/{MARKER}" for name in names} <= paths
    found = await bytes_of(hub)
    assert {path: found[f"run/{path}"] for path in changed} == changed


async def test_a_mirror_of_sets_writes_markers_last(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    await uploader.sync(version(1), STEP, WHOLE)
    mirror = {
        path.replace("run/", "copy/"): content for path, content in (await bytes_of(hub)).items()
    }
    log.batches.clear()
    await uploader.sync(mirror, "hf://buckets/me/runs")
    assert [row["path"] for row in log.batches[-1]] == [f"copy/step-1/{MARKER}"]
    [found] = await uploader.checkpoints_in("hf://buckets/me/runs/copy")
    assert found.files == NAMES


async def test_a_missing_or_replaced_file_makes_a_set_incomplete(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    await uploader.sync(version(1), STEP, WHOLE)
    await uploader.sync(version(2), f"{RUN}/step-2", WHOLE)
    await uploader.sync(version(3), f"{RUN}/step-3", WHOLE)
    row = (await rows_of(hub))["run/step-3/b"]
    lines = [
        {"type": "deleteFile", "path": "run/step-1/b"},
        {"type": "addFile", "path": "run/step-2/b", "xetHash": row["xetHash"]},
    ]
    await batch(hub, lines)
    assert await names_in(uploader) == ["step-3"]


async def test_a_writer_before_the_marker_is_noticed(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    async def nothing() -> None: ...

    async def other() -> None:
        await uploader.sync({"a": b"other"}, STEP)

    log.before = [nothing, other]  # the batch of files, and the marker's
    with pytest.raises(SyncError, match="run/step-1/a: has 5 bytes"):
        await uploader.sync(version(1), STEP, WHOLE)
    assert f"run/step-1/{MARKER}" not in await rows_of(hub)
    assert (await bytes_of(hub))["run/step-1/a"] == b"other"


async def test_an_overtaken_writer_keeps_the_other_set(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    async def nothing() -> None: ...

    async def other() -> None:
        assert (await uploader.sync(version(2), STEP, WHOLE)).marker is not None

    log.after = [nothing, other]  # after the batch of files, and after the marker's
    with pytest.raises(SyncError, match="run/step-1/a: has 3 bytes"):
        await uploader.sync(version(1), STEP, WHOLE)
    assert await names_in(uploader) == ["step-1"]
    assert (await bytes_of(hub))["run/step-1/a"] == b"a 2"


async def test_a_concurrent_writers_marker_is_removed(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    async def other() -> None:
        await uploader.sync(version(2), STEP, WHOLE)
        assert f"run/step-1/{MARKER}" in await rows_of(hub)
        log.refuse = lambda row: "not allowed" if row["path"] == "run/step-1/b" else None

    log.before = [other]  # once the set is complete, the first batch goes on, and is the last
    with pytest.raises(SyncError):
        await uploader.sync(version(1), STEP, WHOLE)
    assert (await bytes_of(hub))["run/step-1/a"] == b"a 1"
    assert f"run/step-1/{MARKER}" not in await rows_of(hub)


async def test_whoever_can_read_the_bucket_can_list_its_sets(
    uploader: Uploader, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    for number in (1, 2, 3):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    async with Uploader(None, hub.url, config) as stranger:
        assert await names_in(stranger) == ["step-1", "step-2", "step-3"]
    assert faults.seen["bucket-xet-read-token"] == 1  # for all three markers


async def test_a_marker_needs_a_folder_and_its_own_name(uploader: Uploader) -> None:
    with pytest.raises(SourceError, match="needs a folder"):
        await uploader.sync(b"1", f"{RUN}/file", WHOLE)
    for name in (MARKER, PRUNED):  # an empty PRUNED would let the next removal take the whole set
        with pytest.raises(SourceError, match="a name that asyncpush uses itself"):
            await uploader.sync({name: b"", "a": b"1"}, STEP, WHOLE)
    with pytest.raises(ValueError, match="renew_marker needs complete_marker"):
        SyncOptions(renew_marker=True)


async def test_pruning_keeps_the_newest_and_whatever_is_being_written(
    uploader: Uploader, hub: LocalHub
) -> None:
    for number in (9, 10, 11):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    await uploader.sync(version(1), f"{RUN}/step-1")  # no marker: not (yet) complete
    gone = await uploader.prune_checkpoints(RUN, keep=2)
    assert [each.name for each in gone] == ["step-9"]
    assert await names_in(uploader) == ["step-10", "step-11"]
    assert {path.split("/")[1] for path in await rows_of(hub)} == {"step-1", "step-10", "step-11"}
    assert await uploader.prune_checkpoints(RUN, keep=2) == []
    with pytest.raises(ValueError, match="keep must be"):
        await uploader.prune_checkpoints(RUN, keep=0)


@pytest.mark.parametrize("written", ["step-1", "step-2"])
async def test_no_set_is_removed_beside_a_rewritten_one(
    written: str, tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> None:
    """Another writer comes between the listing and the removal: it completes the set that would be
    removed, or begins to write the one that would be kept."""
    meanwhile: list[Awaitable[object]] = []

    @web.middleware
    async def interrupt(request: web.Request, handler: Handler) -> web.StreamResponse:
        if meanwhile and request.match_info.route.name == "bucket-paths-info":
            await meanwhile.pop()
        return await handler(request)

    async with (
        open_hub(tmp_path, faults, interrupt, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        for number in (1, 2):
            await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
        if written == "step-1":
            renewed = replace(WHOLE, renew_marker=True)
            meanwhile.append(uploader.sync(version(1), STEP, renewed))
        else:
            begun = {"type": "deleteFile", "path": f"run/step-2/{MARKER}"}
            meanwhile.append(batch(hub, [begun]))
        gone = await uploader.prune_checkpoints(RUN, keep=1)
        assert not meanwhile
        assert [each.name for each in gone] == (["step-2"] if written == "step-1" else [])
        assert await names_in(uploader) == ["step-1"]


async def test_a_removal_ends_though_sets_are_rewritten(
    tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> None:
    renewing: list[int] = []

    @web.middleware
    async def renew(request: web.Request, handler: Handler) -> web.StreamResponse:
        if renewing and request.match_info.route.name == "bucket-paths-info":
            asked = renewing.pop()
            await uploader.sync(version(asked), STEP, WHOLE)
            renewing.append(asked + 1)
        return await handler(request)

    async with (
        open_hub(tmp_path, faults, renew, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.sync(version(1), STEP, WHOLE)
        await uploader.sync(version(1), f"{RUN}/step-2", WHOLE)
        renewing.append(2)
        assert await uploader.prune_checkpoints(RUN, keep=1) == []
        renewing.clear()
        assert await names_in(uploader) == ["step-2", "step-1"]


async def test_a_removal_that_failed_is_finished_by_the_next(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    for number in (1, 2):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    log.refuse = lambda row: "not allowed" if row["path"] == "run/step-1/b" else None
    with pytest.raises(SyncError, match="step-1/ was not removed completely: run/step-1/b"):
        await uploader.prune_checkpoints(RUN, keep=1)
    assert await names_in(uploader) == ["step-2"]
    assert set(await rows_of(hub)) >= {"run/step-1/b", f"run/step-1/{PRUNED}"}
    log.refuse = lambda row: None
    await uploader.prune_checkpoints(RUN, keep=1)
    assert {path.split("/")[1] for path in await rows_of(hub)} == {"step-2"}


async def test_a_set_that_was_being_removed_can_be_written_again(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    for number in (1, 2):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    log.refuse = lambda row: "not allowed" if row["path"] == "run/step-1/b" else None
    with pytest.raises(SyncError):
        await uploader.prune_checkpoints(RUN, keep=1)
    log.refuse = lambda row: None
    await uploader.sync(version(3), STEP, WHOLE)
    await uploader.prune_checkpoints(RUN, keep=2)
    assert await names_in(uploader) == ["step-2", "step-1"]  # the last that was completed


async def test_an_unchanged_sync_ends_a_removal_that_was_interrupted(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.sync(version(1), STEP)
    await uploader.sync({PRUNED: b""}, STEP)  # as a removal leaves it that is killed at once
    assert (await uploader.sync(version(1), STEP)).files_uploaded == ()
    await uploader.prune_checkpoints(RUN, keep=1)
    assert set(await rows_of(hub)) == {f"run/step-1/{name}" for name in NAMES}


async def test_pruning_removes_only_what_the_set_lists(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    for number in (1, 2):
        options = SyncOptions(complete_marker=True)
        await uploader.sync(version(number), f"{RUN}/step-{number}", options)
    shown = (await rows_of(hub))["run/step-1/a"]
    mine = {"type": "addFile", "path": "run/step-1/mine", "xetHash": shown["xetHash"], "mtime": 1}
    await batch(hub, [mine])
    log.refuse = lambda row: "not allowed" if row["path"] == "run/step-1/b" else None
    with pytest.raises(SyncError, match="run/step-1/b"):
        await uploader.prune_checkpoints(RUN, keep=1)
    log.refuse = lambda row: None
    await uploader.prune_checkpoints(RUN, keep=1)
    left = {path for path in await rows_of(hub) if "step-1" in path}
    assert left == {"run/step-1/mine"}


async def test_a_continued_removal_keeps_new_files(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    for number in (1, 2):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    marker = (await bytes_of(hub))[f"run/step-1/{MARKER}"]
    before = len(log.batches)
    log.refuse = lambda row: "not allowed" if row["path"] == "run/step-1/b" else None
    with pytest.raises(SyncError):
        await uploader.prune_checkpoints(RUN, keep=1)
    assert [(row["type"], row["path"]) for row in log.batches[before]] == [("copyFile", NOTE)]
    assert (await bytes_of(hub))[NOTE] == marker
    log.refuse = lambda row: None
    shown = (await rows_of(hub))["run/step-2/a"]
    new = {"type": "addFile", "path": "run/step-1/a", "xetHash": shown["xetHash"], "mtime": 1}
    await batch(hub, [new])
    await uploader.prune_checkpoints(RUN, keep=1)
    left = {path for path in await rows_of(hub) if "step-1" in path}
    assert left == {"run/step-1/a"}


@pytest.mark.parametrize(
    ("note", "left"), [(b"", set()), (b"{}", {f"run/step-1/{name}" for name in NAMES})]
)
async def test_only_an_empty_note_continues_a_removal(
    note: bytes, left: set[str], uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.sync(version(1), STEP)
    await uploader.sync({PRUNED: note}, STEP)
    assert await uploader.prune_checkpoints(RUN, keep=1) == []
    assert set(await rows_of(hub)) == left


async def test_a_marker_written_during_a_removal_does_not_stay(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    for number in (1, 2):
        await uploader.sync(version(number), f"{RUN}/step-{number}", WHOLE)
    shown = (await rows_of(hub))[f"run/step-1/{MARKER}"]
    again = {"type": "addFile", "path": shown["path"], "xetHash": shown["xetHash"], "mtime": 1}
    log.before = [nothing, nothing, lambda: batch(hub, [again])]
    await uploader.prune_checkpoints(RUN, keep=1)
    assert {path.split("/")[1] for path in await rows_of(hub)} == {"step-2"}


async def nothing() -> None: ...


async def test_pruning_a_set_of_sets_leaves_no_marker_behind(
    uploader: Uploader, hub: LocalHub
) -> None:
    inner = {f"inner/{name}": content for name, content in version(1).items()}
    await uploader.sync(version(1), f"{RUN}/step-1/inner", WHOLE)
    marker = (await bytes_of(hub))[f"run/step-1/inner/{MARKER}"]
    await uploader.sync({**inner, f"inner/{MARKER}": marker}, STEP, WHOLE)
    await uploader.sync(version(2), f"{RUN}/step-2", WHOLE)
    assert [each.name for each in await uploader.prune_checkpoints(RUN, keep=1)] == ["step-1"]
    assert {path.split("/")[1] for path in await rows_of(hub)} == {"step-2"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"{", id="not JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"schema": 2, "files": []}', id="a newer schema"),
        pytest.param(b'{"schema": 1, "files": [{"path": "a"}]}', id="no size"),
        pytest.param(
            b'{"schema": 1, "created_at": "", "written_by": "", "exact": true,'
            b' "files": [{"path": "a", "size": true, "xet_hash": "x"}]}',
            id="a wrong type",
        ),
    ],
)
def test_what_is_no_marker_is_none(text: bytes) -> None:
    assert SetMarker.from_json(text) is None


def test_a_marker_reads_what_it_writes() -> None:
    marker = SetMarker.new({"a": (1, "ab" * 32)})
    assert SetMarker.from_json(marker.to_json()) == marker
    assert not SetMarker.new({}).agrees_with({}, "")


async def test_another_file_makes_only_an_exact_set_incomplete(
    uploader: Uploader, hub: LocalHub, log: BatchLog
) -> None:
    await uploader.sync(version(1), STEP, WHOLE)
    await uploader.sync(version(1), f"{RUN}/step-2", replace(WHOLE, delete=False))
    added = [
        {"type": "addFile", "path": f"run/{name}/more", "xetHash": "0" * 64}
        for name in ("step-1", "step-2")
    ]
    await batch(hub, added)
    assert await names_in(uploader) == ["step-2"]


# Random schedules, against a bucket in memory whose every call may fail


OUTCOMES = ("done",) * 6 + ("lost", "done, lost", "refused", "killed", "done, killed")


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(OUTCOMES), max_size=40),
    st.lists(st.sampled_from([NAMES, ("a", "b"), ("b", "c", "d")]), min_size=2, max_size=4),
)
def test_successive_writers_leave_no_false_marker(
    outcomes: list[str], versions: list[tuple[str, ...]]
) -> None:
    bucket = FakeBucket(iter(outcomes))
    written: list[dict[str, bytes]] = []

    def check() -> None:
        assert bucket.marked("run/step-1/") in (None, *written)

    bucket.watch = check

    async def write() -> None:
        for number, names in enumerate(versions):
            written.append(version(number, names))
            try:
                result = await sync_to(bucket, written[-1], "run/step-1/", WHOLE)
            except (SyncError, Killed, bucket.failure):
                continue
            assert bucket.marked("run/step-1/") == written[-1]
            assert result.marker == f"run/step-1/{MARKER}"

    asyncio.run(write())


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([f for f in OUTCOMES if "killed" not in f]), max_size=40),
    st.lists(st.integers(0, 3), max_size=60),
    st.sampled_from([NAMES, ("a", "b"), ("b", "c", "d")]),
)
def test_a_mixture_of_two_writers_is_incomplete(
    outcomes: list[str], pauses: list[int], names: tuple[str, ...]
) -> None:
    bucket = FakeBucket(iter(outcomes), iter(pauses))
    written = [version(1), version(2, names)]

    async def write(files: dict[str, bytes]) -> bool:
        try:
            await sync_to(bucket, files, "run/step-1/", WHOLE)
        except (SyncError, bucket.failure):
            return False
        return True

    async def write_both() -> list[bool]:
        return await asyncio.gather(*map(write, written))

    asyncio.run(write_both())
    # Whatever the two were told: when both have ended, no marker lies about what is there.
    assert bucket.marked("run/step-1/") in (None, *written)


def _marked(bucket: FakeBucket) -> dict[str, bytes] | None:
    """What a marker stands over, beside the note of a removal that has only begun."""
    found = bucket.marked("run/step-1/")
    if found is not None:
        found.pop(PRUNED, None)
    return found


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(OUTCOMES), max_size=30),
    st.lists(st.integers(0, 3), max_size=60),
    st.sampled_from([NAMES, ("a", "b"), ("b", "c", "d")]),
)
def test_a_set_rewritten_during_removal_is_whole_or_unmarked(
    outcomes: list[str], pauses: list[int], names: tuple[str, ...]
) -> None:
    bucket = FakeBucket(iter(()))
    old, new = version(1), version(2, names)

    async def begin() -> None:
        for number, files in ((1, old), (2, version(9))):
            await sync_to(bucket, files, f"run/step-{number}/", WHOLE)

    async def ended(work: Awaitable[object]) -> None:
        with contextlib.suppress(SyncError, bucket.failure, Killed):
            await work

    async def both() -> None:
        await begin()
        bucket.outcomes, bucket.pauses = iter(outcomes), iter(pauses)
        rewriting = sync_to(bucket, new, "run/step-1/", WHOLE)
        await asyncio.gather(ended(rewriting), ended(prune(bucket, "run/", 1)))

    asyncio.run(both())
    assert bucket.marked("run/step-2/") == version(9)
    assert _marked(bucket) in (None, old, new)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(OUTCOMES), max_size=12),
    st.lists(st.sampled_from(OUTCOMES), max_size=12),
)
def test_a_killed_removal_is_finished_later(outcomes: list[str], again: list[str]) -> None:
    bucket = FakeBucket(iter(()))
    mine = "run/step-1/mine"

    async def remove() -> None:
        for number in (1, 2):
            options = replace(WHOLE, delete=False)
            await sync_to(bucket, version(number), f"run/step-{number}/", options)
        bucket.files[mine] = bucket.files["run/step-1/a"]
        for some in (outcomes, again, []):
            bucket.outcomes = iter(some)
            with contextlib.suppress(SyncError, bucket.failure, Killed):
                await prune(bucket, "run/", 1)
            assert _marked(bucket) in (None, {**version(1), "mine": b"a 1"})

    asyncio.run(remove())
    assert {path for path in bucket.files if "step-1" in path} == {mine}
    assert bucket.marked("run/step-2/") == version(2)


# Killed for real


class Killer:
    """Kills a process when the n-th request of its sync comes in, which is not done any more. What
    only asks the Xet store for chunks changes nothing and is not counted."""

    def __init__(self) -> None:
        self.pid = 0
        self.left = 0
        self.counted = {"xorb", "shard"}
        """Beside the requests to the bucket."""

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def kill(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or ""
            if self.pid and (route.startswith("bucket") or route in self.counted):
                self.left -= 1
                if not self.left:
                    os.kill(self.pid, signal.SIGKILL)
                    return web.Response(status=500)
            return await handler(request)

        return kill


WORKER = """
import asyncio, os, sys
from asyncpush import SyncOptions, UploadConfig, Uploader
import asyncpush.runtime, hf_xet

async def sync(url, token, cache, number):
    config = UploadConfig(cache_dir=cache, progress="none")
    files = {name: f"{name} {number}".encode() for name in "abc"}
    options = SyncOptions(complete_marker=True, delete=True)
    async with Uploader(token, url, config) as up:
        await up.sync(files, "hf://buckets/me/runs/run/step-1", options)

for number in range(int(sys.argv[4])):
    start, go = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go)
        os.read(start, 1) or os._exit(1)
        asyncio.run(sync(*sys.argv[1:4], number))
        os._exit(0)
    print(pid, flush=True)
    if not sys.stdin.readline():
        break
    os.write(go, b"!")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
PLACES = 20
"""At most: a process that is not killed any more is the last."""


READER = """
import os, sys
from huggingface_hub import HfApi
import hf_xet

url, token, folder, places = sys.argv[1:]
for number in range(int(places)):
    start, go = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go)
        os.read(start, 1) or os._exit(1)
        os.environ["HF_XET_CACHE"] = f"{folder}/cache-{number}"
        api = HfApi(endpoint=url, token=token)
        api.sync_bucket("hf://buckets/me/runs/run/step-1", f"{folder}/{number}", quiet=True)
        os._exit(0)
    print(pid, flush=True)
    if not sys.stdin.readline():
        break
    os.write(go, b"!")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def killer() -> Killer:
    return Killer()


@pytest.fixture
def threaded_hub(tmp_path: Path, killer: Killer) -> Iterator[LocalHub]:
    with serve_in_thread(
        tmp_path / "hub", token=TOKEN, xet=True, middlewares=[killer.middleware]
    ) as hub:
        yield hub


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_writer_leaves_no_false_marker(
    threaded_hub: LocalHub, killer: Killer, config: UploadConfig, tmp_path: Path
) -> None:
    arguments = [threaded_hub.url, TOKEN, str(tmp_path / "cache"), str(PLACES)]
    codes = []
    with (
        asyncio.Runner() as runner,
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        uploader = Uploader(TOKEN, threaded_hub.url, config)
        runner.run(uploader.__aenter__())
        for place in range(PLACES):
            before = version(1000 + place, ("a", "b", "c", "d"))
            runner.run(uploader.sync(before, STEP, WHOLE))
            killer.pid = int(worker.stdout.readline())
            killer.left = place + 1
            worker.stdin.write("\n")
            worker.stdin.flush()
            codes.append(int(worker.stdout.readline()))
            killer.pid = 0
            assert runner.run(_state(threaded_hub)) in (None, before, version(place))
            if codes[-1] == 0:  # it made fewer requests
                break
        deaths = codes.count(-signal.SIGKILL)
        assert deaths >= 17  # up to the look that follows the marker
        assert codes[deaths:] in ([0], [])
        runner.run(uploader.sync(version(PLACES), STEP, WHOLE))
        assert [each.name for each in runner.run(uploader.checkpoints_in(RUN))] == ["step-1"]
        assert runner.run(_state(threaded_hub)) == version(PLACES)
        runner.run(uploader.__aexit__(None, None, None))


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_readers_copy_is_not_taken_for_the_set(
    threaded_hub: LocalHub, killer: Killer, config: UploadConfig, tmp_path: Path
) -> None:
    killer.counted = {"reconstruction", "xorb-bytes"}
    folder, noise = tmp_path / "read", random.Random(20)
    folder.mkdir()
    big, other = noise.randbytes(1_000_000), noise.randbytes(1_000_000)
    environment = {
        **os.environ,
        "HF_ENDPOINT": threaded_hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "0",
    }
    codes, partly = [], 0
    with (
        asyncio.Runner() as runner,
        subprocess.Popen(
            [sys.executable, "-c", READER, threaded_hub.url, TOKEN, str(folder), str(PLACES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as reader,
    ):
        assert reader.stdin is not None
        assert reader.stdout is not None
        uploader = Uploader(TOKEN, threaded_hub.url, config)
        runner.run(uploader.__aenter__())
        for place in range(PLACES):
            written = {**version(place), "big": big, "sub/other": other}
            runner.run(uploader.sync(written, STEP, WHOLE))
            killer.pid = int(reader.stdout.readline())
            killer.left = place + 1
            reader.stdin.write("\n")
            reader.stdin.flush()
            codes.append(int(reader.stdout.readline()))
            killer.pid = 0
            assert runner.run(_state(threaded_hub)) == written, "reading changed the set"
            copy = folder / str(place)
            has = {
                path.relative_to(copy).as_posix(): path.read_bytes()
                for path in copy.rglob("*")
                if path.is_file()
            }
            partly += bool(has)
            marked = has.pop(MARKER, None) is not None
            if has or marked:
                assert runner.run(uploader.audit(STEP, copy)).exact == (has == written)
            if codes[-1] == 0:
                break
        runner.run(uploader.__aexit__(None, None, None))
    deaths = codes.count(-signal.SIGKILL)
    assert deaths >= 5
    assert codes[deaths:] in ([0], [])
    assert partly > len(codes) - deaths  # some were killed in the middle of the files


async def _state(hub: LocalHub) -> dict[str, bytes] | None:
    """What a marker stands over; None where there is none."""
    found: dict[str, Any] = {
        path.removeprefix("run/step-1/"): content for path, content in (await bytes_of(hub)).items()
    }
    return found if found.pop(MARKER, None) is not None else None
