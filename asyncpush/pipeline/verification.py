"""Checks through the Hub's API that a commit contains the files as they were pushed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import in_thread_if_many
from asyncpush.errors import HubError, RepoNotFoundError, VerificationError
from asyncpush.events import Verified
from asyncpush.models import Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import repos
from asyncpush.protocol.http import protocol_error
from asyncpush.protocol.repos import RemoteFile

CHECKS = 10
"""How often a commit is checked: right after it, some of the Hub's servers may not know it yet.
With the default first wait, all checks together take half a minute."""

LONGEST_WAIT = 5.0
"""Seconds between two checks, at most."""

CALLS_AT_ONCE = 4

NOT_ALLOWED = frozenset({401, 403, 429})
"""Statuses with which a request for all files would fail as well as one for some of them."""

PAGES_LIMIT = 20_000
FILES_LIMIT = 2_000_000
"""The most pages and files of one repo: the Hub advises 100,000 files at most, and shows 1,000 a
page."""


async def remote_files(
    ctx: PushContext, revision: str, paths: Sequence[str]
) -> dict[str, RemoteFile]:
    """Those of `paths` that are files in the repo at `revision`."""
    found: dict[str, RemoteFile] = {}

    async def ask(batch: Sequence[str]) -> None:
        request = repos.paths_info_request(ctx.repo, revision, batch)
        found.update(await ctx.session.ask(request, repos.parse_paths_info, ctx.events))

    await for_each(batches(paths, repos.PATHS_LIMIT), ask, width=CALLS_AT_ONCE)
    return found


async def path_kinds(
    ctx: PushContext,
    revision: str,
    paths: Sequence[str],
    *,
    expected: Callable[[HubError], bool] = lambda error: False,
) -> dict[str, str]:
    """ "file" or "directory" for each of `paths` that exists in the repo at `revision`. Raises
    `HubError`; an `expected` one is not reported."""
    kinds: dict[str, str] = {}

    async def ask(batch: Sequence[str]) -> None:
        request = repos.paths_info_request(ctx.repo, revision, batch)
        kinds.update(
            await ctx.session.ask(request, repos.parse_path_kinds, ctx.events, expected=expected)
        )

    await for_each(batches(paths, repos.PATHS_LIMIT), ask, width=CALLS_AT_ONCE)
    return kinds


async def all_remote_files(ctx: PushContext, revision: str, folder: str = "") -> list[RemoteFile]:
    """Every file of the repo at `revision`, or of one folder of it, page by page. Raises
    `ProtocolError` when the pages do not end."""
    request = repos.tree_request(ctx.repo, revision, folder)
    files: list[RemoteFile] = []
    asked = {request.target}
    while True:
        page, following = await ctx.session.ask(request, repos.parse_tree, ctx.events)
        files += page
        if following is None:
            return files
        if following in asked or len(asked) >= PAGES_LIMIT or len(files) > FILES_LIMIT:
            raise protocol_error(
                f"the list of the repo's files does not end: {len(asked):,} pages,"
                f" {len(files):,} files so far"
            )
        asked.add(following)
        request = repos.next_tree_request(request, following)


def same(receipt: Receipt, remote: RemoteFile | None) -> bool:
    """Whether the Hub shows exactly the file of the receipt."""
    return remote is not None and remote.holds(receipt.size, receipt.oid)


async def verify_commit(
    ctx: PushContext, commit_sha: str, receipts: Collection[Receipt], deleted: Iterable[str]
) -> None:
    """Return only when the commit shows every file with its size and oid, and no deleted one.
    Raises `VerificationError` naming the others."""
    ctx.enter("verifying")
    wanted = await in_thread_if_many(
        ctx.threads, receipts, lambda: {r.path_in_repo: r for r in receipts}
    )
    gone = set(deleted)
    files = len(wanted)
    problems: list[str] = []
    for attempt in range(CHECKS):
        if attempt:
            wait = ctx.config.initial_backoff_ms / 1000 * 2.0 ** (attempt - 1)
            await asyncio.sleep(min(wait, LONGEST_WAIT))
        shown = await _shown(ctx, commit_sha, [*wanted, *gone])
        wanted, gone = await in_thread_if_many(
            ctx.threads, wanted, partial(_unverified, wanted, gone, shown)
        )
        if not wanted and not gone:
            ctx.events.emit(Verified(files, commit_sha))
            return
        problems = _problems(wanted, gone, shown)
    raise VerificationError(
        f"commit {commit_sha} was accepted, but the Hub does not show {len(problems)} file(s) as"
        f" committed: {'; '.join(problems[:10])}",
        problems=problems,
        commit_sha=commit_sha,
        commit_url=ctx.commit_url(commit_sha),
        suggestion="open the repo's page, then try again; if it happens again, report the commit"
        " to the Hub's operators",
    )


async def _shown(ctx: PushContext, commit_sha: str, paths: Sequence[str]) -> dict[str, RemoteFile]:
    """The files of a commit; empty when the Hub does not know the commit yet. Where the Hub cannot
    show these files by name, all files of the commit are listed."""
    try:
        return await remote_files(ctx, commit_sha, paths)
    except RepoNotFoundError:
        raise
    except HubError as exc:
        if exc.status == 404:
            return {}
        if exc.status is None or exc.status in NOT_ALLOWED:
            raise
        try:
            listed = await all_remote_files(ctx, commit_sha)
        except HubError:
            raise exc from None
    wanted = set(paths)
    return {file.path: file for file in listed if file.path in wanted}


def _unverified(
    wanted: Mapping[str, Receipt], gone: set[str], shown: Mapping[str, RemoteFile]
) -> tuple[dict[str, Receipt], set[str]]:
    """The files that the Hub does not show as expected."""
    return (
        {path: r for path, r in wanted.items() if not same(r, shown.get(path))},
        {path for path in gone if path in shown},
    )


def _problems(
    wanted: Mapping[str, Receipt], gone: Iterable[str], shown: Mapping[str, RemoteFile]
) -> list[str]:
    problems = [f"{path}: deleted, but still there" for path in sorted(gone)]
    for path, receipt in wanted.items():
        remote = shown.get(path)
        if remote is None:
            problems.append(f"{path}: missing")
        else:
            problems.append(
                f"{path}: has {remote.size} bytes and oid {remote.oid}, not {receipt.size} and"
                f" {receipt.oid}"
            )
    return problems
