"""Task groups fail with groups; people catch errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from _leaves(member)
        else:
            yield member
