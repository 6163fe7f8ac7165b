"""Before any byte moves: the card's metadata, the repo, the branch, the head to build on."""

from __future__ import annotations

import anyio

from asyncpush.errors import HubError, RepoNotFoundError, SourceError
from asyncpush.groups import single_error
from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import cards, repos
from asyncpush.protocol.cards import CARD_NAME
from asyncpush.sources import read_all
from asyncpush.threads import in_thread

CARD_LIMIT = 1 << 20
"""Bytes of a README that are checked; metadata stands at its top."""

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
            group.start_soon(check_card, ctx, files)
            looked = await _look(ctx)
    return await ensure_head(ctx, looked)


async def check_card(ctx: PushContext, files: tuple[FileSource, ...]) -> None:
    card = next((file for file in files if file.path_in_repo == CARD_NAME), None)
    if card is None or card.size > CARD_LIMIT:
        return
    content = await in_thread(ctx.threads, lambda: read_all(card))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{CARD_NAME} is not UTF-8 text: {exc}") from exc
    verdict = await ctx.session.ask(
        cards.validate_request(ctx.repo, text),
        cards.parse_verdict,
        ctx.emit,
        accept=lambda response: response.status < 300 or cards.is_verdict(response),
    )
    for warning in verdict.warnings:
        ctx.warn(f"{CARD_NAME}: {warning}")
    if verdict.errors:
        raise SourceError(
            f"the Hub finds the metadata of {CARD_NAME} wrong: " + "; ".join(verdict.errors),
            problems=verdict.errors,
            suggestion="mend the YAML between the --- lines at the top of the card",
        )


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
    return await observed_head(ctx, revision)


async def _create(ctx: PushContext) -> HubError | None:
    """Create the repo. A conflict is not the end: a sibling may have just made it, or a call of
    ours whose answer was lost; whether we may see it shows when its head is asked for."""
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
        return exc
    return None


def _is_conflict(error: HubError) -> bool:
    return error.status == 409 and not error.retryable
