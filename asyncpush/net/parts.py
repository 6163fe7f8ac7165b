"""Sending parts: one PUT to a presigned URL, its answer or its error, within the limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from asyncpush.errors import HubError
from asyncpush.events import Emitter, RequestFinished, RequestStarted
from asyncpush.models import Part
from asyncpush.net.answers import read_beginning, response_of
from asyncpush.net.bodies import PartBody, PartFeed, Slices
from asyncpush.net.faults import StalledError, network_error
from asyncpush.net.limits import Bandwidth, BufferPool, PartLimit, Turn
from asyncpush.net.redaction import HIDDEN, redact_headers, redact_url
from asyncpush.net.session import HubSession
from asyncpush.net.stragglers import LEAST, Lookout
from asyncpush.net.telling import complete_error
from asyncpush.net.watch import StallWatch
from asyncpush.protocol import urls
from asyncpush.protocol.failures import failure_of, request_id
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.lfs import md5_of_etag
from asyncpush.threads import Hops

FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding"})
"""Headers that say how a request lies on its connection: no Hub's business."""

TIMEOUTS = (StalledError, TimeoutError)


@dataclass(frozen=True, slots=True)
class SentPart:
    """What the store answered, and the MD5 of what was sent (None when nobody wants it)."""

    etag: str | None
    headers: Mapping[str, str] = field(repr=False)
    md5: str | None

    @property
    def is_good(self) -> bool:
        """Whether the ETag is the MD5 of the bytes sent, as far as both are known."""
        told = md5_of_etag(self.etag or "", self.headers)
        return told is not None and self.md5 in (None, told)


class PartSender:
    """PUTs parts of many files under one limit. Knows nothing of LFS: bytes to a URL."""

    def __init__(self, session: HubSession, limit: PartLimit, pool: BufferPool, hops: Hops) -> None:
        self._session = session
        self._config = session.config
        self._bandwidth = Bandwidth(session.config.max_bandwidth)
        self._pool = pool
        self._hops = hops
        self._knows_etags = False
        self._lookout = Lookout(idle=lambda: limit.idle and not self._bandwidth.limited)
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
        on_wire: Callable[[int], None] = lambda count: None,
        fields: Mapping[str, Any],
    ) -> SentPart:
        """One attempt. Raises `HubError`; the Hub token is never on it.

        `on_sent` hears how far the part is; `on_wire` how many bytes went, in vain or not. A part
        that crawls is sent a second time beside the first, and the first good answer counts: the
        store keeps whole bodies alone, and the same bytes whichever comes last.
        """
        url = urls.resolve(part.url, self._session.endpoint)
        urls.check_target(url, self._session.endpoint, self._config.allowed_hosts or ())
        request = HubRequest("part", "PUT", url, fields=fields)
        put = _Put(request, source, part, emit, headers, on_sent, on_wire, attempt)
        if part.size <= LEAST:
            return await self._in_slot(put, None)
        return await self._in_race(put)

    async def _in_race(self, put: _Put) -> SentPart:
        race = _Race(put.on_sent)
        put = replace(put, on_sent=race.moved)
        async with anyio.create_task_group() as group:

            async def run(put: _Put, again: Callable[[], None] | None) -> None:
                if await race.run(self._in_slot(put, again)):
                    group.cancel_scope.cancel()

            def send_again() -> None:
                if self._knows_etags:
                    fields = {**put.request.fields, "again": True}
                    twin = replace(put, request=replace(put.request, fields=fields))
                    group.start_soon(run, twin, None)

            await run(put, send_again)
        return race.result()

    async def _in_slot(self, put: _Put, again: Callable[[], None] | None) -> SentPart:
        began = time.monotonic()
        async with self.limit.slot(id(put.source)) as turn:
            queued = time.monotonic() - began
            try:
                sent = await self._put(put, again, queued, turn)
            except HubError as exc:
                if exc.status in (429, 503) or isinstance(exc.__cause__, TIMEOUTS):
                    self.limit.overloaded(turn)
                token = self._session.token.known
                complete_error(exc, put.attempt, began, put.request.target, token)
                raise
            self.limit.succeeded(turn, put.part.size)
            # What an ETag of another form stands for, only the store knows: with two bodies on
            # their way, nobody could tell which one's it will ask for in the end.
            self._knows_etags = md5_of_etag(sent.etag or "", sent.headers) is not None
            return sent

    async def _put(
        self, put: _Put, again: Callable[[], None] | None, queued: float, turn: Turn
    ) -> SentPart:
        request, part, attempt, emit = put.request, put.part, put.attempt, put.emit.child()
        url = request.target
        watch = StallWatch(self._config.stall_timeout)
        body = PartBody(
            PartFeed(
                put.source,
                part,
                self._pool,
                self._hops,
                with_md5=self._config.verify_etag,
                piece_size=self._config.chunk_size,
            ),
            part.size,
            self._config.chunk_size,
            watch,
            self._bandwidth,
            put.on_sent,
            emit,
        )
        # Presigned PUTs need a plain Content-Length: S3 refuses chunked bodies.
        length = {"Content-Length": str(part.size)}
        if emit.active:
            # What the Hub told us to send may be a credential by any name.
            shown = {**dict.fromkeys(put.headers, HIDDEN), **length}
            emit.emit(
                RequestStarted(
                    *("part", "PUT", redact_url(url), attempt, part.size, shown, request.fields),
                    queued_ms=round(queued * 1000, 3),
                )
            )
        began = time.monotonic()
        try:
            with self._lookout.following(
                part.size,
                lambda: watch.arrived(body.sent),
                again,
                lambda arrived: self.limit.moving(turn, arrived, part.size),
            ) as way:
                async with (
                    watch.guard(),
                    self._session.open(
                        "PUT",
                        url,
                        headers={**_unframed(put.headers), **length},
                        data=body,
                        skip_auto_headers=["Content-Type"],
                    ) as answer,
                ):
                    content = await read_beginning(answer)
                    body.answered = True
                    response = response_of(answer, content, url)
        except StalledError as exc:
            raise network_error(exc, method="PUT", url=url, what="part") from exc
        except HubError:
            if body.failure is not None:
                raise body.failure from None
            raise
        finally:
            try:
                await body.finish()
            finally:
                put.on_wire(body.sent)
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
        self._lookout.stored(way)
        return SentPart(response.headers.get("etag"), response.headers, body.md5)


@dataclass(frozen=True, slots=True)
class _Put:
    """One way of a part to the store."""

    request: HubRequest
    source: Slices
    part: Part
    emit: Emitter
    headers: Mapping[str, str] = field(repr=False)
    on_sent: Callable[[int], None]
    on_wire: Callable[[int], None]
    attempt: int


class _Race:
    """The ways of one part: usually one, at most two. The first good answer counts, a failure only
    when no other way is left."""

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        self._on_sent = on_sent
        self._position = 0
        self._running = 0
        self._sent: SentPart | None = None
        self._failure: Exception | None = None

    def moved(self, position: int) -> None:
        """How far the part is, is how far the way is that has come furthest."""
        if position > self._position:
            self._position = position
            self._on_sent(position)

    async def run(self, way: Coroutine[Any, Any, SentPart]) -> bool:
        """Whether this way has decided the race."""
        self._running += 1
        try:
            sent = await way
        except Exception as exc:
            self._failure = self._failure or exc
            return False
        finally:
            self._running -= 1
        # An answer that is no good is the caller's to judge, unless a better one comes.
        self._sent = sent if self._sent is None or sent.is_good else self._sent
        return sent.is_good or not self._running

    def result(self) -> SentPart:
        if self._sent is not None:
            return self._sent
        assert self._failure is not None
        raise self._failure


def _unframed(headers: Mapping[str, str]) -> dict[str, str]:
    """What the Hub told us to send, less what is ours to say."""
    return {name: value for name, value in headers.items() if name.lower() not in FRAMING}


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
