"""The files that asyncpush writes for itself: how they are written and locked, and how a push
leaves them out.

The journal contains presigned URLs, and it changes while a push would be reading it; a file of
events grows with every event of the push that would send it. Code that opens such a file or folder
announces it here, and code that collects a source asks `OwnFiles`. Files written by other processes
are recognised by the names of the files in their folder.

The loggers of the library are here too, since the files that they write are among them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system has file locks."""

JOURNAL = "the resume journal of asyncpush"
SPOOL = "where asyncpush keeps streams until they are sent"
HUB = "the embedded Hub's own data"
UNFINISHED = ".asyncpush-tmp"
"""The suffix of files that are renamed once they are complete. Killed commands leave such files
behind."""

LOG = "a log that asyncpush's own messages go to"

_HUB_FOLDERS = frozenset(
    (
        *("models", "datasets", "spaces", "kernels", "buckets", "lfs", "xet", "locks", "tmp"),
        *("moved", "hooks", "oauth"),
    )
)
_Key: TypeAlias = tuple[int, int]  # device and inode: the same for every link and path


class _Log(logging.Logger):
    """A logger that never harms a push. `logging` handles errors of a stream, but not a closed
    stderr: that raises an error in the code that logs."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().callHandlers(record)


def library_logger(name: str) -> logging.Logger:
    """The logger `asyncpush.<name>`."""
    logger = logging.getLogger(f"asyncpush.{name}")
    if type(logger) is logging.Logger:
        logger.__class__ = _Log
    return logger


_announced: set[Announcement] = set()
_guard = threading.Lock()


def _renew_guard() -> None:
    """In a forked child: a thread of the parent may have held it."""
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guard)


class Announcement:
    """Announces that this process writes to a file, to a folder (including everything below it) or
    to an open descriptor. It holds until `end` or the end of `with`.

    `what` completes "'out/log.jsonl' is …". The path need not exist yet, and the working directory
    may change.
    """

    __slots__ = ("target", "what")

    def __init__(self, target: str | os.PathLike[str] | int, what: str) -> None:
        self.target = target if isinstance(target, int) else os.path.abspath(target)
        self.what = what
        with _guard:
            _announced.add(self)

    def end(self) -> None:
        with _guard:
            _announced.discard(self)

    def __enter__(self) -> Announcement:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()


class OwnFiles:
    """Distinguishes files of asyncpush from those of the user, as of the time it is created.

    Files and folders are identified by device and inode, so that links, hard links and other
    spellings of a path make no difference. It reads the disk, so use it in a thread.
    """

    def __init__(self) -> None:
        self._known: dict[_Key, str] = {}
        self._folders: dict[str, str | None] = {}
        with _guard:
            targets = [(each.target, each.what) for each in _announced]
        for target, what in (*targets, *((path, LOG) for path in _log_files())):
            with contextlib.suppress(OSError):
                self._add(target, what)

    def _add(self, target: str | int, what: str) -> None:
        self._known[_key(os.stat(target))] = what
        if isinstance(target, str) and os.path.isdir(target):
            with os.scandir(target) as entries:  # hard links to them, from elsewhere
                for entry in entries:
                    self._known[_key(entry.stat())] = what

    def file(self, path: str, status: os.stat_result) -> str | None:
        """What this file is, if it is ours; else None. `status` is the status of the file itself,
        with links followed."""
        what = self._known.get((status.st_dev, status.st_ino))
        if what is not None:
            return what
        folder = path[: path.rfind(os.sep)]
        if folder in self._folders:  # that of another file, most often
            return self._folders[folder]
        return self.folder(os.path.dirname(path))

    def folder(self, path: str) -> str | None:
        """What this folder is, or one above it, if that is ours; else None."""
        unknown = []
        while path not in self._folders:
            unknown.append(path)
            above = os.path.dirname(path)
            if above == path:
                break
            path = above
        what = self._folders.get(path)
        for path in reversed(unknown):
            what = self._folders[path] = what or self._kind_of(path)
        return what

    def _kind_of(self, path: str) -> str | None:
        try:
            status = os.lstat(path)
            if os.path.islink(path):
                return self.folder(os.path.realpath(path, strict=True))
        except OSError:  # opening it will report the error
            return None
        return self._known.get(_key(status)) or _recognised(path)


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino


def _recognised(path: str) -> str | None:
    """Recognise a folder by the files in it. Nothing is opened: closing an SQLite file would drop
    its locks."""
    parent, name = os.path.split(path)
    if name == "journal" and _has(path, "journal.sqlite3", "locks"):
        return JOURNAL
    if name in _HUB_FOLDERS and _has(parent, "xet/secret", "tmp"):
        return HUB
    return None


def _has(folder: str, *names: str) -> bool:
    return all(os.path.exists(os.path.join(folder, name)) for name in names)


def _log_files() -> Iterator[str]:
    """Files that the library's log is written to: messages about a push would change them."""
    ours = logging.getLogger("asyncpush")
    loggers = [ours]
    loggers += [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if name.startswith("asyncpush.") and isinstance(logger, logging.Logger)
    ]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    if ours.propagate and ours.isEnabledFor(logging.INFO):
        handlers += [each for each in logging.root.handlers if each.level <= logging.INFO]
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            yield handler.baseFilename


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file next to the target, sync it, and rename it: readers never see half of it. A link
    stays a link. If the target is not a regular file (`/dev/stdout`, a pipe), it is written to
    directly. `mode` is the file's mode, less the umask."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    fresh = path.with_name(f".{path.name}.{unique}{UNFINISHED}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a new name in it survives a power failure, if the system supports
    it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Hold an advisory lock on an open file, until `unlock_file`, or until the file is closed or
    its process ends. A shared lock may be held by several at once; any other lock excludes all
    others.

    Where the system has no such locks (Windows) nothing is locked. Raises `BlockingIOError` when
    another holder exists and `wait` is False, `OSError` if the file system does not support locks.
    """
    if sys.platform != "win32" and fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)


def unlock_file(descriptor: int) -> None:
    """Release the lock at once, even if a forked child has the file open as well."""
    if sys.platform != "win32" and fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
