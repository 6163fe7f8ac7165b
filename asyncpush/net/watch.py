"""Cutting what no longer moves: a time limit that every moved byte pushes back."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from asyncpush.net.faults import StalledError


class StallWatch:
    """Ends the block it guards when `touch` has not been called for `limit` seconds.

    Bytes that lie in the kernel's send buffer still move after our last write: while that buffer
    drains, nothing is stalled.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._loop.time()
        self._transport: asyncio.BaseTransport | None = None
        self._unsent = 0
        self._paused = False

    def touch(self) -> float:
        """Something moved; the loop's time."""
        self._moved_at = self._loop.time()
        return self._moved_at

    def follow(self, transport: asyncio.BaseTransport | None) -> None:
        """Watch this transport's send buffer too."""
        self._transport = transport

    def arrived(self, written: int) -> int:
        """How many of so many bytes written the peer has acknowledged, where that is known."""
        return max(0, written - _unsent_bytes(self._transport))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is to move within this block."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.touch()

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        scope = asyncio.timeout(None)
        timer: asyncio.TimerHandle | None = None

        def check() -> None:
            nonlocal timer
            unsent = _unsent_bytes(self._transport)
            if unsent != self._unsent or self._paused:
                self._unsent = unsent
                self.touch()
            left = self._moved_at + self._limit - self._loop.time()
            if left <= 0:
                scope.reschedule(self._loop.time())
            else:
                # Four looks within the limit: a drain that stops is seen in time.
                timer = self._loop.call_later(min(left, self._limit / 4), check)

        try:
            async with scope:
                check()
                yield
        except TimeoutError as exc:
            if scope.expired():
                raise StalledError(f"no byte moved for {self._limit:g} s") from exc
            raise
        finally:
            if timer is not None:
                timer.cancel()


def _unsent_bytes(transport: asyncio.BaseTransport | None) -> int:
    """Bytes in the socket's send buffer that the peer has not acknowledged; 0 where unknown."""
    if transport is None or sys.platform != "linux":
        return 0
    import fcntl
    import termios

    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, AttributeError, ValueError):
        return 0
    return int(struct.unpack("i", answer)[0])
