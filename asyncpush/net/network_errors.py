"""Network failures: aiohttp's exceptions are turned into ours here, and reported as events."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from asyncpush.errors import OUT_OF_DESCRIPTORS, HubError, printable
from asyncpush.events import Emitter, RequestFailed, RetryScheduled
from asyncpush.protocol.failures import REMEDIES, Fault, in_words
from asyncpush.redaction import redact_headers, redact_text, redact_url

NETWORK_EXCEPTIONS = (aiohttp.ClientError, OSError, asyncio.TimeoutError, EOFError)
"""What a request may raise when the network is at fault and not our code."""

_ERRNO = r"\[Errno (\d+)\]"


class StalledError(Exception):
    """No byte moved for too long. Used only within the network layer."""


def network_error(exc: Exception, *, method: str, url: str, what: str) -> HubError:
    """The error for a request that got no answer. Its message gives the reason of the system, of
    the proxy or of this package, never a library's internals."""
    remedy = REMEDIES[_fault(exc)]
    return HubError(
        f"{in_words(what)} failed: {redact_text(_described(exc, url))}",
        method=method,
        url=redact_url(url),
        retryable=remedy.retryable,
        unreachable=remedy.unreachable,
        suggestion=remedy.suggestion,
    )


def _fault(exc: Exception) -> Fault:
    match exc:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "certificate"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls"
        case aiohttp.ClientHttpProxyError(status=403 | 407):
            return "proxy_refused"
        case OSError(errno=code) if code in OUT_OF_DESCRIPTORS:
            return "no_descriptor"
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "proxy_away"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "no_connection"
        case aiohttp.InvalidURL() | aiohttp.TooManyRedirects():
            return "bad_url"
        case asyncio.TimeoutError() | StalledError():
            return "timeout"
    return "connection_lost"


def _described(exc: Exception, url: str) -> str:
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            reason = _tls_reason(exc.certificate_error)
            return f"cannot trust the certificate of {exc.host}:{exc.port} ({reason})"
        case aiohttp.ClientConnectorDNSError():
            return f"cannot resolve the host name {exc.host!r} ({_name_reason(exc.os_error)})"
        case aiohttp.ClientConnectorSSLError():
            return (
                f"cannot open a TLS connection to {exc.host}:{exc.port} ({_reason(exc.os_error)})"
            )
        case aiohttp.ClientProxyConnectionError():
            where = f"{exc.host}:{exc.port}"
            return f"cannot connect to the proxy {where} ({_reason(exc.os_error)})"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {exc.host}:{exc.port} ({_reason(exc.os_error)})"
        case aiohttp.ConnectionTimeoutError():
            return f"cannot connect to {_host_and_port(url)} (timed out)"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {exc.status} {printable(exc.message)[:200]}".rstrip()
        case aiohttp.ServerDisconnectedError() | EOFError():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.ClientResponseError():
            return "the answer is not valid HTTP"
        case aiohttp.InvalidURL():
            return "the URL is not valid"
        case StalledError():
            return str(exc) or "no data was sent or received in time"
        case asyncio.TimeoutError():
            return "no answer in time"
        case OSError():
            return f"the connection broke ({_reason(exc)})"
    return "the connection broke"


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _tls_reason(error: Exception) -> str:
    """OpenSSL's reason, without the location in its source: for `WRONG_VERSION_NUMBER` it is "wrong
    version number"."""
    reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or ""
    if reason:
        return reason if " " in reason else reason.replace("_", " ").lower()
    return "TLS handshake failed"


_KINDS = (
    (ConnectionRefusedError, errno.ECONNREFUSED),
    (ConnectionResetError, errno.ECONNRESET),
    (ConnectionAbortedError, errno.ECONNABORTED),
    (BrokenPipeError, errno.EPIPE),
    (TimeoutError, errno.ETIMEDOUT),
)


def _reason(exc: OSError) -> str:
    """The system's reason. When several addresses were tried, `exc` holds a reason for each, and
    the first one is used."""
    if isinstance(exc, ssl.SSLError):
        return _tls_reason(exc)
    number = exc.errno
    if number is None and (found := re.search(_ERRNO, str(exc))) is not None:
        number = int(found[1])
    if number is None:
        number = next((code for kind, code in _KINDS if isinstance(exc, kind)), None)
    if number is not None and number in errno.errorcode:
        return os.strerror(number).lower()
    return "connection lost"


def _name_reason(exc: OSError) -> str:
    """The resolver's reason: its error numbers are not `errno` values."""
    reason = exc.strerror or "no such host"
    return reason[0].lower() + reason[1:]


def completed(
    error: HubError,
    *,
    attempt: int,
    elapsed_seconds: float,
    method: str = "",
    url: str = "",
    secret: str = "",
) -> HubError:
    """A copy of the error, completed with what only the retry loop knows, and with secrets
    removed."""
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
    """Emit the events of one failed attempt, on its own span: `RequestFailed`, and `RetryScheduled`
    if the request is retried after `delay` seconds. None means that it is not retried."""
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
