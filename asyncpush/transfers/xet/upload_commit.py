"""One upload commit of hf_xet: runs its blocking calls in our threads, asks for its progress, and
translates its errors."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter, HashProgress, PartProgress, TransferStarted
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import BytesSource, FileSource, PathSource
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.options import MIB
from asyncpush.sources import Reader
from asyncpush.sources.byte_sources import is_there
from asyncpush.transfers.xet.access import XetAccess
from asyncpush.transfers.xet.memory import SMALL_FILES_SPARE, XetBacklog
from asyncpush.transfers.xet.stalls import (
    XetStallDetector,
    XetStalledError,
    ends_soon,
    in_background,
    unless_stalled,
)

STREAM_PIECE = 2 * MIB
"""Bytes that are passed to hf_xet at a time. Smaller pieces cost more switches between threads."""


def piece_size(bandwidth: Bandwidth) -> int:
    """Bytes to pass on at a time: with a bandwidth limit, a quarter of a second's worth."""
    return (
        STREAM_PIECE
        if bandwidth.rate is None
        else max(1, min(STREAM_PIECE, int(bandwidth.rate / 4)))
    )


class ProgressReports:
    """Calls `on_report` with hf_xet's report on all files of a commit together, until it ends.

    hf_xet would do so too, but makes a report on each single file as well. For hundreds of small
    files that takes longer than anything else that is done with a report. As in hf_xet, this is
    done in a thread, so that a busy event loop does not hide progress.
    """

    def __init__(self, commit: Any, on_report: Callable[[Any], object]) -> None:
        self._commit = commit
        self._on_report = on_report
        self._ended = threading.Event()

    def begin(self, interval: float) -> None:
        """Report every so many seconds."""

        def run() -> None:
            while not self._ended.wait(interval):
                self._on_report(self._commit.progress())

        threading.Thread(target=run, name="asyncpush-xet-progress", daemon=True).start()

    def end(self) -> None:
        """Report no more."""
        self._ended.set()

    def finish(self) -> None:
        """Report a last time, after hf_xet has finished."""
        self.end()
        self._on_report(self._commit.progress())


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
        backlog: XetBacklog,
        reports: ProgressReports,
        how: Mapping[str, Any] | None = None,
    ) -> None:
        """`how` holds further arguments for each file passed to hf_xet."""
        self._commit = commit
        self._how = how or {}
        self._watch = watch
        self._backlog = backlog
        self._reports = reports
        self._stalled: XetStalledError | None = None
        self.access = access

    @property
    def bytes_sent(self) -> int:
        """Bytes sent over the network, as far as hf_xet has reported."""
        return self._watch.sent

    async def start(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None = None,
        *,
        to_the_end: bool = False,
        on_begun: Callable[[Sequence[FileSource]], object] = lambda begun: None,
    ) -> list[tuple[FileSource, Any]]:
        """Start uploading bytes, or files that hf_xet reads itself. Returns each with its handle;
        with `to_the_end`, once hf_xet has read them all. `on_begun` gets them in the event loop,
        once they are started. With `changed`, followed files that have changed are added
        there and not started."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def start(file: FileSource) -> Any:
            self._backlog.wait(file.size, stop, spare=SMALL_FILES_SPARE)
            handle = start_now(file)
            self._backlog.add_file(file.size, handle)
            return handle

        def start_now(file: FileSource) -> Any:
            match file.content:
                case PathSource(path, identity):
                    self._watch.files.add((identity.device, identity.inode))
                    return self._commit.start_upload_file(path, **self._how)
                case BytesSource(data):
                    name = file.path_in_repo
                    return self._commit.start_upload_bytes(data, name=name, **self._how)
                case _:
                    raise AssertionError("hf_xet cannot read it: `feed` it")

        def start_all() -> list[tuple[FileSource, Any]]:
            check_unchanged(files, changed)
            left_out = changed or ()
            begun = [(file, start(file)) for file in files if file.path_in_repo not in left_out]
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(on_begun, [file for file, _ in begun])
            for _, handle in begun if to_the_end else ():
                with contextlib.suppress(Exception):  # `finish` raises it
                    handle.result()
            return begun

        def cancel() -> None:
            stop.set()
            self._abort()

        begun: list[tuple[FileSource, Any]] = await self._call(start_all, files, stop=cancel)
        return begun

    async def feed(
        self,
        file: FileSource,
        on_read: Callable[[int], None],
        bandwidth: Bandwidth,
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
                    self._pass_on(stream, bytes(piece), stop)
                    on_read(offset + len(piece))
                again = file.needs_second_reading
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
        on_read: Callable[[int], None],
        bandwidth: Bandwidth,
    ) -> Any:
        """Hand over pieces as they come, at the rate of `bandwidth`; `on_read` is called with
        their total size.
        Raises what `pieces` raises."""
        most = piece_size(bandwidth)
        stream = await self._call(lambda: self._commit.start_upload_stream(name=name, **self._how))
        stop = threading.Event()
        size = 0

        def write(data: bytes) -> None:
            self._pass_on(stream, data, stop)

        def cancel() -> None:
            stop.set()
            self._abort()

        try:
            async for piece in pieces:
                for start in range(0, piece.nbytes, most):
                    data = bytes(piece[start : start + most])
                    with self._watch.reading():
                        await bandwidth.take(len(data))
                    await self._call(partial(write, data), stop=cancel)
                size += piece.nbytes
                on_read(size)
            await self._call(stream.finish)
        except BaseException:
            abort(stream)
            raise
        return stream

    def _pass_on(self, stream: Any, data: bytes, stop: threading.Event) -> None:
        self._backlog.wait(len(data), stop)
        stream.write(data)
        self._backlog.add(len(data))

    async def finish(
        self,
        files: Sequence[FileSource],
        changed: dict[str, SourceChangedError] | None = None,
    ) -> Any:
        """Wait until the store has all bytes of `files`. Returns hf_xet's report. With `changed`,
        followed files that have changed are added there, by path in the repo."""

        def wait() -> Any:
            report = self._commit.wait_to_finish()
            self._reports.finish()
            with self._watch.reading():
                check_unchanged(files, changed)
            return report

        return await self._call(wait, files)

    async def abort(self) -> None:
        """Stop. Waits for hf_xet no longer than `GRACE`."""
        await ends_soon(in_background(self._abort))

    def _abort(self) -> None:
        self._reports.end()
        abort(self._commit)

    async def _check_unchanged(self, files: Sequence[FileSource]) -> None:
        def check() -> None:
            check_unchanged(files, thoroughly=True)

        with self._watch.reading():
            await unless_stalled(check, self._watch)

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
    files: Sequence[FileSource],
    changed: dict[str, SourceChangedError] | None = None,
    *,
    thoroughly: bool = False,
) -> None:
    """Raise `SourceChangedError` unless each file is still as collected. With `changed`, followed
    files are added there instead, by path in the repo. If `thoroughly`, files whose path still
    names them are opened as well, which takes five times as long, and `SourceError` is raised for
    those that cannot be read."""
    for file in files:
        if not thoroughly and isinstance(file.content, PathSource) and is_there(file.content):
            continue
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


@dataclass(slots=True, eq=False)
class _Followed:
    """A file whose positions are emitted. `size` is None of a stream. The store has `stored` bytes
    of it; `sent` of these went over the network."""

    path: str
    size: int | None
    events: Emitter
    read: int = 0
    stored: int = 0
    sent: int = 0

    def at_most(self, position: int) -> int:
        return position if self.size is None else min(position, self.size)


class XetPositions:
    """Emits progress events for the files of one push: how much of each was read, and how much of
    it the store has.

    hf_xet reports what it has found new, what it has sent and what it found in the store, of all
    files together. It finds chunks new when it has filled a xorb of 64 MiB. In between, we know
    what we have passed to it. For small files, which it reads itself, what it found new is shared
    out in the order in which they were begun. So is what the store has. What went over the network
    is shared out among those files that moved.
    """

    def __init__(self, events: Emitter) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._unread: dict[int, _Followed] = {}
        """Those that are not read to the end, in the order they were begun."""
        self._unstored: dict[int, _Followed] = {}
        """Those that the store does not have to the end."""
        self._partly_sent: dict[int, _Followed] = {}
        """Those of which fewer bytes count as sent than the store has."""
        self._read_last: list[_Followed] = []
        """Those that hf_xet has read some of, according to its last report."""
        self._read = self._stored = self._sent = 0
        self._ended = False

    def begin(self, file: FileSource, *, sized: bool = True) -> _Followed:
        """Emit the positions of a file. The size of a stream is not known: it is not `sized`."""
        followed = _Followed(file.path_in_repo, file.size if sized else None, self._events.child())
        if sized:
            followed.events.emit(TransferStarted(file.path_in_repo, file.size, 1))
        self._unread[id(followed)] = self._unstored[id(followed)] = followed
        return followed

    def begin_all(self, files: Sequence[FileSource]) -> None:
        """Emit the positions of these files, which hf_xet reads."""
        for file in files:
            self.begin(file)

    def on_read(self, followed: _Followed, position: int) -> None:
        """Emit how much of a file was handed over. Called from a thread of ours."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._on_position, followed, position)

    def restart(self) -> None:
        """The files are begun again, with a new commit."""
        self._unread.clear()
        self._unstored.clear()
        self._partly_sent.clear()
        self._read_last.clear()
        self._read = self._stored = self._sent = 0

    def end(self) -> None:
        """Ignore later reports."""
        self._ended = True

    def on_report(self, group: Any) -> None:
        """Called in a thread: takes plain values, and emits them in the event loop."""
        stored, sent = group.total_bytes_completed, group.total_transfer_bytes_completed
        read = group.total_transfer_bytes + max(0, stored - sent)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._report, read, stored, sent)

    def _report(self, read: int, stored: int, sent: int) -> None:
        if self._ended:
            return
        read_before, self._read_last = self._read_last, self._share_out(read - self._read)
        moved = self._share_out_stored(max(stored, sent) - self._stored)
        moved |= self._share_out_sent(sent - self._sent, moved)
        for followed in read_before:
            # What a quick store has by now needs no event for having been read.
            if followed.read > followed.stored:
                self._emit_read(followed)
        for followed in moved.values():
            size = followed.stored if followed.size is None else followed.size
            deduplicated = followed.stored - followed.sent
            followed.events.emit(PartProgress(followed.path, 1, followed.sent, size, deduplicated))

    def _share_out(self, more: int) -> list[_Followed]:
        """Bytes that hf_xet has read of some of the files."""
        changed = []
        for followed in list(self._unread.values()) if more > 0 else ():
            if followed.size is None:  # of a stream we know what was passed on
                continue
            step = min(more, followed.size - followed.read)
            more -= step
            if self._is_read(followed, followed.read + step):
                changed.append(followed)
            if more <= 0:
                break
        return changed

    def _share_out_stored(self, more: int) -> dict[int, _Followed]:
        """Bytes that the store has of some of the files."""
        moved: dict[int, _Followed] = {}
        for followed in list(self._unstored.values()) if more > 0 else ():
            if (step := min(more, followed.read - followed.stored)) > 0:
                more -= step
                self._on_stored(followed, followed.stored + step)
                moved[id(followed)] = followed
            if followed.stored == followed.size:
                del self._unstored[id(followed)]
            if more <= 0:
                break
        return moved

    def _share_out_sent(self, more: int, moved: Mapping[int, _Followed]) -> dict[int, _Followed]:
        """Bytes that went over the network: for those files first that have moved."""
        changed: dict[int, _Followed] = {}
        first = iter(moved.values())
        while more > 0 and self._partly_sent:
            followed = next(first, None) or next(iter(self._partly_sent.values()))
            if step := min(more, followed.stored - followed.sent):
                more -= step
                self._sent += step
                followed.sent += step
                changed[id(followed)] = followed
            if followed.sent == followed.stored:
                self._partly_sent.pop(id(followed), None)
        return changed

    def _on_stored(self, followed: _Followed, position: int) -> None:
        self._stored += position - followed.stored
        followed.stored = position
        self._partly_sent[id(followed)] = followed

    def _on_position(self, followed: _Followed, position: int) -> None:
        if self._is_read(followed, position):
            self._emit_read(followed)

    def _is_read(self, followed: _Followed, position: int) -> bool:
        """Note how much of a file is read. Whether that is more than before."""
        position = followed.at_most(position)
        more = position - followed.read
        if more > 0 and not self._ended:
            self._read += more
            followed.read = position
        if followed.size is not None and followed.read >= followed.size:
            self._unread.pop(id(followed), None)
        return more > 0 and not self._ended

    def _emit_read(self, followed: _Followed) -> None:
        size = followed.read if followed.size is None else followed.size
        followed.events.emit(HashProgress(followed.path, followed.read, size))
