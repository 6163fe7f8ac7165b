"""Many tasks, a few at a time: in groups whose failures are single errors, in batches, and in slots
that pushes share fairly."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import contextmanager
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from asyncpush.concurrency.threads import is_cancelled
from asyncpush.errors import OUT_OF_DESCRIPTORS, AsyncPushError

try:
    import resource
except ImportError:  # pragma: no cover  # Windows has no limit that matters
    resource = None  # type: ignore[assignment]


Ts = TypeVarTuple("Ts")


@contextmanager
def single_error() -> Iterator[None]:
    """Turn the exception group of a task group into the error that matters.

    When several siblings fail at once (one cause, many symptoms), the first is raised, with a note
    that counts the others.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        first = next((leaf for leaf in leaves if not isinstance(leaf, Exception)), leaves[0])
        if len(leaves) > 1:
            first.add_note(f"({len(leaves) - 1} more failed at the same time)")
        raise first from first.__cause__


@contextmanager
def stray_cancellations_are_errors() -> Iterator[None]:
    """Turn a `CancelledError` that nobody asked for into an `AsyncPushError`. Code of the user
    raises one when it awaits a task of its own that was cancelled."""
    try:
        yield
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise AsyncPushError(
            "stopped by a CancelledError, although this task was not cancelled",
            suggestion="find out which of your own tasks was cancelled while it was awaited here:"
            " in a source, a token callable or a listener",
        ) from exc


def for_group(
    work: Callable[[*Ts], Awaitable[object]],
) -> Callable[[*Ts], Coroutine[Any, Any, None]]:
    """The same work, to be started in a task group. A group takes every `CancelledError` of a child
    for its own cancellation: a stray one would end the child as if its work were done."""

    async def run(*args: *Ts) -> None:
        with stray_cancellations_are_errors():
            await work(*args)

    return run


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from _leaves(member)
        else:
            yield member


T = TypeVar("T")

ENOUGH_DESCRIPTORS = 256
"""With this many descriptors left, nothing need be limited: 48 parts, 64 files, 16 Hub calls, 32
verify calls, and those below."""

KEPT_DESCRIPTORS = 20
"""For the journal, for reading ahead, and for the rest of the program."""


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter (`itertools.batched` of Python 3.12).

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


S = TypeVar("S", bound=_Sized)


def sized_batches(
    items: Iterable[S], *, most_bytes: int, most: int = sys.maxsize
) -> Iterator[list[S]]:
    """Lists of at most `most` items and `most_bytes` together. A larger item is alone in its
    list."""
    batch: list[S] = []
    size = 0
    for item in items:
        if batch and (len(batch) == most or size + item.size > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


async def for_each(
    items: Iterable[T], work: Callable[[T], Awaitable[object]], *, width: int
) -> None:
    """Do the work for every item, started in order, for at most `width` at once; items that are
    produced lazily are produced one at a time. A failure cancels the others and is raised as
    itself."""
    remaining = iter(items)
    at_once = min(width, len(items)) if isinstance(items, Sized) else 1
    later = 0 if isinstance(items, Sized) else width - 1

    async def worker() -> None:
        nonlocal later
        for item in remaining:  # shared: whoever is free takes the next one
            if later:  # nobody knows how many items will come: start one more worker with each
                later -= 1
                group.start_soon(for_group(worker))
            await work(item)

    with single_error():
        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(for_group(worker))


def open_files_limit() -> int | None:
    """How many files and sockets this process may have open; None without a limit."""
    if sys.platform == "win32" or resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def descriptors_left() -> int | None:
    """How many more files and sockets this process may open; None where that is unknown."""
    try:
        limit = open_files_limit()
        return None if limit is None else limit - len(os.listdir("/dev/fd"))
    except OSError as exc:
        return 0 if exc.errno in OUT_OF_DESCRIPTORS else None


def each_affordable(left: int) -> int:
    """How many files, parts and Hub calls there are descriptors for, each at once."""
    return max(1, (left - KEPT_DESCRIPTORS) // 3)


K = TypeVar("K")
V = TypeVar("V")


class _Question(Generic[K, V]):
    """The items of one `ask_all`. One event for all of them: each costs as much as the rest."""

    __slots__ = ("answered", "answers", "left")

    def __init__(self, count: int) -> None:
        self.answers: dict[K, V] = {}
        self.left = count
        self.answered = asyncio.Event()

    def answer(self, item: K, answer: V) -> None:
        self.answers[item] = answer
        self.left -= 1
        if not self.left:
            self.answered.set()


class Batcher(Generic[K, V]):
    """`ask` waits for the answer to one item; items that arrive while calls are in flight go
    together into the next one.

    The first item goes at once and alone: a push of one file waits for nothing. A second call
    starts beside a running one only when half a call's worth of items has collected, so that a
    thousand files make a handful of calls. A failing call fails the task group it runs in. A call
    takes at most `limit` items, and of those that `weigh` much only as many as stay within
    `heaviest` together, but at least one.
    """

    def __init__(
        self,
        group: TaskGroup,
        call: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        *,
        limit: int,
        width: int = 4,
        weigh: Callable[[K], int] = lambda item: 0,
        heaviest: int = 0,
    ) -> None:
        self._group = group
        self._call = call
        self._limit = limit
        self._width = width
        self._weigh = weigh
        self._heaviest = heaviest
        self._waiting: deque[tuple[K, _Question[K, V]]] = deque()
        self._running = 0

    async def ask(self, item: K) -> V:
        return (await self.ask_all((item,)))[0]

    async def ask_all(self, items: Sequence[K]) -> list[V]:
        """The answers to several items, which go into as few calls as possible."""
        if not items:
            return []
        question: _Question[K, V] = _Question(len(items))
        self._waiting.extend([(item, question) for item in items])
        self._start_call()
        await question.answered.wait()
        return [question.answers[item] for item in items]

    def _start_call(self) -> None:
        enough = self._running == 0 or len(self._waiting) >= self._limit // 2
        if enough and self._waiting and self._running < self._width:
            self._running += 1
            self._group.start_soon(for_group(self._run))

    async def _run(self) -> None:
        # One iteration of the event loop: items that were asked for at the same time go together.
        await anyio.lowlevel.checkpoint()
        asked = self._next_call()
        try:
            if asked:
                answers = await self._call([item for item, _ in asked])
                for item, question in asked:
                    question.answer(item, answers[item])
        finally:
            self._running -= 1
        self._start_call()

    def _next_call(self) -> list[tuple[K, _Question[K, V]]]:
        """Takes them in the order in which they came."""
        taken: list[tuple[K, _Question[K, V]]] = []
        weight = 0
        while self._waiting and len(taken) < self._limit:
            weight += self._weigh(self._waiting[0][0])
            if taken and weight > self._heaviest:
                break
            taken.append(self._waiting.popleft())
        return taken


class SharedSlots:
    """The slots that the pushes of an `Uploader` share: how many files are stored at once.

    Each push also has one slot of its own, so that no push waits for another one's large files
    before it can start. All pushes together store no more files at once than a single push may,
    plus one for each push.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self.waiting: deque[FairSlots] = deque()
        """The pushes that wait for a slot, each of them once, so that each gets one in turn."""


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
