from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from asyncpush.net.session import HubSession
from tests.fake_clock import FakeClock
from tests.net.helpers import EventRecorder, Peer, server_context, serving, session_to


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorded() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """The Hub: on loopback, answering 200 until told otherwise."""
    async with serving() as peer:
        yield peer


@pytest.fixture
async def stranger() -> AsyncIterator[Peer]:
    """A server of somebody else: another origin."""
    async with serving() as peer:
        yield peer


@pytest.fixture
async def session(peer: Peer, clock: FakeClock) -> AsyncIterator[HubSession]:
    async with session_to(peer.url, clock=clock) as session:
        yield session


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that the client trusts; aiohttp makes its context once, when imported."""
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)
    return ca


@pytest.fixture
async def secure_peer(ca: trustme.CA) -> AsyncIterator[Peer]:
    async with serving(tls=server_context(ca)) as peer:
        yield peer
