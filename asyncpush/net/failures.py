"""Failures of the network: aiohttp's exceptions become ours here, and are reported as events."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from asyncpush.errors import OUT_OF_DESCRIPTORS, HubError
from asyncpush.events import Emitter, RequestFailed, RetryScheduled
from asyncpush.redaction import redact_headers, redact_text, redact_url

NETWORK_EXCEPTIONS = (aiohttp.ClientError, OSError, asyncio.TimeoutError, EOFError)
"""What a request may raise when the network, and not our code, is at fault."""

_ERRNO = re.compile(r"\[Errno (\d+)\]")


class StalledError(Exception):
    """No byte moved for too long; the network layer's own, never seen outside it."""


def network_error(exc: Exception, *, method: str, url: str, what: str) -> HubError:
    """The error for a request that got no answer."""
    retryable, unreachable = True, False
    match exc:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            retryable = isinstance(exc, ssl.SSLError) and not isinstance(
                exc, ssl.SSLCertVerificationError
            )
            suggestion = (
                "the certificate is not trusted: name your CA bundle in SSL_CERT_FILE, or check the"
                " proxy"
            )
        case aiohttp.ClientHttpProxyError(status=403 | 407):
            retryable = False
            suggestion = "the proxy refuses: check the credentials in HTTPS_PROXY, and its rules"
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            unreachable = True
            suggestion = "the proxy does not answer: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        case OSError(errno=code) if code in OUT_OF_DESCRIPTORS:
            suggestion = "raise the limit of open files (`ulimit -n`), or close files"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            unreachable = True
            suggestion = "check the network, HF_ENDPOINT, and whether a proxy is needed"
        case aiohttp.InvalidURL() | aiohttp.TooManyRedirects():
            retryable = False
            suggestion = "the Hub named a URL that cannot be asked"
        case asyncio.TimeoutError() | StalledError():
            suggestion = (
                "the network or the server stalls: lower max_concurrent_parts, or raise"
                " stall_timeout (for parts) or response_timeout (for calls of the Hub)"
            )
        case _:
            suggestion = "the connection broke: push again, what is stored is not sent twice"
    return HubError(
        f"{what} failed: {redact_text(_words(exc))}",
        method=method,
        url=redact_url(url),
        retryable=retryable,
        unreachable=unreachable,
        suggestion=suggestion,
    )


def _words(exc: Exception) -> str:
    """What happened, in words for people: aiohttp's own tell of its insides."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {exc.host}:{exc.port} is refused: {_tls(exc)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {exc.host!r} cannot be resolved: {_reason(exc.os_error)}"
        case aiohttp.ClientConnectorSSLError():
            return f"no TLS connection to {exc.host}:{exc.port}: {_reason(exc.os_error)}"
        case aiohttp.ClientConnectorError():
            return f"no connection to {exc.host}:{exc.port}: {_reason(exc.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {exc.status} {exc.message}".rstrip()
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case StalledError():
            return str(exc) or "no byte moved in time"
        case asyncio.TimeoutError():
            return "no answer in time"
        case OSError():
            return _reason(exc)
    return str(exc) or type(exc).__name__


def _tls(exc: aiohttp.ClientConnectorCertificateError) -> str:
    error = exc.certificate_error
    return getattr(error, "verify_message", "") or str(error)


def _reason(exc: OSError) -> str:
    """The system's word for it. Where several addresses were tried, `exc` lists what became of
    each: the first will do."""
    number = exc.errno
    if number is None and (found := _ERRNO.search(str(exc))) is not None:
        number = int(found[1])
    if number is None or number not in errno.errorcode or isinstance(exc, ssl.SSLError):
        return exc.strerror or str(exc) or type(exc).__name__
    return os.strerror(number).lower()


def complete_error(error: HubError, attempt: int, started: float, url: str, token: str) -> None:
    """What only the network layer knows about a failure; and nothing secret leaves it."""
    error.attempt = attempt
    error.elapsed_seconds = time.monotonic() - started
    error.url = redact_url(error.url or url)
    error.headers = redact_headers(error.headers, token)
    error.body = redact_text(error.body, token)
    error.message = redact_text(error.message, token)
    error.request_id = error.request_id and redact_text(error.request_id, token)
    error.error_code = error.error_code and redact_text(error.error_code, token)
    error.args = (error.message,)


def tell_failure(
    events: Emitter,
    call: str,
    error: HubError,
    delay: float | None,
    fields: Mapping[str, Any],
) -> None:
    """The events of one failed attempt."""
    if not events.active:
        return
    backoff_ms = None if delay is None else round(delay * 1000, 1)
    events.emit(
        RequestFailed(
            call,
            error.url,
            error.message,
            error.status,
            error.attempt,
            backoff_ms,
            fields,
            error.method,
            type(error.__cause__ or error).__name__,
            error.body,
            error.headers,
            round(error.elapsed_seconds, 6),
            error.request_id,
            error.suggestion,
        )
    )
    tell_retry(events, call, error, delay, fields)


def tell_retry(
    events: Emitter,
    call: str,
    error: HubError,
    delay: float | None,
    fields: Mapping[str, Any],
) -> None:
    """That the same is done again after `delay` seconds, unless it is not."""
    if delay is not None:
        path, part = fields.get("file"), fields.get("part_number")
        events.emit(RetryScheduled(call, error.attempt, delay, error.message, path, part))
