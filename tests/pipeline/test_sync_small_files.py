"""Many small files to a bucket: hf_xet asks the store about each one, and waits for the answer."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush import AsyncPushError, UploadConfig, Uploader
from asyncpush.events import FileRouted, FileStored, HashProgress, PartProgress, TransferStarted
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource
from asyncpush.options import MIB
from asyncpush.pipeline import bucket
from asyncpush.transfers.xet import engine, stalls
from tests.buckets import bytes_of
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer

pytestmark = pytest.mark.no_cover

RUN = "hf://buckets/me/runs/run"


@dataclass
class Questions:
    """Questions about chunks: how many wait at the same time, until `enough` do."""

    enough: int = 1
    now: int = 0
    most: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.match_info.route.name != "chunk":
                return await handler(request)
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now >= self.enough:
                self.answered.set()
            await self.answered.wait()
            await asyncio.sleep(0.01)
            self.now -= 1
            return await handler(request)

        return count


@pytest.fixture
def questions() -> Questions:
    return Questions()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer, questions: Questions) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, questions.middleware, xet=True) as hub:
        yield hub


async def test_many_small_files_are_queried_at_once(
    uploader: Uploader, hub: LocalHub, questions: Questions
) -> None:
    questions.enough = 24
    files = {f"{number}": f"small {number}".encode() for number in range(80)}
    result = await asyncio.wait_for(uploader.sync(files, RUN), 30)
    assert len(result.files_uploaded) == 80
    assert await bytes_of(hub) == {f"run/{name}": content for name, content in files.items()}


async def test_memory_limits_small_files_read_ahead(
    hub: LocalHub, config: UploadConfig, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TINY_FILE", 10_000)
    monkeypatch.setattr(engine, "SMALL_FILES_MEMORY", 250_000)
    noise = random.Random(20)
    files = {f"{number}": noise.randbytes(100_000) for number in range(12)}
    files["larger than all of it"] = noise.randbytes(300_000)
    monkeypatch.setattr("asyncpush.pipeline.bucket.ADDED_BYTES", 100_000)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.sync(files, RUN)
    assert questions.most == 2
    assert await bytes_of(hub) == {f"run/{name}": content for name, content in files.items()}


def of(*sizes: int) -> list[FileSource]:
    return [FileSource.of_bytes(str(n), bytes(size)) for n, size in enumerate(sizes)]


def test_small_files_are_uploaded_in_groups() -> None:
    assert list(bucket.groups([])) == []
    few = of(*[64 << 10] * 512)
    assert list(map(len, bucket.groups(few))) == [128, 131, 134, 119]  # 8 MiB, each larger
    many = of(*[0] * 2500)
    assert list(map(len, bucket.groups(many))) == [1000, 1000, 500]
    slow = bucket.groups(of(*[64 << 10] * 1024), is_slow=lambda: True)
    assert list(map(len, slow)) == [512, 512]  # 32 MiB each
    with_large = of(*[5 * MIB] * 4, *[4 * MIB] * 20)
    assert list(map(len, bucket.groups(with_large))) == [6, *[2] * 9]
    assert [file for group in bucket.groups(with_large) for file in group] == with_large


@pytest.fixture
def tiny_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 1,000 bytes."""
    monkeypatch.setattr(bucket, "SMALLEST_GROUP", 1000)
    monkeypatch.setattr(bucket, "GROUP_GROWTH", 0)


@pytest.mark.usefixtures("tiny_groups")
async def test_each_group_is_an_upload_and_all_one_sync(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    files = {f"{number}": bytes([number]) * 100 for number in range(25)}
    result = await uploader.sync(files, RUN)
    assert faults.seen["shard"] == 3
    assert faults.seen["bucket-xet-write-token"] == 1
    assert faults.seen["bucket-batch"] == 1
    assert len(result.files_uploaded) == 25
    assert await bytes_of(hub) == {f"run/{name}": content for name, content in files.items()}


@pytest.mark.usefixtures("tiny_groups")
async def test_a_group_that_fails_shows_nothing(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("shard", "403", nth=3, times=99)
    files = {f"{number}": bytes([number]) * 100 for number in range(60)}
    with pytest.raises(AsyncPushError, match="Xet failed"):
        await uploader.sync(files, RUN)
    assert await bytes_of(hub) == {}
    faults.rules.clear()
    assert len((await uploader.sync(files, RUN)).files_uploaded) == 60


@dataclass
class OpenUploads:
    """How many uploads are open at the same time."""

    now: int = 0
    most: int = 0
    opened: int = 0

    def count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        open_upload, finish = engine.XetEngine.open, engine.XetUpload.finish

        async def counted_open(self_: Any, *args: Any, **options: Any) -> Any:
            self.opened += 1
            self.now += 1
            self.most = max(self.most, self.now)
            return await open_upload(self_, *args, **options)

        async def counted_finish(self_: Any, **options: Any) -> Any:
            try:
                return await finish(self_, **options)
            finally:
                self.now -= 1

        monkeypatch.setattr(engine.XetEngine, "open", counted_open)
        monkeypatch.setattr(engine.XetUpload, "finish", counted_finish)


@pytest.mark.usefixtures("tiny_groups")
@pytest.mark.parametrize(("slow_store", "count"), [(60.0, 6), (0.0, 3)])
async def test_two_groups_run_at_once_and_grow_if_slow(
    uploader: Uploader,
    hub: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    slow_store: float,
    count: int,
) -> None:
    monkeypatch.setattr(bucket, "SLOW_STORE", slow_store)
    uploads = OpenUploads()
    uploads.count(monkeypatch)
    files = {f"{number}": bytes([number]) * 100 for number in range(60)}
    result = await uploader.sync(files, RUN)
    assert len(result.files_uploaded) == 60
    assert uploads.most == bucket.GROUPS_AT_ONCE == 2
    assert (uploads.now, uploads.opened) == (0, count)


async def test_a_sync_makes_few_calls_for_many_files(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    """What grows with the number of files is hf_xet's question about each one's first chunk."""
    files = {f"{number}": f"small {number}".encode() for number in range(300)}
    await uploader.sync(files, RUN)
    assert faults.seen.pop("chunk") <= 300
    faults.seen.pop("newer-xet", None)  # hf_xet asks for versions of the API
    assert faults.seen == {
        "bucket": 1,
        "bucket-create": 1,
        "bucket-xet-write-token": 1,
        "xorb": 1,
        "shard": 1,
        "bucket-batch": 1,
        "bucket-paths-info": 2,  # before, and to verify what the batch has changed
    }


class _Commits:
    """The upload commits that hf_xet was asked for, by whether it was told how to get a token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[bool] = []
        opened = engine.XetEngine._opened

        async def counted(self_: Any, *args: Any, **options: Any) -> Any:
            return _CountedSession(await opened(self_, *args, **options), self.told)

        monkeypatch.setattr(engine.XetEngine, "_opened", counted)


@dataclass
class _CountedSession:
    session: Any
    told: list[bool]

    def new_upload_commit(self, **options: Any) -> Any:
        self.told.append("token_refresh_url" in options)
        return self.session.new_upload_commit(**options)


@pytest.mark.usefixtures("tiny_groups")
async def test_hf_xet_makes_no_token_client_for_each_group(
    uploader: Uploader, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = _Commits(monkeypatch)
    files: dict[str, Any] = {f"{number}": bytes([number]) * 100 for number in range(25)}
    await uploader.sync(files, RUN)
    assert commits.told == [False] * 3

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(11):  # too long to be kept until its end
            yield bytes(MIB)

    commits.told.clear()
    await uploader.sync({"stream": stream(), "large": bytes(bucket.GROUP_FOR_SLOW_STORES + 1)}, RUN)
    assert commits.told == [True] * 2


@pytest.mark.parametrize("retries", [1, 0])
async def test_a_token_expiring_during_a_brief_upload_is_replaced(
    tmp_path: Path,
    config: UploadConfig,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
    retries: int,
) -> None:
    """hf_xet takes a token that is valid for less than 30 seconds for expired."""
    monkeypatch.setattr(engine, "LASTING", 0)
    commits = _Commits(monkeypatch)
    config = replace(config, max_retries=retries)
    options: Any = {"xet": True, "xet_token_lifetime": 20}
    async with (
        open_hub(tmp_path, faults, **options) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        result = await uploader.sync({"a": b"a" * 1000}, RUN)
        assert result.verified
        assert await bytes_of(hub) == {"run/a": b"a" * 1000}
    # Without another attempt, hf_xet is told from the start.
    assert commits.told == ([False, True] if retries else [True])


async def test_each_file_takes_few_calls_thread_hops_and_events(
    hub: LocalHub,
    config: UploadConfig,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = EventRecorder()
    count = 256
    folder = write({f"{number}.bin": f"{number:4}".encode() * 500 for number in range(count)})
    statuses: Counter[str] = Counter()
    opened: list[str] = []
    jobs: list[object] = []
    stat, open_file, in_background = os.stat, os.open, stalls.in_background

    def counted_stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        statuses[str(path)] += 1
        return stat(path, *args, **options)

    def counted_open(path: Any, *args: Any, **options: Any) -> int:
        opened.append(str(path))
        return open_file(path, *args, **options)

    def counted_job(work: Any) -> Any:
        jobs.append(work)
        return in_background(work)

    monkeypatch.setattr(os, "stat", counted_stat)
    monkeypatch.setattr(os, "open", counted_open)
    monkeypatch.setattr(stalls, "in_background", counted_job)
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader:
        await uploader.sync(folder, RUN)
    monkeypatch.undo()

    files = {str(path) for path in folder.iterdir()}
    assert len(files) == count
    # When it is collected, before hf_xet is given it, once the store has it, and at the end.
    assert {statuses[path] for path in files} == {4}
    assert not files.intersection(opened)  # hf_xet alone reads them
    # Added in groups; the session and the upload are opened, and it is waited for.
    assert len(jobs) <= count // bucket.ADDED_TOGETHER + 3
    events = [type(record.event) for record in recorded.records]
    per_file = {FileRouted, TransferStarted, HashProgress, PartProgress, FileStored}
    assert sum(kind in per_file for kind in events) <= 5 * count
    assert len(events) - sum(kind in per_file for kind in events) <= 40
    for kind in (FileRouted, TransferStarted, FileStored):
        assert events.count(kind) == count
    sent = [each for each in recorded.of(PartProgress) if each.position == each.size]
    assert len({each.path for each in sent}) == count
