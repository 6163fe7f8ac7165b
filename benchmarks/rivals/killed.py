"""asyncpush, killed once the store has `kill_at` of the bytes (SIGKILL), then started again.
Option: fixed_parts.

The server counts what arrived of both pushes; `received` over the size is what the kill cost.
What the client says that it has sent is no measure: a part of it waits in the kernel's buffers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rivals.measuring import RECEIVED, TOKEN, Figures, Job
from benchmarks.rivals.ours import fix_parts

POLL_INTERVAL = 0.02


def main() -> None:
    job, figures = Job.given(), Figures()
    if "child" in job.options:
        asyncio.run(push(job))
        return
    size = sum(path.stat().st_size for path in Path(job.folder).rglob("*") if path.is_file())
    kill_at = job.options["kill_at"]
    argument = json.dumps({**job.as_dict(), "options": {**job.options, "child": True}})
    with figures.measuring():
        with subprocess.Popen([sys.executable, "-m", __spec__.name, argument]) as child:
            wait_for(job.endpoint, int(kill_at * size), child)
            child.kill()
        if child.returncode != -signal.SIGKILL:
            raise AssertionError(f"the push ended with {child.returncode}")
        subprocess.run([sys.executable, "-m", __spec__.name, argument], check=True)
    figures.print()


def wait_for(endpoint: str, received: int, child: subprocess.Popen[bytes]) -> None:
    """Wait until the store has received this many bytes, or the child has ended."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    while child.poll() is None:
        connection.request("GET", RECEIVED)
        if json.load(connection.getresponse()) >= received:
            return
        time.sleep(POLL_INTERVAL)


async def push(job: Job) -> None:
    import asyncpush

    options: dict[str, Any] = {}
    if "fixed_parts" in job.options:
        fix_parts(job.options["fixed_parts"], options)
    config = asyncpush.UploadConfig(cache_dir=job.scratch, progress="none", **options)
    await asyncpush.push_to_hub(
        job.repo, job.folder, token=TOKEN, endpoint=job.endpoint, config=config
    )


if __name__ == "__main__":
    main()
