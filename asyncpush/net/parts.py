"""Sending parts: one PUT to a presigned URL, its answer or its error, within the limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from asyncpush.errors import HubError
from asyncpush.events import Emitter, RequestFinished, RequestStarted
from asyncpush.models import Part
from asyncpush.net.bodies import PartBody, PartFeed, Slices
from asyncpush.net.faults import StalledError, network_error
from asyncpush.net.limits import Bandwidth, BufferPool, PartLimit
from asyncpush.net.redaction import HIDDEN, redact_headers, redact_url
from asyncpush.net.session import HubSession
from asyncpush.net.watch import StallWatch
from asyncpush.protocol import urls
from asyncpush.protocol.failures import failure_of, request_id
from asyncpush.protocol.http import HubRequest, HubResponse

ERROR_BODY_LIMIT = 4096

FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding"})
"""Headers that say how a request lies on its connection: no Hub's business."""

TIMEOUTS = (StalledError, TimeoutError)


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
        async with self.limit.slot(source) as turn:
            queued = time.monotonic() - began
            try:
                sent = await self._put(
                    request, source, part, emit.child(), headers, on_sent, attempt, queued
                )
                self.limit.succeeded(turn, part.size)
                return sent
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
            PartFeed(
                source,
                part,
                self._pool,
                self._threads,
                with_md5=self._config.verify_etag,
                piece_size=self._config.chunk_size,
            ),
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
        return SentPart(lowered.get("etag"), lowered, body.md5)


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
