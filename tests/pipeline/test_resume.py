"""Pushes that die and are run again: real processes, real SIGKILL (REQ-005, invariant 5)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush import HubError, PushOptions, UploadConfig, Uploader
from asyncpush.events import Notice, Waiting
from asyncpush.journal import Journal, OpenUpload
from asyncpush.journal.database import Database
from asyncpush.journal.locks import HostLocks
from asyncpush.localhub import LocalHub
from asyncpush.net import parts
from asyncpush.transfers.lfs import objects as lfs
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer
from tests.journal.helpers import database_file, make_upload
from tests.reading import commits_of, download

Write = Callable[..., Path]

PART_SIZE = 4 << 20
IN_FLIGHT = 4

PUSH = """
import asyncio, sys
import asyncpush
from asyncpush.journal import journal, tables
tables.SETTLED_AFTER, journal.in_memory = 0.0, lambda device: False  # as the fixture settled_files
endpoint, source, cache, pr = sys.argv[1:]
config = asyncpush.UploadConfig(
    cache_dir=cache, progress="none", max_concurrent_parts=4, events=cache + "/events.jsonl",
    initial_backoff_ms=1,
)
options = asyncpush.PushOptions(create_pr=pr == "pr")
asyncio.run(asyncpush.push_to_hub("me/m", source, options, endpoint=endpoint, config=config))
"""


@dataclass
class Gate:
    """Lets so many requests of a route through, then holds the next ones and says so."""

    route: str = ""
    open_for: int = 1 << 30
    after: bool = False
    bytes_in: int = 0

    def __post_init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        self._passed = 0

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name
            if route == "part":
                self.bytes_in += request.content_length or 0
            if route != self.route:
                return await handler(request)
            self._passed += 1
            if self._passed <= self.open_for:
                return await handler(request)
            if self.after:
                await handler(request)
            self.reached.set()
            await self.released.wait()
            return web.Response(status=503)

        return hold


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def hub(tmp_path: Path, gate: Gate, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, gate.middleware, part_size=PART_SIZE) as hub:
        yield hub
        gate.released.set()


async def killed_push(
    hub: LocalHub, source: Path, tmp_path: Path, gate: Gate, *, pr: bool = False
) -> None:
    """A push in a process of its own that is killed when the gate is reached."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PUSH,
        hub.url,
        str(source),
        str(tmp_path / "cache"),
        "pr" if pr else "",
        env={**os.environ, "HF_TOKEN": TOKEN},
    )
    reached = asyncio.create_task(gate.reached.wait())
    ended = asyncio.create_task(process.wait())
    await asyncio.wait([reached, ended], return_when=asyncio.FIRST_COMPLETED)
    assert reached.done(), "the push ended before the gate was reached"
    process.send_signal(signal.SIGKILL)
    await ended
    gate.route = ""
    gate.released.set()


def sparse(path: Path, size: int) -> str:
    """A file with a few random bytes in every part; its sha256."""
    rng = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, PART_SIZE):
            file.seek(offset)
            file.write(rng.randbytes(64))
    os.utime(path, (1e9, 1e9))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sent_beside(*events: Path) -> int:
    """Bytes of parts that crawled and were sent on a second connection: on a busy machine some."""
    rows = [json.loads(line) for path in events for line in path.read_bytes().splitlines()]
    return sum(row["size"] for row in rows if row["event"] == "hf_hub.part" and row.get("again"))


@pytest.mark.no_cover
@pytest.mark.usefixtures("settled_files")
@pytest.mark.parametrize(
    "size", [256 << 20, pytest.param(2 << 30, marks=pytest.mark.big)], ids=["256 MiB", "2 GiB"]
)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.timeout(300)
async def test_after_sigkill_only_parts_in_flight_are_sent_twice(
    share: float,
    size: int,
    hub: LocalHub,
    config: UploadConfig,
    write: Write,
    tmp_path: Path,
    gate: Gate,
    faults: FaultLayer,
) -> None:
    source = write({"a.txt": b"a"})
    oid = sparse(source / "model.bin", size)
    gate.route, gate.open_for = "part", int(size / PART_SIZE * share)
    await killed_push(hub, source, tmp_path, gate)
    batches = faults.seen["batch"]

    config = replace(config, events=tmp_path / "second.jsonl")
    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", source)

    # A part that crawls goes a second time beside its first way, through the gate as well: so much
    # less was stored before the kill.
    beside = sent_beside(tmp_path / "cache" / "events.jsonl", tmp_path / "second.jsonl")
    # at the kill: some in flight, and as many whose answers had not been read yet
    assert gate.bytes_in - size <= 2 * IN_FLIGHT * PART_SIZE + beside
    assert result.bytes_transferred <= size * (1 - share) + IN_FLIGHT * PART_SIZE + 1 + beside
    assert faults.seen["batch"] == batches  # the first upload was continued
    assert b'"cached":true' in (tmp_path / "second.jsonl").read_bytes()  # not hashed twice
    assert {receipt.path_in_repo: receipt.oid for receipt in result.receipts}["model.bin"] == oid
    assert result.verified
    assert len(await commits_of(hub, "me/m")) == 2


async def test_a_push_killed_before_its_commit_resumes_there(
    hub: LocalHub, config: UploadConfig, write: Write, tmp_path: Path, gate: Gate
) -> None:
    content = random.Random(5).randbytes(2 * PART_SIZE)
    source = write({"model.bin": content})
    gate.route, gate.open_for = "commit", 0
    await killed_push(hub, source, tmp_path, gate)
    sent = gate.bytes_in

    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", source)
    assert gate.bytes_in == sent == len(content)
    assert result.bytes_transferred == 0
    assert result.files_uploaded == ("model.bin",)
    assert len(await commits_of(hub, "me/m")) == 2


@pytest.mark.parametrize("pr", [False, True], ids=["branch", "pull request"])
async def test_a_kill_after_the_commit_makes_no_second_one(
    pr: bool, hub: LocalHub, config: UploadConfig, write: Write, tmp_path: Path, gate: Gate
) -> None:
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    source = write({"model.bin": b"\0" * 100})
    gate.route, gate.open_for, gate.after = "commit", 0, True
    await killed_push(hub, source, tmp_path, gate, pr=pr)

    async with Uploader(TOKEN, hub.url, config) as uploader:
        result = await uploader.push_to_hub("me/m", source, PushOptions(create_pr=pr))
    revision = "refs/pr/1" if pr else "main"
    commits = await commits_of(hub, "me/m", revision)
    assert len(commits) == 3
    assert result.commit_sha == commits[0]["id"]
    if pr:
        assert result.pr_url == f"{hub.url}/me/m/discussions/1"


async def test_a_killed_chain_goes_on_with_its_pull_request(
    hub: LocalHub, config: UploadConfig, tmp_path: Path, gate: Gate, faults: FaultLayer
) -> None:
    """Cancelled here rather than killed: the journal is what a killed process leaves."""
    files = {f"{number}.txt": b"%d" % number for number in range(6)}
    options = PushOptions(max_files_per_commit=2)
    gate.route, gate.open_for = "commit", 2
    async with Uploader(TOKEN, hub.url, config) as uploader:
        handle = uploader.start_push("me/m", files, options)
        await gate.reached.wait()
        handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
    gate.route = ""
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", files, options)

    assert faults.seen["discussion-create"] == 1
    assert await download(hub, "me/m") == files
    assert len(await commits_of(hub, "me/m", "refs/pr/1")) == 1 + 3


async def test_progress_does_not_fall_when_an_upload_expires(
    hub: LocalHub,
    config: UploadConfig,
    write: Write,
    faults: FaultLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invariant 5: earlier ETags are void then, and the object's parts restart."""
    # A part that crawls on a busy machine is sent twice: the expired URL would be the second one's.
    monkeypatch.setattr(parts, "LEAST", 1 << 40)
    seen: list[int] = []
    config = replace(config, progress_callback=lambda progress: seen.append(progress.bytes_sent))
    content = random.Random(6).randbytes(8 * PART_SIZE - 1)
    source = write({"model.bin": content})
    faults.add("part", "expired URL", nth=5)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", source)
    assert faults.seen["batch"] == 2
    assert seen == sorted(seen)
    assert await download(hub, "me/m") == {"model.bin": content}


@pytest.mark.usefixtures("settled_files")
async def test_the_event_loop_never_waits_for_the_journal(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, write: Write
) -> None:
    """Where other hosts, or a slow disk, keep its files busy, a look into them takes seconds."""
    here = threading.get_ident()
    seen: Counter[tuple[str, bool]] = Counter()

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen[method.__name__, threading.get_ident() == here] += 1
            return method(*args, **kwargs)

        return call

    source = write({"a.bin": b"\0a", "model.bin": b"\0" * (2 * PART_SIZE)})
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in (
            (Database, ("_run", "compact", "close")),
            (HostLocks, ("_try_lock", "_unlock", "count_claimed")),
        ):
            for name in names:
                patch.setattr(owner, name, watched(getattr(owner, name)))
        async with Uploader(TOKEN, hub.url, config) as uploader:
            faults.add("commit", "403")
            with pytest.raises(HubError):
                await uploader.push_to_hub("me/m", source)
            await uploader.push_to_hub("me/m", source, PushOptions(create_pr=True))
    assert {name for name, _ in seen} >= {"_run", "close", "_try_lock", "_unlock", "count_claimed"}
    assert [name for name, on_the_loop in seen if on_the_loop] == []


async def test_small_objects_take_no_claim_and_leave_no_upload(
    uploader: Uploader, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("claim", "find_upload", "begin_upload", "end_upload"):
        monkeypatch.setattr(Journal, method, None)
    files = {f"{number}.bin": b"\0%d" % number for number in range(20)}
    assert (await uploader.push_to_hub("me/m", write(files))).verified


async def test_a_stalled_claim_holder_is_not_waited_for(
    hub: LocalHub,
    config: UploadConfig,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a stopped process does. What it has remembered of its upload stays as it is."""
    monkeypatch.setattr(lfs, "CLAIM_TIMEOUT", 1.5)
    monkeypatch.setattr(lfs, "CLAIM_POLL", 0.02)
    monkeypatch.setattr(lfs, "PROGRESS_POLL", 0.1)
    monkeypatch.setattr(lfs, "SHORTEST_WAIT", 0.05)
    content = random.Random(7).randbytes(3 * PART_SIZE)
    source = write({"model.bin": content})
    oid, scope = hashlib.sha256(content).hexdigest(), f"{hub.url}/me/m"
    with Journal.open(tmp_path / "cache") as stopped:
        claim = stopped.claim(scope, oid)
        assert claim is not None
        began = time.time()
        theirs = OpenUpload(
            oid, len(content), PART_SIZE, hub.url, ("a", "b", "c"), None, began + 3600, {}, began
        )
        stopped.begin_upload(scope, theirs)
        stopped.part_stored(scope, oid, 2, '"etag"')
        recorded = EventRecorder()
        config = replace(config, cache_dir=tmp_path / "cache", events=recorded)
        async with Uploader(TOKEN, hub.url, config) as uploader:
            result = await uploader.push_to_hub("me/m", source)
        found = stopped.find_upload(scope, oid)
        claim.release()
    assert result.bytes_transferred == len(content)
    assert any("made no progress" in notice.message for notice in recorded.of(Notice))
    waits = [event for event in recorded.of(Waiting) if "another push" in event.reason]
    assert [round(event.seconds / 0.05) for event in waits[:2]] == [1, 2]  # as long as it lasts
    assert found is not None
    assert found.etags == {2: '"etag"'}


async def test_a_push_forgets_uploads_whose_urls_have_expired(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    """They are credentials, if only for those who have a clock that is slow."""
    with Journal.open(Path(config.cache_dir), clock=lambda: time.time() - 86_400) as journal:
        old = make_upload(started_at=time.time() - 86_400, lifetime=3600)
        journal.begin_upload("scope", old)
    os.utime(database_file(Path(config.cache_dir)), (time.time() - 3601,) * 2)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write({"a.txt": b"a"}))
    with Journal.open(Path(config.cache_dir)) as journal:
        assert (journal.stats().uploads, journal.stats().parts) == (0, 0)
