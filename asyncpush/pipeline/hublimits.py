"""Limits of the Hub itself: said before bytes move where they would surely be hit, else warned of.

Source: the Hub's documentation, "Storage limits" and "Tips for uploading large files".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from asyncpush.errors import SourceError
from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.links import DEFAULT_BRANCH, LFS_FILES_A_COMMIT
from asyncpush.pipeline.routing import SURELY_LFS
from asyncpush.pipeline.verification import remote_files
from asyncpush.protocol.commits import AddLfs, Change

LARGEST_FILE = 500 * 10**9
FILES_IN_A_FOLDER = 10_000
FILES_IN_A_REPO = 100_000
LFS_FILES_A_MINUTE = 100
"""About as many LFS files as one commit call gets through before its gateway cuts it off."""


def check_limits(files: Sequence[FileSource]) -> list[str]:
    """Warnings of what the Hub advises against. Raises `SourceError` for what no Hub takes."""
    too_large = [file for file in files if file.size > LARGEST_FILE]
    if too_large:
        problems = [f"{file.path_in_repo!r}: {file.size:,} bytes" for file in too_large]
        raise SourceError(
            f"the Hub takes no file over {LARGEST_FILE:,} bytes: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="split the file; max_shard_size does that for safetensors",
        )
    warnings = []
    if len(files) > FILES_IN_A_REPO:
        warnings.append(
            f"{len(files):,} files: the Hub advises at most {FILES_IN_A_REPO:,} in a repo"
        )
    folders = Counter(file.path_in_repo.rpartition("/")[0] for file in files)
    for folder, count in folders.items():
        if count > FILES_IN_A_FOLDER:
            warnings.append(
                f"{folder or 'the top folder'} has {count:,} files: the Hub advises at most"
                f" {FILES_IN_A_FOLDER:,} in a folder"
            )
    return warnings


async def check_one_commit(ctx: PushContext, files: Sequence[FileSource], head: str) -> None:
    """Before bytes move: more LFS files than one commit call survives become a chain that shows in
    one step; on a branch that the Hub merges nothing into they cannot, and the user has to say
    what is wanted. Raises `SourceError`. Files that the branch holds at their size may be
    unchanged, and do not count."""
    options = ctx.options
    if options.revision == DEFAULT_BRANCH or options.max_files_per_commit is not None:
        return
    large = {file.path_in_repo: file.size for file in files if file.size > SURELY_LFS}
    if len(large) <= LFS_FILES_A_COMMIT:
        return
    there = await remote_files(ctx, head, list(large))
    count = sum(path not in there or there[path].size != size for path, size in large.items())
    if count > LFS_FILES_A_COMMIT:
        raise SourceError(
            f"{count:,} LFS files are more than one commit call survives, and the Hub can show"
            f" several commits at once on {DEFAULT_BRANCH} only, not on {options.revision}",
            problems=[f"{count:,} LFS files for one commit on {options.revision}"],
            suggestion=f"push to {DEFAULT_BRANCH}, or set max_files_per_commit (for example"
            f" {LFS_FILES_A_COMMIT}): the commits then show one by one",
        )


def warn_of_slow_commit(ctx: PushContext, changes: Sequence[Change]) -> None:
    if ctx.options.max_files_per_commit is not None:
        return
    count = sum(isinstance(change, AddLfs) for change in changes)
    if count > LFS_FILES_A_MINUTE:
        ctx.warn(
            f"{count} LFS files in one commit may take the Hub longer than a minute; the push waits"
            " for it, or set max_files_per_commit"
        )
