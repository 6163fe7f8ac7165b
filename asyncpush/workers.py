"""Many items, few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import anyio

from asyncpush.groups import for_group, single_error

T = TypeVar("T")


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
