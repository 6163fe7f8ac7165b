"""Syncs a source to a bucket: stores and adds what is missing, deletes the rest if asked, and
verifies it.

Batches are not transactions; the order of the steps makes a set of files trustworthy. The marker of
a complete set is removed first, files are added and verified, then others are deleted, and the
marker is written last, in a batch of its own (see `asyncpush.pipeline.checkpoint_sets`).
"""

from __future__ import annotations

import contextlib
import mimetypes
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import field
from functools import lru_cache, partial
from itertools import chain

from asyncpush.concurrency.task_groups import for_each
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import AsyncPushError, HubError, SourceError, SyncError
from asyncpush.events import (
    CommitStarted,
    FileHashed,
    FileRouted,
    FileSkipped,
    FilesPlanned,
    FileStored,
    Verified,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, PathSource, PlannedFile, SyncFailure, SyncResult
from asyncpush.options import SyncOptions
from asyncpush.pipeline.bucket import (
    Bucket,
    BucketStore,
    folders_of,
    hashed_together,
    hashes_of,
    in_words,
)
from asyncpush.pipeline.checkpoint_sets import MARKER, PRUNED, SetMarker, is_marker
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import check_leaks, check_limits, check_whole
from asyncpush.protocol.buckets import (
    HASH_KIND,
    AddFile,
    BucketFile,
    DeleteFile,
    Operation,
    address_of,
    is_lasting,
)
from asyncpush.sources import CollectedSources, folder_prefix
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import ProblemReport

LOOKUPS_AT_ONCE = 64

_MARK_AGAIN = "sync that folder with complete_marker (--marker) to mark it as complete again"
_LASTING = (
    "do what the reasons ask for (leave files out with ignore_patterns (--exclude), rename them, or"
    " get permission or storage); then sync again: only what is missing or different is sent"
)
_CONFLICTS = "files and folders of the same name"

TIMES = range(-62_135_596_800_000, 253_402_300_800_000)
"""The years 1 to 9999, in milliseconds since the epoch: the times that a listing can show."""


@dataclass(slots=True)
class _Progress:
    """The progress of a sync, for its result, also when it fails."""

    adds: dict[str, AddFile] = field(default_factory=dict)
    """The files of the source that the bucket should have."""
    unchanged: set[str] = field(default_factory=set)
    deduplicated: int = 0
    deleting: list[DeleteFile] = field(default_factory=list)
    marker: str | None = None


class SyncRun:
    """One sync. `copied` are files that the Hub itself copies from another repo or bucket."""

    def __init__(
        self, ctx: PushContext, options: SyncOptions, copied: Sequence[AddFile] = ()
    ) -> None:
        self._copied = {add.path: add for add in copied}
        self._ctx = ctx
        self._options = options
        self._bucket = Bucket(ctx)
        self._store = BucketStore(ctx)
        self._folder = folder_prefix(ctx.options.path_in_repo)
        self._marker = self._folder + MARKER
        self._done = _Progress()
        self._holds: Callable[[str], bool] = lambda path: False
        self._started = time.monotonic()

    async def run(self, collected: CollectedSources) -> SyncResult:
        """Run the sync. Raises `SyncError` once the bucket may have been changed; before that, the
        error that stopped it."""
        self._ctx.describe_failure = self._describe_failure
        try:
            return await self._run(collected)
        except Exception as exc:
            described = self._describe_failure(exc)
            if described is exc:
                raise
            raise described from exc

    def _describe_failure(self, error: BaseException) -> BaseException:
        """The error to raise for one that interrupted the sync. A cancellation stays a
        cancellation, with a note that says what was changed."""
        if isinstance(error, SyncError) or not self._bucket.may_have_changed:
            return error
        if not isinstance(error, Exception):
            error.add_note(self._changed_so_far())
            return error
        reason = error.message if isinstance(error, AsyncPushError) else str(error) or repr(error)
        described = SyncError(
            f"the sync to {self._ctx.repo_url} did not finish: {reason}",
            result=self._result(verified=False),
            suggestion=getattr(error, "suggestion", ""),
        )
        described.__cause__ = error
        return described

    def _changed_so_far(self) -> str:
        so_far = self._result(verified=False)
        changes = [
            f"{len(paths):,} file(s) {what} ({in_words(paths)})"
            for what, paths in (("added", so_far.files_uploaded), ("deleted", so_far.files_deleted))
            if paths
        ]
        if self._bucket.unclear:
            changes.append("the answer to a batch did not come: more may have been changed")
        text = "; ".join(changes) or "the marker of a set was removed"
        return f"changed in {self._ctx.repo_url} before that, and not verified: {text}"

    async def _run(self, collected: CollectedSources) -> SyncResult:
        ctx = self._ctx
        self._holds = collected.holds
        await self._check(collected)
        if not await self._bucket.ensure(self._options):
            ctx.warn(f"the bucket {ctx.repo.repo_id} does not exist and would be created")
            return await self._dry_run(collected, {}, [])
        there = await self._there(collected)
        unchanged = await self._unchanged(collected.files, there)
        extra = self._extra(collected, there)
        await self._warn_of_conflicts(collected, there, extra)
        if self._options.dry_run:
            copied = self._copied.items()
            unchanged |= {path: add.xet_hash for path, add in copied if add.shows_in(there)}
            return await self._dry_run(collected, unchanged, extra)
        await self._send(collected, there, unchanged)
        if await self._is_complete(there, extra):
            self._done.marker = self._marker if self._options.complete_marker else None
            if self._options.renew_marker:
                await self._mark()
        else:
            await self._change(there, extra)
        await self._store.warn_of_changes(collected.files)
        ctx.enter("done")
        return self._result(verified=self._options.verify)

    async def _check(self, collected: CollectedSources) -> None:
        """The checks that need no answer from the Hub."""
        ctx, files = self._ctx, collected.files
        for notice in collected.notices:
            ctx.warn(notice)
        copied = self._copied.values()
        sizes = chain((file.size for file in files), (add.size for add in copied))
        total = await in_thread(ctx.threads, lambda: sum(sizes))
        count = len(files) + len(collected.streams) + len(copied)
        ctx.events.emit(FilesPlanned(count, total))
        for warning in await in_thread(ctx.threads, lambda: check_limits(files)):
            ctx.warn(warning)
        for path in self._paths(collected):
            if self._options.complete_marker and path in (self._marker, self._folder + PRUNED):
                raise SourceError(
                    f"the source contains {path!r}, a name that asyncpush uses itself",
                    problems=[f"{path!r} is reserved"],
                    suggestion="leave it out with ignore_patterns (--exclude)",
                )
            if self._options.complete_marker and not path.startswith(self._folder):
                raise SourceError(
                    f"complete_marker needs a folder, but {path!r} is a single file",
                    problems=[f"{path!r} is a single file"],
                    suggestion="end the address in a slash, or sync a folder",
                )
        if self._options.delete and collected.one_file:
            raise SourceError(
                "delete needs a folder as its source, but this is a single file: all else in"
                f" {address_of(ctx.repo)}/{self._folder} would be deleted",
                problems=["the source is a single file"],
                suggestion="leave out delete (--delete), or sync the file's folder",
            )
        check_whole(ctx.options, collected.gone)
        await check_leaks(ctx, files)

    def _paths(self, collected: CollectedSources) -> Iterable[str]:
        yield from (file.path_in_repo for file in collected.files)
        yield from (stream.path_in_repo for stream in collected.streams)
        yield from self._copied

    async def _there(self, collected: CollectedSources) -> dict[str, BucketFile]:
        """The bucket's files at the paths of the source, its folders and markers; with `delete`,
        all files below the address."""
        folders = {self._folder}
        if self._options.delete:
            there = await self._bucket.files_below(self._folder)
            folders |= set(folders_of(self._folder))  # the sets that the file may belong to
            others = {*_markers(folders), *_without_slash(folders), *self._paths(collected)}
            there |= await self._bucket.files([path for path in others if path not in there])
            return there
        paths = list(self._paths(collected))

        def names() -> list[str]:
            for path in paths:
                folders.update(folders_of(path))
            return list({*paths, *_markers(folders), *_without_slash(folders)})

        return await self._bucket.files(await in_thread(self._ctx.threads, names))

    async def _unchanged(
        self, files: Sequence[FileSource], there: dict[str, BucketFile]
    ) -> dict[str, str]:
        """The Xet hashes of files that the bucket has already, by path. The hash of a file on disk
        is looked up or computed; other files are compared once they are stored."""
        ctx = self._ctx
        ctx.enter("hashing")
        found: dict[str, str] = {}
        unknown: list[FileSource] = []

        def settle(file: FileSource, xet_hash: str, *, cached: bool) -> None:
            ctx.events.emit(FileHashed(file.path_in_repo, file.size, xet_hash, cached=cached))
            if there[file.path_in_repo].holds(file.size, xet_hash):
                found[file.path_in_repo] = xet_hash
                ctx.events.emit(FileSkipped(file.path_in_repo, file.size, "unchanged"))

        async def look_up(file: FileSource) -> None:
            known = await ctx.hasher.remembered(file, ctx.push_threads, HASH_KIND)
            if known is not None:
                settle(file, known, cached=True)
            elif isinstance(file.content, PathSource):
                unknown.append(file)

        same_size = [
            file
            for file in files
            if (other := there.get(file.path_in_repo)) is not None and other.size == file.size
        ]
        await for_each(same_size, look_up, width=LOOKUPS_AT_ONCE)
        for batch in hashed_together(unknown):
            began = time.time()
            # Files that have changed in the meantime are sent, and compared then.
            hashes = await hashes_of(ctx, batch, changed={})
            steady = [file for file in batch if file.path_in_repo in hashes]
            pairs = [(file, hashes[file.path_in_repo]) for file in steady]
            keep = partial(ctx.hasher.remember, pairs, began, HASH_KIND)
            await in_thread(ctx.push_threads.journal, keep)
            for file, xet_hash in pairs:
                settle(file, xet_hash, cached=False)
        return found

    async def _warn_of_conflicts(
        self, collected: CollectedSources, there: dict[str, BucketFile], extra: Sequence[str]
    ) -> None:
        """Warn where the bucket would have a file and a folder of the same name. It takes both, but
        then it cannot be downloaded. For a folder that becomes a file, this needs the whole listing
        (`delete`), or a single file as the source."""

        def find() -> tuple[str, ...]:
            report = ProblemReport()
            kept = there.keys() - set(extra)
            folders = {folder[:-1]: path for path in kept for folder in folders_of(path)}
            for path in self._paths(collected):
                for folder in folders_of(path):
                    if folder[:-1] in kept:
                        report.notice(_CONFLICTS, _conflict(folder[:-1], path))
                if path in folders:
                    report.notice(_CONFLICTS, _conflict(path, folders[path]))
            return report.notices

        for notice in await in_thread(self._ctx.threads, find):
            self._ctx.warn(notice)
        if collected.one_file and not self._options.delete:
            for path in self._paths(collected):
                if path in there:
                    continue
                with contextlib.suppress(HubError):  # it is only a warning
                    if (below := await self._bucket.one_below(f"{path}/")) is not None:
                        self._ctx.warn(_conflict(path, below))

    def _extra(self, collected: CollectedSources, there: dict[str, BucketFile]) -> list[str]:
        """The files to delete: those below the address that the patterns select and the source does
        not have."""
        if not self._options.delete:
            return []
        return self._chosen(self._others(there, set(self._paths(collected))))

    def _others(self, there: Iterable[str], kept: Container[str]) -> list[str]:
        """The files below the address that are not to be kept. Markers are not included: they are
        removed with the first change of their sets."""
        below = (path for path in there if path.startswith(self._folder))
        return sorted(path for path in below if path not in kept and not is_marker(path))

    def _chosen(self, paths: Iterable[str]) -> list[str]:
        chosen = PatternFilter(self._options.allow_patterns, self._options.ignore_patterns)
        skip = len(self._folder)
        return [path for path in paths if chosen(path[skip:]) and not self._holds(path)]

    async def _send(
        self,
        collected: CollectedSources,
        there: dict[str, BucketFile],
        unchanged: dict[str, str],
    ) -> None:
        """Send the files that the bucket does not have to the Xet store. They do not appear in the
        bucket yet."""
        done, store = self._done, self._store
        files = {file.path_in_repo: file for file in collected.files}

        def take(path: str, size: int, xet_hash: str) -> None:
            kind = _content_type(path)
            file = store.collected_again.get(path) or files.get(path)
            mtime = _mtime(file) or int(time.time() * 1000)
            done.adds[path] = AddFile(path, size, xet_hash, mtime, kind)
            if done.adds[path].shows_in(there):
                done.unchanged.add(path)

        self._take_copied(there)
        to_send = [file for file in collected.files if file.path_in_repo not in unchanged]
        for file in collected.files:
            if file.path_in_repo in unchanged:
                take(file.path_in_repo, file.size, unchanged[file.path_in_repo])
                done.deduplicated += file.size
        if to_send or collected.streams:
            # Nobody should wait for a stream, which may last for hours.
            shared = () if collected.streams else to_send
            async with self._ctx.sending.turn(shared):
                receipts = await store.send_all(collected, to_send)
            for receipt in receipts:
                take(receipt.path_in_repo, receipt.size, receipt.xet_hash or "")
                done.deduplicated += receipt.bytes_deduplicated
        check_whole(self._ctx.options, store.gone)
        if store.gone and not done.adds:
            message = "every file of the source was removed before it was sent"
            raise SourceError(message, problems=[message], suggestion="nothing was changed")

    def _take_copied(self, there: dict[str, BucketFile]) -> None:
        """Record the copied files, which the store has already."""
        events, done = self._ctx.events, self._done
        route = self._ctx.transfers.for_buckets.route
        done.adds |= self._copied
        for path, add in self._copied.items():
            done.deduplicated += add.size
            if add.shows_in(there):
                done.unchanged.add(path)
                events.emit(FileSkipped(path, add.size, "unchanged"))
            else:
                events.emit(FileRouted(path, add.size, route))
                events.emit(FileStored(path, add.size, route, deduplicated=True))

    async def _is_complete(self, there: dict[str, BucketFile], extra: Sequence[str]) -> bool:
        """Whether nothing is left to do, including the marker, and the bucket still shows
        everything."""
        done = self._done
        if extra or len(done.unchanged) != len(done.adds):
            return False
        if await in_thread(self._ctx.threads, partial(self._being_removed, there)):
            return False
        if self._options.complete_marker:
            marker = there.get(self._marker)
            if marker is None:
                return False
            store = await self._ctx.transfers.for_buckets.open_bucket(self._ctx, write=False)
            found = await SetMarker.read(store, marker)
            if found is None or found.files != self._set_files():
                return False
        if self._options.verify:
            await self._verify(dict(done.adds))
        return True

    async def _change(self, there: dict[str, BucketFile], extra: Sequence[str]) -> None:
        ctx, done, options = self._ctx, self._done, self._options
        changed = [add for path, add in done.adds.items() if path not in done.unchanged]
        removed = await in_thread(ctx.threads, partial(self._markers_of, changed, extra, there))
        # Markers in the source itself (a mirror of sets has them) are added after the files they
        # list.
        late = [a for p, a in done.adds.items() if is_marker(p) and (a in changed or p in removed)]
        adds = [add for add in changed if not is_marker(add.path)]
        done.deleting = [DeleteFile(path) for path in extra]
        ctx.enter("committing")
        ctx.events.emit(CommitStarted(len(adds) + len(late), len(extra), None))
        markers = await self._remove_markers(removed)
        self._raise_failures(await self._bucket.apply(adds, first=markers))
        wanted: dict[str, Operation] = {p: a for p, a in done.adds.items() if a not in late}
        if done.deleting:
            if options.verify:  # before anything is deleted that may be the only copy
                self._raise_failures(await self._bucket.different(wanted))
            self._raise_failures(await self._bucket.apply(done.deleting, first=markers))
            wanted = {each.path: each for each in done.deleting}
        if options.verify:
            await self._verify(wanted)
        if late:
            self._raise_failures(await self._bucket.apply(late))
            if options.verify:
                await self._verify({add.path: add for add in late})
        if options.complete_marker:
            await self._mark()

    def _markers_of(
        self, adds: Iterable[AddFile], extra: Iterable[str], there: dict[str, BucketFile]
    ) -> list[str]:
        """The markers of all sets that contain any of these files."""
        folders = {self._folder} if self._options.complete_marker else set[str]()
        for path in (*(add.path for add in adds), *extra):
            folders |= set(folders_of(path))
        found = {path for path in _markers(folders) if path in there}
        return sorted(found.union(self._being_removed(there)))

    def _being_removed(self, there: dict[str, BucketFile]) -> list[str]:
        """Notes saying that a set with these files was being removed: the next removal would
        continue it, although the files have not changed."""
        adds = self._done.adds
        folders = {folder for path in adds for folder in folders_of(path)}
        notes = (folder + PRUNED for folder in folders)
        return [note for note in notes if note in there and note not in adds]

    async def _remove_markers(self, found: Sequence[str]) -> list[Operation]:
        """Remove the markers of all sets that contain any of these files, before anything else
        changes. Returns the operations that remove them: they go into later batches for these sets
        as well, in case another writer completes the same set in the meantime."""
        markers: dict[str, Operation] = {path: DeleteFile(path) for path in found}
        self._raise_failures(await self._bucket.apply(list(markers.values())))
        self._raise_failures(await self._bucket.different(markers))
        own = self._marker if self._options.complete_marker else None
        report = ProblemReport()
        for path in found:
            if path.endswith(MARKER) and path != own:
                text = f"{path} was removed, since files in its folder have changed; {_MARK_AGAIN}"
                report.notice("markers that were removed", text)
        for notice in report.notices:
            self._ctx.warn(notice)
        if own is not None:
            markers[own] = DeleteFile(own)
        return list(markers.values())

    async def _verify(self, wanted: dict[str, Operation]) -> None:
        self._ctx.enter("verifying")
        self._raise_failures(await self._bucket.different(wanted))
        self._ctx.events.emit(Verified(len(self._done.adds), ""))

    async def _mark(self) -> None:
        """Write the marker, then check once more. If another writer changed the set between the
        last check and the marker, the marker is removed again."""
        done = self._done
        others, failures = await self._unexpected()
        self._raise_failures(failures)
        exact = self._options.delete and not others
        content = SetMarker.new(self._set_files(), exact=exact).to_json()
        (receipt,) = await self._store.send([FileSource.of_bytes(self._marker, content)])
        marker = AddFile(
            self._marker,
            len(content),
            receipt.xet_hash or "",
            int(time.time() * 1000),
            "application/json",
        )
        self._raise_failures(await self._bucket.apply([marker]))
        failures = await self._bucket.different({**done.adds, marker.path: marker})
        failures += (await self._unexpected())[1]
        if failures:
            with contextlib.suppress(HubError):  # readers compare the set with its marker as well
                await self._remove_own(marker)
        self._raise_failures(failures)
        done.marker = self._marker

    async def _remove_own(self, marker: AddFile) -> None:
        """Remove the marker, unless another writer has completed the set with a marker of its own
        since."""
        there = (await self._bucket.files([marker.path])).get(marker.path)
        if there is None or there.holds(marker.size, marker.xet_hash):
            await self._bucket.apply([DeleteFile(marker.path)])

    async def _unexpected(self) -> tuple[list[str], list[SyncFailure]]:
        """With `delete`: all other files that are now below the address, and failures for those
        that did not exist when this sync began."""
        if not self._options.delete:
            return [], []
        shown = await self._bucket.files_below(self._folder)
        others = self._others(shown, self._done.adds)
        new = [
            SyncFailure(path, "written by someone else")
            for path in self._chosen(others)
            if path not in self._store.gone
        ]
        return others, new

    def _set_files(self) -> dict[str, tuple[int, str]]:
        """Size and Xet hash by path within the set."""
        skip = len(self._folder)
        return {path[skip:]: (add.size, add.xet_hash) for path, add in self._done.adds.items()}

    def _raise_failures(self, failures: Sequence[SyncFailure]) -> None:
        if failures:
            count = len(failures)
            raise SyncError(
                f"{count:,} file(s) of the sync to {self._ctx.repo_url} are not as expected:"
                f" {in_words(failures)}",
                failures=failures,
                result=self._result(verified=False),
                suggestion=_LASTING if all(is_lasting(each.reason) for each in failures) else "",
            ) from self._bucket.stopped

    async def _dry_run(
        self, collected: CollectedSources, unchanged: dict[str, str], extra: Sequence[str]
    ) -> SyncResult:
        route = self._ctx.transfers.for_buckets.route
        plan = [
            PlannedFile(
                file.path_in_repo,
                file.size,
                "unchanged" if file.path_in_repo in unchanged else route,
            )
            for file in collected.files
        ]
        plan += [
            PlannedFile(path, add.size, "unchanged" if path in unchanged else route)
            for path, add in self._copied.items()
        ]
        for stream in collected.streams:
            spooled = await stream.spooled()
            plan.append(PlannedFile(spooled.path_in_repo, spooled.size, route))
        plan += [PlannedFile(path, 0, "delete") for path in extra]
        result = self._result(verified=False)
        return SyncResult(
            result.bucket_url,
            files_uploaded=(),
            files_unchanged=tuple(unchanged),
            files_deleted=(),
            bytes_transferred=0,
            bytes_deduplicated=0,
            verified=False,
            elapsed_seconds=result.elapsed_seconds,
            warnings=tuple(self._ctx.warnings),
            plan=tuple(sorted(plan, key=lambda file: file.path_in_repo)),
        )

    def _result(self, *, verified: bool) -> SyncResult:
        done, applied = self._done, self._bucket.applied
        shown = sorted(done.adds)
        return SyncResult(
            bucket_url=self._ctx.repo_url,
            files_uploaded=tuple(
                path for path in shown if path in applied and path not in done.unchanged
            ),
            files_unchanged=tuple(path for path in shown if path in done.unchanged),
            files_deleted=tuple(each.path for each in done.deleting if each.path in applied),
            bytes_transferred=self._store.bytes_sent,
            bytes_deduplicated=done.deduplicated,
            verified=verified,
            elapsed_seconds=time.monotonic() - self._started,
            warnings=tuple(self._ctx.warnings),
            marker=done.marker,
        )


def _content_type(path: str) -> str | None:
    stem, dot, ending = path.rpartition("/")[2].partition(".")
    return _type_of(dot + ending) if stem else None  # `.json` is a name without an ending


@lru_cache(maxsize=256)
def _type_of(ending: str) -> str | None:
    return mimetypes.guess_type(f"name{ending}")[0]


def _without_slash(folders: Iterable[str]) -> Iterable[str]:
    return (folder[:-1] for folder in folders if folder)


def _conflict(path: str, inside: str) -> str:
    return (
        f"{path!r} is a file in the bucket and also the folder of {inside!r}: no file system can"
        " hold both; remove one of them from the bucket"
    )


def _markers(folders: Iterable[str]) -> list[str]:
    return [folder + name for folder in sorted(folders) for name in (MARKER, PRUNED)]


def _mtime(file: FileSource | None) -> int:
    """Milliseconds since the epoch. 0 for anything but a file on disk, and for a time that no
    listing can show: some tools leave such times behind."""
    match file:
        case FileSource(content=PathSource(identity=identity)):
            mtime = identity.mtime_ns // 1_000_000
            return mtime if mtime in TIMES else 0
        case _:
            return 0
