"""A fault layer for the embedded Hub: its own faults (asyncpush.localhub.faults) and more of them,
with hooks.

`faults.add("part", "reset mid-body", nth=2)` makes the second part that arrives fail. Each kind
is a small coroutine around the hub's own handler, so that it is the real thing that fails.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from time import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub.faults import ACTIONS, with_body

Fault = Callable[["FaultLayer", web.Request, Handler], Awaitable[web.StreamResponse]]

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

LOOKING = ("commits", "discussions", "bucket-paths-info")
"""What is asked for to see whether something was done although no answer said so."""

EXPIRED = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


@dataclass(slots=True)
class Rule:
    """Spoil requests `nth` to `nth + times - 1` of `route`."""

    route: str
    kind: str
    nth: int = 1
    times: int = 1


@dataclass(slots=True)
class FaultLayer:
    """Counts requests by route and makes those fail that a rule names.

    `seen` counts what arrived; a hook runs once, as its route's next request comes in. What is
    `late` is done once a client has looked for it in vain.
    """

    rules: list[Rule] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    injected: list[Rule] = field(default_factory=list)
    hooks: dict[str, Callable[[], None]] = field(default_factory=dict)
    late: list[Callable[[], Awaitable[web.StreamResponse]]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, route: str, kind: str, *, nth: int = 1, times: int = 1) -> None:
        assert kind in KINDS, f"no such fault: {kind}"
        self.rules.append(Rule(route, kind, nth, times))

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or ""
            self.seen[route] += 1
            number = self.seen[route]
            if (hook := self.hooks.pop(route, None)) is not None:
                hook()
            for rule in self.rules:
                if rule.route == route and rule.nth <= number < rule.nth + rule.times:
                    self.injected.append(rule)
                    return await KINDS[rule.kind](self, request, handler)
            response = await handler(request)
            if route in LOOKING:
                while self.late:
                    await self.late.pop()()
            return response

        return inject

    async def stall(self) -> None:
        """Wait until the test is over."""
        self.stalled.set()
        await self.released.wait()


def _public(kind: str, action: str, seconds: float | None = None) -> None:
    """A kind that users have too, by the name that the fault table gives it."""

    async def inject(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        return await ACTIONS[action](layer, request, handler, seconds)

    KINDS[kind] = inject


for _kind, _action in {
    **{
        kind: kind
        for kind in ("401", "403", "404", "408", "412", "413", "422", "500", "503", "504")
    },
    "404 repo": "404-repo",
    "404 revision": "404-revision",
    "409 another commit": "409",
    "502 with HTML": "502",
    "403 quota": "quota",
    "expired URL": "expired-url",
    "SignatureDoesNotMatch": "bad-signature",
    "wrong JSON": "wrong-json",
    "nothing applied": "lie",
    "reset before the body": "reset",
    "reset mid-body": "reset-mid-body",
    "reset after the body": "reset-unanswered",
    "done, then reset": "reset-after",
    "stall before reading": "stall",
    "stall mid-body": "stall-mid-body",
    "answer never sent": "stall-unanswered",
    "done, answer never sent": "stall-after",
    "done, then 504": "504-after",
    "truncated JSON": "truncated",
    "slow drip": "drip",
    "missing ETag": "no-etag",
    "wrong ETag": "wrong-etag",
    "corrupted part": "corrupted",
}.items():
    _public(_kind, _action)


_public("answered after 0.5 s", "delay", 0.5)


def _answer(name: str, status: int, body: str = "", **headers: str) -> None:
    async def answer(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await request.read()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.Response(
            status=status, text=body, headers=named, content_type="application/json"
        )

    KINDS[name] = answer


def _done_then(status: int) -> None:
    """A hook of the Hub, or a proxy in front of it, fails after the work."""

    async def refuse(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        await handler(request)
        return web.json_response({"error": "hook failed"}, status=status)

    KINDS[f"done, then {status}"] = refuse


REFUSALS = (400, 403, 409, 413, 422)
for _status in REFUSALS:
    _done_then(_status)


_answer("429 Retry-After seconds", 429, '{"error": "rate limited"}', Retry_After="0")
_answer("429 RateLimit", 429, '{"error": "rate limited"}', RateLimit='"api";r=0;t=0')
_answer("429 hours", 429, '{"error": "rate limited"}', Retry_After="86400")
_answer("401 repo", 401, '{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
_answer("403 gated", 403, '{"error": "Access is restricted"}', X_Error_Code="GatedRepo")
_answer(
    "403 namespace",
    403,
    '{"error": "You don\'t have the rights to create a model under the namespace \\"you\\""}',
)
_answer(
    "200 with an S3 error", 200, "<?xml version='1.0'?>\n<Error><Message>late</Message></Error>"
)
_answer("200 with an error", 200, '{"success": false, "error": "checksum"}')
_answer("405", 405)
_answer("501", 501)
_answer("409 owner", 409, '{"error": "You already created this repo under another owner"}')


_answer("422 FastAPI", 422, '{"detail": [{"loc": ["body", "paths"], "msg": "Field required"}]}')
_answer("500 FastAPI", 500, '{"detail": {"error": "NoSuchUpload"}}')
_answer("503 FastAPI", 503, '{"detail": "The database is locked"}')


async def _done_later(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The gateway gives up, what is behind it does not."""
    layer.late.append(partial(with_body, request, await request.read(), handler))
    return web.Response(status=504)


async def _rate_limited_until(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await request.read()
    date = formatdate(time(), usegmt=True)
    return web.Response(status=429, headers={"Retry-After": date, "Date": date})


async def _another_time(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The store's clock is two hours ahead of ours."""
    await request.read()
    date = formatdate(time() + 7200, usegmt=True)
    return web.Response(status=403, text=EXPIRED, headers={"Date": date})


async def _already_completed(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    await handler(request)
    return web.json_response({"error": "The upload has been completed already"}, status=409)


async def _one_failed(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """Of a list of files, the first is not done."""
    first = (await request.json())["files"][0]
    failed = [{"sha256": first["sha256"], "error": "It is stored in another region"}]
    return web.json_response({"success": False, "failed": failed})


async def _same_page_again(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """A page that names itself as the one that follows."""
    response = await handler(request)
    response.headers["Link"] = f'<{request.url}>; rel="next"'
    return response


async def _weak_etag(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """As proxies make them that compress, or might."""
    response = await handler(request)
    response.headers["ETag"] = f"W/{response.headers['ETag']}"
    return response


_answer(
    "LFS pointer missing",
    404,
    '{"error": "Your push was rejected because an LFS pointer pointed to a file that does not'
    ' exist."}',
)


async def _all_failed(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    paths = [json.loads(line)["path"] for line in (await request.read()).splitlines()]
    failed = [{"path": path, "error": "It is stored in another region"} for path in paths]
    answer = {"success": False, "processed": len(paths), "succeeded": 0, "failed": failed}
    return web.json_response(answer, status=422)


KINDS["all operations failed"] = _all_failed
KINDS["one failed"] = _one_failed
KINDS["504, done later"] = _done_later
KINDS["weak ETag"] = _weak_etag
KINDS["same page again"] = _same_page_again
KINDS["429 Retry-After date"] = _rate_limited_until
KINDS["URL of another time"] = _another_time
KINDS["object already completed"] = _already_completed

__all__ = ["KINDS", "ROUTES", "FaultLayer", "Rule", "with_body"]
