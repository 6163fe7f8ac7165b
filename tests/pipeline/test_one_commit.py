"""Exactly one commit (invariant 3), whoever else pushes, and no false success (invariant 1)."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponseError, web
from aiohttp.typedefs import Handler

from asyncpush import (
    AuthError,
    CommitConflictError,
    HubError,
    ProtocolError,
    PullRequestClosedError,
    PushOptions,
    RateLimitedError,
    Receipt,
    SourceChangedError,
    UploadConfig,
    Uploader,
    VerificationError,
    push_to_hub,
)
from asyncpush.events import Committed, Emitter, RequestFailed, RequestStarted
from asyncpush.localhub import LocalHub
from asyncpush.pipeline import preflight
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import KINDS, REFUSALS, FaultLayer, with_body
from tests.reading import (
    change_pull_request,
    commits_of,
    download,
    files_of,
    head_of,
    pull_requests_of,
)

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
async def test_two_processes_can_push_to_one_branch(
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


async def test_pushes_to_one_branch_are_committed_in_turn(
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


@pytest.mark.parametrize("refusal", ["404", "501", "500"])
@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("412 as if someone came first", 1),
        ("done, then reset", 1),
        ("done, then 504", 1),
        ("413", 0),
    ],
)
async def test_a_hub_that_lists_no_commits_can_be_used(
    kind: str, made: int, refusal: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """The branch's own files show what was committed."""
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        await uploader.push_to_hub("me/m", {"first.txt": b"1"})
        before = len(await commits_of(hub, "me/m"))
        faults.add("commits", refusal, times=99)
        faults.add("commit", kind, nth=2)
        if not made:
            with pytest.raises(HubError, match="commit failed"):
                await uploader.push_to_hub("me/m", {"ours.txt": b"2"})
        else:
            result = await uploader.push_to_hub("me/m", {"ours.txt": b"2"})
            assert result.files_uploaded == ("ours.txt",)
            assert result.commit_sha == await head_of(hub, "me/m")
        faults.rules.clear()
        assert len(await commits_of(hub, "me/m")) == before + made


@pytest.mark.parametrize("refusal", ["404", "501"])
async def test_a_lost_commit_is_made_again_without_a_commit_list(
    refusal: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    before = len(await commits_of(hub, "me/m"))
    faults.add("commits", refusal, times=99)
    faults.add("commit", "reset after the body", nth=2)
    result = await uploader.push_to_hub("me/m", {"ours.txt": b"2"})
    assert result.commit_sha == await head_of(hub, "me/m")
    faults.rules.clear()
    assert len(await commits_of(hub, "me/m")) == before + 1


async def test_a_retried_commit_is_reported_as_such(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    recorded = EventRecorder()
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader:
        await uploader.push_to_hub("me/m", {"first.txt": b"1"})
        faults.add("commit", "412 as if someone came first", nth=2)
        result = await uploader.push_to_hub("me/m", {"ours.bin": b"\0ours"})
    (failed,) = [event for event in recorded.of(RequestFailed) if event.call == "commit"]
    assert (failed.status, failed.retry_attempt) == (412, 1)
    assert failed.backoff_ms is not None
    sent = [event.attempt for event in recorded.of(RequestStarted) if event.call == "commit"]
    assert sent == [1, 1, 2]
    assert result.retries == 1


async def test_an_equal_change_by_others_needs_no_commit(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("commit", "applied by someone else", nth=2)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    assert result.files_uploaded == ()
    assert result.files_unchanged == ("a.txt",)
    assert result.verified
    assert await download(hub, "me/m", ["a.txt"]) == {"a.txt": b"2"}


async def test_a_commit_on_a_moved_head_has_all_files(
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


async def test_a_series_lists_the_files_of_all_commits(
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


async def test_another_commit_within_a_pinned_series_is_a_conflict(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"a.txt": b"1"}, dev)
    parent = await head_of(hub, "me/m", "dev")
    faults.add("commit", "412 as if someone came first", nth=faults.seen["commit"] + 2)
    pinned = PushOptions(revision="dev", parent_commit=parent, max_files_per_commit=1)
    with pytest.raises(CommitConflictError):
        await uploader.push_to_hub("me/m", {"c.txt": b"3", "d.txt": b"4"}, pinned)


@web.middleware
async def hides_descriptions(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await handler(request)
    if request.match_info.route.name == "commits" and isinstance(answer, web.Response):
        rows = orjson.loads(answer.body)  # type: ignore[arg-type]
        return web.json_response([{**row, "message": ""} for row in rows])
    return answer


async def test_a_hub_that_hides_descriptions_still_shows_what_landed(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """The answer is lost, the push's id is not shown, and the repeated commit is a server error."""

    async with (
        open_hub(tmp_path, faults, hides_descriptions) as hub,
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


async def test_an_answer_with_the_old_head_is_no_commit(
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
async def test_unreported_unchanged_files_count_as_unchanged(
    rest: str,
    tmp_path: Path,
    config: UploadConfig,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of more files than are looked up first, the Hub alone knows that they are unchanged. It
    answers a commit that changes nothing with the head as it is (KohakuHub: with 64
    characters of its id, where a look at the branch shows 40)."""
    first = ""
    monkeypatch.setattr(preflight, "PATHS_ASKED", 0)

    @web.middleware
    async def forgetful(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = request.match_info.route.name
        if route == "commit" and first:
            await request.read()
            reported = first + rest
            return web.json_response({"commitOid": reported, "commitUrl": f"{hub.url}/{reported}"})
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
    assert any("no commit was made" in warning for warning in result.warnings)


async def test_unreported_unchanged_files_are_not_committed_again(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """A Hub whose preupload never names what the repo has, and that makes empty commits."""

    @web.middleware
    async def forgetful(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if request.match_info.route.name == "preupload" and answer.status == 200:
            assert isinstance(answer, web.Response)
            files = orjson.loads(answer.body)["files"]  # type: ignore[arg-type]
            return web.json_response({"files": [{**file, "oid": None} for file in files]})
        return answer

    files = {"a.txt": b"1", "b.bin": b"\0b"}
    async with (
        open_hub(tmp_path, faults, forgetful) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        first = await uploader.push_to_hub("me/m", files)
        again = await uploader.push_to_hub("me/m", files)
        assert (again.commit_sha, again.files_uploaded) == (first.commit_sha, ())
        assert again.files_unchanged == ("a.txt", "b.bin")
        assert faults.seen["commit"] == 1
        changed = await uploader.push_to_hub("me/m", {**files, "b.bin": b"\0c", "c.txt": b"3"})
        assert sorted(changed.files_uploaded) == ["b.bin", "c.txt"]
        assert changed.files_unchanged == ("a.txt",)


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
async def test_a_pull_request_with_a_lost_answer_is_not_repeated(
    files: int, hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """504 at once, and it is made once it has been looked for in vain."""
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    route = "commit" if files == 1 else "discussion-create"
    faults.add(route, "504, done later", nth=faults.seen[route] + 1)
    source = {f"{number}.txt": b"2" for number in range(files)}
    options = PushOptions(create_pr=True, max_files_per_commit=None if files == 1 else 1)
    result = await uploader.push_to_hub("me/m", source, options)

    assert faults.injected
    assert not faults.late
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    with pytest.raises(ClientResponseError):
        await head_of(hub, "me/m", "refs/pr/2")


class LandingLate:
    """The gateway answers 504 at once; what was sent is done once the Hub has been asked `looks`
    so many times."""

    def __init__(self, faults: FaultLayer, checks: str, after: int) -> None:
        self._faults = faults
        self._looks = checks
        self._left = after
        self._landing = asyncio.Event()
        self._tasks: list[asyncio.Task[web.StreamResponse]] = []

    async def __call__(
        self, layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        body = await request.read()

        async def land() -> web.StreamResponse:
            await self._landing.wait()
            return await with_body(request, body, handler)

        self._tasks.append(asyncio.create_task(land()))
        self._faults.hooks[self._looks] = self._looked
        return web.Response(status=504)

    def _looked(self) -> None:
        self._left -= 1
        if self._left:
            self._faults.hooks[self._looks] = self._looked
        else:
            self._landing.set()


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_commit_landing_after_the_last_attempt_succeeds(
    retries: int,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, "lands late", LandingLate(faults, "commits", after=retries + 3))
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=retries)) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("commit", "lands late", nth=2)
        faults.add("commit", "504", nth=3, times=99)
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    assert result.files_uploaded == ("a.txt",)
    assert result.commit_sha == await head_of(hub, "me/m")
    assert len(await commits_of(hub, "me/m")) == 3


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_made_commit_with_a_refusal_is_a_success(
    status: int, hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("commit", f"done, then {status}")
    result = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert result.files_uploaded == ("a.txt",)
    assert result.commit_sha == await head_of(hub, "me/m")
    (warning,) = result.warnings
    assert warning.startswith(f"the Hub made the commit, but answered {status}: ")


@pytest.mark.parametrize("kind", ["401", "403", "409 another commit", "429 hours"])
async def test_a_refusal_after_a_lost_answer_does_not_hide_it(
    kind: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commit lands after that refusal."""
    monkeypatch.setitem(KINDS, "lands late", LandingLate(faults, "commits", after=3))
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        faults.add("commit", "lands late")
        faults.add("commit", kind, nth=2, times=9)
        result = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert result.files_uploaded == ("a.txt",)
    assert result.commit_sha == await head_of(hub, "me/m")


async def test_a_file_that_changes_after_a_lost_answer_hides_no_commit(
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first attempt lands late. The second one cannot be sent: the file is gone."""
    folder = write({"a.txt": b"1" * 1000})
    landing = LandingLate(faults, "commits", after=3)

    async def lose(layer: FaultLayer, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await landing(layer, request, handler)
        (folder / "a.txt").unlink()
        return answer

    monkeypatch.setitem(KINDS, "lands late, file lost", lose)
    faults.add("commit", "lands late, file lost")
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=1)) as uploader:
        result = await uploader.push_to_hub("me/m", folder, PushOptions(on_change="error"))
    assert result.commit_sha == await head_of(hub, "me/m")
    assert (await download(hub, "me/m"))["a.txt"] == b"1" * 1000


async def test_an_equal_commit_of_others_does_not_hide_a_refusal(
    hub: LocalHub,
    uploader: Uploader,
    config: UploadConfig,
    faults: FaultLayer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"a.txt": b"2"}
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    other = replace(config, cache_dir=tmp_path / "other")

    async def lose(layer: FaultLayer, request: web.Request, handler: Handler) -> web.StreamResponse:
        await request.read()
        faults.rules.clear()
        await push_to_hub("me/m", files, token=TOKEN, endpoint=hub.url, config=other)
        return web.json_response({"error": "no"}, status=403)

    monkeypatch.setitem(KINDS, "others come first, then 403", lose)
    faults.add("commit", "others come first, then 403", nth=2)
    with pytest.raises(AuthError, match="no"):
        await uploader.push_to_hub("me/m", files)


async def test_a_refused_commit_is_reported_as_refused(
    uploader: Uploader, faults: FaultLayer
) -> None:
    """Also where the branch cannot be looked at."""
    faults.add("commit", "422")
    faults.add("commits", "403", times=9)
    with pytest.raises(HubError) as caught:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert caught.value.status == 422
    assert caught.value.__cause__ is None
    assert not hasattr(caught.value, "__notes__")


async def test_a_late_pull_request_is_used(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "lands late", LandingLate(faults, "discussions", after=4))
    async with Uploader(TOKEN, hub.url, replace(config, max_retries=0)) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("discussion-create", "lands late")
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    assert faults.seen["discussion-create"] == 1


async def test_a_refused_commit_leaves_no_open_pull_request(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("commit", "422", nth=2)
    with pytest.raises(HubError, match="422"):
        await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    assert await pull_requests_of(hub, "me/m") == {1: "closed"}


async def test_a_moved_pinned_parent_leaves_no_pull_request(
    hub: LocalHub, uploader: Uploader
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    options = PushOptions(create_pr=True, parent_commit=first.commit_sha)
    with pytest.raises(CommitConflictError, match="not at the pinned parent"):
        await uploader.push_to_hub("me/m", {"b.txt": b"3"}, options)
    assert "open" not in (await pull_requests_of(hub, "me/m")).values()
    assert "draft" not in (await pull_requests_of(hub, "me/m")).values()


async def test_a_file_changed_before_commit_leaves_no_pull_request(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer, tmp_path: Path
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    path = tmp_path / "small.txt"
    path.write_text("before")

    def change() -> None:
        path.write_text("behind")

    faults.hooks["discussion-create"] = change
    options = PushOptions(create_pr=True, on_change="error")
    with pytest.raises(SourceChangedError):
        await uploader.push_to_hub("me/m", path, options)
    assert await pull_requests_of(hub, "me/m") == {1: "closed"}

    result = await uploader.push_to_hub("me/m", path, options)
    assert result.pr_url == f"{hub.url}/me/m/discussions/2"
    assert await pull_requests_of(hub, "me/m") == {1: "closed", 2: "open"}

    path.write_text("before")
    faults.hooks["discussion-create"] = change
    result = await uploader.push_to_hub("me/m", path, PushOptions(create_pr=True))
    assert result.pr_url == f"{hub.url}/me/m/discussions/4"
    assert (await pull_requests_of(hub, "me/m"))[3] == "closed"
    held = await download(hub, "me/m", ["small.txt"], revision="refs/pr/4")
    assert held == {"small.txt": b"behind"}


async def test_a_pull_request_that_stays_a_draft_is_a_warning(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("discussion-status", "403", times=99)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    assert result.verified
    assert any(
        f"still a draft, open it at {result.pr_url}" in reported for reported in result.warnings
    )


@pytest.mark.parametrize(
    "options", [PushOptions(create_pr=True), PushOptions(max_files_per_commit=1)]
)
async def test_a_draft_that_was_opened_but_refused_in_words_is_open(
    options: PushOptions, uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("discussion-status", "done, then 403")
    result = await uploader.push_to_hub("me/m", {"a.txt": b"1", "b.txt": b"2"}, options)
    assert result.verified
    assert not result.warnings


async def test_a_pull_request_holds_only_new_files(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    """`same.txt` is changed by someone between our look at the branch and the pull request."""
    await uploader.push_to_hub("me/m", {"same.txt": b"same"})

    async def theirs(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await uploader.push_to_hub("me/m", {"same.txt": b"theirs"}, PushOptions(revision="main"))
        return await handler(request)

    KINDS["theirs first"] = theirs
    try:
        faults.add("discussion-create", "theirs first")
        files = {"same.txt": b"same", "new.txt": b"new"}
        async with Uploader(TOKEN, hub.url, config) as other:
            result = await other.push_to_hub("me/m", files, PushOptions(create_pr=True))
    finally:
        del KINDS["theirs first"]
    assert await pull_requests_of(hub, "me/m") == {1: "open"}
    assert await download(hub, "me/m", files, revision="refs/pr/1") == files
    assert set(result.files_uploaded) == set(files)


async def test_a_push_already_in_its_pull_request_names_files(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """Cut off between the commit and what makes the draft ready; the next push goes on there."""
    faults.add("discussion-status", "stall before reading")
    options = PushOptions(create_pr=True)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        handle = uploader.start_push("me/m", {"a.txt": b"2"}, options)
        await faults.stalled.wait()
        handle.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await handle
    assert "was made" in caught.value.__notes__[0]
    recorded = EventRecorder()
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader:
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert result.files_uploaded == ("a.txt",)
    assert [event.commit_sha for event in recorded.of(Committed) if event.final] == [
        result.commit_sha
    ]
    assert await pull_requests_of(hub, "me/m") == {1: "open"}


async def test_a_series_overwrites_concurrent_changes(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    dev = PushOptions(revision="dev", create_branch=True, max_files_per_commit=1)
    await uploader.push_to_hub("me/m", {"same.txt": b"same"}, dev)

    async def theirs(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        async with Uploader(TOKEN, hub.url, config) as other:
            await other.push_to_hub("me/m", {"same.txt": b"theirs"}, dev)
        return await handler(request)

    KINDS["theirs first"] = theirs
    try:
        faults.add("commit", "theirs first", nth=faults.seen["commit"] + 2)
        files = {"same.txt": b"same", "new.txt": b"new", "other.txt": b"other"}
        result = await uploader.push_to_hub("me/m", files, dev)
    finally:
        del KINDS["theirs first"]
    assert await download(hub, "me/m", files, revision="dev") == files
    assert set(result.files_uploaded) == set(files)


async def test_a_series_deletes_what_someone_else_has_deleted_meanwhile(
    hub: LocalHub, config: UploadConfig, uploader: Uploader, faults: FaultLayer
) -> None:
    """The Hub refuses to delete a file that is gone."""
    dev = PushOptions(revision="dev", create_branch=True)
    old = {"old1.txt": b"1", "old2.txt": b"2", "old3.txt": b"3"}
    await uploader.push_to_hub("me/m", {**old, "kept.txt": b"0"}, dev)
    delete_old = replace(dev, delete_patterns=["old*"])

    async def theirs(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        async with Uploader(TOKEN, hub.url, config) as other:
            await other.push_to_hub("me/m", {"kept.txt": b"0"}, delete_old)
        return await handler(request)

    KINDS["theirs first"] = theirs
    try:
        faults.add("commit", "theirs first", nth=faults.seen["commit"] + 1)
        options = replace(delete_old, max_files_per_commit=1)
        await uploader.push_to_hub("me/m", {"new.txt": b"new", "newer.txt": b"newer"}, options)
    finally:
        del KINDS["theirs first"]
    left = {".gitattributes", "kept.txt", "new.txt", "newer.txt"}
    assert await files_of(hub, "me/m", revision="dev") == left


async def test_a_series_that_fails_midway_says_what_shows_already(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    dev = PushOptions(revision="dev", create_branch=True, max_files_per_commit=2)
    files = {f"{number}.txt": b"1" for number in range(6)}
    faults.add("commit", "403", nth=2)
    with pytest.raises(AuthError) as caught:
        await uploader.push_to_hub("me/m", files, dev)
    assert "2 of the files are already on dev" in caught.value.suggestion


async def test_a_merge_with_a_lost_answer_is_no_failure(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """The answer to the merge is lost, and the pull request cannot be looked at."""
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("discussion-merge", "done, then 504", times=99)
    faults.add("discussion", "500", nth=2, times=99)
    with pytest.raises(HubError) as caught:
        files = {"b.txt": b"2", "c.txt": b"3"}
        await uploader.push_to_hub("me/m", files, PushOptions(max_files_per_commit=1))
    assert "whether" in caught.value.suggestion
    assert "is not known" in caught.value.suggestion


async def test_a_commit_with_a_hidden_description_is_recognised(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """The answer is lost; the second one is refused, since the first has moved the branch."""
    async with (
        open_hub(tmp_path, faults, hides_descriptions) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("commit", "done, then reset", nth=2)
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
        assert result.files_uploaded == ("a.txt",)
        assert result.commit_sha == await head_of(hub, "me/m")
        assert len(await commits_of(hub, "me/m")) == 3


@pytest.mark.parametrize("stale", [12, 999], ids=["for two minutes", "for ever"])
async def test_a_head_that_stays_stale_after_a_lost_answer(
    stale: int, tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """An old head, and the old list of commits, are shown for so many looks."""
    frozen: dict[str, bytes] = {}
    checks = 0

    @web.middleware
    async def freezing(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal checks
        name = request.match_info.route.name or ""
        if name not in ("revision", "commits"):
            return await handler(request)
        if faults.seen["commit"] < 2:
            answer = await handler(request)
            assert isinstance(answer, web.Response)
            if answer.status == 200:
                frozen[name] = answer.body  # type: ignore[assignment]
            return answer
        checks += name == "revision"
        if checks > stale:
            return await handler(request)
        if name not in frozen:
            return web.json_response([])
        return web.Response(body=frozen[name], content_type="application/json")

    async with (
        open_hub(tmp_path, faults, freezing) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("commit", "done, then reset", nth=2)
        if stale == 999:
            with pytest.raises(CommitConflictError, match="the commit may have been made"):
                await uploader.push_to_hub("me/m", {"a.txt": b"2"})
            assert faults.seen["commit"] <= 4
            return
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
        assert result.files_uploaded == ("a.txt",)
        assert len(await commits_of(hub, "me/m")) == 3
        assert faults.seen["commit"] <= 4


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


async def test_a_pinned_commit_that_is_shown_late_is_a_success(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    """The answer is lost, and the second attempt refused because of the first, which the Hub does
    not show yet."""
    old: dict[str, bytes] = {}
    looks = 4

    @web.middleware
    async def late(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal looks
        answer = await handler(request)
        name = request.match_info.route.name or ""
        if name not in ("revision", "commits") or not isinstance(answer, web.Response):
            return answer
        if faults.seen["commit"] < 2:
            old[name] = bytes(answer.body)  # type: ignore[arg-type]
            return answer
        looks -= name == "commits"
        if looks <= 0:
            return answer
        return web.Response(body=old.get(name, b"[]"), content_type="application/json")

    async with (
        open_hub(tmp_path, faults, late) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        faults.add("commit", "done, then 504", nth=2)
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


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("wrong", ["outdated", "unknown"])
async def test_a_wrong_parent_is_refused_before_anything_is_sent(
    wrong: str, dry_run: bool, uploader: Uploader, faults: FaultLayer
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/staging", {"big.bin": b"\0" * 1000})
    receipts = await uploader.upload_files("me/m", {"big.bin": b"\0" * 1000})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    parent = first.commit_sha if wrong == "outdated" else "0" * 40
    pinned = PushOptions(parent_commit=parent, dry_run=dry_run)
    faults.seen.clear()

    async def gather(events: Emitter) -> list[Receipt]:
        raise AssertionError("nothing is gathered")

    for work in (
        uploader.push_to_hub("me/m", {"big.bin": b"\1" * 1000}, pinned),
        uploader.push_to_hub("me/m", {"b.bin": b"\2" * 1000}, replace(pinned, create_pr=True)),
        uploader.push_to_hub("me/m", {"stream": io.BytesIO(b"x" * 1000)}, pinned),
        uploader.commit("me/m", receipts, pinned),
        uploader.commit_gathered("me/m", gather, pinned),
        uploader.copy("me/staging", "me/m", pinned),
    ):
        with pytest.raises(CommitConflictError, match=f"not at the pinned parent {parent}"):
            await work
    assert not {"batch", "part", "commit", "discussion-create"} & set(faults.seen)


async def test_a_parent_not_shown_yet_is_waited_for(
    tmp_path: Path, config: UploadConfig, faults: FaultLayer
) -> None:
    outdated: list[str] = []

    @web.middleware
    async def late(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if outdated and request.match_info.route.name == "revision":
            return web.json_response({"sha": outdated.pop()})
        return answer

    async with (
        open_hub(tmp_path, faults, late) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        second = await uploader.push_to_hub("me/m", {"a.txt": b"2"})
        outdated.append(first.commit_sha)
        pinned = PushOptions(parent_commit=second.commit_sha)
        result = await uploader.push_to_hub("me/m", {"a.txt": b"3"}, pinned)
        assert not outdated
        assert result.commit_sha == await head_of(hub, "me/m")


async def test_a_wrong_parent_is_refused_without_a_commit_list(
    uploader: Uploader, faults: FaultLayer
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    faults.add("commits", "403", times=99)
    pinned = PushOptions(parent_commit=first.commit_sha)
    with pytest.raises(CommitConflictError, match="not at the pinned parent"):
        await uploader.push_to_hub("me/m", {"big.bin": b"\0" * 1000}, pinned)
    assert faults.seen["commit"] == 2


async def test_an_interrupted_pinned_pull_request_is_finished(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    """What it has committed is reported, and not a conflict."""
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    pinned = PushOptions(parent_commit=first.commit_sha, create_pr=True)
    push = asyncio.create_task(uploader.push_to_hub("me/m", {"a.txt": b"2"}, pinned))

    def cancel() -> None:
        push.cancel()

    faults.hooks["commit"] = cancel
    with pytest.raises(asyncio.CancelledError):
        await push
    await uploader.push_to_hub("me/m", {"theirs.txt": b"3"})
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, pinned)
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    assert await pull_requests_of(hub, "me/m") == {1: "open"}


@pytest.mark.parametrize("lie", ["one file left out", "another oid"])
async def test_a_commit_unlike_what_was_sent_is_detected(
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


async def test_a_long_retry_after_is_not_waited_for(uploader: Uploader, faults: FaultLayer) -> None:
    await uploader.push_to_hub("me/m", {"b.txt": b"2"})
    before = faults.seen["preupload"]
    faults.add("preupload", "429 hours", times=99)
    with pytest.raises(RateLimitedError, match="max_retry_after=900"):
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert faults.seen["preupload"] == before + 1


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


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("action", "status"), [("merge", "merged"), ("close", "closed")])
async def test_nothing_is_sent_to_a_pull_request_that_has_ended(
    action: str, status: str, dry_run: bool, hub: LocalHub, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    receipts = await uploader.upload_files("me/m", {"b.txt": b"2"})
    to_it = PushOptions(revision="refs/pr/1")
    assert (await uploader.push_to_hub("me/m", {"a.txt": b"3"}, to_it)).verified
    await change_pull_request(hub, "me/m", 1, action)
    faults.seen.clear()
    options = replace(to_it, dry_run=dry_run)
    for work in (
        uploader.push_to_hub("me/m", {"big.bin": b"\0" * 1000}, options),
        uploader.push_to_hub("hf://me/m@refs/pr/1", {"a.txt": b"4"}, replace(options)),
        uploader.commit("me/m", receipts, options),
    ):
        with pytest.raises(PullRequestClosedError, match=f"#1 has been {status}") as caught:
            await work
        assert caught.value.merged is (status == "merged")
    assert not {"batch", "part", "commit"} & set(faults.seen)


async def test_an_unreadable_pull_request_is_pushed_to(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    faults.add("discussion", "500", times=99)
    to_it = PushOptions(revision="refs/pr/1")
    assert (await uploader.push_to_hub("me/m", {"a.txt": b"3"}, to_it)).verified
