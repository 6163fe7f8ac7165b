"""Streams of unknown length, kept until their size is known: small ones in memory, others on disk.

The only user of aiofiles.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import inspect
import io
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from pathlib import Path
from typing import Any, BinaryIO

import anyio
from anyio import to_thread

from asyncpush.concurrency.threads import is_cancelled, wait_until_done
from asyncpush.errors import SourceError, os_reason
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileIdentity, FileSource, PathSource
from asyncpush.own_files import CAN_LOCK, lock_file
from asyncpush.sources.walk import SCRATCH_PREFIX

READ_SIZE = 256 << 10
"""Bytes to request from a file object at a time, and to gather in memory before a write to disk."""

_CLOSE_TIMEOUT = 5
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class OpenStream:
    """A stream that has not been read to its end: the part that was read, and the rest.

    Read it once, by `pieces`, `spooled` or `discarded`.
    """

    def __init__(
        self,
        spool: Spool,
        path_in_repo: str,
        head: bytes,
        last: memoryview,
        rest: AsyncGenerator[memoryview],
        reserved: int = 0,
    ) -> None:
        self._spool = spool
        self.reserved = reserved
        """Bytes of the spool's memory that the head uses."""
        self.path_in_repo = path_in_repo
        self.head = head
        self._last = last  # valid until the next piece is requested
        self._rest = rest

    async def pieces(self) -> AsyncGenerator[memoryview]:
        """All bytes, in order; each piece is valid until the next one is requested. Raises
        `SourceError` when the stream fails."""
        yield memoryview(self.head)
        self.head = b""
        yield self._last
        async with contextlib.aclosing(self._rest):
            async for piece in self._rest:
                yield piece

    async def spooled(self) -> FileSource:
        """Read it to its end, to disk."""
        return await self._spool.write(self)

    async def discarded(self) -> None:
        """Read it to its end and drop the bytes. Its producer may be writing other streams in turn
        with it."""
        pieces = self.pieces()
        async with contextlib.aclosing(pieces):
            async for _ in pieces:
                pass

    async def aclose(self) -> None:
        await self._rest.aclose()


class Spool:
    """Reads streams, several at once. When the block is left, every file it created is removed.

    All streams together use at most `memory` bytes of memory (plus a buffer for each one being
    read); the rest goes to files in a scratch folder, created in `folder` when first needed.
    `heads` is the number of bytes in memory for the beginnings of streams that `begin` leaves open.
    """

    def __init__(self, folder: Path, *, memory: int, heads: int = 0) -> None:
        self._parent = folder.absolute()  # the working directory may change
        self._memory = memory
        self._heads = heads
        self._open: list[OpenStream] = []
        self._scratch: ScratchFolder | None = None
        self._files: list[BinaryIO] = []
        # Files are created and removed in threads that may go on after a cancellation. Whichever
        # runs last must see what the other did, or a file would remain.
        self._lock = threading.Lock()
        self._closed = False

    async def __aenter__(self) -> Spool:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            for stream in self._open:
                await stream.aclose()
            await to_thread.run_sync(self._remove_all)

    async def take(self, path_in_repo: str, stream: AsyncIterable[bytes] | BinaryIO) -> FileSource:
        """Read `stream`, an async iterable of bytes or a binary file object, to its end.

        Raises `SourceError` when it fails, when it gives anything but bytes, or when the disk is
        full.
        """
        taken = await self._begin(path_in_repo, _chunks(path_in_repo, stream), None)
        return taken if isinstance(taken, FileSource) else await self.write(taken)

    async def begin(
        self, path_in_repo: str, stream: AsyncIterable[bytes] | BinaryIO, *, large: int
    ) -> FileSource | OpenStream:
        """Like `take`, but a stream of more than `large` bytes is left open, for its reader to
        consume as it arrives. When there is no memory for its beginning, it is read to its end like
        any other."""
        if self._heads < large:
            return await self.take(path_in_repo, stream)
        self._heads -= large
        chunks = _in_own_task(_chunks(path_in_repo, stream))
        taken = await self._begin(path_in_repo, chunks, large)
        if isinstance(taken, OpenStream):
            self._open.append(taken)
        else:
            self._heads += large
        return taken

    async def _begin(
        self, path_in_repo: str, chunks: AsyncGenerator[memoryview], room: int | None
    ) -> FileSource | OpenStream:
        """Read until the end, or until there is more than fits: into `room`, which is reserved for
        this stream, or into the memory that all streams share."""
        held = io.BytesIO()
        try:
            async for chunk in chunks:
                if room is None and chunk.nbytes > self._memory:
                    head = held.getvalue()
                    return OpenStream(
                        self, path_in_repo, head=head, last=chunk, rest=chunks, reserved=len(head)
                    )
                if room is not None and held.tell() + chunk.nbytes > room:
                    return OpenStream(
                        self, path_in_repo, head=held.getvalue(), last=chunk, rest=chunks
                    )
                if room is None:
                    self._memory -= chunk.nbytes
                held.write(chunk)
        except BaseException:
            await chunks.aclose()
            raise
        if room is not None:
            self._memory = max(0, self._memory - held.tell())
        return FileSource.of_bytes(path_in_repo, held.getvalue())

    async def write(self, stream: OpenStream) -> FileSource:
        """Write an open stream to disk, to its end. Raises as `take` does."""
        path_in_repo = stream.path_in_repo
        held, written = io.BytesIO(), False
        pieces = stream.pieces()
        async with contextlib.aclosing(stream), contextlib.aclosing(pieces):
            with self._disk_errors(path_in_repo):
                file = await self._new_file()
            async for chunk in pieces:
                if written:  # the head has been written: free its memory
                    self._memory += stream.reserved
                    stream.reserved = 0
                written = True
                if held.tell() + chunk.nbytes <= READ_SIZE:
                    held.write(chunk)
                    continue
                with self._disk_errors(path_in_repo):
                    await _write(file, held.getvalue(), chunk)
                held = io.BytesIO()
        with self._disk_errors(path_in_repo):
            await _write(file, held.getvalue())
            await _awaitable(file).close()
            status = await to_thread.run_sync(os.stat, file.name)
        content = PathSource(file.name, FileIdentity.of(status))
        return FileSource(path_in_repo, status.st_size, content)

    async def _new_file(self) -> BinaryIO:
        return await to_thread.run_sync(self._make_file)

    def _make_file(self) -> BinaryIO:
        with self._lock:
            if self._closed:
                raise RuntimeError("the spool is closed")
            self._scratch = self._scratch or ScratchFolder(self._parent)
            file = self._scratch.new_file()
            self._files.append(file)
            return file

    def _remove_all(self) -> None:
        with self._lock:
            self._closed = True
            for file in self._files:
                with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
                    file.close()
            if self._scratch is not None:
                self._scratch.remove()

    @contextlib.contextmanager
    def _disk_errors(self, path_in_repo: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            where, why = str(self._parent), os_reason(exc)
            message = f"{path_in_repo!r} is a stream that cannot be spooled to {where!r}: {why}"
            wanted = "with more room" if exc.errno in _DISK_FULL else "that can be written to"
            raise SourceError(
                message,
                problems=[message],
                suggestion=f"set cache_dir (or ASYNCPUSH_CACHE) to a folder {wanted}",
            ) from exc


async def _in_own_task(chunks: AsyncGenerator[memoryview]) -> AsyncGenerator[memoryview]:
    """The same chunks, for any task that asks for them. All are read in one task, because timeouts
    and task groups within a user's generator belong to the task that entered them. Nothing is read
    before it is requested."""
    asked: asyncio.Queue[None] = asyncio.Queue(1)
    answers: asyncio.Queue[memoryview | BaseException | None] = asyncio.Queue(1)

    async def read() -> None:
        async with contextlib.aclosing(chunks):
            while True:
                await asked.get()
                answer: memoryview | BaseException | None
                try:
                    answer = await anext(chunks, None)
                except BaseException as exc:
                    answers.put_nowait(exc)
                    raise
                answers.put_nowait(answer)
                if answer is None:
                    return

    reader = asyncio.create_task(read(), name="asyncpush stream")
    try:
        while True:
            asked.put_nowait(None)
            answer = await answers.get()
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        reader.cancel()
        await wait_until_done(reader)


def _awaitable(file: BinaryIO) -> Any:
    from aiofiles.threadpool import wrap  # most pushes have no streams

    return wrap(file)


async def _write(file: BinaryIO, *pieces: bytes | memoryview) -> None:
    for piece in pieces:
        if memoryview(piece).nbytes:
            await _awaitable(file).write(piece)


async def _chunks(
    path_in_repo: str, stream: AsyncIterable[bytes] | BinaryIO
) -> AsyncGenerator[memoryview]:
    """The pieces that `stream` gives, each checked. Its failures become `SourceError`, and so does
    a stream that was read before and cannot be read from its beginning again."""
    iterator: AsyncIterator[object] | None = None
    before = _earlier.get(id(stream))
    if before is not None and not before.ended:
        raise _read_before(path_in_repo, "was read in part before")
    reading: _Reading | None = None
    try:
        while True:
            try:
                iterator = iterator or _iterate(stream)
                piece = await anext(iterator)
            except StopAsyncIteration:
                if reading is not None:
                    reading.ended = True
                elif before is not None:
                    raise _read_before(path_in_repo, "was read to its end before") from None
                return
            except (Exception, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and is_cancelled():
                    raise
                reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
                message = f"{path_in_repo!r} is a stream that failed: {reason}"
                raise SourceError(message, problems=[message]) from exc
            chunk = _as_bytes(path_in_repo, piece)
            if reading is None and chunk.nbytes and _can_be_read_once(stream):
                reading = _note_reading(stream)
            yield chunk
            chunk.release()  # a producer that reuses one buffer can resize it again
    finally:
        if isinstance(iterator, AsyncGenerator):
            # The generator's own clean-up must run, but must not block a cancelled push. The user
            # needs to see the first error, not one from the clean-up.
            with (
                anyio.move_on_after(_CLOSE_TIMEOUT, shield=True),
                contextlib.suppress(Exception),
            ):
                await iterator.aclose()


@dataclass(slots=True, eq=False)
class _Reading:
    """That bytes of a stream were read, and whether to its end."""

    ended: bool = False


_earlier: dict[int, _Reading] = {}
"""What was read of each stream that can be read only once, by its id, for as long as it exists. A
second push of it would silently commit the rest, or an empty file."""


def _note_reading(stream: object) -> _Reading | None:
    """None for an object that cannot be followed to its end."""
    key = id(stream)
    if (reading := _earlier.get(key)) is not None:
        reading.ended = False
        return reading
    with contextlib.suppress(TypeError):  # there are no weak references to it
        weakref.finalize(stream, _earlier.pop, key, None).atexit = False
        return _earlier.setdefault(key, _Reading())
    return None


def _can_be_read_once(stream: object) -> bool:
    """Whether a second reading begins where the first one has ended. An iterator may begin again
    all the same, which shows when it gives something."""
    if inspect.iscoroutinefunction(getattr(stream, "read", None)):
        return not inspect.iscoroutinefunction(getattr(stream, "seek", None))
    if isinstance(stream, AsyncIterable):
        return isinstance(stream, AsyncIterator)
    seekable = getattr(stream, "seekable", None)
    return seekable is None or not seekable()


def _read_before(path_in_repo: str, problem: str) -> SourceError:
    message = (
        f"{path_in_repo!r} is a stream that {problem}, by another push, sync, dry run or audit"
    )
    suggestion = "open or create it again each time"
    return SourceError(message, problems=[message], suggestion=suggestion)


def _as_bytes(path_in_repo: str, piece: object) -> memoryview:
    try:
        view = memoryview(piece)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        message = f"{path_in_repo!r} is a stream that gave {type(piece).__name__}, not bytes"
        suggestion = "open it in binary mode, or encode what it gives"
        raise SourceError(message, problems=[message], suggestion=suggestion) from None
    return view if view.c_contiguous else memoryview(view.tobytes())


def _iterate(stream: AsyncIterable[bytes] | BinaryIO) -> AsyncIterator[object]:
    read = getattr(stream, "read", None)
    if inspect.iscoroutinefunction(read):  # its __aiter__ reads by lines, which is slow
        return _async_pieces(read, getattr(stream, "seek", None))
    if isinstance(stream, AsyncIterable):
        return aiter(stream)
    return _file_pieces(stream)


async def _async_pieces(
    read: Callable[[int], Awaitable[object]], seek: Callable[[int], object] | None
) -> AsyncGenerator[object]:
    if inspect.iscoroutinefunction(seek):
        with contextlib.suppress(io.UnsupportedOperation):  # a pipe cannot be rewound
            await seek(0)
    while (piece := await read(READ_SIZE)) != b"":
        yield piece


async def _file_pieces(file: BinaryIO) -> AsyncGenerator[object]:
    """The whole content of a file object, whatever its position, if it can be rewound. Its position
    is restored afterwards."""
    original_position = await to_thread.run_sync(_rewind, file)
    # Reading a pipe may block for ever: on cancellation the thread is abandoned.
    read = functools.partial(to_thread.run_sync, file.read, READ_SIZE, abandon_on_cancel=True)
    while (piece := await read()) != b"":
        yield piece
    if original_position:
        await to_thread.run_sync(file.seek, original_position)


def _rewind(file: BinaryIO) -> int | None:
    """Rewind the file and return its former position. None for a pipe, or for an object that only
    has `read`."""
    seekable = getattr(file, "seekable", None)
    if seekable is None or not seekable():
        return None
    position = file.tell()
    file.seek(0)
    return position


class ScratchFolder:
    """A new folder in `parent` that only this user can enter, until `remove` is called.

    It is locked while in use. Folders of this kind in `parent` without a lock were left by killed
    processes; creating a new one removes them. All of this blocks.
    """

    __slots__ = ("_count", "_lock", "path")

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(parent)
        while True:
            self.path = tempfile.mkdtemp(prefix=_scratch_prefix(), dir=parent)
            self._lock = _lock(self.path, wait=True)
            # Before it was locked, another process may have removed it as an orphan.
            if os.path.isdir(self.path):
                break
            _unlock(self._lock)
        self._count = 0

    def new_file(self) -> BinaryIO:
        """A new empty file with a `name`, open for writing, that only this user can read."""
        self._count += 1
        return open(os.path.join(self.path, str(self._count)), "xb", opener=opened_privately)

    def remove(self) -> None:
        """Remove the folder and all files in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        _unlock(self._lock)


@functools.cache
def _scratch_prefix() -> str:
    """How the scratch folders of this machine begin. Locks on a network file system may work on one
    machine only, so folders of other machines are left alone."""
    return f"{SCRATCH_PREFIX}{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"


def _remove_orphans(parent: Path) -> None:
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_scratch_prefix())]
    for path in found:
        lock = _lock(path, wait=False)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            _unlock(lock)


def _lock(folder: str, *, wait: bool) -> int | None:
    """A descriptor that holds the lock. None when another process holds it, or where locks are not
    supported."""
    if sys.platform == "win32" or not CAN_LOCK:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        lock_file(descriptor, wait=wait)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def opened_privately(path: str, flags: int) -> int:
    """An opener for `open`: only the owner can read the new file."""
    return os.open(path, flags, 0o600)
