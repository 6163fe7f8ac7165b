"""The hf_xet session of one `Uploader`, and the upload commits that are opened on it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter, FileStored, RetryScheduled
from asyncpush.models import BytesSource, FileSource, PathSource, Receipt
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.options import UploadConfig
from asyncpush.sources import OpenStream
from asyncpush.transfers.xet.access import XetAccess
from asyncpush.transfers.xet.installation import (
    SMALL_FILE,
    SMALL_FILES_MEMORY,
    TINY_FILE,
    XetFailedError,
    files_at_once,
    import_hf_xet,
    settings,
    streams_at_once,
    xorbs_at_once,
)
from asyncpush.transfers.xet.memory import Room, XetBacklog, XetMemory, trim_memory
from asyncpush.transfers.xet.stalls import (
    SharedProgress,
    XetStallDetector,
    XetStalledError,
    unless_stalled,
)
from asyncpush.transfers.xet.upload_commit import (
    ProgressReports,
    XetCommit,
    XetPositions,
    abort,
    check_unchanged,
)

PROGRESS_INTERVAL = 0.2
"""Seconds between two reports; fewer where `stall_timeout` would pass between them."""


READ_BURST = 0.5
"""Seconds' worth of a limited bandwidth that may be read at once: hf_xet accepts nothing while it
packs a xorb or waits to send it, and that time should not be lost."""


LASTING = 900
"""A token that is valid for so many seconds is expected to outlast a brief upload."""


COMMITS_AT_ONCE = 8
"""How many upload commits are opened or finished at the same time, or twice as many as xorbs that
hf_xet sends at once, if that is more. The others wait here rather than in hf_xet, where waiting
could not be distinguished from a stall."""


class XetEngine:
    """hf_xet for one `Uploader`. Its session is created when it is first needed."""

    def __init__(self, config: UploadConfig) -> None:
        self._config = config
        self._session: Any = None
        self._opening = asyncio.Lock()
        self._streams = asyncio.Semaphore(streams_at_once(config))
        self._large_files = asyncio.Semaphore(files_at_once(config))
        self._small_files = Room(SMALL_FILES_MEMORY)
        self._commit_slots = asyncio.Semaphore(max(COMMITS_AT_ONCE, 2 * xorbs_at_once(config)))
        self._progress = SharedProgress()
        self._bandwidth = Bandwidth(config.max_bandwidth, burst=READ_BURST)
        self._memory = XetMemory(xorbs_at_once(config))
        self._uploads: weakref.WeakSet[XetUpload] = weakref.WeakSet()

    async def open(
        self,
        access: XetAccess,
        events: Emitter,
        *,
        with_sha256: bool = True,
        brief: bool = False,
    ) -> XetUpload:
        """Start the upload of one push. Raises `XetFailedError`. `with_sha256=False` is for
        buckets, where the files' sha256 is not needed: the receipts' oids are then empty.

        For a `brief` upload hf_xet is not told how to get another token, which takes it two more
        HTTP clients (each reads all certificates of the system). If the token expires nevertheless,
        the upload is started again with them. It must therefore have no streams."""
        positions = XetPositions(events)

        async def open_commit(access: XetAccess, attempt: int) -> XetCommit:
            on_progress = positions if events.active else None
            refreshed = not (brief and attempt == 1 and self._outlasts_brief_uploads(access))
            return await self._open_commit(
                access, on_progress, attempt, with_sha256=with_sha256, refreshed=refreshed
            )

        async with self._commit_slots:
            commit = await open_commit(access, 1)
        self._memory.begin(alone=not any(upload.in_progress for upload in self._uploads))
        upload = XetUpload(
            commit,
            open_commit,
            positions,
            events,
            renewals=self._config.max_retries,
            streams=self._streams,
            large_files=self._large_files,
            small_files=self._small_files,
            commit_slots=self._commit_slots,
            bandwidth=self._bandwidth,
        )
        self._uploads.add(upload)
        return upload

    def _outlasts_brief_uploads(self, access: XetAccess) -> bool:
        lasting = access.grant.expires_at - time.time() >= LASTING
        return lasting and access.renew is not None and self._config.max_retries > 0

    async def _open_commit(
        self,
        access: XetAccess,
        positions: XetPositions | None,
        attempt: int,
        *,
        with_sha256: bool,
        refreshed: bool,
    ) -> XetCommit:
        grant = access.grant
        watch = XetStallDetector(self._config.stall_timeout, attempt, self._progress)
        interval = min(PROGRESS_INTERVAL, self._config.stall_timeout / 4)
        session = await self._opened(watch, fresh=attempt > 1)

        backlog = XetBacklog(self._memory)

        def on_report(group: Any) -> None:
            trim_memory()
            backlog.on_report(group)
            watch.on_report(group)
            if positions is not None:
                positions.on_report(group)

        refresh = access.refresh_arguments if refreshed else {}

        def open_commit() -> Any:
            return session.new_upload_commit(
                endpoint=grant.cas_url,
                token=grant.token,
                token_expiry_unix_secs=grant.expires_at,
                **refresh,
                custom_headers=access.headers,
            )

        try:
            commit = await unless_stalled(open_commit, watch, discard=abort)
        except XetStalledError:
            raise
        except Exception as exc:
            raise access.failed(exc) from None
        reports = ProgressReports(commit, on_report)
        reports.begin(interval)
        how = {} if with_sha256 else _without_sha256()
        return XetCommit(commit, access, watch, backlog, reports, how)

    async def hash_files(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
    ) -> dict[str, str]:
        """The Xet hashes of files on disk, by path in the repo; nothing is sent. Raises
        `XetFailedError`, and `SourceError` or `SourceChangedError` when a file is the cause. With
        `changed`, followed files that have changed are added there, by path in the repo. They have
        no hash, and no other file has one either if hf_xet fails because of them."""
        watch = XetStallDetector(self._config.stall_timeout)

        def hash_them() -> dict[str, str]:
            check_unchanged(files, changed)
            steady = [file for file in files if file.path_in_repo not in (changed or ())]
            count = len(changed or ())
            try:
                found = import_hf_xet().hash_files(
                    [each.content.path for each in steady if isinstance(each.content, PathSource)]
                )
            except Exception:
                check_unchanged(steady, changed, thoroughly=True)
                if len(changed or ()) > count:
                    return {}
                raise
            check_unchanged(steady, changed)
            hashes = zip(steady, found, strict=True)
            return {
                file.path_in_repo: info.hash
                for file, info in hashes
                if file.path_in_repo not in (changed or ())
            }

        try:
            with watch.reading():
                return await unless_stalled(hash_them, watch)
        except AsyncPushError:
            raise
        except Exception as exc:
            raise XetFailedError(f"{type(exc).__name__}: {exc}") from None

    async def read(self, access: XetAccess, xet_hash: str, size: int) -> bytes:
        """The bytes of a small file. Raises `XetFailedError`."""
        watch = XetStallDetector(self._config.stall_timeout)
        session = await self._opened(watch, fresh=False)
        grant = access.grant

        def read() -> bytes:
            group = session.new_download_stream_group(
                endpoint=grant.cas_url,
                token=grant.token,
                token_expiry_unix_secs=grant.expires_at,
                **access.refresh_arguments,
                custom_headers=access.headers,
            )
            return b"".join(group.download_stream(import_hf_xet().XetFileInfo(xet_hash, size)))

        try:
            content = await unless_stalled(read, watch)
        except XetStalledError:
            raise
        except Exception as exc:
            raise access.failed(exc) from None
        if len(content) != size:
            raise XetFailedError(f"the store sent {len(content):,} of {size:,} bytes")
        return content

    async def _opened(self, watch: XetStallDetector, *, fresh: bool) -> Any:
        """hf_xet's session. A `fresh` one has new connections; uploads in progress keep the session
        they have."""
        async with self._opening:
            if self._session is None or fresh:
                self._session = await unless_stalled(self._new_session, watch)
            return self._session

    async def close(self) -> None:
        """Release the session. Every upload has ended by now."""
        session, self._session = self._session, None
        del session

    def _new_session(self) -> Any:
        try:
            hf_xet = import_hf_xet()
            new_session, config = hf_xet.XetSession, hf_xet.XetConfig()
        except (ImportError, AttributeError) as exc:
            raise XetFailedError(f"hf_xet 1.8 or newer is needed: {exc}") from None
        return new_session(config.with_config(settings(self._config)))


def _without_sha256() -> dict[str, Any]:
    return {"sha256": import_hf_xet().SKIP_SHA256}


REFUSALS_LIMIT = 2
"""How often a push asks for another token after the store has refused the current one."""


class XetUpload:
    """The upload of one push, used once: it ends with `finish` or `abort`. `renewals` limits how
    often it is started again.

    hf_xet reads small files itself. Large ones we read, and pass on what there is room for. All
    uploads of an `Uploader` share `streams`, `large_files` and `commit_slots`, which limit how many
    streams are sent as they arrive, how many large files are read and how many uploads are finished
    at the same time, and `bandwidth`. With a limited bandwidth, we read every file at that rate.
    """

    def __init__(
        self,
        commit: XetCommit,
        open_commit: Callable[[XetAccess, int], Awaitable[XetCommit]],
        positions: XetPositions,
        events: Emitter,
        *,
        renewals: int,
        streams: asyncio.Semaphore,
        large_files: asyncio.Semaphore,
        small_files: Room,
        commit_slots: asyncio.Semaphore,
        bandwidth: Bandwidth,
    ) -> None:
        self._commit = commit
        self._open_commit = open_commit
        self._positions = positions
        self._events = events
        self._renewals = renewals
        self._refusals = REFUSALS_LIMIT
        self._attempt = 1
        self._handles: list[tuple[FileSource, Any]] = []
        self._streams = streams
        self._large_files = large_files
        self._small_files = small_files
        self._commit_slots = commit_slots
        self._bandwidth = bandwidth
        self._failed: XetFailedError | None = None
        """Why a file that was started was not stored."""
        self._streamed = False
        self._wasted_bytes = 0
        self._bytes_stored: int | None = None
        """Bytes sent over the network by the commit that stored the files."""
        self._spent = False
        self.began: float = time.time()

    @property
    def files(self) -> list[FileSource]:
        """The files added so far."""
        return [file for file, _ in self._handles]

    @property
    def bytes_sent(self) -> int:
        """Bytes sent over the network, also for files that have no receipt."""
        stored = self._commit.bytes_sent if self._bytes_stored is None else self._bytes_stored
        return self._wasted_bytes + stored

    @property
    def in_progress(self) -> bool:
        return not self._spent

    async def add(self, file: FileSource) -> None:
        """Start to send a file. A small one is sent in the background; a large one has been read to
        its end when this returns.

        Raises `XetFailedError`; `SourceError` and `SourceChangedError` when the file is the cause.
        """
        await self.add_all([file])

    async def add_all(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None = None,
    ) -> None:
        """Like `add`, for several files: small ones are passed to hf_xet many in one thread hop.
        With `changed`, followed files that have changed are added there, by path in the repo, and
        not sent."""
        small, large = list[FileSource](), list[FileSource]()
        for file in files:
            (small if self._is_small(file) else large).append(file)
        if tiny := [file for file in small if file.size <= TINY_FILE]:
            await self._add(tiny, self._start(tiny, changed))
        if others := [file for file in small if file.size > TINY_FILE]:
            await self._add(others, self._read(others, changed))
        for file in large:
            await self._add([file], self._feed(file, changed))

    async def _add(
        self,
        files: Sequence[FileSource],
        beginning: Awaitable[Sequence[tuple[FileSource, Any]]],
    ) -> None:
        begun: Sequence[tuple[FileSource, Any]] = [(file, None) for file in files]
        try:
            begun = await beginning
        except XetStalledError as exc:
            self._failed = self._failed or exc
        except XetFailedError:
            if self._failed is None:
                raise
        # A failure after a file was started is raised by `finish`, which may start again.
        self._handles += begun

    def _is_small(self, file: FileSource) -> bool:
        return not self._bandwidth.limited and file.size <= SMALL_FILE and _is_read_by_hf_xet(file)

    async def _feed(
        self, file: FileSource, changed: dict[str, SourceChangedError] | None
    ) -> Sequence[tuple[FileSource, Any]]:
        """Read a file and pass it on."""
        async with self._large_files:
            if self._failed is not None:
                return [(file, None)]
            on_read = partial(self._positions.on_read, self._positions.begin(file))
            try:
                return [(file, await self._commit.feed(file, on_read, self._bandwidth))]
            except SourceChangedError as exc:
                if changed is None or not file.may_change:
                    raise
                changed[file.path_in_repo] = exc
                return []
            except XetFailedError as exc:
                self._failed = self._failed or exc
                return [(file, None)]

    async def _read(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None
    ) -> Sequence[tuple[FileSource, Any]]:
        """Start to send small files once there is memory for them, and wait until hf_xet has read
        them."""
        async with self._small_files.taken(sum(file.size for file in files)):
            return await self._start(files, changed, to_the_end=True)

    async def _start(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None,
        *,
        to_the_end: bool = False,
    ) -> Sequence[tuple[FileSource, Any]]:
        return await self._commit.start(
            files, changed, to_the_end=to_the_end, on_begun=self._positions.begin_all
        )

    async def add_stream(self, stream: OpenStream) -> None:
        """Send a stream of unknown size as it arrives. When there is no memory for filling another
        xorb, it is first written to disk: it cannot wait, since the others may depend on its
        producer. Raises `XetFailedError`, and what the stream raises."""
        if self._streams.locked():
            await self.add(await stream.spooled())
            return
        pieces = stream.pieces()
        async with self._streams, aclosing(pieces):
            await self._send_stream(stream.path_in_repo, pieces)

    async def _send_stream(self, path_in_repo: str, pieces: AsyncIterable[memoryview]) -> None:
        self._streamed = True
        followed = self._positions.begin(FileSource.of_bytes(path_in_repo, b""), sized=False)
        size = 0

        def on_read(position: int) -> None:
            nonlocal size
            size = position
            self._positions.on_read(followed, position)

        handle = await self._commit.stream(path_in_repo, pieces, on_read, self._bandwidth)
        self._handles.append((FileSource(path_in_repo, size, BytesSource(b"")), handle))

    async def finish(
        self, *, changed: dict[str, SourceChangedError] | None = None
    ) -> list[Receipt]:
        """Wait until the store has everything. Raises as `add` does.

        With `changed`, followed files that changed in the meantime get no receipt and are added
        there, by path in the repo.
        """
        found: dict[str, SourceChangedError] = {}
        async with self._commit_slots:
            report = await self._stored(found if changed is not None else None)
        self._bytes_stored = report.dedup_metrics.total_bytes_uploaded
        self._spent = True
        self._positions.end()
        receipts = receipts_of(self._handles, report, self._wasted_bytes, found)
        if changed is not None:
            changed.update(found)
        for error in found.values() if changed is None else ():
            raise error
        for receipt in receipts:
            self._events.emit(
                FileStored(
                    receipt.path_in_repo,
                    receipt.size,
                    "xet",
                    deduplicated=receipt.bytes_deduplicated == receipt.size,
                    bytes_sent=receipt.bytes_sent,
                )
            )
        return receipts

    async def abort(self) -> None:
        """Stop. What was sent already is not sent again next time."""
        if not self._spent:
            self._spent = True
            self._positions.end()
            await self._commit.abort()

    async def _stored(self, changed: dict[str, SourceChangedError] | None) -> Any:
        """hf_xet's report. When a token is refused or the upload stalls, a new upload commit is
        started; it does not send again what the store has."""
        while True:
            try:
                if self._failed is not None:
                    raise self._failed
                return await self._commit.finish(self.files, changed)
            except XetFailedError as exc:
                if not await self._begin_again(exc):
                    raise

    async def _begin_again(self, error: XetFailedError) -> bool:
        """Start over with a new commit. False when that would not help, or when the files cannot be
        read again."""
        if self._streamed or self._renewals <= 0:
            return False
        access: XetAccess | None = None
        if isinstance(error, XetStalledError):
            access = self._commit.access
        elif error.refused and self._refusals > 0 and self._commit.access.renew is not None:
            self._refusals -= 1
            access = await self._commit.access.renew()
        if access is None:
            return False
        self._renewals -= 1
        self._attempt += 1
        self._events.emit(RetryScheduled("xet", self._attempt, 0.0, error.message))
        self._failed = None
        await self._commit.abort()
        self._wasted_bytes += self._commit.bytes_sent
        self._positions.restart()
        again = self.files
        self._handles = [(file, None) for file in again]  # if this fails, all of them go to LFS
        self._commit = await self._open_commit(access, self._attempt)
        handles, self._handles = self._handles, []
        try:
            await self.add_all(again)
        except XetFailedError:
            self._handles = handles
            raise
        return True


def _is_read_by_hf_xet(file: FileSource) -> bool:
    """Whether hf_xet can read it: bytes, or a whole file. Of a file that grows, it would read too
    much."""
    match file.content:
        case BytesSource() | PathSource(sha256=None):
            return True
        case _:
            return False


def receipts_of(
    handles: Sequence[tuple[FileSource, Any]],
    report: Any,
    sent_before: int,
    changed: dict[str, SourceChangedError],
) -> list[Receipt]:
    """One receipt for each file that is not in `changed`. A followed file that was sent with other
    content than was collected is added there.

    The bytes that the commit sent, and those `sent_before` it, are divided among the files in
    proportion to their new bytes, since a xorb holds chunks of several files.
    """
    uploads = report.uploads
    results = [(file, uploads[handle.task_id()]) for file, handle in handles]
    news = [result.dedup_metrics.new_bytes for _, result in results]
    on_wire = shares(sent_before + report.dedup_metrics.total_bytes_uploaded, news)
    receipts = []
    for (file, result), sent in zip(results, on_wire, strict=True):
        if file.path_in_repo in changed:
            continue
        try:
            receipts.append(_receipt(file, result, sent))
        except SourceChangedError as exc:
            if not file.may_change:
                raise
            changed[file.path_in_repo] = exc
    return receipts


def _receipt(file: FileSource, result: Any, sent: int) -> Receipt:
    info = result.xet_info
    if info.file_size != file.size:
        message = f"{file.path_in_repo!r} has {info.file_size:,} bytes, not {file.size:,}"
        raise SourceChangedError(f"{message}: it changed while it was sent", problems=[message])
    if file.sha256 is not None and info.sha256 != file.sha256:
        message = f"{file.path_in_repo!r} was written to while it was sent"
        raise SourceChangedError(message, problems=[message])
    return Receipt(
        file.path_in_repo,
        file.size,
        info.sha256 or "",
        "xet",
        xet_hash=info.hash,
        bytes_sent=sent,
        bytes_deduplicated=result.dedup_metrics.deduped_bytes,
    )


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Divide `total` into whole numbers in proportion to `weights`; they add up to `total`.

    >>> shares(10, [1, 2, 0])
    [3, 7, 0]
    """
    found, weight_left = [], sum(weights)
    if not weight_left:  # the store had everything, but the files' descriptions were sent
        weights, weight_left = [1, *weights][: len(weights)], 1
    for weight in weights:
        share = total * weight // weight_left if weight_left else 0
        found.append(share)
        total, weight_left = total - share, weight_left - weight
    return found
