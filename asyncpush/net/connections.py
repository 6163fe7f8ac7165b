"""Which hosts may be connected to, and through which proxy."""

from __future__ import annotations

import base64
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from asyncpush.errors import HubError, ProtocolError
from asyncpush.protocol import urls
from asyncpush.redaction import redact_url


class GuardedResolver(AbstractResolver):
    """aiohttp's resolver, without the addresses that `protocol.urls.address_problem` rejects.

    Hosts that the user has named may have any address: the endpoint's, the allowed hosts, and the
    environment's proxies.
    """

    def __init__(self, endpoint: str, allowed_hosts: Sequence[str]) -> None:
        self._endpoint = endpoint
        self._named = {urls.origin(endpoint)[1], *(name.lower() for name in allowed_hosts)}
        self._resolver: AbstractResolver | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `ProtocolError` when no address is left, `OSError` when the name is unknown."""
        self._resolver = self._resolver or DefaultResolver()
        found = await self._resolver.resolve(host, port, family)
        if host.lower() in self._named or host.lower() in _proxy_hosts():
            return found
        problems = {
            each["host"]: urls.address_problem(each["host"], self._endpoint) for each in found
        }
        usable = [each for each in found if problems[each["host"]] is None]
        if found and not usable:
            raise _refused(host, *next(iter(problems.items())))
        return usable

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()


def _proxy_hosts() -> set[str]:
    hosts = set()
    for proxy in getproxies().values():
        try:
            hosts.add(urlsplit(proxy if "://" in proxy else f"http://{proxy}").hostname or "")
        except ValueError:  # reported when the proxy is used
            continue
    return hosts


def _refused(host: str, address: str, problem: str | None) -> ProtocolError:
    return ProtocolError(
        f"the Hub named the host {host[:200]}, whose address {address} {problem}",
        suggestion="if this host is meant, name it in UploadConfig(allowed_hosts=[...])",
    )


_Proxy: TypeAlias = tuple[str, dict[str, str]]


class Proxies:
    """The environment's proxies, looked up once per host. A lookup copies the whole environment,
    which takes 59 µs of CPU with 36 variables (measured); a small object would need two."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Proxy | None] = {}

    def through(self, url: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A request's arguments for aiohttp, with the proxy added if there is one."""
        scheme, host, _ = urls.origin(url)
        route = scheme, host
        if route not in self._found:
            self._found[route] = proxy_for(url)
        found = self._found[route]
        if found is None:
            return arguments
        proxy, credentials = found
        if scheme == "https":  # the credentials belong to the CONNECT request
            return {**arguments, "proxy": proxy, "proxy_headers": credentials}
        headers = {**arguments.get("headers", {}), **credentials}
        return {**arguments, "proxy": proxy, "headers": headers}


def proxy_for(url: str) -> _Proxy | None:
    """The proxy for a URL and the headers meant only for the proxy; None without a proxy or when
    `NO_PROXY` excludes the host."""
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
