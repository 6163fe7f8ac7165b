"""Single files and file objects: whether they can be pushed, from which path, and how one that
changed during a push is collected again.

A file that changes is read to its end until nothing was written between two looks at its size and
times. Bytes read earlier may have been overwritten by then, so it is read twice: when both readings
agree, the bytes are those of the file at the moment of the last look. This works even for a file
that is written to 200 times a second, since each look only has to read what was added since the one
before."""

from __future__ import annotations

import errno
import hashlib
import inspect
import io
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import PurePath

from asyncpush.errors import SourceChangedError, SourceError, os_reason
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileIdentity, FileSource, PathSource
from asyncpush.sources.byte_sources import Reader, changed, is_there, open_for_reading
from asyncpush.sources.problem_report import ProblemReport

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnusableError(Exception):
    """Something cannot be pushed. The text is a predicate, to be put after its name."""


def absolute_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """`path` as an absolute path; `~` is the home directory. Raises `ValueError` for an empty path,
    as a variable that was never set may hold: it would be the current folder. Raises `SourceError`
    for a relative path if the current folder has been deleted."""
    text = os.path.expanduser(os.fsdecode(path))
    if not text:
        raise ValueError("an empty path names no file or folder")
    try:
        if os.pardir in PurePath(text).parts:
            # abspath would remove `link/..`, but `..` of a linked folder is another folder.
            return os.path.join(os.getcwd(), text)
        return os.path.abspath(text)
    except FileNotFoundError as exc:
        problem = f"{text!r} cannot be found: the current folder has been deleted"
        raise SourceError(
            problem,
            problems=[problem],
            suggestion="change to a folder that exists (`cd`), or give an absolute path",
        ) from exc


def status_of(path: str) -> os.stat_result:
    """The status of `path`, with links followed. Raises `UnusableError`."""
    try:
        return os.stat(path)
    except (OSError, ValueError) as exc:
        raise UnusableError(_reason(path, exc)) from exc


def regular_file(path: str) -> os.stat_result:
    """The status of a regular file that can be read. Anything else raises `UnusableError` and is
    never opened."""
    status = status_of(path)
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise UnusableError(f"is {_KINDS.get(kind, 'something else')}, not a file")
    if not os.access(path, os.R_OK):
        # Some sandboxes do not support `access` and deny everything: try to open the file.
        try:
            os.close(open_for_reading(path))
        except OSError as exc:
            raise UnusableError(_reason(path, exc)) from exc
    return status


def check_file_object(file: object) -> None:
    """Raise `UnusableError` unless bytes can be read from `file`."""
    file = _unwrapped(file)
    if isinstance(file, io.TextIOBase):
        raise UnusableError("is a file opened in text mode: open it in binary mode, 'rb'")
    if getattr(file, "closed", False) is True:
        raise UnusableError("is a file that is closed already")
    if isinstance(file, io.IOBase) and not file.readable():
        raise UnusableError("is a file that is not open for reading")


def path_of(file: object) -> str | None:
    """The path of the file on disk that `file` was opened from, if reading that path gives all of
    its bytes; else None.

    This holds for plain files whose path still leads to the same file. A `GzipFile` has a name and
    a descriptor too, but of other bytes, so only exact types are accepted.
    """
    file = _unwrapped(file)
    if type(file) not in (io.FileIO, io.BufferedReader, io.BufferedRandom):
        return None
    assert isinstance(file, io.FileIO | io.BufferedReader | io.BufferedRandom)
    raw = getattr(file, "raw", file)
    if type(raw) is not io.FileIO or not isinstance(raw.name, str | bytes):
        return None
    try:
        path = os.path.abspath(os.fsdecode(raw.name))
        file.flush()  # include what was written through this object
        held, named = os.fstat(raw.fileno()), os.stat(path)
        if stat.S_ISREG(held.st_mode):
            return path if FileIdentity.of(held) == FileIdentity.of(named) else None
    except OSError:
        pass
    return None


def is_async_file(value: object) -> bool:
    """Whether its `read` is a coroutine function, as in aiofiles and asyncio streams."""
    return inspect.iscoroutinefunction(getattr(value, "read", None))


def _unwrapped(file: object) -> object:
    return file.file if isinstance(file, tempfile._TemporaryFileWrapper) else file


_ADDRESS = r"[\\/](hf|https?):[\\/]"
"""What is left of an address where a path was made of it."""


def _reason(path: str, exc: OSError | ValueError) -> str:
    if isinstance(exc, ValueError):
        # Python's message differs between versions.
        return f"cannot be a path: {'embedded null byte' if chr(0) in path else exc}"
    if exc.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return f"is a broken link, to {os.readlink(path)!r}"
        if re.search(_ADDRESS, path):
            return "does not exist: a source is a local path; `copy` takes what is on the Hub"
        return "does not exist"
    return f"cannot be read: {os_reason(exc)}"


COPIED_SIZE = 10 << 20
"""A changed file of up to this many bytes is copied, so that it cannot change again. This is the
largest regular file that the Hub accepts; larger files are weights, not a program's state."""

COLLECTED_AGAIN = 3
"""How often files that changed while they were stored are collected again, and then again just
before the commit."""

READS_AT_THE_END = 1_000
"""How often to look at a file; each look reads what was added since the one before."""

READINGS = 20
"""How often to read a file from its beginning because bytes already read were overwritten."""

_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a file's bytes at one moment."""

    content: bytes = field(repr=False)


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
    content = file.content
    assert isinstance(content, PathSource)
    assert content.may_change
    try:
        with Reader(file) as reader:
            reader.check_unchanged()
        return file
    except SourceChangedError as exc:
        error = exc
    try:
        descriptor = open_for_reading(content.path)
    except (FileNotFoundError, NotADirectoryError):
        if content.optional and file.size <= COPIED_SIZE:
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
            return _grown(file, content, opened, error)
        return _copied(file, opened)


def changes_of(files: Mapping[str, FileSource]) -> ProblemReport:
    """Notices about followed files that have changed since they were collected, by path in the
    repo; each says what was committed. Blocks."""
    report = ProblemReport()
    for path, file in files.items():
        content = file.content
        if not isinstance(content, PathSource) or not content.may_change:
            continue
        try:
            now = FileIdentity.of(os.stat(content.path))
        except OSError:
            continue  # what happens to the file after it was sent does not matter
        if now.inode == content.identity.inode and now.size > file.size:
            report.notice(
                "files that grew",
                f"{path} grew while it was sent: only its first {file.size:,} bytes were sent",
            )
    return report


def looks_changed(file: FileSource) -> bool:
    """Whether a followed file's size or times differ from what was collected."""
    content = file.content
    if not isinstance(content, PathSource) or not content.may_change:
        return False
    return not is_there(content)


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
    raise changed(file, "could not be read consistently: it was written to again and again")


def _grown(
    file: FileSource, content: PathSource, opened: io.FileIO, error: SourceChangedError
) -> FileSource:
    """Only one reading is made here. The second one is made when the file is sent, and must have
    the same hash."""
    was, now = content.identity, FileIdentity.of(os.fstat(opened.fileno()))
    if (now.device, now.inode) != (was.device, was.inode) or now.size <= was.size:
        raise error
    digest = hashlib.sha256()
    try:
        then = _read_to_a_pause(opened, digest.update)
    except _Overwritten:
        raise error from None
    identity = FileIdentity.of(then)
    content = replace(content, identity=identity, sha256=digest.hexdigest())
    return replace(file, size=identity.size, content=content)


def _read_to_a_pause(opened: io.FileIO, take: Callable[[bytes], object]) -> os.stat_result:
    """Read until the file did not change during the last read. Returns its status then. Raises
    `_Overwritten`."""
    position = 0
    for _ in range(READS_AT_THE_END):
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
