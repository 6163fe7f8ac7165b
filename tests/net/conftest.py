from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asyncpush.net.session import HubSession
from tests.net.helpers import Clock, Heard, Peer, serving, session_to


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> Heard:
    return Heard()


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
async def session(peer: Peer, clock: Clock) -> AsyncIterator[HubSession]:
    async with session_to(peer.url, clock=clock) as session:
        yield session
