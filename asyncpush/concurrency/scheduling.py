"""Limits how many files are stored at once. Each push has one slot of its own, and all pushes share
the others.

No push has to wait for another one's large files before it can start. All pushes together store no
more files at once than a single push may, plus one for each push.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from anyio.abc import TaskGroup

from asyncpush.concurrency.task_groups import for_group

T = TypeVar("T")


class SharedSlots:
    """The slots that the pushes of an `Uploader` share."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.waiting: deque[FairSlots] = deque()
        """The pushes that wait for a slot, each of them once, so that slots go round."""


class FairSlots:
    """The slots of one push, which waits for one at a time. `most` limits their number when only
    few file descriptors are left."""

    def __init__(self, shared: SharedSlots, most: int | None = None) -> None:
        self._shared = shared
        self.most = most
        self._own_is_free = True
        self._granted: asyncio.Event | None = None
        self._granted_own = False

    async def take(self) -> bool:
        """Wait for the push's own slot or a shared one, whichever is free first. Returns whether it
        is the push's own; pass that to `give_back`."""
        shared = self._shared
        if self._own_is_free:
            self._own_is_free = False
            return True
        if shared.free and not shared.waiting:
            shared.free -= 1
            return False
        self._granted = granted = asyncio.Event()
        shared.waiting.append(self)
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():  # a slot was granted already: pass it on
                self.give_back(own=self._granted_own)
            else:
                self._grant(own=False)
            raise
        return self._granted_own

    def give_back(self, *, own: bool) -> None:
        shared = self._shared
        if own and self._granted is None:
            self._own_is_free = True
        elif own:
            self._grant(own=True)
        elif shared.waiting:
            shared.waiting[0]._grant(own=False)
        else:
            shared.free += 1

    def others_wait(self) -> bool:
        """Whether a shared slot that is given back would go to another push."""
        return any(slots is not self for slots in self._shared.waiting)

    def _grant(self, *, own: bool) -> None:
        """End the wait."""
        assert self._granted is not None
        self._shared.waiting.remove(self)
        self._granted_own = own
        self._granted.set()
        self._granted = None


class SlotQueue(Generic[T]):
    """Work on what is put here, in `group`, as slots of the push become free. At most one worker
    waits for a slot, and takes nothing before it has one: items go to whoever is free."""

    def __init__(
        self, group: TaskGroup, slots: FairSlots, work: Callable[[T], Awaitable[object]]
    ) -> None:
        self._group = group
        self._slots = slots
        self._work = work
        self._items: deque[T] = deque()
        self._seeking = False
        self._working = 0

    def put(self, item: T) -> None:
        self._items.append(item)
        self._seek()

    def _seek(self) -> None:
        most = self._slots.most
        if self._items and not self._seeking and (most is None or self._working < most):
            self._seeking = True
            self._group.start_soon(for_group(self._go))

    async def _go(self) -> None:
        own = await self._slots.take()
        self._seeking = False
        self._working += 1
        try:
            while self._items:
                item = self._items.popleft()
                self._seek()
                await self._work(item)
                if not own and self._slots.others_wait():
                    break
        finally:
            self._working -= 1
            self._slots.give_back(own=own)
        self._seek()
