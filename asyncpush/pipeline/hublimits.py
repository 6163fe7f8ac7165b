"""Limits of the Hub itself: said before bytes move where they would surely be hit, else warned of.

Source: the Hub's documentation, "Storage limits" and "Tips for uploading large files".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from asyncpush.errors import SourceError
from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol.commits import AddLfs, Change

LARGEST_FILE = 500 * 10**9
FILES_IN_A_FOLDER = 10_000
FILES_IN_A_REPO = 100_000
LFS_FILES_A_MINUTE = 100
"""About as many LFS files as one commit call gets through before its gateway cuts it off."""


def check_limits(ctx: PushContext, files: Sequence[FileSource]) -> None:
    """Raise `SourceError` for files that no Hub takes; warn of what it advises against."""
    too_large = [file for file in files if file.size > LARGEST_FILE]
    if too_large:
        problems = [f"{file.path_in_repo!r}: {file.size:,} bytes" for file in too_large]
        raise SourceError(
            f"the Hub takes no file over {LARGEST_FILE:,} bytes: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="split the file",
        )
    if len(files) > FILES_IN_A_REPO:
        ctx.warn(f"{len(files):,} files: the Hub advises at most {FILES_IN_A_REPO:,} in a repo")
    folders = Counter(file.path_in_repo.rpartition("/")[0] for file in files)
    for folder, count in folders.items():
        if count > FILES_IN_A_FOLDER:
            ctx.warn(
                f"{folder or 'the top folder'} has {count:,} files: the Hub advises at most"
                f" {FILES_IN_A_FOLDER:,} in a folder"
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
