"""Several troubles in one push: a login that ends, rate limits, commits by others, and lost answers
to what is done at once or later.

A push that succeeds has landed exactly once. One that fails has not landed, as far as it could
know; the same push again, without troubles, then lands exactly once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from asyncpush import AsyncPushError, PushOptions, UploadConfig, Uploader, UploadResult
from asyncpush.localhub import LocalHub
from tests.faults import with_body
from tests.reading import commits_of, download, files_of, pull_requests_of

WRITES = ("discussion-create", "commit", "discussion-status", "discussion-merge")
LOOKS = ("commits", "discussions", "discussion", "revision")

FILES = {f"{name}.txt": name.encode() for name in "abc"}
MESSAGE = "ours"

WAYS = {
    "a commit": PushOptions(),
    "a series": PushOptions(max_files_per_commit=1),
    "a pull request": PushOptions(create_pr=True),
    "a series in a pull request": PushOptions(create_pr=True, max_files_per_commit=1),
    "a series on a branch": PushOptions(revision="dev", max_files_per_commit=1),
    "a pull request to a branch": PushOptions(revision="dev", create_pr=True),
}

NONE = "none"
LOGIN = "the login ends"
SOON = "429, again at once"
HOURS = "429, again in hours"
LOST = "done, then 504"
RESET = "done, then reset"
LATE_LOOK = "504, done at the next look"
LATE_BEFORE = "504, done before the next write"
LATE_AFTER = "504, done after the next write"
THEIRS = "someone else commits first"
BUSY = "409, another commit"

TROUBLES = (NONE, LOGIN, SOON, HOURS, LOST, RESET, LATE_LOOK, LATE_BEFORE, LATE_AFTER, THEIRS, BUSY)

Late = Callable[[], Awaitable[object]]


class Troubles:
    """Spoils the writing requests of a push, one after another, by the plan. Further ones are left
    alone. The token is renewed with each login."""

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.late: dict[str, list[Late]] = {LATE_LOOK: [], LATE_BEFORE: [], LATE_AFTER: []}
        self.logins = 0
        self.theirs: list[tuple[str, str]] = []
        """Revision and path of what others have committed."""
        self.url = ""

    @property
    def token(self) -> str:
        return f"hf_login{self.logins}"

    async def flush(self, *kinds: str) -> None:
        for kind in kinds or tuple(self.late):
            while self.late[kind]:
                await self.late[kind].pop(0)()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if "X-Test" in request.headers:
            return await handler(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given.startswith("hf_login") and given != self.token:
            return _failed(401, "Invalid credentials in Authorization header")
        route = request.match_info.route.name or ""
        if route in LOOKS:
            response = await handler(request)
            await self.flush(LATE_LOOK)
            return response
        if route not in WRITES:
            return await handler(request)
        trouble = self.plan.pop(0) if self.plan else NONE
        body = await request.read()
        await self.flush(LATE_BEFORE)
        after = self.late[LATE_AFTER]
        self.late[LATE_AFTER] = []
        try:
            return await self._answer(trouble, route, request, body, handler)
        finally:
            for work in after:
                await work()

    async def _answer(
        self, trouble: str, route: str, request: web.Request, body: bytes, handler: Handler
    ) -> web.StreamResponse:
        if trouble == LOGIN:
            self.logins += 1
            return _failed(401, "Invalid credentials in Authorization header")
        if trouble in (SOON, HOURS):
            wait = "0" if trouble == SOON else "86400"
            return _failed(429, "rate limited", {"Retry-After": wait})
        if trouble == BUSY:
            return _failed(409, "Another commit operation is in progress for this repository.")
        opened_empty = route == "discussion-create" and trouble == LATE_AFTER
        if opened_empty or ("create_pr" in request.query and trouble in (LATE_BEFORE, LATE_AFTER)):
            # Nothing prevents a pull request that is opened after the push has waited a minute for
            # it and has opened another.
            trouble = LATE_LOOK
        if trouble in self.late:
            self.late[trouble].append(lambda: with_body(request, body, handler))
            return web.Response(status=504)
        if trouble == THEIRS:
            revision = request.match_info.get("revision", "main")
            await self._commit_theirs(request.match_info, revision)
        response = await with_body(request, body, handler)
        if trouble == LOST:
            return web.Response(status=504)
        if trouble == RESET and request.transport is not None:
            request.transport.close()
        return response

    async def _commit_theirs(self, repo: Mapping[str, str], revision: str) -> None:
        repo_id = f"{repo['namespace']}/{repo['name']}"
        path = f"theirs-{len(self.theirs)}.txt"
        lines = (
            {"key": "header", "value": {"summary": "theirs", "description": ""}},
            {"key": "file", "value": {"path": path, "content": "eA==", "encoding": "base64"}},
        )
        headers = {"X-Test": "theirs", "Authorization": f"Bearer {self.token}"}
        url = f"{self.url}/api/models/{repo_id}/commit/{quote(revision, safe='')}"
        body = "\n".join(json.dumps(line) for line in lines)
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, data=body) as answer,
        ):
            answer.raise_for_status()
        self.theirs.append((revision, path))


def _failed(status: int, message: str, headers: dict[str, str] | None = None) -> web.StreamResponse:
    return web.json_response({"error": message}, status=status, headers=headers)


class World:
    """One hub for all examples, on a loop of its own."""

    def __init__(self, root: Path) -> None:
        self.troubles = Troubles()
        self._root = root
        self._runner = asyncio.Runner()
        self._numbers = count(1)
        self._hub = LocalHub(root / "hub", middlewares=[self.troubles.middleware], xet=False)
        self._runner.run(self._hub.__aenter__())
        self.troubles.url = self._hub.url

    def close(self) -> None:
        self._runner.run(self._hub.__aexit__(None, None, None))
        self._runner.close()

    def push(self, way: str, plan: list[str]) -> None:
        self._runner.run(self._push(f"me/m{next(self._numbers)}", WAYS[way], plan))

    async def _push(self, repo_id: str, options: PushOptions, plan: list[str]) -> None:
        options = replace(options, commit_message=MESSAGE)
        troubles = self.troubles
        troubles.plan, troubles.theirs = [], []
        await self._try(repo_id, PushOptions(commit_message="first"), {"first.txt": b"1"})
        if options.revision != "main":
            branch = PushOptions(
                commit_message="first", revision=options.revision, create_branch=True
            )
            await self._try(repo_id, branch, {"second.txt": b"2"})
        troubles.plan = list(plan)
        try:
            result = await self._try(repo_id, options, FILES)
        except AsyncPushError as error:
            unclear = any(troubles.late.values())
            if not unclear and not options.create_pr:
                await self._check_failed(repo_id, options, error)
            troubles.plan = []
            await troubles.flush()
            result = await self._try(repo_id, options, FILES)
        troubles.plan = []
        await troubles.flush()
        await self._check_landed(repo_id, options, result)

    async def _try(
        self, repo_id: str, options: PushOptions, files: dict[str, bytes]
    ) -> UploadResult:
        config = UploadConfig(
            cache_dir=self._root / "cache",
            progress="none",
            initial_backoff_ms=0,
            max_backoff_ms=1,
            max_retries=2,
        )
        async with Uploader(lambda: self.troubles.token, self._hub.url, config) as uploader:
            return await uploader.push_to_hub(repo_id, files, options)

    async def _check_failed(
        self, repo_id: str, options: PushOptions, error: AsyncPushError
    ) -> None:
        """No failure over what has landed. (A series on a branch shows one by one, which the error
        says.)"""
        ours = await self._ours(repo_id, options.revision)
        if ours and options.revision != "main":
            assert "of the files are already on dev" in str(error)
            assert len(ours) < len(FILES)
        else:
            assert ours == []

    async def _check_landed(self, repo_id: str, options: PushOptions, result: UploadResult) -> None:
        ref = options.revision
        pulls = list((await pull_requests_of(self._hub, repo_id)).values())
        if any("an empty pull request may be left at" in each for each in result.warnings):
            pulls.remove("draft")
        if options.create_pr:
            assert await self._ours(repo_id, ref) == []
            draft = any("is still a draft" in warning for warning in result.warnings)
            assert [status for status in pulls if status != "closed"] == [
                "draft" if draft else "open"
            ]
            assert result.pr_url is not None
            ref = f"refs/pr/{result.pr_url.rpartition('/')[2]}"
        elif options.max_files_per_commit and ref == "main":
            assert [status for status in pulls if status != "closed"] == ["merged"]
            assert result.pr_url is not None
        else:
            assert pulls == []
        assert result.verified
        # Others may have committed on top of it before the push learned that it had landed.
        assert result.commit_sha in [row["id"] for row in await commits_of(self._hub, repo_id, ref)]
        for revision in (ref, result.commit_sha):
            assert await download(self._hub, repo_id, FILES, revision=revision) == FILES
        assert len(await self._ours(repo_id, ref)) == (
            len(FILES) if options.max_files_per_commit else 1
        )
        for revision, path in self.troubles.theirs:
            assert path in await files_of(self._hub, repo_id, revision=revision)

    async def _ours(self, repo_id: str, ref: str) -> list[str]:
        """The titles of our commits there, without merges."""
        rows = await commits_of(self._hub, repo_id, ref)
        return [row["title"] for row in rows if row["title"].startswith(MESSAGE)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("troubles"))
    yield world
    world.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.no_cover
@pytest.mark.timeout(600)
def test_what_should_land_lands_once(world: World, pytestconfig: pytest.Config, way: str) -> None:
    @settings(
        max_examples=-(-int(pytestconfig.getoption("--chaos")) // len(WAYS)),
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(plan=st.lists(st.sampled_from(TROUBLES), max_size=10))
    @example(plan=[LOGIN, SOON, LATE_LOOK, THEIRS, LOST])
    @example(plan=[THEIRS, LATE_BEFORE, LOGIN, THEIRS, SOON, RESET])
    @example(plan=[LATE_AFTER, LOGIN, THEIRS, BUSY, HOURS])
    @example(plan=[LOST, HOURS])
    @example(plan=[LATE_LOOK, HOURS])
    @example(plan=[LATE_BEFORE, LATE_BEFORE, NONE, SOON])
    @example(plan=[NONE, NONE, LATE_LOOK, BUSY])
    @example(plan=[NONE, NONE, NONE, NONE, LOST, HOURS])
    def troubled(plan: list[str]) -> None:
        world.push(way, plan)

    troubled()
