"""What happens to a file while it is pushed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite(path: Path) -> None:
    """Same size, other bytes, and a time that differs only in nanoseconds."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(path: Path) -> None:
    """What a trainer does that saves atomically: another file under the same name."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def vanish(path: Path) -> None:
    path.unlink()


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


STATE, TABLE = 99, 70_000


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Files that change 200 times a second and more: a log grows, a state is replaced, and a table
    is overwritten in place."""
    folder.mkdir()
    _step(folder, 0)
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.wait(0.004):
            step += 1
            _step(folder, step)

    writer = threading.Thread(target=train)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def _step(folder: Path, step: int) -> None:
    with (folder / "log.txt").open("ab") as log:
        log.write(b"%d " % step)
    (folder / ".state").write_bytes(b"%d" % (step % 10) * STATE)
    (folder / ".state").replace(folder / "state.json")
    with (folder / "table.bin").open("r+b" if step else "wb") as table:
        table.write(b"%c" % (97 + step % 26) * TABLE)


def check_trained(folder: Path, stored: Mapping[str, bytes]) -> None:
    """What was stored of each file is what it was at one moment."""
    assert (folder / "log.txt").read_bytes().startswith(stored["log.txt"])
    assert len(stored["log.txt"]) > 1
    for name, size in (("state.json", STATE), ("table.bin", TABLE)):
        assert len(stored[name]) == size
        assert len(set(stored[name])) == 1, f"{name} is a mixture"
