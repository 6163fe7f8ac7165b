"""Cancelled at every stage: at once, nothing committed, nothing left, the next push works."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import Push, PushOptions, UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource
from asyncpush.pipeline import hashing
from asyncpush.sources import Reader
from asyncpush.transfers.lfs import objects as lfs
from tests.cancelling import PROMPTLY, cancel_promptly
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import ROUTES, FaultLayer
from tests.reading import download

pytestmark = pytest.mark.no_cover

Write = Callable[..., Path]

FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "model.bin": b"\0" * (2 * PART_SIZE + 1),
    "small.bin": b"\0small",
}


def open_files(below: Path) -> list[str]:
    """Files below a folder that this process holds open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(str(below)):
            found.append(target)
    return found


@pytest.mark.parametrize("how", ["handle.cancel()", "task.cancel()", "asyncio.timeout"])
@pytest.mark.parametrize("stage", ROUTES)
async def test_a_push_stops_at_once_and_leaves_nothing(
    stage: str,
    how: str,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    tmp_path: Path,
) -> None:
    source = write(FILES)
    faults.add(stage, "stall before reading", times=99)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        before = asyncio.all_tasks()
        if how == "asyncio.timeout":
            cut_at: list[float] = []
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    watcher = asyncio.create_task(faults.stalled.wait())
                    watcher.add_done_callback(
                        lambda _: limit.reschedule(asyncio.get_running_loop().time())
                    )
                    watcher.add_done_callback(lambda _: cut_at.append(time.monotonic()))
                    await uploader.push_to_hub("me/m", source)
            assert time.monotonic() - cut_at[0] < PROMPTLY
        else:
            running = (
                uploader.start_push("me/m", source)
                if how == "handle.cancel()"
                else asyncio.create_task(uploader.push_to_hub("me/m", source))
            )
            await faults.stalled.wait()
            await cancel_promptly(running)

        ours = {task for task in asyncio.all_tasks() - before if "localhub" not in repr(task)}
        assert not {task for task in ours if "asyncpush/net" in repr(task)}
        assert open_files(tmp_path / "out") == []
        assert not list((tmp_path / "cache").rglob("spool*/*"))

        faults.rules.clear()
        result = await uploader.push_to_hub("me/m", source)
        assert result.verified
    assert await download(hub, "me/m") == FILES
    names = [thread.name for thread in threading.enumerate()]
    assert not [
        name
        for name in names
        if name.startswith(("asyncpush-read", "asyncpush-send", "asyncpush-hash"))
    ]


async def test_a_long_hash_stops_when_the_push_does(
    uploader: Uploader, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "large.bin"
    with source.open("wb") as file:
        file.truncate(40_000_000_000)  # sparse: many seconds of hashing
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reporting(file: FileSource) -> Reader:
        loop.call_soon_threadsafe(begun.set)
        return Reader(file)

    monkeypatch.setattr(hashing, "Reader", reporting)
    handle = uploader.start_push("me/m", source)
    await begun.wait()
    await cancel_promptly(handle)
    assert open_files(tmp_path) == [path for path in open_files(tmp_path) if "large" not in path]


async def test_a_file_that_is_just_being_opened_is_closed_again(
    uploader: Uploader, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = write({"model.bin": b"\0" * PART_SIZE})
    opening, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class SlowReader(Reader):
        __slots__ = ()

        def __init__(self, file: FileSource, *, grown: bool = False) -> None:
            super().__init__(file, grown=grown)
            loop.call_soon_threadsafe(opening.set)
            go_on.wait()

    monkeypatch.setattr(lfs, "Reader", SlowReader)
    handle = uploader.start_push("me/m", source)
    await opening.wait()
    handle.cancel()
    loop.call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert open_files(tmp_path / "out") == []


async def test_a_stream_that_never_ends_can_be_cancelled(
    hub: LocalHub, config: UploadConfig, tmp_path: Path
) -> None:
    spooling = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 10_000_000
        spooling.set()
        await asyncio.Event().wait()

    config = replace(config, max_memory=1 << 20)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        handle = uploader.start_push("me/m", {"stream.bin": endless()})
        await spooling.wait()
        handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
    assert [path for path in (tmp_path / "cache" / "spool").rglob("*") if path.is_file()] == []


async def test_leaving_the_session_by_an_error_cancels_its_pushes(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "stall before reading", times=99)
    with pytest.raises(RuntimeError, match="training failed"):
        async with Uploader(TOKEN, hub.url, config) as uploader:
            handle = uploader.start_push("me/m", write(FILES))
            await faults.stalled.wait()
            raise RuntimeError("training failed")
    assert handle.done()


async def test_leaving_the_session_waits_for_its_pushes(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        handle = uploader.start_push("me/m", write(FILES), PushOptions())
    assert handle.done()
    assert (await handle).verified


async def stored(uploader: Uploader) -> object:
    return await uploader.upload_files("me/m", {"a.bin": b"\0a"})


async def committed(uploader: Uploader) -> object:
    return await uploader.commit("me/m", [])


async def audited(uploader: Uploader) -> object:
    return await uploader.audit("me/m", {"a.bin": b"\0a"})


async def diagnosed(uploader: Uploader) -> object:
    return await uploader.doctor("me/m")


async def pushed(uploader: Uploader) -> object:
    return await uploader.push_to_hub("me/m", {"a.bin": b"\0a"})


async def pushed_in_bulk(uploader: Uploader) -> object:
    pushes = [Push(f"me/{number}", {"a.bin": b"\0a"}) for number in range(20)]
    return await uploader.push_many(pushes)


ANYTHING = [stored, committed, audited, diagnosed, pushed, pushed_in_bulk]


@pytest.mark.parametrize("begin", [stored, audited, diagnosed, pushed, pushed_in_bulk])
async def test_leaving_the_session_waits_for_whatever_was_begun(
    begin: Callable[[Uploader], Awaitable[object]], hub: LocalHub, config: UploadConfig
) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.bin": b"\0a"})
        task = asyncio.ensure_future(begin(uploader))
        await asyncio.sleep(0)  # it has begun
    assert await task


@pytest.mark.parametrize("begin", [stored, pushed, pushed_in_bulk])
async def test_an_error_in_the_session_cancels_running_pushes(
    begin: Callable[[Uploader], Awaitable[object]],
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
) -> None:
    faults.add("batch", "stall before reading", times=99)
    with pytest.raises(RuntimeError, match="training failed"):
        async with Uploader(TOKEN, hub.url, config) as uploader:
            task = asyncio.ensure_future(begin(uploader))
            await faults.stalled.wait()
            raise RuntimeError("training failed")
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("begin", ANYTHING)
async def test_a_closing_session_refuses_new_pushes(
    begin: Callable[[Uploader], Awaitable[object]],
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
) -> None:
    faults.add("batch", "stall before reading", times=1)

    async def later(uploader: Uploader) -> None:
        await faults.stalled.wait()
        try:
            with pytest.raises(RuntimeError, match="is being closed: start this before"):
                await begin(uploader)
        finally:
            running.cancel()

    async with Uploader(TOKEN, hub.url, config) as uploader:
        running = uploader.start_push("me/m", {"a.bin": b"\0a"})
        refused = asyncio.create_task(later(uploader))
        await asyncio.sleep(0)
    await refused
    with pytest.raises(RuntimeError, match="inside"):
        await begin(uploader)


async def test_a_session_is_entered_once_at_a_time(uploader: Uploader) -> None:
    with pytest.raises(RuntimeError, match="already open"):
        await uploader.__aenter__()
    assert (await uploader.push_to_hub("me/m", {"a": b"a"})).verified


async def test_a_session_is_used_in_its_own_event_loop(uploader: Uploader) -> None:
    def in_a_thread_without_a_loop() -> None:
        uploader.start_push("me/m", {"a": b"a"})

    def in_another_loop() -> None:
        asyncio.run(uploader.push_to_hub("me/m", {"a": b"a"}))

    for use in (in_a_thread_without_a_loop, in_another_loop):
        with pytest.raises(RuntimeError, match="opened in another event loop"):
            await asyncio.to_thread(use)
    assert (await uploader.push_to_hub("me/m", {"a": b"a"})).verified


def test_without_asyncio_a_session_cannot_be_opened() -> None:
    with pytest.raises(RuntimeError, match="no asyncio event loop is running here"):
        Uploader(TOKEN).__aenter__().send(None)  # as another framework, such as trio, calls it
