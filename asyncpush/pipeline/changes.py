"""Turns receipts and deletions into the changes of a commit, and splits them into several commits
where one would be too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from asyncpush.concurrency.threads import each_in_thread, in_thread
from asyncpush.errors import SourceError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, Receipt
from asyncpush.options import MAX_SIZE, PushOptions
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.verification import all_remote_files, remote_files
from asyncpush.protocol.commits import AddInline, AddLfs, Change, Delete
from asyncpush.protocol.repos import RemoteFile
from asyncpush.sources import check_path_in_repo, folder_prefix, read_again
from asyncpush.sources.byte_sources import changed
from asyncpush.sources.paths import folders_above, select
from asyncpush.transfers.inline import git_blob_oid

WRITTEN_BY_THE_HUB = ".gitattributes"
"""Every new repo has this file, with its LFS rules; no push has uploaded it."""


def additions(receipts: Iterable[Receipt], *, unchanged: bool = False) -> list[Change]:
    """The files to add; with `unchanged` also those that the head has already.

    A commit of LFS files includes the source's `.gitattributes` even if it is unchanged. Without
    one in the commit, the Hub adds the missing rules, and the file then differs from the source's.
    """
    changes: list[Change] = []
    rules: Change | None = None
    for receipt in receipts:
        kind = AddInline if receipt.route == "inline" else AddLfs
        change = kind(receipt.path_in_repo, receipt.size, receipt.oid)
        if unchanged or not receipt.unchanged:
            changes.append(change)
        elif receipt.path_in_repo == WRITTEN_BY_THE_HUB and receipt.route == "inline":
            rules = change
    if rules is not None and any(isinstance(change, AddLfs) for change in changes):
        changes.append(rules)
    return changes


async def deletions(
    ctx: PushContext,
    pushed: Iterable[str],
    head: str,
    holds: Callable[[str], bool] = lambda path: False,
) -> list[Delete]:
    """Remote files that match `delete_patterns` and are not in `pushed`. Files that the source
    `holds` although they were not pushed are kept, and so are the repo's LFS rules, as in the
    official client."""
    options = ctx.options
    if options.delete_patterns is None:
        return []
    remote = await all_remote_files(ctx, head)

    def named() -> list[Delete]:
        prefix = folder_prefix(options.path_in_repo)
        kept = {*pushed, WRITTEN_BY_THE_HUB}

        def stays(path: str) -> bool:
            return path in kept or holds(path)

        below = [file.path[len(prefix) :] for file in remote if file.path.startswith(prefix)]
        paths = select(below, options.delete_patterns, None)
        return [Delete(prefix + path) for path in paths if not stays(prefix + path)]

    return await in_thread(ctx.threads, named)


def in_order(additions: Sequence[Change], deleted: Sequence[Delete]) -> list[Change]:
    """All changes in order. Deletions that an addition depends on come first: of a file where a
    folder is needed, or of the files in a folder where a file is needed."""
    if not deleted:
        return list(additions)
    added = {change.path for change in additions}
    above = {folder for path in added for folder in folders_above(path)}

    def makes_room(deletion: Delete) -> bool:
        path = deletion.path
        return path in above or not added.isdisjoint(folders_above(path))

    first = [deletion for deletion in deleted if makes_room(deletion)]
    rest = [deletion for deletion in deleted if not makes_room(deletion)]
    return [*first, *additions, *rest]


async def remaining_changes(
    ctx: PushContext, changes: Sequence[Change], revision: str
) -> list[Change]:
    """The changes that `revision` does not contain yet."""
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
    """The title of a commit: the user's message, or else a description of the changes."""
    message = ctx.options.commit_message
    if message and not message.isspace():  # the Hub refuses a blank one, once all bytes are sent
        return message
    if len(changes) == 1:
        verb = "Delete" if isinstance(changes[0], Delete) else "Upload"
        return f"{verb} {changes[0].path} with asyncpush"
    return f"Upload {len(changes)} files with asyncpush"


INLINE_RECEIPT_LIMIT = 10 << 20
"""The largest regular file, in bytes, that a receipt may carry."""

INLINE_RECEIPTS_LIMIT = 256 << 20
"""The largest sum of bytes that the receipts of one call may carry."""


async def packed(
    receipts: Sequence[Receipt], files: Mapping[str, FileSource], threads: Executor
) -> list[Receipt]:
    """The receipts, with the bytes of inline files added. Raises `SourceError` when they are too
    large."""
    _check_inline_sizes(receipts)

    def pack(receipt: Receipt) -> Receipt:
        if receipt.route != "inline":
            return receipt
        content = read_again(files[receipt.path_in_repo])
        if git_blob_oid(content) != receipt.oid:
            raise changed(files[receipt.path_in_repo], "was written to")
        return replace(receipt, content=content)

    return await each_in_thread(threads, receipts, pack)


def _check_inline_sizes(receipts: Sequence[Receipt]) -> None:
    inline = [receipt for receipt in receipts if receipt.route == "inline"]
    problems = [
        f"{receipt.path_in_repo!r}: {receipt.size:,} bytes"
        for receipt in inline
        if receipt.size > INLINE_RECEIPT_LIMIT
    ]
    total = sum(receipt.size for receipt in inline)
    if not problems and total > INLINE_RECEIPTS_LIMIT:
        problems = [f"{len(inline)} regular files of {total:,} bytes in all"]
    if problems:
        raise SourceError(
            f"too large for receipts: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="add the pattern to the repo's .gitattributes so that they go through LFS,"
            " or use push_to_hub",
        )


def check_receipts(receipts: Sequence[Receipt]) -> None:
    """Check receipts. They come from other machines, so nothing in them is trusted."""
    problems = []
    seen: set[str] = set()
    for receipt in receipts:
        if not isinstance(receipt, Receipt):
            raise TypeError(
                "receipts must be what upload_files or receipts_from_json returned, not of type"
                f" {type(receipt).__name__}"
            )
        path, size = receipt.path_in_repo, receipt.size
        if not isinstance(path, str) or not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
            problems.append(f"{path!r}, {size!r}: not a path and a size")
            continue
        if (problem := check_path_in_repo(path)) is not None:
            problems.append(f"{path!r}: {problem}")
        if path in seen:
            problems.append(f"{path!r}: two receipts for one path")
        seen.add(path)
        if receipt.route == "inline":
            if receipt.content is None:
                problems.append(f"{path!r}: the receipt of an inline file must contain its bytes")
            elif git_blob_oid(receipt.content) != receipt.oid:
                problems.append(f"{path!r}: the content does not match the oid")
    if not receipts:
        problems.append("no receipts were given")
    if problems:
        raise SourceError(
            f"{len(problems)} problem(s) with the receipts: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="use the receipts that upload_files returned, each path once",
        )


DEFAULT_BRANCH = "main"
"""The only branch that the Hub merges pull requests into, so that a series of commits can appear at
once."""

LFS_FILES_A_COMMIT = 1_000
"""Without max_files_per_commit, the most LFS files in one commit call: the upper end of what the
official client commits at a time, and ten times the hundred a minute that the Hub advises."""

INLINE_BYTES_A_COMMIT = 1 << 30
"""Without max_files_per_commit, the most bytes of regular files in one call; the official client
stops at about 100 MB."""


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """Limits of one commit of a series; None means no limit. A single change always fits."""

    files: int | None = None
    lfs_files: int | None = None
    inline_bytes: int | None = None

    def fits(self, files: int, lfs_files: int, inline_bytes: int) -> bool:
        return (
            _within(files, self.files)
            and _within(lfs_files, self.lfs_files)
            and _within(inline_bytes, self.inline_bytes)
        )


UNBOUNDED = CommitLimits()
SERIES_LIMITS = CommitLimits(lfs_files=LFS_FILES_A_COMMIT, inline_bytes=INLINE_BYTES_A_COMMIT)


def commit_limits(options: PushOptions) -> CommitLimits:
    """The limits of this push's commits. Without limits it stays one commit of any size.

    `max_files_per_commit` applies to every branch. Without it, a push is split only where the
    commits can appear at once, and not with a pinned parent: a merge cannot promise to follow the
    parent directly.
    """
    if options.max_files_per_commit is not None:
        return CommitLimits(files=options.max_files_per_commit)
    if options.revision != DEFAULT_BRANCH or options.parent_commit is not None:
        return UNBOUNDED
    return SERIES_LIMITS


def split(changes: Iterable[Change], size: CommitLimits) -> list[Sequence[Change]]:
    """`changes` in order, in as few commits within `size` as possible."""
    commits: list[Sequence[Change]] = []
    commit: list[Change] = []
    lfs_files = inline_bytes = 0
    for change in changes:
        lfs = isinstance(change, AddLfs)
        inline = change.size if isinstance(change, AddInline) else 0
        if commit and not size.fits(len(commit) + 1, lfs_files + lfs, inline_bytes + inline):
            commits.append(commit)
            commit = []
            lfs_files = inline_bytes = 0
        commit.append(change)
        lfs_files += lfs
        inline_bytes += inline
    if commit:
        commits.append(commit)
    return commits


def _within(value: int, bound: int | None) -> bool:
    return bound is None or value <= bound
