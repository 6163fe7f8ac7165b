"""Keeps the memory of hf_xet within a limit.

hf_xet collects new chunks until they fill a xorb of 64 MiB. It then packs the xorb, which takes
another 64 MiB until the chunks are freed, and holds it until the store has answered. Each file that
fills a xorb waits until it may be sent, while others fill the next one. No setting changes this, so
we pass on the bytes that fill the next xorb only when there is room for packing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from asyncpush.concurrency.threads import ProcessLock
from asyncpush.options import MIB

XORB_SIZE = 64 * MIB
"""The most bytes in a xorb (`MAX_XORB_BYTES` in xet-core's xorb_object/constants.rs, which no
setting changes)."""

CUT_MARGIN = 3 * MIB
"""A xorb is packed when the next chunk has no room in it. This much before, the size of what we
passed is no longer certain not to have filled it."""

NOISE = 22 * MIB
"""Memory that a push takes for other things, such as connections, events and what hf_xet remembers
of each chunk. When these need more, as in a file of some GB, fewer xorbs are sent at once."""

MOST_UNREAD = 8 * MIB
"""Bytes of small files that hf_xet has not read yet."""

SMALL_FILES_SPARE = 56 * MIB
"""What small files may add before their xorb is seen to be packed: hf_xet reads many at a time, in
many threads, whose memory is returned later."""

TRIM_EVERY = 0.4
"""Seconds between two calls of `malloc_trim`."""

REPORT_LAG = 0.05
"""Seconds after which a report of hf_xet includes what it was passed."""

_CHECK_EVERY = 0.02

_trimming = ProcessLock()
_next_trim = 0.0


@cache
def _malloc_trim() -> Any:
    """glibc's `malloc_trim`; None with another C library."""
    import ctypes  # most pushes do without Xet

    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim_memory(every: float = TRIM_EVERY) -> None:
    """Return free memory to the system, unless that was done less than `every` seconds ago. Blocks
    for some milliseconds.

    hf_xet allocates and frees tens of MiB in many threads. glibc keeps what they free in each
    thread's own arena. Measured with a file of 1 GiB: 341 MB without this, 222 to 259 MB with it.
    """
    global _next_trim
    trim = _malloc_trim()
    if trim is None or not _trimming.acquire(blocking=False):
        return
    try:
        if time.monotonic() >= _next_trim - TRIM_EVERY + every:
            trim(0)
            _next_trim = time.monotonic() + TRIM_EVERY
    finally:
        _trimming.release()


def resident_memory() -> int | None:
    """The bytes of this process in memory; None where the system does not tell (only Linux
    does)."""
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class Room:
    """Memory that files share: each waits until there is room for it."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Take this many bytes once they are free, or all of them when `size` is more."""
        size = min(size, self._size)
        while size > self._free:
            await self._freed.wait()
        self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._freed.set()
            self._freed = asyncio.Event()


class XetMemory:
    """What the uploads of one engine may hold: `xorbs` that are sent at once, and one more that is
    packed."""

    def __init__(self, xorbs: int) -> None:
        self._before_packing = xorbs * XORB_SIZE + NOISE
        self._others = (xorbs - 1) * XORB_SIZE
        self._base = 0

    def begin(self, *, alone: bool) -> None:
        """An upload begins. It is `alone` if no other one is in progress."""
        trim_memory(every=0.0)
        now = resident_memory() or 0
        self._base = now if alone else min(self._base, now)

    def has_room(self, unsent: int, spare: int = 0) -> bool:
        """Whether another xorb may be packed while so many bytes of others are not sent. What other
        parts of the process have allocated meanwhile counts as well, since it cannot be
        distinguished.
        `spare` is memory that will be needed besides."""
        now = resident_memory()
        if now is None:
            return unsent <= self._others
        return now + spare - self._base <= self._before_packing

    def is_within_limit(self, spare: int = 0) -> bool:
        """Whether more bytes may be passed on while others are being sent."""
        now = resident_memory()
        return now is None or now + spare - self._base <= self._before_packing + XORB_SIZE


class XetBacklog:
    """What one upload commit has been passed, and has not packed or sent."""

    def __init__(self, memory: XetMemory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._passed = 0
        self._unread: deque[tuple[int, Any]] = deque()
        """The last files that hf_xet reads: size and handle."""
        self._unread_bytes = 0
        self._settled = 0
        self._unsent = 0
        self._last_passed = self._last_report = 0.0

    def on_report(self, group: Any) -> None:
        """Called on a thread of hf_xet."""
        packed, sent = group.total_transfer_bytes, group.total_transfer_bytes_completed
        in_store = max(0, group.total_bytes_completed - sent)
        self._settled = packed + in_store
        self._unsent = packed - sent
        self._last_report = time.monotonic()

    def add(self, size: int) -> None:
        """Bytes that were passed on."""
        with self._lock:
            self._passed += size
            self._last_passed = time.monotonic()

    def add_file(self, size: int, handle: Any) -> None:
        """A file that was passed on, which hf_xet reads later. When too many are not read yet, this
        waits until half of them are: before that, they are not in memory, and how much they take
        is not known."""
        self.add(size)
        with self._lock:
            self._unread.append((size, handle))
            self._unread_bytes += size
            if self._unread_bytes <= MOST_UNREAD:
                return
            while self._unread_bytes > MOST_UNREAD // 2:
                size, handle = self._unread.popleft()
                self._unread_bytes -= size
        # hf_xet reads them nearly in order, and each question costs it as much as a file's start.
        with contextlib.suppress(Exception):  # the end of the commit raises it
            handle.result()

    def wait(self, size: int, stop: threading.Event, *, spare: int = 0) -> None:
        """Wait until there is room for `size` more bytes: until they cannot fill a xorb, or a xorb
        may be packed and `spare` memory is left, or all others have been sent. Ends early when
        `stop` is set."""
        while not self._may_pass(size, spare):
            with self._one_at_a_time:
                trim_memory(every=5 * _CHECK_EVERY)
                if self._may_pass(size, spare) or stop.wait(_CHECK_EVERY):
                    return

    def _may_pass(self, size: int, spare: int) -> bool:
        if self._may_fill_a_xorb(size):
            return self._is_idle() or self._memory.has_room(self._unsent, spare)
        return self._unsent <= 0 or self._memory.is_within_limit(spare)

    def _may_fill_a_xorb(self, size: int) -> bool:
        return self._passed + size - self._settled > XORB_SIZE - CUT_MARGIN

    def _is_idle(self) -> bool:
        """Whether hf_xet sends nothing, and that was reported after the last bytes were passed."""
        return self._unsent <= 0 and self._last_report > self._last_passed + REPORT_LAG
