"""The bodies of API requests, sent so that progress is seen on a slow uplink too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from asyncpush.concurrency.threads import wait_until_done
from asyncpush.errors import SourceChangedError
from asyncpush.net.stall_timeout import StallTimeout
from asyncpush.protocol.http import StreamBody

WRITE_SIZE = 64 * 1024
"""Bytes handed to the transport at a time. Each write is awaited, and counts as progress."""

RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""`struct linger`: on, with a timeout of 0. Closing such a socket resets the connection."""


class RequestBody(aiohttp.Payload):
    """A body of exactly the declared size; otherwise the request fails. It can be written once.

    The stall timeout watches the transport, so that bytes waiting in it or in the kernel count as
    progress while they drain. If the stream's source raises an exception, aiohttp would turn it
    into a network failure. It is kept in `failure`, so that it can be raised unchanged.
    """

    def __init__(self, body: bytes | StreamBody, stall: StallTimeout) -> None:
        super().__init__(body)
        self._body = body
        self._stall = stall
        self._writing: asyncio.Task[Any] | None = None
        self._transport: Any = None
        self.whole = False
        self.sent = 0
        self.failure: Exception | None = None
        self._pieces: AsyncGenerator[bytes, None] | None = None

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
        if isinstance(self._body, bytes):
            await self._write(writer, self._body)
        else:
            self._pieces = self._checked(self._body)
            async for piece in self._pieces:
                await self._write(writer, piece)
        self.whole = True
        self._stall.all_written()

    async def _write(self, writer: AbstractStreamWriter, piece: bytes) -> None:
        for start in range(0, len(piece), WRITE_SIZE):
            await writer.write(memoryview(piece)[start : start + WRITE_SIZE])
            await writer.drain()
            self._stall.touch()
        self.sent += len(piece)

    async def _checked(self, body: StreamBody) -> AsyncGenerator[bytes, None]:
        left = body.size
        source = body.open()
        try:
            async for piece in source:
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            if left:
                raise SourceChangedError(
                    f"a request body of {body.size} bytes turned out"
                    f" {'longer' if left < 0 else 'shorter'}; nothing was committed",
                    suggestion="try again once nothing writes to these files any more",
                )
        except Exception as exc:
            self.failure = exc
            raise
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    async def finish(self) -> None:
        """End a request, however it went: the stream's source closes its files, and the rest of an
        abandoned body is not sent."""
        if self._writing is not None and not (self.whole and self._writing.done()):
            # aiohttp's writer; aiohttp cancels it too, but does not wait for it
            self._writing.cancel()
            await wait_until_done(self._writing)
        if self._transport is not None and not self._is_over:
            reset_when_closed(self._transport)
            self._transport.abort()
        if self._pieces is not None:
            await self._pieces.aclose()

    @property
    def _is_over(self) -> bool:
        """Whether nothing of the body is still to be sent."""
        return self.whole


def reset_when_closed(transport: Any) -> None:
    """Make the connection reset when it is closed. Otherwise the kernel would go on to deliver what
    it still holds of an abandoned body."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # already broken: writing will report it
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
