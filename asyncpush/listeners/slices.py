"""How an amount is spread over time, in bounded memory whatever the time."""

from __future__ import annotations

from collections.abc import Sequence

FINEST = 1 / 128
"""Seconds of a slice to begin with."""


class Slices:
    """Sums over equal slices of time. When time runs past the last slice, all of them are widened
    to twice the width, so that there are never more than `count`. Times are seconds from 0."""

    def __init__(self, count: int, width: float = FINEST) -> None:
        assert count >= 2
        assert count % 2 == 0
        self.width = width
        self._sums = [0.0] * count
        self._used = 0

    @property
    def sums(self) -> tuple[float, ...]:
        """From time 0 to the last slice that holds anything."""
        return tuple(self._sums[: self._used])

    def spread(self, start: float, end: float, amount: float) -> None:
        """Add an amount that came evenly from `start` to `end`; time before 0 counts as 0."""
        start = max(0.0, start)
        end = max(start, end)
        while end >= self.width * len(self._sums):
            self._widen()
        first, last = int(start / self.width), int(end / self.width)
        self._used = max(self._used, last + 1)
        if first == last:
            self._sums[first] += amount
            return
        pace = amount / (end - start)
        self._sums[first] += pace * ((first + 1) * self.width - start)
        for at in range(first + 1, last):
            self._sums[at] += pace * self.width
        self._sums[last] += pace * (end - last * self.width)

    def widen_to(self, width: float) -> None:
        """At least so wide: to lay it beside another one."""
        while self.width < width:
            self._widen()

    def _widen(self) -> None:
        half = len(self._sums) // 2
        pairs = [self._sums[2 * at] + self._sums[2 * at + 1] for at in range(half)]
        self._sums = pairs + [0.0] * half
        self._used = (self._used + 1) // 2
        self.width *= 2


def rebinned(width: float, sums: Sequence[float], at_most: int) -> tuple[float, list[float]]:
    """Neighbours added up until there are at most so many; their width, and their sums."""
    share = max(1, -(-len(sums) // at_most))
    bins = [sum(sums[at : at + share]) for at in range(0, len(sums), share)]
    return width * share, bins
