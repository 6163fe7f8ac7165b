"""The clock that every Python rival is measured with, and the job that it is given."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "hf_benchmark"
RECEIVED = "/benchmarks/received"
"""Where the benchmark's Hub tells how many bytes its store has received."""
WARM_UP = "a line that pays for lazy imports and the first connection\n"


@dataclass(frozen=True, slots=True)
class Job:
    """What to push, and where to; `options` are the rival's own."""

    endpoint: str
    repo: str
    folder: str
    scratch: str
    s3: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def given(cls) -> Job:
        return cls(**json.loads(sys.argv[1]))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def copy(self) -> Path:
        """The files, in a folder where they may be changed."""
        folder = Path(self.scratch, "copy")
        shutil.copytree(self.folder, folder)
        return folder

    @property
    def warm_up_repo(self) -> str:
        return "bench/warm-up"


def change(folder: Path, share: float) -> None:
    """Overwrite a share of each file's bytes, in 16 stretches."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        with path.open("r+b") as file:
            for number in range(16):
                file.seek(size * number // 16)
                file.write(os.urandom(int(size * share / 16)))


@dataclass(slots=True)
class Figures:
    """Seconds and bytes; `import_seconds` is never part of the rest."""

    wall: float = 0.0
    cpu: float = 0.0
    import_seconds: float = 0.0
    more: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def importing(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.import_seconds += time.perf_counter() - began

    @contextmanager
    def measuring(self) -> Iterator[None]:
        cpu, began = cpu_seconds(), time.perf_counter()
        yield
        self.wall = time.perf_counter() - began
        self.cpu = cpu_seconds() - cpu

    def print(self) -> None:
        output = {"wall": self.wall, "cpu": self.cpu, "import_seconds": self.import_seconds}
        print(json.dumps({**output, "peak_rss": peak_memory(), **self.more}), flush=True)


def cpu_seconds() -> float:
    """User and system time of this process with all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory() -> int:
    """Bytes. Linux's `ru_maxrss` would count the parent that this process was forked from."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
