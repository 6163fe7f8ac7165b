"""From aiohttp's exceptions to ours: retryable, unreachable, and what to do next."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from asyncpush.errors import HubError
from asyncpush.events import Emitter
from asyncpush.net.network_errors import NETWORK_EXCEPTIONS, StalledError, network_error
from tests.net.helpers import (
    Answer,
    ask_for,
    cut_off,
    reset,
    server_context,
    serving,
    session_to,
    silence,
    stream_server,
    whole,
)

KEY = ConnectionKey("hub.example", 443, True, True, None, None, None)
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
INFO: Any = aiohttp.RequestInfo(URL("http://proxy"), "CONNECT", None, URL("http://proxy"))  # type: ignore[arg-type]


def from_proxy(status: int) -> aiohttp.ClientHttpProxyError:
    return aiohttp.ClientHttpProxyError(INFO, (), status=status, message="no")


TABLE: dict[str, tuple[Exception, bool, bool, str]] = {
    "connection refused": (aiohttp.ClientConnectorError(KEY, REFUSED), True, True, "HF_ENDPOINT"),
    "no such name": (
        aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")),
        True,
        True,
        "HF_ENDPOINT",
    ),
    "no descriptor left": (
        aiohttp.ClientConnectorError(KEY, OSError(errno.EMFILE, "Too many open files")),
        True,
        False,
        "ulimit -n",
    ),
    "connect timeout": (aiohttp.ConnectionTimeoutError("slow"), True, True, "network"),
    "proxy away": (aiohttp.ClientProxyConnectionError(KEY, REFUSED), True, True, "proxy"),
    "proxy in trouble": (from_proxy(502), True, True, "proxy"),
    "proxy wants a password": (from_proxy(407), False, False, "credentials"),
    "proxy forbids": (from_proxy(403), False, False, "rules"),
    "certificate": (
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
        False,
        False,
        "SSL_CERT_FILE",
    ),
    "handshake broken": (
        aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "eof")),
        True,
        False,
        "SSL_CERT_FILE",
    ),
    "TLS breaks later": (ssl.SSLError(1, "bad record mac"), True, False, "SSL_CERT_FILE"),
    "not a URL": (aiohttp.InvalidURL("x"), False, False, "no request can be sent"),
    "redirects": (aiohttp.TooManyRedirects(INFO, ()), False, False, "no request can be sent"),
    "timeout": (TimeoutError(), True, False, "stall_timeout"),
    "stall": (StalledError("no byte"), True, False, "stall_timeout"),
    "read timeout": (aiohttp.SocketTimeoutError("slow"), True, False, "stall_timeout"),
    "disconnected": (aiohttp.ServerDisconnectedError(), True, False, "try again"),
    "reset": (ConnectionResetError(errno.ECONNRESET, "reset"), True, False, "try again"),
    "reset, by aiohttp": (aiohttp.ClientOSError(errno.EPIPE, "pipe"), True, False, "try again"),
    "cut off": (aiohttp.ClientPayloadError("not enough data"), True, False, "try again"),
    "end of file": (EOFError(), True, False, "try again"),
}


@pytest.mark.parametrize(
    ("exc", "retryable", "unreachable", "suggestion"), TABLE.values(), ids=TABLE.keys()
)
def test_each_fault_has_its_meaning(
    exc: Exception, retryable: bool, unreachable: bool, suggestion: str
) -> None:
    assert isinstance(exc, (*NETWORK_EXCEPTIONS, StalledError))
    error = network_error(exc, method="PUT", url="https://h/p?sig=5ecret", what="part")
    assert (error.retryable, error.unreachable) == (retryable, unreachable)
    assert suggestion in error.suggestion
    assert error.status is None
    assert (error.method, error.url) == ("PUT", "https://h/p?<redacted>")
    assert error.message.startswith("sending a part failed: ")
    assert error.message != "sending a part failed: "


def test_the_words_of_an_exception_hold_no_secret() -> None:
    exc = aiohttp.InvalidURL("https://u:pw@bucket/key?X-Amz-Signature=5ecret")
    error = network_error(exc, method="PUT", url="x", what="part")
    for secret in ("5ecret", "pw"):
        assert secret not in str(error)


def test_an_exception_without_words_is_described_by_its_kind() -> None:
    error = network_error(ConnectionAbortedError(), method="GET", url="x", what="head")
    reason = os.strerror(errno.ECONNABORTED).lower()
    assert error.message == f"looking up the branch failed: the connection broke ({reason})"


SEVERAL = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 443, 0, 0), [Errno 111] Connect"
    " call failed ('127.0.0.1', 443)"
)


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (
            aiohttp.ClientConnectorError(KEY, OSError(111, "Connect call failed ('::1', 443)")),
            "cannot connect to hub.example:443 (connection refused)",
        ),
        (
            aiohttp.ClientConnectorError(KEY, SEVERAL),
            "cannot connect to hub.example:443 (connection refused)",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")),
            "cannot resolve the host name 'hub.example' (name or service not known)",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")),
            "cannot trust the certificate of hub.example:443 (",
        ),
        (aiohttp.ClientOSError(errno.EPIPE, "pipe"), "the connection broke (broken pipe)"),
        (
            aiohttp.ClientConnectionResetError("Cannot write to closing transport"),
            "the connection broke (connection reset by peer)",
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "x"),
            "the connection broke (connection reset by peer)",
        ),
        (aiohttp.ClientConnectionError("Connector is closed"), "the connection broke"),
        (aiohttp.ClientResponseError(INFO, (), message="bad"), "the answer is not valid HTTP"),
        (aiohttp.ConnectionTimeoutError("x to host http"), "cannot connect to h:443 (timed out)"),
        (
            aiohttp.ClientProxyConnectionError(KEY, REFUSED),
            "cannot connect to the proxy hub.example:443 (connection refused)",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "eof")),
            "cannot open a TLS connection to hub.example:443 (TLS handshake failed)",
        ),
        (aiohttp.ServerDisconnectedError(), "the server closed the connection"),
        (TimeoutError(), "no answer in time"),
        (from_proxy(407), "the proxy answered 407 no"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_happened_is_said_in_plain_words(exc: Exception, words: str) -> None:
    message = network_error(exc, method="PUT", url="https://h/p", what="part").message
    assert message.startswith(f"sending a part failed: {words}")
    check_nothing_of_a_library(message)


def check_nothing_of_a_library(message: str) -> None:
    for inside in ("ssl:", "SSL:", "Errno", "Connect call", "aiohttp", "_ssl.c", "transport", "("):
        assert inside not in message.replace(" (", " ")


@asynccontextmanager
async def _refuses() -> AsyncIterator[str]:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@asynccontextmanager
async def _has_no_address() -> AsyncIterator[str]:
    yield "http://no-such-host.invalid:80"


@asynccontextmanager
async def _is_not_trusted() -> AsyncIterator[str]:
    async with serving(tls=server_context(trustme.CA())) as peer:
        yield peer.url


@asynccontextmanager
async def _speaks_no_tls() -> AsyncIterator[str]:
    async with serving() as peer:
        yield peer.url.replace("http://", "https://")


def _answering(*answers: Answer) -> AbstractAsyncContextManager[str]:
    @asynccontextmanager
    async def answering() -> AsyncIterator[str]:
        async with serving(*answers) as peer:
            yield peer.url

    return answering()


REAL = {
    "refused": (_refuses, "cannot connect to HOST (connection refused)"),
    "no such name": (_has_no_address, "cannot resolve the host name 'no-such-host.invalid' ("),
    "certificate": (_is_not_trusted, "cannot trust the certificate of HOST (unable to get local"),
    "no TLS": (_speaks_no_tls, "cannot open a TLS connection to HOST ("),
    "reset": (lambda: _answering(reset), "the connection broke (connection reset by peer)"),
    "cut off": (lambda: _answering(cut_off(b"{", of=9)), "the answer was cut off"),
    "silent": (lambda: _answering(silence), "no data was sent or received for 0.2 s"),
}


@pytest.mark.parametrize(("server", "words"), REAL.values(), ids=REAL.keys())
async def test_faults_of_real_sockets_have_plain_messages(
    server: Callable[[], AbstractAsyncContextManager[str]], words: str
) -> None:
    async with server() as url, session_to(url, response_timeout=0.2, max_retries=0) as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, Emitter())
    message = caught.value.message
    assert message.startswith("thing failed: " + words.replace("HOST", url.partition("://")[2]))
    check_nothing_of_a_library(message)


@asynccontextmanager
async def _proxy_that_refuses() -> AsyncIterator[str]:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Login First\r\nContent-Length: 0\r\n\r\n")

    async with stream_server(refuse) as url:
        yield url


PROXIES: list[tuple[Callable[[], AbstractAsyncContextManager[str]], str]] = [
    (_refuses, "cannot connect to the proxy HOST (connection refused)"),
    (_proxy_that_refuses, "the proxy answered 407 Login First"),
]


@pytest.mark.parametrize(("server", "words"), PROXIES, ids=["away", "refuses"])
async def test_a_proxy_is_named_as_the_proxy(
    server: Callable[[], AbstractAsyncContextManager[str]],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with server() as proxy, session_to("https://hub.example", max_retries=0) as session:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, Emitter())
    message = caught.value.message
    assert message.startswith("thing failed: " + words.replace("HOST", proxy.partition("://")[2]))
    check_nothing_of_a_library(message)
