"""Training steps (NumPy, one thread) beside a push. Options: client ("asyncpush", "official", or
"from memory": a copy of the model's tensors, by a `BackgroundUploader`), and what the client takes.

Both share one core. The criterion: n steps beside a push take no longer than n steps alone and the
CPU time of the push, the copy of the tensors included. `step_slowdown` is what is beyond that, as a
share of a step alone: 0.1 is ten percent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rivals.measuring import TOKEN, Figures, Job, cpu_seconds

ALONE = 60


def main() -> None:
    job, figures = Job.given(), Figures()
    # One thread, before NumPy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    step = _step()
    push = CLIENTS[job.options["client"]](job)
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


def _from_memory(job: Job) -> Callable[[], Any]:
    import numpy as np

    import asyncpush

    size = sum(path.stat().st_size for path in Path(job.folder).rglob("*") if path.is_file())
    model = {
        f"layers.{number}.weight": np.random.default_rng(number).random(size // 32, np.float32)
        for number in range(8)
    }
    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none")

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
