"""Exactly one commit (invariant 3), whoever else pushes, and no false success (invariant 1)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponseError, web
from aiohttp.typedefs import Handler

from asyncpush import (
    CommitConflictError,
    ProtocolError,
    PushOptions,
    RateLimitedError,
    UploadConfig,
    Uploader,
    VerificationError,
)
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN, open_hub
from tests.faults import KINDS, FaultLayer, with_body
from tests.reading import commits_of, download, files_of, head_of

ROUNDS = 20

PUSHER = """
import asyncio, sys
import asyncpush
endpoint, cache, name, shared, rounds = sys.argv[1:]
config = asyncpush.UploadConfig(cache_dir=cache, progress="none", initial_backoff_ms=5)

async def main():
    async with asyncpush.Uploader(endpoint=endpoint, config=config) as up:
        for number in range(int(rounds)):
            path = "same.txt" if shared else f"{name}/{number}.txt"
            await up.push_to_hub("me/m", {path: f"{name} {number}".encode()})

asyncio.run(main())
"""


async def run_pushers(hub: LocalHub, cache: Path, *, shared: bool, rounds: int) -> None:
    environment = {**os.environ, "HF_TOKEN": TOKEN}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PUSHER,
            hub.url,
            str(cache),
            name,
            "shared" if shared else "",
            str(rounds),
            env=environment,
        )
        for name in ("left", "right")
    ]
    assert [await process.wait() for process in processes] == [0, 0]


@pytest.mark.no_cover
async def test_two_processes_pushing_to_one_branch_both_land_every_time(
    hub: LocalHub, uploader: Uploader, tmp_path: Path
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    await run_pushers(hub, tmp_path / "cache", shared=False, rounds=ROUNDS)

    names = {f"{name}/{number}.txt" for name in ("left", "right") for number in range(ROUNDS)}
    assert names <= await files_of(hub, "me/m")
    assert len(await commits_of(hub, "me/m")) == 2 + 2 * ROUNDS


async def test_two_processes_pushing_the_same_file_both_land(
    hub: LocalHub, uploader: Uploader, tmp_path: Path
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    await run_pushers(hub, tmp_path / "cache", shared=True, rounds=5)

    assert len(await commits_of(hub, "me/m")) == 2 + 2 * 5
    content = (await download(hub, "me/m", ["same.txt"]))["same.txt"]
    assert content in (b"left 4", b"right 4")


async def test_pushes_of_one_session_to_one_branch_land_one_after_another(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    handles = [uploader.start_push("me/m", {f"{n}.txt": b"%d" % n}) for n in range(8)]
    for handle in handles:
        await handle
    assert len(await commits_of(hub, "me/m")) == 2 + 8


async def test_a_commit_that_came_first_is_kept_under_ours(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """412 without a pinned parent: rebuilt on the new head, nothing sent again."""
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    faults.add("commit", "412 as if someone came first", nth=2)
    result = await uploader.push_to_hub("me/m", {"ours.bin": b"\0ours"})
    assert faults.seen["commit"] == 3
    assert faults.seen["part"] == 1
    assert result.commit_sha == await head_of(hub, "me/m")
    assert {"first.txt", "ours.bin"} <= await files_of(hub, "me/m")


async def test_the_same_change_by_someone_else_needs_no_commit_of_ours(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("commit", "applied by someone else", nth=2)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    assert result.files_uploaded == ()
    assert result.files_unchanged == ("a.txt",)
    assert result.verified
    assert await download(hub, "me/m", ["a.txt"]) == {"a.txt": b"2"}


async def test_a_commit_on_a_moved_head_brings_the_files_that_were_unchanged_before(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    """Someone changes, between our look and our commit, a file that we did not have to send."""
    files = {"same.txt": b"same", "same.bin": b"\0same"}
    await uploader.push_to_hub("me/m", files)
    reached, done = asyncio.Event(), asyncio.Event()

    async def someone_else() -> None:
        await reached.wait()
        async with Uploader(TOKEN, hub.url, config) as other:
            await other.push_to_hub("me/m", {name: b"\0theirs" for name in files})
        done.set()

    theirs = asyncio.create_task(someone_else())
    original = uploader._runtime

    assert original is not None
    lock = original._commit_lock

    @asynccontextmanager
    async def after_someone_else() -> AsyncIterator[None]:
        reached.set()
        await done.wait()
        yield

    original._commit_lock = lambda repo, revision: after_someone_else()  # type: ignore
    result = await uploader.push_to_hub("me/m", {**files, "new.txt": b"new"})
    original._commit_lock = lock  # type: ignore[method-assign]
    await theirs

    assert set(result.files_uploaded) == {"new.txt", *files}
    assert await download(hub, "me/m", ["new.txt", *files]) == {**files, "new.txt": b"new"}


@pytest.mark.parametrize("options", [{"revision": "dev"}, {"create_pr": True}], ids=str)
async def test_a_pinned_parent_holds_for_a_series_of_commits(
    options: dict[str, Any], hub: LocalHub, config: UploadConfig, uploader: Uploader
) -> None:
    """Someone else's commit comes before the first of them, or between two."""
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"b.txt": b"1"}, dev)
    revision = options.get("revision", "main")
    parent = await head_of(hub, "me/m", revision)
    await uploader.push_to_hub("me/m", {"theirs.txt": b"2"}, PushOptions(revision=revision))
    pinned = PushOptions(parent_commit=parent, max_files_per_commit=1, **options)
    with pytest.raises(CommitConflictError):
        await uploader.push_to_hub("me/m", {"c.txt": b"3", "d.txt": b"4"}, pinned)


async def test_a_series_on_a_branch_lists_the_files_of_all_its_commits(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """Also of the earlier ones, where someone else has made the last one's change."""
    dev = PushOptions(revision="dev", create_branch=True, max_files_per_commit=1)
    files = {"a.txt": b"1", "b.txt": b"1", "c.txt": b"1"}
    result = await uploader.push_to_hub("me/m", files, dev)
    assert (result.files_uploaded, result.files_unchanged) == (tuple(files), ())

    faults.add("commit", "applied by someone else", nth=faults.seen["commit"] + 3)
    result = await uploader.push_to_hub("me/m", {name: b"2" for name in files}, dev)
    assert (result.files_uploaded, result.files_unchanged) == (("a.txt", "b.txt"), ("c.txt",))


async def test_someone_elses_commit_within_a_pinned_series_is_a_conflict(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"a.txt": b"1"}, dev)
    parent = await head_of(hub, "me/m", "dev")
    faults.add("commit", "412 as if someone came first", nth=faults.seen["commit"] + 2)
    pinned = PushOptions(revision="dev", parent_commit=parent, max_files_per_commit=1)
    with pytest.raises(CommitConflictError):
        await uploader.push_to_hub("me/m", {"c.txt": b"3", "d.txt": b"4"}, pinned)


async def test_a_hub_that_hides_descriptions_still_shows_what_landed(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """The answer is lost, the push's id is not shown, and the repeated commit is a server error."""

    @web.middleware
    async def hiding(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if request.match_info.route.name == "commits" and isinstance(answer, web.Response):
            rows = orjson.loads(answer.body)  # type: ignore[arg-type]
            return web.json_response([{**row, "message": ""} for row in rows])
        return answer

    async with (
        open_hub(tmp_path, faults, hiding) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", {"a.txt": b"1", "old.txt": b"2"})
        faults.add("commit", "done, then reset", nth=2)
        faults.add("commit", "500", nth=3, times=99)
        options = PushOptions(delete_patterns=["*"])
        result = await uploader.push_to_hub("me/m", {"a.txt": b"11"}, options)
        assert result.commit_sha == await head_of(hub, "me/m")
        assert result.files_uploaded == ("a.txt",)
        assert len(await commits_of(hub, "me/m")) == 3


async def test_an_answer_that_names_the_old_head_means_nothing_was_committed(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})

    async def old_head(layer: object, request: web.Request, handler: Handler) -> web.Response:
        await request.read()
        return web.json_response({"commitOid": first.commit_sha, "commitUrl": first.commit_url})

    monkeypatch.setitem(KINDS, "the old head", old_head)
    faults.add("commit", "the old head", nth=2, times=99)
    for options in (PushOptions(), PushOptions(verify=False), PushOptions(create_pr=True)):
        with pytest.raises(ProtocolError, match="nothing was committed"):
            await uploader.push_to_hub("me/m", {"b.txt": b"2"}, options)


@pytest.mark.parametrize("rest", ["", "0" * 24], ids=["its id", "its whole id"])
async def test_a_hub_that_tells_of_no_unchanged_files_makes_no_commit_of_them(
    rest: str, tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """It answers a commit that changes nothing with the head as it is (KohakuHub: with 64
    characters of its id, where a look at the branch shows 40)."""
    first = ""

    @web.middleware
    async def forgetful(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = request.match_info.route.name
        if route == "commit" and first:
            await request.read()
            told = first + rest
            return web.json_response({"commitOid": told, "commitUrl": f"{hub.url}/{told}"})
        answer = await handler(request)
        if route == "preupload" and isinstance(answer, web.Response):
            files = orjson.loads(answer.body)["files"]  # type: ignore[arg-type]
            return web.json_response({"files": [{**file, "oid": None} for file in files]})
        return answer

    async with (
        open_hub(tmp_path, faults, forgetful) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        first = (await uploader.push_to_hub("me/m", {"a.txt": b"1"})).commit_sha
        result = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert (result.commit_sha, result.files_uploaded) == (first, ())
    assert result.files_unchanged == ("a.txt",)
    assert any("made no commit" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "kind", ["done, then reset", "done, then 504", "done, answer never sent", "truncated JSON"]
)
async def test_a_lost_answer_never_opens_two_pull_requests(
    kind: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    config = replace(config, response_timeout=0.5)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("commit", kind, nth=2)
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    assert faults.seen["commit"] == 2
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    assert result.commit_sha == await head_of(hub, "me/m", "refs/pr/1")


@pytest.mark.parametrize("files", [1, 2], ids=["a commit", "a series"])
async def test_a_pull_request_that_lands_behind_the_gateway_is_the_only_one(
    files: int, hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """504 at once, and it is made once it has been looked for in vain."""
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    route = "commit" if files == 1 else "discussion-create"
    faults.add(route, "504, done later", nth=faults.seen[route] + 1)
    source = {f"{number}.txt": b"2" for number in range(files)}
    options = PushOptions(create_pr=True, max_files_per_commit=None if files == 1 else 1)
    result = await uploader.push_to_hub("me/m", source, options)

    assert faults.spoilt
    assert not faults.late
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    with pytest.raises(ClientResponseError):
        await head_of(hub, "me/m", "refs/pr/2")


@pytest.mark.parametrize("kind", ["done, then reset", "done, then 504"])
async def test_a_lost_answer_to_a_pinned_commit_is_a_success(
    kind: str, hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("commit", kind, nth=2)
    options = PushOptions(parent_commit=first.commit_sha)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert result.commit_sha == await head_of(hub, "me/m")
    assert len(await commits_of(hub, "me/m")) == 3


async def test_a_pinned_parent_is_checked_even_when_nothing_changed(uploader: Uploader) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    second = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    with pytest.raises(CommitConflictError):
        await uploader.push_to_hub(
            "me/m", {"a.txt": b"2"}, PushOptions(parent_commit=first.commit_sha)
        )
    # Some Hubs show more of an id in one answer than in another.
    whole = PushOptions(parent_commit=second.commit_sha + "0" * 24)
    again = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, whole)
    assert again.commit_sha == second.commit_sha


@pytest.mark.parametrize("lie", ["one file left out", "another oid"])
async def test_a_commit_that_is_not_what_was_sent_is_found_out(
    lie: str, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    faults.add("commit", lie, nth=2)
    with pytest.raises(VerificationError) as caught:
        await uploader.push_to_hub("me/m", {"a.txt": b"1", "b.txt": b"2"})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("b.txt")


async def test_the_users_own_verify_false_is_the_only_way_around(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    faults.add("commit", "nothing applied", nth=2)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"1"}, PushOptions(verify=False))
    assert not result.verified


async def test_a_completion_that_stored_nothing_is_found_by_verify(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    content = os.urandom(6 << 20)
    faults.add("complete", "nothing applied")
    await uploader.push_to_hub("me/m", {"big.bin": content})
    assert faults.seen["complete"] == 2
    assert await download(hub, "me/m") == {"big.bin": content}


async def test_a_hint_of_hours_does_not_put_a_push_to_sleep_for_hours(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("preupload", "429 hours", times=99)
    with pytest.raises(RateLimitedError, match="max_retry_after=900"):
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert faults.seen["preupload"] == 1


def _changed(line: bytes, change: Any) -> bytes | None:
    row = orjson.loads(line)
    if row["key"] == "file" and row["value"]["path"] == "b.txt":
        return change(row)  # type: ignore[no-any-return]
    return line


async def _left_out(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    lines = (await request.read()).splitlines()
    kept = [line for line in lines if _changed(line, lambda row: None) is not None]
    return await with_body(request, b"\n".join(kept), handler)


async def _another_oid(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    def other(row: Any) -> bytes:
        row["value"]["content"] = "b3RoZXI="
        return orjson.dumps(row)

    lines = [_changed(line, other) or b"" for line in (await request.read()).splitlines()]
    return await with_body(request, b"\n".join(lines), handler)


async def _came_first(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await request.read()
    return web.json_response({"error": "A commit has happened since"}, status=412)


async def _applied_by_someone_else(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The same change lands as another's commit, without our id; ours is refused."""
    lines = (await request.read()).splitlines()
    header = orjson.loads(lines[0])
    header["value"]["description"] = ""
    await with_body(request, b"\n".join([orjson.dumps(header), *lines[1:]]), handler)
    return web.json_response({"error": "A commit has happened since"}, status=412)


KINDS["one file left out"] = _left_out
KINDS["another oid"] = _another_oid
KINDS["412 as if someone came first"] = _came_first
KINDS["applied by someone else"] = _applied_by_someone_else
