"""Any program, from its start to its end: s5cmd, rclone, and the command lines.

Its words may hold {endpoint}, {repo}, {folder}, {s3}, {bucket} and {scratch}.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rivals.measuring import TOKEN, Figures, Job
from benchmarks.serving import BUCKET
from benchmarks.tools import tool


def main() -> None:
    job, figures = Job.given(), Figures()
    values = {
        "endpoint": job.endpoint,
        "repo": job.repo,
        "folder": job.folder,
        "s3": job.s3 or "",
        "bucket": BUCKET,
        "scratch": job.scratch,
    }
    name, *words = (word.format(**values) for word in job.options["command"])
    environment = {
        **os.environ,
        "HF_ENDPOINT": job.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": job.scratch,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "ASYNCPUSH_CACHE": job.scratch,
        "AWS_REGION": "us-east-1",
    }
    log = Path(job.scratch, "output")
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [tool(name) or name, *words], stdout=output, stderr=output, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        figures.wall = time.perf_counter() - began
    if status:
        sys.exit(f"{name} failed: {log.read_text()[-2000:]}")
    figures.cpu = usage.ru_utime + usage.ru_stime
    figures.more["peak_rss"] = usage.ru_maxrss << 10
    figures.print()


if __name__ == "__main__":
    main()
