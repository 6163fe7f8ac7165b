"""Full disks, few descriptors, failing reads, jumping clocks, a network that is away."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncpush import SourceError, UploadConfig, Uploader, receipts_from_json
from asyncpush.concurrency.threads import WIDTH
from asyncpush.journal.database import Database
from asyncpush.localhub import LocalHub, server
from asyncpush.net.adaptive_limit import START
from asyncpush.pipeline.hashing import SHORT
from asyncpush.sources import spool
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import FaultLayer
from tests.reading import commits_of, download, exists

Write = Callable[..., Path]

FEW_DESCRIPTORS = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import asyncpush
endpoint, source, cache = sys.argv[1:]
config = asyncpush.UploadConfig(cache_dir=cache, progress="none")
result = asyncio.run(asyncpush.push_to_hub("me/m", source, endpoint=endpoint, config=config))
assert result.verified and len(result.files_uploaded) == 400
"""


@pytest.mark.no_cover
async def test_256_file_descriptors_are_enough(hub: LocalHub, write: Write, tmp_path: Path) -> None:
    rng = random.Random(8)
    source = write({f"{number}.bin": rng.randbytes(2000) for number in range(400)})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FEW_DESCRIPTORS,
        hub.url,
        str(source),
        str(tmp_path / "cache"),
        env={**os.environ, "HF_TOKEN": TOKEN},
        stderr=asyncio.subprocess.PIPE,
    )
    _, output = await process.communicate()
    assert process.returncode == 0, output.decode()
    # hf_xet is loaded before descriptors become scarce. With a log of its own, a thread would then
    # hold up to half of them for a moment, while it looks for logs of other processes.
    assert not (tmp_path / "hf-home" / "xet" / "logs").exists()


SCARCE = """
import asyncio, os, resource, sys
import asyncpush
endpoint, source, cache, transfer, when, left = sys.argv[1:]
open_session = asyncpush.Uploader

def leave(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    used = len(os.listdir("/proc/self/fd")) - 1
    for _ in range(1024 - count - used):
        os.open("/dev/null", os.O_RDONLY)

async def main():
    config = asyncpush.UploadConfig(cache_dir=cache, progress="none", transfer=transfer)
    if when == "from the start":
        leave(int(left))
    async with open_session(None, endpoint, config) as up:
        if when == "later":
            leave(int(left))
        result = await up.push_to_hub("me/m", source)
        assert result.verified and len(result.files_uploaded) == 30

asyncio.run(main())
"""


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("when", "left", "expected"),
    [
        ("from the start", 124, "max_concurrent_files=34 and max_concurrent_parts=34"),
        ("from the start", 12, "max_concurrent_parts=1; raise the limit (`ulimit -n`)"),
        ("later", 24, ""),
        ("from the start", 0, "AsyncPushError"),
    ],
)
async def test_scarce_descriptors_reduce_concurrency(
    hub: LocalHub, write: Write, tmp_path: Path, when: str, left: int, expected: str
) -> None:
    rng = random.Random(8)
    source = write({f"{number}.bin": rng.randbytes(50_000) for number in range(30)})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCARCE, hub.url, str(source), str(tmp_path / "cache")),
        *("lfs", when, str(left)),
        env={**os.environ, "HF_TOKEN": TOKEN},
        stderr=asyncio.subprocess.PIPE,
    )
    _, output = await process.communicate()
    said = output.decode()
    assert expected in said
    if expected == "AsyncPushError":
        assert "raise the limit (`ulimit -n`), or close files" in said
        assert not await exists(hub, "me/m")
    else:
        assert process.returncode == 0, said
        assert ("ulimit" in said) == bool(expected)


async def test_a_full_journal_disk_only_disables_resume(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    """/dev/full is no folder to keep a journal in either, and needs no rights to try."""
    source = write({"model.bin": b"\0" * (2 * PART_SIZE)})
    async with Uploader(TOKEN, hub.url, replace(config, cache_dir="/dev/full")) as uploader:
        result = await uploader.push_to_hub("me/m", source)
    assert result.verified
    assert any("resume" in warning for warning in result.warnings)


async def test_a_full_spool_disk_is_reported_with_a_fix(
    hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 1_000_000

    monkeypatch.setattr(spool, "_write", full)
    config = replace(config, max_memory=1 << 20)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        with pytest.raises(SourceError, match="cache_dir"):
            await uploader.push_to_hub("me/m", {"stream.bin": stream()})


async def test_a_read_error_names_the_file_and_commits_nothing(
    hub: LocalHub,
    uploader: Uploader,
    write: Write,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write({"model.bin": b"\0" * (3 * PART_SIZE)})
    preadv = os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset > 2 * PART_SIZE and faults.seen["batch"]:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(SourceError, match=r"model\.bin.*Input/output error"):
        await uploader.push_to_hub("me/m", source)
    assert len(await commits_of(hub, "me/m")) == 1


@pytest.mark.no_cover
async def test_a_slow_disk_under_the_journal_holds_up_no_part(
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here no sync ends, after the first, before the object is complete."""
    synced, syncs = threading.Event(), count()
    really = Database.write

    def slow(database: Database, work: Any, *, durable: bool) -> Any:
        if durable and next(syncs):
            assert synced.wait(60)
        return really(database, work, durable=durable)

    monkeypatch.setattr(Database, "write", slow)
    faults.hooks["complete"] = synced.set
    source = write({"model.bin": b"\0" * (3 * PART_SIZE)})
    async with (
        asyncio.timeout(30),
        Uploader(TOKEN, hub.url, replace(config, max_concurrent_parts=1)) as uploader,
    ):
        assert (await uploader.push_to_hub("me/m", source)).verified


class HungDisk:
    """The files of a folder cannot be opened from the `nth` time on, until `release`."""

    def __init__(self, folder: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hung = 0
        self.threads_hang = asyncio.Event()
        self._folder = str(folder)
        self._nth = nth
        self._opened: Counter[str] = Counter()
        self._released = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._really = os.open
        monkeypatch.setattr(os, "open", self._open)

    def release(self) -> None:
        self._released.set()

    def _open(self, path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).startswith(self._folder):
            self._opened[str(path)] += 1
            if self._opened[str(path)] >= self._nth:
                self.hung += 1
                if self.hung == WIDTH or self._nth == 1:
                    self._loop.call_soon_threadsafe(self.threads_hang.set)
                assert self._released.wait(60)
        return self._really(path, *args, **kwargs)


@pytest.mark.parametrize("nth", [1, 3], ids=["looked at", "hashed"])
async def test_beside_a_push_whose_disk_hangs_another_goes_on(
    nth: int, uploader: Uploader, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when it is cancelled, what it waits for is opened, and nothing after that."""
    rng = random.Random(nth)
    # Small files are opened once. Others are searched for credentials first, and then looked at.
    size = 2000 if nth == 1 else SHORT + 1
    slow = write({f"{number}.bin": rng.randbytes(size) for number in range(60)}, "slow")
    other = write({"model.bin": rng.randbytes(3 * PART_SIZE), "a.bin": b"\0a"}, "other")
    # In a repo that exists each file is opened once to be looked at, beside the first call.
    await uploader.push_to_hub("me/slow", {"begin.txt": b"begin"})
    disk = HungDisk(slow, nth, monkeypatch)
    try:
        hanging = uploader.start_push("me/slow", slow)
        async with asyncio.timeout(30):
            await disk.threads_hang.wait()
            result = await uploader.push_to_hub("me/other", other)
        assert result.verified
        hanging.cancel()
        await anyio.lowlevel.checkpoint()
    finally:
        disk.release()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert disk.hung <= WIDTH


async def test_a_hanging_file_does_not_stop_another_push(
    uploader: Uploader, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts hold all slots there are to begin with, and all threads that one push may have."""
    slow = write({"huge.bin": b""}, "slow")
    os.truncate(slow / "huge.bin", (START + 4) * PART_SIZE)
    other = write({"model.bin": b"\1" * (2 * PART_SIZE), "a.bin": b"\0a"}, "other")
    released, hanging = threading.Event(), asyncio.Event()
    loop, preadv, hung = asyncio.get_running_loop(), os.preadv, count(1)

    def slowly(descriptor: int, buffers: Any, offset: int) -> int:
        sent = threading.current_thread().name.startswith("asyncpush-send")
        if sent and os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(slow)):
            if next(hung) == WIDTH:
                loop.call_soon_threadsafe(hanging.set)
            assert released.wait(60)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", slowly)
    try:
        push = uploader.start_push("me/slow", slow)
        await hanging.wait()
        async with asyncio.timeout(30):
            assert (await uploader.push_to_hub("me/other", other)).verified
        push.cancel()
        await anyio.lowlevel.checkpoint()
    finally:
        released.set()
    with pytest.raises(asyncio.CancelledError):
        await push


@pytest.mark.parametrize("jump", [-86_400 * 365, 86_400 * 365], ids=["a year back", "a year on"])
async def test_a_clock_that_jumps_harms_nothing(
    jump: float,
    hub: LocalHub,
    uploader: Uploader,
    write: Write,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = random.Random(9).randbytes(2 * PART_SIZE + 1)
    source = write({"model.bin": content})
    real = time.time
    faults.add("part", "503", nth=2)
    faults.hooks["part"] = lambda: monkeypatch.setattr(
        "asyncpush.transfers.lfs.objects.time.time", lambda: real() + jump
    )
    result = await uploader.push_to_hub("me/m", source)
    assert result.verified
    assert await download(hub, "me/m") == {"model.bin": content}


async def test_a_network_that_is_away_is_waited_out(
    tmp_path: Path, write: Write, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub vanishes mid-push, for far more attempts than `max_retries`, and comes back."""
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 0.1)
    content = random.Random(10).randbytes(4 * PART_SIZE)
    source = write({"model.bin": content})
    config = UploadConfig(
        cache_dir=tmp_path / "cache",
        progress="none",
        max_retries=1,
        initial_backoff_ms=10,
        max_backoff_ms=20,
        max_concurrent_parts=1,
    )
    first = LocalHub(
        tmp_path / "hub",
        token=TOKEN,
        part_size=PART_SIZE,
        middlewares=[faults.middleware],
        xet=False,
    )
    gone = asyncio.Event()
    attempts = 0

    def count(record: object) -> None:
        nonlocal attempts
        event = getattr(record, "event", None)
        if type(event).__name__ == "RetryScheduled":
            attempts += 1
            if attempts == 10:
                gone.set()

    await first.__aenter__()
    port = first.port
    faults.add("part", "reset before the body", nth=2)
    leaving: list[asyncio.Task[None]] = []
    faults.hooks["part"] = lambda: leaving.append(
        asyncio.ensure_future(first.__aexit__(None, None, None))
    )
    async with Uploader(TOKEN, first.url, replace(config, events=count)) as uploader:
        handle = uploader.start_push("me/m", source)
        await gone.wait()
        await leaving[0]
        async with LocalHub(
            tmp_path / "hub", port=port, token=TOKEN, part_size=PART_SIZE, xet=False
        ) as second:
            result = await handle
            assert result.verified
            assert result.retries >= 10
            assert await download(second, "me/m") == {"model.bin": content}


EIGHT_RANKS = """
import asyncio, os, sys
import asyncpush, asyncpush.runtime
endpoint, cache, folder = sys.argv[1:]
config = asyncpush.UploadConfig(cache_dir=cache, progress="none", initial_backoff_ms=5)
shared = bytes(range(256)) * 40_000

async def main(rank):
    own = b"\\0" + str(rank).encode() * 1000
    files = {f"rank-{rank}/shared.bin": shared, f"rank-{rank}/own.bin": own}
    async with asyncpush.Uploader(endpoint=endpoint, config=config) as up:
        receipts = await up.upload_files("me/m", files)
    with open(f"{folder}/{rank}", "wb") as file:
        file.write(asyncpush.receipts_to_json(receipts))

for rank in range(8):
    if not os.fork():
        asyncio.run(main(rank))
        sys.exit()
for rank in range(8):
    assert os.wait()[1] == 0
"""


@pytest.mark.no_cover
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
async def test_eight_ranks_do_not_send_one_blob_eight_times(
    hub: LocalHub, uploader: Uploader, faults: FaultLayer, tmp_path: Path
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    faults.seen.clear()
    folder = tmp_path / "receipts"
    folder.mkdir()
    ranks = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        EIGHT_RANKS,
        hub.url,
        str(tmp_path / "cache"),
        str(folder),
        env={**os.environ, "HF_TOKEN": TOKEN},
    )
    assert await ranks.wait() == 0
    receipts = []
    for rank in range(8):
        receipts += receipts_from_json((folder / str(rank)).read_bytes())
    shared_parts = -(-256 * 40_000 // PART_SIZE)
    assert faults.seen["part"] == shared_parts + 8
    result = await uploader.commit("me/m", receipts)
    assert len(result.files_uploaded) == 16
