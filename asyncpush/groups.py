"""Task groups fail with groups; people catch errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVarTuple

from asyncpush.errors import AsyncPushError
from asyncpush.threads import is_cancelled

Ts = TypeVarTuple("Ts")


@contextmanager
def single_error() -> Iterator[None]:
    """Turn the exception group of a task group into the error that matters.

    When several siblings fail at once (one cause, many witnesses), the first is raised, with a
    note that counts the others.
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
    """Turn a `CancelledError` that nobody asked for into an `AsyncPushError`. Code of the user lets
    one out when it awaits a task of its own that was cancelled."""
    try:
        yield
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise AsyncPushError(
            "the push was stopped by a CancelledError, though nobody cancelled it",
            suggestion="look which task of your own was cancelled while this push awaited it: a"
            " source, a token callable, a listener",
        ) from exc


def for_group(
    work: Callable[[*Ts], Awaitable[object]],
) -> Callable[[*Ts], Coroutine[Any, Any, None]]:
    """The same work, to be begun in a task group. A group takes every `CancelledError` of a child
    for its own cancellation: a stray one would end the child as if it had done its work."""

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
