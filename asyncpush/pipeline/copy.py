"""Copies on the Hub: files of a repo or bucket go to another one without a download of their bytes.

Stored objects are added to a repo by one call for each 500 of them, and to a bucket by operations
of its batches. Regular files, which are small, are read and sent. The final commit or sync, and its
verification, are the same as for every push.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import HubError, RepoNotFoundError, SourceError, SyncError
from asyncpush.events import FileRouted, FileSkipped, FilesPlanned, FileStored
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import CARD_NAME, FileSource, Receipt, Repo, SyncResult, UploadResult
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.pipeline.bucket import Bucket
from asyncpush.pipeline.changes import WRITTEN_BY_THE_HUB
from asyncpush.pipeline.checkpoint_sets import MARKER
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import (
    REVISION_NOT_FOUND,
    check_leaks,
    check_limits,
    check_one_commit,
    head_at_parent,
    observed_head,
    prepare,
)
from asyncpush.pipeline.push import PushRun
from asyncpush.pipeline.routing import EarlyModes, Stored
from asyncpush.pipeline.sync import SyncRun
from asyncpush.pipeline.verification import all_remote_files, remote_files
from asyncpush.protocol import lfs
from asyncpush.protocol.buckets import AddFile, BucketFile
from asyncpush.protocol.commits import AddInline
from asyncpush.protocol.http import HubResponse, protocol_error
from asyncpush.protocol.lfs import LfsObject, StoredObject
from asyncpush.protocol.repos import RemoteFile
from asyncpush.sources import (
    CollectedSources,
    check_path_in_repo,
    folder_prefix,
    normalise_path,
    read_all,
    select,
)
from asyncpush.sources.spool import Spool
from asyncpush.transfers.inline import checked_content, git_blob_oid

CALLS_AT_ONCE = 4

CONTENT_LIMIT = 32 << 20
"""The largest regular file to read, in bytes: the Hub accepts none of more than 10 MiB."""

_PUSH_INSTEAD = "to send the bytes instead, download the source and push it"


@dataclass(frozen=True, slots=True)
class CopySource:
    """The source of a copy: a repo at a revision, or a bucket, and a file or folder in it. An empty
    path means all files."""

    repo: Repo
    revision: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of the source, and its path at the destination."""

    remote: RemoteFile
    path_in_repo: str


async def copy(
    ctx: PushContext,
    run: PushRun,
    source: CopySource,
    own: Sequence[FileSource],
    spool: Spool,
) -> UploadResult:
    """Copy to the repo of `ctx`, in one verified commit. `own` are files that replace the source's:
    the model card. Raises `SourceError` when the source has nothing to copy, `HubError` when the
    Hub does not copy between these repos."""
    source_ctx = replace(ctx, repo=source.repo)
    oid, files = await _chosen(source_ctx, source, ctx.options)
    # The destination keeps its own rules; the Hub adds those that the copied files need.
    if len(files) > 1:
        files = [file for file in files if file.path_in_repo != WRITTEN_BY_THE_HUB]
    if ctx.options.commit_message is None:
        message = f"Copy {source.repo.git_path}@{oid[:7]} with asyncpush"
        ctx.options = replace(ctx.options, commit_message=message)
    copier = _Copier(ctx, _Contents(source_ctx, oid, spool))
    receipts = await copier.plan(files, own)
    head = (await prepare(ctx, await copier.card(), EarlyModes(ctx))).head
    if head is None:
        ctx.warn(f"{ctx.repo.repo_id} (or its branch) does not exist and would be created")
        return run.plan_of(receipts)
    head = await head_at_parent(ctx, head)
    await check_one_commit(ctx, receipts, head)
    return await run.commit_receipts(receipts, head, copier.load, bring=copier.bring)


def _about_source(repo: Repo, revision: str, error: HubError) -> HubError:
    """The error with a suggestion for the source of a copy. The usual suggestions are for a
    destination, and mention creating it."""
    where = repo.git_path
    if isinstance(error, RepoNotFoundError):
        return error.with_(
            suggestion=f"check the spelling and the type of the source, {where}; if it is private,"
            " check that the token can read it"
        )
    if error.error_code == REVISION_NOT_FOUND:
        return error.with_(
            suggestion=f"name a branch, tag or commit that {where} has, not {revision}"
        )
    return error


async def _chosen(
    ctx: PushContext, source: CopySource, options: PushOptions
) -> tuple[str, list[CopiedFile]]:
    """The commit that the source is at (empty for a bucket), and the files to copy.

    Their paths follow the rules of a push: a file goes to `path_in_repo`, or below it when that
    ends in a slash; from a folder, the files that the patterns select go below `path_in_repo`.
    """
    path = source.path
    prefix = f"{path.rstrip('/')}/" if path else ""
    try:
        oid, remote = await _listed(ctx, source)
    except HubError as exc:
        raise _about_source(source.repo, source.revision, exc) from None
    if path in remote and not path.endswith("/"):
        return oid, [CopiedFile(remote[path], _named_below(options.path_in_repo, path))]

    def chosen() -> list[CopiedFile]:
        below = {path[len(prefix) :]: file for path, file in remote.items()}
        if not below:
            what = f"no file or folder {path!r}" if path else "no files"
            raise _nothing(f"{source.repo.git_path} has {what}{oid and f' at {oid}'}")
        target = folder_prefix(options.path_in_repo)
        names = select(below, options.allow_patterns, options.ignore_patterns)
        return [CopiedFile(below[name], target + name) for name in names]

    files = await in_thread(ctx.threads, chosen)
    if not files and options.delete_patterns is None and options.model_card is None:
        raise _nothing(f"the patterns select none of the {len(remote):,} files of the source")
    return oid, files


async def _listed(ctx: PushContext, source: CopySource) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that the source is at, and the file at its path, or all files below it."""
    path, folder = source.path, source.path.rstrip("/")
    if source.repo.repo_type == "bucket":
        bucket = Bucket(ctx)
        found = await bucket.files([path]) if path and not path.endswith("/") else {}
        found = found or await bucket.files_below(f"{folder}/" if folder else "")
        return "", {name: _in_store(file) for name, file in found.items()}
    oid = await observed_head(ctx, source.revision)
    if path and not path.endswith("/") and (one := await remote_files(ctx, oid, [path])):
        return oid, one
    try:
        below = await all_remote_files(ctx, oid, folder)
    except HubError as exc:
        if not path or exc.error_code != "EntryNotFound":
            raise
        below = []
    return oid, {file.path: file for file in below}


def _in_store(file: BucketFile) -> RemoteFile:
    """The file of a bucket as a remote file: all files of a bucket are in the store."""
    return RemoteFile(file.path, file.size, "", lfs=True, xet_hash=file.xet_hash)


def _named_below(path_in_repo: str, path: str) -> str:
    target = normalise_path(path_in_repo)
    target = "" if target == "." else target
    name = path.rpartition("/")[2]
    return target + name if not target or target.endswith("/") else target


def _nothing(message: str) -> SourceError:
    return SourceError(
        message,
        problems=[message],
        suggestion="check the source's path and revision, allow_patterns and ignore_patterns",
    )


async def copy_to_bucket(
    ctx: PushContext, options: SyncOptions, source: CopySource, spool: Spool
) -> SyncResult:
    """Copy to the bucket of `ctx`, and verify it. Raises `SourceError` when the source has nothing
    to copy, or has files that are not in a Xet store; `SyncError` once the bucket was changed."""
    source_ctx = replace(ctx, repo=source.repo)
    oid, files = await _chosen(source_ctx, source, ctx.options)
    files = [file for file in files if not _is_of_git(file)]
    if not files:
        raise _nothing(f"{source.repo.git_path} has no files except git's own (.gitattributes)")
    if source.repo == ctx.repo:
        await in_thread(ctx.threads, lambda: _check_sets(files))
    regular = [file for file in files if not file.remote.lfs]
    problems = [
        f"{file.remote.path}: in LFS, but not in a Xet store"
        for file in files
        if file.remote.lfs and file.remote.xet_hash is None
    ]
    if problems:
        raise SourceError(
            f"{len(problems):,} file(s) cannot be copied to a bucket: {'; '.join(problems[:10])}",
            problems=problems,
            suggestion="download the source and sync it to the bucket",
        )
    now = int(time.time() * 1000)
    copied = [
        AddFile(file.path_in_repo, remote.size, remote.xet_hash, now, source=source.repo)
        for file in files
        if (remote := file.remote).xet_hash is not None
    ]
    contents = _Contents(source_ctx, oid, spool)
    read: list[FileSource] = []

    async def take(file: CopiedFile) -> None:
        read.append(await contents.read(file))

    await for_each(regular, take, width=CALLS_AT_ONCE)
    one_file = [file.remote.path for file in files] == [source.path]
    collected = CollectedSources(tuple(read), one_file=one_file)
    try:
        return await SyncRun(ctx, options, copied).run(collected)
    except SyncError as exc:
        if copied:
            raise exc.with_(
                suggestion="copy again; what the Hub does not copy (only within one storage region,"
                " where the token may read the source) can be downloaded and synced to the bucket"
            ) from exc.__cause__
        raise


def _check_sets(files: Sequence[CopiedFile]) -> None:
    """Raise `SourceError` for a complete set that would be copied into itself: its marker is
    removed before anything in its folder changes, and then cannot be copied."""
    new = [file.path_in_repo for file in files if file.path_in_repo != file.remote.path]
    for file in files:
        folder, _, name = file.remote.path.rpartition("/")
        below = f"{folder}/" if folder else ""
        if name == MARKER and any(path.startswith(below) for path in new):
            raise SourceError(
                f"the checkpoint set {folder or '/'} cannot be copied into itself",
                problems=[f"{file.remote.path} would be removed"],
                suggestion="copy it to a folder outside, or leave out its marker with"
                f" ignore_patterns={MARKER!r} (--exclude {MARKER}); nothing was changed",
            )


def _is_of_git(file: CopiedFile) -> bool:
    """Whether it has no meaning in a bucket; the official client leaves it out too."""
    return not file.remote.lfs and file.remote.path.rpartition("/")[2] == WRITTEN_BY_THE_HUB


class _Contents:
    """Reads regular files of one commit of the source."""

    def __init__(self, ctx: PushContext, revision: str, spool: Spool) -> None:
        self.ctx = ctx
        self._revision = revision
        self._spool = spool

    async def read(self, file: CopiedFile) -> FileSource:
        """The file under its path at the destination. Raises `SourceError` when it is too large,
        `HubError` when it cannot be read or does not match its oid."""
        remote = file.remote
        if remote.size > CONTENT_LIMIT:
            raise SourceError(
                f"{remote.path!r} is a regular file of {remote.size:,} bytes, too large to be read"
                " and committed again",
                problems=[f"{remote.path}: {remote.size:,} bytes, not in LFS"],
                suggestion=f"leave it out with ignore_patterns (--exclude); {_PUSH_INSTEAD}",
            )

        def whole(response: HubResponse) -> bytes:
            if git_blob_oid(response.body) != remote.oid:
                raise protocol_error(
                    f"{remote.path!r} arrived with bytes that do not match its oid"
                )
            return response.body

        request = lfs.content_request(self.ctx.repo, self._revision, remote.path)
        try:
            content = await self.ctx.session.ask(request, whole, self.ctx.events)
        except HubError as exc:
            raise _about_source(self.ctx.repo, self._revision, exc) from exc.__cause__
        return await self._spool.take(file.path_in_repo, _one_piece(content))


class _Copier:
    """Copies files of one commit of a repo into the destination's store."""

    def __init__(self, ctx: PushContext, source: _Contents) -> None:
        self._ctx = ctx
        self._source = source
        self._files: dict[str, CopiedFile] = {}
        self._contents: dict[str, FileSource] = {}

    async def plan(self, files: Sequence[CopiedFile], own: Sequence[FileSource]) -> list[Receipt]:
        """A receipt for each file, as it will be after `bring`."""
        ctx = self._ctx
        self._contents = {file.path_in_repo: file for file in own}
        for file in files:
            if file.path_in_repo not in self._contents:
                self._files[file.path_in_repo] = file
            else:
                ctx.warn(f"model_card replaces the source's {file.path_in_repo}")
        receipts = await in_thread(ctx.threads, self._receipts)
        ctx.events.emit(FilesPlanned(len(receipts), sum(receipt.size for receipt in receipts)))
        for warning in await in_thread(ctx.threads, lambda: check_limits(receipts)):
            ctx.warn(warning)
        return receipts

    def _receipts(self) -> list[Receipt]:
        problems = [
            f"{path!r} {problem}" for path in self._files if (problem := check_path_in_repo(path))
        ]
        if problems:
            raise SourceError(
                f"{len(problems)} path(s) that cannot be committed: {'; '.join(problems[:20])}",
                problems=problems,
                suggestion="leave these files out with ignore_patterns (--exclude)",
            )
        receipts = [_receipt_of(file) for file in self._files.values()]
        for path, file in self._contents.items():
            oid = git_blob_oid(read_all(file))
            receipts.append(Receipt(path, file.size, oid, "inline"))
        return sorted(receipts, key=lambda receipt: receipt.path_in_repo)

    async def card(self) -> tuple[FileSource, ...]:
        """The card that the commit will contain, to be checked before anything is created."""
        copied = self._files.get(CARD_NAME)
        if copied is not None and not copied.remote.lfs:
            await self._read(copied)
        return tuple(file for path, file in self._contents.items() if path == CARD_NAME)

    def load(self, change: AddInline) -> bytes:
        content = read_all(self._contents[change.path])
        return checked_content(change.path, change.oid, content)

    async def bring(self, stored: Stored) -> None:
        """Bring everything that the destination does not have: read small files, and copy
        objects."""
        ctx = self._ctx
        missing: list[Receipt] = []
        for receipt in stored.receipts.values():
            path, size = receipt.path_in_repo, receipt.size
            if receipt.unchanged:
                ctx.events.emit(FileSkipped(path, size, "unchanged"))
            else:
                ctx.events.emit(FileRouted(path, size, receipt.route))
                missing.append(receipt)
        if not missing:
            return
        ctx.enter("uploading")
        regular = [
            self._files[receipt.path_in_repo]
            for receipt in missing
            if receipt.route == "inline" and receipt.path_in_repo not in self._contents
        ]
        await for_each(regular, self._read, width=CALLS_AT_ONCE)
        fresh = [
            self._contents[receipt.path_in_repo] for receipt in missing if receipt.route == "inline"
        ]
        await check_leaks(ctx, fresh)
        await self._bring_objects([receipt for receipt in missing if receipt.route != "inline"])

    async def _read(self, file: CopiedFile) -> None:
        if file.path_in_repo not in self._contents:
            self._contents[file.path_in_repo] = await self._source.read(file)

    async def _bring_objects(self, receipts: Sequence[Receipt]) -> None:
        """Copy the objects of another repo. Within the same repo they are there already."""
        ctx = self._ctx
        if ctx.repo != self._source.ctx.repo:
            by_oid = {receipt.oid: receipt for receipt in receipts}
            by_xet = [each for each in by_oid.values() if each.xet_hash is not None]
            others = [each for each in by_oid.values() if each.xet_hash is None]
            for batch in batches(by_xet, lfs.DUPLICATES_LIMIT):
                await self._duplicate(batch)
            for batch in batches(others, lfs.BATCH_LIMIT):
                await self._check_named(batch)
        for receipt in receipts:
            stored = FileStored(receipt.path_in_repo, receipt.size, receipt.route, True)
            ctx.events.emit(stored)

    async def _duplicate(self, receipts: Sequence[Receipt]) -> None:
        """Copy objects. Those that the Hub could not copy are tried once more, since the reason may
        have been temporary."""
        objects = {
            receipt.oid: StoredObject(
                receipt.oid,
                receipt.xet_hash or "",
                self._files[receipt.path_in_repo].remote.path,
            )
            for receipt in receipts
        }
        failed: Mapping[str, str] = dict.fromkeys(objects, "")
        for _ in range(2):
            again = [each for oid, each in objects.items() if oid in failed]
            failed = await self._ctx.session.ask(
                lfs.duplicate_request(self._source.ctx.repo, self._ctx.repo, again),
                lfs.parse_duplicate,
                self._ctx.events,
            )
            if not failed:
                return
        raise self._refused((objects[oid].path, why) for oid, why in failed.items())

    async def _check_named(self, receipts: Sequence[Receipt]) -> None:
        """Check for objects without a Xet hash, which cannot be named in a copy call. On a Hub
        whose repos share a store they exist already: the LFS batch then requests no upload."""
        ctx = self._ctx
        objects = [LfsObject(receipt.oid, receipt.size) for receipt in receipts]
        revision = None if ctx.options.create_pr else ctx.options.revision
        actions = await ctx.session.ask(
            lfs.batch_request(ctx.repo, objects, revision=revision),
            lambda response: lfs.parse_batch(response, objects),
            ctx.events,
        )
        missing = [
            (self._files[receipt.path_in_repo].remote.path, "it is in LFS and has no Xet hash")
            for receipt in receipts
            if actions[receipt.oid].upload is not None
        ]
        if missing:
            raise self._refused(missing)

    def _refused(self, failures: Iterable[tuple[str, str]]) -> HubError:
        reasons = [f"{path}: {why}" for path, why in failures]
        source, target = self._source.ctx.repo, self._ctx.repo
        return HubError(
            f"the Hub cannot copy {len(reasons):,} file(s) from {source.git_path} to"
            f" {target.git_path}: {'; '.join(reasons[:10])}",
            suggestion="objects are copied only within one storage region, between repos that the"
            f" token may read and write; {_PUSH_INSTEAD}",
        )


def _receipt_of(file: CopiedFile) -> Receipt:
    remote = file.remote
    if not remote.lfs:
        return Receipt(file.path_in_repo, remote.size, remote.oid, remote.route)
    return Receipt(
        file.path_in_repo,
        remote.size,
        remote.oid,
        remote.route,
        xet_hash=remote.xet_hash,
        bytes_deduplicated=remote.size,
    )


async def _one_piece(content: bytes) -> AsyncIterator[bytes]:
    yield content
