"""A timeout for requests that no longer make progress. Every byte that moves extends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from asyncpush.net.network_errors import StalledError

_DARWIN_SO_NWRITE = 0x1024
"""Socket option of macOS: bytes in the send buffer (sys/socket.h; Python has no name for it)."""

UNSEEN_DRAIN = 4.0
"""Factor for the limit where the kernel does not tell how much of its send buffer is unsent
(Windows). It applies while a request whose last byte was handed to the kernel waits for its
answer."""


ANSWER_LIMITS = 4.0
SLOWEST_ANSWER = 1024
"""Limits for an answer that has begun. The Hub sends spaces while a commit is being made, so it is
waited for as long as data arrives, but not for ever: for `ANSWER_LIMITS` times the limit, and a
second more for every `SLOWEST_ANSWER` bytes."""


class StallTimeout:
    """`async with` it: ends the block, with a `StalledError`, when `touch` has not been called for
    `limit` seconds.

    After our last write, bytes in the transport's and the kernel's buffers are still moving. While
    these buffers drain, the request is not stalled. Nor does time count in which the event loop did
    not run, because the program blocked it or the process was stopped.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._loop.time()
        self._transport: asyncio.BaseTransport | None = None
        self._unsent = 0
        self._paused = False
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._expired = False

    async def __aenter__(self) -> None:
        # What `asyncio.timeout` does, without a second object and timer for each request.
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancellations = self._task.cancelling()
        # Nothing to look at yet: most requests are over before the first check.
        self._due = self._moved_at + self._limit / 4
        self._timer = self._loop.call_at(self._due, self._check)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expired:
            assert self._task is not None
            ours = self._task.uncancel() <= self._cancellations
            if ours and exc_type is asyncio.CancelledError:
                raise StalledError(f"no data was sent or received for {self._limit:g} s") from exc

    def _check(self) -> None:
        now = self._loop.time()
        if now > self._due:
            self.ran_late(now - self._due)
        left = self.seconds_left()
        if left <= 0:
            assert self._task is not None
            self._expired = True
            self._task.cancel()
        else:
            # Four checks within the limit: a drain that stops is noticed in time.
            self._due = now + min(left, self._limit / 4)
            self._timer = self._loop.call_at(self._due, self._check)

    def touch(self) -> float:
        """Note that something moved. Returns the event loop's time."""
        self._moved_at = self._loop.time()
        return self._moved_at

    def ran_late(self, seconds: float) -> None:
        """Note that the event loop did not run for so long: what moved was not noticed."""
        self._moved_at = min(self._moved_at + seconds, self._loop.time())

    def follow(self, transport: asyncio.BaseTransport | None) -> None:
        """Watch this transport's send buffers as well."""
        self._transport = transport

    def all_written(self) -> None:
        """Note that the last byte of the body was handed to the transport."""
        if not _KERNEL_REPORTS_UNSENT:
            self._limit *= UNSEEN_DRAIN

    def answer_arrives(self) -> Callable[[int], None]:
        """Start waiting for the answer. Call the result with the number of bytes of it that have
        arrived so far."""
        latest = self.touch() + ANSWER_LIMITS * self._limit

        def on_piece(size: int) -> None:
            now = self._loop.time()
            if now < latest + size / SLOWEST_ANSWER:
                self._moved_at = now

        return on_piece

    def arrived(self, written: int) -> int:
        """How many of the `written` bytes have reached the peer, as far as the platform tells."""
        return max(0, written - _unsent_bytes(self._transport))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the timeout within this block, in which no byte is expected to move."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.touch()

    def seconds_left(self) -> float:
        """Until the limit is reached, if nothing moves any more."""
        unsent = _unsent_bytes(self._transport)
        if unsent != self._unsent or self._paused:
            self._unsent = unsent
            self.touch()
        return self._moved_at + self._limit - self._loop.time()


_KERNEL_REPORTS_UNSENT = sys.platform in ("linux", "darwin")


def _unsent_bytes(transport: asyncio.BaseTransport | None) -> int:
    """Bytes in the transport's buffer, and those in the socket's buffer that the peer has not
    acknowledged, as far as the platform tells."""
    if transport is None:
        return 0
    waiting = 0
    if isinstance(transport, asyncio.WriteTransport):
        # a closed transport has no socket
        with contextlib.suppress(NotImplementedError, AttributeError):
            waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if connection is None:
        return waiting
    try:
        return waiting + _in_kernel(connection)
    except (OSError, AttributeError, ValueError, ImportError):
        return waiting


def _in_kernel(connection: socket.socket) -> int:
    if sys.platform == "linux":
        import fcntl
        import termios

        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("i", answer)[0])
    if sys.platform == "darwin":
        return connection.getsockopt(socket.SOL_SOCKET, _DARWIN_SO_NWRITE)
    return 0
