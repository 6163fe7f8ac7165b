"""The layout of a timeline: sections with rows of blocks, few enough to be read however long the
run was, and their captions.

A lane of some hundred spans is drawn as it is. With more of them a block would be thinner than a
pixel, so the lane becomes pixel columns, each of the kind that filled most of it; a failed attempt
is always visible. More lanes or files than there is room for share rows. The captions say what
limited the push."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias, TypeVar

from asyncpush.lazy_dataclass import dataclass
from asyncpush.listeners.format import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    format_seconds,
)
from asyncpush.listeners.timeline.model import FileTrack, Group, Kind, Span, Timeline

_T = TypeVar("_T")

_Parts: TypeAlias = dict[tuple[int, str | None], set[int]]

Shade: TypeAlias = Kind | Literal["queued"]
"""The kinds by which a block is coloured; `queued` is a file that waits for a slot or for an
answer."""

EXACT = 250
"""Spans of a lane that are drawn one by one."""

LANES = 32
"""The most rows for connections, and for transfers."""

FILES = 96
"""The most rows for files."""

NAMED_FILES = 24
"""Up to this many files, each has a row with its name."""

_ROOM: dict[Group, int] = {"hub": 4, "hash": 8, "wait": 4, "connection": LANES, "transfer": LANES}
"""The most rows for the lanes of a group, in the order in which groups are drawn."""

_TITLES: dict[Group, str] = {
    "hub": "Hub calls",
    "hash": "hashing",
    "wait": "waiting to retry",
    "connection": "connections",
    "transfer": "transfers",
}
_ON_TOP: tuple[Kind, ...] = ("hash", "wait", "call", "connect", "answer", "send", "commit")
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
        kind = _dominant({each: shares[column] for each, shares in filled.items()})
        if kind is None:
            continue
        start, end = column * pixel, (column + 1) * pixel
        if blocks and blocks[-1].shade == kind and blocks[-1].end >= start - pixel / 10:
            blocks[-1] = Block(kind, blocks[-1].start, end)
        else:
            blocks.append(Block(kind, start, end))
    return blocks


def _filled(spans: Iterable[Span], pixel: float, count: int) -> list[float]:
    """How much of each column the spans fill: 1 is all of it, and more where spans overlap."""
    shares = [0.0] * count
    steps = [0] * (count + 1)  # +1 where a span begins to fill whole columns, -1 where it ceases.
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


def _dominant(shares: dict[Kind, float]) -> Kind | None:
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
    """Spans of one connection stay together. Spans that overlap cannot have shared one, even if the
    file says so."""
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
    union: list[Interval] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1] + slack:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


IDLE = "idle"

SHARED: tuple[Kind, ...] = ("send", "retry", "connect", "answer")
"""What connections do. While any of these is going on, the time is divided among them."""

ALONE: tuple[Kind, ...] = ("hash", "commit", "wait", "call")
"""What counts only while connections do nothing. Of several at once, only the first counts: `hash`
is the time in which files were hashed and nothing was sent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Seconds by what they were spent on, in descending order.

    Bytes were sent during `moving` seconds, then on `width` connections on average and on `most` at
    the most. `wasted` is the share of the connections' time that went into attempts that failed.
    """

    seconds: tuple[tuple[str, float], ...]
    moving: float
    width: float
    most: int
    wasted: float


def verdict(timeline: Timeline) -> Verdict:
    """What the time of the run was spent on. The seconds sum to the length of the timeline."""
    spent: Counter[str] = Counter()
    used: Counter[str] = Counter()
    moving, most = 0.0, 0
    for took, active in _moments(timeline):
        busy = {kind: active[kind] for kind in SHARED if active[kind] > 0}
        for kind, connections in busy.items():
            spent[kind] += round(took * 1e9) * connections // sum(busy.values())
            used[kind] += round(took * 1e9) * connections
        if not busy:
            spent[next((kind for kind in ALONE if active[kind] > 0), IDLE)] += round(took * 1e9)
        if "send" in busy:
            moving += took
            most = max(most, busy["send"])
    ranked = tuple((what, took / 1e9) for what, took in spent.most_common() if took > 0)
    width = used["send"] / 1e9 / moving if moving else 0.0
    return Verdict(ranked, moving, width, most, used["retry"] / max(used.total(), 1))


def _moments(timeline: Timeline) -> Iterator[tuple[float, Counter[Kind]]]:
    """How long each state lasted, and how many activities of each kind were going on during it."""
    edges: list[tuple[float, int, Kind]] = []
    for span in timeline.spans:
        edges += [(span.start, 1, span.kind), (span.end, -1, span.kind)]
    for hold in timeline.holds:  # the whole session was waiting
        edges += [(hold.start, 1, "wait"), (hold.end, -1, "wait")]
    active: Counter[Kind] = Counter()
    at = 0.0
    for time, change, kind in sorted(edges):
        if time > at:
            yield time - at, active
            at = time
        active[kind] += change
    if timeline.seconds > at:
        yield timeline.seconds - at, active


_SPENT_ON = {
    "send": "sending",
    "retry": "failed attempts",
    "hash": "hashing only",
    "connect": "connecting",
    "answer": "store's answers",
    "commit": "commit",
    "wait": "waiting to retry",
    "call": "Hub calls",
    IDLE: "nothing",
}
"""What time was spent on, in words."""

_SLOWED_BY = {
    "send": "went into sending",
    "retry": "went into attempts that failed (red)",
    "hash": "went into hashing with nothing to send yet: the disk, or hash_workers, is the limit",
    "connect": "went into opening connections: the network's latency, or TLS",
    "answer": "passed between a part's last byte and the store's answer",
    "commit": "went into the commit, which is the Hub's work",
    "wait": "went into waiting before trying again: errors, or rate limits (orange)",
    "call": "went into requests to the Hub's API: latency rather than bytes",
    IDLE: "passed with nothing being hashed, requested or sent",
}
_WORTH_MENTIONING = 0.05
"""Share of the connections' time."""


def headline(timeline: Timeline) -> str:
    """What was pushed, and the outcome."""
    pushes = timeline.pushes
    if len(pushes) == 1:
        push = pushes[0]
        operation = "" if push.operation == "push" else f"{push.operation} "
        return f"{push.repo_id or 'a push'}: {operation}{push.outcome}"
    counts = [
        f"{sum(push.outcome == outcome for push in pushes):,} {outcome}"
        for outcome in ("done", "failed", "cancelled", "unfinished")
        if any(push.outcome == outcome for push in pushes)
    ]
    if not pushes:
        return "no push"
    only_pushes = all(push.operation == "push" for push in pushes)
    return f"{len(pushes):,} {'pushes' if only_pushes else 'operations'}: {', '.join(counts)}"


def facts(timeline: Timeline) -> str:
    """The numbers in one line."""
    seconds = timeline.seconds
    words = [f"{format_bytes(timeline.bytes_sent)} sent in {format_seconds(seconds)}"]
    if seconds > 0:
        words[0] += f" ({format_rate(timeline.bytes_sent / seconds)})"
    to_buckets = any(push.in_bucket for push in timeline.pushes)
    words.append(format_count(len(timeline.files), "file" if to_buckets else "LFS file"))
    words.append(format_count(timeline.parts, "part"))
    if timeline.retries:
        words.append(format_count(timeline.retries, "failed attempt"))
    return " · ".join(words)


def bottleneck(judged: Verdict, timeline: Timeline) -> str:
    """The most important sentence about the timeline."""
    total = sum(took for _, took in judged.seconds)
    if not total:
        return "Nothing took any time."
    foremost, took = judged.seconds[0]
    share = "Most of the time" if took > total / 2 else "The largest share of the time"
    sentence = f"{share} {_SLOWED_BY[foremost]}"
    if foremost == "send":
        rate = format_rate(timeline.bytes_sent / judged.moving)
        sentence += f", at {rate} on {judged.width:.1f} connections (at most {judged.most})"
    if judged.wasted >= _WORTH_MENTIONING:
        sentence += (
            f"; {_percent(judged.wasted)} of the connections' time went into failed attempts (red)"
        )
    return f"{sentence}."


def share_words(what: str, took: float, total: float) -> tuple[str, ...]:
    """A share of the time in words, in three lengths: the longest that fits is drawn.

    >>> share_words("hash", 3.0, 12.0)
    ('hashing only 25 % (3.00 s)', 'hashing only 25 %', '25 %')
    """
    share = _percent(took / total)
    named = f"{_SPENT_ON[what]} {share}"
    return f"{named} ({format_seconds(took)})", named, share


def tick_words(at: float, step: float) -> str:
    """A time on the axis, with as many digits as the step between ticks has.

    >>> tick_words(0.5, 0.5), tick_words(30, 10), tick_words(90, 30), tick_words(0.004, 0.002)
    ('0.5 s', '30 s', '1:30', '0.004 s')
    """
    if step >= 1:
        return format_duration(at)
    digits = 1 if step >= 0.1 else 2 if step >= 0.01 else 3
    return f"{at:.{digits}f} s"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
