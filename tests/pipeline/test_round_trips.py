"""How many calls of a push wait for each other, on a Hub that is 50 ms away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import AuthError, SourceError, UploadConfig, Uploader
from asyncpush.events import Record, RequestFinished, RequestStarted
from asyncpush.localhub import LocalHub
from asyncpush.protocol import commits
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import head_of

LATENCY = 0.05


class RoundTrips:
    """A listener: the longest chain of calls of which each began after another had ended."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.calls: list[str] = []
        self.in_a_row = self._ended = 0

    def __call__(self, record: Record) -> None:
        match record.event:
            case RequestStarted() as started:
                self.calls.append(started.call)
                self.in_a_row = max(self.in_a_row, self._ended + 1)
            case RequestFinished():
                self._ended = self.in_a_row


@web.middleware
async def far_away(request: web.Request, handler: Handler) -> web.StreamResponse:
    await asyncio.sleep(LATENCY)
    return await handler(request)


@pytest.fixture
async def far_hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with LocalHub(
        tmp_path / "hub", token=TOKEN, middlewares=[far_away, faults.middleware]
    ) as hub:
        yield hub


@pytest.fixture
def round_trips() -> RoundTrips:
    return RoundTrips()


@pytest.fixture
async def far_uploader(
    far_hub: LocalHub, config: UploadConfig, round_trips: RoundTrips
) -> AsyncIterator[Uploader]:
    config = replace(config, events=round_trips)
    async with Uploader(TOKEN, far_hub.url, config) as uploader:
        yield uploader


async def test_a_small_push_takes_three_or_five_round_trips(
    far_uploader: Uploader, round_trips: RoundTrips
) -> None:
    await far_uploader.push_to_hub("me/m", {"a.txt": b"1" * 1000})
    assert round_trips.in_a_row == 5, round_trips.calls
    for content in (b"2" * 1000, b"3" * 1000):  # what is there differs
        round_trips.forget()
        await far_uploader.push_to_hub("me/m", {"a.txt": content, "new.txt": content})
        assert round_trips.in_a_row == 3, round_trips.calls
        assert sorted(round_trips.calls[:3]) == ["head", "preupload", "verify_commit"]


async def test_after_its_first_calls_a_push_reuses_connections(
    tmp_path: Path, config: UploadConfig
) -> None:
    """A new connection costs one round trip more, and with TLS two or three."""
    seen: list[tuple[str, object]] = []

    @web.middleware
    async def noting(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        seen.append((request.path, request.transport.get_extra_info("peername")))
        return await far_away(request, handler)

    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[noting]) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    async with (
        LocalHub(tmp_path / "hub", token=TOKEN, middlewares=[noting]) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        seen.clear()
        await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    calls = [path for path, _ in seen]
    beside = next(number for number, path in enumerate(calls) if "/commit/" in path)
    assert beside == 3, calls
    assert {peer for _, peer in seen[beside:]} <= {peer for _, peer in seen[:beside]}


async def test_early_upload_modes_make_no_file_unchanged(
    far_uploader: Uploader, far_hub: LocalHub, round_trips: RoundTrips
) -> None:
    """They may be older than the head that the commit is built on: the Hub is asked again."""
    files = {"a.txt": b"the same"}
    before = await far_uploader.push_to_hub("me/m", files)
    round_trips.forget()
    again = await far_uploader.push_to_hub("me/m", files)
    assert again.commit_sha == before.commit_sha == await head_of(far_hub, "me/m")
    assert round_trips.calls.count("preupload") == 2


async def test_an_early_path_conflict_is_checked_at_the_head(
    far_uploader: Uploader, round_trips: RoundTrips
) -> None:
    await far_uploader.push_to_hub("me/m", {"logs/a": b"a"})
    round_trips.forget()
    with pytest.raises(SourceError, match="it is a folder in the repo"):
        await far_uploader.push_to_hub("me/m", {"logs": b"l"})
    assert sorted(round_trips.calls) == ["head", "preupload", "verify_commit", "verify_commit"]


async def test_an_early_refusal_on_an_existing_repo_is_final(
    far_uploader: Uploader, round_trips: RoundTrips, faults: FaultLayer
) -> None:
    await far_uploader.push_to_hub("me/m", {"a.txt": b"a"})
    round_trips.forget()
    faults.add("preupload", "403", nth=faults.seen["preupload"] + 1)
    with pytest.raises(AuthError):
        await far_uploader.push_to_hub("me/m", {"a.txt": b"b"})
    assert round_trips.calls.count("preupload") == 1
    assert round_trips.in_a_row == 1


async def test_unknown_paths_cost_no_second_look(
    far_uploader: Uploader, round_trips: RoundTrips, faults: FaultLayer
) -> None:
    await far_uploader.push_to_hub("me/m", {"a.txt": b"a"})
    round_trips.forget()
    faults.add("paths-info", "403", nth=faults.seen["paths-info"] + 1)
    result = await far_uploader.push_to_hub("me/m", {"a.txt": b"b"})
    assert result.verified
    assert round_trips.calls.count("verify_commit") == 2


async def test_many_paths_are_checked_beside_the_head(
    far_uploader: Uploader, round_trips: RoundTrips
) -> None:
    await far_uploader.push_to_hub("me/m", {"a.txt": b"a"})
    round_trips.forget()
    files = {f"{number}.txt": b"%d" % number for number in range(commits.PREUPLOAD_LIMIT + 1)}
    await far_uploader.push_to_hub("me/m", files)
    assert sorted(round_trips.calls[:2]) == ["head", "verify_commit"]
    assert round_trips.calls.count("preupload") == 2
    assert round_trips.in_a_row == 4, round_trips.calls


async def test_path_conflicts_among_many_files_use_the_head(
    far_uploader: Uploader, round_trips: RoundTrips
) -> None:
    await far_uploader.push_to_hub("me/m", {"logs/a": b"a"})
    round_trips.forget()
    files = {f"{number}.txt": b"%d" % number for number in range(commits.PREUPLOAD_LIMIT)}
    with pytest.raises(SourceError, match="it is a folder in the repo"):
        await far_uploader.push_to_hub("me/m", {**files, "logs": b"l"})
    assert sorted(round_trips.calls) == ["head", "verify_commit", "verify_commit"]
