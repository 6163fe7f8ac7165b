"""One upload commit of hf_xet: runs its blocking calls in our threads, and translates its
errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter, PartProgress, TransferStarted, XetProgress
from asyncpush.models import FileSource
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.options import MIB
from asyncpush.sources import Reader
from asyncpush.transfers.xet.access import XetAccess
from asyncpush.transfers.xet.stalls import (
    XetStallDetector,
    XetStalledError,
    ends_soon,
    in_background,
    unless_stalled,
)

STREAM_PIECE = 4 * MIB
"""Bytes of a stream that are copied for hf_xet at a time."""


def piece_size(bandwidth: Bandwidth) -> int:
    """Bytes to pass on at a time: with a bandwidth limit, a quarter of a second's worth."""
    return (
        STREAM_PIECE
        if bandwidth.rate is None
        else max(1, min(STREAM_PIECE, int(bandwidth.rate / 4)))
    )


class XetCommit:
    """One upload commit of hf_xet. Files are uploaded in its background; each has a handle.

    Methods raise `XetFailedError`; `XetStalledError` when there is no more progress, and again in
    every later call; `SourceError` and `SourceChangedError` when a file is the cause.
    """

    def __init__(
        self,
        commit: Any,
        access: XetAccess,
        watch: XetStallDetector,
        how: Mapping[str, Any] | None = None,
    ) -> None:
        """`how` holds further arguments for each file passed to hf_xet."""
        self._commit = commit
        self._how = how or {}
        self._watch = watch
        self._stalled: XetStalledError | None = None
        self.access = access

    async def start(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
    ) -> list[tuple[FileSource, Any]]:
        """Start uploading bytes, or files that hf_xet reads itself. Returns each with its handle.
        With `changed`, followed files that have changed are added there and not started."""

        def start(file: FileSource) -> Any:
            if file.path is None:
                return self._commit.start_upload_bytes(
                    file.data or b"", name=file.path_in_repo, **self._how
                )
            self._watch.paths.add(os.path.realpath(file.path))
            return self._commit.start_upload_file(file.path, **self._how)

        def start_all() -> list[tuple[FileSource, Any]]:
            check_unchanged(files, changed)
            left_out = changed or ()
            return [(file, start(file)) for file in files if file.path_in_repo not in left_out]

        begun: list[tuple[FileSource, Any]] = await self._call(start_all, files)
        return begun

    async def ingested(self, handle: Any, file: FileSource) -> None:
        """Wait until hf_xet has read the file to its end and holds only its last bytes in
        memory."""
        await self._call(handle.result, [file])

    async def feed(
        self, file: FileSource, on_read: Callable[[int], None], bandwidth: Bandwidth
    ) -> Any:
        """Read a file and pass its bytes to hf_xet, at the rate of `bandwidth`; `on_read` is called
        in a thread with the number of bytes passed on. Tensors that can change are then read once
        more: they compare their bytes with what was passed on."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        size = piece_size(bandwidth)
        how = self._how if file.sha256 is None else {}  # the hash is compared at the end

        def feed() -> Any:
            stream = self._commit.start_upload_stream(name=file.path_in_repo, **how)
            try:
                read_into(stream)
            except SourceChangedError:
                # Aborting the stream would fail the whole commit. No receipt refers to this one.
                stream.finish()
                raise
            except BaseException:
                abort(stream)
                raise
            stream.finish()
            return stream

        def read_into(stream: Any) -> None:
            buffer = bytearray(min(STREAM_PIECE, file.size))
            grown = file.sha256 is not None
            with Reader(file, grown=grown) as reader, memoryview(buffer) as view:
                for offset in range(0, file.size, size):
                    piece = view[: min(size, file.size - offset)]
                    with self._watch.reading():
                        if bandwidth.limited:
                            take = bandwidth.take(len(piece))
                            asyncio.run_coroutine_threadsafe(take, loop).result()
                        if stop.is_set():
                            break
                        reader.readinto(offset, piece)
                    stream.write(bytes(piece))
                    on_read(offset + len(piece))
                again = file.virtual is not None and file.virtual.may_change
                for offset in range(0, file.size if again else 0, STREAM_PIECE):
                    if stop.is_set():
                        break
                    with self._watch.reading():
                        reader.readinto(offset, view[: file.size - offset])
                reader.check_unchanged(file.sha256)

        def cancel() -> None:
            stop.set()
            self._abort()

        return await self._call(feed, [file], stop=cancel)

    async def stream(
        self,
        name: str,
        pieces: AsyncIterable[memoryview],
        on_sent: Callable[[int], None],
        bandwidth: Bandwidth,
    ) -> Any:
        """Pass pieces on as they arrive, at the rate of `bandwidth`; `on_sent` is called with the
        number of bytes passed on. Raises what `pieces` raises."""
        most = piece_size(bandwidth)
        stream = await self._call(lambda: self._commit.start_upload_stream(name=name, **self._how))
        size = 0
        try:
            async for piece in pieces:
                for start in range(0, piece.nbytes, most):
                    data = bytes(piece[start : start + most])
                    with self._watch.reading():
                        await bandwidth.take(len(data))
                    await self._write(stream, data)
                size += piece.nbytes
                on_sent(size)
            await self._call(stream.finish)
        except BaseException:
            abort(stream)
            raise
        return stream

    async def _write(self, stream: Any, data: bytes) -> None:
        await self._call(lambda: stream.write(data))

    async def finish(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None = None,
    ) -> Any:
        """Wait until the store has all bytes of `files`. Returns hf_xet's report. With `changed`,
        followed files that have changed are added there, by path in the repo."""
        report = await self._call(self._commit.wait_to_finish, files)
        await self._check_unchanged(files, changed)
        return report

    async def abort(self) -> None:
        """Stop. Waits for hf_xet no longer than `GRACE`."""
        await ends_soon(in_background(self._abort))

    async def let_go(self) -> int:
        """Abort. Returns how many bytes were sent over the network."""
        await self.abort()
        return self._watch.sent

    def _abort(self) -> None:
        abort(self._commit)

    async def _check_unchanged(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None = None,
    ) -> None:
        with self._watch.reading():
            await unless_stalled(lambda: check_unchanged(files, changed), self._watch)

    async def _call(
        self,
        work: Callable[[], Any],
        files: Sequence[FileSource] = (),
        *,
        stop: Callable[[], None] | None = None,
    ) -> Any:
        """Call hf_xet. When it fails, first check whether a file has changed: that is the more
        useful error."""
        if self._stalled is not None:
            raise self._stalled
        try:
            return await unless_stalled(work, self._watch, stop=stop or self._abort)
        except XetStalledError as exc:
            self._stalled = exc
            raise
        except AsyncPushError:
            raise
        except Exception as exc:
            if self._stalled is not None:  # another call noticed the stall and stopped this one
                raise self._stalled from None
            await self._check_unchanged(files)
            raise self.access.failed(exc) from None


def check_unchanged(
    files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
) -> None:
    """Raise `SourceChangedError` unless each file is still as collected. With `changed`, followed
    files are added there instead, by path in the repo."""
    for file in files:
        try:
            with Reader(file, grown=file.sha256 is not None) as reader:
                if file.sha256 is None:  # otherwise the bytes sent were compared with the hash
                    reader.check_unchanged()
        except SourceChangedError as exc:
            if changed is None or not file.may_change:
                raise
            changed[file.path_in_repo] = exc


def abort(commit: Any) -> None:
    """Stop a commit or a stream of hf_xet. What was sent already is not sent again next time."""
    with contextlib.suppress(Exception):  # it has ended already
        commit.abort()


class XetPositions:
    """Emits progress events for the files of one push, from hf_xet's reports."""

    def __init__(self, events: Emitter) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._files: dict[Any, tuple[FileSource, Emitter]] = {}
        self._sent: dict[Any, int] = {}
        self._ended = False

    def begin(self, file: FileSource) -> Emitter:
        events = self._events.child()
        events.emit(TransferStarted(file.path_in_repo, file.size, 1))
        return events

    def follow(self, task: Any, file: FileSource) -> None:
        """Emit the positions of this file that hf_xet reports under `task`."""
        self._files[task] = file, self.begin(file)

    def on_read(self, file: FileSource, events: Emitter, position: int) -> None:
        """Emit how much of a file was passed on. Called from one of our threads."""
        event = PartProgress(file.path_in_repo, 1, position, file.size)
        self._loop.call_soon_threadsafe(events.emit, event)

    def end(self) -> None:
        """Ignore later reports."""
        self._ended = True

    def on_report(self, group: Any, items: Mapping[Any, Any]) -> None:
        """Called on a thread of hf_xet: reads plain values, and emits them in the event loop."""
        positions = [(task, item.bytes_completed) for task, item in items.items()]
        done, sent = group.total_bytes_completed, group.total_transfer_bytes_completed
        total = XetProgress(sent, max(0, done - sent), group.total_bytes)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._tell, positions, total)

    def _tell(self, positions: Sequence[tuple[Any, int]], total: XetProgress) -> None:
        if self._ended:
            return
        for task, position in positions:
            known = self._files.get(task)
            if known is None or self._sent.get(task) == position:
                continue
            self._sent[task] = position
            file, events = known
            events.emit(PartProgress(file.path_in_repo, 1, min(position, file.size), file.size))
        self._events.emit(total)
