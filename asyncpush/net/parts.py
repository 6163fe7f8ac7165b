"""Sending parts: slices of files, read ahead and hashed in threads, PUT to presigned URLs.

What a GiB costs is decided here. Per part there are two reused buffers: while one is being sent in
pieces, the next is read and its MD5 taken in one thread hop. Pieces of 256 KiB keep the event loop
free (measured: larger bodies at once cost twice the CPU and stall the loop for 250 ms).
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from asyncpush.errors import HubError
from asyncpush.events import Emitter, PartConnected, RequestFinished, RequestStarted
from asyncpush.models import Part
from asyncpush.net.faults import StalledError, network_error
from asyncpush.net.limits import Bandwidth, BufferPool, PartLimit
from asyncpush.net.redaction import HIDDEN, redact_headers, redact_url
from asyncpush.net.session import HubSession
from asyncpush.net.watch import StallWatch
from asyncpush.protocol import urls
from asyncpush.protocol.failures import failure_of, request_id
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.threads import settled

PIECES_PER_HOP = 2
"""Pieces read and hashed in one thread hop: more would hold the GIL's switch for longer than the
loop likes, fewer cost more hops (measured, DESIGN §5)."""

ERROR_BODY_LIMIT = 4096

FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding"})
"""Headers that say how a request lies on its connection: no Hub's business."""

TIMEOUTS = (StalledError, TimeoutError)


class Slices(Protocol):
    """Bytes by position; called in threads."""

    def readinto(self, offset: int, buffer: memoryview) -> int: ...


@dataclass(frozen=True, slots=True)
class SentPart:
    """What the store answered, and the MD5 of what was sent (None when nobody wants it)."""

    etag: str | None
    headers: Mapping[str, str] = field(repr=False)
    md5: str | None


class PartSender:
    """PUTs parts of many files under one limit. Knows nothing of LFS: bytes to a URL."""

    def __init__(
        self, session: HubSession, limit: PartLimit, pool: BufferPool, threads: Executor
    ) -> None:
        self._session = session
        self._config = session.config
        self._bandwidth = Bandwidth(session.config.max_bandwidth)
        self._pool = pool
        self._threads = threads
        self.limit = limit

    async def send(
        self,
        source: Slices,
        part: Part,
        emit: Emitter,
        *,
        attempt: int,
        headers: Mapping[str, str],
        on_sent: Callable[[int], None],
        fields: Mapping[str, Any],
    ) -> SentPart:
        """One attempt. Raises `HubError`; the Hub token is never on it."""
        url = urls.resolve(part.url, self._session.endpoint)
        urls.check_target(url, self._session.endpoint, self._config.allowed_hosts or ())
        request = HubRequest("part", "PUT", url, fields=fields)
        began = time.monotonic()
        async with self.limit.slot() as turn:
            queued = time.monotonic() - began
            try:
                return await self._put(
                    request, source, part, emit.child(), headers, on_sent, attempt, queued
                )
            except HubError as exc:
                if exc.status in (429, 503) or isinstance(exc.__cause__, TIMEOUTS):
                    self.limit.overloaded(turn)
                self._session.complete_error(exc, attempt, began, url)
                raise

    async def _put(
        self,
        request: HubRequest,
        source: Slices,
        part: Part,
        emit: Emitter,
        headers: Mapping[str, str],
        on_sent: Callable[[int], None],
        attempt: int,
        queued: float,
    ) -> SentPart:
        url = request.target
        watch = StallWatch(self._config.stall_timeout)
        body = PartBody(
            _ReadAhead(source, part, self._pool, self._threads, with_md5=self._config.verify_etag),
            part.size,
            self._config.chunk_size,
            watch,
            self._bandwidth,
            on_sent,
            emit,
        )
        # Presigned PUTs need a plain Content-Length: S3 refuses chunked bodies.
        length = {"Content-Length": str(part.size)}
        if emit.active:
            # What the Hub told us to send may be a credential by any name.
            shown = {**dict.fromkeys(headers, HIDDEN), **length}
            emit.emit(
                RequestStarted(
                    *("part", "PUT", redact_url(url), attempt, part.size, shown, request.fields),
                    queued_ms=round(queued * 1000, 3),
                )
            )
        began = time.monotonic()
        try:
            async with (
                watch.guard(),
                self._session.open(
                    "PUT",
                    url,
                    headers={**_unframed(headers), **length},
                    data=body,
                    skip_auto_headers=["Content-Type"],
                ) as answer,
            ):
                content = await _beginning(answer)
                lowered = {name.lower(): value for name, value in answer.headers.items()}
                response = HubResponse(answer.status, lowered, content, url)
        except StalledError as exc:
            raise network_error(exc, method="PUT", url=url, what="part") from exc
        except HubError:
            if body.failure is not None:
                raise body.failure from None
            raise
        finally:
            await body.finish()
        if emit.active:
            emit.emit(
                _finished(
                    request, response, part, attempt, began, body.ended, detailed=emit.detailed
                )
            )
        if not 200 <= response.status < 300:
            raise failure_of(request, response, now=time.time())
        if not body.whole:
            raise HubError(
                "the store answered before it had the whole part",
                status=response.status,
                method="PUT",
                url=url,
                retryable=True,
                suggestion="the store, or a proxy before it, refuses the bytes: push again",
            )
        self.limit.succeeded()
        return SentPart(lowered.get("etag"), lowered, body.md5)


class _ReadAhead:
    """Fills two buffers in turn, one thread hop ahead of what is being sent."""

    def __init__(
        self,
        source: Slices,
        part: Part,
        pool: BufferPool,
        threads: Executor,
        *,
        with_md5: bool,
    ) -> None:
        self._source = source
        self._position = part.offset
        self._end = part.offset + part.size
        self._pool = pool
        self._threads = threads
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._spare: list[mmap.mmap] = []
        self._taken: list[mmap.mmap] = []
        self._shown: mmap.mmap | None = None
        self._job: asyncio.Future[memoryview] | None = None

    @property
    def md5(self) -> str | None:
        return self._md5.hexdigest() if self._md5 is not None else None

    async def next(self) -> memoryview | None:
        """The next filled stretch, or None after the last; the one before it is used again."""
        if self._shown is not None:
            self._spare.append(self._shown)
            self._shown = None
        if self._job is None:
            self._start()
        if self._job is None:
            return None
        filled = await asyncio.shield(self._job)
        self._job = None
        self._shown = filled.obj  # type: ignore[assignment]  # the buffer beneath
        self._start()
        return filled

    async def finish(self) -> None:
        """Wait for the thread that may still be reading, then give the buffers back."""
        try:
            if self._job is not None:
                await settled(self._job)
        finally:
            while self._taken:
                self._pool.give_back(self._taken.pop())

    def _start(self) -> None:
        size = min(self._pool.size, self._end - self._position)
        if size <= 0:
            return
        if self._spare:
            buffer = self._spare.pop()
        else:
            buffer = self._pool.take()
            self._taken.append(buffer)
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(
            self._threads, self._fill, memoryview(buffer)[:size], self._position
        )
        self._position += size

    def _fill(self, view: memoryview, position: int) -> memoryview:
        self._source.readinto(position, view)
        if self._md5 is not None:
            self._md5.update(view)
        return view


class PartBody(aiohttp.Payload):
    """A part as aiohttp's request body, written piece by piece, each drained before its buffer is
    used again: transports of Python ≥ 3.12 keep references to what they were given."""

    def __init__(
        self,
        stretches: _ReadAhead,
        size: int,
        piece_size: int,
        watch: StallWatch,
        bandwidth: Bandwidth,
        on_sent: Callable[[int], None],
        emit: Emitter,
    ) -> None:
        super().__init__(stretches)
        self._consumed = False
        self._size = size
        self._piece_size = piece_size
        self._stretches = stretches
        self._watch = watch
        self._bandwidth = bandwidth
        self._on_sent = on_sent
        self._emit = emit
        self._sent = 0
        self.ended: float | None = None
        self.failure: Exception | None = None
        self._writing: asyncio.Task[Any] | None = None

    @property
    def whole(self) -> bool:
        return self._sent == self._size

    @property
    def md5(self) -> str | None:
        return self._stretches.md5

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a part is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self._writing is not None:
            # aiohttp asks again by itself when a kept connection breaks under a PUT; these bytes
            # are gone, and attempts are counted elsewhere.
            raise ConnectionResetError("the connection broke while the part was sent")
        self._writing = asyncio.current_task()
        self._consumed = True
        transport: Any = getattr(writer, "transport", None)
        if self._emit.active:
            self._emit.emit(PartConnected(_local_port(transport)))
        if transport is not None:
            self._watch.follow(transport)
            _drain_to_the_last_byte(transport)
        while (stretch := await self._next()) is not None:
            for start in range(0, len(stretch), self._piece_size):
                piece = stretch[start : start + self._piece_size]
                with self._watch.paused():  # a wait that we impose on ourselves is no stall
                    await self._bandwidth.take(len(piece))
                await writer.write(piece)
                await writer.drain()
                self._sent += len(piece)
                self._watch.touch()
                self._on_sent(self._sent)
        self.ended = time.monotonic()

    async def _next(self) -> memoryview | None:
        try:
            return await self._stretches.next()
        except Exception as exc:
            # Out of aiohttp it would come as a broken connection: it is raised as what it is.
            self.failure = exc
            raise

    async def finish(self) -> None:
        """Called when the request is over, however it ended: no thread of ours reads any more and
        the buffers are free."""
        try:
            if self._writing is not None:
                self._writing.cancel()  # aiohttp's writer; it cancels it too, but does not wait
                await settled(self._writing)
        finally:
            await self._stretches.finish()


def _drain_to_the_last_byte(transport: Any) -> None:
    """Drained is to mean: nothing waits in a Python buffer. A plain transport pauses its writer
    above the mark, a TLS one at the mark: with 0 it would pause on nothing, for ever."""
    transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0)


def _local_port(transport: Any) -> int | None:
    """What tells a connection from the others that are open: one socket, one port."""
    name = None if transport is None else transport.get_extra_info("sockname")
    return name[1] if isinstance(name, tuple) else None


def _unframed(headers: Mapping[str, str]) -> dict[str, str]:
    """What the Hub told us to send, less what is ours to say."""
    return {name: value for name, value in headers.items() if name.lower() not in FRAMING}


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """An answer's body, as far as an error could want it."""
    content = b""
    while len(content) < ERROR_BODY_LIMIT and (piece := await answer.content.readany()):
        content += piece
    return content[:ERROR_BODY_LIMIT]


def _finished(
    request: HubRequest,
    response: HubResponse,
    part: Part,
    attempt: int,
    began: float,
    ended: float | None,
    *,
    detailed: bool,
) -> RequestFinished:
    return RequestFinished(
        "part",
        "PUT",
        redact_url(request.target),
        attempt,
        response.status,
        round((time.monotonic() - began) * 1000, 3),
        part.size,
        len(response.body),
        redact_headers(response.headers) if detailed else {},
        request_id(response.headers),
        request.fields,
        None if ended is None else round((ended - began) * 1000, 3),
    )
