"""Names become addresses here, and those that no name of a Hub's answer may lead to are left out.

A name is checked before it is asked for (`protocol.urls.check_target`), but what it stands for is
known only now: a hostile Hub can name a host of its own whose address is this machine's or a
cloud's metadata service. aiohttp connects to exactly the addresses that a resolver returns, so that
there is no moment between check and use. Behind a proxy it is the proxy that resolves names: there,
names and literal addresses are checked, and what a name stands for is the proxy's to guard.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from asyncpush.errors import ProtocolError
from asyncpush.protocol import urls


class GuardedResolver(AbstractResolver):
    """aiohttp's resolver, without addresses that `protocol.urls.address_problem` objects to.

    Hosts that the user has named may be anywhere: the endpoint's, the allowed ones, the proxies of
    the environment.
    """

    def __init__(self, endpoint: str, allowed_hosts: Sequence[str]) -> None:
        self._endpoint = endpoint
        self._named = {urls.origin(endpoint)[1], *(name.lower() for name in allowed_hosts)}
        self._resolver: AbstractResolver | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `ProtocolError` when nothing is left, `OSError` when the name is unknown."""
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
        except ValueError:  # said when it is used
            continue
    return hosts


def _refused(host: str, address: str, problem: str | None) -> ProtocolError:
    return ProtocolError(
        f"the Hub named the host {host[:200]}, whose address {address} {problem}",
        suggestion="if this host is meant, name it in UploadConfig(allowed_hosts=[...])",
    )
