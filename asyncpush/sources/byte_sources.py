"""Reading bytes at any position: of memory, a file on disk, ranges of another source, or tensors.

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
from asyncpush.models import (
    BytesSource,
    ComposedSource,
    FileIdentity,
    FileSource,
    PathSource,
    VirtualSource,
)

T = TypeVar("T")

DESCRIPTOR_TIMEOUT = 10.0
"""Seconds to wait for a file descriptor when the process has none left."""

_DESCRIPTOR_POLL = 0.05
_HASHED_AT_ONCE = 1 << 20
_READ_AT_ONCE = 1 << 20
_HAS_PREADV = hasattr(os, "preadv")

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_CHANGED_SUGGESTION = "try again once nothing writes to it any more"


class Origin(Protocol):
    """Bytes by position, readable from several threads at once."""

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read into the start of `buffer`, as many bytes as one read gives; 0 at the end."""

    def descriptor(self) -> int | None:
        """The open file, if offsets in the source are offsets in that file: the kernel may send
        from it."""

    def check_unchanged(self, sha256: str | None) -> None:
        """Raise `SourceChangedError` unless the bytes are still those that were collected."""

    def close(self) -> None:
        """Close it. Calling this again does nothing."""


def open_origin(source: FileSource, *, grown: bool = False) -> Origin:
    """Open a source for reading. Raises `SourceChangedError` when it has changed since it was
    collected, `SourceError` when it cannot be opened. `grown` is as for `Reader`."""
    match source.content:
        case PathSource() as content:
            return _OnDisk(source, content, grown=grown)
        case BytesSource(data):
            return _InMemory(data)
        case ComposedSource() as content:
            return _Pieced(content)
        case virtual:
            return _Virtual(virtual)


def is_there(content: PathSource) -> bool:
    """Whether the path names a file with the identity that was collected. It is not opened."""
    try:
        return content.identity.is_of(os.stat(content.path))
    except OSError:
        return False


def changed(source: FileSource, what: str) -> SourceChangedError:
    """The error for a source that has changed since it was collected; `what` is the predicate."""
    name = source.disk_path or source.path_in_repo
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
        pass  # bytes are immutable

    def close(self) -> None:
        pass


class _Virtual:
    """Every read is compared with earlier reads of the same bytes."""

    __slots__ = ("_file",)

    def __init__(self, file: VirtualSource) -> None:
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
    """The file is compared with its identity at the time it was collected, when it is opened and at
    every check."""

    __slots__ = ("_agreed", "_content", "_file", "_path", "_seeking", "_source")

    def __init__(self, source: FileSource, content: PathSource, *, grown: bool) -> None:
        self._source = source
        self._content = content
        self._path = content.path
        self._seeking = threading.Lock()
        self._agreed: str | None = None
        """The hash that the collected bytes still had after the file had grown."""
        self._file = self._open(grown and content.may_change)

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
        # Files of /proc and of some FUSE mounts hold more bytes than `stat` reports. Read first, so
        # that a file that merely grew gets the error for growth.
        more = self.read_some(self._source.size, memoryview(bytearray(1)))
        try:
            statuses = os.fstat(self._file.fileno()), os.stat(self._path)
            for status in statuses:
                self._compare(status)
        except SourceChangedError:
            if sha256 is None or not all(map(self._may_have_grown, statuses)):
                raise
            if sha256 != self._agreed and self._hash() != sha256:
                raise
            self._agreed = sha256
            return
        except OSError as exc:
            raise self._failed(exc) from exc
        if more:
            message = (
                f"{self._path!r} holds more than the {self._source.size:,} bytes that its file"
                " system reports"
            )
            raise SourceError(message, problems=[message], suggestion="use a copy of it")

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
        was = self._content.identity
        if was.is_of(status):
            return
        now = FileIdentity.of(status)
        if not stat.S_ISREG(status.st_mode) or (now.device, now.inode) != (was.device, was.inode):
            raise changed(self._source, "was replaced by another file")
        if now.size != was.size:
            verb = "grew" if now.size > was.size else "shrank"
            raise changed(self._source, f"{verb} from {was.size:,} to {now.size:,} bytes")
        raise changed(self._source, "was written to")

    def _may_have_grown(self, status: os.stat_result) -> bool:
        """Whether this can be the collected file with more bytes at its end, or with new times
        only. Whether its first bytes are the same must then be checked."""
        was, now = self._content.identity, FileIdentity.of(status)
        return (
            self._content.may_change
            and stat.S_ISREG(status.st_mode)
            and (now.device, now.inode) == (was.device, was.inode)
            and now.size >= was.size
        )

    def _hash(self) -> str:
        """The current sha256 of the first bytes, as many as were collected."""
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
            return changed(self._source, "was removed")
        if exc.errno == errno.EISDIR:
            return changed(self._source, "was replaced by a folder")
        return SourceError(
            f"{self._path!r} cannot be read: {os_reason(exc)}",
            problems=[f"{self._path!r}: {os_reason(exc)}"],
        )


class _Pieced:
    """The bytes of a `ComposedSource`: its head, then ranges of its base, read from the base
    directly."""

    __slots__ = ("_base", "_cut", "_head", "_starts")

    def __init__(self, cut: ComposedSource) -> None:
        self._cut = cut
        self._head = _InMemory(cut.head)
        self._base = open_origin(cut.base)
        # Where each range begins within these bytes, and finally where the last one ends.
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
    """Open the file `path` and return a descriptor. Does not block if the path has become a
    FIFO."""
    try:
        return when_descriptors_are_free(lambda: os.open(path, _FLAGS | _NO_WAIT))
    except BlockingIOError:  # the file has a lease (Samba, NFS), whose holder was asked for it
        return os.open(path, _FLAGS)


def when_descriptors_are_free(open_it: Callable[[], T]) -> T:
    """Return what `open_it` returns. When the process has no file descriptor left, retry for
    `DESCRIPTOR_TIMEOUT` seconds: other transfers end and close theirs."""
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

    Opening and every check compare a file with its identity at the time it was collected. A path
    that now leads to another file (a changed link, for example) is therefore never read. Close it
    only when no read is running.

    With `grown`, a followed file may have grown since it was collected. The caller then has to
    compare the hash of what it read with the hash from an earlier read: `check_unchanged` with that
    hash does so.
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
        """Fill `buffer` with the bytes from `offset` on. Returns the length of the buffer.

        Raises `SourceChangedError` when the source ends before, `SourceError` when it cannot be
        read.
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
        """The open file, for the kernel to send from; None where offsets in the source are not
        offsets in a file. Sending this way does not detect changes: call `check_unchanged`."""
        return self._origin.descriptor()

    def check_unchanged(self, sha256: str | None = None) -> None:
        """Raise `SourceChangedError`, saying what changed, unless file and path are as they were.

        With `sha256`, the hash of the collected bytes from an earlier read, a followed file may
        have grown or have new times. Its first bytes are then read again and must have that hash,
        which shows that they did not change in between. This takes as long as hashing, and is done
        once for each `Reader`.
        """
        self._origin.check_unchanged(sha256)

    def close(self) -> None:
        """Close the file. Calling this again does nothing."""
        self._origin.close()


def read_all(source: FileSource) -> bytes:
    """The bytes of a small file. Raises `SourceChangedError` when it changed since it was collected
    or while it was read."""
    if isinstance(source.content, BytesSource):
        return source.content.data
    if (data := _read_at_once(source)) is not None:
        return data
    content = bytearray(source.size)
    with Reader(source) as reader, memoryview(content) as view:
        reader.readinto(0, view)
        reader.check_unchanged()
    return bytes(content)


def read_again(source: FileSource) -> bytes:
    """Read a small file again, for a caller that compares its hash with that of the first read: a
    followed file may have grown since."""
    if not source.may_change:
        return read_all(source)
    if (data := _read_at_once(source)) is not None:
        return data
    content = bytearray(source.size)
    with Reader(source, grown=True) as reader, memoryview(content) as view:
        reader.readinto(0, view)
    return bytes(content)


def read_sample(source: FileSource, size: int = 512) -> bytes:
    """The first `size` bytes, fewer when the file is shorter."""
    if isinstance(source.content, BytesSource):
        return source.content.data[:size]
    if (data := _read_at_once(source, size)) is not None:
        return data
    sample = bytearray(min(size, source.size))
    with Reader(source) as reader, memoryview(sample) as view:
        reader.readinto(0, view)
    return bytes(sample)


def _read_at_once(source: FileSource, limit: int | None = None) -> bytes | None:
    """The bytes of a short file on disk, or the first `limit` bytes of a file, read in one call:
    this takes half the CPU of a `Reader`.

    None when the source is another one, or when anything is unusual: the file has changed, cannot
    be opened, or one read did not give exactly its bytes. A `Reader` then finds out what is wrong.
    """
    content = source.content
    size = source.size if limit is None else min(limit, source.size)
    if not isinstance(content, PathSource) or size > _READ_AT_ONCE:
        return None
    more = size == source.size  # a byte more than there should be
    try:
        descriptor = os.open(content.path, _FLAGS | _NO_WAIT)
        try:
            if not content.identity.is_of(os.fstat(descriptor)):
                return None  # perhaps not a regular file any more: it must not be read
            data = os.read(descriptor, size + more)
            unchanged = content.identity.is_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return data if unchanged and len(data) == size else None


def check_unchanged_at_path(source: FileSource, sha256: str) -> None:
    """`Reader.check_unchanged`, for a file whose bytes were read before. It is opened only when its
    path no longer names the same file, as it was."""
    if not isinstance(source.content, PathSource):
        return
    try:
        unchanged = source.content.identity.is_of(os.stat(source.content.path))
    except OSError:
        unchanged = False
    if not unchanged:
        with Reader(source, grown=True) as reader:
            reader.check_unchanged(sha256)
