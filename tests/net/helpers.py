"""A server on loopback that does as a script says, and a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trustme
from aiohttp import web

from asyncpush.events import Emitter
from asyncpush.net.credentials import Token, TokenSource
from asyncpush.net.session import HubSession, TraceHeaders
from asyncpush.options import UploadConfig
from asyncpush.protocol.http import HubRequest, HubResponse
from tests import event_recorder
from tests.fake_clock import FakeClock

TOKEN = "hf_" + "s3cret" * 6

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; `body` is None where the script did not read it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    connection: int

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


class Peer:
    """Answers requests by script, in order; the last answer is given again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.seen: list[Seen] = []
        self.url = ""
        self.arrived = asyncio.Condition()
        self.released = asyncio.Event()
        self._script = deque(answers)

    def script(self, *answers: Answer) -> None:
        self._script = deque(answers)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def requests(self, count: int) -> None:
        """Wait until so many requests have come in."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        answer = self._script.popleft() if len(self._script) > 1 else self._script[0]
        body = None if getattr(answer, "unread", False) else await request.read()
        connection = id(request.transport)
        self.seen.append(
            Seen(request.method, request.raw_path, request.headers.copy(), body, connection)
        )
        async with self.arrived:
            self.arrived.notify_all()
        return await answer(request)


PEER = web.AppKey("peer", Peer)


@asynccontextmanager
async def serving(
    *answers: Answer,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[Peer]:
    """With a `receive_buffer`, the kernel accepts no more than about so many bytes that the peer
    does not read. By itself Linux may take more than 30 MB."""
    peer = Peer(*(answers or (reply(),)))
    app = web.Application(client_max_size=1 << 30)
    app[PEER] = peer
    app.router.add_route("*", "/{path:.*}", peer.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, auto_decompress=False)
    await runner.setup()
    listener = socket.create_server((host, 0))
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await web.SockSite(runner, listener, ssl_context=tls).start()
    scheme = "https" if tls else "http"
    name = "localhost" if tls else host
    peer.url = f"{scheme}://{name}:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        peer.released.set()
        await runner.cleanup()


@asynccontextmanager
async def stream_server(
    handler: Handler, *, receive_buffer: int | None = None
) -> AsyncIterator[str]:
    """A server whose `handler` reads and writes bytes. Gives its URL.

    A client may hang up at any time: this ends its handler and is no failure. No handler and no
    socket outlives the block. `asyncio.start_server` alone guarantees neither on Python 3.11: a
    client that timed out before its request arrived made the handler, and with it the test, fail.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(handle(reader, writer)))

    listener = socket.create_server(("127.0.0.1", 0))
    limit = 64 << 10
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        limit = min(limit, receive_buffer)
    server = await asyncio.start_server(connected, sock=listener, limit=limit)
    host, port = listener.getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, Exception):
            raise failure


def server_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def reply(status: int = 200, body: str | bytes = b'{"ok":true}', **headers: str) -> Answer:
    """Header names with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body.encode() if isinstance(body, str) else body

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=content, headers=named)

    return answer


def redirect(status: int, location: str) -> Answer:
    return reply(status, b"", Location=location)


def unread(answer: Answer) -> Answer:
    """The same answer, given before the body is read."""

    async def early(request: web.Request) -> web.StreamResponse:
        return await answer(request)

    early.unread = True  # type: ignore[attr-defined]
    return early


async def reset(request: web.Request) -> web.StreamResponse:
    """The connection breaks where an answer should be."""
    _abort(request)
    return web.Response()


async def reset_at_once(request: web.Request) -> web.StreamResponse:
    _abort(request)
    return web.Response()


reset_at_once.unread = True  # type: ignore[attr-defined]


def reset_after(amount: int) -> Answer:
    """Read so many bytes of the body, then break."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.content.readexactly(amount)
        _abort(request)
        return web.Response()

    answer.unread = True  # type: ignore[attr-defined]
    return answer


def cut_off(body: bytes, *, of: int) -> Answer:
    """Promise `of` bytes, send `body`, break."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(of)})
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def gzipped(body: bytes, status: int = 200) -> Answer:
    return reply(status, gzip.compress(body), Content_Encoding="gzip")


def endless(piece: bytes = bytes(64 << 10)) -> Answer:
    """A body without end, as fast as it is taken."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not _peer(request).released.is_set():
            await response.write(piece)
        return response

    return answer


async def silence(request: web.Request) -> web.StreamResponse:
    """No answer until the test is over."""
    await _peer(request).released.wait()
    return web.Response()


async def deaf(request: web.Request) -> web.StreamResponse:
    """Not even the body is read."""
    request.protocol.pause_reading()
    await _peer(request).released.wait()
    return web.Response()


deaf.unread = True  # type: ignore[attr-defined]


async def headers_only(request: web.Request) -> web.StreamResponse:
    """The status comes, the body never does."""
    response = web.StreamResponse(headers={"Content-Length": "10"})
    await response.prepare(request)
    await response.write(b"1")
    await _peer(request).released.wait()
    return response


def _peer(request: web.Request) -> Peer:
    return request.app[PEER]


def _abort(request: web.Request) -> None:
    """A TCP reset, not a polite end."""
    transport = request.transport
    assert transport is not None
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER
    transport.abort()


class EventRecorder(event_recorder.EventRecorder):
    """What a session tells, by an emitter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.events = Emitter([self], push_id="p1")


@asynccontextmanager
async def session_to(
    endpoint: str,
    token: Token | None = TOKEN,
    *,
    clock: FakeClock | None = None,
    trace_headers: TraceHeaders | None = None,
    **settings: Any,
) -> AsyncIterator[HubSession]:
    """A session that loses no time: waits pass on `clock`, full jitter is at half."""
    clock = clock or FakeClock()
    session = HubSession(
        endpoint,
        TokenSource(token),
        UploadConfig(**settings),
        trace_headers=trace_headers,
        sleep=clock.sleep,
        clock=clock,
        draw=lambda: 0.5,
    )
    try:
        yield session
    finally:
        await session.close()


def ask_for(path: str = "/api/thing", method: str = "GET", **options: Any) -> HubRequest:
    return HubRequest("thing", method, path, **options)


def whole(response: HubResponse) -> HubResponse:
    """The parser that takes anything."""
    return response


def texts_of(error: BaseException) -> Iterator[str]:
    """Every text that somebody may print of an error and of what led to it."""
    yield repr(vars(error))
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen)
        yield repr(seen)
        seen = seen.__cause__ or seen.__context__
