"""A thousand pushes in one process under 5 % random faults: opt-in, with `pytest -m soak`."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.faults import KINDS, FaultLayer

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

PUSHES = 1000
SHARE = 0.05
PART_SIZE = 64 << 10
WARM_UP = 100
KINDS_USED = ("500", "503", "504", "reset mid-body", "done, then reset", "done, then 504")


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_a_thousand_pushes_leave_nothing_behind(tmp_path: Path) -> None:
    rng = random.Random(11)
    layer = FaultLayer()

    @web.middleware
    async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
        if rng.random() < SHARE:
            return await KINDS[rng.choice(KINDS_USED)](layer, request, handler)
        return await handler(request)

    config = UploadConfig(
        cache_dir=tmp_path / "cache", progress="none", initial_backoff_ms=1, max_retries=8
    )
    measured: list[tuple[int, int, int, int]] = []
    async with (
        LocalHub(
            tmp_path / "hub", token=TOKEN, part_size=PART_SIZE, middlewares=[inject], xet=False
        ) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        retries = 0
        for number in range(PUSHES):
            files = {
                "step.txt": b"%d" % number,
                "model.bin": rng.randbytes(3 * PART_SIZE + 1),
            }
            result = await uploader.push_to_hub("me/m", files)
            assert result.verified
            retries += result.retries
            if number >= WARM_UP and number % 50 == 0:
                gc.collect()
                descriptors = len(os.listdir("/proc/self/fd"))
                tasks = len(asyncio.all_tasks())
                measured.append((resident_bytes(), descriptors, tasks, threading.active_count()))
        layer.released.set()

    first, last = measured[0], measured[-1]
    sys.stderr.write(
        f"{PUSHES} pushes, {retries} retries; rss, fds, tasks, threads: {first} -> {last}\n"
    )
    # Hub and uploader live in this one process; git's own caches let_tasks_run within the warm-up.
    assert last[0] - first[0] < 30 << 20
    assert last[1] - first[1] <= 20
    assert last[2] - first[2] <= 20
    assert last[3] - first[3] <= 5


async def test_default_settings_survive_a_minute_without_the_hub(tmp_path: Path) -> None:
    """The hub vanishes in the middle of a push and comes back a minute later."""
    layer = FaultLayer()
    root, config = tmp_path / "hub", UploadConfig(cache_dir=tmp_path / "cache", progress="none")
    first = LocalHub(
        root, token=TOKEN, part_size=PART_SIZE, middlewares=[layer.middleware], xet=False
    )
    await first.__aenter__()
    left = asyncio.Event()

    async def leave() -> None:
        await first.__aexit__(None, None, None)
        left.set()

    leaving: list[asyncio.Task[None]] = []
    layer.add("part", "reset before the body", nth=3, times=99)
    async with Uploader(TOKEN, first.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"first.txt": b"1"})
        layer.hooks["part"] = lambda: leaving.append(asyncio.create_task(leave()))
        content = random.Random(12).randbytes(20 * PART_SIZE)
        handle = uploader.start_push("me/m", {"model.bin": content})
        await left.wait()
        await asyncio.sleep(60)
        assert not handle.done()
        async with LocalHub(root, port=first.port, token=TOKEN, part_size=PART_SIZE, xet=False):
            result = await handle
    assert result.verified
    sys.stderr.write(f"away for 60 s: {result.retries} retries, {result.elapsed_seconds:.0f} s\n")
