"""What a commit is to change: of receipts, of deletions, and what a branch does not hold yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncpush.models import Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.verification import all_remote_files, remote_files
from asyncpush.protocol.commits import AddInline, AddLfs, Change, Delete
from asyncpush.sources import folder_prefix
from asyncpush.sources.patterns import select

WRITTEN_BY_THE_HUB = ".gitattributes"
"""Every new repo has one, with its LFS rules; it is nobody's upload."""


def additions(receipts: Iterable[Receipt], *, unchanged: bool = False) -> list[Change]:
    """The files to add; with `unchanged` also those that the head held already."""
    changes: list[Change] = []
    for receipt in receipts:
        if receipt.unchanged and not unchanged:
            continue
        kind = AddInline if receipt.route == "inline" else AddLfs
        changes.append(kind(receipt.path_in_repo, receipt.size, receipt.oid))
    return changes


async def deletions(ctx: PushContext, pushed: Iterable[str], head: str) -> list[Delete]:
    """Remote files that `delete_patterns` name and that are not `pushed`. The repo's LFS rules
    stay (the official client keeps them too)."""
    options = ctx.options
    if options.delete_patterns is None:
        return []
    prefix = folder_prefix(options.path_in_repo)
    kept = {*pushed, WRITTEN_BY_THE_HUB}
    remote = [file.path for file in await all_remote_files(ctx, head)]
    below = [path[len(prefix) :] for path in remote if path.startswith(prefix)]
    named = select(below, options.delete_patterns, None)
    return [Delete(prefix + path) for path in named if prefix + path not in kept]


async def still_to_change(
    ctx: PushContext, changes: Sequence[Change], revision: str
) -> list[Change]:
    """The changes that `revision` does not hold yet."""
    shown = await remote_files(ctx, revision, [change.path for change in changes])
    remaining: list[Change] = []
    for change in changes:
        there = shown.get(change.path)
        match change:
            case Delete():
                done = there is None
            case AddInline(_, size, oid) | AddLfs(_, size, oid):
                done = there is not None and there.holds(size, oid)
        if not done:
            remaining.append(change)
    return remaining


def title(ctx: PushContext, changes: Sequence[Change]) -> str:
    """What a commit is called: as the user said, else after what it changes."""
    if ctx.options.commit_message:
        return ctx.options.commit_message
    if len(changes) == 1:
        verb = "Delete" if isinstance(changes[0], Delete) else "Upload"
        return f"{verb} {changes[0].path} with asyncpush"
    return f"Upload {len(changes)} files with asyncpush"
