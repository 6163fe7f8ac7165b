"""Files that a command leaves behind, whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from asyncpush.outputs import UNFINISHED


def write_atomically(path: Path, content: bytes) -> None:
    """Write next to `path`, to the disk, and rename: nobody ever reads half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with open(fresh, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(FileNotFoundError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, to the disk: a power cut does not take it away again."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # whoever wrote last was cut short
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have a new name in the folder survive a power cut too, where folders can be synced."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
