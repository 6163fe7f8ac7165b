"""Training steps (NumPy, one thread) beside a push. Options: client, and what the client takes.

Both share one core, so a step is longer by the CPU that the push takes; what is beyond that is
what the push costs the training. `step_slowdown` is that: 0.1 is ten percent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.rivals.measuring import TOKEN, Figures, Job, cpu_seconds

ALONE = 60


def main() -> None:
    job, figures = Job.given(), Figures()
    # One thread, before NumPy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    step = _step()
    push = _ours(job) if job.options["client"] == "asyncpush" else _official(job)
    step()
    began = time.perf_counter()
    for _ in range(ALONE):
        step()
    alone = (time.perf_counter() - began) / ALONE

    pushing = threading.Thread(target=push)
    steps = 0
    began, cpu, own = time.perf_counter(), cpu_seconds(), time.thread_time()
    pushing.start()
    while pushing.is_alive():
        step()
        steps += 1
    wall = time.perf_counter() - began
    own = time.thread_time() - own
    others = cpu_seconds() - cpu - own
    figures.wall, figures.cpu = wall, others
    figures.more["step_slowdown"] = (wall - others) / max(steps, 1) / alone - 1
    figures.more["step_cpu_slowdown"] = own / max(steps, 1) / alone - 1
    figures.print()


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


def _official(job: Job) -> Callable[[], Any]:
    os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    from huggingface_hub import HfApi

    api = HfApi(endpoint=job.endpoint, token=TOKEN)

    def push() -> None:
        api.upload_folder(repo_id=job.repo, folder_path=job.folder, run_as_future=True).result()

    return push


if __name__ == "__main__":
    main()
