"""Streams whose lengths nobody knows, several at once, from tasks that produce slowly."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.options import MIB
from tests.cancelling import seconds_to_cancel
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.reading import download

NOISE = random.Random(12).randbytes(13 * MIB)


@pytest.fixture(params=["xet", "lfs"])
async def uploader(
    request: pytest.FixtureRequest, tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> AsyncIterator[Uploader]:
    async with (
        open_hub(tmp_path, faults, xet=request.param == "xet") as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        request.node.hub = hub
        yield uploader


@pytest.fixture
def hub(uploader: Uploader, request: pytest.FixtureRequest) -> LocalHub:
    found = request.node.hub
    assert isinstance(found, LocalHub)
    return found


class InStep:
    """Streams of which none is ever two pieces ahead of another: each waits for all others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._arrived: dict[int, int] = {}
        self._events: dict[int, anyio.Event] = {}

    async def pieces(self, data: bytes, size: int = MIB) -> AsyncIterator[bytes]:
        for number, start in enumerate(range(0, len(data), size)):
            event = self._events.setdefault(number, anyio.Event())
            self._arrived[number] = self._arrived.get(number, 0) + 1
            if self._arrived[number] == self._count:
                event.set()
            await event.wait()
            yield data[start : start + size]


async def test_streams_that_wait_for_each_other_go_up_side_by_side(
    uploader: Uploader, hub: LocalHub
) -> None:
    step = InStep(2)
    expected = {"a.bin": NOISE, "b.bin": NOISE[::-1]}
    source = {name: step.pieces(data) for name, data in expected.items()}
    with anyio.fail_after(30):
        await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == expected


async def test_one_producer_may_write_many_streams_in_turn(
    uploader: Uploader, hub: LocalHub
) -> None:
    """It writes on once its last piece was taken: no stream may wait for another to end."""
    count = 40
    ends = [anyio.create_memory_object_stream[bytes](0) for _ in range(count)]

    async def produce() -> None:
        for number in range(5):
            for sender, _ in ends:
                await sender.send(b"%d," % number)
        for sender, _ in ends:
            sender.close()

    source = {f"{number}.bin": receiver for number, (_, receiver) in enumerate(ends)}
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            await uploader.push_to_hub("me/m", source)
    for _, receiver in ends:
        receiver.close()
    assert await download(hub, "me/m") == {name: b"0,1,2,3,4," for name in source}


async def test_a_long_stream_goes_on_while_a_short_one_has_just_begun(
    uploader: Uploader, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One producer writes both in turn, large pieces here and small ones there."""
    monkeypatch.setattr(sys.modules["asyncpush.sources.collect"], "UNREAD_TIMEOUT", 0.05)
    step = InStep(2)
    expected = {"large.bin": NOISE, "small.bin": NOISE[:13]}
    source = {
        "large.bin": step.pieces(expected["large.bin"]),
        "small.bin": step.pieces(expected["small.bin"], size=1),
    }
    with anyio.fail_after(30):
        await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == expected


async def test_streams_that_wait_for_each_other_may_be_more_than_the_files_at_once(
    uploader: Uploader, hub: LocalHub, config: UploadConfig
) -> None:
    step = InStep(3)
    expected = {f"{start}.bin": NOISE[start:] for start in range(3)}
    async with Uploader(TOKEN, hub.url, replace(config, max_concurrent_files=1)) as one_by_one:
        with anyio.fail_after(30):
            source = {name: step.pieces(data) for name, data in expected.items()}
            await one_by_one.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == expected


async def test_a_stream_that_the_hub_ignores_holds_up_no_other(
    uploader: Uploader, hub: LocalHub
) -> None:
    step = InStep(2)
    source = {"a.tmp": step.pieces(NOISE), "b.bin": step.pieces(NOISE)}
    with anyio.fail_after(30):
        await uploader.push_to_hub("me/m", {".gitignore": b"*.tmp\n"})
        result = await uploader.push_to_hub("me/m", source)
    assert result.files_ignored == ("a.tmp",)
    assert await download(hub, "me/m", ["b.bin"]) == {"b.bin": NOISE}


async def test_a_stream_may_hold_timeouts_and_task_groups_open(
    uploader: Uploader, hub: LocalHub
) -> None:
    """They are bound to one task, whichever tasks of ours want the bytes."""

    async def careful(data: bytes) -> AsyncIterator[bytes]:
        async with anyio.create_task_group() as group:
            with anyio.fail_after(60):
                for start in range(0, len(data), MIB):
                    await anyio.lowlevel.checkpoint()
                    yield data[start : start + MIB]
            group.cancel_scope.cancel()

    expected = {"a.bin": NOISE, "b.bin": NOISE[:MIB]}
    source = {name: careful(data) for name, data in expected.items()}
    await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == expected


@pytest.mark.parametrize("size", [MIB, 12 * MIB], ids=["at the beginning", "on its way"])
async def test_a_push_of_slow_streams_is_cancelled_at_once(
    size: int, uploader: Uploader, faults: FaultLayer
) -> None:
    waiting = anyio.Event()
    closed: list[str] = []

    async def slow(name: str) -> AsyncIterator[bytes]:
        try:
            for start in range(0, size, MIB):
                yield NOISE[start : start + MIB]
            waiting.set()
            await anyio.sleep_forever()
        finally:
            closed.append(name)

    handle = uploader.start_push("me/m", {name: slow(name) for name in ("a.bin", "b.bin")})
    await waiting.wait()
    assert await seconds_to_cancel(handle) < 1
    assert set(closed) == {"a.bin", "b.bin"}
    assert faults.seen["commit"] == 0
