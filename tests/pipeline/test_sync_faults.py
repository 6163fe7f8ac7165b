"""The fault table of buckets: every route of a sync, one fault at a time, over a real socket.

A passing fault ends in the whole set, marker included. One that does not pass ends in an error that
says what is in the bucket, and never in a marker over anything else. `--table` prints the rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import (
    AsyncPushError,
    AuthError,
    HubError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
    SyncError,
    SyncOptions,
    UploadConfig,
    Uploader,
)
from asyncpush.localhub import LocalHub
from asyncpush.localhub.routes import bucket_api
from asyncpush.pipeline.checkpoint_sets import MARKER
from tests.buckets import bytes_of
from tests.conftest import open_hub
from tests.fault_table import Cell, FaultTable, cells, lasting_cells
from tests.faults import REFUSALS, FaultLayer

pytestmark = pytest.mark.no_cover

STEP = "hf://buckets/me/runs/step-1"
WHOLE = SyncOptions(complete_marker=True, delete=True)
FILES = {"a.bin": b"a" * 1000, "s/b.txt": b"b"}
STALE = {f"old-{number}": bytes([number]) for number in range(5)}
PAGE = 2
"""Files of one page of a listing, where the pages are what is tested: `STALE` needs three."""

LOOKS = ("bucket", "bucket-tree-below", "bucket-paths-info", "bucket-xet-write-token")
ROUTES = ("bucket-create", *LOOKS, "bucket-batch")
ADDS, MARKS = 1, 2
"""The batches of a first sync."""

PASSING = ("429 Retry-After seconds", "504", "reset after the body", "truncated JSON")
OF_BATCHES = ("502 with HTML", "503", "reset before the body", "done, then 504", "wrong JSON")
LOST = (
    "done, then reset",
    "done, answer never sent",
    "504, done later",
    "answer never sent",
    "stall before reading",
    "500 FastAPI",
)
DONE_THEN_REFUSED = [f"done, then {status}" for status in REFUSALS if status != 422]
"""Not 422, which is a batch's own answer."""
OF_LISTINGS = (*PASSING, "502 with HTML", "reset before the body", "stall before reading")


def survivable() -> list[Cell]:
    return [
        *cells(ROUTES, PASSING),
        *cells(["bucket-batch"], (*OF_BATCHES, *LOST), nth=ADDS),
        *cells(["bucket-batch"], (*LOST, "done, then 504"), nth=MARKS),
        *cells(["bucket-create"], ["done, then reset"]),
        *cells(["bucket-create", "bucket-batch"], ["409 another commit"]),
        *cells(["bucket-batch"], DONE_THEN_REFUSED, nth=ADDS),
        *cells(["bucket-batch"], DONE_THEN_REFUSED, nth=MARKS),
    ]


def fatal() -> list[Cell]:
    return [
        *lasting_cells(ROUTES, {"403": AuthError}),
        *lasting_cells(("bucket-create", *LOOKS), {"500": RetriesExhaustedError}),
        *lasting_cells(
            ["bucket-batch"],
            {
                "500": SyncError,  # it may have landed
                "404 repo": RepoNotFoundError,
                "422 FastAPI": HubError,
                "429 hours": RateLimitedError,
            },
        ),
        *lasting_cells(["bucket-batch"], {"403": SyncError, "500": SyncError}, nth=MARKS),
        *lasting_cells(["bucket-paths-info"], {"500": SyncError}, nth=2),
        Cell("bucket-batch", "nothing applied", error=SyncError),
        Cell("bucket-batch", "nothing applied", MARKS, error=SyncError),
    ]


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


@pytest.fixture
def config(config: UploadConfig) -> UploadConfig:
    return replace(config, response_timeout=0.4, max_retries=3)


async def set_in(hub: LocalHub) -> tuple[dict[str, bytes], bool]:
    """What is in the bucket, and whether a marker stands over it."""
    found = {
        path.removeprefix("step-1/"): content for path, content in (await bytes_of(hub)).items()
    }
    return found, found.pop(MARKER, None) is not None


@pytest.mark.parametrize("cell", survivable(), ids=str)
async def test_a_passing_fault_ends_in_the_whole_set(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_table: FaultTable,
) -> None:
    result = await fault_table.survive(cell, uploader.sync(FILES, STEP, WHOLE))
    assert result.verified
    assert result.files_uploaded == ("step-1/a.bin", "step-1/s/b.txt")
    assert await set_in(hub) == (FILES, True)
    requests = sum(faults.seen.values())
    fault_table.row(cell, f"right, {requests} requests")


@pytest.mark.parametrize("cell", fatal(), ids=str)
async def test_a_lasting_fault_leaves_no_marker(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    fault_table: FaultTable,
) -> None:
    error = await fault_table.fail(cell, uploader.sync(FILES, STEP, WHOLE))
    found, marked = await set_in(hub)
    assert not marked
    reported = error.result.files_uploaded if isinstance(error, SyncError) else ()
    if cell.kind != "nothing applied":
        assert {path.removeprefix("step-1/") for path in reported} == set(found)
    fault_table.row(cell, f"{len(found)} files", error=error)


ROOT = "hf://buckets/me/runs"


def survivable_listings() -> list[Cell]:
    return cells(["bucket-tree"], OF_LISTINGS)


def fatal_listings() -> list[Cell]:
    kinds: dict[str, type[AsyncPushError]] = {
        "401": AuthError,
        "403": AuthError,
        "404 repo": RepoNotFoundError,
        "429 hours": RateLimitedError,
        "500": RetriesExhaustedError,
        "wrong JSON": ProtocolError,
        "same page again": ProtocolError,
    }
    return lasting_cells(["bucket-tree"], kinds)


@pytest.fixture
async def stale_bucket(uploader: Uploader, hub: LocalHub, faults: FaultLayer) -> None:
    """The bucket as a whole is a complete set."""
    await uploader.sync(STALE, ROOT, WHOLE)
    faults.seen.clear()


async def whole_bucket(hub: LocalHub) -> tuple[dict[str, bytes], bool]:
    found = await bytes_of(hub)
    return found, found.pop(MARKER, None) is not None


@pytest.mark.usefixtures("stale_bucket")
@pytest.mark.parametrize("cell", survivable_listings(), ids=str)
async def test_a_transient_listing_fault_hides_no_file_from_delete(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    fault_table: FaultTable,
) -> None:
    result = await fault_table.survive(cell, uploader.sync(FILES, ROOT, WHOLE))
    assert result.files_deleted == tuple(sorted(STALE))
    assert await whole_bucket(hub) == (FILES, True)
    fault_table.row(cell, "right")


@pytest.mark.usefixtures("stale_bucket")
@pytest.mark.parametrize("cell", fatal_listings(), ids=str)
async def test_a_failed_first_listing_changes_nothing(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_table: FaultTable,
) -> None:
    error = await fault_table.fail(cell, uploader.sync(FILES, ROOT, WHOLE))
    assert not faults.seen["bucket-batch"]
    assert await whole_bucket(hub) == (STALE, True)
    fault_table.row(cell, "unchanged", error=error)


def survivable_pages() -> list[Cell]:
    return [cell for nth in (2, 3) for cell in cells(["bucket-tree-below"], OF_LISTINGS, nth=nth)]


def fatal_pages() -> list[Cell]:
    kinds: dict[str, type[AsyncPushError]] = {
        "403": AuthError,
        "500": RetriesExhaustedError,
        "wrong JSON": ProtocolError,
        "same page again": ProtocolError,
    }
    return [cell for nth in (2, 3) for cell in lasting_cells(["bucket-tree-below"], kinds, nth=nth)]


@pytest.fixture
async def stale_set(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete set is there already, which takes several pages to list."""
    await uploader.sync(STALE, STEP, WHOLE)
    monkeypatch.setattr(bucket_api, "PAGE", PAGE)
    faults.seen.clear()


@pytest.mark.usefixtures("stale_set")
@pytest.mark.parametrize("cell", survivable_pages(), ids=str)
async def test_a_transient_page_fault_hides_no_file_from_delete(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    fault_table: FaultTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = await fault_table.survive(cell, uploader.sync(FILES, STEP, WHOLE))
    monkeypatch.setattr(bucket_api, "PAGE", 1000)
    assert result.files_deleted == tuple(f"step-1/{path}" for path in sorted(STALE))
    assert await set_in(hub) == (FILES, True)
    fault_table.row(cell, "right")


@pytest.mark.usefixtures("stale_set")
@pytest.mark.parametrize("cell", fatal_pages(), ids=str)
async def test_missing_pages_leave_the_bucket_unchanged(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_table: FaultTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = await fault_table.fail(cell, uploader.sync(FILES, STEP, WHOLE))
    assert not faults.seen["bucket-batch"]
    monkeypatch.setattr(bucket_api, "PAGE", 1000)
    assert await set_in(hub) == (STALE, True)
    fault_table.row(cell, "unchanged", error=error)
