"""The journal's files on disk: keeps them private to this user, and renames damaged ones. Does not
use SQLite."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from functools import lru_cache
from pathlib import Path

from asyncpush.options import is_temporary

FILE_NAME = "journal.sqlite3"

NEGLECTED_AFTER = 3600.0
"""Seconds after which a journal is cleaned up again."""

KEPT_ASIDE = 2
"""Damaged journals that are kept for inspection."""

_SIDE_FILES = ("-wal", "-shm", "-journal")
_NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs"),
        *("virtiofs", "wekafs"),
    )
)


_NO_HOME = "there is no home directory to keep it in; set ASYNCPUSH_CACHE to a folder for it"


class DamagedError(Exception):
    """The file is not a journal that can be read; the text says what it is."""


def private_folder(directory: Path) -> Path:
    """`directory`/journal, private to this user. It is a folder of its own, so that no existing
    folder of the user's has its mode changed. Raises `OSError`."""
    if is_temporary(directory):
        raise FileNotFoundError(errno.ENOENT, _NO_HOME)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = directory / "journal"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Both the link, if it is one, and its target.
    for status in (folder.lstat(), folder.stat()):
        if not _is_ours(status):
            raise PermissionError(1, "belongs to another user", str(folder))
    if not stat.S_ISDIR(folder.stat().st_mode):
        raise NotADirectoryError(20, "is not a folder", str(folder))
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def is_neglected(folder: Path) -> bool:
    """Whether there is a database that has neither been cleaned up nor written to for an hour, or
    whose time is in the future."""
    try:
        modified_at = (folder / FILE_NAME).stat().st_mtime
    except OSError:
        return False
    return abs(time.time() - modified_at) > NEGLECTED_AFTER


def note_cleaned(path: Path) -> None:
    """Note, by its modification time, that the database is cleaned up now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def prepare_file(path: Path) -> None:
    """Make sure that there is a file of this user with mode 0600, without ever opening an existing
    one: closing a descriptor of a file drops the locks that SQLite has on it elsewhere in the
    process."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        # (A log left from a database that is gone does no harm: SQLite removes it.)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError("it is not a file")
    if not _is_ours(status):
        raise DamagedError("it belongs to another user")
    if stat.S_IMODE(status.st_mode) != 0o600:
        path.chmod(0o600)


def on_network(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether other hosts may have the same files open (as far as Linux can tell)."""
    name = _filesystem(folder.stat().st_dev, mounts)
    return name in _NETWORK or name.startswith("fuse.")


@lru_cache
def in_memory(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether files of this device exist only in memory (as far as Linux can tell): nothing is ever
    written back there, so that a write through a memory map changes neither mtime nor ctime."""
    return _filesystem(device, mounts) in ("tmpfs", "ramfs")


def _filesystem(device: int, mounts: Path) -> str:
    """Its kind, or an empty string where that is unknown."""
    if sys.platform == "win32":
        return ""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if wanted in mount.split()[2:3]:
            return kind.partition(" ")[0]
    return ""


def set_aside(path: Path) -> Path:
    """Rename the file and its logs, keeping the last few such files. Raises `OSError`."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside = next(
        candidate
        for number in range(1000)
        if not os.path.lexists(
            candidate := _with_suffix(path, f".corrupt-{stamp}" + (f"-{number}" if number else ""))
        )
    )
    for suffix in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            _with_suffix(path, suffix).rename(_with_suffix(aside, suffix))
    path.rename(aside)
    forget_aside(path, keep=KEPT_ASIDE)
    return aside


def forget_aside(path: Path, *, keep: int = 0) -> int:
    """Remove all but the newest `keep` of the files set aside: they may contain presigned URLs.
    Returns how many journals were removed. A folder is left alone: it was never a journal."""
    asides = [
        found
        for found in path.parent.glob(path.name + ".corrupt-*")
        if not found.name.endswith(_SIDE_FILES) and not found.is_dir()
    ]
    asides.sort(key=lambda aside: aside.lstat().st_ctime_ns)  # The time of the rename.
    old = asides[: len(asides) - keep]
    for aside in old:
        for suffix in ("", *_SIDE_FILES):
            _with_suffix(aside, suffix).unlink(missing_ok=True)
    return len(old)


def size_on_disk(path: Path) -> int:
    """Bytes of the database and its logs."""
    total = 0
    for suffix in ("", *_SIDE_FILES):
        with contextlib.suppress(OSError):
            total += _with_suffix(path, suffix).lstat().st_size
    return total


def has_log(path: Path) -> bool:
    """Whether there is a write-ahead log beside the database: it is open, or was never closed."""
    for suffix in ("-wal", "-journal"):
        with contextlib.suppress(OSError):
            if _with_suffix(path, suffix).lstat().st_size:
                return True
    return False


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def file_key(path: Path) -> tuple[int, int] | None:
    """Identifies the file that has this name now; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
