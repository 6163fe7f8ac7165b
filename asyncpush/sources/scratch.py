"""A folder for files that must not outlive their process; what a killed one left is removed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import BinaryIO

from asyncpush.sources.walk import SCRATCH_PREFIX

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows: what a killed process leaves stays there
    fcntl = None  # type: ignore[assignment]

# Locks of a network file system may hold on one machine alone: orphans of others are left alone.
_PREFIX = f"{SCRATCH_PREFIX}{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"


class ScratchFolder:
    """A new folder in `parent` that this user alone can enter, until `remove`.

    It is locked while in use: folders of this kind in `parent` that nobody has locked are those
    of killed processes, and making a new one removes them. All of this blocks.
    """

    __slots__ = ("_count", "_lock", "path")

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(parent)
        while True:
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
            self._lock = _lock(self.path, wait=True)
            # Before it was locked, another process may have taken it for an orphan.
            if os.path.isdir(self.path):
                break
            _unlock(self._lock)
        self._count = 0

    def new_file(self) -> BinaryIO:
        """A new empty file that only this user can read, open for writing, with a `name`."""
        self._count += 1
        return open(os.path.join(self.path, str(self._count)), "xb", opener=_private)

    def remove(self) -> None:
        """Remove the folder and all files in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        _unlock(self._lock)


def _remove_orphans(parent: Path) -> None:
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in found:
        lock = _lock(path, wait=False)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            _unlock(lock)


def _lock(folder: str, *, wait: bool) -> int | None:
    """A descriptor that holds the lock; None when another has it or there are no locks here."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
