"""Where bytes come from: memory, a file on disk, stretches of another origin, or tensors.

Everything here blocks: call it in threads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Protocol, TypeVar

from asyncpush.errors import OUT_OF_DESCRIPTORS, SourceChangedError, SourceError, os_reason
from asyncpush.models import ComposedSource, FileIdentity, FileSource, VirtualFile

T = TypeVar("T")

DESCRIPTOR_TIMEOUT = 10.0
"""Seconds to wait for a descriptor when all that a process may have are in use."""

_DESCRIPTOR_POLL = 0.05
_HASHED_AT_ONCE = 1 << 20
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


class Origin(Protocol):
    """Bytes by position, readable from several threads at once."""

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read into the beginning of `buffer`, as much as comes at once; 0 at the end."""

    def descriptor(self) -> int | None:
        """The open file, where positions are a file's own: the kernel may send from it."""

    def check_unchanged(self, sha256: str | None) -> None:
        """Raise `SourceChangedError` unless the bytes are still those that were collected."""

    def close(self) -> None:
        """Close it; calling it again does no harm."""


def open_origin(source: FileSource, *, grown: bool = False) -> Origin:
    """Raises `SourceChangedError` when it is no longer what was collected, else `SourceError`.
    `grown` is as for `Reader`."""
    if source.cut is not None:
        return _Pieced(source.cut)
    if source.path is not None:
        return _OnDisk(source, source.path, grown=grown)
    if source.virtual is not None:
        return _Virtual(source.virtual)
    return _InMemory(source.data or b"")


def changed(source: FileSource, what: str) -> SourceChangedError:
    """The error that says what has become of a source since it was collected."""
    name = source.path or source.path_in_repo
    message = f"{name!r} {what} after it was collected"
    return SourceChangedError(message, problems=[message], suggestion=_CHANGED_SUGGESTION)


class _InMemory:
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read_some(self, offset: int, buffer: memoryview) -> int:
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def descriptor(self) -> None:
        pass

    def check_unchanged(self, sha256: str | None) -> None:
        pass  # bytes do not change

    def close(self) -> None:
        pass


class _Virtual:
    """Every read compares what it finds with what was read before."""

    __slots__ = ("_file",)

    def __init__(self, file: VirtualFile) -> None:
        self._file = file

    def read_some(self, offset: int, buffer: memoryview) -> int:
        return self._file.read_some(offset, buffer)

    def descriptor(self) -> None:
        pass

    def check_unchanged(self, sha256: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class _OnDisk:
    """Opening and every check compare the file with the identity it had when it was collected."""

    __slots__ = ("_agreed", "_file", "_path", "_seeking", "_source")

    def __init__(self, source: FileSource, path: str, *, grown: bool) -> None:
        self._source = source
        self._path = path
        self._seeking = threading.Lock()
        self._agreed: str | None = None
        """The hash that the bytes were found to have after the file had grown."""
        self._file = self._open(grown and source.may_change)

    def read_some(self, offset: int, buffer: memoryview) -> int:
        try:
            if sys.platform != "win32" and _HAS_PREADV:
                return os.preadv(self._file.fileno(), [buffer], offset)
            with self._seeking:
                self._file.seek(offset)
                return self._file.readinto(buffer) or 0
        except OSError as exc:
            raise self._failed(exc) from exc

    def descriptor(self) -> int:
        return self._file.fileno()

    def check_unchanged(self, sha256: str | None) -> None:
        # Files of /proc and of some FUSE mounts hold more than `stat` says: read first, so that the
        # error of a file which merely grew says so.
        more = self.read_some(self._source.size, memoryview(bytearray(1)))
        try:
            looks = os.fstat(self._file.fileno()), os.stat(self._path)
            for look in looks:
                self._compare(look)
        except SourceChangedError:
            if sha256 is None or not all(map(self._may_have_grown, looks)):
                raise
            if sha256 != self._agreed and self._hash() != sha256:
                raise
            self._agreed = sha256
            return
        except OSError as exc:
            raise self._failed(exc) from exc
        if more:
            message = (
                f"{self._path!r} holds more than the {self._source.size:,} bytes that its"
                " filesystem says"
            )
            raise SourceError(message, problems=[message], suggestion="push a copy of it")

    def close(self) -> None:
        self._file.close()

    def _open(self, grown: bool) -> io.FileIO:
        try:
            file = open(self._path, "rb", buffering=0, opener=_opener)  # noqa: SIM115  # close() closes
        except OSError as exc:
            raise self._failed(exc) from exc
        try:
            status = os.fstat(file.fileno())
            if not (grown and self._may_have_grown(status)):
                self._compare(status)
        except BaseException:
            file.close()
            raise
        return file

    def _compare(self, status: os.stat_result) -> None:
        was, now = self._source.identity, FileIdentity.of(status)
        if now == was or was is None:
            return
        if not stat.S_ISREG(status.st_mode) or (now.device, now.inode) != (was.device, was.inode):
            raise changed(self._source, "was replaced by another file")
        if now.size != was.size:
            verb = "grew" if now.size > was.size else "shrank"
            raise changed(self._source, f"{verb} from {was.size:,} to {now.size:,} bytes")
        raise changed(self._source, "was written to")

    def _may_have_grown(self, status: os.stat_result) -> bool:
        """Whether it can be the collected file with more bytes at its end: what its bytes are has
        to be seen. (Also where only its times have changed.)"""
        was, now = self._source.identity, FileIdentity.of(status)
        return (
            self._source.may_change
            and was is not None
            and stat.S_ISREG(status.st_mode)
            and (now.device, now.inode) == (was.device, was.inode)
            and now.size >= was.size
        )

    def _hash(self) -> str:
        """The sha256 of the first bytes, as many as were collected, as they are now."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_HASHED_AT_ONCE, max(self._source.size, 1))))
        position = 0
        while position < self._source.size:
            count = self.read_some(position, buffer[: self._source.size - position])
            if not count:
                break
            digest.update(buffer[:count])
            position += count
        return digest.hexdigest()

    def _failed(self, exc: OSError) -> SourceError:
        if exc.errno in _GONE:
            return changed(self._source, "is gone")
        if exc.errno == errno.EISDIR:
            return changed(self._source, "was replaced by a folder")
        return SourceError(
            f"{self._path!r} cannot be read: {os_reason(exc)}",
            problems=[f"{self._path!r}: {os_reason(exc)}"],
        )


class _Pieced:
    """What a `ComposedSource` describes: its head, then ranges of its base, read where they lie."""

    __slots__ = ("_base", "_cut", "_head", "_starts")

    def __init__(self, cut: ComposedSource) -> None:
        self._cut = cut
        self._head = _InMemory(cut.head)
        self._base = open_origin(cut.base)
        # Where each range begins within these bytes, and after the last one their end.
        sizes = (size for _, size in cut.ranges)
        self._starts = list(accumulate(sizes, initial=len(cut.head)))

    def read_some(self, offset: int, buffer: memoryview) -> int:
        number = bisect_right(self._starts, offset) - 1
        if number < 0:
            return self._head.read_some(offset, buffer)
        if number == len(self._cut.ranges):
            return 0
        begin, _ = self._cut.ranges[number]
        room = self._starts[number + 1] - offset
        return self._base.read_some(begin + offset - self._starts[number], buffer[:room])

    def descriptor(self) -> None:
        pass

    def check_unchanged(self, sha256: str | None) -> None:
        self._base.check_unchanged(None)

    def close(self) -> None:
        self._base.close()


def open_for_reading(path: str) -> int:
    """A descriptor of the file `path`, without waiting should a FIFO have taken its place."""
    try:
        return when_descriptors_are_free(lambda: os.open(path, _FLAGS | _NO_WAIT))
    except BlockingIOError:  # a file under a lease (Samba, NFS): its holder is being asked
        return os.open(path, _FLAGS)


def when_descriptors_are_free(open_it: Callable[[], T]) -> T:
    """What it returns; where no descriptor is left, other transfers may end and leave theirs."""
    deadline = time.monotonic() + DESCRIPTOR_TIMEOUT
    while True:
        try:
            return open_it()
        except OSError as exc:
            if exc.errno not in OUT_OF_DESCRIPTORS or time.monotonic() >= deadline:
                raise
        time.sleep(_DESCRIPTOR_POLL)


def _opener(path: str, _flags: int) -> int:
    return open_for_reading(path)


class Reader:
    """The bytes of one source, open for reads at any offset from several threads at once.

    Opening and every check compare a file with the identity it had when it was collected, so a
    path that names another file by now (a link that leads elsewhere, say) is never read. Close it
    only when no read is running.

    With `grown`, a followed file may have grown since it was collected. Whoever reads it then has
    to compare the hash of what was read with the hash of an earlier read, of the file as it was
    collected: `check_unchanged` with that hash does.
    """

    __slots__ = ("_origin", "_source")

    def __init__(self, source: FileSource, *, grown: bool = False) -> None:
        self._source = source
        self._origin = open_origin(source, grown=grown)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with the bytes from `offset` on; its length is the answer, always.

        Raises `SourceChangedError` when they end before, `SourceError` when they can't be read.
        """
        done, size = 0, len(buffer)
        while done < size:
            count = self._origin.read_some(offset + done, buffer[done:])
            if not count:
                end = f"ends at byte {offset + done:,} of {self._source.size:,}"
                raise changed(self._source, end)
            done += count
        return size

    def descriptor(self) -> int | None:
        """The open file, where its positions are those of the source. What the kernel reads of it
        by itself notices no change: `readinto` and `check_unchanged` do."""
        return self._origin.descriptor()

    def check_unchanged(self, sha256: str | None = None) -> None:
        """Raise `SourceChangedError`, saying how, unless file and path are as they were.

        With `sha256`, which an earlier read of the collected bytes gave, a followed file may have
        grown or been touched: its first bytes are then read once more and must have that hash, so
        that they were the same at both times and throughout. This takes as long as hashing does,
        once for each `Reader`.
        """
        self._origin.check_unchanged(sha256)

    def close(self) -> None:
        """Close the file; once more does no harm."""
        self._origin.close()


def read_all(source: FileSource) -> bytes:
    """The bytes of a small file, the same from before the read to after it."""
    if source.data is not None:
        return source.data
    content = bytearray(source.size)
    with Reader(source) as reader, memoryview(content) as view:
        reader.readinto(0, view)
        reader.check_unchanged()
    return bytes(content)


def read_again(source: FileSource) -> bytes:
    """The bytes of a small file once more, for a caller that compares their hash with that of the
    first read: a followed file may have grown meanwhile."""
    if source.data is not None or not source.may_change:
        return read_all(source)
    content = bytearray(source.size)
    with Reader(source, grown=True) as reader, memoryview(content) as view:
        reader.readinto(0, view)
    return bytes(content)


def read_sample(source: FileSource, size: int = 512) -> bytes:
    """The first `size` bytes, fewer when the file is shorter."""
    if source.data is not None:
        return source.data[:size]
    sample = bytearray(min(size, source.size))
    with Reader(source) as reader, memoryview(sample) as view:
        reader.readinto(0, view)
    return bytes(sample)
