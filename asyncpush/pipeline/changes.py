"""What a commit is to change: of receipts, of deletions, and what a branch does not hold yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from asyncpush.models import Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.verification import all_remote_files, remote_files
from asyncpush.protocol.commits import AddInline, AddLfs, Change, Delete
from asyncpush.protocol.tree import RemoteFile
from asyncpush.sources import folder_prefix
from asyncpush.sources.patterns import select
from asyncpush.threads import in_thread

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
    remote = await all_remote_files(ctx, head)

    def named() -> list[Delete]:
        prefix = folder_prefix(options.path_in_repo)
        kept = {*pushed, WRITTEN_BY_THE_HUB}
        below = [file.path[len(prefix) :] for file in remote if file.path.startswith(prefix)]
        paths = select(below, options.delete_patterns, None)
        return [Delete(prefix + path) for path in paths if prefix + path not in kept]

    return await in_thread(ctx.threads, named)


async def still_to_change(
    ctx: PushContext, changes: Sequence[Change], revision: str
) -> list[Change]:
    """The changes that `revision` does not hold yet."""
    shown = await remote_files(ctx, revision, [change.path for change in changes])
    return await in_thread(ctx.threads, lambda: [c for c in changes if not _done(c, shown)])


def _done(change: Change, shown: Mapping[str, RemoteFile]) -> bool:
    there = shown.get(change.path)
    match change:
        case Delete():
            return there is None
        case AddInline(_, size, oid) | AddLfs(_, size, oid):
            return there is not None and there.holds(size, oid)


def title(ctx: PushContext, changes: Sequence[Change]) -> str:
    """What a commit is called: as the user said, else after what it changes."""
    if ctx.options.commit_message:
        return ctx.options.commit_message
    if len(changes) == 1:
        verb = "Delete" if isinstance(changes[0], Delete) else "Upload"
        return f"{verb} {changes[0].path} with asyncpush"
    return f"Upload {len(changes)} files with asyncpush"
