"""Streams whose lengths nobody knows, several at once, from tasks that produce slowly."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncpush import SourceError, UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.options import MIB
from asyncpush.transfers.xet.upload_commit import XetCommit
from tests.cancelling import cancel_promptly
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.reading import commits_of, download, exists

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


async def test_dependent_streams_are_sent_side_by_side(uploader: Uploader, hub: LocalHub) -> None:
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


async def test_a_short_stream_does_not_delay_a_long_one(
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


async def test_dependent_streams_may_exceed_the_file_limit(
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
    await cancel_promptly(handle)
    assert set(closed) == {"a.bin", "b.bin"}
    assert faults.seen["commit"] == 0


async def test_memory_limits_streams_sent_on_arrival(
    tmp_path: Path, faults: FaultLayer, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Xet each fills a xorb of 64 MiB. The others are written to disk meanwhile."""
    sending: list[str] = []
    most: list[int] = []
    stream = XetCommit.stream

    async def watched(commit: XetCommit, name: str, *rest: Any) -> Any:
        sending.append(name)
        most.append(len(sending))
        try:
            return await stream(commit, name, *rest)
        finally:
            sending.remove(name)

    monkeypatch.setattr(XetCommit, "stream", watched)
    step = InStep(5)
    expected = {f"{start}.bin": NOISE[start:] for start in range(5)}
    async with (
        open_hub(tmp_path, faults, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        with anyio.fail_after(45):
            source = {name: step.pieces(data) for name, data in expected.items()}
            result = await uploader.push_to_hub("me/m", source)
        assert await download(hub, "me/m") == expected
    assert max(most) == 2
    assert {receipt.route for receipt in result.receipts} == {"xet"}


@pytest.mark.parametrize("streams", [1, 2])
async def test_producers_wait_for_a_store_that_takes_nothing(
    streams: int, tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> None:
    """By Xet nothing goes to the disk. A xorb of each stream is being filled, and two are sent."""
    faults.add("xorb", "stall before reading", times=1000)
    limit = (streams + 3) * 64 * MIB
    produced = 0

    async def endless(rng: random.Random) -> AsyncIterator[bytes]:
        nonlocal produced
        while produced < 2 * limit:
            produced += MIB
            yield rng.randbytes(MIB)

    async with (
        open_hub(tmp_path, faults, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        source = {f"{number}.bin": endless(random.Random(number)) for number in range(streams)}
        handle = uploader.start_push("me/m", source)
        await faults.stalled.wait()
        before = -1
        while produced != before:
            before = produced
            await anyio.sleep(0.5)
        assert produced < limit
        await cancel_promptly(handle)


Producer = Literal["generator", "own task", "shared task", "in step"]
Ending = Literal["whole", "cancelled", "failed"]


@dataclass(slots=True)
class Producers:
    """Streams of random lengths, written by random schedules. After `stop_after` pieces, `stopped`
    is set, and where `fails` says so, the stream fails."""

    rng: random.Random
    fails: bool
    stop_after: int
    stopped: anyio.Event = field(default_factory=anyio.Event)
    expected: dict[str, bytes] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    receivers: list[MemoryObjectReceiveStream[bytes]] = field(default_factory=list)
    pieces: int = 0

    def streams(self, group: TaskGroup, kinds: list[Producer]) -> dict[str, AsyncIterator[bytes]]:
        found: dict[str, AsyncIterator[bytes]] = {}
        shared: dict[str, MemoryObjectSendStream[bytes]] = {}
        step = InStep(kinds.count("in step"))
        for number, kind in enumerate(kinds):
            name = f"{number}.bin"
            start = self.rng.randrange(MIB)
            size = self.rng.choice([0, 1, 1000, MIB, 3 * MIB, 9 * MIB])
            self.expected[name] = data = NOISE[start : start + size]
            if kind == "generator":
                found[name] = self.generated(name, data)
            elif kind == "in step":
                self.expected[name] = data = NOISE[start : start + 9 * MIB]
                found[name] = self.counted(name, step.pieces(data))
            else:
                sender, receiver = anyio.create_memory_object_stream[bytes](number % 3)
                self.receivers.append(receiver)
                found[name] = self.counted(name, receiver)
                if kind == "own task":
                    group.start_soon(self.write, {name: sender})
                else:
                    shared[name] = sender
        group.start_soon(self.write, shared)
        return found

    def cut(self, data: bytes) -> list[bytes]:
        size = self.rng.choice([MIB // 3, MIB, 4 * MIB])
        return [data[start : start + size] for start in range(0, len(data), size)]

    async def pause(self) -> None:
        await anyio.sleep(self.rng.choice([0, 0, 0.001, 0.02]))

    async def write(self, senders: dict[str, MemoryObjectSendStream[bytes]]) -> None:
        """One task writes pieces of its streams in turn."""
        left = {name: self.cut(self.expected[name]) for name in senders}
        try:
            while left:
                name = self.rng.choice(list(left))
                if left[name]:
                    await self.pause()
                    await senders[name].send(left[name].pop(0))
                else:
                    del left[name]
                    senders[name].close()
        finally:
            for sender in senders.values():
                sender.close()

    async def generated(self, name: str, data: bytes) -> AsyncIterator[bytes]:
        async for piece in self.counted(name, self.paused(data)):
            yield piece

    async def paused(self, data: bytes) -> AsyncIterator[bytes]:
        for piece in self.cut(data):
            await self.pause()
            yield piece

    async def counted(self, name: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.open.add(name)
        try:
            async for piece in pieces:
                self.pieces += 1
                if self.pieces == self.stop_after:
                    self.stopped.set()
                    if self.fails:
                        raise RuntimeError("the producer has failed")
                yield piece
        finally:
            self.open.discard(name)


repos = count()


@pytest.mark.timeout(300)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(
        st.sampled_from(["generator", "own task", "shared task", "in step"]), min_size=1, max_size=6
    ),
    seed=st.integers(0, 1 << 30),
    width=st.sampled_from([1, 2, 8]),
    ending=st.sampled_from(["whole", "whole", "cancelled", "failed"]),
    stop_after=st.integers(1, 40),
)
async def test_prop_streams_are_pushed_whole_or_not_at_all(
    hub: LocalHub,
    config: UploadConfig,
    kinds: list[Producer],
    seed: int,
    width: int,
    ending: Ending,
    stop_after: int,
) -> None:
    repo_id = f"me/m{next(repos)}"
    producers = Producers(
        random.Random(seed), ending == "failed", stop_after if ending != "whole" else -1
    )
    config = replace(config, max_concurrent_files=width)
    async with Uploader(TOKEN, hub.url, config) as uploader, anyio.create_task_group() as group:
        handle = uploader.start_push(repo_id, producers.streams(group, kinds))
        handle.on_done(producers.stopped.set)
        with anyio.fail_after(60):
            await producers.stopped.wait()
            if ending == "failed" and producers.pieces >= stop_after:
                with pytest.raises(SourceError, match="the producer has failed"):
                    await handle
            elif ending == "cancelled" and not handle.done():
                await cancel_promptly(handle)
            else:
                ending = "whole"
                assert (await handle).verified
        group.cancel_scope.cancel()
    for receiver in producers.receivers:
        receiver.close()
    assert producers.open == set()
    if ending == "whole":
        assert await download(hub, repo_id) == producers.expected
        assert len(await commits_of(hub, repo_id)) == 2
    elif await exists(hub, repo_id):
        assert len(await commits_of(hub, repo_id)) == 1
