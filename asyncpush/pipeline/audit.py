"""Local files against the repo, by size and checksum, at any time after a push (REQ-009)."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import HubError
from asyncpush.events import FilesPlanned
from asyncpush.models import AuditReport, FileSource
from asyncpush.pipeline.changes import WRITTEN_BY_THE_HUB
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import observed_head
from asyncpush.pipeline.routing import WORKERS, ask_modes, own_gitignore
from asyncpush.pipeline.verification import all_remote_files
from asyncpush.protocol import preupload
from asyncpush.protocol.tree import RemoteFile
from asyncpush.sources import CollectedSources, folder_prefix, read_all, read_sample
from asyncpush.transfers.inline import git_blob_oid


async def audit(ctx: PushContext, collected: CollectedSources) -> AuditReport:
    """Compare every local file; remote files below `path_in_repo` that are not local are extra."""
    files = collected.files
    ctx.events.emit(FilesPlanned(len(files), sum(file.size for file in files)))
    ctx.enter("verifying")
    head = await observed_head(ctx, ctx.options.revision)
    remote = {file.path: file for file in await all_remote_files(ctx, head)}
    absent = [file for file in files if file.path_in_repo not in remote]
    ignored = await _ignored(ctx, files, absent)
    missing = [file.path_in_repo for file in absent if file.path_in_repo not in ignored]
    matching, different = [], []
    for file in files:
        there = remote.get(file.path_in_repo)
        if there is None:
            continue
        if await _same(ctx, file, there):
            matching.append(file.path_in_repo)
        else:
            different.append(file.path_in_repo)
    prefix = folder_prefix(ctx.options.path_in_repo)
    local = {file.path_in_repo for file in files} | {WRITTEN_BY_THE_HUB}
    extra = [path for path in remote if path.startswith(prefix) and path not in local]
    ctx.enter("done")
    return AuditReport(
        repo_url=ctx.repo_url,
        commit_sha=head,
        matching=tuple(matching),
        missing=tuple(missing),
        different=tuple(different),
        extra=tuple(sorted(extra)),
        ignored=tuple(file.path_in_repo for file in absent if file.path_in_repo in ignored),
    )


async def _ignored(
    ctx: PushContext, files: Sequence[FileSource], absent: Sequence[FileSource]
) -> set[str]:
    """Which of the absent files a push would leave out. None where the Hub does not say: it tells
    those alone who have a token, and of branches alone."""
    if not absent or await ctx.session.token.find() is None:
        return set()
    gitignore = await own_gitignore(ctx, files)
    ignored: set[str] = set()

    async def ask(batch: Sequence[FileSource]) -> None:
        samples = await in_thread(ctx.threads, lambda: [read_sample(file) for file in batch])
        # As for a pull request, which those may open who can only read.
        modes = await ask_modes(ctx, batch, samples, gitignore=gitignore, create_pr=True)
        ignored.update(path for path, mode in modes.items() if mode.ignored)

    try:
        await for_each(batches(absent, preupload.BATCH_LIMIT), ask, width=WORKERS)
    except HubError as exc:
        if exc.retryable or exc.status is None or exc.status >= 500:
            raise
    return ignored


async def _same(ctx: PushContext, file: FileSource, remote: RemoteFile) -> bool:
    if file.size != remote.size:
        return False
    if remote.lfs:
        return await ctx.hasher.sha256_anew(file, ctx.events, ctx.push_threads) == remote.oid
    content = await in_thread(ctx.threads, lambda: read_all(file))
    return git_blob_oid(content) == remote.oid
