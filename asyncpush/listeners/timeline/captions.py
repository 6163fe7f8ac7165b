"""The captions of a timeline, and what limited the push."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from asyncpush.listeners.format import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    format_seconds,
)
from asyncpush.listeners.timeline.model import Kind, Timeline

IDLE = "idle"

SHARED: tuple[Kind, ...] = ("send", "retry", "connect", "answer")
"""What connections do. While any of these is going on, the time is divided among them."""

ALONE: tuple[Kind, ...] = ("hash", "commit", "wait", "call")
"""What counts only while no part is being sent; of several at once, the first counts. So `hash` is
hashing with nothing to send at the same time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Seconds by what they were spent on, in descending order.

    Bytes were sent during `moving` seconds, then on `width` connections on average and on `most` at
    the most. `in_vain` is the share of the connections' time that went into attempts that failed.
    """

    seconds: tuple[tuple[str, float], ...]
    moving: float
    width: float
    most: int
    in_vain: float


def verdict(timeline: Timeline) -> Verdict:
    """The seconds sum to the length of the timeline."""
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
"""What each moment counts as, in words."""

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
_WORTH_TELLING = 0.05
"""Share of the connections' time."""


def headline(timeline: Timeline) -> str:
    """What was pushed, and the outcome."""
    pushes = timeline.pushes
    if len(pushes) == 1:
        return f"{pushes[0].repo_id or 'a push'}: {pushes[0].outcome}"
    counts = [
        f"{sum(push.outcome == outcome for push in pushes):,} {outcome}"
        for outcome in ("done", "failed", "cancelled", "unfinished")
        if any(push.outcome == outcome for push in pushes)
    ]
    return f"{len(pushes):,} pushes: {', '.join(counts)}" if pushes else "no push"


def facts(timeline: Timeline) -> str:
    """The numbers in one line."""
    seconds = timeline.seconds
    words = [f"{format_bytes(timeline.bytes_sent)} sent in {format_seconds(seconds)}"]
    if seconds > 0:
        words[0] += f" ({format_rate(timeline.bytes_sent / seconds)})"
    words.append(format_count(len(timeline.files), "LFS file"))
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
    if judged.in_vain >= _WORTH_TELLING:
        sentence += (
            f"; {_percent(judged.in_vain)} of the connections' time went into failed attempts (red)"
        )
    return f"{sentence}."


def share_words(what: str, took: float, total: float) -> tuple[str, ...]:
    """From the longest to the shortest.

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
