"""A fault layer for the embedded Hub: deterministic, by route, kind and the n-th request.

`faults.add("part", "reset mid-body", nth=2)` spoils the second part that arrives. Each kind is a
small coroutine around the hub's own handler, so that what is spoilt is the real thing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler, Middleware

Fault = Callable[["FaultLayer", web.Request, Handler], Awaitable[web.StreamResponse]]
Step = Callable[[web.Request, Handler], Awaitable[None]]

KINDS: dict[str, Fault] = {}

ROUTES = (
    "validate-yaml",
    "revision",
    "create",
    "preupload",
    "batch",
    "part",
    "complete",
    "verify",
    "commit",
    "paths-info",
)
"""What a push asks of a Hub."""

EXPIRED = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
BAD_SIGNATURE = (
    "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does"
    " not match the signature you provided.</Message></Error>"
)


@dataclass(slots=True)
class Rule:
    """Spoil requests `nth` to `nth + times - 1` of `route`."""

    route: str
    kind: str
    nth: int = 1
    times: int = 1


@dataclass(slots=True)
class FaultLayer:
    """Counts requests by route and spoils those that a rule names.

    `seen` counts what arrived; a hook runs once, as its route's next request comes in.
    """

    rules: list[Rule] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    spoilt: list[Rule] = field(default_factory=list)
    hooks: dict[str, Callable[[], None]] = field(default_factory=dict)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, route: str, kind: str, *, nth: int = 1, times: int = 1) -> None:
        assert kind in KINDS, f"no such fault: {kind}"
        self.rules.append(Rule(route, kind, nth, times))

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def spoil(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or ""
            self.seen[route] += 1
            number = self.seen[route]
            if (hook := self.hooks.pop(route, None)) is not None:
                hook()
            for rule in self.rules:
                if rule.route == route and rule.nth <= number < rule.nth + rule.times:
                    self.spoilt.append(rule)
                    return await KINDS[rule.kind](self, request, handler)
            return await handler(request)

        return spoil

    async def stall(self) -> None:
        """Wait until the test is over."""
        self.stalled.set()
        await self.released.wait()


def _kind(name: str) -> Callable[[Fault], Fault]:
    def register(fault: Fault) -> Fault:
        KINDS[name] = fault
        return fault

    return register


def _answer(name: str, status: int, body: str = "", **headers: str) -> None:
    async def answer(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await request.read()
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        kind = "text/html" if body.startswith("<html") else "application/json"
        return web.Response(status=status, text=body, headers=names, content_type=kind)

    KINDS[name] = answer


_answer("408", 408, '{"error": "request timeout"}')
_answer("429 Retry-After seconds", 429, '{"error": "rate limited"}', Retry_After="0")
_answer("429 RateLimit", 429, '{"error": "rate limited"}', RateLimit='"api";r=0;t=0')
_answer("429 hours", 429, '{"error": "rate limited"}', Retry_After="86400")
_answer("500", 500, '{"error": "internal"}')
_answer("502 with HTML", 502, "<html><body><h1>502 Bad Gateway</h1></body></html>")
_answer("503", 503, '{"error": "unavailable"}')
_answer("504", 504, "")
_answer("401", 401, '{"error": "Invalid credentials"}')
_answer("403", 403, '{"error": "Forbidden: token lacks write scope"}')
_answer("401 repo", 401, '{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
_answer("403 gated", 403, '{"error": "Access is restricted"}', X_Error_Code="GatedRepo")
_answer("403 quota", 403, '{"error": "Private repository storage limit reached"}')
_answer(
    "403 namespace",
    403,
    '{"error": "You don\'t have the rights to create a model under the namespace \\"you\\""}',
)
_answer("404 revision", 404, '{"error": "Invalid rev id"}', X_Error_Code="RevisionNotFound")
_answer("412", 412, '{"error": "A commit has happened since."}')
_answer("404", 404, '{"error": "Not found"}')
_answer("404 repo", 404, '{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
_answer(
    "409 another commit",
    409,
    '{"error": "Another commit operation is in progress for this repository. Please try again'
    ' later."}',
)
_answer("409 owner", 409, '{"error": "You already created this repo under another owner"}')
_answer("413", 413, '{"error": "Payload too large"}')
_answer("422", 422, '{"error": "Unprocessable"}')
_answer("expired URL", 403, EXPIRED)
_answer("SignatureDoesNotMatch", 403, BAD_SIGNATURE)
_answer("wrong JSON", 200, '{"unexpected": ["answer"]}')


@_kind("429 Retry-After date")
async def _rate_limited_until(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await request.read()
    date = formatdate(time(), usegmt=True)
    return web.Response(status=429, headers={"Retry-After": date, "Date": date})


@_kind("URL of another time")
async def _another_time(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The store's clock is two hours ahead of ours."""
    await request.read()
    date = formatdate(time() + 7200, usegmt=True)
    return web.Response(status=403, text=EXPIRED, headers={"Date": date})


def _break_off(name: str, after: Step, *, stalls: bool = False) -> None:
    async def break_off(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await after(request, handler)
        if stalls:
            await layer.stall()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    KINDS[name] = break_off


async def _nothing(request: web.Request, handler: Handler) -> None:
    pass


async def _read_some(request: web.Request, handler: Handler) -> None:
    await request.content.readany()


async def _read_all(request: web.Request, handler: Handler) -> None:
    await request.read()


async def _done(request: web.Request, handler: Handler) -> None:
    await handler(request)


_break_off("reset before the body", after=_nothing)
_break_off("reset mid-body", after=_read_some)
_break_off("reset after the body", after=_read_all)
_break_off("done, then reset", after=_done)
_break_off("stall before reading", after=_nothing, stalls=True)
_break_off("stall mid-body", after=_read_some, stalls=True)
_break_off("answer never sent", after=_read_all, stalls=True)
_break_off("done, answer never sent", after=_done, stalls=True)


@_kind("done, then 504")
async def _done_504(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await handler(request)
    return web.Response(status=504)


@_kind("truncated JSON")
async def _truncated(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    response = await handler(request)
    assert isinstance(response, web.Response)
    body = bytes(response.body or b"")  # type: ignore[arg-type]
    return web.Response(
        status=response.status, body=body[: len(body) // 2], content_type="application/json"
    )


@_kind("slow drip")
async def _slow_drip(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The answer comes byte by byte and never ends within anybody's patience."""
    response = await handler(request)
    dripping = web.StreamResponse(status=200, headers={"Content-Length": "100000"})
    await dripping.prepare(request)
    try:
        while not layer.released.is_set():
            await dripping.write(b" ")
            await asyncio.sleep(0.01)
    except (ConnectionError, RuntimeError):
        pass
    return response if response.prepared else dripping


@_kind("missing ETag")
async def _missing_etag(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    response = await handler(request)
    response.headers.popall("ETag", None)
    return response


@_kind("weak ETag")
async def _weak_etag(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """As proxies make them that compress, or might."""
    response = await handler(request)
    response.headers["ETag"] = f"W/{response.headers['ETag']}"
    return response


@_kind("wrong ETag")
async def _wrong_etag(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    response = await handler(request)
    response.headers["ETag"] = '"' + "0" * 32 + '"'
    return response


@_kind("corrupted part")
async def _corrupted(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    body = bytearray(await request.read())
    body[len(body) // 2] ^= 0xFF
    return await with_body(request, bytes(body), handler)


@_kind("object already completed")
async def _already_completed(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await handler(request)
    return web.json_response({"error": "The upload has been completed already"}, status=409)


@_kind("nothing applied")
async def _nothing_applied(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The lie: 200 to a commit, a completion or a verify that was never carried out."""
    await request.read()
    url = str(request.url.origin()) + "/commit/" + "1" * 40
    return web.json_response({"success": True, "commitOid": "1" * 40, "commitUrl": url})


async def with_body(request: web.Request, body: bytes, handler: Handler) -> web.StreamResponse:
    """Let the hub handle the request as if it had come with this body."""
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    request._payload = stream
    request._read_bytes = None
    return await handler(request)
