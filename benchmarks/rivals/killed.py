"""asyncpush, killed once `kill_at` of the bytes are sent (SIGKILL), then started again.

The server counts what arrived of both pushes; `received` over the size is what the kill cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

from benchmarks.rivals.measuring import TOKEN, Figures, Job


def main() -> None:
    job, figures = Job.given(), Figures()
    if "child" in job.options:
        asyncio.run(push(job, job.options["child"]))
        return
    with figures.measuring():
        for kill_at in (job.options["kill_at"], None):
            argument = json.dumps({**job.as_dict(), "options": {"child": kill_at}})
            done = subprocess.run([sys.executable, "-m", __spec__.name, argument])
            if done.returncode != (0 if kill_at is None else -signal.SIGKILL):
                raise AssertionError(f"the push ended with {done.returncode}")
    figures.print()


async def push(job: Job, kill_at: float | None) -> None:
    import asyncpush

    def on_progress(progress: asyncpush.UploadProgress) -> None:
        if kill_at is not None and progress.bytes_sent >= kill_at * progress.total_bytes > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    config = asyncpush.UploadConfig(
        cache_dir=job.scratch, progress="none", progress_callback=on_progress
    )
    await asyncpush.push_to_hub(
        job.repo, job.folder, token=TOKEN, endpoint=job.endpoint, config=config
    )


if __name__ == "__main__":
    main()
