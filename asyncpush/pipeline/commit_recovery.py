"""Finds commits with an unknown outcome on the Hub, and records them in the journal."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from asyncpush.concurrency.threads import in_thread, in_thread_anyway
from asyncpush.errors import AsyncPushError, CommitConflictError, HubError
from asyncpush.journal import PendingCommit
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import Change, CommitAnswer
from asyncpush.protocol.failures import may_still_land

PULL_REQUESTS_LOOKED_AT = 20

LATE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0)
"""Seconds between checks for a commit that the Hub may still be making after its gateway has timed
out. The Hub's gateway times out after a minute; another gateway may do so at once."""

ANSWERED_WAITS = LATE_WAITS[:3]
"""The same after a 500: that is usually the Hub's own answer, so its work has ended by then."""

T = TypeVar("T")


async def looked_for(look: Callable[[], Awaitable[T | None]], failure: HubError | None) -> T | None:
    """The result of `look`, which is called repeatedly while the Hub may still be working on the
    call that ended in `failure`."""
    found = await look()
    if failure is None or not may_still_land(failure):
        return found
    for wait in ANSWERED_WAITS if failure.status == 500 else LATE_WAITS:
        if found is not None:
            break
        await asyncio.sleep(wait)
        found = await look()
    return found


async def landed_commit(
    ctx: PushContext, revision: str, push_id: str, *, since: str | None
) -> CommitAnswer | None:
    """The commit whose description contains the push's id, among those made after the commit
    `since`."""
    logged = await ctx.session.ask(
        repos.commits_request(ctx.repo, revision), repos.parse_commits, ctx.events
    )
    for commit in logged:
        if since is not None and commits.same_commit(commit.oid, since):
            return None
        if commits.has_trailer(f"{commit.title}\n{commit.message}", push_id):
            return CommitAnswer(commit.oid, ctx.commit_url(commit.oid))
    return None


async def landed_in_pull_request(ctx: PushContext, push_id: str) -> CommitAnswer | None:
    """The push's commit, if it opened a pull request."""
    for number in await _open_pull_requests(ctx):
        found = await landed_commit(ctx, f"refs/pr/{number}", push_id, since=None)
        if found is not None:
            return replace(found, pr_url=ctx.pull_request_url(number))
    return None


async def opened_pull_request(ctx: PushContext, push_id: str) -> int | None:
    """The number of the pull request whose own description contains the push's id."""
    for number in await _open_pull_requests(ctx):
        if commits.has_trailer((await pull_request(ctx, number)).description, push_id):
            return number
    return None


async def pull_request(ctx: PushContext, number: int) -> repos.PullRequest:
    return await ctx.session.ask(
        repos.pull_request_request(ctx.repo, number), repos.parse_pull_request, ctx.events
    )


async def _open_pull_requests(ctx: PushContext) -> Sequence[int]:
    """The latest open pull requests. Ours, if there is one, is among them."""
    numbers = await ctx.session.ask(
        repos.pull_requests_request(ctx.repo), repos.parse_pull_requests, ctx.events
    )
    return numbers[:PULL_REQUESTS_LOOKED_AT]


@asynccontextmanager
async def remembered(ctx: PushContext, changes: Sequence[Change]) -> AsyncIterator[PendingCommit]:
    """Record in the journal, while the block runs, that these changes are being committed. Yields
    the record of an earlier process that did not learn the outcome of the same commit, if any.

    The record is removed once the outcome is known: the commit was made, or will not be made.
    """

    def begin() -> PendingCommit:
        fingerprint = _fingerprint(ctx, changes)
        pending = ctx.journal.pending_commit(ctx.scope, fingerprint)
        if pending is None:
            pending = PendingCommit(ctx.push_id, fingerprint, time.time())
            ctx.journal.begin_commit(ctx.scope, pending)
        return pending

    threads = ctx.push_threads.journal
    pending = await in_thread(threads, begin)

    async def end() -> None:
        await in_thread_anyway(
            threads, lambda: ctx.journal.end_commit(ctx.scope, pending.fingerprint)
        )

    try:
        yield pending
    except AsyncPushError as exc:
        if is_final(exc):
            await end()
        raise
    await end()


def is_final(error: AsyncPushError) -> bool:
    """Whether nothing was committed and the same commit will not be tried again: the Hub refused it
    (rather than asking to try later or with another token), or a file has changed."""
    if isinstance(error, CommitConflictError) or not isinstance(error, HubError):
        return True
    status = error.status
    return status is not None and 400 <= status < 500 and status not in (401, 408, 409, 425, 429)


def _fingerprint(ctx: PushContext, changes: Sequence[Change]) -> str:
    """Identifies a set of changes to one ref, independent of their order."""
    digest = hashlib.sha256(f"{ctx.options.revision}\0{ctx.options.create_pr}".encode())
    for line in sorted(commits.change_line(change) + str(change).encode() for change in changes):
        digest.update(line)
    return digest.hexdigest()
