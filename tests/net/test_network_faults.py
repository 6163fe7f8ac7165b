"""From aiohttp's exceptions to ours: retryable, unreachable, and what to do next."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from asyncpush.net.failures import NETWORK_EXCEPTIONS, StalledError, network_error

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
    "not a URL": (aiohttp.InvalidURL("x"), False, False, "cannot be asked"),
    "redirects": (aiohttp.TooManyRedirects(INFO, ()), False, False, "cannot be asked"),
    "timeout": (TimeoutError(), True, False, "stall_timeout"),
    "stall": (StalledError("no byte"), True, False, "stall_timeout"),
    "read timeout": (aiohttp.SocketTimeoutError("slow"), True, False, "stall_timeout"),
    "disconnected": (aiohttp.ServerDisconnectedError(), True, False, "push again"),
    "reset": (ConnectionResetError(errno.ECONNRESET, "reset"), True, False, "push again"),
    "reset, by aiohttp": (aiohttp.ClientOSError(errno.EPIPE, "pipe"), True, False, "push again"),
    "cut off": (aiohttp.ClientPayloadError("not enough data"), True, False, "push again"),
    "end of file": (EOFError(), True, False, "push again"),
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
    assert error.message.startswith("part failed: ")
    assert error.message != "part failed: "


def test_the_words_of_an_exception_hold_no_secret() -> None:
    exc = aiohttp.InvalidURL("https://u:pw@bucket/key?X-Amz-Signature=5ecret")
    error = network_error(exc, method="PUT", url="x", what="part")
    for secret in ("5ecret", "pw"):
        assert secret not in str(error)


def test_an_exception_without_words_is_named() -> None:
    error = network_error(ConnectionAbortedError(), method="GET", url="x", what="head")
    assert error.message == "head failed: ConnectionAbortedError"


SEVERAL = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 443, 0, 0), [Errno 111] Connect"
    " call failed ('127.0.0.1', 443)"
)


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (
            aiohttp.ClientConnectorError(KEY, OSError(111, "Connect call failed ('::1', 443)")),
            "no connection to hub.example:443: connection refused",
        ),
        (
            aiohttp.ClientConnectorError(KEY, SEVERAL),
            "no connection to hub.example:443: connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")),
            "the name 'hub.example' cannot be resolved: Name or service not known",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")),
            "the certificate of hub.example:443 is refused: ",
        ),
        (aiohttp.ClientOSError(errno.EPIPE, "pipe"), "broken pipe"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset by peer"),
        (aiohttp.ServerDisconnectedError(), "the server closed the connection"),
        (TimeoutError(), "no answer in time"),
        (from_proxy(407), "the proxy answered 407 no"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_happened_is_said_in_plain_words(exc: Exception, words: str) -> None:
    message = network_error(exc, method="PUT", url="https://h/p", what="part").message
    assert message.startswith(f"part failed: {words}")
    for inside in ("ssl:", "Errno", "Connect call", "aiohttp"):
        assert inside not in message
