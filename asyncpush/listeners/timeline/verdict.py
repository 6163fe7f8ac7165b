"""Where the time went: each moment of a run is counted once, for what it was spent on.

Counted in nanoseconds, so that sums are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from asyncpush.listeners.timeline.model import Kind, Timeline

IDLE = "idle"

SHARED: tuple[Kind, ...] = ("send", "retry", "connect", "answer")
"""What connections do: while any of it goes on, a moment is shared out among them."""

ALONE: tuple[Kind, ...] = ("hash", "commit", "wait", "call")
"""What counts only while no part is on its way, the first before the others. So `hash` is hashing
with nothing to send beside it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Seconds by what they were spent on, the most first. Bytes moved in `moving` seconds, then on
    `width` connections on average and `most` at the most. `in_vain` is the share of the
    connections' time that went into attempts that failed."""

    seconds: tuple[tuple[str, float], ...]
    moving: float
    width: float
    most: int
    in_vain: float


def verdict(timeline: Timeline) -> Verdict:
    """`seconds` sum to the length of the timeline."""
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
    """How long things stayed as they were, and how many of each kind went on meanwhile."""
    edges: list[tuple[float, int, Kind]] = []
    for span in timeline.spans:
        edges += [(span.start, 1, span.kind), (span.end, -1, span.kind)]
    for hold in timeline.holds:  # the whole session was held back
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
