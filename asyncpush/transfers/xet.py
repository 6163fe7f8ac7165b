"""Files to the store by Xet: hf_xet cuts them into chunks and sends those that the store has not.

hf_xet works in threads of its own, in Rust. Its calls block, so they run in ours; its callbacks
come on its threads, and are handed to the loop. One upload commit belongs to one push: all its
files count as stored when it has been finished, and aborting it disturbs no other push.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter, FileStored, PartProgress, TransferStarted, XetProgress
from asyncpush.models import FileSource, Receipt
from asyncpush.net.redaction import redact_text
from asyncpush.options import MIB, UploadConfig
from asyncpush.protocol.xet import XetGrant
from asyncpush.sources import Reader
from asyncpush.threads import in_thread

MISSING = "hf_xet is not installed: pip install 'asyncpush[xet]'"

FILE_MEMORY = 64 * MIB
"""A file that is cut into chunks fills a xorb of up to 64 MiB, and each xorb is held a second time
while it is compressed and sent. Measured: 8 files at once hold 1.2 GB, 2 hold half a GB."""

FEWEST_FILES, MOST_FILES = 2, 8
XORB_MEMORY = 16 * MIB
FEWEST_XORBS, MOST_XORBS = 4, 64

STREAM_PIECE = 4 * MIB
"""Bytes of a stream that are copied for hf_xet at a time."""

PROGRESS_INTERVAL_MS = 200
THREADS = 64
"""Threads wait for hf_xet, one for each push; none is made before it is needed."""

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


_REFUSED = ("Token refresh failed", "401")
"""What hf_xet's errors say when a token was not good any more: they have no kind for it."""


class XetFailedError(AsyncPushError):
    """Xet did not store the files, for a reason that says nothing about LFS."""

    @property
    def refused(self) -> bool:
        """Whether another token might help."""
        return any(words in self.message for words in _REFUSED)


def is_installed() -> bool:
    return find_spec("hf_xet") is not None


def is_disabled() -> bool:
    """By `HF_HUB_DISABLE_XET`, read as the official client reads it."""
    return os.environ.get("HF_HUB_DISABLE_XET", "").upper() in _TRUE


def why_not(config: UploadConfig) -> str | None:
    """Why Xet is out of the question before any Hub is asked; None when it is not."""
    if config.transfer == "lfs":
        return "transfer='lfs' was asked"
    if is_disabled():
        return "HF_HUB_DISABLE_XET is set"
    if config.max_bandwidth is not None:
        return "max_bandwidth holds for LFS alone"
    return None if is_installed() else MISSING


@dataclass(frozen=True, slots=True)
class XetAccess:
    """What an upload commit is opened with: the grant, and how hf_xet gets the next one.

    It asks with the Hub token it was opened with. Where that one lives shorter than the push,
    `renew` gives access with the token that there is by then; None when there is no other.
    """

    grant: XetGrant
    refresh_url: str
    refresh_headers: Mapping[str, str] = field(repr=False)
    user_agent: str = ""
    renew: Callable[[], Awaitable[XetAccess | None]] | None = field(default=None, repr=False)

    def hide_secrets(self, text: str) -> str:
        secrets = [value.rpartition(" ")[2] for value in self.refresh_headers.values()]
        return redact_text(text, self.grant.token, *secrets)


class XetEngine:
    """hf_xet's session of one `Uploader`, made when it is first needed."""

    def __init__(self, config: UploadConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(THREADS, "asyncpush-xet")
        self._session: Any = None
        self._opening = asyncio.Lock()

    async def open(self, access: XetAccess, emit: Emitter) -> XetUpload:
        """Begin the upload of one push. Raises `XetFailedError`."""
        async with self._opening:
            if self._session is None:
                self._session = await in_thread(self._threads, self._new_session)
        moves = _Moves(emit)

        async def open_commit(access: XetAccess) -> Any:
            return await self._open_commit(access, moves if emit.active else None)

        commit = await open_commit(access)
        return XetUpload(
            commit, self._threads, access, moves, emit, open_commit, self._config.max_retries
        )

    async def _open_commit(self, access: XetAccess, moves: _Moves | None) -> Any:
        grant = access.grant

        def open_commit() -> Any:
            return self._session.new_upload_commit(
                endpoint=grant.cas_url,
                token=grant.token,
                token_expiry_unix_secs=grant.expires_at,
                token_refresh_url=access.refresh_url,
                token_refresh_headers=dict(access.refresh_headers),
                custom_headers={"User-Agent": access.user_agent},
                progress_callback=None if moves is None else moves.on_progress,
                progress_interval_ms=PROGRESS_INTERVAL_MS,
            )

        try:
            return await in_thread(self._threads, open_commit, discard=_abort)
        except Exception as exc:
            raise _failed(exc, access) from None

    async def close(self) -> None:
        """Let go of the session; every upload has ended by now."""
        session, self._session = self._session, None
        del session
        self._threads.shutdown(wait=False)

    def _new_session(self) -> Any:
        try:
            from hf_xet import XetConfig, XetSession
        except ImportError as exc:
            raise XetFailedError(f"hf_xet 1.8 or newer is needed: {exc}") from None
        return XetSession(XetConfig().with_config(settings(self._config)))


def settings(config: UploadConfig) -> dict[str, Any]:
    """hf_xet's settings that follow from ours. What the user has set in the environment stays."""
    files = min(max(config.max_memory // FILE_MEMORY, FEWEST_FILES), MOST_FILES)
    xorbs = min(max(config.max_memory // XORB_MEMORY, FEWEST_XORBS), MOST_XORBS)
    wanted = {
        "data.max_concurrent_file_ingestion": min(files, config.max_concurrent_files),
        "client.ac_max_upload_concurrency": min(xorbs, config.max_concurrent_parts),
        "client.ac_initial_upload_concurrency": min(2, config.max_concurrent_parts),
        # Remember each xorb that was sent: a push that is killed sends it not again.
        "data.session_xorb_metadata_flush_max_count": 1,
        "client.retry_max_attempts": max(1, config.max_retries),
        "client.retry_base_delay": f"{max(1, round(config.initial_backoff_ms))}ms",
        "client.connect_timeout": f"{max(1, round(config.connect_timeout * 1000))}ms",
    }
    return {name: value for name, value in wanted.items() if not _set_by_user(name)}


def _set_by_user(name: str) -> bool:
    group, _, key = name.upper().partition(".")
    names = (f"HF_XET_{group}_{key}", f"HF_XET_{key}")
    if "CONCURREN" in key and _is_true("HF_XET_HIGH_PERFORMANCE", "HF_XET_HP"):
        return True
    return any(name in os.environ for name in names)


def _is_true(*names: str) -> bool:
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


class _Moves:
    """Progress: from hf_xet's threads to events on the loop."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._files: dict[Any, tuple[FileSource, Emitter]] = {}
        self._sent: dict[Any, int] = {}
        self._ended = False

    def begin(self, file: FileSource) -> Emitter:
        emit = self._emit.child()
        emit.emit(TransferStarted(file.path_in_repo, file.size, 1))
        return emit

    def add(self, task: Any, file: FileSource) -> None:
        """Its positions will come with hf_xet's reports."""
        self._files[task] = file, self.begin(file)

    def on_read(self, file: FileSource, emit: Emitter, position: int) -> None:
        """From a thread of ours: so much of a file was handed over."""
        event = PartProgress(file.path_in_repo, 1, position, file.size)
        self._loop.call_soon_threadsafe(emit.emit, event)

    def end(self) -> None:
        """What comes from now on is of yesterday."""
        self._ended = True

    def on_progress(self, group: Any, items: Mapping[Any, Any]) -> None:
        """On a thread of hf_xet: take plain values, and let the loop do the rest."""
        positions = [(task, item.bytes_completed) for task, item in items.items()]
        done, sent = group.total_bytes_completed, group.total_transfer_bytes_completed
        total = XetProgress(sent, max(0, done - sent), group.total_bytes)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._tell, positions, total)

    def _tell(self, positions: Sequence[tuple[Any, int]], total: XetProgress) -> None:
        if self._ended:
            return
        for task, position in positions:
            known = self._files.get(task)
            if known is None or self._sent.get(task) == position:
                continue
            self._sent[task] = position
            file, emit = known
            emit.emit(PartProgress(file.path_in_repo, 1, min(position, file.size), file.size))
        self._emit.emit(total)


class XetUpload:
    """One push's upload commit. After `finish` or `abort` it is spent."""

    def __init__(
        self,
        commit: Any,
        threads: ThreadPoolExecutor,
        access: XetAccess,
        moves: _Moves,
        emit: Emitter,
        open_commit: Callable[[XetAccess], Awaitable[Any]],
        renewals: int,
    ) -> None:
        self._commit = commit
        self._open_commit = open_commit
        self._renewals = renewals
        self._sent_in_vain = 0
        self._streamed = False
        self._threads = threads
        self._access = access
        self._moves = moves
        self._emit = emit
        self._handles: list[tuple[FileSource, Any]] = []
        self._feeding = asyncio.Semaphore(FEWEST_FILES)
        self.began: float = time.time()

    @property
    def files(self) -> list[FileSource]:
        """What was added so far."""
        return [file for file, _ in self._handles]

    async def add(self, file: FileSource) -> None:
        """Begin to send a file; it goes on in the background.

        Raises `XetFailedError`; `SourceError` and `SourceChangedError` when it is the file's fault.
        """
        if file.cut is None:
            task = await self._call(lambda: self._start(file), [file])
            self._moves.add(task, file)
            return
        async with self._feeding:  # hf_xet cannot find these bytes by itself
            emit = self._moves.begin(file)
            stream = await self._call(lambda: self._feed(file, emit), [file], on_cancel=self._abort)
        self._handles.append((file, stream))

    async def add_stream(self, path_in_repo: str, pieces: AsyncIterable[memoryview]) -> None:
        """Send bytes whose number nobody knows yet, as they come. Raises `XetFailedError`, and
        what `pieces` raises."""
        self._streamed = True
        stream = await self._call(lambda: self._commit.start_upload_stream(name=path_in_repo), [])
        emit = self._emit.child()
        size = 0
        try:
            async for piece in pieces:
                size += piece.nbytes
                await self._write(stream, piece)
                emit.emit(PartProgress(path_in_repo, 1, size, size))
            await self._call(stream.finish, [], on_cancel=self._abort)
        except BaseException:
            _abort(stream)
            raise
        self._handles.append((FileSource(path_in_repo, size, data=b""), stream))

    async def _write(self, stream: Any, piece: memoryview) -> None:
        for start in range(0, piece.nbytes, STREAM_PIECE):
            data = bytes(piece[start : start + STREAM_PIECE])
            await self._call(lambda data=data: stream.write(data), [], on_cancel=self._abort)  # type: ignore[misc]

    async def finish(self) -> list[Receipt]:
        """Wait until the store has everything. Raises as `add` does."""
        report = await self._stored()
        files = self.files
        await in_thread(self._threads, lambda: _check_unchanged(files))
        self._moves.end()
        receipts = _receipts(self._handles, report, self._sent_in_vain)
        for receipt in receipts:
            whole = receipt.bytes_deduplicated == receipt.size
            self._emit.emit(FileStored(receipt.path_in_repo, receipt.size, "xet", whole))
        self._commit = None
        return receipts

    async def _stored(self) -> Any:
        """hf_xet's report. A token that is refused in the middle does not lose what was sent: the
        next upload commit finds it."""
        while True:
            try:
                wait = self._commit.wait_to_finish
                return await self._call(wait, self.files, on_cancel=self._abort)
            except XetFailedError as exc:
                if not exc.refused or not await self._begin_again():
                    raise

    async def _begin_again(self) -> bool:
        """With another token; False when there is none, or when nothing can be read once more."""
        if self._streamed or self._access.renew is None or self._renewals <= 0:
            return False
        access = await self._access.renew()
        if access is None:
            return False
        self._renewals -= 1
        old = self._commit
        self._commit, self._access = await self._open_commit(access), access
        self._sent_in_vain += await in_thread(self._threads, lambda: _let_go(old))
        again, self._handles = self.files, []
        try:
            for file in again:
                await self.add(file)
        except XetFailedError:
            self._handles = [(file, None) for file in again]  # all of them are left to LFS
            raise
        return True

    async def abort(self) -> None:
        """Stop; what was sent already is not sent again next time."""
        commit, self._commit = self._commit, None
        if commit is not None:
            self._moves.end()
            await in_thread(self._threads, lambda: _abort(commit))

    def _start(self, file: FileSource) -> Any:
        _check_unchanged([file])
        if file.path is None:
            handle = self._commit.start_upload_bytes(file.data or b"", name=file.path_in_repo)
        else:
            handle = self._commit.start_upload_file(file.path)
        self._handles.append((file, handle))
        return handle.task_id()

    def _feed(self, file: FileSource, emit: Emitter) -> Any:
        """Read a file that is made of stretches of another, and hand over what it reads."""
        stream = self._commit.start_upload_stream(name=file.path_in_repo)
        buffer = bytearray(min(STREAM_PIECE, file.size))
        with Reader(file) as reader, memoryview(buffer) as view:
            for offset in range(0, file.size, STREAM_PIECE):
                piece = view[: file.size - offset]
                reader.readinto(offset, piece)
                stream.write(bytes(piece))
                self._moves.on_read(file, emit, offset + len(piece))
            reader.check_unchanged()
        stream.finish()
        return stream

    def _abort(self) -> None:
        _abort(self._commit)

    async def _call(
        self,
        work: Callable[[], Any],
        files: Sequence[FileSource],
        *,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> Any:
        """Do something with hf_xet. Whatever it says is wrong, the files are looked at first."""
        try:
            return await in_thread(self._threads, work, on_cancel=on_cancel)
        except AsyncPushError:
            raise
        except Exception as exc:
            await in_thread(self._threads, lambda: _check_unchanged(files))
            raise _failed(exc, self._access) from None


def _receipts(
    handles: Sequence[tuple[FileSource, Any]], report: Any, sent_before: int
) -> list[Receipt]:
    """The receipts of a finished commit. Its bytes on the wire, and those `sent_before` it, are
    shared out among the files by how much of each was new: xorbs hold chunks of several."""
    uploads = report.uploads
    results = [(file, uploads[handle.task_id()]) for file, handle in handles]
    news = [result.dedup_metrics.new_bytes for _, result in results]
    on_wire = _shares(sent_before + report.dedup_metrics.total_bytes_uploaded, news)
    receipts = []
    for (file, result), sent in zip(results, on_wire, strict=True):
        info = result.xet_info
        if info.file_size != file.size:
            message = f"{file.path_in_repo!r} has {info.file_size:,} bytes, not {file.size:,}"
            raise SourceChangedError(f"{message}: it changed while it was sent", problems=[message])
        receipts.append(
            Receipt(
                file.path_in_repo,
                file.size,
                info.sha256,
                "xet",
                xet_hash=info.hash,
                bytes_sent=sent,
                bytes_deduplicated=result.dedup_metrics.deduped_bytes,
            )
        )
    return receipts


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole shares by weight; they add up to it.

    >>> _shares(10, [1, 2, 0])
    [3, 7, 0]
    """
    shares, weight_left = [], sum(weights)
    if not weight_left:  # all was there already, but its description was sent
        weights, weight_left = [1, *weights][: len(weights)], 1
    for weight in weights:
        share = total * weight // weight_left if weight_left else 0
        shares.append(share)
        total, weight_left = total - share, weight_left - weight
    return shares


def _check_unchanged(files: Sequence[FileSource]) -> None:
    """Raise `SourceChangedError` unless each file is still what was collected."""
    for file in files:
        with Reader(file) as reader:
            reader.check_unchanged()


def _abort(commit: Any) -> None:
    with contextlib.suppress(Exception):  # it has ended by itself
        commit.abort()


def _let_go(commit: Any) -> int:
    """Abort, and tell how much of it went over the wire."""
    sent: int = commit.progress().total_transfer_bytes_completed
    _abort(commit)
    return sent


def _failed(error: Exception, access: XetAccess) -> XetFailedError:
    return XetFailedError(access.hide_secrets(f"{type(error).__name__}: {error}"))
