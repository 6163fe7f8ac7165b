"""Before any byte moves: the head to build on, its repo and branch made where that was asked."""

from __future__ import annotations

import anyio

from asyncpush.errors import CommitConflictError, HubError, RepoNotFoundError
from asyncpush.groups import for_group, single_error
from asyncpush.models import FileSource
from asyncpush.pipeline.card import check_card
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import repos
from asyncpush.protocol.commits import same_commit

REPO_NOT_FOUND = "RepoNotFound"
REVISION_NOT_FOUND = "RevisionNotFound"


async def prepare(ctx: PushContext, files: tuple[FileSource, ...]) -> str | None:
    """The commit oid that the branch is at, the repo and branch created where that was asked for.

    None when the repo or branch is missing in a dry run. Raises `SourceError` when the Hub finds
    the card's metadata wrong, before anything is created: the head is only looked at meanwhile, to
    spare most pushes a round trip.
    """
    with single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(for_group(check_card), ctx, files)
            looked = await _look(ctx)
    return await ensure_head(ctx, looked)


async def _look(ctx: PushContext) -> str | HubError:
    """The head, or the error that says that there is no such repo or branch (yet)."""
    try:
        return await observed_head(ctx, ctx.options.revision)
    except HubError as exc:
        if isinstance(exc, RepoNotFoundError) or exc.error_code == REVISION_NOT_FOUND:
            return exc
        raise


async def ensure_head(ctx: PushContext, looked: str | HubError) -> str | None:
    """The head is asked for first: most pushes go to a repo that is there, and cost no create
    call."""
    try:
        return await _head_or_new_branch(ctx, looked)
    except RepoNotFoundError:
        if ctx.options.dry_run and ctx.options.create_repo:
            return None
        if not ctx.options.create_repo:
            raise
    conflict = await _create(ctx)
    try:
        return await _head_or_new_branch(ctx, await _look(ctx))
    except RepoNotFoundError:
        if conflict is not None:
            raise conflict from None  # the name is taken, by something that is not ours to see
        raise


async def observed_head(ctx: PushContext, revision: str) -> str:
    return await ctx.session.ask(
        repos.head_request(ctx.repo, revision),
        repos.parse_head,
        ctx.emit,
        describe=lambda oid: {"commit_sha": oid},
        expected=lambda error: error.error_code in (REPO_NOT_FOUND, REVISION_NOT_FOUND),
    )


def check_parent(ctx: PushContext, head: str) -> None:
    """Raises `CommitConflictError` when the parent was pinned and is not this head: nothing to
    commit is a success only there, and a series of commits must begin there."""
    pinned = ctx.options.parent_commit
    if pinned is not None and not same_commit(head, pinned):
        raise CommitConflictError(
            f"the branch is at {head}, not at the pinned parent {pinned}",
            url=ctx.repo_url,
            suggestion="push again without parent_commit, or with the new head",
        )


async def _head_or_new_branch(ctx: PushContext, looked: str | HubError) -> str | None:
    revision = ctx.options.revision
    if isinstance(looked, str):
        return looked
    if looked.error_code != REVISION_NOT_FOUND or not ctx.options.create_branch:
        raise looked
    if ctx.options.dry_run:
        return None
    try:
        await ctx.session.ask(
            repos.create_branch_request(ctx.repo, revision),
            lambda response: None,
            ctx.emit,
            expected=_is_conflict,
        )
    except HubError as exc:
        if exc.status != 409:  # 409: a sibling push has just made it
            raise
    ctx.session.created.note(ctx.repo, revision)
    return await observed_head(ctx, revision)


async def _create(ctx: PushContext) -> HubError | None:
    """Create the repo. A conflict is not the end: a sibling may have just made it, or a call of
    ours whose answer was lost; whether we may see it shows when its head is asked for."""
    conflict = None
    try:
        await ctx.session.ask(
            repos.create_request(ctx.repo, ctx.options),
            repos.check_created,
            ctx.emit,
            expected=_is_conflict,
        )
    except HubError as exc:
        if exc.status != 409:
            raise
        conflict = exc
    ctx.session.created.note(ctx.repo)
    return conflict


def _is_conflict(error: HubError) -> bool:
    return error.status == 409 and not error.retryable
