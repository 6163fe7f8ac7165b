"""A part's bytes on their way into a socket.

What a GiB costs is decided here. Each part in flight has one buffer. Past a plain transport, a
thread reads, hashes and writes piece after piece until the kernel takes no more; the event loop
only waits for the socket. Where something encrypts, a thread fills the buffer and the loop writes
it, in pieces small enough to stay responsive. Reading ahead would gain nothing: while a part's
buffer is filled, the kernel sends what it holds, and other parts move.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from asyncpush.concurrency.threads import BatchedThreads, in_thread, wait_until_done
from asyncpush.events import Emitter, PartConnected
from asyncpush.models import Part
from asyncpush.net.rate_limits import Bandwidth
from asyncpush.net.request_body import reset_when_closed
from asyncpush.net.stall_timeout import StallTimeout

PIECES_PER_HOP = 4
"""Pieces that a thread writes at most before it turns to another part: fewer cost more hops."""

PROGRESS_INTERVAL = 0.05
"""Seconds between two reports of a part's progress: nobody looks more often."""


class RandomAccess(Protocol):
    """Bytes by position; called in threads."""

    def readinto(self, offset: int, buffer: memoryview) -> int: ...

    def descriptor(self) -> int | None:
        """An open file that the kernel may send from, where there is one."""


class PartFeed:
    """The bytes of one part, in order, through one buffer; hashed as they pass."""

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
        # Where nobody looks at the bytes, the kernel may send them out of its page cache.
        self._file = None if with_md5 or sys.platform != "linux" else source.descriptor()
        self._buffer: mmap.mmap | None = None
        self._short_bytes: bytearray | None = None
        self._held = memoryview(b"")  # read and hashed, not yet written
        self._stopped = False
        self.failure: Exception | None = None
        """What reading raised: out of aiohttp it would come as a broken connection."""

    @property
    def md5(self) -> str | None:
        return self._md5.hexdigest() if self._md5 is not None else None

    @property
    def left(self) -> int:
        """Bytes that `fill` and `write_to` have not handed on yet."""
        return self._end - self._position + len(self._held)

    async def read_if_short(self) -> None:
        """Read a part of no more than one piece at once, into memory of its own; raises what that
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
        """Write up to about `limit` bytes into a socket that does not block, `leaving` the last
        ones: how many went, and whether the socket took no more."""
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
        """Give the buffer back: no thread is at work any more."""
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
        return count

    def _send_file(self, descriptor: int, file: int, limit: int) -> int:
        """0 when it cannot be done: whether the file was cut short, its file system has no
        `sendfile`, or the connection broke, reading and writing will tell."""
        if sys.platform == "win32" or not hasattr(os, "sendfile"):
            return 0
        try:
            count = os.sendfile(descriptor, file, self._position, limit)
        except BlockingIOError:
            raise
        except OSError:
            return 0
        self._position += count
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
        turn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(feed)
        self._turn = turn
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
        self.answered = False
        """Whether the store's answer has been read, so that nothing of the part waits anywhere."""

    @property
    def failure(self) -> Exception | None:
        """What reading raised."""
        return self._feed.failure

    @property
    def whole(self) -> bool:
        return self.sent == self._size

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
            # aiohttp asks again by itself when a kept connection breaks under a PUT; these bytes
            # are gone, and attempts are counted elsewhere.
            raise ConnectionResetError("the connection broke while the part was sent")
        self._writing = asyncio.current_task()
        self._consumed = True
        transport: Any = getattr(writer, "transport", None)
        if self._events.active:
            self._events.emit(PartConnected(_local_port(transport)))
        if transport is not None:
            self._stall.follow(transport)
            self._transport = transport
            # Long after another try has stored this part, the rest of it would arrive: out of the
            # page cache, with what stands in the file by then (see sendfile(2)).
            reset_when_closed(transport)
            _drain_to_the_last_byte(transport)
            writer.send_headers()
            await writer.drain()
        descriptor = _plain_descriptor(transport) if self._feed.left > self._piece_size else None
        if descriptor is not None:
            try:
                await self._write_past(descriptor)
            finally:
                os.close(descriptor)
        await self._write_through(writer)
        self._stall.all_written()
        self.ended = time.monotonic()

    async def _write_through(self, writer: AbstractStreamWriter) -> None:
        """The buffer is drained before it is used again: transports of Python ≥ 3.12 keep
        references to what they were given."""
        while self._feed.left:
            stretch = await self._feed.fill()
            await self._allowed(len(stretch))
            await writer.write(stretch)
            await writer.drain()
            self._advance(len(stretch))

    async def _write_past(self, descriptor: int) -> None:
        """Into the transport's socket, past the transport, in which nothing waits. The last piece
        is left to the transport: else the store's answer could overtake the thread's word that all
        is written, and aiohttp would take the request for cut off."""
        leaving = self._piece_size
        hop = self._piece_size * (1 if self._bandwidth.limited else PIECES_PER_HOP)
        allowed = 0
        while (left := self._feed.left) > leaving:
            if allowed <= 0:
                step = min(hop, left - leaving)
                await self._allowed(step)
                allowed += step
            moved, full = await self._feed.write_to(descriptor, allowed, leaving=leaving)
            allowed -= moved
            if moved:
                self._advance(moved)
            if full:
                await _writable(descriptor)

    async def _allowed(self, amount: int) -> None:
        """Wait until the part may go on: it may be paused, or the bandwidth limited."""
        if self._turn is not None:
            with self._stall.paused():
                await self._turn()
        if self._bandwidth.limited:
            with self._stall.paused():  # a wait that we impose on ourselves is no stall
                await self._bandwidth.take(amount)

    def _advance(self, count: int) -> None:
        self.sent += count
        now = self._stall.touch()
        if now - self._reported_at >= PROGRESS_INTERVAL or self.whole:
            self._reported_at = now
            self._on_sent(self.sent)

    async def finish(self) -> None:
        """Called when the request is over, however it ended: no thread of ours reads any more and
        the buffer is free.

        aiohttp closes a connection that was given up with grace: what its transport still holds
        would be sent. But that may be our buffer, which holds another part's bytes by then.
        """
        try:
            if self._writing is not None:
                self._writing.cancel()  # aiohttp's writer; it cancels it too, but does not wait
                await wait_until_done(self._writing)
        finally:
            if self._transport is not None and not (self.answered and self.whole):
                self._transport.abort()
            self._feed.finish()


def _drain_to_the_last_byte(transport: Any) -> None:
    """Drained is to mean: nothing waits in a Python buffer. A plain transport pauses its writer
    above the mark, a TLS one at the mark: with 0 it would pause on nothing, for ever."""
    transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0)


def _local_port(transport: Any) -> int | None:
    """What tells a connection from the others that are open: one socket, one port."""
    name = None if transport is None else transport.get_extra_info("sockname")
    return name[1] if isinstance(name, tuple) else None


def _plain_descriptor(transport: Any) -> int | None:
    """The transport's socket by a descriptor of our own, when bytes may go past the transport:
    nothing encrypts them, and nothing waits in it. None where they may not."""
    if transport is None or sys.platform == "win32":
        return None
    if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
        return None
    connection = transport.get_extra_info("socket")
    if connection is None:  # another event loop's transport, which shows none
        return None
    try:
        return os.dup(connection.fileno())
    except OSError:  # no descriptor left: the transport has one
        return None


async def _writable(descriptor: int) -> None:
    """Wait until the kernel takes bytes again, or says what is the matter."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)


class BufferPool:
    """Reused buffers of one size: fresh memory costs page faults (0.2 CPU s per GiB, measured).

    They are anonymous maps, so that they begin with a page: copies out of the page cache to a few
    bytes after one, where a `bytearray` begins, cost 0.4 CPU s per GiB more (measured).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        # Called in several threads: looking first whether there is one would be a race.
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, self.size)

    def give_back(self, buffer: mmap.mmap) -> None:
        self._free.append(buffer)
