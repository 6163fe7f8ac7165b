"""Where tests write."""

from __future__ import annotations

import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30
"""Bytes that a file system in memory must have free to be used: no test of an ordinary run needs a
quarter of it."""


def in_memory() -> str | None:
    """A folder in memory, where the machine has one with room. Tests make real git repositories and
    sync real journals, thousands of them: on a disk that takes several times as long."""
    return str(MEMORY) if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM else None
