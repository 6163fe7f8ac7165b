"""Lanes: things that take time, side by side when they overlap."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace

from asyncpush.listeners.timeline.model import Group, Span

Interval = tuple[float, float]


def in_lanes(spans: list[Span]) -> Iterator[Span]:
    """The spans, each in a lane of its group that is free while it lasts."""
    groups: dict[Group, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        groups.setdefault(span.group, []).append(span)
    for group, members in groups.items():
        bundles = _by_connection(members) if group == "connection" else [[span] for span in members]
        lanes = pack([(bundle[0].start, bundle[-1].end) for bundle in bundles])
        for bundle, lane in zip(bundles, lanes, strict=True):
            for span in bundle:
                yield replace(span, lane=lane)


def _by_connection(spans: list[Span]) -> list[list[Span]]:
    """What went through one connection stays together. What overlaps did not go through one,
    whatever the file says."""
    bundles: list[list[Span]] = []
    open_bundles: dict[int, list[Span]] = {}
    for span in spans:
        bundle = open_bundles.get(span.connection) if span.connection is not None else None
        if bundle is None or bundle[-1].end > span.start:
            bundle = []
            bundles.append(bundle)
            if span.connection is not None:
                open_bundles[span.connection] = bundle
        bundle.append(span)
    return bundles


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
