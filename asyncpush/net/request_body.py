"""The body of an API call, sent so that a slow uplink is seen to move."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from asyncpush.concurrency.threads import wait_until_done
from asyncpush.errors import SourceChangedError
from asyncpush.net.stall_timeout import StallTimeout
from asyncpush.protocol.http import StreamBody

WRITE_SIZE = 64 * 1024
"""Bytes handed to the transport at a time; each write is waited for, and counts as movement."""

RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""`struct linger`: on, for no time. Closing such a socket resets the connection."""


class RequestBody(aiohttp.Payload):
    """A body of the promised size, or none at all. It can be written once.

    The stall timeout follows the transport, so that bytes which wait in it or in the kernel count
    as moving while they drain. What the maker of a stream raises would come out of aiohttp as a
    network fault; it is kept in `failure`, to be raised as what it is.
    """

    def __init__(self, body: bytes | StreamBody, stall: StallTimeout) -> None:
        super().__init__(body)
        self._source = _once(body) if isinstance(body, bytes) else body.open()
        self._length = len(body) if isinstance(body, bytes) else body.size
        self._stall = stall
        self._writing: asyncio.Task[Any] | None = None
        self._transport: Any = None
        self._whole = False
        self.failure: Exception | None = None
        self._pieces = self._checked()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a request body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self._writing = asyncio.current_task()
        self._transport = getattr(writer, "transport", None)
        self._stall.follow(self._transport)
        async for piece in self._pieces:
            for start in range(0, len(piece), WRITE_SIZE):
                await writer.write(memoryview(piece)[start : start + WRITE_SIZE])
                await writer.drain()
                self._stall.touch()
        self._whole = True
        self._stall.all_written()

    async def _checked(self) -> AsyncGenerator[bytes, None]:
        left = self._length
        try:
            async for piece in self._source:
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            if left:
                raise SourceChangedError(
                    f"a request body of {self._length} bytes turned out"
                    f" {'longer' if left < 0 else 'shorter'}; nothing was committed",
                    suggestion="push again once nothing writes to these files any more",
                )
        except Exception as exc:
            self.failure = exc
            raise

    async def finish(self) -> None:
        """Called when the request is over, however it ended: the maker lets go of its files, and
        the rest of a body that was given up is not sent any more."""
        if self._writing is not None:
            self._writing.cancel()  # aiohttp's writer; it cancels it too, but does not wait
            await wait_until_done(self._writing)
        if self._transport is not None and not self._whole:
            reset_when_closed(self._transport)
            self._transport.abort()
        await self._pieces.aclose()
        if isinstance(self._source, AsyncGenerator):
            await self._source.aclose()


def reset_when_closed(transport: Any) -> None:
    """Closing this connection is to reset it: else the kernel would go on to deliver what it holds
    of a body that was given up."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # broken already: writing will say so
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
