"""Parts to a real server: the bytes that arrive, what is left behind, what cuts and what slows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from asyncpush.concurrency.threads import BatchedThreads
from asyncpush.errors import AuthError, HubError, ProtocolError, SourceChangedError
from asyncpush.events import Emitter, PartConnected, RequestFinished, RequestStarted
from asyncpush.models import FileIdentity, FileSource, Part, PathSource
from asyncpush.net import bodies
from asyncpush.net.adaptive_limit import AdaptiveLimit, Slot
from asyncpush.net.bodies import (
    UNSENT,
    UNSENT_AT_FIRST,
    BufferPool,
    PartBody,
    PartContent,
    PartFeed,
    RandomAccess,
)
from asyncpush.net.parts import LEAST, PartSender, SentPart
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.net.session import HubSession
from asyncpush.net.stall_timeout import StallTimeout
from asyncpush.options import PIECES_PER_WRITE
from asyncpush.sources import Reader
from tests.cancelling import PROMPTLY
from tests.fake_clock import let_tasks_run
from tests.net.helpers import (
    TOKEN,
    EventRecorder,
    Peer,
    cut_off,
    deaf,
    headers_only,
    redirect,
    reply,
    reset,
    reset_after,
    reset_at_once,
    serving,
    session_to,
    silence,
    stream_server,
    unread,
)

KIB = 1 << 10
MIB = 1 << 20
CHUNK = 16 * KIB
BUFFER = PIECES_PER_WRITE * CHUNK


@cache
def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class Content:
    """Bytes by position; counts the threads that are in it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reading = 0

    def readinto(self, offset: int, buffer: memoryview) -> int:
        self.reading += 1
        try:
            self.read(offset, buffer)
        finally:
            self.reading -= 1
        return len(buffer)

    def read(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def descriptor(self) -> int | None:
        return None

    def part(self, url: str, number: int = 1, offset: int = 0, size: int | None = None) -> Part:
        return Part(number, offset, len(self.data) if size is None else size, url)


class Gated(Content):
    """Reads from `gate` on wait for `opened`, and say so."""

    def __init__(self, data: bytes, gate: int) -> None:
        super().__init__(data)
        self.gate = gate
        self.opened = threading.Event()
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def read(self, offset: int, buffer: memoryview) -> None:
        if offset >= self.gate:
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self.opened.wait(5)
        super().read(offset, buffer)


class Broken(Content):
    """Reads from `where` on raise."""

    def __init__(self, data: bytes, where: int, failure: Exception) -> None:
        super().__init__(data)
        self._where = where
        self._failure = failure

    def read(self, offset: int, buffer: memoryview) -> None:
        if offset >= self._where:
            raise self._failure
        super().read(offset, buffer)


class Sending:
    """A sender to a server, with a part's arguments filled in; one attempt at a time."""

    def __init__(self, session: HubSession, threads: ThreadPoolExecutor, width: int = 4) -> None:
        self.recorded = EventRecorder()
        self.pool = BufferPool(PIECES_PER_WRITE * session.config.chunk_size)
        self.limit = AdaptiveLimit(width)
        self.positions: list[int] = []
        self.wire: list[int] = []
        self._session = session
        self._sender = PartSender(session, self.limit, self.pool)
        self._threads = BatchedThreads(threads, 4)

    async def send(
        self,
        source: RandomAccess,
        part: Part,
        *,
        attempt: int = 1,
        headers: Mapping[str, str] | None = None,
        in_memory: PartContent | None = None,
    ) -> SentPart:
        fields = {"file": "a.bin", "part_number": part.number}
        return await self._session.retry_loop.run(
            lambda this: self._sender.send(
                source,
                part,
                this,
                self._threads,
                headers=headers or {},
                on_sent=self.positions.append,
                on_wire=self.wire.append,
                fields=fields,
                content=in_memory,
            ),
            self.recorded.events,
            "part",
            fields=fields,
            retry=False,
            first=attempt,
        )

    def check_nothing_is_left(self) -> None:
        assert self.limit.in_flight == 0
        assert len(self.pool._free) == len({id(buffer) for buffer in self.pool._free})


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
async def part_session(peer: Peer) -> AsyncIterator[HubSession]:
    async with session_to(peer.url, chunk_size=CHUNK) as session:
        yield session


@pytest.fixture
def sending(part_session: HubSession, threads: ThreadPoolExecutor) -> Iterator[Sending]:
    sending = Sending(part_session, threads)
    yield sending
    sending.check_nothing_is_left()


def stored(etag: str = '"e"') -> Any:
    return reply(200, b"", ETag=etag)


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, id="one byte"),
        pytest.param(CHUNK - 1, id="a piece less one"),
        pytest.param(CHUNK, id="one piece"),
        pytest.param(CHUNK + 1, id="a piece and one"),
        pytest.param(BUFFER, id="one buffer"),
        pytest.param(BUFFER + 1, id="a buffer and one"),
        pytest.param(3 * BUFFER + 7, id="buffers used again"),
        pytest.param(3 * MIB + 5, id="more than the kernel takes at once"),
    ],
)
async def test_the_bytes_arrive_as_they_are(sending: Sending, peer: Peer, size: int) -> None:
    peer.script(stored('"abc"'))
    content = Content(noise(size))
    sent = await sending.send(content, content.part(f"{peer.url}/part?sig=x"))
    (seen,) = peer.seen
    assert seen.body == content.data
    assert seen.headers["Content-Length"] == str(size)
    assert sent.etag == '"abc"'
    assert sent.md5 == hashlib.md5(content.data).hexdigest()
    assert sending.positions == sorted(set(sending.positions))
    assert sending.positions[-1] == size
    assert len(sending.pool._free) == (size > CHUNK)


async def test_a_part_is_a_slice_of_its_file(sending: Sending, peer: Peer) -> None:
    content = Content(noise(5 * BUFFER))
    await sending.send(content, content.part(peer.url + "/p", 2, BUFFER + 3, 2 * BUFFER + 1))
    assert peer.seen[0].body == content.data[BUFFER + 3 : 3 * BUFFER + 4]


async def test_a_part_without_bytes(sending: Sending, peer: Peer) -> None:
    content = Content(b"")
    sent = await sending.send(content, content.part(peer.url + "/p"))
    assert peer.seen[0].body == b""
    assert peer.seen[0].headers["Content-Length"] == "0"
    assert sent.md5 == hashlib.md5(b"").hexdigest()


async def test_many_parts_at_once_do_not_mix_their_bytes(sending: Sending, peer: Peer) -> None:
    contents = [Content(noise(2 * BUFFER + number)) for number in range(12)]
    async with anyio.create_task_group() as group:
        for number, content in enumerate(contents):
            group.start_soon(sending.send, content, content.part(f"{peer.url}/{number}"))
    arrived = {seen.path: seen.body for seen in peer.seen}
    assert arrived == {f"/{number}": content.data for number, content in enumerate(contents)}
    assert len(sending.pool._free) <= 4


async def test_tls_buffers_are_not_reused_before_they_are_sent(
    secure_peer: Peer, threads: ThreadPoolExecutor
) -> None:
    async with session_to(secure_peer.url, chunk_size=CHUNK) as session:
        sending = Sending(session, threads)
        content = Content(noise(4 * MIB + 1))
        await sending.send(content, content.part(secure_peer.url + "/p"))
    assert secure_peer.seen[0].body == content.data


def file_source(path: Path, size: int) -> FileSource:
    path.write_bytes(noise(size))
    return FileSource("a.bin", size, PathSource(str(path), FileIdentity.of(path.stat())))


@pytest.fixture
async def unchecked(peer: Peer, threads: ThreadPoolExecutor) -> AsyncIterator[Sending]:
    async with session_to(peer.url, verify_etag=False, chunk_size=CHUNK) as session:
        sending = Sending(session, threads)
        yield sending
        sending.check_nothing_is_left()


async def test_unchecked_files_are_sent_from_the_page_cache(
    unchecked: Sending, peer: Peer, tmp_path: Path
) -> None:
    size = 3 * MIB + 5
    with Reader(file_source(tmp_path / "a", size)) as reader:
        await unchecked.send(reader, Part(2, 7, size - 7, peer.url + "/p"))
    assert peer.seen[0].body == noise(size)[7:]


async def test_a_truncated_file_is_a_changed_source(
    unchecked: Sending, peer: Peer, tmp_path: Path
) -> None:
    size = 8 * BUFFER
    with Reader(file_source(tmp_path / "a", size)) as reader:
        os.truncate(tmp_path / "a", 2 * BUFFER + 1)
        with pytest.raises(SourceChangedError, match="ends at byte"):
            await unchecked.send(reader, Part(1, 0, size, peer.url + "/p"))


class Unsendable(Content):
    """Its descriptor is a pipe's, which has no positions to send from."""

    def __init__(self, data: bytes, pipe: int) -> None:
        super().__init__(data)
        self._pipe = pipe

    def descriptor(self) -> int | None:
        return self._pipe


async def test_what_the_kernel_cannot_send_from_is_read(unchecked: Sending, peer: Peer) -> None:
    end, other = os.pipe()
    try:
        content = Unsendable(noise(2 * BUFFER + 1), end)
        await unchecked.send(content, content.part(peer.url + "/p"))
    finally:
        os.close(end)
        os.close(other)
    assert peer.seen[0].body == content.data


async def test_progress_is_reported_while_a_slow_part_moves(sending: Sending, peer: Peer) -> None:
    """The store takes what comes before the gate; the rest waits. Word of it comes all the same."""
    content = Gated(noise(8 * BUFFER), gate=4 * BUFFER)
    async with anyio.create_task_group() as group:
        group.start_soon(sending.send, content, content.part(peer.url + "/p"))
        await content.reached.wait()
        assert sending.positions
        assert sending.positions[-1] <= 4 * BUFFER
        content.opened.set()
    assert sending.positions[-1] == 8 * BUFFER


async def test_nobody_hashes_what_nobody_checks(peer: Peer, threads: ThreadPoolExecutor) -> None:
    async with session_to(peer.url, verify_etag=False, chunk_size=CHUNK) as session:
        content = Content(noise(BUFFER))
        sent = await Sending(session, threads).send(content, content.part(peer.url + "/p"))
    assert sent.md5 is None
    assert peer.seen[0].body == content.data


# --- headers ------------------------------------------------------------------------------------


async def test_a_presigned_put_carries_nothing_that_was_not_signed(
    sending: Sending, peer: Peer
) -> None:
    content = Content(b"x")
    await sending.send(content, content.part(peer.url + "/p?X-Amz-Signature=a%2Fb%3D&y"))
    (seen,) = peer.seen
    assert (seen.method, seen.path) == ("PUT", "/p?X-Amz-Signature=a%2Fb%3D&y")
    assert set(seen.headers) == {
        "Host",
        "Content-Length",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
    }
    assert TOKEN not in str(seen.headers)


async def test_the_actions_headers_go_along(sending: Sending, peer: Peer) -> None:
    content = Content(b"xy")
    await sending.send(
        content,
        content.part(peer.url + "/p"),
        headers={"X-Ms-Blob-Type": "BlockBlob", "Content-Type": "application/octet-stream"},
    )
    headers = peer.seen[0].headers
    assert headers["X-Ms-Blob-Type"] == "BlockBlob"
    assert headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"content-length": "1"}, id="length, lower case"),
        pytest.param({"Content-Length": "1"}, id="length"),
        pytest.param({"Transfer-Encoding": "chunked"}, id="chunked"),
        pytest.param({"Host": "169.254.169.254"}, id="host"),
        pytest.param({"Connection": "close"}, id="connection"),
    ],
)
async def test_an_action_cannot_frame_the_request_otherwise(
    sending: Sending, peer: Peer, headers: dict[str, str]
) -> None:
    content = Content(noise(CHUNK))
    await sending.send(content, content.part(peer.url + "/p"), headers=headers)
    (seen,) = peer.seen
    assert seen.body == content.data
    assert seen.headers["Host"] == peer.url.removeprefix("http://")
    assert str(seen.headers).count("ength") == 1
    assert "Transfer-Encoding" not in seen.headers


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"], ids=repr)
async def test_a_header_that_would_break_out_is_an_error(
    sending: Sending, peer: Peer, value: str
) -> None:
    content = Content(b"x")
    with pytest.raises(HubError):
        await sending.send(content, content.part(peer.url + "/p"), headers={"X-A": value})
    assert all("X-Evil" not in seen.headers for seen in peer.seen)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://169.254.169.254/x", "ftp://h/x", "https://u:p@h/x", "nonsense"],
    ids=str,
)
async def test_a_part_is_not_sent_to_a_forbidden_url(sending: Sending, url: str) -> None:
    content = Content(b"x")
    with pytest.raises(ProtocolError):
        await sending.send(content, content.part(url))
    assert content.reading == 0


# --- answers ------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Any, int | None, bool]] = {
    "403, expired": (
        reply(403, "<Error><Message>Request has expired</Message></Error>"),
        403,
        False,
    ),
    "404": (reply(404), 404, False),
    "307": (redirect(307, "http://elsewhere.example/"), 307, False),
    "429": (reply(429, Retry_After="3"), 429, True),
    "500": (reply(500), 500, True),
    "503": (reply(503), 503, True),
    "reset after the body": (reset, None, True),
    "reset before the body": (reset_at_once, None, True),
    "reset mid-body": (reset_after(100_000), None, True),
    "answer cut off": (cut_off(b"HTTP", of=100), None, True),
}


@pytest.mark.parametrize(("answer", "status", "retryable"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_failed_part_is_a_hub_error(
    sending: Sending, peer: Peer, answer: Any, status: int | None, retryable: bool
) -> None:
    peer.script(answer)
    content = Content(noise(MIB))
    with pytest.raises(HubError) as caught:
        await sending.send(content, content.part(f"{peer.url}/p?sig=5ecret"), attempt=2)
    error = caught.value
    assert (error.status, error.retryable) == (status, retryable)
    assert (error.method, error.attempt) == ("PUT", 2)
    assert error.url == f"{peer.url}/p?<redacted>"
    assert "5ecret" not in str(error) + repr(sending.recorded.records)
    assert not isinstance(error, AuthError)
    assert len(peer.seen) == 1  # repeating is for the caller, who counts attempts
    assert content.reading == 0


async def test_a_part_can_be_sent_again_after_a_failure(sending: Sending, peer: Peer) -> None:
    peer.script(reset_after(50_000), stored())
    content = Content(noise(MIB))
    part = content.part(peer.url + "/p")
    with pytest.raises(HubError):
        await sending.send(content, part)
    await sending.send(content, part, attempt=2)
    assert peer.seen[1].body == content.data


async def test_a_refusal_before_the_body_was_read_is_heard(sending: Sending, peer: Peer) -> None:
    peer.script(unread(reply(403, "<Error><Message>Request has expired</Message></Error>")))
    content = Content(noise(8 * MIB))
    with pytest.raises(HubError) as caught:
        await sending.send(content, content.part(peer.url + "/p"))
    assert caught.value.status in (403, None)


async def test_an_early_success_is_a_failure(sending: Sending, peer: Peer) -> None:
    """Answered 200 while the last bytes wait behind a gate: nobody can have stored them."""
    answered = asyncio.Event()

    async def early(request: web.Request) -> web.StreamResponse:
        await request.content.readexactly(BUFFER)
        response = web.StreamResponse(headers={"ETag": '"e"', "Content-Length": "0"})
        await response.prepare(request)
        await response.write_eof()
        answered.set()
        return response

    early.unread = True  # type: ignore[attr-defined]
    peer.script(early)
    content = Gated(noise(4 * BUFFER), gate=BUFFER)
    async with anyio.create_task_group() as group:

        async def send() -> None:
            with pytest.raises(HubError, match="before it had the whole part") as caught:
                await sending.send(content, content.part(peer.url + "/p"))
            assert caught.value.retryable

        group.start_soon(send)
        await answered.wait()
        content.opened.set()


async def test_no_etag_is_for_the_caller_to_judge(sending: Sending, peer: Peer) -> None:
    content = Content(b"x")
    sent = await sending.send(content, content.part(peer.url + "/p"))
    assert sent.etag is None


# --- small parts in memory ----------------------------------------------------------------------


class Unread(Content):
    def read(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("its bytes are in memory")


def in_memory(size: int) -> tuple[Unread, PartContent]:
    data = noise(size)
    return Unread(data), PartContent(data, hashlib.md5(data).hexdigest())


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, 3 * CHUNK, LEAST])
async def test_a_small_part_is_sent_from_memory(size: int, sending: Sending, peer: Peer) -> None:
    content, held = in_memory(size)
    peer.script(stored(f'"{held.md5}"'))
    sent = await sending.send(content, content.part(peer.url + "/p"), in_memory=held)
    assert (sent.etag, sent.md5, sent.stored_md5) == (f'"{held.md5}"', held.md5, held.md5)
    (seen,) = peer.seen
    assert seen.body == content.data
    assert seen.headers["Content-Length"] == str(size)
    assert "Content-Type" not in seen.headers
    assert sending.wire == [size]
    assert [type(record.event) for record in sending.recorded.records] == [
        RequestStarted,
        PartConnected,
        RequestFinished,
    ]
    (finished,) = sending.recorded.of(RequestFinished)
    assert finished.sent_ms is not None


async def test_a_small_part_cut_off_is_a_failed_attempt(sending: Sending, peer: Peer) -> None:
    """Also when it was kept from before: aiohttp would send the part again by itself."""
    content, held = in_memory(LEAST)
    peer.script(stored(), reset_after(1000), reset, stored())
    part = content.part(peer.url + "/p")
    await sending.send(content, part, in_memory=held)
    for attempt in (2, 3):
        with pytest.raises(HubError) as caught:
            await sending.send(content, part, attempt=attempt, in_memory=held)
        assert caught.value.retryable
    await sending.send(content, part, attempt=4, in_memory=held)
    assert len(peer.seen) == 4
    assert peer.seen[-1].body == content.data


async def test_small_parts_in_memory_keep_to_the_bandwidth(
    peer: Peer, threads: ThreadPoolExecutor
) -> None:
    async with session_to(peer.url, chunk_size=CHUNK, max_bandwidth=2 * MIB) as session:
        sending = Sending(session, threads)
        content, held = in_memory(MIB // 4)
        began = time.monotonic()
        for _ in range(3):
            await sending.send(content, content.part(peer.url + "/p"), in_memory=held)
        assert time.monotonic() - began > 0.2


# --- the source ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, BUFFER, 3 * BUFFER], ids=["start", "middle", "end"])
@pytest.mark.parametrize(
    "failure",
    [SourceChangedError("changed"), OSError(5, "I/O error"), RuntimeError("odd")],
    ids=repr,
)
async def test_what_reading_raises_comes_out_as_itself(
    sending: Sending, peer: Peer, failure: Exception, where: int
) -> None:
    content = Broken(noise(4 * BUFFER), where, failure)
    with pytest.raises(type(failure)) as caught:
        await sending.send(content, content.part(peer.url + "/p"))
    assert caught.value is failure


async def test_an_unawaited_failure_is_not_logged(sending: Sending, peer: Peer) -> None:
    """The store has answered already when the read ahead fails."""
    peer.script(unread(reply(403)))
    content = Broken(noise(8 * MIB), BUFFER, SourceChangedError("changed"))
    with pytest.raises((HubError, SourceChangedError)):
        await sending.send(content, content.part(peer.url + "/p"))


# --- cancellation -------------------------------------------------------------------------------


def cancel_by_scope(group_scope: anyio.CancelScope, task: asyncio.Task[Any]) -> None:
    group_scope.cancel()


def cancel_by_task(group_scope: anyio.CancelScope, task: asyncio.Task[Any]) -> None:
    task.cancel()


def cancel_twice(group_scope: anyio.CancelScope, task: asyncio.Task[Any]) -> None:
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)


@pytest.mark.parametrize("cancel", [cancel_by_scope, cancel_by_task, cancel_twice])
async def test_a_cancelled_part_waits_for_its_reading_thread(
    sending: Sending,
    peer: Peer,
    cancel: Callable[[anyio.CancelScope, asyncio.Task[Any]], None],
) -> None:
    """The file is closed and the buffers are used again right after."""
    content = Gated(noise(8 * BUFFER), gate=2 * BUFFER)
    before = asyncio.all_tasks()
    scope = anyio.CancelScope()

    async def send() -> None:
        with scope:
            await sending.send(content, content.part(peer.url + "/p"))

    task = asyncio.create_task(send())
    await content.reached.wait()
    cancel(scope, task)
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert not task.done()
    assert content.reading == 1

    content.opened.set()
    await asyncio.wait([task])
    assert content.reading == 0
    assert len(sending.pool._free) == 1
    assert sending.limit.in_flight == 0
    ours = {t for t in asyncio.all_tasks() - before if "write_bytes" in repr(t.get_coro())}
    assert ours == set()


@pytest.mark.parametrize("hang", [silence, deaf, headers_only], ids=["silent", "deaf", "half"])
async def test_a_part_is_cancelled_at_once_while_the_server_hangs(
    sending: Sending, peer: Peer, hang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []  # none, if the cancellation comes before the first byte is read
    take = sending.pool.take

    def taking() -> Any:
        taken.append(buffer := take())
        return buffer

    monkeypatch.setattr(sending.pool, "take", taking)
    peer.script(hang)
    content = Content(noise(16 * MIB))
    async with anyio.create_task_group() as group:
        group.start_soon(sending.send, content, content.part(peer.url + "/p"))
        await peer.requests(1)
        began = time.monotonic()
        group.cancel_scope.cancel()
    assert time.monotonic() - began < PROMPTLY
    assert content.reading == 0
    assert sending.pool._free == taken


async def test_a_cancelled_wait_for_a_slot_sends_nothing(
    part_session: HubSession, peer: Peer, threads: ThreadPoolExecutor
) -> None:
    peer.script(silence)
    sending = Sending(part_session, threads, width=1)
    content = Content(b"x")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(sending.send, content, content.part(peer.url + "/p"))
        await peer.requests(1)
        group.cancel_scope.cancel()
    assert len(peer.seen) == 1
    assert sending.limit.in_flight == 0


@pytest.mark.parametrize("end", ["goes on", "is cancelled", "fails"])
async def test_a_short_part_holds_no_slot_while_its_source_hangs(
    end: str, sending: Sending, peer: Peer
) -> None:
    hung = Gated(b"x" * CHUNK, gate=0)
    peer.script(stored('"abc"'))
    task = asyncio.create_task(sending.send(hung, hung.part(peer.url + "/hung")))
    await hung.reached.wait()
    assert sending.limit.in_flight == 0
    if end == "is cancelled":
        task.cancel()
    elif end == "fails":
        hung.data = b""
    hung.opened.set()
    await asyncio.wait([task])
    assert task.cancelled() == (end == "is cancelled")
    if end == "fails":
        assert isinstance(task.exception(), ValueError)
    assert len(peer.seen) == (end == "goes on")
    assert hung.reading == 0
    sending.check_nothing_is_left()


# --- stalls and speed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hang", [silence, deaf, headers_only], ids=["no answer", "does not read", "half an answer"]
)
async def test_a_stalled_part_is_cut_and_halves_the_limit(
    peer: Peer, threads: ThreadPoolExecutor, hang: Any
) -> None:
    peer.script(hang)
    async with session_to(peer.url, chunk_size=CHUNK, stall_timeout=0.2) as session:
        sending = Sending(session, threads)
        content = Content(noise(16 * MIB))
        with pytest.raises(HubError, match=r"no data was sent or received for 0\.2 s") as caught:
            await sending.send(content, content.part(peer.url + "/p"))
        sending.check_nothing_is_left()
        assert caught.value.retryable
        assert sending.limit.limit == 2
        connector = session.http.connector
        assert connector is not None
        assert not connector._conns  # another connection next time
    assert content.reading == 0


async def test_a_slow_reader_is_not_a_stall(peer: Peer, threads: ThreadPoolExecutor) -> None:
    """Twice the limit passes, and bytes always move."""

    async def slow(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * KIB)
        async for _ in request.content.iter_chunked(512 * KIB):
            await anyio.sleep(0.04)
        return web.Response(headers={"ETag": '"e"'})

    slow.unread = True  # type: ignore[attr-defined]
    peer.script(slow)
    async with session_to(peer.url, chunk_size=CHUNK, stall_timeout=1) as session:
        content = Content(noise(16 * MIB))
        sent = await Sending(session, threads).send(content, content.part(peer.url + "/p"))
    assert sent.etag == '"e"'


async def test_bandwidth_is_bounded(peer: Peer, threads: ThreadPoolExecutor) -> None:
    async with session_to(peer.url, chunk_size=CHUNK, max_bandwidth=2 * MIB) as session:
        sending = Sending(session, threads)
        content = Content(noise(MIB // 4))
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(sending.send, content, content.part(f"{peer.url}/{number}"))
        assert time.monotonic() - began >= 0.25  # 0.5 MiB at 2 MiB/s


async def test_waiting_for_bandwidth_is_not_a_stall(
    peer: Peer, threads: ThreadPoolExecutor
) -> None:
    async with session_to(
        peer.url, chunk_size=CHUNK, max_bandwidth=CHUNK, stall_timeout=0.8
    ) as session:
        content = Content(noise(CHUNK))
        await Sending(session, threads).send(content, content.part(peer.url + "/p"))
    assert peer.seen[0].body == content.data


# --- width --------------------------------------------------------------------------------------


async def test_no_more_parts_than_the_limit_are_in_flight(
    part_session: HubSession, peer: Peer, threads: ThreadPoolExecutor
) -> None:
    peer.script(silence)
    sending = Sending(part_session, threads, width=3)
    content = Content(b"x")
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(sending.send, content, content.part(peer.url + "/p"))
        await peer.requests(3)
        for _ in range(30):
            await anyio.lowlevel.checkpoint()
        assert len(peer.seen) == 3
        peer.released.set()
    assert len(peer.seen) == 8


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_store_halves_the_width(
    sending: Sending, peer: Peer, status: int
) -> None:
    peer.script(reply(status))
    content = Content(b"x")
    with pytest.raises(HubError):
        await sending.send(content, content.part(peer.url + "/p"))
    assert sending.limit.limit == 2


async def test_one_overload_halves_the_width_once(
    part_session: HubSession, peer: Peer, threads: ThreadPoolExecutor
) -> None:
    peer.script(reply(503))
    sending = Sending(part_session, threads, width=8)
    content = Content(b"x")

    async def send() -> None:
        with pytest.raises(HubError):
            await sending.send(content, content.part(peer.url + "/p"))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(send)
    assert sending.limit.limit == 4


# --- stragglers ---------------------------------------------------------------------------------

LARGE = 12 * MIB
"""More than the kernels of both sides take: a peer that does not read is seen not to."""


async def whole(request: web.Request) -> web.StreamResponse:
    """Stored, with the MD5 of what came as its ETag."""
    return web.Response(headers={"ETag": f'"{hashlib.md5(await request.read()).hexdigest()}"'})


def unread_until(event: asyncio.Event, answer: Any) -> Any:
    async def late(request: web.Request) -> web.StreamResponse:
        request.protocol.pause_reading()
        await event.wait()
        request.protocol.resume_reading()
        response: web.StreamResponse = await answer(request)
        return response

    late.unread = True  # type: ignore[attr-defined]
    return late


class Straggling:
    """Three parts are stored at a good pace; then comes one that `first` answers, and, if it is
    sent again, `second`."""

    def __init__(self, sending: Sending, peer: Peer) -> None:
        self.sending = sending
        self.peer = peer
        self.content = Content(noise(LARGE))
        self.second_came = asyncio.Event()

    async def send(self, first: Any, second: Any) -> SentPart:
        self.peer.script(whole)
        for _ in range(3):
            part = self.content.part(self.peer.url + "/quick", size=2 * MIB)
            await self.sending.send(self.content, part)
        self.peer.script(first, self._heard(second))
        self.sending.positions.clear()
        self.sending.wire.clear()
        return await self.sending.send(self.content, self.content.part(self.peer.url + "/slow"))

    def _heard(self, answer: Any) -> Any:
        async def copied(request: web.Request) -> web.StreamResponse:
            self.second_came.set()
            response: web.StreamResponse = await answer(request)
            return response

        copied.unread = getattr(answer, "unread", False)  # type: ignore[attr-defined]
        return copied

    def check_nothing_was_lost(self, sent: SentPart) -> None:
        assert sent.md5 == hashlib.md5(self.content.data).hexdigest()
        assert sent.is_good
        positions = self.sending.positions
        assert positions == sorted(set(positions))
        assert positions[-1] == LARGE
        assert self.content.reading == 0
        self.sending.check_nothing_is_left()


@pytest.fixture
async def narrow_peer() -> AsyncIterator[Peer]:
    """A server that leaves most of a part with the sender while it does not read."""
    async with serving(receive_buffer=512 * KIB) as peer:
        yield peer


@pytest.fixture
async def straggling(narrow_peer: Peer, threads: ThreadPoolExecutor) -> AsyncIterator[Straggling]:
    # On a busy machine the others' pace is slow, and what crawls is found out late.
    async with session_to(narrow_peer.url, chunk_size=CHUNK, stall_timeout=60) as session:
        yield Straggling(Sending(session, threads), narrow_peer)


async def test_a_slow_part_is_hedged_and_the_first_answer_counts(
    straggling: Straggling, narrow_peer: Peer
) -> None:
    sent = await straggling.send(deaf, whole)
    straggling.check_nothing_was_lost(sent)
    slow = [seen for seen in narrow_peer.seen if seen.path == "/slow"]
    assert len(slow) == 2
    assert slow[0].connection != slow[1].connection
    first, again = straggling.sending.recorded.of(RequestStarted)[-2:]
    assert "again" not in first.fields
    assert again.fields["again"] is True
    wasted, whole_part = sorted(straggling.sending.wire)
    assert 0 < wasted < LARGE == whole_part


async def test_a_crawling_part_that_comes_first_after_all_counts(
    straggling: Straggling, narrow_peer: Peer
) -> None:
    sent = await straggling.send(unread_until(straggling.second_came, whole), deaf)
    straggling.check_nothing_was_lost(sent)


async def test_a_second_way_that_fails_harms_nothing(
    straggling: Straggling, narrow_peer: Peer
) -> None:
    sent = await straggling.send(unread_until(straggling.second_came, whole), reply(500))
    straggling.check_nothing_was_lost(sent)


async def test_a_first_way_that_fails_leaves_it_to_the_second(
    straggling: Straggling, narrow_peer: Peer
) -> None:
    sent = await straggling.send(unread_until(straggling.second_came, reset), whole)
    straggling.check_nothing_was_lost(sent)


async def test_when_both_ways_fail_the_first_failure_is_raised(straggling: Straggling) -> None:
    with pytest.raises(HubError) as caught:
        await straggling.send(unread_until(straggling.second_came, reset), unread(reply(404)))
    assert caught.value.status in (None, 404)
    straggling.sending.check_nothing_is_left()


async def test_a_bad_hedged_answer_waits_for_the_first(
    straggling: Straggling,
) -> None:
    damaged = reply(200, b"", ETag=f'"{"0" * 32}"')
    sent = await straggling.send(unread_until(straggling.second_came, whole), damaged)
    straggling.check_nothing_was_lost(sent)


async def test_both_ways_are_cancelled_together(straggling: Straggling) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(straggling.send, deaf, deaf)
        await straggling.second_came.wait()
        group.cancel_scope.cancel()
    assert straggling.content.reading == 0
    straggling.sending.check_nothing_is_left()


async def test_where_etags_say_nothing_no_part_is_sent_twice(
    narrow_peer: Peer, threads: ThreadPoolExecutor
) -> None:
    """Two bodies under way would leave open whose ETag the store asks for in the end."""
    narrow_peer.script(stored('"not-an-md5"'))
    async with session_to(narrow_peer.url, chunk_size=CHUNK, stall_timeout=0.6) as session:
        sending = Sending(session, threads)
        content = Content(noise(LARGE))
        for _ in range(3):
            await sending.send(content, content.part(narrow_peer.url + "/quick", size=2 * MIB))
        narrow_peer.script(deaf)
        with pytest.raises(HubError, match="no data was sent or received"):
            await sending.send(content, content.part(narrow_peer.url + "/slow"))
    assert [seen.path for seen in narrow_peer.seen].count("/slow") == 1


# --- events -------------------------------------------------------------------------------------


async def test_a_part_is_traced(sending: Sending, peer: Peer) -> None:
    peer.script(reply(200, b"", ETag='"e"', X_Amz_Request_Id="r1"))
    content = Content(b"abc")
    await sending.send(
        content,
        content.part(peer.url + "/p?sig=5ecret"),
        attempt=3,
        headers={"X-Auth": "s3cret"},
    )
    (started,) = sending.recorded.of(RequestStarted)
    assert (started.call, started.method, started.attempt) == ("part", "PUT", 3)
    assert started.url == f"{peer.url}/p?<redacted>"
    assert started.bytes_out == 3
    assert started.fields == {"file": "a.bin", "part_number": 1}
    assert started.headers["X-Auth"] == "<redacted>"
    (finished,) = sending.recorded.of(RequestFinished)
    assert (finished.status, finished.attempt, finished.request_id) == (200, 3, "r1")
    assert finished.bytes_out == 3
    assert [type(record.event) for record in sending.recorded.records] == [
        RequestStarted,
        PartConnected,
        RequestFinished,
    ]
    assert len({record.span_id for record in sending.recorded.records}) == 1
    assert sending.recorded.records[0].parent_id == sending.recorded.events.span_id
    for secret in ("5ecret", "s3cret"):
        assert secret not in repr(sending.recorded.records)


async def test_the_trace_tells_connections_queues_and_the_last_byte(
    part_session: HubSession, peer: Peer, threads: ThreadPoolExecutor
) -> None:
    sending = Sending(part_session, threads, width=1)
    content = Content(noise(3 * CHUNK))

    async def send() -> None:
        await sending.send(content, content.part(peer.url + "/p"))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        group.start_soon(send)
    first, second = sending.recorded.of(PartConnected)
    assert first == second  # the same connection, kept
    assert first.connection is not None
    assert first.connection > 1023
    waited = [event.queued_ms for event in sending.recorded.of(RequestStarted)]
    one, two = sending.recorded.of(RequestFinished)
    assert waited[0] < waited[1]
    for event in (one, two):
        assert event.sent_ms is not None
        assert 0 < event.sent_ms <= event.elapsed_ms


async def test_a_failed_part_is_traced_too(sending: Sending, peer: Peer) -> None:
    peer.script(reply(503, b"busy"))
    content = Content(b"abc")
    with pytest.raises(HubError):
        await sending.send(content, content.part(peer.url + "/p"))
    assert [event.status for event in sending.recorded.of(RequestFinished)] == [503]


async def test_nobody_need_listen(
    part_session: HubSession, peer: Peer, threads: ThreadPoolExecutor
) -> None:
    sending = Sending(part_session, threads)
    sending.recorded.events = Emitter()
    content = Content(b"abc")
    await sending.send(content, content.part(peer.url + "/p"))
    assert peer.seen[0].body == b"abc"


def test_urls_of_parts_are_in_no_repr() -> None:
    assert "sig" not in repr(Part(1, 0, 1, "https://h/p?sig=1"))


async def test_a_part_is_not_text(peer: Peer, threads: ThreadPoolExecutor) -> None:
    """aiohttp asks some payloads to decode themselves, for logs."""
    async with session_to(peer.url) as session:
        body: Any = object.__new__(PartBody)
        with pytest.raises(TypeError, match="not text"):
            body.decode()
        assert session


class Wire:
    """aiohttp's writer on a connection that is gone: it takes bytes, and has no transport."""

    transport = None

    def __init__(self) -> None:
        self.written = b""

    async def write(self, piece: memoryview) -> None:
        self.written += piece

    async def drain(self) -> None:
        pass


async def test_a_body_can_be_written_once(threads: ThreadPoolExecutor) -> None:
    content = Content(noise(9 * CHUNK))
    feed = PartFeed(
        content,
        content.part("u"),
        BufferPool(BUFFER),
        BatchedThreads(threads, 4),
        with_md5=False,
        piece_size=CHUNK,
    )
    reported: list[int] = []
    body = PartBody(
        feed, 9 * CHUNK, CHUNK, StallTimeout(1), Bandwidth(None), reported.append, Emitter()
    )
    assert not body.consumed
    wire: Any = Wire()
    await asyncio.create_task(body.write(wire))
    assert wire.written == content.data
    assert reported[-1] == 9 * CHUNK
    assert body.consumed
    assert body.whole
    with pytest.raises(ConnectionResetError):
        await body.write(wire)
    assert wire.written == content.data
    await body.finish()


async def test_the_network_going_mid_part_opens_no_second_connection() -> None:
    """aiohttp repeats a PUT on a broken connection by itself; bytes that are gone it must not."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readexactly(10_000)
        writer.transport.abort()

    async with stream_server(serve) as url:
        with ThreadPoolExecutor(2) as threads:
            async with session_to(url, chunk_size=CHUNK) as session:
                content = Content(noise(8 * MIB))
                with pytest.raises(HubError):
                    await Sending(session, threads).send(content, content.part(url + "/p"))
    assert connections == [1]


async def test_strangers_get_parts_and_no_token(
    sending: Sending, stranger: Peer, peer: Peer
) -> None:
    content = Content(b"x")
    await sending.send(content, content.part(stranger.url + "/p"))
    assert stranger.seen[0].authorization is None
    async with serving() as third:
        await sending.send(content, content.part(third.url + "/p"))
    assert peer.seen == []


async def test_a_paused_part_sends_nothing_until_it_may_go_on(
    sending: Sending, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before the limit narrowed."""
    content, waits = Content(noise(3 * MIB)), asyncio.Event()
    wait_while_paused = Slot.wait_while_paused
    slots: list[Slot] = []

    async def paused_at_first(slot: Slot) -> None:
        if not slots:
            slot.resumed = asyncio.Event()
            slots.append(slot)
            waits.set()
        await wait_while_paused(slot)

    monkeypatch.setattr(Slot, "wait_while_paused", paused_at_first)
    peer.script(stored())
    async with anyio.create_task_group() as group:
        group.start_soon(sending.send, content, content.part(f"{peer.url}/part"))
        await waits.wait()
        await let_tasks_run()
        assert sending.positions == []
        resumed, slots[0].resumed = slots[0].resumed, None
        assert resumed is not None
        resumed.set()
    assert peer.seen[0].body == content.data


async def test_a_compared_part_fills_little_of_the_kernel_buffer(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whether it is paused is looked at each time the kernel has room again."""
    content = Content(noise(4 * MIB))
    full = asyncio.Event()
    steps: list[str] = []
    limits: list[int] = []
    bodies_read: list[bytes] = []
    begin, wait_while_paused = AdaptiveLimit._begin, Slot.wait_while_paused
    write_to, writable, limit_unsent = PartFeed.write_to, bodies._writable, bodies.limit_unsent

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await full.wait()
        bodies_read.append(await reader.readexactly(4 * MIB))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def begin_compared(limit: AdaptiveLimit, small: bool) -> Slot:
        slot = begin(limit, small)
        slot.is_compared = lambda: not full.is_set()
        return slot

    async def look_whether_paused(slot: Slot) -> None:
        steps.append("look")
        await wait_while_paused(slot)

    async def write(feed: PartFeed, *args: Any, **options: Any) -> tuple[int, bool]:
        steps.append("write")
        return await write_to(feed, *args, **options)

    async def wait_for_room(descriptor: int) -> None:
        steps.append("full")
        full.set()
        await writable(descriptor)

    def note_limit(transport: Any, limit: int) -> None:
        limits.append(limit)
        limit_unsent(transport, limit)

    monkeypatch.setattr(AdaptiveLimit, "_begin", begin_compared)
    monkeypatch.setattr(Slot, "wait_while_paused", look_whether_paused)
    monkeypatch.setattr(PartFeed, "write_to", write)
    monkeypatch.setattr(bodies, "_writable", wait_for_room)
    monkeypatch.setattr(bodies, "limit_unsent", note_limit)
    async with (
        stream_server(serve) as url,
        session_to(url, chunk_size=256 * KIB, verify_etag=False) as session,
    ):
        await Sending(session, threads).send(content, content.part(f"{url}/part"))

    assert bodies_read == [content.data]
    assert limits == [UNSENT_AT_FIRST, UNSENT]
    assert {after for step, after in pairwise(steps) if step == "full"} == {"look"}
    assert {after for step, after in pairwise(steps) if step == "look"} == {"write"}
