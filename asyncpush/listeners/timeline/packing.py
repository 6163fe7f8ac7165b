"""Lanes: things that take time, side by side when they overlap."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

Interval = tuple[float, float]


def pack(intervals: Sequence[Interval]) -> list[int]:
    """For each interval the first lane that is free, lanes counted from 0: as few lanes as there
    are intervals at once.

    >>> pack([(0, 4), (1, 2), (2, 3), (4, 5)])
    [0, 1, 1, 0]
    """
    lanes = [0] * len(intervals)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    opened = 0
    for at in sorted(range(len(intervals)), key=lambda at: intervals[at]):
        start, end = intervals[at]
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, opened = opened, opened + 1
        lanes[at] = lane
        heapq.heappush(busy, (end, lane))
    return lanes


def without(intervals: Sequence[Interval], cover: Sequence[Interval]) -> list[Interval]:
    """What of the intervals lies outside of the cover; both as `merged` leaves them.

    >>> without([(0, 4), (6, 7)], [(1, 2), (3, 6)])
    [(0, 1), (2, 3), (6, 7)]
    """
    rest: list[Interval] = []
    for start, end in intervals:
        for hidden_from, hidden_to in cover:
            if hidden_to <= start or hidden_from >= end:
                continue
            if hidden_from > start:
                rest.append((start, hidden_from))
            start = max(start, hidden_to)
        if start < end:
            rest.append((start, end))
    return rest


def merged(intervals: Sequence[Interval], slack: float = 0.0) -> list[Interval]:
    """The stretches that the intervals cover, in order, gaps up to `slack` closed.

    >>> merged([(3, 4), (0, 1), (1, 2)])
    [(0, 2), (3, 4)]
    """
    stretches: list[Interval] = []
    for start, end in sorted(intervals):
        if stretches and start <= stretches[-1][1] + slack:
            stretches[-1] = (stretches[-1][0], max(stretches[-1][1], end))
        else:
            stretches.append((start, end))
    return stretches
