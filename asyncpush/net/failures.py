"""Failures of the network: aiohttp's exceptions become ours here, and are reported as events."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
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


def completed(
    error: HubError,
    *,
    attempt: int,
    elapsed_seconds: float,
    method: str = "",
    url: str = "",
    secret: str = "",
) -> HubError:
    """A copy with what only the retry loop knows about a failure, and without anything secret."""
    return error.with_(
        attempt=attempt,
        elapsed_seconds=elapsed_seconds,
        method=error.method or method,
        url=redact_url(error.url or url),
        headers=redact_headers(error.headers, secret),
        body=redact_text(error.body, secret),
        message=redact_text(error.message, secret),
        request_id=error.request_id and redact_text(error.request_id, secret),
        error_code=error.error_code and redact_text(error.error_code, secret),
    )


def report_failure(
    events: Emitter,
    call: str,
    error: HubError,
    delay: float | None,
    fields: Mapping[str, Any],
) -> None:
    """The events of one failed attempt, on its own span: that it failed, and that the same is
    done again after `delay` seconds unless that is None."""
    if not events.active:
        return
    cause = getattr(error, "final", None) or error
    events.emit(
        RequestFailed(
            call=call,
            url=error.url,
            error=error.message,
            status=error.status,
            retry_attempt=error.attempt,
            backoff_ms=None if delay is None else round(delay * 1000, 1),
            fields=fields,
            method=error.method,
            error_type=type(cause.__cause__ or cause).__name__,
            body=error.body,
            headers=error.headers,
            elapsed_seconds=round(error.elapsed_seconds, 6),
            request_id=error.request_id,
            suggestion=error.suggestion,
        )
    )
    if delay is not None:
        events.emit(
            RetryScheduled(
                call=call,
                attempt=error.attempt,
                delay=delay,
                reason=error.message,
                path=fields.get("file"),
                part_number=fields.get("part_number"),
            )
        )
