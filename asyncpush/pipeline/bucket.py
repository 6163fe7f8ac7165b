"""One bucket on the Hub: creating it, reading its listing, storing content for it, and changing it
in batches.

What is stored does not show in the bucket before a batch names it. Files that change meanwhile are
followed as in a push: collected again, and sent as they are then. A batch is not a transaction, and
its answer can be lost after the Hub has carried it out. Operations name the wanted state rather
than a step towards it, so they can be sent again. Before that, and when no attempt is left, the
bucket itself is checked."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from functools import partial

import anyio

from asyncpush.concurrency.task_groups import batches, for_each, sized_batches
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import (
    AsyncPushError,
    HubError,
    RepoNotFoundError,
    SourceChangedError,
    SourceError,
)
from asyncpush.events import FileRouted, FilesPlanned, RetryScheduled, TransferChosen
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, Receipt, SyncFailure
from asyncpush.options import MIB, SyncOptions
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import check_leaks
from asyncpush.pipeline.verification import (
    CALLS_AT_ONCE,
    CHECKS,
    FILES_LIMIT,
    LONGEST_WAIT,
    PAGES_LIMIT,
)
from asyncpush.protocol import buckets
from asyncpush.protocol.buckets import AddFile, BucketFile, DeleteFile, FailedOperation, Operation
from asyncpush.protocol.failures import may_be_done, may_still_land
from asyncpush.protocol.http import HubRequest, protocol_error
from asyncpush.sources import CollectedSources, OpenStream
from asyncpush.sources.byte_sources import Reader
from asyncpush.sources.byte_sources import changed as changed_source
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.single_files import COLLECTED_AGAIN, changes_of
from asyncpush.transfers.interface import BucketTransfer, BucketUpload, TransferFailedError

BATCHES_AT_ONCE = 4

HASHED_TOGETHER = 64
HASHED_BYTES = 256 * MIB
"""How many bytes are hashed in one call, which cannot be interrupted."""

ATTEMPTS = 3
"""How often an operation is sent that the Hub lists as failed."""


class Bucket:
    """The bucket that `ctx.repo` names."""

    def __init__(self, ctx: PushContext) -> None:
        self._ctx = ctx
        self.applied: set[str] = set()
        """Paths whose operations the Hub has carried out."""
        self.stopped: HubError | None = None
        """The failure after which no further batch was sent."""
        self.unclear = False
        """Whether the outcome of a batch is not known."""

    @property
    def may_have_changed(self) -> bool:
        """Whether a batch has changed something, or may have."""
        return self.unclear or bool(self.applied)

    # The bucket

    async def ensure(self, options: SyncOptions) -> bool:
        """Create the bucket if it is missing and the options allow it. False when it is missing in
        a dry run. Raises `HubError`."""
        ctx = self._ctx
        try:
            await self.check_exists()
        except RepoNotFoundError:
            if not options.create_bucket:
                raise
        else:
            return True
        if options.dry_run:
            return False
        try:
            request = buckets.create_request(ctx.repo, options)
            await ctx.session.ask(
                request, buckets.check_created, ctx.events, expected=_may_exist_already
            )
        except HubError as exc:
            if not _may_exist_already(exc):
                raise
            # Another process may have just created it, or an earlier attempt of ours whose answer
            # was lost. Or the token may write to this bucket but not create buckets.
            try:
                await self.check_exists()
            except RepoNotFoundError:
                raise exc from None
        else:
            ctx.session.created.note(ctx.repo)
        return True

    async def check_exists(self) -> None:
        """Raise `RepoNotFoundError` when the bucket does not exist."""
        ctx = self._ctx
        await ctx.session.ask(
            buckets.info_request(ctx.repo),
            buckets.parse_info,
            ctx.events,
            expected=lambda error: isinstance(error, RepoNotFoundError),
        )

    # Its files

    async def files(self, paths: Sequence[str]) -> dict[str, BucketFile]:
        """Those of `paths` that exist in the bucket."""
        ctx, found = self._ctx, dict[str, BucketFile]()

        async def ask(batch: Sequence[str]) -> None:
            request = buckets.paths_info_request(ctx.repo, batch)
            found.update(await ctx.session.ask(request, buckets.parse_paths_info, ctx.events))

        await for_each(batches(paths, buckets.PATHS_LIMIT), ask, width=CALLS_AT_ONCE)
        return found

    async def files_below(self, folder: str) -> dict[str, BucketFile]:
        """All files below a folder. `folder` is empty or ends in a slash, so that only whole path
        segments match. Raises `ProtocolError` when the pages do not end."""
        ctx = self._ctx
        request = buckets.tree_request(ctx.repo, folder.rstrip("/"))
        found: dict[str, BucketFile] = {}
        asked = {request.target}
        while True:
            page, following = await ctx.session.ask(request, buckets.parse_tree, ctx.events)
            found |= {file.path: file for file in page if file.path.startswith(folder)}
            if following is None:
                return found
            if following in asked or len(asked) >= PAGES_LIMIT or len(found) > FILES_LIMIT:
                raise protocol_error(
                    f"the list of the bucket's files does not end: {len(asked):,} pages,"
                    f" {len(found):,} files so far"
                )
            asked.add(following)
            request = HubRequest(request.call, "GET", following, fields=request.fields)

    async def one_below(self, folder: str) -> str | None:
        """A file below a folder, which ends in a slash. None if there is none."""
        ctx = self._ctx
        request = buckets.tree_request(ctx.repo, folder)
        page, _ = await ctx.session.ask(request, buckets.parse_tree, ctx.events)
        return next((file.path for file in page if file.path.startswith(folder)), None)

    async def different(
        self, wanted: Mapping[str, Operation], *, checks: int = CHECKS
    ) -> list[SyncFailure]:
        """Check until the bucket shows the outcome of all these operations. Returns a failure for
        each one that it does not show."""
        ctx, failures = self._ctx, list[SyncFailure]()
        for attempt in range(checks):
            if attempt:
                wait = ctx.config.initial_backoff_ms / 1000 * 2.0 ** (attempt - 1)
                await asyncio.sleep(min(wait, LONGEST_WAIT))
            found = await self.files(list(wanted))
            failures = await in_thread(ctx.threads, partial(_differences, wanted, found))
            if not failures:
                break
            wanted = {failure.path: wanted[failure.path] for failure in failures}
        return failures

    # Changing it

    async def apply(
        self, operations: Sequence[Operation], *, first: Sequence[Operation] = ()
    ) -> list[SyncFailure]:
        """Send operations in batches, several at once. Each batch begins with those operations of
        `first` that are in the same folders, or in folders above. Operations that the Hub lists as
        failed are sent again if that may help. Returns the remaining failures.

        When a batch cannot be sent, no other one is started, and those already started are waited
        for. Raises the `HubError` when the bucket was not changed; otherwise it is included in the
        failures.
        """
        failures: list[SyncFailure] = []

        async def send(found: tuple[Sequence[Operation], Sequence[Operation]]) -> None:
            start, batch = found
            reason = f"not sent: {self.stopped.message}" if self.stopped else ""
            try:
                if self.stopped is None:
                    failures.extend(await self._send([*start, *batch]))
            except HubError as exc:
                self.stopped = self.stopped or exc
                reason = exc.message
            if reason:
                failures.extend(SyncFailure(each.path, reason) for each in batch)

        await for_each(_batches(operations, first), send, width=BATCHES_AT_ONCE)
        if self.stopped is not None and not self.may_have_changed:
            raise self.stopped
        return failures

    async def _send(self, operations: Sequence[Operation]) -> list[SyncFailure]:
        lasting: list[SyncFailure] = []
        attempt = 1
        while True:
            failed = await self._send_once(operations)
            # Noted before the bucket is checked, since that check may fail.
            self._note_applied(operations, failed)
            failed = await self._still_failed(operations, failed)
            self._note_applied(operations, failed)
            again = {each.path for each in failed if each.may_pass and attempt < ATTEMPTS}
            lasting += [
                SyncFailure(each.path, each.reason) for each in failed if each.path not in again
            ]
            if not again:
                return lasting
            attempt += 1
            wait = self._ctx.config.initial_backoff_ms / 1000 * 2.0 ** (attempt - 2)
            reason = next(each.reason for each in failed if each.path in again)
            self._ctx.events.emit(RetryScheduled("bucket_batch", attempt, wait, reason))
            await asyncio.sleep(wait)
            operations = [each for each in operations if each.path in again]

    def _note_applied(
        self, operations: Sequence[Operation], failed: Sequence[FailedOperation]
    ) -> None:
        self.applied |= {each.path for each in operations} - {each.path for each in failed}

    async def _send_once(self, operations: Sequence[Operation]) -> list[FailedOperation]:
        """Send one batch. If the answer is lost, check the bucket instead."""
        ctx = self._ctx
        by_path = {operation.path: operation for operation in operations}
        may_have_landed = False  # an attempt, whatever became of those after it

        async def is_done() -> bool:
            return not _differences(by_path, await self.files(list(by_path)))

        async def reconcile(error: HubError) -> list[FailedOperation] | None:
            nonlocal may_have_landed
            may_have_landed = may_have_landed or may_still_land(error)
            return [] if may_have_landed and await is_done() else None

        try:
            return await ctx.session.ask(
                buckets.batch_request(ctx.repo, operations),
                buckets.parse_batch,
                ctx.events,
                describe=lambda failed: {"failed": len(failed)},
                accept=buckets.answers_batch,
                reconcile=reconcile,
            )
        except asyncio.CancelledError:
            self.unclear = True
            raise
        except HubError as exc:
            may_have_landed = may_have_landed or may_still_land(exc)
            with suppress(HubError):  # the first failure is more useful
                if (may_have_landed or may_be_done(exc)) and await is_done():
                    if not may_have_landed:
                        ctx.warn(f"the Hub made changes, but answered {exc.status}: {exc.message}")
                    return []
            self.unclear = self.unclear or may_have_landed
            raise

    async def _still_failed(
        self, operations: Sequence[Operation], failed: Sequence[FailedOperation]
    ) -> list[FailedOperation]:
        """The failures, without those whose outcome the bucket shows anyway: the Hub may list a
        file as failed that was to be deleted and does not exist."""
        if not failed:
            return []
        by_path = {operation.path: operation for operation in operations}
        unknown = [each.path for each in failed if each.path not in by_path]
        if unknown:
            raise protocol_error(f"the answer to a batch names {unknown[0]!r}, which was not in it")
        found = await self.files([each.path for each in failed])
        return [each for each in failed if not by_path[each.path].shows_in(found)]


def folders_of(path: str) -> Iterable[str]:
    """All folders that contain a path, each with a slash at its end; the outermost one is ""."""
    while path:
        path = path.rpartition("/")[0]
        yield f"{path}/" if path else ""


def _batches(
    operations: Iterable[Operation], first: Iterable[Operation]
) -> Iterable[tuple[list[Operation], list[Operation]]]:
    """The operations in batches, each with those of `first` that belong to its folders."""
    by_folder: dict[str, list[Operation]] = {}
    for each in first:
        by_folder.setdefault(next(iter(folders_of(each.path))), []).append(each)
    if not by_folder:
        yield from (([], batch) for batch in batches(operations, buckets.OPERATIONS_LIMIT))
        return
    start: dict[str, Operation] = {}
    batch: list[Operation] = []
    belonging: dict[str, list[Operation]] = {}
    for operation in operations:
        inside = operation.path.rpartition("/")[0]
        if (above := belonging.get(inside)) is None:
            folders = folders_of(operation.path)
            above = [each for folder in folders for each in by_folder.get(folder, ())]
            belonging[inside] = above
        more = sum(each.path not in start for each in above)
        if batch and len(start) + more + len(batch) >= buckets.OPERATIONS_LIMIT:
            yield list(start.values()), batch
            start, batch = {}, []
        start.update((each.path, each) for each in above)
        batch.append(operation)
    if batch:
        yield list(start.values()), batch


def hashed_together(files: Iterable[FileSource]) -> Iterable[list[FileSource]]:
    """Groups of files that are hashed in one call."""
    return sized_batches(files, most_bytes=HASHED_BYTES, most=HASHED_TOGETHER)


async def hashes_of(
    ctx: PushContext,
    files: Sequence[FileSource],
    changed: dict[str, SourceChangedError] | None = None,
) -> dict[str, str]:
    """The Xet hashes of files on disk, from their current bytes, by path in the repo. With
    `changed`, followed files that have changed are added there, and have no hash."""
    if all(file.size == 0 for file in files):
        return {file.path_in_repo: buckets.EMPTY_HASH for file in files}
    try:
        return await ctx.transfers.for_buckets.hash_files(files, changed)
    except TransferFailedError as exc:
        raise AsyncPushError(
            f"{ctx.transfers.for_buckets.label} cannot hash the files: {exc.message}",
            suggestion="check that the files can be read, then try again",
        ) from exc


def _changes(
    files: Sequence[FileSource], error: SourceChangedError
) -> dict[str, SourceChangedError]:
    """What has happened to each of these files, by path in the repo, after one of them failed with
    `error`. Those that have not changed yet come last. Blocks."""
    found: dict[str, SourceChangedError] = {}
    others: dict[str, SourceChangedError] = {}
    for file in files:
        path = file.path_in_repo
        try:
            with Reader(file, grown=file.sha256 is not None) as reader:
                reader.check_unchanged()
        except SourceChangedError as exc:
            found[path] = exc
        except SourceError:
            found[path] = error  # what is wrong shows when the file is collected again
        else:
            others[path] = changed_source(file, "was written to or removed")
    return {**found, **others}


def _may_exist_already(error: HubError) -> bool:
    return error.status in (401, 403) or (error.status == 409 and not error.retryable)


def _differences(
    wanted: Mapping[str, Operation], found: Mapping[str, BucketFile]
) -> list[SyncFailure]:
    """The operations whose outcome the found files do not show."""
    failures = []
    for path, operation in wanted.items():
        if operation.shows_in(found):
            continue
        match operation, found.get(path):
            case DeleteFile(), _:
                reason = "deleted, but still there"
            case _, None:
                reason = "missing"
            case AddFile(size=size, xet_hash=xet_hash), BucketFile() as there:
                reason = (
                    f"has {there.size:,} bytes and the Xet hash {there.xet_hash},"
                    f" not {size:,} and {xet_hash}"
                )
        failures.append(SyncFailure(path, reason))
    return failures


def in_words(failures: Iterable[SyncFailure | str], most: int = 10) -> str:
    """The first failures as text, for the message of an error."""
    lines = list(map(str, failures))
    more = f"; and {len(lines) - most:,} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


ADDED_TOGETHER = 64
"""Files that are added in one call, which queues them."""

ADDED_BYTES = 4 * MIB
ADDED_AT_ONCE = 4

SMALL_FILE = 4 * MIB
GROUPS = 8
SMALLEST_GROUP, LARGEST_GROUP = 8 * MIB, 16 * MIB
GROUP_FOR_SLOW_STORES = 32 * MIB
GROUP_FILES = 1000
GROUPS_AT_ONCE = 2

GROUP_GROWTH = 192 << 10
"""How much larger each group is than the one before. hf_xet packs a group into one block of memory.
glibc maps a block that is larger than all those freed so far, and returns it to the system when it
is freed. A smaller one is taken from a heap, which keeps it: with equal groups, 1,000 files of
64 KiB take up to 30 MB more."""

SLOW_STORE = 1.0
"""Seconds that a slow store takes for a group after its files were added. Then fewer, larger groups
take less time, though more memory."""


def groups(
    files: Sequence[FileSource], *, is_slow: Callable[[], bool] = lambda: False
) -> Iterable[list[FileSource]]:
    """Groups of files that are uploaded one after the other: the next one is read while the store
    takes the one before.

    What one upload is given is collected until it ends, or fills 64 MiB, and is packed before it is
    freed. Small files therefore go in groups, which take less memory: eight of them, of 8 MiB each
    at least, and of 16 MiB and 1,000 files at most; of 32 MiB once the store `is_slow`. Large files
    are limited elsewhere."""
    small = sum(file.size for file in files if file.size <= SMALL_FILE)
    largest = LARGEST_GROUP
    most = min(max(small // GROUPS, SMALLEST_GROUP), largest)
    group: list[FileSource] = []
    size = 0
    for file in files:
        more = file.size if file.size <= SMALL_FILE else 0
        if group and size + more > most and is_slow():
            most = largest = GROUP_FOR_SLOW_STORES
        if group and (len(group) == GROUP_FILES or size + more > most):
            yield group
            group, size = [], 0
            most = min(most + GROUP_GROWTH, largest)
        group.append(file)
        size += more
    if group:
        yield group


@dataclass(slots=True)
class BucketStore:
    """What a sync sends to the store of its bucket."""

    ctx: PushContext
    gone: set[str] = field(default_factory=set)
    """Paths of files that were left out, since they are no longer in the source."""
    collected_again: dict[str, FileSource] = field(default_factory=dict)
    """What was sent instead of files that had changed, by path."""
    bytes_sent: int = 0
    """What went over the network, also for files that had changed and were sent again."""
    _notices: ProblemReport = field(default_factory=ProblemReport)
    _store: BucketTransfer | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send_all(
        self, collected: CollectedSources, files: Sequence[FileSource]
    ) -> list[Receipt]:
        """Send the source's streams, and these of its files. Raises `SourceChangedError` for files
        that changed and cannot be followed."""
        receipts = await self.send((), collected.streams) if collected.streams else []
        errors: dict[str, SourceChangedError] = {}
        is_slow = False
        turn = asyncio.Lock()  # two groups at different stages take less memory

        async def send(group: Sequence[FileSource]) -> None:
            nonlocal is_slow
            added = math.inf

            def on_added() -> None:
                nonlocal added
                added = time.monotonic()
                turn.release()

            await turn.acquire()
            try:
                receipts.extend(await self.send(group, changed=errors, on_added=on_added))
            finally:
                if added == math.inf:
                    turn.release()
            is_slow = is_slow or time.monotonic() - added > SLOW_STORE

        for _ in range(1 + COLLECTED_AGAIN):
            if errors:
                files = await self._again(collected, files, errors)
            if not files:
                return receipts
            errors = {}
            await for_each(groups(files, is_slow=lambda: is_slow), send, width=GROUPS_AT_ONCE)
            files = [file for file in files if file.path_in_repo in errors]
        for error in errors.values():
            raise error
        return receipts

    async def send(
        self,
        files: Sequence[FileSource],
        streams: Sequence[OpenStream] = (),
        *,
        changed: dict[str, SourceChangedError] | None = None,
        on_added: Callable[[], object] = lambda: None,
    ) -> list[Receipt]:
        """Receipts of all of them, once the store has them. With `changed`, followed files
        that have changed are put there, by path, and have no receipt. `on_added` is called when
        nothing is left to do but wait for the store."""
        ctx = self.ctx
        transfers = ctx.transfers.for_buckets
        upload: BucketUpload | None = None

        async def add(together: Sequence[FileSource]) -> None:
            assert upload is not None
            for file in together:
                ctx.events.emit(FileRouted(file.path_in_repo, file.size, transfers.route))
            await upload.add_all(together, changed)

        async def add_stream(stream: OpenStream) -> None:
            assert upload is not None
            ctx.events.emit(FileRouted(stream.path_in_repo, 0, transfers.route))
            await upload.add_stream(stream)

        try:
            brief = not streams and sum(file.size for file in files) <= GROUP_FOR_SLOW_STORES
            upload = await (await self._opened()).open_upload(brief=brief)
            ctx.enter("uploading")
            together = sized_batches(files, most_bytes=ADDED_BYTES, most=ADDED_TOGETHER)
            await for_each(together, add, width=ADDED_AT_ONCE)
            # All at once: one producer may write them in turn.
            await for_each(streams, add_stream, width=len(streams))
            on_added()
            receipts = list(await upload.finish(changed=changed))
        except SourceChangedError as exc:
            if changed is None or not any(file.may_change for file in files):
                raise
            # It is not known what the store has of the others: all are sent again.
            changed.update(await in_thread(ctx.threads, partial(_changes, files, exc)))
            return []
        except TransferFailedError as exc:
            raise AsyncPushError(
                f"{transfers.label} failed: {exc.message}",
                suggestion="sync again: what was sent is not sent again",
            ) from exc
        finally:
            if upload is not None:
                with anyio.CancelScope(shield=True):
                    await upload.abort()
                self.bytes_sent += upload.bytes_sent
        hashes = {receipt.path_in_repo: receipt.xet_hash or "" for receipt in receipts}
        found = [(f, hashes[f.path_in_repo]) for f in upload.files if f.path_in_repo in hashes]
        keep = partial(ctx.hasher.remember, found, upload.began, buckets.HASH_KIND)
        await in_thread(ctx.push_threads.journal, keep)
        return receipts

    async def _opened(self) -> BucketTransfer:
        async with self._opening:
            if self._store is None:
                transfers = self.ctx.transfers.for_buckets
                self._store = await transfers.open_bucket(self.ctx, write=True)
                reason = f"buckets accept files only through {transfers.label}"
                chosen = TransferChosen(transfers.route, reason, reads_while_sending=True)
                self.ctx.events.emit(chosen)
            return self._store

    async def warn_of_changes(self, files: Sequence[FileSource]) -> None:
        """Warn of followed files, among all of the source, that are not what they were when the
        sync began."""
        again = self.collected_again

        def find() -> ProblemReport:
            names = {file.path_in_repo: file for file in files if file.may_change}
            return changes_of({**names, **again})

        grown = await in_thread(self.ctx.threads, find)
        for notice in (*self._notices.notices, *grown.notices):
            self.ctx.warn(notice)

    async def _again(
        self,
        collected: CollectedSources,
        files: Sequence[FileSource],
        errors: dict[str, SourceChangedError],
    ) -> list[FileSource]:
        """What is to be sent instead of these files, whose `errors` say that they changed."""
        found: list[FileSource] = []
        for before in files:
            path = before.path_in_repo
            file = await collected.again(before) if before.may_change else before
            if file is None:
                self._notices.notice("files that are gone", f"{errors[path].message}: left out")
                self.gone.add(path)
                self.collected_again.pop(path, None)
                continue
            if file is not before:
                self._notices.notice("files that changed", f"{errors[path].message}: read again")
                self.collected_again[path] = file
            found.append(file)
        await self._plan(collected)
        await check_leaks(self.ctx, found)
        return found

    async def _plan(self, collected: CollectedSources) -> None:
        """Tell how much there is to send by now."""
        again, gone = self.collected_again, self.gone

        def sizes() -> list[int]:
            names = ((file.path_in_repo, file) for file in collected.files)
            return [again.get(path, file).size for path, file in names if path not in gone]

        found = await in_thread(self.ctx.threads, sizes)
        self.ctx.events.emit(FilesPlanned(len(found) + len(collected.streams), sum(found)))
