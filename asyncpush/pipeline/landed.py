"""What this push has on the Hub although no answer told of it: its commit, its pull request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import anyio

from asyncpush.errors import HubError
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import CommitAnswer
from asyncpush.protocol.failures import may_still_land

PULL_REQUESTS_LOOKED_AT = 20

LATE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0)
"""Seconds between the looks for what may still land behind a gateway that has given up on the call.
The Hub's gateway does so after a minute; another one may do so at once."""

ANSWERED_WAITS = LATE_WAITS[:3]
"""The same after a 500, which the Hub itself says, as a rule when it has stopped working on it."""

T = TypeVar("T")


async def looked_for(look: Callable[[], Awaitable[T | None]], failure: HubError | None) -> T | None:
    """What `look` finds; looked for again and again where the call that ended in `failure` may
    still be at work."""
    found = await look()
    if failure is None or not may_still_land(failure):
        return found
    for wait in ANSWERED_WAITS if failure.status == 500 else LATE_WAITS:
        if found is not None:
            break
        await anyio.sleep(wait)
        found = await look()
    return found


async def landed_commit(
    ctx: PushContext, revision: str, push_id: str, *, since: str | None
) -> CommitAnswer | None:
    """Among the commits `since` that one, the one whose description carries the push's id."""
    logged = await ctx.session.ask(
        repos.commits_request(ctx.repo, revision), repos.parse_commits, ctx.emit
    )
    for commit in logged:
        if since is not None and commits.same_commit(commit.oid, since):
            return None
        if commits.has_trailer(f"{commit.title}\n{commit.message}", push_id):
            return CommitAnswer(commit.oid, ctx.commit_url(commit.oid))
    return None


async def landed_in_pull_request(ctx: PushContext, push_id: str) -> CommitAnswer | None:
    """The push's commit, if it has opened a pull request."""
    for number in await _open_pull_requests(ctx):
        found = await landed_commit(ctx, f"refs/pr/{number}", push_id, since=None)
        if found is not None:
            return replace(found, pr_url=ctx.pull_request_url(number))
    return None


async def opened_pull_request(ctx: PushContext, push_id: str) -> int | None:
    """The number of the pull request whose own description carries the push's id."""
    for number in await _open_pull_requests(ctx):
        if commits.has_trailer((await pull_request(ctx, number)).description, push_id):
            return number
    return None


async def pull_request(ctx: PushContext, number: int) -> repos.PullRequest:
    return await ctx.session.ask(
        repos.pull_request_request(ctx.repo, number), repos.parse_pull_request, ctx.emit
    )


async def _open_pull_requests(ctx: PushContext) -> Sequence[int]:
    """The latest ones: among them is ours, if there is one."""
    numbers = await ctx.session.ask(
        repos.pull_requests_request(ctx.repo), repos.parse_pull_requests, ctx.emit
    )
    return numbers[:PULL_REQUESTS_LOOKED_AT]
