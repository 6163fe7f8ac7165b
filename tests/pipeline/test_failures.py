"""Each cause of a failure, for real: what the exception's fields, its text and the event say.

OBS-006: HTTP status, body, headers, URL, attempt, time elapsed, and what to do next.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from aiohttp import web
from aiohttp.typedefs import Handler

import asyncpush
from asyncpush import (
    AsyncPushError,
    AuthError,
    CommitConflictError,
    HubError,
    IntegrityError,
    MissingTokenError,
    Push,
    PushOptions,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
    SourceError,
    UploadConfig,
    Uploader,
)
from asyncpush.events import PushFailed, RequestFailed
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.disks import files_of_at_most
from tests.event_recorder import EventRecorder
from tests.faults import KINDS, FaultLayer, with_body
from tests.net.helpers import server_context, serving

Write = Callable[..., Path]
FILES = {"config.json": "{}", "model.bin": b"\0" * 1000}


@pytest.fixture
def recorded() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def config(config: UploadConfig, recorded: EventRecorder) -> UploadConfig:
    return replace(
        config,
        max_backoff_ms=2,
        max_retries=1,
        outage_timeout=0,
        stall_timeout=0.1,
        events=recorded,
    )


def check(error: BaseException, recorded: EventRecorder, suggestion: str) -> None:
    """The three places say the same, and all of it."""
    assert isinstance(error, AsyncPushError)
    (event,) = recorded.of(PushFailed)
    assert suggestion in error.suggestion
    assert f"next: {error.suggestion}" in str(error)
    assert event.error == error.message
    assert event.error_type == type(error).__name__
    assert event.details["suggestion"] == error.suggestion
    if isinstance(error, HubError):
        check_answer(error, str(error), event.details)
    assert TOKEN not in str(error) + repr(event)
    check_chain(error)


def check_chain(error: BaseException) -> None:
    """What users can reach has public classes, and its error codes are the Hub's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AsyncPushError):
            assert type(seen).__name__ in asyncpush.__all__
        if isinstance(seen, HubError):
            headers = {name.lower(): value for name, value in seen.headers.items()}
            assert seen.error_code == headers.get("x-error-code")
        seen = seen.__cause__ or seen.__context__


def check_answer(error: HubError, text: str, details: Any) -> None:
    assert error.url.startswith("http")
    assert f"{error.method} {error.url}, attempt {error.attempt}, after " in text
    assert error.attempt >= 1
    assert error.elapsed_seconds > 0
    if error.status is None:
        assert "(no answer)" in text
    else:
        assert f"(HTTP {error.status})" in text
        assert f"body: {error.body}" in text
        assert "Date" in {name.title() for name in error.headers}
        assert "headers: " in text
    reported = ("status", "body", "url", "method", "headers", "attempt", "elapsed_seconds")
    for name in (*reported, "request_id", "error_code"):
        assert details[name] == getattr(error, name)


@dataclass(frozen=True)
class Cause:
    """A Hub that refuses one route, and what has to be said of it."""

    route: str
    kind: str
    error: type[AsyncPushError]
    status: int | None
    suggestion: str
    times: int = 1


# Modes asked for before the repo is there do not count: `preupload` refuses always.
CAUSES = {
    "no write scope": Cause(
        "preupload", "403", AuthError, 403, "give it write scope in your settings on", 99
    ),
    "wrong token": Cause("preupload", "401", AuthError, 401, "set HF_TOKEN", 99),
    "wrong namespace": Cause("create", "403 namespace", AuthError, 403, "repos under me: check"),
    "repo not found": Cause(
        "preupload", "404 repo", RepoNotFoundError, 404, "the spelling and the type of me/m", 99
    ),
    "private": Cause("preupload", "401 repo", RepoNotFoundError, 401, "if it is private", 99),
    "revision missing": Cause("preupload", "404 revision", HubError, 404, "--create-branch", 99),
    "gated": Cause("preupload", "403 gated", AuthError, 403, "ask for access on its page", 99),
    "storage quota": Cause("commit", "403 quota", AuthError, 403, "quota is used up"),
    "payload too large": Cause("commit", "413", HubError, 413, "max_files_per_commit"),
    "part too large for a proxy": Cause("part", "413", HubError, 413, "raise its limit"),
    "rate limit": Cause("commit", "429 hours", RateLimitedError, 429, " UTC (in 86,400 s)"),
    "clock skew": Cause(
        "part", "URL of another time", HubError, 403, "s behind the store's, and signed", times=9
    ),
    "expired URL": Cause("part", "expired URL", HubError, 403, "expired", times=9),
    "stalled network": Cause(
        "part", "stall before reading", RetriesExhaustedError, None, "stall_timeout", times=9
    ),
    "Hub in trouble": Cause(
        "commit", "500", RetriesExhaustedError, 500, "has a problem: try again", times=9
    ),
}


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES.keys())
async def test_a_refusal_says_what_next(
    cause: Cause, uploader: Uploader, faults: FaultLayer, write: Write, recorded: EventRecorder
) -> None:
    faults.add(cause.route, cause.kind, times=cause.times)
    with pytest.raises(cause.error) as caught:
        await uploader.push_to_hub("me/m", write(FILES))

    assert type(caught.value) is cause.error
    assert getattr(caught.value, "status", None) == cause.status
    check(caught.value, recorded, cause.suggestion)
    last = recorded.of(RequestFailed)[-1]
    assert last.backoff_ms is None
    if last.status is not None:
        assert last.body
        assert last.headers
    assert last.suggestion
    assert last.method
    assert last.elapsed_seconds > 0


@pytest.mark.parametrize(("route", "kind"), [("part", "wrong ETag"), ("verify", "422")])
async def test_error_code_is_only_the_hubs(
    route: str,
    kind: str,
    uploader: Uploader,
    faults: FaultLayer,
    write: Write,
    recorded: EventRecorder,
) -> None:
    faults.add(route, kind, times=99)
    with pytest.raises(IntegrityError) as caught:
        await uploader.push_to_hub("me/m", write(FILES))
    check(caught.value, recorded, "")
    assert recorded.of(RequestFailed)[-1].error_type == "IntegrityError"


async def test_a_pinned_parent_conflict_has_a_suggestion(
    uploader: Uploader, faults: FaultLayer, recorded: EventRecorder
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("commit", "412", nth=2)  # somebody else, just before
    options = PushOptions(parent_commit=first.commit_sha)
    with pytest.raises(CommitConflictError) as caught:
        await uploader.push_to_hub("me/m", {"b.txt": b"3"}, options)
    assert caught.value.status == 412
    check(
        caught.value, recorded, "again without parent_commit, which puts these files on top of it"
    )


async def test_a_refusal_on_an_unmoved_branch_suggests_a_pr(
    uploader: Uploader, faults: FaultLayer, recorded: EventRecorder
) -> None:
    faults.add("commit", "412", times=99)
    with pytest.raises(CommitConflictError, match="the branch has not moved") as caught:
        await uploader.push_to_hub("me/m", {"b.txt": b"3"})
    assert faults.seen["commit"] == 2
    assert caught.value.status == 412
    check(caught.value, recorded, "use create_pr=True (--create-pr)")

    with pytest.raises(CommitConflictError, match="the branch has not moved") as caught:
        await uploader.push_to_hub("me/m", {"b.txt": b"3"}, PushOptions(create_pr=True))
    assert "try again later" in caught.value.suggestion


async def test_a_constantly_moving_branch_is_an_error(
    uploader: Uploader, faults: FaultLayer, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = 0

    async def someone_is_first(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        nonlocal moved
        moved += 1
        content = base64.b64encode(b"%d" % moved).decode()
        theirs = {"path": "theirs.txt", "content": content, "encoding": "base64"}
        lines = [
            {"key": "header", "value": {"summary": "theirs"}},
            {"key": "file", "value": theirs},
        ]
        body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        await request.read()
        assert (await with_body(request, body, handler)).status == 200
        return web.json_response({"error": "A commit has happened since."}, status=412)

    monkeypatch.setitem(KINDS, "someone is first", someone_is_first)
    faults.add("commit", "someone is first", times=99)
    with pytest.raises(CommitConflictError, match="the branch moved") as caught:
        await uploader.push_to_hub("me/m", {"b.txt": b"3"})
    assert caught.value.status == 412
    check(caught.value, recorded, "try again, or use create_pr=True (--create-pr)")


async def test_a_missing_token_says_where_to_get_one(
    hub: LocalHub, config: UploadConfig, recorded: EventRecorder
) -> None:
    async with Uploader(None, hub.url, config) as uploader:
        with pytest.raises(MissingTokenError) as caught:
            await uploader.push_to_hub("me/m", {"a": b"1"})
    check(caught.value, recorded, f"in your settings on {hub.url}")
    assert "HF_TOKEN" in caught.value.suggestion


async def test_a_missing_branch_names_the_option_that_makes_it(
    uploader: Uploader, recorded: EventRecorder
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    with pytest.raises(HubError) as caught:
        await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(revision="dev"))
    check(
        caught.value, recorded, "branch dev does not exist in me/m: create_branch=True (--create-b"
    )


async def test_a_proxy_that_is_away_is_named_by_its_variable(
    hub: LocalHub, config: UploadConfig, recorded: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:s3cret@127.0.0.1:9")
    async with Uploader(TOKEN, hub.url, config) as uploader:
        with pytest.raises(HubError) as caught:
            await uploader.push_to_hub("me/m", {"a": b"1"})
    check(caught.value, recorded, "HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    assert "s3cret" not in str(caught.value) + repr(recorded.of(PushFailed))


async def test_a_certificate_that_is_not_trusted_names_the_variable(
    config: UploadConfig, recorded: EventRecorder
) -> None:
    async with (
        serving(tls=server_context(trustme.CA())) as peer,
        Uploader(TOKEN, peer.url, config) as uploader,
    ):
        with pytest.raises(HubError) as caught:
            await uploader.push_to_hub("me/m", {"a": b"1"})
    check(caught.value, recorded, "SSL_CERT_FILE")
    assert caught.value.attempt == 1


async def test_a_full_disk_says_where_room_is_wanted(
    hub: LocalHub, config: UploadConfig, recorded: EventRecorder
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(1 << 20)

    config = replace(config, max_memory=1 << 20)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        with files_of_at_most(3 << 20), pytest.raises(SourceError) as caught:
            await uploader.push_to_hub("me/m", {"stream.bin": stream()})
    check(caught.value, recorded, "set cache_dir (or ASYNCPUSH_CACHE) to a folder with more room")
    assert recorded.of(PushFailed)[0].details["problems"] == list(caught.value.problems)


async def test_a_timeout_says_how_long_it_was(
    uploader: Uploader, faults: FaultLayer, recorded: EventRecorder
) -> None:
    faults.add("create", "stall before reading")
    with pytest.raises(TimeoutError, match=r"longer than its timeout of 0\.2 s: try again"):
        await uploader.push_to_hub("me/m", {"a": b"1"}, PushOptions(timeout=0.2))
    assert "timeout of 0.2 s" in recorded.of(PushFailed)[0].error


async def test_a_timeout_says_that_the_commit_may_exist(
    uploader: Uploader, faults: FaultLayer, recorded: EventRecorder
) -> None:
    faults.add("commit", "done, answer never sent")
    with pytest.raises(TimeoutError, match="not confirmed: it may have been made: try again"):
        await uploader.push_to_hub("me/m", {"a": b"1"}, PushOptions(timeout=1))
    assert "may have been made" in recorded.of(PushFailed)[0].error


async def test_a_timeout_of_somebody_elses_is_left_as_it_is(
    hub: LocalHub, config: UploadConfig
) -> None:
    def ask_vault() -> str:
        raise TimeoutError("the vault is slow")

    async with Uploader(ask_vault, hub.url, config) as uploader:
        with pytest.raises(TimeoutError, match="the vault is slow"):
            await uploader.push_to_hub("me/m", {"a": b"1"}, PushOptions(timeout=60))


async def test_failures_of_many_pushes_name_their_repos(
    uploader: Uploader, tmp_path: Path, recorded: EventRecorder
) -> None:
    pushes = [
        Push("me/good", {"a": b"1"}),
        Push("me/missing", tmp_path / "nowhere"),
        Push("me/branch", {"a": b"1"}, PushOptions(revision="dev")),
    ]
    with pytest.raises(ExceptionGroup, match="2 of 3 pushes failed: me/missing, me/branch") as all_:
        await uploader.push_many(pushes)

    notes = [error.__notes__ for error in all_.value.exceptions]
    assert notes == [["in the push to me/missing"], ["in the push to me/branch"]]
    kept = await uploader.push_many(pushes, return_exceptions=True)
    assert [getattr(error, "__notes__", None) for error in kept] == [
        None,
        ["in the push to me/missing"],
        ["in the push to me/branch"],
    ]
