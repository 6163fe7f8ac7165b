"""The fault table: every route, every kind of fault, one at a time, over a real socket.

A passing fault ends in exactly one correct commit, without the user noticing more than a retry. One
that is not transient fails at once, with the right error and no commit. Never anything else.

`pytest tests/pipeline/test_faults.py --table` prints the table.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from asyncpush import (
    AsyncPushError,
    AuthError,
    HubError,
    IntegrityError,
    PushOptions,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
    UploadConfig,
    Uploader,
    UploadResult,
    VerificationError,
)
from asyncpush.localhub import LocalHub
from asyncpush.net import retry
from tests.conftest import TOKEN, open_hub
from tests.fault_table import Cell, FaultTable, cells, lasting_cells
from tests.faults import ROUTES, FaultLayer
from tests.reading import commits_of, download, pull_requests_of

PART_SIZE = 64 << 10
PARTS = 4

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Card\n",
    "config.json": b"{}",
    "model.bin": random.Random(3).randbytes((PARTS - 1) * PART_SIZE + 1),
}

SLOW = ("part", "complete", "commit")
"""These may rightly take their time."""

TABLE_ROUTES = tuple(route for route in ROUTES if route != "revision")

PASSING = (
    "408",
    "429 Retry-After seconds",
    "429 Retry-After date",
    "429 RateLimit",
    "500",
    "502 with HTML",
    "503",
    "504",
    "reset before the body",
    "reset mid-body",
    "reset after the body",
    "done, then reset",
    "done, then 504",
    "stall before reading",
    "stall mid-body",
    "answer never sent",
    "done, answer never sent",
    "500 FastAPI",
    "503 FastAPI",
)

LOST = ("done, then reset", "done, then 504", "done, answer never sent", "504, done later")
"""What comes of a commit whose answer does not."""

GARBLED = ("truncated JSON", "wrong JSON", "slow drip")

STALLING = (
    "stall before reading",
    "stall mid-body",
    "answer never sent",
    "done, answer never sent",
    "slow drip",
)
"""These are noticed by a timeout alone."""

PASSING_ON_PARTS = (
    "missing ETag",
    "wrong ETag",
    "corrupted part",
    "expired URL",
    "SignatureDoesNotMatch",
)


def survivable() -> list[Cell]:
    return [
        *cells(TABLE_ROUTES, (*PASSING, *GARBLED)),
        *cells(["part"], PASSING_ON_PARTS),
        *cells(["part"], PASSING_ON_PARTS, nth=3),
        *cells(["commit"], ["504, done later"]),
        *cells(["commit"], LOST, create_pr=True),
        *cells(["complete"], ["object already completed", "nothing applied", "expired URL"]),
    ]


def fatal() -> list[Cell]:
    everywhere = [route for route in TABLE_ROUTES if route not in ("part", "complete")]
    others = [route for route in everywhere if route != "paths-info"]
    return [
        *lasting_cells(others, {"401": AuthError, "403": AuthError}),
        *lasting_cells([route for route in others if route != "verify"], {"422 FastAPI": HubError}),
        # After the commit: what fails there must not hide that it was made.
        *lasting_cells(["paths-info"], dict.fromkeys(("401", "403"), VerificationError)),
        *lasting_cells(["preupload", "batch", "commit"], {"404 repo": RepoNotFoundError}),
        *lasting_cells(["create"], {"409 owner": HubError}),
        *lasting_cells(["commit"], {"413": HubError, "422": HubError}),
        *lasting_cells(["preupload", "commit"], {"429 hours": RateLimitedError}),
        Cell("commit", "nothing applied", error=VerificationError),
    ]


def lasting() -> list[Cell]:
    """What usually passes, and does not."""
    before_commit = [route for route in TABLE_ROUTES if route != "paths-info"]
    return [
        *lasting_cells(before_commit, {"500 FastAPI": RetriesExhaustedError}),
        *lasting_cells(["verify"], {"422 FastAPI": IntegrityError}),
        *lasting_cells(["commit"], {"409 another commit": RetriesExhaustedError}),
    ]


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, part_size=PART_SIZE) as hub:
        yield hub


def config_for(cell: Cell, config: UploadConfig) -> UploadConfig:
    """Settings whose timeouts are short where the fault has to run into them. Requests that only a
    busy machine holds up are then tried again more often than faults last."""
    if cell.kind not in STALLING:
        return config
    return replace(config, stall_timeout=0.15, response_timeout=0.15, max_retries=20)


@pytest.mark.no_cover
@pytest.mark.parametrize("cell", survivable(), ids=str)
async def test_a_passing_fault_ends_in_exactly_one_correct_commit(
    cell: Cell,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    fault_table: FaultTable,
) -> None:
    options = PushOptions(create_pr=cell.create_pr)
    async with Uploader(TOKEN, hub.url, config_for(cell, config)) as uploader:
        result = await fault_table.survive(cell, uploader.push_to_hub("me/m", FILES, options))

    revision = "refs/pr/1" if cell.create_pr else "main"
    commits = await commits_of(hub, "me/m", revision)
    assert len(commits) == 2
    assert result.commit_sha == commits[0]["id"]
    assert await download(hub, "me/m", revision=revision) == FILES
    assert len(await pull_requests_of(hub, "me/m")) == cell.create_pr
    requests = sum(faults.seen.values())
    fault_table.row(cell, f"right, {requests} requests", commits=1)


@pytest.mark.parametrize("kind", ["422 FastAPI", "500 FastAPI"])
async def test_the_tree_is_listed_when_paths_info_fails(
    kind: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("paths-info", kind, times=99)
    result = await uploader.push_to_hub("me/m", FILES)

    assert result.verified
    assert result.commit_sha == (await commits_of(hub, "me/m"))[0]["id"]
    assert faults.seen["tree"] == 1


@pytest.mark.no_cover
@pytest.mark.parametrize("cell", fatal(), ids=str)
async def test_what_is_not_transient_fails_fast_and_commits_nothing(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_table: FaultTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "CREATION_GRACE", -1.0)  # a repo that was there before
    error = await fault_table.fail(cell, uploader.push_to_hub("me/m", FILES))

    # Asked beside the head too, before the repo is created and after; an answer that there is no
    # such repo does not end the push there.
    at_most = {"preupload": 3, "paths-info": 2}.get(cell.route, 1)
    assert 1 <= len(faults.injected) <= at_most, "it was tried again"
    await check_failure(cell, error, hub, faults)
    fault_table.row(cell, "none", error=error)


@pytest.mark.no_cover
@pytest.mark.parametrize("cell", lasting(), ids=str)
async def test_a_lasting_transient_failure_commits_nothing(
    cell: Cell,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    fault_table: FaultTable,
) -> None:
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=2)) as uploader:
        error = await fault_table.fail(cell, uploader.push_to_hub("me/m", FILES))

    assert len(faults.injected) > 1
    await check_failure(cell, error, hub, faults)
    fault_table.row(cell, "none", error=error)


async def check_failure(
    cell: Cell, error: AsyncPushError, hub: LocalHub, faults: FaultLayer
) -> None:
    """It says what the Hub said and what to do; and what was committed, which is nothing unless
    it is a look at the commit that failed."""
    if cell.kind[:3].isdecimal() and isinstance(error, HubError):
        assert error.status == int(cell.kind[:3])
    if "FastAPI" in cell.kind:
        assert any(words in error.message for words in ("Field required", "NoSuchUpload"))
    if cell.route != "create" and faults.seen["create"]:
        commits = await commits_of(hub, "me/m")
        assert len(commits) == (2 if cell.route == "paths-info" else 1)
        if cell.route == "paths-info":
            assert isinstance(error, VerificationError)
            assert error.commit_sha == commits[0]["id"]


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in SLOW])
async def test_a_stalled_light_call_is_retried_early(
    route: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncpush.net.session.LIGHT_TIMEOUT", 0.2)
    faults.add(route, "answer never sent")
    patient = replace(config, response_timeout=60)
    with anyio.fail_after(20):
        async with Uploader(TOKEN, hub.url, patient) as uploader:
            await uploader.push_to_hub("me/m", FILES)
    assert faults.injected
    assert await download(hub, "me/m") == FILES


@pytest.mark.parametrize("kind", ["corrupted part", "wrong ETag", "missing ETag"])
async def test_only_a_corrupted_part_is_sent_again(
    kind: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    """Invariant 2: found by its ETag, long before the completion could notice."""
    faults.add("part", kind, nth=2)
    await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["part"] == PARTS + 1
    assert faults.seen["batch"] == 1
    assert await download(hub, "me/m") == FILES


@pytest.mark.parametrize("kind", ["corrupted part", "wrong ETag", "missing ETag"])
async def test_an_always_corrupted_part_is_an_integrity_error(
    kind: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("part", kind, times=999)
    with pytest.raises(IntegrityError, match=r"part \d of 'model.bin'"):
        await uploader.push_to_hub("me/m", FILES)
    assert len(await commits_of(hub, "me/m")) == 1


async def test_weak_etags_are_compared_and_returned_unchanged(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("part", "weak ETag", times=99)
    result = await uploader.push_to_hub("me/m", FILES)

    assert result.retries == 0
    assert await download(hub, "me/m") == FILES


async def test_with_verify_etag_off_the_hub_decides(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """The completion refuses the wrong bytes, and the object is stored anew."""
    faults.add("part", "corrupted part", nth=2)
    async with Uploader(TOKEN, hub.url, replace(config, verify_etag=False)) as uploader:
        await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["batch"] == 2
    assert await download(hub, "me/m") == FILES


async def test_a_lost_completion_sends_no_part_twice(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    """The first completion joins the parts, its answer is lost, the next one is NoSuchUpload."""
    faults.add("complete", "done, then reset")
    faults.add("complete", "404", nth=2, times=99)
    await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["part"] == PARTS
    assert await download(hub, "me/m") == FILES


async def test_a_lost_completion_before_a_server_error(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    """A Hub that wraps NoSuchUpload as 500 for good: the batch knows better."""
    faults.add("complete", "done, then reset")
    faults.add("complete", "500", nth=2, times=99)
    await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["part"] == PARTS
    assert await download(hub, "me/m") == FILES


@pytest.mark.parametrize("kind", ["200 with an S3 error", "200 with an error"])
@pytest.mark.parametrize("route", ["complete", "verify"])
async def test_a_success_that_reports_an_error_is_none(
    route: str, kind: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        faults.add(route, kind)
        await uploader.push_to_hub("me/m", FILES)
        assert faults.seen[route] == 2
        assert await download(hub, "me/m") == FILES
        faults.add(route, kind, nth=3, times=99)
        with pytest.raises(HubError, match=r"answered 200, but reported an error: (late|checksum)"):
            await uploader.push_to_hub("me/other", {"model.bin": bytes(PARTS * PART_SIZE)})
    assert len(await commits_of(hub, "me/other")) == 1


async def test_a_resumed_upload_that_cannot_complete_is_given_up(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """Else every push would fail until its URLs expire, days later."""
    config = replace(config, max_retries=1)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        faults.add("complete", "500", times=4)
        with pytest.raises(HubError):  # the upload is this push's own: kept, to go on with
            await uploader.push_to_hub("me/m", FILES)
        assert faults.seen["part"] == PARTS
        await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["complete"] == 5
    assert faults.seen["part"] == 2 * PARTS
    assert await download(hub, "me/m") == FILES


async def test_an_unclear_completion_is_waited_for(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """Not joined after all, and refused from then on: looked for, then sent anew, once."""
    faults.add("complete", "reset after the body")
    faults.add("complete", "404", nth=2, times=1)
    async with Uploader(TOKEN, hub.url, replace(config, response_timeout=0.4)) as uploader:
        await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["part"] == 2 * PARTS
    assert await download(hub, "me/m") == FILES


async def test_stored_already_does_not_outweigh_a_verify_that_refuses(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("verify", "422", times=99)
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        await uploader.push_to_hub("me/m", FILES)
    assert len(await commits_of(hub, "me/m")) == 1


async def test_another_commit_in_progress_passes(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("commit", "409 another commit", times=2)
    result = await uploader.push_to_hub("me/m", FILES)
    assert faults.seen["commit"] == 3
    commits = await commits_of(hub, "me/m")
    assert len(commits) == 2
    assert commits[0]["id"] == result.commit_sha


BY_LFS: dict[tuple[str, str], tuple[str, str | None]] = {
    ("xet-write-token", "401"): ("lfs", None),  # the Hub does not grant Xet to this token
    ("shard", "corrupted part"): ("lfs", "Xet failed, uploading with LFS instead"),
    ("xorb", "corrupted part"): ("lfs", "has lost LFS objects"),
}
"""Faults of Xet's routes after which LFS stores the files, and the warning that says so."""


def by_xet() -> list[Cell]:
    routes = ("xet-write-token", "chunk", "xorb", "shard")
    kinds = [
        kind for kind in PASSING if "FastAPI" not in kind and kind not in ("408", "429 RateLimit")
    ]
    return [
        *cells(routes, (*kinds, "401")),
        *cells(("xorb", "shard"), (*GARBLED[:2], "corrupted part")),
    ]


@pytest.mark.no_cover
@pytest.mark.parametrize("cell", by_xet(), ids=str)
async def test_a_fault_of_xet_ends_in_one_correct_commit(
    cell: Cell, tmp_path: Path, config: UploadConfig, faults: FaultLayer, fault_table: FaultTable
) -> None:
    """By Xet without a word; or by LFS, which the result says."""
    config = config_for(cell, config)
    if cell.kind in STALLING:
        config = replace(config, stall_timeout=1)
    async with open_hub(tmp_path, faults, xet=True) as hub:
        async with Uploader(TOKEN, hub.url, config) as uploader:
            result = await fault_table.survive(cell, uploader.push_to_hub("me/m", FILES))
        commits = await commits_of(hub, "me/m")
        assert len(commits) == 2
        assert result.commit_sha == commits[0]["id"]
        assert await download(hub, "me/m") == FILES
    [route] = {receipt.route for receipt in result.receipts} - {"inline"}
    expected_route, expected_warning = BY_LFS.get((cell.route, cell.kind), ("xet", None))
    assert route == expected_route
    if expected_warning is None:
        assert result.warnings == ()
    else:
        [warning] = result.warnings
        assert expected_warning in warning
    fault_table.row(cell, f"right, by {route}", commits=1)


COPY_ROUTES = {
    "lfs-files-duplicate": (*PASSING, *GARBLED),
    "resolve": ("503", "reset mid-body", "stall mid-body", *GARBLED),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("route", COPY_ROUTES)
async def test_a_transient_fault_of_a_copy_ends_in_one_commit(
    route: str, tmp_path: Path, config: UploadConfig, faults: FaultLayer, fault_table: FaultTable
) -> None:
    async with (
        open_hub(tmp_path, faults, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/source", FILES)
        for number, cell in enumerate(cells([route], COPY_ROUTES[route])):
            target = f"me/copy-{number}"
            async with Uploader(TOKEN, hub.url, config_for(cell, config)) as copier:
                result = await fault_table.survive(cell, copier.copy("me/source", target))
            assert isinstance(result, UploadResult)
            commits = await commits_of(hub, target)
            assert [len(commits), commits[0]["id"]] == [2, result.commit_sha], str(cell)
            assert await download(hub, target) == FILES, str(cell)
            fault_table.row(cell, "right", commits=1)


def fatal_to_copies() -> list[Cell]:
    errors: dict[str, type[AsyncPushError]] = {
        "401": AuthError,
        "403": AuthError,
        "422 FastAPI": HubError,
        "500 FastAPI": RetriesExhaustedError,
        "429 hours": RateLimitedError,
    }
    return lasting_cells(["lfs-files-duplicate"], errors)


@pytest.mark.no_cover
@pytest.mark.parametrize("cell", fatal_to_copies(), ids=str)
async def test_a_lasting_fault_of_a_copy_commits_nothing(
    cell: Cell, tmp_path: Path, config: UploadConfig, faults: FaultLayer, fault_table: FaultTable
) -> None:
    async with (
        open_hub(tmp_path, faults, xet=True) as hub,
        Uploader(TOKEN, hub.url, replace(config, max_retries=2)) as uploader,
    ):
        await uploader.push_to_hub("me/source", FILES)
        error = await fault_table.fail(cell, uploader.copy("me/source", "me/copy"))
        assert len(await commits_of(hub, "me/copy")) == 1
    fault_table.row(cell, "none", error=error)
