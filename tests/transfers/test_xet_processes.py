"""Xet in several processes, on several machines, and in a process that ends in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.models import Receipt
from asyncpush.options import MIB
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.reading import download

Write = Callable[..., Path]

NOISE = random.Random(21).randbytes(6 * MIB)


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


async def run(code: str, hub: LocalHub, source: Path, cache: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", code, hub.url, TOKEN, str(source), str(cache)),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "HF_HOME": str(cache.parent / "hf")},
    )


PUSH = """
import asyncio, sys
from asyncpush import UploadConfig, Uploader
url, token, source, cache = sys.argv[1:]
config = UploadConfig(cache_dir=cache, progress="none", transfer="xet")
"""

PUSH_ONCE = (
    PUSH
    + """
async def main():
    async with Uploader(token, url, config) as uploader:
        result = await uploader.push_to_hub("me/m", source)
    print(result.verified, len(result.warnings))
asyncio.run(main())
"""
)


@pytest.mark.parametrize("shared", [True, False])
async def test_two_processes_can_push_the_same_file(
    shared: bool, hub: LocalHub, write: Write, tmp_path: Path
) -> None:
    """With one journal and cache, or each with its own."""
    source = write({"a.bin": NOISE})
    caches = [tmp_path / ("both" if shared else name) / "cache" for name in ("left", "right")]
    processes = [await run(PUSH_ONCE, hub, source, cache) for cache in caches]
    for process in processes:
        expected, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"Traceback" not in errors  # it may tell that the other one committed first
        assert expected.decode().split() == ["True", "0"]
    assert (await download(hub, "me/m"))["a.bin"] == NOISE


ENDINGS = {
    "the loop runs in a thread": """
import threading
async def main():
    async with Uploader(token, url, config) as uploader:
        await uploader.push_to_hub("me/m", source)
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
sys.stdin.readline()
sys.exit(7)
""",
    "the push is not awaited": """
async def main():
    async with Uploader(token, url, config) as uploader:
        handle = uploader.start_push("me/m", source)
        await asyncio.to_thread(sys.stdin.readline)
        sys.exit(7)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_process_that_ends_during_a_push_is_silent(
    ending: str, hub: LocalHub, faults: FaultLayer, write: Write, tmp_path: Path
) -> None:
    faults.add("xorb", "stall before reading")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PUSH + ENDINGS[ending], hub.url, TOKEN),
        *(str(write({"a.bin": NOISE})), str(tmp_path / "cache")),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
    )
    await faults.stalled.wait()
    async with asyncio.timeout(20):
        written = await process.communicate(b"\n")
    assert (process.returncode, written) == (7, (b"", b""))


async def test_a_commit_of_remote_receipts_passes_an_audit(
    hub: LocalHub,
    config: UploadConfig,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has a journal of its own. hf_xet computed the sha256 that the audit compares."""
    source = write({"a.bin": NOISE, "b.bin": NOISE[:MIB]})

    def machine(name: str) -> Uploader:
        monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / name / "xet"))
        return Uploader(TOKEN, hub.url, replace(config, cache_dir=str(tmp_path / name)))

    async with machine("first") as uploader:
        lines = [each.to_json() for each in await uploader.upload_files("me/m", source)]
    async with machine("second") as uploader:
        receipts = [Receipt.from_json(line) for line in lines]
        assert {receipt.route for receipt in receipts} == {"xet"}
        await uploader.commit("me/m", receipts)
    async with machine("third") as uploader:
        report = await uploader.audit("me/m", source)
        assert report.complete
        (source / "b.bin").write_bytes(NOISE[1 : MIB + 1])
        report = await uploader.audit("me/m", source)
    assert report.different == ("b.bin",)
    assert await download(hub, "me/m") == {"a.bin": NOISE, "b.bin": NOISE[:MIB]}
