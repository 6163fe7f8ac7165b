"""What asyncpush writes by itself while it pushes, so that none of it is taken for a source.

The journal holds presigned URLs and changes under a push that reads it; a file of events grows with
every event of the push that would send it. Whoever opens such a file or folder announces it here,
and whoever collects a source asks `OwnFiles`. What other processes write is recognised by the names
in it. The library's loggers, locks on files, and the one way to write a file atomically, are here
as well.
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
"""Whether this system has locks on files."""

JOURNAL = "the resume journal of asyncpush"
SPOOL = "where asyncpush keeps streams until they are sent"
XET = "hf_xet's cache and log"
HUB = "the embedded Hub's own data"
UNFINISHED = ".asyncpush-tmp"
"""How the names of files end that are renamed when they are whole; killed commands leave them."""

LOG = "a log that asyncpush's own messages go to"

_HUB_FOLDERS = frozenset(
    (
        *("models", "datasets", "spaces", "kernels", "buckets", "lfs", "xet", "locks", "tmp"),
        *("moved", "hooks", "oauth"),
    )
)
_Key: TypeAlias = tuple[int, int]  # device and inode: the same for every link and path


class _Log(logging.Logger):
    """Logging reports what goes wrong with a stream, but not that stderr itself is closed: that
    comes out as an error of whoever logs. What is logged of a push never harms it."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().callHandlers(record)


def library_logger(name: str) -> logging.Logger:
    """The logger `asyncpush.` and `name`."""
    logger = logging.getLogger(f"asyncpush.{name}")
    if type(logger) is logging.Logger:
        logger.__class__ = _Log
    return logger


_announced: set[Announcement] = set()
_guard = threading.Lock()


class Announcement:
    """Says, until `end` or the end of `with`, that this process writes to a file, to a folder (all
    below it is meant) or to an open descriptor.

    `what` completes "'out/log.jsonl' is …". The path need not be there yet, and the working
    directory may change.
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
    """Tells files of asyncpush from those of the user, as things are when it is made.

    Files and folders are known by device and inode, so that links, hard links and other spellings
    of a path make no difference. Looks at the disk: ask it in a thread.
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
        """What this file is, where it is ours; `status` is that of what `path` leads to."""
        return self._known.get(_key(status)) or self.folder(os.path.dirname(path))

    def folder(self, path: str) -> str | None:
        """What this folder, or one above it, is, where that is ours."""
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
        except OSError:  # whoever opens it will tell
            return None
        return self._known.get(_key(status)) or _recognised(path)


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino


def _recognised(path: str) -> str | None:
    """By what lies there. Nothing is opened: closing a file of SQLite's would drop its locks."""
    parent, name = os.path.split(path)
    if name == "journal" and _has(path, "journal.sqlite3", "locks"):
        return JOURNAL
    if name in _HUB_FOLDERS and _has(parent, "xet/secret", "tmp"):
        return HUB
    return None


def _has(folder: str, *names: str) -> bool:
    return all(os.path.exists(os.path.join(folder, name)) for name in names)


def _log_files() -> Iterator[str]:
    """Files that the library's log goes to: its messages about a push would change them."""
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
    """Write next to the file, to the disk, and rename: nobody ever reads half of it. A link stays
    a link; what is no regular file (`/dev/stdout`, a pipe) is written to as it is. `mode` is that
    of the file, less the umask."""
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
    """Have a new name in the folder survive a power cut too, where folders can be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Hold an advisory lock on an open file, until `unlock_file`, or until the file is closed or
    its process ends. Several may share one; a lock that is not shared excludes all others.

    Where the system has no such locks (Windows) nothing is locked. Raises `BlockingIOError` when
    another holds it and `wait` is off, `OSError` where the file system has none.
    """
    if sys.platform != "win32" and fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)


def unlock_file(descriptor: int) -> None:
    """Let go of the lock at once, though a forked child may have the file open too."""
    if sys.platform != "win32" and fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
