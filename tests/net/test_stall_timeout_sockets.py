"""Bytes that lie in the kernel: while they move, nothing is stalled."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from asyncpush.net.bodies import UNSENT, limit_unsent
from asyncpush.net.network_errors import StalledError
from asyncpush.net.stall_timeout import StallTimeout, _unsent_bytes


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[asyncio.StreamWriter, socket.socket]]:
    """A writer, and the socket at whose other end nobody reads unless the test does."""
    ours, theirs = _tcp_pair()
    theirs.setblocking(False)
    _, writer = await asyncio.open_connection(sock=ours)
    try:
        yield writer, theirs
    finally:
        theirs.close()
        writer.transport.abort()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


async def test_a_peer_that_does_not_read_is_a_stall() -> None:
    async with pair() as (writer, theirs):
        stall = StallTimeout(0.2)
        stall.follow(writer.transport)
        with pytest.raises(StalledError):
            async with stall:
                writer.write(bytes(16 << 20))
                await writer.drain()
        assert theirs.fileno() > 0


async def test_a_peer_that_reads_slowly_is_none() -> None:
    """The last write is long over; what lies in the kernel still moves."""
    async with pair() as (writer, theirs):
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10
        )
        stall = StallTimeout(0.6)
        stall.follow(writer.transport)
        async with stall:
            writer.write(bytes(256 << 10))
            await writer.drain()
            loop = asyncio.get_running_loop()
            left = 256 << 10
            while left > 0:
                await anyio.sleep(0.05)
                left -= len(await loop.sock_recv(theirs, 16 << 10))
        assert left == 0


@pytest.mark.parametrize("platform", ["darwin", "win32"])
async def test_elsewhere_only_our_own_writes_count(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    async with pair() as (writer, _):
        writer.write(b"x")
        assert _unsent_bytes(writer.transport) == 0


async def test_a_transport_that_is_gone_has_nothing_unsent() -> None:
    async with pair() as (writer, _):
        transport = writer.transport
        writer.close()
        await writer.wait_closed()
        assert _unsent_bytes(transport) == 0
    assert _unsent_bytes(None) == 0
    assert _unsent_bytes(asyncio.Transport()) == 0


async def test_a_draining_transport_buffer_is_no_stall() -> None:
    async with pair() as (writer, theirs):
        stall = StallTimeout(0.6)
        stall.follow(writer.transport)
        writer.transport.set_write_buffer_limits(high=8 << 20)
        loop = asyncio.get_running_loop()
        async with stall:
            writer.write(bytes(4 << 20))
            read = 0
            for _ in range(24):  # four times the limit
                await anyio.sleep(0.1)
                read += len(await loop.sock_recv(theirs, 64 << 10))
        assert 0 < read < 4 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="macOS counts these bytes in another way")
async def test_the_kernel_holds_little_that_it_has_not_sent() -> None:
    """By itself it would take all of this: a paused part would go on until it is sent."""
    async with pair() as (writer, _):
        ours = writer.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        limit_unsent(writer.transport, UNSENT)
        accepted = 0
        descriptor = ours.fileno()
        with pytest.raises(BlockingIOError):
            while accepted < 8 << 20:
                accepted += os.write(descriptor, bytes(64 << 10))
        assert accepted <= 2 * UNSENT
