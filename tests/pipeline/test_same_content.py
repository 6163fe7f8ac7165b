"""Two pushes of the same content to one repo at the same time, in two processes (here two
Uploaders with one cache): each has its own pull request, also when an answer is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import HubError, PushOptions, UploadConfig, Uploader, UploadResult
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.faults import KINDS, FaultLayer
from tests.reading import download, head_of, pull_requests_of

FILES = {"a.txt": b"new", "b.txt": b"new"}

WAYS = {
    "a pull request": ("discussion-create", PushOptions(create_pr=True)),
    "a series in one": (
        "discussion-create",
        PushOptions(create_pr=True, max_files_per_commit=1),
    ),
    "a pull request to a branch": ("commit", PushOptions(create_pr=True, revision="dev")),
}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The fault "done, held, then 504", whether it is reached, and what ends it."""
    reached, release = asyncio.Event(), asyncio.Event()

    async def hold(layer: FaultLayer, request: web.Request, handler: Handler) -> web.Response:
        await handler(request)
        reached.set()
        await release.wait()
        return web.Response(status=504)

    monkeypatch.setitem(KINDS, "done, held, then 504", hold)
    return reached, release


async def begin_repo(hub: LocalHub, config: UploadConfig, revision: str) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"first.txt": b"1"})
        if revision != "main":
            options = PushOptions(revision=revision, create_branch=True)
            await uploader.push_to_hub("me/m", {"first.txt": b"2"}, options)


async def check_pull_request(hub: LocalHub, result: UploadResult) -> None:
    assert result.pr_url is not None
    ref = f"refs/pr/{result.pr_url.rpartition('/')[2]}"
    assert await head_of(hub, "me/m", ref) == result.commit_sha
    assert await download(hub, "me/m", FILES, revision=ref) == FILES


@pytest.mark.parametrize("way", WAYS)
async def test_after_a_lost_answer_each_push_has_its_pull_request(
    way: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    held: tuple[asyncio.Event, asyncio.Event],
) -> None:
    route, options = WAYS[way]
    reached, release = held
    await begin_repo(hub, config, options.revision)
    faults.add(route, "done, held, then 504", nth=faults.seen[route] + 1)
    async with (
        Uploader(TOKEN, hub.url, config) as one,
        Uploader(TOKEN, hub.url, config) as other,
    ):
        first = one.start_push("me/m", FILES, options)
        await reached.wait()
        second = await other.push_to_hub("me/m", FILES, options)
        release.set()
        results = [await first, second]

    assert await pull_requests_of(hub, "me/m") == {1: "open", 2: "open"}
    assert [result.pr_url for result in results] == [
        f"{hub.url}/me/m/discussions/{number}" for number in (1, 2)
    ]
    for result in results:
        await check_pull_request(hub, result)


@pytest.mark.parametrize("way", WAYS)
async def test_the_record_of_a_failed_push_outlives_that_of_another(
    way: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    held: tuple[asyncio.Event, asyncio.Event],
) -> None:
    """The first push fails without knowing what became of its pull request. The second one opens
    its own and succeeds. The third, of the same content, continues the first's."""
    route, options = WAYS[way]
    reached, release = held
    await begin_repo(hub, config, options.revision)
    faults.add(route, "done, held, then 504", nth=faults.seen[route] + 1)
    async with (
        Uploader(TOKEN, hub.url, replace(config, max_retries=0)) as one,
        Uploader(TOKEN, hub.url, config) as other,
    ):
        first = one.start_push("me/m", FILES, options)
        await reached.wait()
        second = await other.push_to_hub("me/m", FILES, options)
        faults.add("discussions", "503", nth=faults.seen["discussions"] + 1, times=99)
        release.set()
        with pytest.raises(HubError):
            await first
        faults.rules.clear()
        third = await other.push_to_hub("me/m", FILES, options)

    assert await pull_requests_of(hub, "me/m") == {1: "open", 2: "open"}
    assert [result.pr_url for result in (third, second)] == [
        f"{hub.url}/me/m/discussions/{number}" for number in (1, 2)
    ]
    for result in (second, third):
        await check_pull_request(hub, result)


async def test_two_series_to_main_share_no_pull_request(
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    held: tuple[asyncio.Event, asyncio.Event],
) -> None:
    """Both are merged; the second changes nothing then."""
    reached, release = held
    options = PushOptions(max_files_per_commit=1)
    await begin_repo(hub, config, "main")
    faults.add("discussion-create", "done, held, then 504")
    async with (
        Uploader(TOKEN, hub.url, config) as one,
        Uploader(TOKEN, hub.url, config) as other,
    ):
        first = one.start_push("me/m", FILES, options)
        await reached.wait()
        await other.push_to_hub("me/m", FILES, options)
        release.set()
        await first
    assert await download(hub, "me/m", FILES) == FILES
    assert await pull_requests_of(hub, "me/m") == {1: "merged", 2: "merged"}
