"""A part that was given up never becomes a whole body later: with another part's bytes, or with
what stands in its file by then, it would take the place of what was stored since."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncpush import UploadConfig
from asyncpush.concurrency.threads import BatchedThreads
from asyncpush.errors import HubError
from asyncpush.events import Emitter
from asyncpush.models import FileIdentity, FileSource, Part, PathSource
from asyncpush.net.adaptive_limit import AdaptiveLimit
from asyncpush.net.bodies import BufferPool
from asyncpush.net.credentials import TokenSource
from asyncpush.net.parts import PartSender
from asyncpush.net.retry import Attempt
from asyncpush.net.session import HubSession
from asyncpush.options import KIB, MIB, PIECES_PER_WRITE
from asyncpush.sources import Reader

SIZE = 12 * MIB
READ_BEFORE_IT_STALLS = 8_000_000
"""Of the rest, some lies in the kernel's buffers by then and some in the transport's."""

Run = Callable[[Coroutine[Any, Any, None]], object]


@dataclass
class Store:
    """Keeps whole bodies. The first one it gets it stops reading, until `go`."""

    url: str = ""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: dict[str, bytes] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        body = bytearray()
        try:
            if path == "/stalled":
                body += await reader.readexactly(READ_BEFORE_IT_STALLS)
                await self.go.wait()
            body += await reader.readexactly(SIZE - len(body))
            self.bodies[path] = bytes(body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if path == "/stalled":
                self.ended.set()
            writer.close()


async def _give_up_and_send_another(tmp_path: Path, *, verify_etag: bool) -> None:
    store = Store()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    listener.bind(("127.0.0.1", 0))
    config = UploadConfig(stall_timeout=0.3, verify_etag=verify_etag)
    server = await asyncio.start_server(store.serve, sock=listener, limit=64 * KIB)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    session = HubSession(url, TokenSource("hf_x"), config)
    path = tmp_path / "part"

    with ThreadPoolExecutor(4) as threads:
        pool = BufferPool(PIECES_PER_WRITE * config.chunk_size)
        sender = PartSender(session, AdaptiveLimit(4), pool)

        async def put(name: str, byte: bytes) -> None:
            path.write_bytes(byte * SIZE)
            content = PathSource(str(path), FileIdentity.of(path.stat()))
            with Reader(FileSource("part", SIZE, content)) as reader:
                await sender.send(
                    reader,
                    Part(1, 0, SIZE, url + name),
                    Attempt(1, Emitter([], push_id="x")),
                    BatchedThreads(threads, 4),
                    headers={},
                    on_sent=lambda count: None,
                    fields={},
                )

        with pytest.raises(HubError, match="no data was sent or received"):
            await put("/stalled", b"A")
        await put("/other", b"B")
        store.go.set()
        await asyncio.wait_for(store.ended.wait(), 30)
        await session.close()
    server.close()
    assert store.bodies == {"/other": b"B" * SIZE}


@pytest.mark.parametrize("verify_etag", [True, False], ids=["hashed", "by the kernel"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_was_given_up_never_arrives_whole(
    loop: str, verify_etag: bool, tmp_path: Path
) -> None:
    run: Run = importlib.import_module(loop).run
    # uvloop cannot be interrupted by the test's own timeout.
    run(asyncio.wait_for(_give_up_and_send_another(tmp_path, verify_etag=verify_etag), 50))
