"""Reading a file's bytes, and noticing when they are no longer those that were collected.

Everything here blocks: call it in threads.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from types import TracebackType

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import FileIdentity, FileSource

_HAS_PREADV = hasattr(os, "preadv")

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_CHANGED_SUGGESTION = "push again once nothing writes to it any more"


class Reader:
    """The bytes of one file, open for reads at any offset from several threads at once.

    Opening and every check compare the file with the identity it had when it was collected, so a
    path that names another file by now (a link turned round, say) is never read. Close it only
    when no read is running.
    """

    __slots__ = ("_file", "_seeking", "_source")

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._seeking = threading.Lock()
        self._file: io.FileIO | None = None
        if source.path is not None:
            self._file = self._open(source.path)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with the bytes from `offset` on; its length is the answer, always.

        Raises `SourceChangedError` when the file ends before, `SourceError` when it can't be read.
        """
        size = len(buffer)
        if self._source.data is not None:
            piece = memoryview(self._source.data)[offset : offset + size]
            if len(piece) < size:
                raise self._shrunk(offset + len(piece))
            buffer[:] = piece
            return size
        done = 0
        while done < size:
            count = self._read_some(offset + done, buffer[done:])
            if not count:
                raise self._shrunk(offset + done)
            done += count
        return size

    def check_unchanged(self) -> None:
        """Raise `SourceChangedError`, saying how, unless file and path are as they were."""
        if self._file is None or self._source.path is None:
            return
        try:
            self._compare(os.fstat(self._file.fileno()))
            self._compare(os.stat(self._source.path))
        except OSError as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        """Close the file; once more does no harm."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: str) -> io.FileIO:
        try:
            file = open(path, "rb", buffering=0, opener=_opener)  # noqa: SIM115  # close() closes
        except OSError as exc:
            raise self._failed(exc) from exc
        try:
            self._compare(os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        assert self._file is not None
        try:
            if _HAS_PREADV:
                return os.preadv(self._file.fileno(), [buffer], offset)
            with self._seeking:
                self._file.seek(offset)
                return self._file.readinto(buffer) or 0
        except OSError as exc:
            raise self._failed(exc) from exc

    def _compare(self, status: os.stat_result) -> None:
        was, now = self._source.identity, FileIdentity.of(status)
        if now == was or was is None:
            return
        if not stat.S_ISREG(status.st_mode) or (now.device, now.inode) != (was.device, was.inode):
            raise self._changed("was replaced by another file")
        if now.size != was.size:
            verb = "grew" if now.size > was.size else "shrank"
            raise self._changed(f"{verb} from {was.size:,} to {now.size:,} bytes")
        raise self._changed("was written to")

    def _shrunk(self, end: int) -> SourceChangedError:
        return self._changed(f"ends at byte {end:,} of {self._source.size:,}")

    def _failed(self, exc: OSError) -> SourceError:
        if exc.errno in _GONE:
            return self._changed("is gone")
        if exc.errno == errno.EISDIR:
            return self._changed("was replaced by a folder")
        return SourceError(
            f"{self._source.path!r} cannot be read: {exc.strerror or exc}",
            problems=[f"{self._source.path!r}: {exc.strerror or exc}"],
        )

    def _changed(self, what: str) -> SourceChangedError:
        name = self._source.path or self._source.path_in_repo
        message = f"{name!r} {what} after it was collected"
        return SourceChangedError(message, problems=[message], suggestion=_CHANGED_SUGGESTION)


def read_all(source: FileSource) -> bytes:
    """The bytes of a small file, the same from before the read to after it."""
    if source.data is not None:
        return source.data
    content = bytearray(source.size)
    with Reader(source) as reader, memoryview(content) as view:
        reader.readinto(0, view)
        reader.check_unchanged()
    return bytes(content)


def read_sample(source: FileSource, size: int = 512) -> bytes:
    """The first `size` bytes, fewer when the file is shorter."""
    if source.data is not None:
        return source.data[:size]
    sample = bytearray(min(size, source.size))
    with Reader(source) as reader, memoryview(sample) as view:
        reader.readinto(0, view)
    return bytes(sample)


def open_for_reading(path: str) -> int:
    """A descriptor of the file `path`, without waiting should a FIFO have taken its place."""
    try:
        return os.open(path, _FLAGS | _NO_WAIT)
    except BlockingIOError:  # a file under a lease (Samba, NFS): its holder is being asked
        return os.open(path, _FLAGS)


def _opener(path: str, _flags: int) -> int:
    return open_for_reading(path)
