"""Sending parts to presigned URLs: a part waits for its slot, its body is sent, and the store's
answer or an error comes back.

Parts in flight are monitored, and a slow one is sent again on another connection (a hedged
request): near the end of a push one slow connection can delay the whole push. A part is sent a
second time if a slot is idle, the part has already taken half as long as other parts took in total,
and the rest of it would take more than twice as long as sending it again from the start. The first
answer counts. The adaptive limit uses the same samples."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Any

import anyio

from asyncpush.concurrency.task_groups import for_group
from asyncpush.concurrency.threads import BatchedThreads
from asyncpush.errors import OUT_OF_DESCRIPTORS, HubError
from asyncpush.events import Emitter, RequestFinished, RequestStarted
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Part
from asyncpush.net.adaptive_limit import AdaptiveLimit, Slot
from asyncpush.net.bodies import (
    BufferPool,
    PartBody,
    PartContent,
    PartFeed,
    RandomAccess,
    SmallPartBody,
)
from asyncpush.net.network_errors import StalledError, network_error
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.net.retry import Attempt
from asyncpush.net.session import HubSession, read_beginning, response_of
from asyncpush.net.stall_timeout import StallTimeout
from asyncpush.protocol import urls
from asyncpush.protocol.failures import REMEDIES, failure_of, request_id
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.lfs import md5_of_etag
from asyncpush.redaction import HIDDEN, redact_headers, redact_url

TIMEOUTS = (StalledError, TimeoutError)


class PartSender:
    """PUTs the parts of many files under one limit. Knows nothing of LFS, only bytes and URLs."""

    def __init__(self, session: HubSession, limit: AdaptiveLimit, pool: BufferPool) -> None:
        self._session = session
        self._config = session.config
        bandwidth = Bandwidth(session.config.max_bandwidth)
        monitor = StragglerMonitor(
            idle=lambda: limit.idle and not bandwidth.limited, interval=lambda: limit.check_interval
        )
        self._client = PartClient(session, pool, bandwidth, monitor)
        self._stores_with_md5: set[tuple[str, str, int]] = set()
        """Origins of the stores whose latest ETag was an MD5."""
        self.limit = limit

    async def send(
        self,
        source: RandomAccess,
        part: Part,
        attempt: Attempt,
        threads: BatchedThreads,
        *,
        headers: Mapping[str, str],
        on_sent: Callable[[int], None],
        on_wire: Callable[[int], None] = lambda count: None,
        fields: Mapping[str, Any],
        content: PartContent | None = None,
    ) -> SentPart:
        """Make one attempt of a retry loop. Raises `HubError`; the request never carries the Hub
        token.

        `on_sent` is called with the position within the part, `on_wire` with the number of bytes
        that were sent, useful or not. A part that is much slower than others is sent a second time
        in parallel (a hedged request), and the first good answer counts. That is safe: stores keep
        only complete bodies, and both requests send the same bytes.
        """
        url = urls.resolve(part.url, self._session.endpoint)
        urls.check_target(url, self._session.endpoint, self._config.allowed_hosts or ())
        request = HubRequest("part", "PUT", url, fields=fields)
        put = PartRequest(
            request=request,
            source=source,
            part=part,
            attempt=attempt.number,
            events=attempt.events,
            threads=threads,
            headers=headers,
            on_sent=on_sent,
            on_wire=on_wire,
            content=content,
        )
        if part.size > LEAST:
            return await self._hedged(put)
        if content is not None:
            return await self._in_slot(put, None)
        feed = self._client.feed(put)
        # Read before a slot is taken: a slow source must not hold one.
        await feed.read_if_short()
        return await self._in_slot(put, None, feed)

    async def _hedged(self, put: PartRequest) -> SentPart:
        hedged = HedgedSend(put.on_sent)
        put = replace(put, on_sent=hedged.moved)
        async with anyio.create_task_group() as group:

            async def run(put: PartRequest, again: Callable[[], None] | None) -> None:
                if await hedged.run(self._in_slot(put, again)):
                    group.cancel_scope.cancel()

            def send_again() -> None:
                if urls.origin(put.request.target) in self._stores_with_md5:
                    fields = {**put.request.fields, "again": True}
                    request = replace(put.request, fields=fields)
                    second = replace(put, request=request, events=put.events.child())
                    group.start_soon(for_group(run), second, None)

            await run(put, send_again)
        return hedged.result()

    async def _in_slot(
        self, put: PartRequest, again: Callable[[], None] | None, feed: PartFeed | None = None
    ) -> SentPart:
        size, began = put.part.size, time.monotonic()
        small = size <= LEAST
        async with self.limit.slot(id(put.source), id(put.threads), small=small) as slot:
            queued = time.monotonic() - began
            try:
                sent = await self._client.send(
                    put,
                    feed,
                    queued=queued,
                    again=again,
                    slot=slot,
                    moving=lambda arrived: self.limit.moving(slot, arrived, size),
                )
            except HubError as exc:
                scarce = getattr(exc.__cause__, "errno", None) in OUT_OF_DESCRIPTORS
                if scarce or exc.status in (429, 503) or isinstance(exc.__cause__, TIMEOUTS):
                    self.limit.overloaded(slot)
                raise
            self.limit.succeeded(slot, size)
            # Hedging needs MD5 ETags, which are the same for both bodies. With other ETags it is
            # unknown which of the two the store will accept when the upload is completed.
            if sent.stored_md5 is not None:
                self._stores_with_md5.add(urls.origin(put.request.target))
            else:
                self._stores_with_md5.discard(urls.origin(put.request.target))
            return sent


FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding"})
"""Headers that frame a request on its connection. We set them; they are never taken from the
Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """One PUT of a part. `on_sent` is called with the position within the part; `on_wire` once,
    when the request has ended in any way, with the number of bytes sent."""

    request: HubRequest
    source: RandomAccess
    part: Part
    events: Emitter
    threads: BatchedThreads
    headers: Mapping[str, str] = field(repr=False)
    on_sent: Callable[[int], None]
    on_wire: Callable[[int], None]
    attempt: int
    content: PartContent | None = field(default=None, repr=False)
    """The part's bytes, if they are in memory already."""


@dataclass(frozen=True, slots=True)
class SentPart:
    """The store's answer, and the MD5 of the bytes sent (None with `verify_etag=False`)."""

    etag: str | None
    md5: str | None
    stored_md5: str | None
    """The MD5 of what the store holds; None when its ETag is not an MD5."""

    @property
    def is_good(self) -> bool:
        """Whether the store's ETag is an MD5 and, if the MD5 of the bytes sent is known, equals
        it."""
        stored = self.stored_md5
        return stored is not None and self.md5 in (None, stored)


class PartClient:
    """Sends bodies to presigned URLs, never with the Hub token. It neither limits nor retries."""

    def __init__(
        self,
        session: HubSession,
        pool: BufferPool,
        bandwidth: Bandwidth,
        monitor: StragglerMonitor,
    ) -> None:
        self._session = session
        self._config = session.config
        self._pool = pool
        self._bandwidth = bandwidth
        self._monitor = monitor

    def feed(self, put: PartRequest) -> PartFeed:
        """The part's bytes, for one request."""
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
        put: PartRequest,
        feed: PartFeed | None,
        *,
        queued: float,
        again: Callable[[], None] | None,
        moving: Callable[[int], None],
        slot: Slot,
    ) -> SentPart:
        """Raises `HubError`. `queued` is how many seconds the part has waited; `again` is called
        when it is slow enough to be sent a second time; `moving` is called with the number of bytes
        that have arrived."""
        events, small = put.events, put.part.size <= LEAST
        stall = StallTimeout(self._config.stall_timeout)
        body: PartBody | SmallPartBody
        if small and feed is None and put.content is not None:
            body = SmallPartBody(put.content, stall, self._bandwidth, events)
        else:
            body = PartBody(
                feed=feed or self.feed(put),
                size=put.part.size,
                piece_size=self._config.chunk_size,
                stall=stall,
                bandwidth=self._bandwidth,
                on_sent=put.on_sent,
                events=events,
                wait_while_paused=slot.wait_while_paused,
                is_compared=slot.is_compared,
            )
        # Presigned PUTs need a plain Content-Length: S3 refuses chunked bodies.
        length = {"Content-Length": str(put.part.size)}
        if events.wants(RequestStarted):
            events.emit(_started(put, length, queued))
        began = time.monotonic()
        headers = {**_unframed(put.headers), **length} if put.headers else length
        in_flight = None
        try:
            if isinstance(body, PartBody) and not small:
                with self._monitor.following(
                    put.part.size,
                    lambda: stall.arrived(body.written),
                    again,
                    moving,
                    lambda: slot.paused,
                ) as in_flight:
                    response = await self._exchange(put, headers, body, stall)
            else:
                response = await self._exchange(put, headers, body, stall)
        finally:
            try:
                await body.finish()
            finally:
                put.on_wire(body.sent)
        if events.wants(RequestFinished):
            events.emit(_finished(put, response, body, began, detailed=events.detailed))
        return self._stored(put, response, body, in_flight)

    async def _exchange(
        self,
        put: PartRequest,
        headers: Mapping[str, str],
        body: PartBody | SmallPartBody,
        stall: StallTimeout,
    ) -> HubResponse:
        url = put.request.target
        try:
            async with (
                stall,
                self._session.open("PUT", url, call="part", headers=headers, data=body) as answer,
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

    def _stored(
        self,
        put: PartRequest,
        response: HubResponse,
        body: PartBody | SmallPartBody,
        in_flight: InFlightPart | None,
    ) -> SentPart:
        if not 200 <= response.status < 300:
            raise failure_of(put.request, response, now=time.time())
        if not body.whole:
            remedy = REMEDIES["answered_early"]
            raise HubError(
                "the store answered before it had the whole part",
                status=response.status,
                method="PUT",
                url=put.request.target,
                retryable=remedy.retryable,
                suggestion=remedy.suggestion,
            )
        if in_flight is not None:
            self._monitor.stored(in_flight)
        etag = response.headers.get("etag")
        stored_md5 = None if etag is None else md5_of_etag(etag, response.headers)
        return SentPart(etag, body.md5, stored_md5)


def _unframed(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that the Hub told us to send, without those of `FRAMING`."""
    return {name: value for name, value in headers.items() if name.lower() not in FRAMING}


def _started(put: PartRequest, length: Mapping[str, str], queued: float) -> RequestStarted:
    # The headers that the Hub told us to send may contain credentials under any name.
    shown = {**dict.fromkeys(put.headers, HIDDEN), **length}
    return RequestStarted(
        call="part",
        method="PUT",
        url=redact_url(put.request.target),
        attempt=put.attempt,
        bytes_out=put.part.size,
        headers=shown,
        fields=put.request.fields,
        queued_ms=round(queued * 1000, 3),
    )


def _finished(
    put: PartRequest,
    response: HubResponse,
    body: PartBody | SmallPartBody,
    began: float,
    *,
    detailed: bool,
) -> RequestFinished:
    return RequestFinished(
        call="part",
        method="PUT",
        url=redact_url(put.request.target),
        attempt=put.attempt,
        status=response.status,
        elapsed_ms=round((time.monotonic() - began) * 1000, 3),
        bytes_out=put.part.size,
        bytes_in=len(response.body),
        headers=redact_headers(response.headers) if detailed else {},
        request_id=request_id(response.headers),
        fields=put.request.fields,
        sent_ms=None if body.ended is None else round((body.ended - began) * 1000, 3),
    )


class HedgedSend:
    """The attempts at one part: usually one, at most two. The first good answer counts. A failure
    counts only when no other attempt is left."""

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        self._on_sent = on_sent
        self._position = 0
        self._running = 0
        self._sent: SentPart | None = None
        self._failure: Exception | None = None

    def moved(self, position: int) -> None:
        """The part's position is that of the attempt that has progressed furthest."""
        if position > self._position:
            self._position = position
            self._on_sent(position)

    async def run(self, way: Coroutine[Any, Any, SentPart]) -> bool:
        """Make one attempt. Returns whether its outcome decides the part's."""
        self._running += 1
        try:
            sent = await way
        except Exception as exc:
            self._failure = self._failure or exc
            return False
        finally:
            self._running -= 1
        # A bad answer is kept for the caller to judge, unless a better one comes.
        self._sent = sent if self._sent is None or sent.is_good else self._sent
        return sent.is_good or not self._running

    def result(self) -> SentPart:
        if self._sent is not None:
            return self._sent
        assert self._failure is not None
        raise self._failure


LEAST = 1 << 20
"""Parts of at least this many bytes are monitored. Smaller ones fit into the kernel's buffers,
where their progress cannot be seen."""

INTERVAL = 0.025
"""Seconds between samples. With 0.1 a short push would be over after a few of them."""

WINDOW = 20
"""Samples over which a part's current rate is measured: half a second."""

REMEMBERED = 5
"""How many of the latest stored parts give the typical rate. Near the end, fewer parts share the
network and the processor, so rates rise."""

ENOUGH = 3
"""Parts that must have been stored before any part is considered slow."""

FACTOR = 2.0
"""How many times longer the rest must take than sending the whole part again. A second request has
a cost, and random variation of rates stays below this factor."""


class InFlightPart:
    """One part being sent. `delivered` returns how many of its bytes have arrived so far."""

    def __init__(
        self,
        size: int,
        delivered: Callable[[], int],
        again: Callable[[], None] | None,
        now: float,
        moving: Callable[[int], None] = lambda arrived: None,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self.size = size
        self.began = now
        self._delivered = delivered
        self._moving = moving
        self._paused = paused
        self._samples: deque[tuple[float, int]] = deque([(now, 0)], maxlen=WINDOW + 1)
        self.again = again

    def sample(self, now: float) -> None:
        arrived = self._delivered()
        if self._paused():  # a pause is not the connection's fault
            self.began += now - self._samples[-1][0]
            self._samples.clear()
        self._samples.append((now, arrived))
        self._moving(arrived)

    def is_slow(self, now: float, typical: float) -> bool:
        """Whether the part should be sent again, if `typical` is the usual rate in bytes per
        second."""
        whole = self.size / typical
        left = self.size - self._samples[-1][1]
        (then, before), (_, arrived) = self._samples[0], self._samples[-1]
        rate = (arrived - before) / max(now - then, 1e-6)
        # Half of that time is enough to tell a slow connection from a new one.
        return now - self.began > whole / 2 and left > rate * FACTOR * whole


class StragglerMonitor:
    """Samples the parts in flight while there are any. `idle` returns whether a slot is free."""

    def __init__(
        self, idle: Callable[[], bool], interval: Callable[[], float | None] = lambda: None
    ) -> None:
        self._idle = idle
        self._interval = interval
        self._in_flight: dict[InFlightPart, None] = {}
        self._rates: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def following(
        self,
        size: int,
        delivered: Callable[[], int],
        again: Callable[[], None] | None,
        moving: Callable[[int], None] = lambda arrived: None,
        paused: Callable[[], bool] = lambda: False,
    ) -> Iterator[InFlightPart]:
        """Monitor a part within this block. `moving` is called with the number of bytes that have
        arrived; `again` is called once, if the part is slow enough to be sent a second time;
        `paused` returns whether the part is paused."""
        loop = asyncio.get_running_loop()
        in_flight = InFlightPart(
            size=size,
            delivered=delivered,
            again=again,
            now=loop.time(),
            moving=moving,
            paused=paused,
        )
        if size > LEAST:
            self._in_flight[in_flight] = None
            if self._timer is None:
                self._timer = loop.call_later(self._interval() or INTERVAL, self._check)
        try:
            yield in_flight
        finally:
            self._in_flight.pop(in_flight, None)
            if not self._in_flight and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def stored(self, in_flight: InFlightPart) -> None:
        """Count the rate of a part that has been stored towards the typical rate."""
        if in_flight.size > LEAST:
            seconds = asyncio.get_running_loop().time() - in_flight.began
            self._rates.append(in_flight.size / max(seconds, 1e-6))

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval() or INTERVAL, self._check)
        now = loop.time()
        for in_flight in self._in_flight:
            in_flight.sample(now)
        if len(self._rates) < ENOUGH:
            return
        ordered = sorted(self._rates)
        middle = len(ordered) // 2
        typical = (ordered[middle] + ordered[~middle]) / 2
        for in_flight in tuple(self._in_flight):
            if not self._idle():
                return
            if in_flight.again is not None and in_flight.is_slow(now, typical):
                again, in_flight.again = in_flight.again, None
                again()
