"""One PUT of one part: its body out, its answer or its error back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from asyncpush.errors import HubError
from asyncpush.events import Emitter, RequestFinished, RequestStarted
from asyncpush.models import Part
from asyncpush.net.answers import read_beginning, response_of
from asyncpush.net.bandwidth import Bandwidth
from asyncpush.net.bodies import PartBody, PartFeed, Slices
from asyncpush.net.buffers import BufferPool
from asyncpush.net.faults import StalledError, network_error
from asyncpush.net.redaction import HIDDEN, redact_headers, redact_url
from asyncpush.net.session import HubSession
from asyncpush.net.stragglers import Flight, Lookout
from asyncpush.net.watch import StallWatch
from asyncpush.protocol.etags import md5_of_etag
from asyncpush.protocol.failures import failure_of, request_id
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.threads import Hops

FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding"})
"""Headers that say how a request lies on its connection: no Hub's business."""


@dataclass(frozen=True, slots=True)
class Put:
    """One way of a part to the store. `on_sent` hears how far it is, `on_wire` how many bytes went
    once it has ended, however it did."""

    request: HubRequest
    source: Slices
    part: Part
    emit: Emitter
    threads: Hops
    headers: Mapping[str, str] = field(repr=False)
    on_sent: Callable[[int], None]
    on_wire: Callable[[int], None]
    attempt: int


@dataclass(frozen=True, slots=True)
class SentPart:
    """What the store answered, and the MD5 of what was sent (None when nobody wants it)."""

    etag: str | None
    headers: Mapping[str, str] = field(repr=False)
    md5: str | None

    @property
    def stored_md5(self) -> str | None:
        """The MD5 of what the store has; None when its ETag stands for something else."""
        return md5_of_etag(self.etag or "", self.headers)

    @property
    def is_good(self) -> bool:
        """Whether that is the MD5 of the bytes sent, as far as both are known."""
        stored = self.stored_md5
        return stored is not None and self.md5 in (None, stored)


class Putter:
    """Sends bodies to presigned URLs, never with the Hub token. How many at once, and how often,
    is for others to say."""

    def __init__(
        self,
        session: HubSession,
        pool: BufferPool,
        bandwidth: Bandwidth,
        lookout: Lookout,
    ) -> None:
        self._session = session
        self._config = session.config
        self._pool = pool
        self._bandwidth = bandwidth
        self._lookout = lookout

    def feed(self, put: Put) -> PartFeed:
        """The part's bytes, for one way to the store."""
        return PartFeed(
            put.source,
            put.part,
            self._pool,
            put.threads,
            with_md5=self._config.verify_etag,
            piece_size=self._config.chunk_size,
        )

    async def send(
        self,
        put: Put,
        feed: PartFeed,
        *,
        queued: float,
        again: Callable[[], None] | None,
        moving: Callable[[int], None],
    ) -> SentPart:
        """Raises `HubError`. `queued` are the seconds it has waited; `again` is called when it
        crawls, `moving` hears how many bytes have arrived."""
        emit = put.emit.child()
        watch = StallWatch(self._config.stall_timeout)
        body = PartBody(
            feed,
            put.part.size,
            self._config.chunk_size,
            watch,
            self._bandwidth,
            put.on_sent,
            emit,
        )
        # Presigned PUTs need a plain Content-Length: S3 refuses chunked bodies.
        length = {"Content-Length": str(put.part.size)}
        if emit.active:
            emit.emit(_started(put, length, queued))
        began = time.monotonic()
        headers = {**_unframed(put.headers), **length}
        try:
            with self._lookout.following(
                put.part.size, lambda: watch.arrived(body.sent), again, moving
            ) as flight:
                response = await self._exchange(put, headers, body, watch)
        finally:
            try:
                await body.finish()
            finally:
                put.on_wire(body.sent)
        if emit.active:
            emit.emit(_finished(put, response, body, began, detailed=emit.detailed))
        return self._stored(put, response, body, flight)

    async def _exchange(
        self, put: Put, headers: Mapping[str, str], body: PartBody, watch: StallWatch
    ) -> HubResponse:
        url = put.request.target
        try:
            async with (
                watch.guard(),
                self._session.open("PUT", url, headers=headers, data=body) as answer,
            ):
                content = await read_beginning(answer)
                body.answered = True
                return response_of(answer, content, url)
        except StalledError as exc:
            raise network_error(exc, method="PUT", url=url, what="part") from exc
        except HubError:
            if body.failure is not None:
                raise body.failure from None
            raise

    def _stored(self, put: Put, response: HubResponse, body: PartBody, flight: Flight) -> SentPart:
        if not 200 <= response.status < 300:
            raise failure_of(put.request, response, now=time.time())
        if not body.whole:
            raise HubError(
                "the store answered before it had the whole part",
                status=response.status,
                method="PUT",
                url=put.request.target,
                retryable=True,
                suggestion="the store, or a proxy before it, refuses the bytes: push again",
            )
        self._lookout.stored(flight)
        return SentPart(response.headers.get("etag"), response.headers, body.md5)


def _unframed(headers: Mapping[str, str]) -> dict[str, str]:
    """What the Hub told us to send, less what is ours to say."""
    return {name: value for name, value in headers.items() if name.lower() not in FRAMING}


def _started(put: Put, length: Mapping[str, str], queued: float) -> RequestStarted:
    # What the Hub told us to send may be a credential by any name.
    shown = {**dict.fromkeys(put.headers, HIDDEN), **length}
    return RequestStarted(
        "part",
        "PUT",
        redact_url(put.request.target),
        put.attempt,
        put.part.size,
        shown,
        put.request.fields,
        queued_ms=round(queued * 1000, 3),
    )


def _finished(
    put: Put, response: HubResponse, body: PartBody, began: float, *, detailed: bool
) -> RequestFinished:
    return RequestFinished(
        "part",
        "PUT",
        redact_url(put.request.target),
        put.attempt,
        response.status,
        round((time.monotonic() - began) * 1000, 3),
        put.part.size,
        len(response.body),
        redact_headers(response.headers) if detailed else {},
        request_id(response.headers),
        put.request.fields,
        None if body.ended is None else round((body.ended - began) * 1000, 3),
    )
