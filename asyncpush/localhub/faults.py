"""Faults on demand: requests of a route that fail in a way chosen beforehand.

    LocalHub(root, faults=["commit=504-after:1", "part=503:5%", "batch=429-30s:2-4"])

The hub itself stays real: an action wraps the handler of the route. The n-th request of a route
fails the same way on every run, and so does a percentage of them.
"""

from __future__ import annotations

import asyncio
import difflib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler, Middleware

_GRAMMAR = re.compile(
    r"(?P<route>[a-z-]+)=(?P<action>[a-z0-9-]+?)(?:-(?P<seconds>[0-9]{1,6}(?:\.[0-9]+)?)s)?"
    r"(?::(?P<which>.+))?"
)
_WHICH = re.compile(r"(?P<first>[1-9][0-9]{0,8})(?P<to>-(?P<last>[1-9][0-9]{0,8})?)?")
_SHARE = re.compile(r"(?P<percent>[0-9]{1,3}(?:\.[0-9]+)?)%")


class Waiting(Protocol):
    """Holds back requests until it is told to let them go."""

    async def stall(self) -> None: ...


Action = Callable[[Waiting, web.Request, Handler, float | None], Awaitable[web.StreamResponse]]
ACTIONS: dict[str, Action] = {}
"""What may happen to a request, by name. The float is the 30 of `-30s`, or None."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault for the requests of `route` that `which` selects, counted from 1: all ("*"), one
    ("3"), a range ("3-5", "3-") or a share ("5%").

    >>> Fault.parse("commit=504-after:3")
    Fault(route='commit', action='504-after', seconds=None, which='3')
    """

    route: str
    action: str
    seconds: float | None = None
    which: str = "*"

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no such action: {self.action!r}{_near(self.action, ACTIONS)}")
        match = _WHICH.fullmatch(self.which)
        share = _SHARE.fullmatch(self.which)
        if not (self.which == "*" or match or (share and float(share["percent"]) <= 100)):
            raise ValueError(
                f"not a selection of requests: {self.which!r}; write *, 3, 3-5, 3- or 5%"
            )
        if match and match["last"] and int(match["last"]) < int(match["first"]):
            raise ValueError(f"not a selection of requests: {self.which!r} ends before it begins")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Reads `ROUTE=ACTION[-SECONDSs][:WHICH]`, the form of the command line. Raises
        `ValueError`."""
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            form = "ROUTE=ACTION[-SECONDSs][:WHICH], as in commit=504-after:3"
            raise ValueError(f"{text!r} is not of the form {form}")
        seconds = float(match["seconds"]) if match["seconds"] else None
        return cls(match["route"], match["action"], seconds, match["which"] or "*")

    def hits(self, number: int) -> bool:
        """Whether the request of the route with this number is to fail."""
        if self.which == "*":
            return True
        if share := _SHARE.fullmatch(self.which):
            chance = random.Random(f"{self.route} {self.action} {number}").random()
            return chance * 100 < float(share["percent"])
        match = _WHICH.fullmatch(self.which)
        assert match is not None
        first = int(match["first"])
        if match["to"] is None:
            return number == first
        return first <= number and (match["last"] is None or number <= int(match["last"]))


@dataclass
class Faults:
    """The faults of a hub, and what they did: `seen` counts the requests of each route, `injected`
    lists the faults in the order in which they happened. `rules` may change at any time."""

    rules: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    injected: list[Fault] = field(default_factory=list)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _in_progress: set[asyncio.Future[None]] = field(default_factory=set)

    @classmethod
    def of(cls, faults: Iterable[Fault | str], routes: Iterable[str]) -> Faults:
        """Raises `ValueError` for a route that the hub does not have."""
        rules = [Fault.parse(each) if isinstance(each, str) else each for each in faults]
        known = sorted(routes)
        for rule in rules:
            if rule.route not in known:
                raise ValueError(f"no such route: {rule.route!r}{_near(rule.route, known)}")
        return cls(rules)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or ""
            self.seen[route] += 1
            number = self.seen[route]
            for rule in self.rules:
                if rule.route == route and rule.hits(number):
                    return await self._inject(rule, request, handler)
            return await handler(request)

        return inject

    async def _inject(
        self, rule: Fault, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        self.injected.append(rule)
        ended = asyncio.get_running_loop().create_future()
        self._in_progress.add(ended)
        try:
            return await ACTIONS[rule.action](self, request, handler, rule.seconds)
        finally:
            self._in_progress.discard(ended)
            ended.set_result(None)

    async def stall(self) -> None:
        """Keep a request waiting until the hub ends."""
        await self._released.wait()

    async def release(self) -> None:
        """Release all held requests, while their connections are still open and can be cut."""
        self._released.set()
        if self._in_progress:
            await asyncio.wait(self._in_progress, timeout=1)


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, 3)
    return f"; did you mean {' or '.join(close)}?" if close else f"; use one of {', '.join(names)}"


# -- answers in place of the hub's --


def _answer(name: str, status: int, body: str = "", **headers: str) -> None:
    """Registers an answer. `{seconds}` in a header is replaced by the fault's seconds (1 by
    default)."""

    async def answer(
        faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
    ) -> web.StreamResponse:
        await read_all(request)
        text = f"{1 if seconds is None else seconds:g}"
        named = {
            key.replace("_", "-"): value.replace("{seconds}", text)
            for key, value in headers.items()
        }
        kinds = {"<h": "text/html", "<E": "application/xml"}
        kind = kinds.get(body[:2], "application/json")
        return web.Response(status=status, text=body, headers=named, content_type=kind)

    ACTIONS[name] = answer


_answer("401", 401, '{"error": "Invalid credentials in Authorization header"}')
_answer("403", 403, '{"error": "Forbidden: token lacks write scope"}')
_answer("404", 404, '{"error": "Not found"}')
_answer("404-repo", 404, '{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
_answer("404-revision", 404, '{"error": "Invalid rev id"}', X_Error_Code="RevisionNotFound")
_answer("408", 408, '{"error": "request timeout"}')
_answer(
    "409",
    409,
    '{"error": "Another commit operation is in progress for this repository. Please try again'
    ' later."}',
)
_answer(
    "412",
    412,
    '{"error": "A commit has happened since. Please refresh and try again."}',
)
_answer("413", 413, '{"error": "Payload too large"}')
_answer("422", 422, '{"error": "Unprocessable"}')
_answer(
    "429",
    429,
    '{"error": "We had to rate limit you. Retry after the time that the headers tell."}',
    Retry_After="{seconds}",
    RateLimit='"api";r=0;t={seconds}',
    RateLimit_Policy='"fixed window";"api";q=1000;w=300',
)
_answer(
    "commit-limit",
    429,
    '{"error": "You have exceeded the rate limit for repository commits (128 per hour). Retry this'
    ' action in about 1 hour."}',
)
_answer(
    "quota",
    403,
    '{"error": "Private repository storage limit reached, please upgrade your plan to increase your'
    ' private storage limit."}',
)
_answer("500", 500, '{"error": "Internal Error - We\'re working hard to fix this"}')
_answer("502", 502, "<html><body><h1>502 Bad Gateway</h1></body></html>")
_answer("503", 503, '{"error": "Service Unavailable"}')
_answer("504", 504)
_answer(
    "expired-url",
    403,
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
)
_answer(
    "bad-signature",
    403,
    "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does"
    " not match the signature you provided.</Message></Error>",
)
_answer("wrong-json", 200, '{"unexpected": ["answer"]}')


def _action(name: str) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        ACTIONS[name] = action
        return action

    return register


@_action("lie")
async def _lie(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Answer 200 to a commit, a completion or a verify that is not carried out."""
    await read_all(request)
    url = str(request.url.origin()) + "/commit/" + "1" * 40
    return web.json_response({"success": True, "commitOid": "1" * 40, "commitUrl": url})


# -- connections that break, answers that do not come --


def _break_off(
    name: str, after: Callable[[web.Request, Handler], Awaitable[object]], *, stalls: bool = False
) -> None:
    async def break_off(
        faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
    ) -> web.StreamResponse:
        await after(request, handler)
        if stalls:
            await faults.stall()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    ACTIONS[name] = break_off


async def _nothing(request: web.Request, handler: Handler) -> None:
    pass


async def _read_some(request: web.Request, handler: Handler) -> None:
    await request.content.readany()


async def _read(request: web.Request, handler: Handler) -> None:
    await read_all(request)


async def _done(request: web.Request, handler: Handler) -> None:
    await handler(request)


_break_off("reset", after=_nothing)
_break_off("reset-mid-body", after=_read_some)
_break_off("reset-unanswered", after=_read)
_break_off("reset-after", after=_done)
_break_off("stall", after=_nothing, stalls=True)
_break_off("stall-mid-body", after=_read_some, stalls=True)
_break_off("stall-unanswered", after=_read, stalls=True)
_break_off("stall-after", after=_done, stalls=True)


@_action("delay")
async def _delay(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Hold the request (10 s by default), then handle it."""
    await asyncio.sleep(10.0 if seconds is None else seconds)
    return await handler(request)


# -- done, but answered otherwise --


def _then(name: str, status: int) -> None:
    async def then(
        faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
    ) -> web.StreamResponse:
        await handler(request)
        return web.Response(status=status)

    ACTIONS[name] = then


for _status in (500, 502, 503, 504):
    _then(f"{_status}-after", _status)


@_action("504-late")
async def _late(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Answer 504 at once, and do what was asked later (10 s by default)."""
    body = await read_all(request)

    async def land() -> None:
        if not await _ends_within(faults, 10.0 if seconds is None else seconds):
            await with_body(request, body, handler)

    task = asyncio.create_task(land())
    _LANDING.add(task)
    task.add_done_callback(_LANDING.discard)
    return web.Response(status=504)


async def _ends_within(faults: Waiting, seconds: float) -> bool:
    """Whether the hub ends in so many seconds."""
    over = asyncio.create_task(faults.stall())
    await asyncio.wait([over], timeout=seconds)
    if over.done():
        return True
    over.cancel()
    return False


_LANDING: set[asyncio.Task[None]] = set()
"""Late requests that are still to be handled: the event loop alone would not keep the tasks
alive."""


# -- damaged answers --


@_action("truncated")
async def _truncated(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Send half of the answer as if it were complete."""
    response = await handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    body = response.body
    return web.Response(
        status=response.status, body=body[: len(body) // 2], content_type=response.content_type
    )


@_action("drip")
async def _drip(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Send the answer byte by byte, without end."""
    response = await handler(request)
    dripping = web.StreamResponse(status=200, headers={"Content-Length": "100000"})
    await dripping.prepare(request)
    released = asyncio.create_task(faults.stall())
    try:
        while not released.done():
            await dripping.write(b" ")
            await asyncio.wait([released], timeout=0.01)
    except (ConnectionError, RuntimeError):
        pass
    finally:
        released.cancel()
    return response if response.prepared else dripping


@_action("no-etag")
async def _no_etag(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    response = await handler(request)
    response.headers.popall("ETag", None)
    return response


@_action("wrong-etag")
async def _wrong_etag(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    response = await handler(request)
    response.headers["ETag"] = '"' + "0" * 32 + '"'
    return response


@_action("corrupted")
async def _corrupted(
    faults: Waiting, request: web.Request, handler: Handler, seconds: float | None
) -> web.StreamResponse:
    """Change one byte of the body before it is handled."""
    body = bytearray(await read_all(request))
    if body:
        body[len(body) // 2] ^= 0xFF
    return await with_body(request, bytes(body), handler)


async def read_all(request: web.Request) -> bytes:
    """The body, of any length: `request.read` is limited to the size of JSON bodies, and a request
    keeps its `content` once it has been read."""
    return b"".join([piece async for piece in request._payload.iter_any()])


async def with_body(request: web.Request, body: bytes, handler: Handler) -> web.StreamResponse:
    """Let the hub handle the request as if this were its body."""
    loop = asyncio.get_running_loop()
    # The limit never applies here: there is no sender to slow down any more.
    stream = StreamReader(BaseProtocol(loop), len(body) + 1, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    request._payload = stream  # aiohttp has no public way to read a body again
    request._read_bytes = None
    return await handler(request)
