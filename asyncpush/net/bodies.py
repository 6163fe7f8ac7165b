"""Parts of files on their way into a socket.

How a part is sent decides how much CPU a GiB takes. Each part in flight has one buffer. On a plain
connection, a thread reads, hashes and writes piece after piece, past asyncio's transport, until the
kernel accepts no more; the event loop only waits for the socket. On a TLS connection, a thread
fills the buffer and the event loop writes it, in pieces small enough to stay responsive. Reading
ahead would gain nothing: while a part's buffer is being filled, the kernel sends what it holds, and
other parts make progress."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from asyncpush.concurrency.threads import BatchedThreads, in_thread, wait_until_done
from asyncpush.events import Emitter, PartConnected
from asyncpush.models import Part
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.net.request_bodies import RequestBody, reset_when_closed
from asyncpush.net.stall_timeout import StallTimeout

PIECES_PER_HOP = 4
"""Pieces that a thread writes before it may switch to another part. Fewer would cost more switches
between threads."""

UNSENT = 1 << 20
"""Bytes of a part that the kernel holds without having sent them. By itself it takes up to 4 MB for
each connection: a paused part would go on for that long, and all of it is lost by a kill."""

UNSENT_AT_FIRST = UNSENT // 8
"""The same for a part that joins others, until it is known whether all share one bandwidth. If they
do, most are paused, and what the kernel holds of them delays the others."""

PROGRESS_INTERVAL = 0.05
"""Seconds between two progress reports of a part: no listener needs them more often."""


class RandomAccess(Protocol):
    """Bytes by position. The methods are called in threads."""

    def readinto(self, offset: int, buffer: memoryview) -> int: ...

    def descriptor(self) -> int | None:
        """The descriptor of an open file from which the kernel may send; None if there is none."""


class PartContent(NamedTuple):
    """All bytes of a short part, which are in memory already, and their MD5 if it is checked."""

    data: bytes
    md5: str | None


class PartFeed:
    """The bytes of one part, in order, through one buffer. They are hashed on the way."""

    def __init__(
        self,
        source: RandomAccess,
        part: Part,
        pool: BufferPool,
        threads: BatchedThreads,
        *,
        with_md5: bool,
        piece_size: int,
    ) -> None:
        self._source = source
        self._position = part.offset
        self._end = part.offset + part.size
        self._pool = pool
        self._threads = threads
        self._size = part.size
        self._piece_size = piece_size
        self._short = part.size <= piece_size
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        # When the bytes are not hashed, the kernel can send them directly from its page cache.
        from_file = not with_md5 and sys.platform == "linux"
        self._file = source.descriptor() if from_file else None
        self.written = 0  # by `write_to`, so far
        self._buffer: mmap.mmap | None = None
        self._short_bytes: bytearray | None = None
        self._held = memoryview(b"")  # read and hashed, not yet written
        self._stopped = False
        self.failure: Exception | None = None
        """What reading raised. If it passed through aiohttp, it would look like a broken
        connection."""

    @property
    def md5(self) -> str | None:
        return None if self._md5 is None else self._md5.hexdigest()

    @property
    def left(self) -> int:
        """Bytes that `fill` and `write_to` have not delivered yet."""
        return self._end - self._position + len(self._held)

    async def read_if_short(self) -> None:
        """Read a part that consists of one piece, into memory of its own. Raises what reading
        raises."""
        if self._short:
            self._short_bytes = bytearray(self.left)
            await self._in_thread(self._load_all)

    def _load_all(self) -> None:
        if not self._stopped:
            self._load(min(self._pool.size, self._end - self._position))

    async def fill(self) -> memoryview:
        """The next bytes, as many as the buffer holds; valid until the next call."""
        if not self._held:
            await self._in_thread(self._load_all)
        filled, self._held = self._held, memoryview(b"")
        return filled

    async def write_to(self, descriptor: int, limit: int, *, leaving: int) -> tuple[int, bool]:
        """Write up to about `limit` bytes into a non-blocking socket, but not the part's last
        `leaving` bytes. Returns how many were written, and whether the socket accepts no more for
        now."""
        moved, full = 0, False

        def write() -> None:
            nonlocal moved, full
            while moved < limit and self.left > leaving and not self._stopped:
                try:
                    moved += self._write_some(descriptor, min(limit - moved, self.left - leaving))
                except BlockingIOError:
                    full = True
                    return

        await self._in_thread(write)
        return moved, full

    def finish(self) -> None:
        """Give the buffer back. Call this only when no thread is at work any more."""
        self._held = memoryview(b"")
        if self._buffer is not None:
            self._pool.give_back(self._buffer)
            self._buffer = None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self._short:
            await self._threads.run(work, size=self._size, on_cancel=self._stop)
        else:
            await in_thread(self._threads.threads, work, on_cancel=self._stop)

    def _stop(self) -> None:
        self._stopped = True

    def _write_some(self, descriptor: int, limit: int) -> int:
        if self._file is not None:
            if count := self._send_file(descriptor, self._file, limit):
                return count
            self._file = None
        if not self._held:
            self._load(min(self._piece_size, limit))
        count = os.write(descriptor, self._held)
        self._held = self._held[count:]
        self.written += count
        return count

    def _send_file(self, descriptor: int, file: int, limit: int) -> int:
        """Send with `sendfile`; 0 when that is not possible. The reason does not matter here (the
        file was cut short, its file system does not support it, or the connection broke): reading
        and writing will show it."""
        if sys.platform == "win32" or not hasattr(os, "sendfile"):
            return 0
        try:
            count = os.sendfile(descriptor, file, self._position, limit)
        except BlockingIOError:
            raise
        except OSError:
            return 0
        self._position += count
        self.written += count
        return count

    def _load(self, size: int) -> None:
        if self._short_bytes is not None:
            view = memoryview(self._short_bytes)[:size]
        else:
            if self._buffer is None:
                self._buffer = self._pool.take()
            view = memoryview(self._buffer)[:size]
        try:
            self._source.readinto(self._position, view)
        except Exception as exc:
            self.failure = exc
            raise
        if self._md5 is not None:
            self._md5.update(view)
        self._position += size
        self._held = view


class PartBody(aiohttp.Payload):
    """A part as aiohttp's request body. It can be written once."""

    def __init__(
        self,
        feed: PartFeed,
        size: int,
        piece_size: int,
        stall: StallTimeout,
        bandwidth: Bandwidth,
        on_sent: Callable[[int], None],
        events: Emitter,
        wait_while_paused: Callable[[], Awaitable[None]] | None = None,
        is_compared: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(feed)
        self._is_compared = is_compared
        self._wait_while_paused = wait_while_paused
        self._consumed = False
        self._size = size
        self._piece_size = piece_size
        self._feed = feed
        self._stall = stall
        self._bandwidth = bandwidth
        self._on_sent = on_sent
        self._events = events
        self.sent = 0
        self.ended: float | None = None
        self._reported_at = 0.0
        self._writing: asyncio.Task[Any] | None = None
        self._transport: Any = None
        self._unsent = UNSENT
        self.answered = False
        """Whether the store's answer has been read, so that no buffer holds bytes of the part any
        more."""

    @property
    def failure(self) -> Exception | None:
        """What reading raised."""
        return self._feed.failure

    @property
    def whole(self) -> bool:
        return self.sent == self._size

    @property
    def written(self) -> int:
        """Bytes handed to the kernel by now. A thread that is writing adds them to `sent` only when
        it is done, up to a megabyte later."""
        return max(self.sent, self._feed.written)

    @property
    def md5(self) -> str | None:
        return self._feed.md5

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a part is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self._writing is not None:
            # aiohttp repeats a PUT by itself when a kept-alive connection breaks. The bytes have
            # already been read, and attempts are counted by the retry loop, so this is refused.
            raise ConnectionResetError("the connection broke while the part was sent")
        self._writing = asyncio.current_task()
        self._consumed = True
        transport: Any = getattr(writer, "transport", None)
        if self._events.wants(PartConnected):
            self._events.emit(PartConnected(_local_port(transport)))
        if transport is not None:
            self._stall.follow(transport)
            self._transport = transport
            # Without a reset, the kernel could deliver the rest long after another attempt has
            # stored this part: from the page cache, with the file's content at that time (see
            # sendfile(2)).
            reset_when_closed(transport)
            if self._feed.left > UNSENT:
                self._unsent = UNSENT_AT_FIRST if self._is_compared() else UNSENT
                limit_unsent(transport, self._unsent)
            _drain_to_the_last_byte(transport)
        descriptor = None
        if transport is not None and self._feed.left > self._piece_size:
            # Otherwise the headers go out together with the first piece.
            writer.send_headers()
            await writer.drain()
            descriptor = _plain_descriptor(transport)
        if descriptor is not None:
            try:
                await self._write_past(descriptor)
            finally:
                os.close(descriptor)
        await self._write_through(writer)
        self._stall.all_written()
        self.ended = time.monotonic()

    async def _write_through(self, writer: AbstractStreamWriter) -> None:
        """Write through the transport. It is drained before the buffer is reused: since Python 3.12
        transports keep references to the data they were given."""
        while self._feed.left:
            piece = await self._feed.fill()
            await self._allowed(len(piece))
            await writer.write(piece)
            await writer.drain()
            self._advance(len(piece))

    async def _write_past(self, descriptor: int) -> None:
        """Write into the socket directly, past the transport, which holds no data at this point.

        The last piece is left to the transport. Otherwise the store's answer could arrive before
        the thread has reported that everything is written, and aiohttp would treat the request as
        cut off.
        """
        leaving = self._piece_size
        hop = self._piece_size * (1 if self._bandwidth.limited else PIECES_PER_HOP)
        allowed = 0
        while (left := self._feed.left) > leaving:
            if allowed <= 0:
                step = min(hop, left - leaving)
                await self._allowed(step)
                allowed += step
            else:
                await self._resumed()  # the kernel was full, which may have taken a while
            moved, full = await self._feed.write_to(descriptor, allowed, leaving=leaving)
            allowed -= moved
            if moved:
                self._advance(moved)
            if full:
                await _writable(descriptor)

    async def _allowed(self, amount: int) -> None:
        """Wait until the part may continue: it may be paused, or the bandwidth may be limited."""
        await self._resumed()
        if self._bandwidth.limited:
            with self._stall.paused():  # this wait is our own and does not count as a stall
                await self._bandwidth.take(amount)

    async def _resumed(self) -> None:
        """Wait while the part is paused."""
        if self._wait_while_paused is not None:
            with self._stall.paused():
                await self._wait_while_paused()

    def _advance(self, count: int) -> None:
        self.sent += count
        if self._unsent < UNSENT and not self._is_compared():
            self._unsent = UNSENT
            limit_unsent(self._transport, UNSENT)
        now = self._stall.touch()
        if now - self._reported_at >= PROGRESS_INTERVAL or self.whole:
            self._reported_at = now
            self._on_sent(self.sent)

    async def finish(self) -> None:
        """End a request, however it went: no thread of ours reads any more, and the buffer is free.

        When aiohttp closes a connection it has given up, the data in its transport would still be
        sent. That data may be in our buffer, which may hold another part's bytes by then. So the
        connection is aborted.
        """
        try:
            if self._writing is not None:
                # aiohttp's writer; aiohttp cancels it too, but does not wait for it
                self._writing.cancel()
                await wait_until_done(self._writing)
        finally:
            if self._transport is not None and not (self.answered and self.whole):
                self._transport.abort()
            self._feed.finish()


def _drain_to_the_last_byte(transport: Any) -> None:
    """Make `drain` wait until no Python buffer holds any data. A plain transport pauses its writer
    when more than the high-water mark is buffered, a TLS one when exactly that is: with 0 it would
    pause with nothing to send, for ever."""
    transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0)


def _local_port(transport: Any) -> int | None:
    """The local port, which identifies a connection among those that are open."""
    name = None if transport is None else transport.get_extra_info("sockname")
    return name[1] if isinstance(name, tuple) else None


def _plain_descriptor(transport: Any) -> int | None:
    """A descriptor of our own for the transport's socket, if bytes may be written past the
    transport: nothing encrypts them, and the transport holds no data. None otherwise."""
    if transport is None or sys.platform == "win32":
        return None
    if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
        return None
    connection = transport.get_extra_info("socket")
    if connection is None:  # the transport of another event loop, which does not expose its socket
        return None
    try:
        return os.dup(connection.fileno())
    except OSError:  # no descriptor is left: use the transport
        return None


async def _writable(descriptor: int) -> None:
    """Wait until the kernel accepts bytes again, or the socket reports an error."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)


class BufferPool:
    """Reused buffers of one size: fresh memory costs page faults (0.2 CPU s per GiB, measured).

    They are anonymous memory maps, so that they start at a page boundary. A `bytearray` starts a
    few bytes after one, which makes copies from the page cache cost 0.4 CPU s per GiB more
    (measured).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        # Several threads call this, so checking first whether a buffer is there would be a race.
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, self.size)

    def give_back(self, buffer: mmap.mmap) -> None:
        self._free.append(buffer)


class SmallPartBody(RequestBody):
    """A small part, whose bytes are in memory, as aiohttp's request body."""

    def __init__(
        self, content: PartContent, stall: StallTimeout, bandwidth: Bandwidth, events: Emitter
    ) -> None:
        super().__init__(content.data, stall)
        self.md5 = content.md5
        self.ended: float | None = None
        self.answered = False
        """Whether the store's answer has been read."""
        self._length = len(content.data)
        self._bandwidth = bandwidth
        self._events = events

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self._writing is not None:  # attempts are counted by the retry loop, see `PartBody`
            raise ConnectionResetError("the connection broke while the part was sent")
        if self._events.wants(PartConnected):
            self._events.emit(PartConnected(_local_port(getattr(writer, "transport", None))))
        if self._bandwidth.limited:
            with self._stall.paused():  # this wait is our own and does not count as a stall
                await self._bandwidth.take(self._length)
        await super().write_with_length(writer, content_length)
        self.ended = time.monotonic()

    @property
    def _is_over(self) -> bool:
        return self.whole and self.answered


def limit_unsent(transport: Any, limit: int) -> None:
    """Make the kernel refuse more than `limit` bytes beyond those that are on their way, where it
    can (Linux, macOS). What is on its way is not limited."""
    connection = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if connection is not None and option is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, limit)
