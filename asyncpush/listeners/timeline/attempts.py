"""One attempt at a request, as far as it has been heard of, and the spans that it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from asyncpush.listeners.timeline.model import Kind, PushTrack, Span

_SHORT = 0.0005
"""Seconds: less of a way to a connection, or of a wait for an answer, is none."""


@dataclass(slots=True)
class Attempt:
    """Times are None until they are known."""

    push: int
    call: str
    path: str | None
    part: int | None
    size: int
    number: int
    queued: float
    started: float
    connected: float | None = None
    connection: int | None = None
    sent: float | None = None
    ended: float | None = None
    failed: bool = False
    error: str = ""
    progress: float = 0.0
    progress_at: float | None = None


def spans_of(attempt: Attempt, pushes: tuple[PushTrack, ...]) -> Iterator[Span]:
    end = max(pushes[attempt.push].end, attempt.started) if attempt.ended is None else attempt.ended
    whole = Span(
        _kind(attempt),
        "connection" if attempt.call == "part" else "hub",
        0,
        attempt.started,
        end,
        _name(attempt),
        attempt.push,
        attempt.path,
        attempt.part,
        attempt.size,
        attempt.number,
        attempt.queued,
        attempt.connection,
        attempt.error or ("unfinished" if attempt.ended is None else ""),
    )
    if attempt.connected is not None and attempt.connected - attempt.started >= _SHORT:
        yield replace(whole, kind="connect", end=min(attempt.connected, end), size=0)
        whole = replace(whole, start=min(attempt.connected, end))
    sent = end if attempt.sent is None else max(attempt.sent, whole.start)
    if whole.kind == "send" and end - sent >= _SHORT:
        yield replace(whole, end=sent)
        whole = replace(whole, kind="answer", start=sent, size=0)
    yield whole


def _kind(attempt: Attempt) -> Kind:
    if attempt.failed:
        return "retry"
    if attempt.call == "part":
        return "send"
    return "commit" if attempt.call == "commit" else "call"


def _name(attempt: Attempt) -> str:
    if attempt.call != "part":
        return attempt.call
    return f"{attempt.path or 'part'} #{attempt.part}"
