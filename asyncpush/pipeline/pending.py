"""Commits whose end is not known yet, kept in the journal (REQ-005)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asyncpush.errors import HubError
from asyncpush.journal import PendingCommit
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import commits
from asyncpush.protocol.commits import Change
from asyncpush.threads import in_thread, in_thread_anyway


@asynccontextmanager
async def remembered(
    ctx: PushContext, changes: Sequence[Change], head: str
) -> AsyncIterator[PendingCommit]:
    """Keep in the journal, while the block runs, that these changes are being committed; gives
    what an earlier process kept that never learnt how its commit ended.

    It is forgotten once the outcome is known: success, or a refusal.
    """

    def begin() -> PendingCommit:
        fingerprint = _fingerprint(ctx, changes)
        pending = ctx.journal.pending_commit(ctx.scope, fingerprint)
        if pending is None:
            pending = PendingCommit(ctx.push_id, head, True, fingerprint, time.time(), None)
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
    except HubError as exc:
        if is_refusal(exc):
            await end()
        raise
    await end()


def is_refusal(error: HubError) -> bool:
    """Whether the Hub has refused what was asked, rather than asked to come again, later or with
    another token."""
    status = error.status
    return status is not None and 400 <= status < 500 and status not in (401, 408, 409, 425, 429)


def _fingerprint(ctx: PushContext, changes: Sequence[Change]) -> str:
    """Names a set of changes to one ref, in whatever order they come."""
    digest = hashlib.sha256(f"{ctx.options.revision}\0{ctx.options.create_pr}".encode())
    for line in sorted(commits.change_line(change) + str(change).encode() for change in changes):
        digest.update(line)
    return digest.hexdigest()
