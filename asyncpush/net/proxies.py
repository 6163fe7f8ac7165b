"""Proxies of the environment, by the rules of the standard library.

aiohttp's own `trust_env` would also read ~/.netrc and send what it finds there to any host, the
hosts of presigned URLs included.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp


def proxy_for(url: str) -> tuple[str, aiohttp.BasicAuth | None] | None:
    """The proxy for a URL with its credentials apart, or None (`NO_PROXY` honoured)."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxy_parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host = proxy_parts.netloc.rpartition("@")[2]
    auth = (
        aiohttp.BasicAuth(proxy_parts.username, proxy_parts.password or "")
        if proxy_parts.username
        else None
    )
    return urlunsplit((proxy_parts.scheme, host, "", "", "")), auth
