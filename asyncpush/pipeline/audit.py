"""Compares local files with the repo, by size and checksum, at any time after a push."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import in_thread, in_thread_anyway
from asyncpush.errors import HubError
from asyncpush.events import FilesPlanned
from asyncpush.models import AuditReport, FileIdentity, FileSource, PathSource
from asyncpush.options import MIB
from asyncpush.pipeline.bucket import Bucket, hashed_together, hashes_of
from asyncpush.pipeline.changes import WRITTEN_BY_THE_HUB
from asyncpush.pipeline.checkpoint_sets import is_marker
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import observed_head
from asyncpush.pipeline.routing import WORKERS, ask_modes, own_gitignore
from asyncpush.pipeline.verification import all_remote_files
from asyncpush.protocol import commits
from asyncpush.protocol.repos import RemoteFile
from asyncpush.sources import CollectedSources, Reader, folder_prefix, read_all, read_sample
from asyncpush.transfers.inline import git_blob_oid

PIECE = 4 * MIB

COPIED_AT_ONCE = 2
"""How many files are written to disk at a time for hf_xet to hash."""


async def audit(ctx: PushContext, collected: CollectedSources) -> AuditReport:
    """Compare every local file with the repo. Remote files below `path_in_repo` that do not exist
    locally are extra."""
    if ctx.repo.repo_type == "bucket":
        return await _audit_bucket(ctx, collected)
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


async def _audit_bucket(ctx: PushContext, collected: CollectedSources) -> AuditReport:
    """Compare by size and Xet hash, computed from the current bytes. Markers of checkpoint sets do
    not count as extra files."""
    files = collected.files
    ctx.events.emit(FilesPlanned(len(files), sum(file.size for file in files)))
    ctx.enter("verifying")
    prefix = folder_prefix(ctx.options.path_in_repo)
    bucket = Bucket(ctx)
    await bucket.check_exists()
    below = await bucket.files_below(prefix)
    elsewhere = [file.path_in_repo for file in files if file.path_in_repo not in below]
    remote = below | await bucket.files(elsewhere)
    missing = [file.path_in_repo for file in files if file.path_in_repo not in remote]
    same_size = [
        file
        for file in files
        if (there := remote.get(file.path_in_repo)) is not None and there.size == file.size
    ]
    hashes = await _xet_hashes(ctx, same_size)
    matching: list[str] = []
    different: list[str] = []
    for path in (file.path_in_repo for file in files):
        if path in remote:
            same = path in hashes and remote[path].xet_hash == hashes[path]
            (matching if same else different).append(path)
    local = {file.path_in_repo for file in files}
    extra = sorted(path for path in below if path not in local and not is_marker(path))
    ctx.enter("done")
    return AuditReport(
        repo_url=ctx.repo_url,
        commit_sha="",
        matching=tuple(matching),
        missing=tuple(missing),
        different=tuple(different),
        extra=tuple(extra),
    )


async def _xet_hashes(ctx: PushContext, files: Sequence[FileSource]) -> dict[str, str]:
    """The Xet hashes of the current bytes, by path. hf_xet gets many files at once."""
    hashes: dict[str, str] = {}

    async def hash_copy(file: FileSource) -> None:
        hashes[file.path_in_repo] = await _xet_hash_of_copy(ctx, file)

    on_disk = [file for file in files if isinstance(file.content, PathSource)]
    others = [file for file in files if not isinstance(file.content, PathSource)]
    for batch in hashed_together(on_disk):
        hashes |= await hashes_of(ctx, batch)
    await for_each(others, hash_copy, width=COPIED_AT_ONCE)
    return hashes


async def _xet_hash_of_copy(ctx: PushContext, file: FileSource) -> str:
    """The Xet hash of a source that is not a file on disk: hf_xet hashes only files, so it is first
    written to one."""
    folder = Path(ctx.config.cache_dir) / "spool"

    def write() -> FileSource:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as copy, Reader(file) as reader:
            buffer = bytearray(min(file.size, PIECE))
            for offset in range(0, file.size, PIECE):
                piece = memoryview(buffer)[: file.size - offset]
                reader.readinto(offset, piece)
                copy.write(piece)
        identity = FileIdentity.of(os.stat(copy.name))
        return FileSource(file.path_in_repo, file.size, PathSource(copy.name, identity))

    copy = await in_thread(ctx.threads, write)
    try:
        return (await hashes_of(ctx, [copy]))[file.path_in_repo]
    finally:
        await in_thread_anyway(ctx.threads, lambda: os.unlink(str(copy.disk_path)))


async def _ignored(
    ctx: PushContext, files: Sequence[FileSource], absent: Sequence[FileSource]
) -> set[str]:
    """Those of the absent files that a push would leave out. Empty when the Hub does not tell: it
    only answers users with a token, and only for branches."""
    if not absent or await ctx.session.token.find() is None:
        return set()
    gitignore = await own_gitignore(ctx, files)
    ignored: set[str] = set()

    async def ask(batch: Sequence[FileSource]) -> None:
        samples = await in_thread(ctx.threads, lambda: [read_sample(file) for file in batch])
        # Ask as for a pull request, since a user with only read access may open one.
        modes = await ask_modes(ctx, batch, samples, gitignore=gitignore, create_pr=True)
        ignored.update(path for path, mode in modes.items() if mode.ignored)

    try:
        await for_each(batches(absent, commits.PREUPLOAD_LIMIT), ask, width=WORKERS)
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
