"""Local files against the repo, by size and checksum, at any time after a push (REQ-009)."""

from __future__ import annotations

from asyncpush.events import FilesPlanned
from asyncpush.models import AuditReport, FileSource
from asyncpush.pipeline.changes import WRITTEN_BY_THE_HUB
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.prepare import observed_head
from asyncpush.pipeline.verification import all_remote_files
from asyncpush.protocol.tree import RemoteFile
from asyncpush.sources import Collected, folder_prefix, read_all
from asyncpush.threads import in_thread
from asyncpush.transfers.inline import git_blob_oid


async def audit(ctx: PushContext, collected: Collected) -> AuditReport:
    """Compare every local file; remote files below `path_in_repo` that are not local are extra."""
    files = collected.files
    ctx.emit.emit(FilesPlanned(len(files), sum(file.size for file in files)))
    ctx.enter("verifying")
    head = await observed_head(ctx, ctx.options.revision)
    remote = {file.path: file for file in await all_remote_files(ctx, head)}
    matching, missing, different = [], [], []
    for file in files:
        there = remote.get(file.path_in_repo)
        if there is None:
            missing.append(file.path_in_repo)
        elif await _same(ctx, file, there):
            matching.append(file.path_in_repo)
        else:
            different.append(file.path_in_repo)
    prefix = folder_prefix(ctx.options.path_in_repo)
    local = {file.path_in_repo for file in files} | {WRITTEN_BY_THE_HUB}
    extra = [path for path in remote if path.startswith(prefix) and path not in local]
    ctx.enter("done")
    return AuditReport(
        ctx.repo_url, head, tuple(matching), tuple(missing), tuple(different), tuple(sorted(extra))
    )


async def _same(ctx: PushContext, file: FileSource, remote: RemoteFile) -> bool:
    if file.size != remote.size:
        return False
    if remote.lfs:
        return await ctx.hasher.sha256_anew(file, ctx.emit, ctx.push_threads) == remote.oid
    content = await in_thread(ctx.threads, lambda: read_all(file))
    return git_blob_oid(content) == remote.oid
