"""Gigabytes: opt-in, with `pytest -m big`. The uploader runs in a process of its own, so that its
peak memory is its own."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from asyncpush.localhub import serve_in_thread

pytestmark = [pytest.mark.big, pytest.mark.timeout(900)]

SIZE = 5_800_000_000
PEAK_MEMORY = 150 << 20

PUSH = """
import asyncio, resource, sys
import asyncpush, orjson
endpoint, source, cache = sys.argv[1:]
config = asyncpush.UploadConfig(cache_dir=cache, progress="none")
push = asyncpush.push_to_hub("me/big", source, token="any", endpoint=endpoint, config=config)
result = asyncio.run(push)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
usage = resource.getrusage(resource.RUSAGE_SELF)
sys.stdout.buffer.write(orjson.dumps({
    "verified": result.verified, "sent": result.bytes_transferred, "peak": peak,
    "seconds": result.elapsed_seconds, "cpu": usage.ru_utime + usage.ru_stime,
}))
"""


def sparse_model(path: Path) -> Path:
    """5.8 GB with a few random regions, one across a part boundary and one at the very end."""
    chance = random.Random(58)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset in (0, 8_000_000 - 5, 3_000_000_000, SIZE - 100_000):
            file.seek(offset)
            file.write(chance.randbytes(100_000))
    return path


def test_a_model_of_5_8_gb_goes_up_in_parts_within_150_mb(tmp_path: Path) -> None:
    """REQ-002, invariant 7."""
    model = sparse_model(tmp_path / "model.safetensors")
    with serve_in_thread(tmp_path / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH, hub.url, str(model), str(tmp_path / "cache")],
            check=True,
            capture_output=True,
        )
    told = orjson.loads(done.stdout)
    assert told["verified"]
    assert told["sent"] == SIZE
    assert told["peak"] < PEAK_MEMORY, told
    sys.stderr.write(f"{told}\n")
