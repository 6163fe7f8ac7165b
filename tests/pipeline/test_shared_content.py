"""Syncs that send the same large files at once send them once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource
from asyncpush.options import MIB
from asyncpush.pipeline.shared_content import SharedContent
from tests.conftest import TOKEN, open_hub
from tests.fake_clock import let_tasks_run
from tests.faults import FaultLayer

CONTENT = random.Random(31).randbytes(4 * MIB)


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


async def test_the_same_file_in_many_syncs_is_sent_once(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path]
) -> None:
    source = write({"a.bin": CONTENT})
    async with Uploader(TOKEN, hub.url, config) as uploader:
        syncs = [uploader.sync(source, f"hf://buckets/me/runs/{n}") for n in range(8)]
        results = await asyncio.gather(*syncs)
    sent = [result.bytes_transferred for result in results]
    assert sum(size > MIB for size in sent) == 1
    assert sum(sent) < 2 * len(CONTENT)
    assert all(result.verified for result in results)


def large(name: str, data: bytes = CONTENT) -> FileSource:
    return FileSource.of_bytes(name, data)


class Sync:
    """One that stays in its turn until it is told to end."""

    def __init__(self, shared: SharedContent, *files: FileSource) -> None:
        self.began = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(shared, files))

    async def _run(self, shared: SharedContent, files: tuple[FileSource, ...]) -> None:
        async with shared.turn(files):
            self.began = True
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def test_those_with_the_same_content_wait_for_the_first() -> None:
    shared = SharedContent()
    first, second = Sync(shared, large("a")), Sync(shared, large("b"))
    other = Sync(shared, large("a", bytes(2 * MIB)))
    await let_tasks_run()
    assert (first.began, second.began, other.began) == (True, False, True)
    await first.end()
    await let_tasks_run()
    assert second.began
    await second.end()
    await other.end()
    assert shared._sending == {}


@pytest.mark.parametrize("size", [1, 5 * MIB], ids=["too small", "most is something else"])
async def test_little_in_common_is_not_waited_for(size: int) -> None:
    shared = SharedContent()
    common = large("a", bytes(size)) if size == 1 else large("a")
    rest = [] if size == 1 else [large("b", bytes(size))]
    first, second = Sync(shared, common, *rest), Sync(shared, common)
    await let_tasks_run()
    assert (first.began, second.began) == (True, True)
    await first.end()
    await second.end()


async def test_a_cancelled_one_holds_nobody_up() -> None:
    shared = SharedContent()
    first, second, third = (Sync(shared, large("a")) for _ in range(3))
    await let_tasks_run()
    for cancelled in (second, first):
        cancelled.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled.task
    await let_tasks_run()
    assert third.began
    await third.end()
