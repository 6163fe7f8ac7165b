"""Proxies of the environment, by the rules of the standard library.

aiohttp's own `trust_env` would also read ~/.netrc and send what it finds there to any host, the
hosts of presigned URLs included.
"""

from __future__ import annotations

import base64
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from asyncpush.errors import HubError
from asyncpush.net.redaction import redact_url

_Proxy: TypeAlias = tuple[str, dict[str, str]]


class Proxies:
    """The environment's proxies, each host's looked up once: a look copies the whole environment,
    59 µs of CPU with 36 variables (measured), and a small object would pay for two."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str | None], _Proxy | None] = {}

    def through(self, url: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A request's arguments with what aiohttp must know of the proxy, if there is one."""
        parts = urlsplit(url)
        route = (parts.scheme, parts.hostname)
        if route not in self._found:
            self._found[route] = proxy_for(url)
        found = self._found[route]
        if found is None:
            return arguments
        proxy, credentials = found
        if parts.scheme == "https":  # the credentials belong to the CONNECT before it
            return {**arguments, "proxy": proxy, "proxy_headers": credentials}
        headers = {**arguments.get("headers", {}), **credentials}
        return {**arguments, "proxy": proxy, "headers": headers}


def proxy_for(url: str) -> _Proxy | None:
    """The proxy for a URL and the headers that are for it alone, or None (`NO_PROXY` honoured)."""
    parts = urlsplit(url)
    named = getproxies().get(parts.scheme)
    if not named or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxy = _parse(named if "://" in named else f"http://{named}")
    host = proxy.netloc.rpartition("@")[2]
    return urlunsplit((proxy.scheme, host, "", "", "")), _credentials(proxy)


def _parse(proxy: str) -> SplitResult:
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise HubError(
            f"the proxy that the environment names cannot be used: {redact_url(proxy)}",
            suggestion="HTTPS_PROXY and HTTP_PROXY take http://[user:password@]host:port",
        )
    return parts


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}
