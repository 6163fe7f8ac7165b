"""Gigabytes: opt-in, with `pytest -m big`. The uploader runs in a process of its own, so that its
peak memory is its own."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncpush.localhub import serve_in_thread

pytestmark = [pytest.mark.big, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SIZE = 5_800_000_000
PEAK_MEMORY = 150 << 20
PEAK_BY_XET = 300_000_000

PUSH = """
import asyncio, sys
import asyncpush, orjson
from asyncpush.events import RequestStarted
from benchmarks.rivals.measuring import cpu_seconds, peak_memory
endpoint, source, cache, limit = sys.argv[1:]
options = asyncpush.PushOptions(max_shard_size=limit or None)
twice = []

def hear(record):
    event = record.event
    if isinstance(event, RequestStarted) and event.fields.get("again"):
        twice.append(event.fields["size"])

config = asyncpush.UploadConfig(cache_dir=cache, progress="none", events=hear)
result = asyncio.run(asyncpush.push_to_hub(
    "me/big", source, options, token="any", endpoint=endpoint, config=config
))
sys.stdout.buffer.write(orjson.dumps({
    "verified": result.verified, "sent": result.bytes_transferred,
    "peak": peak_memory(), "seconds": result.elapsed_seconds, "cpu": cpu_seconds(),
    "files": result.files_uploaded, "routes": {each.route: 1 for each in result.receipts},
    "twice": sum(twice),
}))
"""


def sparse_model(path: Path) -> Path:
    """5.8 GB with a few random regions, one across a part boundary and one at the very end."""
    rng = random.Random(58)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset in (0, 8_000_000 - 5, 3_000_000_000, SIZE - 100_000):
            file.seek(offset)
            file.write(rng.randbytes(100_000))
    return path


def push(model: Path, limit: str, tmp_path: Path, *, xet: bool = False) -> Any:
    with serve_in_thread(tmp_path / "hub", xet=xet) as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH, hub.url, str(model), str(tmp_path / "cache"), limit],
            check=True,
            capture_output=True,
            cwd=ROOT,
        )
    return orjson.loads(done.stdout)


def test_5_8_gb_are_pushed_within_150_mb(tmp_path: Path) -> None:
    """REQ-002, invariant 7."""
    model = sparse_model(tmp_path / "model.safetensors")
    output = push(model, "", tmp_path)
    assert output["verified"]
    # Each byte once, but for parts that crawled and were sent a second time beside the first.
    assert SIZE <= output["sent"] <= SIZE + output["twice"]
    assert output["peak"] < PEAK_MEMORY, output
    sys.stderr.write(f"{output}\n")


def test_a_model_is_sharded_within_150_mb(tmp_path: Path) -> None:
    """Twelve tensors of 250 MB; the disk gets no byte of ours but the journal's."""
    size, count = 250_000_000, 12
    entries = {
        f"layer.{number}": {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(count)
    }
    header = orjson.dumps(entries)
    model = tmp_path / "model.safetensors"
    with model.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size * count)
    output = push(model, "1GB", tmp_path)

    assert sorted(output["files"]) == [
        *(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    assert output["peak"] < PEAK_MEMORY, output
    written = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*"))
    assert written < 10 << 20
    sys.stderr.write(f"{output}\n")


@pytest.mark.parametrize(
    ("count", "limit"), [(1, PEAK_BY_XET), (8, PEAK_BY_XET), (1000, 1.1 * PEAK_BY_XET)]
)
def test_a_gibibyte_goes_up_by_xet_within_300_mb(count: int, limit: float, tmp_path: Path) -> None:
    """In one file, in eight, or in a thousand. Measured on a loaded machine: 223 to 278 MB with
    one and eight, 278 to 292 with a thousand (501 to 738 if nothing waits for room)."""
    rng = random.Random(count)
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(count):
        with (folder / f"{number}.bin").open("wb") as file:
            size = (1 << 30) // count
            for start in range(0, size, 16 << 20):
                file.write(rng.randbytes(min(16 << 20, size - start)))
    output = push(folder, "", tmp_path, xet=True)

    assert output["verified"]
    assert output["routes"] == {"xet": 1}
    assert output["sent"] > (1 << 30) - count
    assert output["peak"] < limit, output["peak"]
    sys.stderr.write(f"{output['peak']:,} bytes\n")


def stored(folder: Path) -> int:
    """The bytes that have arrived, with those of xorbs that have arrived in part."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it has been moved
            total += path.stat().st_size
    return total


def test_a_xet_push_killed_at_half_resends_little(tmp_path: Path) -> None:
    """512 MiB. What is lost is the xorbs on their way: at most two of 64 MiB, here one at most.
    Measured: 1.00 to 1.02 times the bytes."""
    size = 512 << 20
    model = tmp_path / "model.bin"
    with model.open("wb") as file:
        for _ in range(size >> 24):
            file.write(random.randbytes(1 << 24))
    with serve_in_thread(tmp_path / "hub", xet=True) as hub:
        command = [sys.executable, "-c", PUSH, hub.url, str(model), str(tmp_path / "cache"), ""]
        first = subprocess.Popen(command, cwd=ROOT)
        while stored(tmp_path / "hub") < size // 2:
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
        first.wait()
        before = stored(tmp_path / "hub")
        done = subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    output = orjson.loads(done.stdout)
    sys.stderr.write(f"{before} before, {output}\n")
    assert output["verified"]
    assert output["routes"] == {"xet": 1}
    assert before + output["sent"] <= 1.1 * size


TENSORS = """
import asyncio, sys, time
import asyncpush, numpy as np, orjson
from benchmarks.rivals.measuring import cpu_seconds, peak_memory

endpoint, cache, transfer = sys.argv[1:]
config = asyncpush.UploadConfig(cache_dir=cache, progress="none", transfer=transfer)

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))

async def push(count, shape):
    rng = np.random.default_rng(count)
    model = {str(i): rng.integers(0, 255, shape, np.uint8) for i in range(count)}
    model["0"] = model["0"].T
    before, cpu = resident(), cpu_seconds()
    result = await asyncpush.push_to_hub(
        f"me/{count}", asyncpush.Tensors(model), token="any", endpoint=endpoint, config=config
    )
    return {
        "verified": result.verified, "above": peak_memory() - before,
        "route": result.receipts[0].route, "size": result.receipts[0].size,
        "seconds": result.elapsed_seconds, "cpu": cpu_seconds() - cpu,
    }

asyncio.run(push(2, (100, 100)))  # all is imported
sys.stdout.buffer.write(orjson.dumps(asyncio.run(push(16, (16_000, 16_000)))))
"""


@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_4_gb_of_tensors_are_pushed_without_a_copy(transfer: str, tmp_path: Path) -> None:
    """At most 200 MB above what is there. Measured: 20 MB by LFS, 188 MB by Xet."""
    with serve_in_thread(tmp_path / "hub", xet=transfer == "xet") as hub:
        done = subprocess.run(
            [sys.executable, "-c", TENSORS, hub.url, str(tmp_path / "cache"), transfer],
            check=True,
            capture_output=True,
            cwd=ROOT,
        )
    output = orjson.loads(done.stdout)
    sys.stderr.write(f"{output}\n")
    assert output["verified"]
    assert output["route"] == transfer
    assert output["size"] > 4_000_000_000
    assert output["above"] < 200 << 20, output
