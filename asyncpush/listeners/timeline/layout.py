"""What is drawn: rows of blocks in sections, few enough to be read whatever the run was.

A lane of some hundred spans is drawn as it is. With more of them a block would be thinner than a
pixel, so the lane becomes pixel columns, each of the kind that filled most of it; a failed attempt
is seen in any case. More lanes or files than there is room for share rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias, TypeVar

from asyncpush.listeners.format import format_count
from asyncpush.listeners.timeline.model import FileTrack, Group, Kind, Span, Timeline

_T = TypeVar("_T")

_Parts: TypeAlias = dict[tuple[int, str | None], set[int]]

Shade: TypeAlias = Kind | Literal["queued"]
"""The kinds by which a block is coloured; `queued` is a file that waits for a slot or for an
answer."""

EXACT = 250
"""Spans of a lane that are drawn one by one."""

LANES = 32
FILES = 96
NAMED_FILES = 24

_ROOM: dict[Group, int] = {"hub": 4, "hash": 8, "wait": 4, "connection": LANES, "transfer": LANES}
"""Rows that the lanes of a group may take, from top to bottom."""

_TITLES: dict[Group, str] = {
    "hub": "Hub calls",
    "hash": "hashing",
    "wait": "waiting to retry",
    "connection": "connections",
    "transfer": "transfers",
}
_ON_TOP: tuple[Kind, ...] = (*("hash", "wait", "call", "connect", "answer", "send", "commit"),)
"""Where several kinds share a row, later ones hide earlier ones."""


@dataclass(frozen=True, slots=True)
class Block:
    shade: Shade
    start: float
    end: float
    label: str = ""


@dataclass(slots=True)
class Row:
    label: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """Rows of one sort, `height` points each."""

    title: str
    rows: list[Row]
    height: float


def sections(timeline: Timeline, columns: int) -> list[Section]:
    """Everything to draw, from top to bottom; `columns` are the pixels from left to right."""
    pixel = max(timeline.seconds, 1e-6) / columns
    drawn = []
    for group, room in _ROOM.items():
        if section := _lanes(timeline, group, room, pixel):
            drawn.append(section)
    if timeline.files:
        drawn.append(_files(timeline, pixel))
    return drawn


def _lanes(timeline: Timeline, group: Group, room: int, pixel: float) -> Section | None:
    lanes: dict[int, list[Span]] = {}
    for span in timeline.spans:
        if span.group == group:
            lanes.setdefault(span.lane, []).append(span)
    if not lanes:
        return None
    parts: dict[tuple[int, str | None], set[int]] = {}
    for span in timeline.spans:
        if span.part is not None and span.path is not None:
            parts.setdefault((span.push, span.path), set()).add(span.part)
    rows = []
    for numbers in _shared(sorted(lanes), room):
        spans = sorted((s for n in numbers for s in lanes[n]), key=lambda span: span.start)
        first, last = numbers[0] + 1, numbers[-1] + 1
        label = str(first) if first == last else f"{first}–{last}"
        rows.append(Row(label, _blocks(spans, pixel, parts, exact=first == last)))
    title = _TITLES[group]
    if group == "connection":
        title = f"{title} ({len(lanes)})"
    return Section(title, rows, _height(len(rows), 260, 6, 13))


def _blocks(spans: Sequence[Span], pixel: float, parts: _Parts, *, exact: bool) -> list[Block]:
    if exact and len(spans) <= EXACT:
        return [Block(s.kind, s.start, s.end, _block_label(s, parts)) for s in spans]
    return columns_of(spans, pixel)


def _block_label(span: Span, parts: _Parts) -> str:
    """The shortest label that distinguishes it from the others."""
    name = "" if span.path is None else span.path.rpartition("/")[2]
    if span.group == "hub":
        return span.name
    if span.group != "connection":
        return name
    if span.kind not in ("send", "retry"):
        return ""
    if len(parts) <= 1:
        return f"#{span.part}"
    return name if len(parts.get((span.push, span.path), ())) <= 1 else f"{name} #{span.part}"


def columns_of(spans: Iterable[Span], pixel: float) -> list[Block]:
    """Columns one pixel wide, each of the kind that fills most of it, equal neighbours joined."""
    kinds: dict[Kind, list[Span]] = {}
    for span in spans:
        kinds.setdefault(span.kind, []).append(span)
    count = int(max((s.end for group in kinds.values() for s in group), default=0.0) / pixel) + 1
    filled = {kind: _filled(members, pixel, count) for kind, members in kinds.items()}
    blocks: list[Block] = []
    for column in range(count):
        kind = _foremost({each: shares[column] for each, shares in filled.items()})
        if kind is None:
            continue
        start, end = column * pixel, (column + 1) * pixel
        if blocks and blocks[-1].shade == kind and blocks[-1].end >= start - pixel / 10:
            blocks[-1] = Block(kind, blocks[-1].start, end)
        else:
            blocks.append(Block(kind, start, end))
    return blocks


def _filled(spans: Iterable[Span], pixel: float, count: int) -> list[float]:
    """How much of each column the spans fill; 1 means completely, once."""
    shares = [0.0] * count
    steps = [0] * (count + 1)  # The changes at which spans start and stop to fill whole columns.
    for span in spans:
        first, last = int(span.start / pixel), int(span.end / pixel)
        if first == last:
            shares[first] += max((span.end - span.start) / pixel, 1e-6)
            continue
        shares[first] += first + 1 - span.start / pixel
        shares[last] += span.end / pixel - last
        steps[first + 1] += 1
        steps[last] -= 1
    return [share + whole for share, whole in zip(shares, accumulate(steps), strict=False)]


def _foremost(shares: dict[Kind, float]) -> Kind | None:
    """What a column is drawn as; None for one that is mostly idle."""
    if shares.get("retry"):
        return "retry"
    if sum(shares.values()) < 0.5:
        return None
    return max(shares, key=lambda kind: shares[kind])


def _files(timeline: Timeline, pixel: float) -> Section:
    by_file: dict[tuple[int, str], list[Span]] = {}
    for span in timeline.spans:
        if span.path is not None:
            by_file.setdefault((span.push, span.path), []).append(span)
    tracks = sorted(timeline.files, key=lambda track: (track.start, track.end))
    room = FILES if len(tracks) > NAMED_FILES else NAMED_FILES
    rows = []
    for group in _shared(tracks, room):
        spans = [s for t in group for s in by_file.get((t.push, t.path), ())]
        label = _file_label(group[0], timeline) if len(tracks) <= NAMED_FILES else ""
        rows.append(Row(label, _file_blocks(group, spans, pixel)))
    shared = len(tracks) > len(rows)
    title = format_count(len(tracks), "file") + (f", {len(rows)} rows" if shared else "")
    return Section(title, rows, _height(len(rows), 300, 3, 13))


def _file_label(track: FileTrack, timeline: Timeline) -> str:
    if len(timeline.pushes) == 1:
        return track.path
    return f"{timeline.pushes[track.push].repo_id}: {track.path}"


def _file_blocks(tracks: Sequence[FileTrack], spans: Sequence[Span], pixel: float) -> list[Block]:
    """In drawing order: later ones cover earlier ones."""
    there = merged([(track.start, track.end) for track in tracks], pixel)
    blocks = [Block("queued", start, end) for start, end in there]
    kinds: dict[Kind, list[Interval]] = {}
    for span in spans:
        kinds.setdefault(span.kind, []).append((span.start, span.end))
    # One failed part of many must not paint the whole file red: where others were sent at the same
    # time, a mark at its end is enough.
    failed = kinds.pop("retry", [])
    for kind in _ON_TOP:
        blocks += [Block(kind, s, e) for s, e in merged(kinds.get(kind, ()), pixel / 2)]
    alone = without(merged(failed), merged(kinds.get("send", ())))
    marks = [(max(start, end - 2 * pixel), end) for start, end in failed]
    return blocks + [Block("retry", s, e) for s, e in merged([*alone, *marks])]


def _shared(items: Sequence[_T], room: int) -> list[Sequence[_T]]:
    """Groups of neighbours, as even as possible, so that there are at most `room` of them."""
    rows = min(len(items), room)
    ends = [len(items) * at // rows for at in range(rows + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def _height(rows: int, room: float, least: float, most: float) -> float:
    return max(least, min(most, room / rows))


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
    """Spans of one connection stay together. Spans that overlap did not share one, whatever the
    file says."""
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
    """The parts of the intervals outside of the cover; both sorted and disjoint, as `merged`
    returns them.

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
    """The union of the intervals, in order, with gaps up to `slack` closed.

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
