"""Many items, few at a time."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import anyio

from asyncpush.errors import OUT_OF_DESCRIPTORS
from asyncpush.groups import for_group, single_error

try:
    import resource
except ImportError:  # pragma: no cover  # Windows has no limit that matters
    resource = None  # type: ignore[assignment]

T = TypeVar("T")

ENOUGH_DESCRIPTORS = 256
"""Files and sockets that may still be opened, from which on nothing needs to be spared: 48 parts,
64 files, 16 calls of the Hub, and what is below."""

KEPT_DESCRIPTORS = 20
"""For the journal, for what is read ahead, and for the rest of the program."""


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter (`itertools.batched` of Python 3.12).

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


async def for_each(
    items: Sequence[T], work: Callable[[T], Awaitable[object]], *, width: int
) -> None:
    """Do the work for every item, begun in their order, for at most `width` at once. A failure
    cancels the others and is raised as itself."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:  # shared: whoever is free takes the next one
            await work(item)

    with single_error():
        async with anyio.create_task_group() as group:
            for _ in range(min(width, len(items))):
                group.start_soon(for_group(worker))


def descriptors_left() -> int | None:
    """How many more files and sockets this process may open; None where that is not known."""
    if resource is None:
        return None
    try:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if limit == resource.RLIM_INFINITY else limit - len(os.listdir("/dev/fd"))
    except OSError as exc:
        return 0 if exc.errno in OUT_OF_DESCRIPTORS else None


def each_affordable(left: int) -> int:
    """How many files, and parts, and calls of the Hub, there are descriptors for, each at once."""
    return max(1, (left - KEPT_DESCRIPTORS) // 3)
