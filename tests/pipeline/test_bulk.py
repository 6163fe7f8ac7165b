"""Many pushes at once: what they share, and that none pays for another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncpush import Push, UploadConfig, Uploader, runtime
from asyncpush.concurrency.threads import SessionThreads
from asyncpush.events import (
    Emitter,
    FileHashed,
    FileStored,
    PushFinished,
    Record,
    TransferStarted,
)
from asyncpush.journal import NullJournal
from asyncpush.localhub import LocalHub
from asyncpush.models import FileIdentity, FileSource, PathSource
from asyncpush.net.adaptive_limit import AdaptiveLimit
from asyncpush.net.parts import PartSender, SentPart
from asyncpush.pipeline import hashing
from asyncpush.pipeline.hashing import SHORT, Hasher
from asyncpush.sources import Reader
from tests.conftest import TOKEN
from tests.faults import FaultLayer

Write = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path) -> FileSource:
    path = tmp_path / "base.bin"
    path.write_bytes(b"\0" * 1000)
    status = path.stat()
    return FileSource("base.bin", status.st_size, PathSource(str(path), FileIdentity.of(status)))


async def test_a_shared_file_is_read_once(
    file: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FileSource] = []

    def counting(source: FileSource) -> Reader:
        opened.append(source)
        return Reader(source)

    monkeypatch.setattr(hashing, "Reader", counting)
    with ExitStack() as stack:
        hasher = Hasher(NullJournal())
        threads = SessionThreads(stack, hash_workers=2).for_push()
        oids = await asyncio.gather(*(hasher.sha256(file, Emitter(), threads) for _ in range(5)))
        assert len(set(oids)) == 1
        assert len(opened) == 1


async def test_a_failed_shared_hash_is_computed_again(
    file: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[None] = []

    def failing_once(source: FileSource) -> Reader:
        attempts.append(None)
        if len(attempts) == 1:
            raise OSError("once")
        return Reader(source)

    monkeypatch.setattr(hashing, "Reader", failing_once)
    with ExitStack() as stack:
        hasher = Hasher(NullJournal())
        threads = SessionThreads(stack, hash_workers=2).for_push()
        first, second, third = await asyncio.gather(
            *(hasher.sha256(file, Emitter(), threads) for _ in range(3)), return_exceptions=True
        )
    assert isinstance(first, OSError)
    assert second == third
    assert len(attempts) == 2


async def test_a_lookup_does_not_make_a_file_hashed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "base.bin"
    path.write_bytes(bytes(SHORT + 1))
    file = FileSource("base.bin", SHORT + 1, PathSource(str(path), FileIdentity.of(path.stat())))
    first_ended = asyncio.Event()
    look_ups: list[None] = []

    class SlowSecondLookUp(Hasher):
        async def remembered(self, *_: object) -> None:
            look_ups.append(None)
            if len(look_ups) == 2:
                await first_ended.wait()

    seen: list[Record] = []
    events = Emitter([seen.append])
    with ExitStack() as stack:
        hasher = SlowSecondLookUp(NullJournal())
        threads = SessionThreads(stack, hash_workers=2).for_push()
        first = asyncio.create_task(hasher.sha256(file, events, threads))
        second = asyncio.create_task(hasher.sha256(file, events, threads))
        oid = await first
        first_ended.set()
        assert await second == oid
    hashed = [record.event for record in seen if isinstance(record.event, FileHashed)]
    assert [event.cached for event in hashed] == [False, True]


def listening(config: UploadConfig, seen: list[Record], **changes: object) -> UploadConfig:
    return replace(config, events=seen.append, **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("settled_files")
async def test_a_file_for_many_repos_is_hashed_once(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, write: Write
) -> None:
    base = write({"base.bin": bytes(SHORT + 1)}) / "base.bin"  # each push may read a shorter one
    os.utime(base, (1e9, 1e9))  # the hash of what has just been written is not trusted
    seen: list[Record] = []
    pushes = [Push(f"me/m{number}", {"base.bin": base, "copy.bin": base}) for number in range(4)]
    async with Uploader(TOKEN, hub.url, listening(config, seen)) as up:
        await up.push_many(pushes)
    hashed = [record.event for record in seen if isinstance(record.event, FileHashed)]
    assert [event.cached for event in hashed].count(False) == 1
    assert faults.seen["part"] <= 4  # less where the Hub has it from another repo


async def test_files_in_flight_are_counted_over_all_pushes(
    hub: LocalHub, config: UploadConfig
) -> None:
    seen: list[Record] = []
    async with Uploader(TOKEN, hub.url, listening(config, seen, max_concurrent_files=3)) as up:
        await up.push_many(
            [
                Push(f"me/m{number}", {f"{n}.bin": bytes([n, number]) for n in range(4)})
                for number in range(4)
            ]
        )
    most = in_flight = 0
    for record in seen:
        match record.event:
            case TransferStarted():
                in_flight += 1
            case FileStored(route="lfs"):
                in_flight -= 1
        most = max(most, in_flight)
    assert in_flight == 0
    assert 3 <= most <= 4 + 2  # one of each push, and two more


@pytest.mark.no_cover
async def test_small_pushes_do_not_wait_for_a_large_one(
    hub: LocalHub, config: UploadConfig
) -> None:
    """Calls and parts go in the order in which they are asked for, whoever asks."""
    seen: list[Record] = []
    large = Push("me/large", {f"{n:03}.bin": n.to_bytes(2, "big") for n in range(60)})
    small = [Push(f"me/small{number}", {"a.txt": b"1"}) for number in range(5)]
    async with Uploader(TOKEN, hub.url, listening(config, seen)) as up:
        results = await up.push_many([large, *small])
    ended = [r.event.commit_sha for r in seen if isinstance(r.event, PushFinished)]
    assert ended[-1] == results[0].commit_sha


async def test_uploaders_of_one_host_share_its_limit(
    hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: asyncio.Queue[tuple[AdaptiveLimit, int]] = asyncio.Queue()
    monkeypatch.setattr(
        AdaptiveLimit, "share", lambda limit, count: shares.put_nowait((limit, count))
    )
    monkeypatch.setattr(runtime, "COUNT_FIRST", 0.01)
    monkeypatch.setattr(runtime, "COUNT_EVERY", 0.01)

    ends = asyncio.Event(), asyncio.Event()
    held_until: dict[PartSender, asyncio.Event] = {}
    send = PartSender.send

    async def send_later(sender: PartSender, *args: Any, **named: Any) -> SentPart:
        await held_until.setdefault(sender, ends[min(1, len(held_until))]).wait()
        return await send(sender, *args, **named)

    monkeypatch.setattr(PartSender, "send", send_later)
    config = replace(config, transfer="lfs")
    async with Uploader(TOKEN, hub.url, config) as one, Uploader(TOKEN, hub.url, config) as two:
        first = one.start_push("me/a", {"a.bin": b"a\0"})
        limit, count = await shares.get()
        assert count == 1  # the other one is idle
        await two.push_to_hub("me/b", {"a.txt": b"a"})  # without parts
        assert {(await shares.get())[1] for _ in range(shares.qsize() + 1)} == {1}
        second = two.start_push("me/b", {"b.bin": b"b\0"})
        while await shares.get() != (limit, 2):
            pass
        ends[1].set()
        await second
        while await shares.get() != (limit, 1):
            pass
        ends[0].set()
        await first
