"""Names that stand for addresses no Hub's answer may lead to: refused where they are connected."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from aiohttp import ThreadedResolver

from asyncpush.errors import HubError, ProtocolError
from asyncpush.net.connections import GuardedResolver
from tests.net.helpers import EventRecorder, Peer, ask_for, session_to, whole

HUB = "https://hub.example"
NAMES: dict[str, list[str]] = {
    "hub.example": ["127.0.0.1"],
    "store.example": ["127.0.0.1"],
    "proxy.example": ["127.0.0.1"],
    "rebound.example": ["169.254.169.254", "203.0.113.7"],
    "public.example": ["203.0.113.7", "2001:db8::7"],
    "metadata.example": ["169.254.169.254"],
    "metadata6.example": ["fd00:ec2::254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "link6.example": ["fe80::1"],
    "unspecified.example": ["0.0.0.0"],
    "unknown.example": [],
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name service of our own; what was asked of it."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in NAMES:
            return real(host, port, *arguments, **options)
        asked.append(host)
        if not NAMES[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = []
        for address in NAMES[host]:
            found += real(address, port, type=socket.SOCK_STREAM)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("asyncpush.net.connections.DefaultResolver", ThreadedResolver)
    return asked


async def test_a_store_whose_name_leads_to_loopback_is_refused(
    stranger: Peer, peer: Peer, recorded: EventRecorder, names: list[str]
) -> None:
    """Real connections: the Hub's own name may be anywhere, a name it gives may not."""
    async with session_to(f"http://hub.example:{peer.port}") as session:
        await session.ask(ask_for(), whole, recorded.events)
        with pytest.raises(ProtocolError, match=r"store\.example, whose address 127\.0\.0\.1 is a"):
            url = f"http://store.example:{stranger.port}/x?sig=5ecret"
            await session.ask(ask_for(url), whole, recorded.events)
    assert (len(peer.seen), len(stranger.seen)) == (1, 0)
    assert names == ["hub.example", "store.example"]


async def test_a_host_that_is_allowed_by_name_may_be_anywhere(
    stranger: Peer, recorded: EventRecorder
) -> None:
    async with session_to(HUB.replace("https", "http"), allowed_hosts=["Store.example"]) as session:
        url = f"http://store.example:{stranger.port}/x"
        await session.ask(ask_for(url), whole, recorded.events)
    assert len(stranger.seen) == 1


async def test_a_hub_on_loopback_may_name_stores_there(
    peer: Peer, stranger: Peer, recorded: EventRecorder
) -> None:
    async with session_to(peer.url) as session:
        url = f"http://store.example:{stranger.port}/x"
        await session.ask(ask_for(url), whole, recorded.events)
        with pytest.raises(ProtocolError, match="link-local"):
            await session.ask(ask_for("http://metadata.example/x"), whole, recorded.events)
    assert len(stranger.seen) == 1


async def test_a_proxy_of_the_environment_resolves_the_names(
    stranger: Peer, recorded: EventRecorder, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds behind a proxy: names and literal addresses are checked, the rest is its own."""
    monkeypatch.setenv("http_proxy", f"proxy.example:{stranger.port}")
    monkeypatch.setenv("https_proxy", "http://[")
    async with session_to("http://hub.example") as session:
        await session.ask(ask_for("http://store.example/x"), whole, recorded.events)
        with pytest.raises(ProtocolError, match="link-local"):
            await session.ask(ask_for("http://169.254.169.254/x"), whole, recorded.events)
    assert names == ["proxy.example"]
    assert [seen.path for seen in stranger.seen] == ["http://store.example/x"]


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("store.example", "a loopback address"),
        ("metadata.example", "a link-local address"),
        ("metadata6.example", "a cloud's metadata service"),
        ("mapped.example", "a loopback address"),
        ("link6.example", "a link-local address"),
        ("unspecified.example", "a loopback address"),
        ("0x7f.1", "a loopback address"),
    ],
)
async def test_addresses_that_are_refused(host: str, problem: str) -> None:
    resolver = GuardedResolver(HUB, ())
    with pytest.raises(ProtocolError, match=problem) as caught:
        await resolver.resolve(host, 443, socket.AF_UNSPEC)
    assert "allowed_hosts" in caught.value.suggestion
    await resolver.close()


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("public.example", ["203.0.113.7", "2001:db8::7"]),
        ("rebound.example", ["203.0.113.7"]),
        ("hub.example", ["127.0.0.1"]),
    ],
)
async def test_only_harmless_addresses_are_left_to_connect_to(
    host: str, addresses: list[str]
) -> None:
    found = await GuardedResolver(HUB, ()).resolve(host, 443, socket.AF_UNSPEC)
    assert [each["host"] for each in found] == addresses


async def test_a_name_that_nobody_knows_is_no_refusal(recorded: EventRecorder) -> None:
    async with session_to("http://unknown.example", max_retries=0) as session:
        with pytest.raises(HubError) as caught:
            await session.ask(ask_for(), whole, recorded.events)
    assert caught.value.unreachable
    assert not isinstance(caught.value, ProtocolError)
