"""The fault table of buckets: every route of a sync, one fault at a time, over a real socket.

A passing fault ends in the whole set, marker included. One that does not pass ends in an error that
says what is in the bucket, and never in a marker over anything else. `--table` prints the rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
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
from asyncpush.localhub.routes import buckets as bucket_routes
from asyncpush.pipeline.checkpoint_sets import MARKER
from tests.buckets import bytes_of
from tests.conftest import FaultReport, open_hub
from tests.faults import FaultLayer

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


@dataclass(frozen=True)
class Cell:
    """One fault, and how the sync has to end."""

    route: str
    kind: str
    nth: int = 1
    times: int = 1
    error: type[AsyncPushError] | None = None

    def __str__(self) -> str:
        where = f"#{self.nth}" if self.nth > 1 else ""
        return f"{self.route}{where}: {self.kind}{' always' if self.times > 1 else ''}"


def survivable() -> list[Cell]:
    cells = [Cell(route, kind) for route in ROUTES for kind in PASSING]
    cells += [Cell("bucket-batch", kind) for kind in OF_BATCHES]
    cells += [Cell("bucket-batch", kind, nth) for nth in (ADDS, MARKS) for kind in LOST]
    cells += [Cell("bucket-batch", "done, then 504", MARKS)]
    cells += [Cell("bucket-create", "done, then reset")]
    cells += [Cell(route, "409 another commit") for route in ("bucket-create", "bucket-batch")]
    return cells


def fatal() -> list[Cell]:
    cells = [Cell(route, "403", times=99, error=AuthError) for route in ROUTES]
    cells += [
        Cell(route, "500", times=99, error=RetriesExhaustedError)
        for route in ("bucket-create", *LOOKS)
    ]
    cells += [
        Cell("bucket-batch", "500", times=99, error=SyncError),  # it may have landed
        Cell("bucket-batch", "404 repo", times=99, error=RepoNotFoundError),
        Cell("bucket-batch", "422 FastAPI", times=99, error=HubError),
        Cell("bucket-batch", "429 hours", times=99, error=RateLimitedError),
        Cell("bucket-batch", "nothing applied", error=SyncError),
        Cell("bucket-batch", "403", MARKS, times=99, error=SyncError),
        Cell("bucket-batch", "500", MARKS, times=99, error=SyncError),
        Cell("bucket-batch", "nothing applied", MARKS, error=SyncError),
        Cell("bucket-paths-info", "500", 2, times=99, error=SyncError),
    ]
    return cells


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
    fault_report: FaultReport,
) -> None:
    faults.add(cell.route, cell.kind, nth=cell.nth, times=cell.times)
    result = await uploader.sync(FILES, STEP, WHOLE)
    assert faults.injected, "the fault never happened"
    assert result.verified
    assert result.files_uploaded == ("step-1/a.bin", "step-1/s/b.txt")
    assert await set_in(hub) == (FILES, True)
    requests = sum(faults.seen.values())
    fault_report.add(cell.route, str(cell), "success", 0, f"right, {requests} requests")


@pytest.mark.parametrize("cell", fatal(), ids=str)
async def test_a_lasting_fault_says_what_is_there_and_leaves_no_marker(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_report: FaultReport,
) -> None:
    faults.add(cell.route, cell.kind, nth=cell.nth, times=cell.times)
    assert cell.error is not None
    with pytest.raises(cell.error) as caught:
        await uploader.sync(FILES, STEP, WHOLE)
    faults.rules.clear()
    found, marked = await set_in(hub)
    assert not marked
    error = caught.value
    reported = error.result.files_uploaded if isinstance(error, SyncError) else ()
    if cell.kind != "nothing applied":
        assert {path.removeprefix("step-1/") for path in reported} == set(found)
    assert error.suggestion
    fault_report.add(cell.route, str(cell), type(error).__name__, 0, f"{len(found)} files")


ROOT = "hf://buckets/me/runs"


def survivable_listings() -> list[Cell]:
    kinds = (*PASSING, "502 with HTML", "reset before the body", "stall before reading")
    return [Cell("bucket-tree", kind) for kind in kinds]


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
    return [Cell("bucket-tree", kind, times=99, error=error) for kind, error in kinds.items()]


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
async def test_a_passing_fault_of_the_first_listing_hides_no_file_from_delete(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_report: FaultReport,
) -> None:
    faults.add(cell.route, cell.kind)
    result = await uploader.sync(FILES, ROOT, WHOLE)
    assert faults.injected, "the fault never happened"
    assert result.files_deleted == tuple(sorted(STALE))
    assert await whole_bucket(hub) == (FILES, True)
    fault_report.add(cell.route, str(cell), "success", 0, "right")


@pytest.mark.usefixtures("stale_bucket")
@pytest.mark.parametrize("cell", fatal_listings(), ids=str)
async def test_a_first_listing_that_does_not_come_leaves_the_bucket_as_it_is(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_report: FaultReport,
) -> None:
    faults.add(cell.route, cell.kind, times=cell.times)
    assert cell.error is not None
    with pytest.raises(cell.error) as caught:
        await uploader.sync(FILES, ROOT, WHOLE)
    assert not faults.seen["bucket-batch"]
    assert caught.value.suggestion
    faults.rules.clear()
    assert await whole_bucket(hub) == (STALE, True)
    fault_report.add(cell.route, str(cell), type(caught.value).__name__, 0, "unchanged")


def survivable_pages() -> list[Cell]:
    kinds = (*PASSING, "502 with HTML", "reset before the body", "stall before reading")
    return [Cell("bucket-tree-below", kind, nth) for nth in (2, 3) for kind in kinds]


def fatal_pages() -> list[Cell]:
    kinds: dict[str, type[AsyncPushError]] = {
        "403": AuthError,
        "500": RetriesExhaustedError,
        "wrong JSON": ProtocolError,
        "same page again": ProtocolError,
    }
    return [
        Cell("bucket-tree-below", kind, nth, times=99, error=error)
        for nth in (2, 3)
        for kind, error in kinds.items()
    ]


@pytest.fixture
async def stale_set(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete set is there already, which takes several pages to list."""
    await uploader.sync(STALE, STEP, WHOLE)
    monkeypatch.setattr(bucket_routes, "PAGE", PAGE)
    faults.seen.clear()


@pytest.mark.usefixtures("stale_set")
@pytest.mark.parametrize("cell", survivable_pages(), ids=str)
async def test_a_passing_fault_between_two_pages_hides_no_file_from_delete(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_report: FaultReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults.add(cell.route, cell.kind, nth=cell.nth)
    result = await uploader.sync(FILES, STEP, WHOLE)
    monkeypatch.setattr(bucket_routes, "PAGE", 1000)
    assert faults.injected, "the fault never happened"
    assert result.files_deleted == tuple(f"step-1/{path}" for path in sorted(STALE))
    assert await set_in(hub) == (FILES, True)
    fault_report.add(cell.route, str(cell), "success", 0, "right")


@pytest.mark.usefixtures("stale_set")
@pytest.mark.parametrize("cell", fatal_pages(), ids=str)
async def test_pages_that_do_not_come_leave_the_bucket_as_it_is(
    cell: Cell,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    fault_report: FaultReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults.add(cell.route, cell.kind, nth=cell.nth, times=cell.times)
    assert cell.error is not None
    with pytest.raises(cell.error):
        await uploader.sync(FILES, STEP, WHOLE)
    assert not faults.seen["bucket-batch"]
    faults.rules.clear()
    monkeypatch.setattr(bucket_routes, "PAGE", 1000)
    assert await set_in(hub) == (STALE, True)
    fault_report.add(cell.route, str(cell), cell.error.__name__, 0, "unchanged")
