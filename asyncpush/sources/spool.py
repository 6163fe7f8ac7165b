"""Streams of unknown length, held until their size is known: small ones in memory, others on disk.

The only user of aiofiles.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import anyio
from aiofiles.threadpool import wrap
from anyio import to_thread

from asyncpush.errors import SourceError
from asyncpush.models import FileIdentity, FileSource
from asyncpush.sources.scratch import ScratchFolder

READ_SIZE = 256 << 10
"""Bytes asked of a file object at a time, and gathered in memory before a write to disk."""

_CLOSE_TIMEOUT = 5
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Spool:
    """Takes in streams, one after the other; on leaving it, every file it made is gone.

    All streams together keep at most `memory` bytes in memory (and one buffer while they are
    read); what is beyond goes to files in a scratch folder, made in `folder` when first needed.
    """

    def __init__(self, folder: Path, *, memory: int) -> None:
        self._parent = folder.absolute()  # the working directory may change
        self._memory = memory
        self._scratch: ScratchFolder | None = None
        self._files: list[BinaryIO] = []
        # Making files and removing them happens in threads that cancellation may leave running:
        # whichever comes last must see what the other did, or a file would stay.
        self._lock = threading.Lock()
        self._closed = False

    async def __aenter__(self) -> Spool:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._remove_all)

    async def take(self, path_in_repo: str, stream: AsyncIterable[bytes] | BinaryIO) -> FileSource:
        """Read `stream`, an async iterable of bytes or a binary file object, to its end.

        Raises `SourceError` when it fails, gives anything but bytes, or the disk is full.
        """
        chunks = _chunks(path_in_repo, stream)
        async with contextlib.aclosing(chunks):
            held = io.BytesIO()
            room = self._memory
            file: BinaryIO | None = None
            async for chunk in chunks:
                if held.tell() + chunk.nbytes <= room:
                    held.write(chunk)
                    continue
                with self._disk_errors(path_in_repo):
                    file = file or await self._new_file()
                    await _write(file, held.getvalue(), chunk)
                held, room = io.BytesIO(), READ_SIZE
        if file is None:
            self._memory -= held.tell()
            return FileSource(path_in_repo, held.tell(), data=held.getvalue())
        with self._disk_errors(path_in_repo):
            await _write(file, held.getvalue())
            await wrap(file).close()
            status = await to_thread.run_sync(os.stat, file.name)
        return FileSource(path_in_repo, status.st_size, file.name, FileIdentity.of(status))

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
                with contextlib.suppress(OSError):  # closing flushes: no room for that, perhaps
                    file.close()
            if self._scratch is not None:
                self._scratch.remove()

    @contextlib.contextmanager
    def _disk_errors(self, path_in_repo: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            where, why = str(self._parent), exc.strerror or exc
            message = f"{path_in_repo!r} is a stream that cannot be spooled to {where!r}: {why}"
            wanted = "with more room" if exc.errno in _DISK_FULL else "that can be written to"
            raise SourceError(
                message,
                problems=[message],
                suggestion=f"set cache_dir (or ASYNCPUSH_CACHE) to a folder {wanted}",
            ) from exc


async def _write(file: BinaryIO, *pieces: bytes | memoryview) -> None:
    for piece in pieces:
        if memoryview(piece).nbytes:
            await wrap(file).write(piece)


async def _chunks(
    path_in_repo: str, stream: AsyncIterable[bytes] | BinaryIO
) -> AsyncGenerator[memoryview]:
    """What `stream` gives, each piece checked; its failures become `SourceError`."""
    iterator: AsyncIterator[object] | None = None
    try:
        while True:
            try:
                iterator = iterator or _iterate(stream)
                piece = await anext(iterator)
            except StopAsyncIteration:
                return
            except Exception as exc:
                reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
                message = f"{path_in_repo!r} is a stream that failed: {reason}"
                raise SourceError(message, problems=[message]) from exc
            chunk = _as_bytes(path_in_repo, piece)
            yield chunk
            chunk.release()  # whoever reuses one buffer may now resize it
    finally:
        if isinstance(iterator, AsyncGenerator):
            # Its own clean-up must run, but cannot be what a cancelled push hangs on; and what
            # went wrong first is what the user needs to see.
            with (
                anyio.move_on_after(_CLOSE_TIMEOUT, shield=True),
                contextlib.suppress(Exception),
            ):
                await iterator.aclose()


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
    if inspect.iscoroutinefunction(read):  # by lines, as its __aiter__ does, would be slow
        return _async_pieces(read)
    if isinstance(stream, AsyncIterable):
        return aiter(stream)
    return _file_pieces(stream)


async def _async_pieces(read: Callable[[int], Awaitable[object]]) -> AsyncGenerator[object]:
    while (piece := await read(READ_SIZE)) != b"":
        yield piece


async def _file_pieces(file: BinaryIO) -> AsyncGenerator[object]:
    # A read of a pipe may wait for ever: cancellation leaves its thread behind.
    read = functools.partial(to_thread.run_sync, file.read, READ_SIZE, abandon_on_cancel=True)
    piece = await read()
    if piece == b"" and await to_thread.run_sync(_is_past_start, file):
        raise ValueError("the file object stands at its end, seek(0) first")
    while piece != b"":
        yield piece
        piece = await read()


def _is_past_start(file: BinaryIO) -> bool:
    try:
        return file.tell() > 0
    except (AttributeError, OSError):  # a pipe, or merely something with a `read`
        return False
