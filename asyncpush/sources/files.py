"""Checks of single files and file objects: whether they can be pushed, and from which path."""

from __future__ import annotations

import errno
import inspect
import io
import os
import stat
import tempfile
from pathlib import PurePath

from asyncpush.errors import os_reason
from asyncpush.models import FileIdentity
from asyncpush.sources.byte_sources import open_for_reading

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
    """`path` as an absolute path; `~` is the home directory."""
    text = os.path.expanduser(os.fsdecode(path))
    if os.pardir in PurePath(text).parts:
        # abspath would remove `link/..`, but `..` of a linked folder is another folder.
        return os.path.join(os.getcwd(), text)
    return os.path.abspath(text)


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
    path = os.path.abspath(os.fsdecode(raw.name))
    try:
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


def _reason(path: str, exc: OSError | ValueError) -> str:
    if isinstance(exc, ValueError):
        # Python's message differs between versions.
        return f"cannot be a path: {'embedded null byte' if chr(0) in path else exc}"
    if exc.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return f"is a broken link, to {os.readlink(path)!r}"
        return "does not exist"
    return f"cannot be read: {os_reason(exc)}"
