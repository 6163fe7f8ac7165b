"""The session, through which every request of an `Uploader` goes."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import field
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from asyncpush._version import __version__
from asyncpush.errors import BODY_LIMIT, HubError, ProtocolError, printable
from asyncpush.events import Emitter, RequestFinished, RequestStarted, Waiting
from asyncpush.lazy_dataclass import dataclass
from asyncpush.net.connections import GuardedResolver, Proxies
from asyncpush.net.credentials import TokenSource
from asyncpush.net.network_errors import (
    NETWORK_EXCEPTIONS,
    StalledError,
    network_error,
)
from asyncpush.net.rate_limits import Pacer
from asyncpush.net.request_bodies import RequestBody
from asyncpush.net.retry import Creations, RetryBudget, RetryLoop, RetryPolicy
from asyncpush.net.stall_timeout import StallTimeout
from asyncpush.options import MIB, UploadConfig
from asyncpush.protocol import urls
from asyncpush.protocol.failures import REMEDIES, failure_of, request_id
from asyncpush.protocol.hints import rate_limit, wait_hint
from asyncpush.protocol.http import VERIFY, HubRequest, HubResponse, protocol_error
from asyncpush.redaction import redact_headers, redact_text, redact_url

T = TypeVar("T")

LIGHT_TIMEOUT = 30.0
"""Seconds to wait for the answer to a light request, one that can be repeated safely. If the Hub
has not answered by then, it has more likely lost the request than is still working on it."""

API_CALLS_IN_FLIGHT = 16
"""Requests to the Hub at once. When its quota runs low, the pacer spreads them out."""

VERIFIES_IN_FLIGHT = 32
"""Each LFS object ends with a request of its own (verify), so there are as many of these as there
are small parts in flight. With 16 at once, 500 small objects at 30 ms latency mostly waited for
them. Their limit is their own: other requests, on which the next objects depend, do not wait behind
them."""

REDIRECTS = frozenset({301, 302, 307, 308})
REDIRECTS_LIMIT = 5
USER_AGENT = f"asyncpush/{__version__}; python/{platform.python_version()}"
"""The same form as the official client's, by which Hubs count their clients."""


def user_agent() -> str:
    """The user agent with the origin that `HF_HUB_USER_AGENT_ORIGIN` names: the application or
    platform that sends the requests. The official client adds it in the same way."""
    origin = os.environ.get("HF_HUB_USER_AGENT_ORIGIN", "")
    named = "".join(letter for letter in origin if " " <= letter <= "~").strip()
    return f"{USER_AGENT}; origin/{named}" if named else USER_AGENT


Describe = Callable[[Any], Mapping[str, Any]]
TraceHeaders = Callable[[str], Mapping[str, str]]
"""From the span id of a request's events to the headers that carry its trace context."""


@dataclass(slots=True)
class Exchange:
    """One attempt at one request and its answer. `number` is the number of the attempt."""

    request: HubRequest
    url: str = field(repr=False)
    number: int
    events: Emitter
    began: float = field(default_factory=time.monotonic)
    queued: float = 0.0


class HubSession:
    """Connections to one Hub and its store, which share the token, the waits and the retries.

    `direct` ignores the environment's proxies, for the embedded Hub, which runs in this process.
    `trace_headers` are added to requests of the Hub's own API and dropped on a redirect. `sleep`,
    `clock` and `draw` are used by the retry loop and the pacer; tests replace them.
    """

    def __init__(
        self,
        endpoint: str,
        token: TokenSource,
        config: UploadConfig,
        *,
        direct: bool = False,
        trace_headers: TraceHeaders | None = None,
        calls_in_flight: int = API_CALLS_IN_FLIGHT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.endpoint: str = urls.check_endpoint(endpoint)
        self._direct = direct
        self._trace_headers = trace_headers
        self._proxies = Proxies()
        self.config = config
        self.token = token
        self.pacer: Pacer = Pacer(clock=clock, sleep=sleep)
        self._clock = clock
        self.retry_loop: RetryLoop = RetryLoop(
            RetryPolicy.of(config),
            budget=RetryBudget(),
            reached=lambda: self._reached,
            secret=lambda: self.token.known,
            sleep=sleep,
            clock=clock,
            draw=draw,
        )
        self.created: Creations = Creations(clock)
        self._api_calls = asyncio.Semaphore(calls_in_flight)
        few = calls_in_flight < API_CALLS_IN_FLIGHT  # so few file descriptors are left
        self._verifies = self._api_calls if few else asyncio.Semaphore(VERIFIES_IN_FLIGHT)
        self._resolver = GuardedResolver(self.endpoint, config.allowed_hosts or ())
        self._http: aiohttp.ClientSession | None = None
        self._http_anew: aiohttp.ClientSession | None = None
        self._closed = False
        self._reached = False

    def note_reached(self) -> None:
        """Note that some server has answered. From now on an unreachable network is taken for an
        outage, not for a wrong name."""
        self._reached = True

    @property
    def http(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = self._new_http()
        return self._http

    @property
    def http_anew(self) -> aiohttp.ClientSession:
        """Opens a connection for each request. A server that closes connections after each answer
        without saying so may close the one that a POST is sent on, every time: aiohttp sends only
        other methods again by itself."""
        if self._http_anew is None:
            self._http_anew = self._new_http(keep_alive=False)
        return self._http_anew

    def _new_http(self, *, keep_alive: bool = True) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("the session is closed")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=300,
                resolver=self._resolver,
                force_close=not keep_alive,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout),
            # Answers are not decompressed: a compressed one could expand to any size.
            auto_decompress=False,
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
            raise_for_status=False,
        )

    async def close(self) -> None:
        self._closed = True
        opened = [http for http in (self._http, self._http_anew) if http is not None]
        self._http = self._http_anew = None
        for http in opened:
            await http.close()
        if opened:
            await self._resolver.close()

    async def ask(
        self,
        request: HubRequest,
        parse: Callable[[HubResponse], T],
        events: Emitter,
        *,
        describe: Describe | None = None,
        retry: bool = True,
        reconcile: Callable[[HubError], Awaitable[T | None]] | None = None,
        expected: Callable[[HubError], bool] = lambda error: False,
        accept: Callable[[HubResponse], bool] = lambda response: response.status < 300,
        first: int = 1,
        follow_up: Callable[[HubError], float | None] = lambda error: None,
    ) -> T:
        """Send a request until its answer can be parsed, or the retry policy gives up. Raises
        `HubError`.

        `describe` adds fields of the parsed answer to its event. An `expected` failure (the 404 of
        a repo that is about to be created) is raised but not reported. `retry`, `reconcile`,
        `first` and `follow_up` are those of `RetryLoop.run`.
        """
        url = urls.resolve(request.target, self.endpoint)
        return await self.retry_loop.run(
            lambda attempt: self._attempt(
                Exchange(request, url, attempt.number, attempt.events), parse, describe, accept
            ),
            events,
            request.call,
            fields=request.fields,
            method=request.method,
            url=url,
            retry=retry,
            first=first,
            follow_up=follow_up,
            reconcile=reconcile,
            reported=lambda error: not expected(error),
        )

    async def _attempt(
        self,
        this: Exchange,
        parse: Callable[[HubResponse], T],
        describe: Describe | None,
        accept: Callable[[HubResponse], bool],
    ) -> T:
        urls.check_target(this.url, self.endpoint, self.config.allowed_hosts or ())
        own = urls.same_origin(this.url, self.endpoint)
        asked = self._clock()
        async with self._queue_for(this.request):
            # Looked at here: limits may have been announced while the request was queued.
            if own and not self.pacer.is_open:
                await self.pacer.wait(
                    lambda seconds: this.events.emit(Waiting(seconds, "rate limit of the Hub"))
                )
            this.queued = self._clock() - asked
            response = await self._with_fresh_token(this, own=own)
        now = time.time()
        if own:
            self._note_rate_limit(response, now)
        if not accept(response):
            self._finished(this, response, {})
            if response.status < 400:
                raise protocol_error(f"{this.request.call}: status {response.status}", response)
            error = failure_of(this.request, response, now=now)
            if self.created.may_lag(this.request, error):
                raise error.with_(retryable=REMEDIES["not_known_yet"].retryable)
            raise error
        try:
            value = parse(response)
        except HubError as exc:
            self._finished(this, response, {})
            raise _of_answer(exc, response) from exc.__cause__
        self._finished(this, response, describe(value) if describe and this.events.detailed else {})
        return value

    def _queue_for(self, request: HubRequest) -> AbstractAsyncContextManager[None]:
        if not request.queued:
            return nullcontext()
        return self._verifies if request.call == VERIFY else self._api_calls

    async def _with_fresh_token(self, this: Exchange, *, own: bool) -> HubResponse:
        """Send the request once; after a 401, get a new token and send it once more."""
        token = None
        if own and this.request.auth == "token":
            token = self.token.lasting or await self.token.find()
        response = await self._send(this, this.url, token)
        if response.status in REDIRECTS:
            response = await self._follow(this, response, token)
        if response.status == 401 and token is not None and self.token.refreshable:
            self._finished(this, response, {})
            token = await self.token.refresh(token)
            response = await self._send(this, this.url, token)
            response = await self._follow(this, response, token)
        return response

    async def _follow(
        self, this: Exchange, response: HubResponse, token: str | None
    ) -> HubResponse:
        """Follow redirects within the Hub's own origin (renamed repos). Others are refused: the
        body or the token would go to another server."""
        for _ in range(REDIRECTS_LIMIT - 1):
            if response.status not in REDIRECTS:
                return response
            self._finished(this, response, {})
            url = response.url
            target = urls.join(url, response.headers.get("location", ""))
            if not urls.same_origin(target, url):
                raise _redirect_refused(response, "to another origin", target)
            urls.check_target(target, self.endpoint, self.config.allowed_hosts or ())
            if this.request.method != "GET" and response.status in (301, 302):
                raise _redirect_refused(response, "in a way that would drop the body", target)
            response = await self._send(this, target, token)
        if response.status in REDIRECTS:
            raise _redirect_refused(response, f"more than {REDIRECTS_LIMIT} times", response.url)
        return response

    async def _send(self, this: Exchange, url: str, token: str | None) -> HubResponse:
        request = this.request
        headers = dict(request.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if request.body is not None:
            headers["Content-Length"] = str(request.size)
        this.began = time.monotonic()
        self._started(this, url, headers)
        if self._trace_headers is not None and url == this.url and self._is_own(request, url):
            headers |= self._trace_headers(this.events.span_id)
        timeout = self.config.response_timeout
        stall = StallTimeout(timeout if request.slow else min(timeout, LIGHT_TIMEOUT))
        body = None if request.body is None else RequestBody(request.body, stall)
        try:
            async with (
                stall,
                self.open(
                    request.method,
                    url,
                    call=request.call,
                    anew=this.number > 1 and request.method == "POST",
                    headers=headers,
                    data=body,
                ) as answer,
            ):
                content = await read_limited(answer, stall.answer_arrives())
        except StalledError as exc:
            raise network_error(exc, method=request.method, url=url, what=request.call) from exc
        except HubError:
            if body is not None and body.failure is not None:
                raise body.failure from None
            raise
        finally:
            if body is not None:
                await body.finish()
        return response_of(answer, content, url)

    def _is_own(self, request: HubRequest, url: str) -> bool:
        """Whether this is a request of the Hub's API rather than a presigned URL, which may have
        the same origin."""
        return request.auth == "token" and urls.same_origin(url, self.endpoint)

    def open(
        self, method: str, url: str, *, call: str, anew: bool = False, **arguments: Any
    ) -> OpenedAnswer:
        """An answer whose body is not read yet; with `anew`, on a connection of its own. Network
        failures are raised as `HubError`, which names the `call`."""
        return OpenedAnswer(self, method, url, call, anew, arguments)

    def begin(
        self, method: str, url: str, arguments: dict[str, Any], *, anew: bool = False
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The request, by the proxy if there is one."""
        arguments = arguments if self._direct else self._proxies.through(url, arguments)
        if "Content-Type" not in arguments.get("headers", ()):  # else aiohttp would guess one
            arguments = {**arguments, "skip_auto_headers": ("Content-Type",)}
        target = URL(url, encoded=True)
        http = self.http_anew if anew else self.http
        return http.request(method, target, allow_redirects=False, **arguments)

    def _note_rate_limit(self, response: HubResponse, now: float) -> None:
        """Learn the rate limits of an answer, which apply to the whole session."""
        longest = self.config.max_retry_after
        self.pacer.note(rate_limit(response.headers), longest=longest)
        if response.status in (429, 503):
            hint = wait_hint(response.status, response.headers, now=now)
            if hint is not None and hint <= longest:
                self.pacer.hold(hint)

    def _shown(self, this: Exchange, headers: Mapping[str, str]) -> dict[str, str]:
        return redact_headers(headers, self.token.known) if this.events.detailed else {}

    def _started(self, this: Exchange, url: str, headers: Mapping[str, str]) -> None:
        if this.events.wants(RequestStarted):
            request = this.request
            this.events.emit(
                RequestStarted(
                    call=request.call,
                    method=request.method,
                    url=redact_url(url),
                    attempt=this.number,
                    bytes_out=request.size,
                    headers=self._shown(this, headers),
                    fields=request.fields,
                    queued_ms=round(this.queued * 1000, 3),
                )
            )
            this.queued = 0.0  # after a redirect or with a new token it is not queued again

    def _finished(
        self, this: Exchange, response: HubResponse, described: Mapping[str, Any]
    ) -> None:
        if this.events.wants(RequestFinished):
            request = this.request
            shown = self._shown(this, response.headers)
            this.events.emit(
                RequestFinished(
                    call=request.call,
                    method=request.method,
                    url=redact_url(response.url),
                    attempt=this.number,
                    status=response.status,
                    elapsed_ms=round((time.monotonic() - this.began) * 1000, 3),
                    bytes_out=request.size,
                    bytes_in=len(response.body),
                    headers=shown,
                    request_id=request_id(shown) if shown else None,
                    fields={**request.fields, **described},
                )
            )


class OpenedAnswer:
    """The block of `HubSession.open`. A class, as a generator would cost twice as much for each
    request."""

    __slots__ = ("_anew", "_arguments", "_call", "_method", "_request", "_session", "_url")

    def __init__(
        self,
        session: HubSession,
        method: str,
        url: str,
        call: str,
        anew: bool,
        arguments: dict[str, Any],
    ) -> None:
        self._session = session
        self._method = method
        self._url = url
        self._call = call
        self._anew = anew
        self._arguments = arguments
        self._request: AbstractAsyncContextManager[aiohttp.ClientResponse] | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            self._request = self._session.begin(
                self._method, self._url, self._arguments, anew=self._anew
            )
            answer = await self._request.__aenter__()
        except Exception as exc:
            self._raise_ours(exc)
            raise
        self._session.note_reached()
        return answer

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._request is not None
        try:
            await self._request.__aexit__(exc_type, exc, traceback)
        except Exception as closing:
            self._raise_ours(closing)
            raise
        if isinstance(exc, Exception):
            self._raise_ours(exc)

    def _raise_ours(self, exc: Exception) -> None:
        """Raise the `HubError` for a failure of the network, or for a request that cannot be
        sent."""
        if isinstance(exc, HubError):
            return
        if isinstance(exc, NETWORK_EXCEPTIONS):
            raise network_error(exc, method=self._method, url=self._url, what=self._call) from exc
        if isinstance(exc, ValueError):  # URLs and headers that aiohttp cannot send
            raise ProtocolError(
                f"this request cannot be sent: {redact_text(str(exc))}",
                method=self._method,
                url=redact_url(self._url),
            ) from exc


def _redirect_refused(response: HubResponse, why: str, target: str) -> ProtocolError:
    return ProtocolError(
        f"the Hub redirects {why}: {redact_url(target)[:200]}",
        status=response.status,
        url=response.url,
        headers=response.headers,
        suggestion="if the Hub has moved, set HF_ENDPOINT to its new address; if the repo was"
        " renamed or moved, use its new name",
    )


ANSWER_LIMIT = 32 * MIB
"""No answer of a Hub is larger; a page of 1,000 tree entries has about 0.3 MiB."""

BEGINNING = 4096
"""Bytes of a store's answer that are read: enough for the error message in it."""


def response_of(answer: aiohttp.ClientResponse, content: bytes, url: str) -> HubResponse:
    """The answer in the form that parsers expect, with header names in lower case."""
    headers = {name.lower(): _text_of(value) for name, value in answer.headers.items()}
    return HubResponse(answer.status, headers, content, url)


def _text_of(value: str) -> str:
    """A header's value as text that can be encoded. aiohttp decodes UTF-8 and keeps other bytes as
    surrogates; RFC 9110 takes them for ISO 8859-1."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


async def read_limited(answer: aiohttp.ClientResponse, on_piece: Callable[[int], object]) -> bytes:
    """The whole body. Raises `ProtocolError` when it is larger than `ANSWER_LIMIT`, or compressed
    although `Accept-Encoding: identity` was sent. With a status of 400 or more such a body counts
    as empty instead. `on_piece` is called with the number of bytes so far whenever more have
    arrived."""
    try:
        return await _read_whole(answer, on_piece)
    except ProtocolError:
        if answer.status < 400:
            raise
        return b""


async def _read_whole(answer: aiohttp.ClientResponse, on_piece: Callable[[int], object]) -> bytes:
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise ProtocolError(
            f"the answer is compressed ({encoding[:40]}) although that was not requested"
        )
    pieces, size = [], 0
    while piece := await answer.content.readany():
        size += len(piece)
        on_piece(size)
        if size > ANSWER_LIMIT:
            raise ProtocolError(f"the answer is larger than {ANSWER_LIMIT} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def read_beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The first `BEGINNING` bytes of the body, or all of a shorter one; the rest is not read."""
    content = b""
    while len(content) < BEGINNING and (piece := await answer.content.readany()):
        content += piece
    return content[:BEGINNING]


def _of_answer(error: HubError, response: HubResponse) -> HubError:
    """A parser's error, completed with the answer's status, body, headers and request id. The
    parser sees only the answer's fields."""
    changes: dict[str, Any] = {"request_id": error.request_id or request_id(response.headers)}
    if error.status is None:
        changes |= {
            "status": response.status,
            "body": printable(response.body[:BODY_LIMIT].decode("utf-8", "replace")),
            "headers": dict(response.headers),
        }
    return error.with_(**changes)
