"""Training steps (NumPy, one thread) beside a push. Options: client ("asyncpush", "official", or
"from memory": a copy of the model's tensors, by a `BackgroundUploader`) and, from memory, the
transfer.

Both share one core. The criterion: n steps beside a push take no longer than n steps alone and the
CPU time of the push, the copy of the tensors included. What is beyond that, as a share of a step
alone, is `step_slowdown`: 0.1 is ten percent. It is the sum of two things that other processes on
the machine change little, as wall time would:

* `step_cpu_slowdown`: the CPU time of a step. It grows with every switch between threads, and where
  the push takes the processor's caches.
* `step_idle`: the time in which the core had nothing to do although a step was under way. The step
  waited for the interpreter's lock while its holder waited for something else.

`step_blocked` is not judged: how long a step waited for anything but the core, which is the lock
above all. The push computes meanwhile, unless other processes take the core from it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rivals.measuring import TOKEN, Figures, Job, cpu_seconds

ALONE = 2.0
"""Seconds of steps alone, before the push and after it."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: of the clock on the wall, of CPU time (this thread's, the whole process's), of this
    thread's wait for a core, and of the core without work. The last two are of Linux alone."""

    wall: float
    own: float
    process: float
    queued: float
    idle: float

    @classmethod
    def now(cls, core: int | None) -> Clocks:
        return cls(
            time.perf_counter(),
            time.thread_time(),
            cpu_seconds(),
            _queued_seconds(),
            _idle_seconds(core),
        )

    def __sub__(self, other: Clocks) -> Clocks:
        return Clocks(
            self.wall - other.wall,
            self.own - other.own,
            self.process - other.process,
            self.queued - other.queued,
            self.idle - other.idle,
        )


def main() -> None:
    job, figures = Job.given(), Figures()
    # One thread, before NumPy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    core = _only_core()
    step = _step()
    push = CLIENTS[job.options["client"]](job)
    step()
    alone = [_alone(step)]
    pushing = threading.Thread(target=push)
    steps = 0
    began = Clocks.now(core)
    pushing.start()
    while pushing.is_alive():
        step()
        steps += 1
    took = Clocks.now(core) - began
    alone.append(_alone(step))
    figures.wall, figures.cpu = took.wall, took.process - took.own
    figures.more |= slowdown(took, max(steps, 1), sum(alone) / len(alone))
    figures.print()


def slowdown(took: Clocks, steps: int, alone: float) -> dict[str, float]:
    """What `steps` steps beside a push lost, as shares of a step alone, which takes `alone` seconds
    of CPU."""
    cpu = took.own / steps / alone - 1
    idle = took.idle / steps / alone
    blocked = max(0.0, took.wall - took.own - took.queued) / steps / alone
    return {
        "step_slowdown": cpu + idle,
        "step_cpu_slowdown": cpu,
        "step_idle": idle,
        "step_blocked": blocked,
    }


def _alone(step: Callable[[], Any]) -> float:
    """CPU seconds of one step."""
    steps, began, cpu = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < ALONE:
        step()
        steps += 1
    return (time.thread_time() - cpu) / steps


def _only_core() -> int | None:
    """The one core that this process may use, if there is only one."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return next(iter(cores)) if len(cores) == 1 else None


def _queued_seconds() -> float:
    """How long this thread was ready and waited for a core."""
    try:
        text = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    except OSError:
        return 0.0
    return int(text.split()[1]) / 1e9


def _idle_seconds(core: int | None) -> float:
    """How long a core had nothing to do, waiting for a disk included."""
    if core is None:
        return 0.0
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    fields = next(line.split() for line in lines if line.startswith(f"cpu{core} "))
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def _step() -> Callable[[], Any]:
    import numpy as np

    weights = np.random.default_rng(0).random((384, 384), dtype=np.float32)

    def step() -> Any:
        # Much small work between the large: as a training loop holds and drops the GIL.
        total = 0.0
        for _ in range(8):
            total += float((weights @ weights).sum())
            total += sum(number * 0.5 for number in range(500))
        return total

    return step


def _ours(job: Job) -> Callable[[], Any]:
    import asyncio

    import asyncpush

    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none")
    return lambda: asyncio.run(
        asyncpush.push_to_hub(
            job.repo, job.folder, token=TOKEN, endpoint=job.endpoint, config=config
        )
    )


def _from_memory(job: Job) -> Callable[[], Any]:
    import numpy as np

    import asyncpush

    size = sum(path.stat().st_size for path in Path(job.folder).rglob("*") if path.is_file())
    model = {
        f"layers.{number}.weight": np.random.default_rng(number).random(size // 32, np.float32)
        for number in range(8)
    }
    config = asyncpush.UploadConfig(
        cache_dir=job.scratch, progress="none", transfer=job.options["transfer"]
    )

    def push() -> None:
        with asyncpush.BackgroundUploader(TOKEN, job.endpoint, config) as background:
            background.push(job.repo, asyncpush.Tensors(model, copy=True)).result()

    return push


def _official(job: Job) -> Callable[[], Any]:
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    from huggingface_hub import HfApi

    api = HfApi(endpoint=job.endpoint, token=TOKEN)

    def push() -> None:
        api.upload_folder(repo_id=job.repo, folder_path=job.folder, run_as_future=True).result()

    return push


CLIENTS = {"asyncpush": _ours, "from memory": _from_memory, "official": _official}


if __name__ == "__main__":
    main()
