"""Files that changed during a push are collected again, each as it is at one moment.

A file is read to its end until nothing was written between two looks at its size and times. Bytes
read earlier may have been overwritten by then, so it is read twice: when both readings agree, the
bytes are those of the file at the moment of the last look. This works even for a file that is
written to 200 times a second, since each look only has to read what was added since the one before.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from asyncpush.errors import SourceChangedError
from asyncpush.models import FileIdentity, FileSource
from asyncpush.sources.byte_sources import Reader, changed, open_for_reading
from asyncpush.sources.problem_report import ProblemReport

COPIED_SIZE = 10 << 20
"""A changed file of up to this many bytes is copied, so that it cannot change again. This is the
largest regular file that the Hub accepts; larger files are weights, not a program's state."""

COLLECTED_AGAIN = 3
"""How often files that changed while they were stored are collected again, and then again just
before the commit."""

LOOKS = 1_000
"""How often to look at a file; each look reads what was added since the one before."""

READINGS = 20
"""How often to read a file from its beginning because bytes already read were overwritten."""

_READ_SIZE = 1 << 20


class Copy(NamedTuple):
    """A copy of a file's bytes at one moment."""

    content: bytes


class _Overwritten(Exception):
    """The file became shorter, or bytes that were already read have been overwritten."""


def collect_again(file: FileSource) -> FileSource | Copy | None:
    """The source to push instead of `file`, which was found changed. Blocks.

    This is the same source when nothing has changed after all; a copy of a file of up to
    `COPIED_SIZE` bytes; or a larger file that has grown, with the hash of its current bytes. None
    for an `optional` file that was removed. Raises `SourceChangedError` for changes that are not
    followed (large files that were replaced, rewritten or removed, and files that are written to
    without a pause), `SourceError` for a file that cannot be read.
    """
    assert file.path is not None
    assert file.may_change
    try:
        with Reader(file) as reader:
            reader.check_unchanged()
        return file
    except SourceChangedError as exc:
        error = exc
    try:
        descriptor = open_for_reading(file.path)
    except (FileNotFoundError, NotADirectoryError):
        if file.optional and file.size <= COPIED_SIZE:
            return None
        raise error from None
    except OSError:
        raise error from None
    now = os.fstat(descriptor)
    if not stat.S_ISREG(now.st_mode):
        os.close(descriptor)
        raise error
    with os.fdopen(descriptor, "rb", buffering=0) as opened:
        if max(file.size, now.st_size) > COPIED_SIZE:
            return _grown(file, opened, error)
        return _copied(file, opened)


def changes_of(files: Mapping[str, FileSource]) -> ProblemReport:
    """Notices about followed files that have changed since they were collected, by path in the
    repo; each says what was committed. Blocks."""
    report = ProblemReport()
    for path, file in files.items():
        if not file.may_change or file.path is None or file.identity is None:
            continue
        try:
            now = FileIdentity.of(os.stat(file.path))
        except OSError:
            continue  # what happens to the file after it was sent does not matter
        if now.inode == file.identity.inode and now.size > file.size:
            report.notice(
                "files that grew",
                f"{path} grew while it was pushed: only its first {file.size:,} bytes were pushed",
            )
    return report


def looks_changed(file: FileSource) -> bool:
    """Whether a followed file's size or times differ from what was collected."""
    if not file.may_change or file.path is None:
        return False
    try:
        return FileIdentity.of(os.stat(file.path)) != file.identity
    except OSError:
        return True


def _copied(file: FileSource, opened: io.FileIO) -> Copy:
    for _ in range(READINGS):
        content = bytearray()
        try:
            _read_to_a_pause(opened, content.extend)
            # Check even after a single look: a write in progress may have set the time already.
            if _reads_again(opened, content):
                return Copy(bytes(content))
        except _Overwritten:
            pass
        opened.seek(0)
    raise changed(file, "could not be read consistently, since it was written to all the time")


def _grown(file: FileSource, opened: io.FileIO, error: SourceChangedError) -> FileSource:
    """Only one reading is made here. The second one is made when the file is sent, and must have
    the same hash."""
    was, now = file.identity, FileIdentity.of(os.fstat(opened.fileno()))
    assert was is not None
    if (now.device, now.inode) != (was.device, was.inode) or now.size <= was.size:
        raise error
    digest = hashlib.sha256()
    try:
        then = _read_to_a_pause(opened, digest.update)
    except _Overwritten:
        raise error from None
    identity = FileIdentity.of(then)
    return replace(file, size=identity.size, identity=identity, sha256=digest.hexdigest())


def _read_to_a_pause(opened: io.FileIO, take: Callable[[bytes], object]) -> os.stat_result:
    """Read until the file did not change during the last read. Returns its status then. Raises
    `_Overwritten`."""
    position = 0
    for _ in range(LOOKS):
        before = os.fstat(opened.fileno())
        if before.st_size < position:
            raise _Overwritten
        while position < before.st_size:
            piece = opened.read(min(_READ_SIZE, before.st_size - position))
            if not piece:
                raise _Overwritten
            take(piece)
            position += len(piece)
        after = os.fstat(opened.fileno())
        if _moment(after) == _moment(before):
            return after
    raise _Overwritten


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _reads_again(opened: io.FileIO, content: bytearray) -> bool:
    opened.seek(0)
    position = 0
    while position < len(content):
        piece = opened.read(min(_READ_SIZE, len(content) - position))
        if not piece or content[position : position + len(piece)] != piece:
            return False
        position += len(piece)
    return True
