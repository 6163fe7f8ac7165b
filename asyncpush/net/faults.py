"""From aiohttp's exceptions to ours, at the one door where they come in."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp

from asyncpush.errors import OUT_OF_DESCRIPTORS, HubError
from asyncpush.net.redaction import redact_text, redact_url

NETWORK_EXCEPTIONS = (aiohttp.ClientError, OSError, asyncio.TimeoutError, EOFError)
"""What a request may raise when the network, and not our code, is at fault."""


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
    words = redact_text(str(exc)) or type(exc).__name__
    return HubError(
        f"{what} failed: {words}",
        method=method,
        url=redact_url(url),
        retryable=retryable,
        unreachable=unreachable,
        suggestion=suggestion,
    )
