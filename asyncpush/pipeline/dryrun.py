"""What a dry run answers: each file with what would be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncpush.models import FileSource, PlannedFile, Receipt, Route, UploadResult
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.routing import SURELY_LFS
from asyncpush.pipeline.stored import Stored
from asyncpush.protocol.commits import Delete


def planned(
    ctx: PushContext,
    stored: Stored,
    deletions: Iterable[Delete],
    head: str | None,
    *,
    elapsed_seconds: float,
) -> UploadResult:
    """Without a `head` the repo, or its branch, would be created."""
    receipts = stored.receipts.values()
    plan = [_planned_file(receipt) for receipt in receipts]
    plan += [PlannedFile(file.path_in_repo, file.size, "ignored") for file in stored.ignored]
    plan += [PlannedFile(deletion.path, 0, "delete") for deletion in deletions]
    return UploadResult(
        repo_url=ctx.repo_url,
        commit_sha=head or "",
        commit_url=ctx.commit_url(head) if head else "",
        files_uploaded=(),
        bytes_transferred=0,
        bytes_deduplicated=0,
        verified=False,
        elapsed_seconds=elapsed_seconds,
        files_unchanged=tuple(receipt.path_in_repo for receipt in receipts if receipt.unchanged),
        files_ignored=tuple(file.path_in_repo for file in stored.ignored),
        warnings=tuple(ctx.warnings),
        plan=tuple(sorted(plan, key=lambda file: file.path_in_repo)),
    )


def guessed(files: Sequence[FileSource]) -> Stored:
    """Routes by size: nobody can be asked about a repo that is not there yet."""
    stored = Stored()
    for file in files:
        route: Route = "lfs" if file.size > SURELY_LFS else "inline"
        stored.receipts[file.path_in_repo] = Receipt(file.path_in_repo, file.size, "", route)
    return stored


def _planned_file(receipt: Receipt) -> PlannedFile:
    action = "unchanged" if receipt.unchanged else receipt.route
    return PlannedFile(receipt.path_in_repo, receipt.size, action)
