"""A timeline in the trace-event format, which Perfetto and chrome://tracing open.

Format: "Trace Event Format", the document of the Chromium project that both of them follow: an
object with `traceEvents`, times in microseconds; `X` complete events that nest or follow each other
within one thread, `b`/`e` async pairs, `C` counters, `i` instants, `M` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from asyncpush._version import __version__
from asyncpush.listeners.format import clean
from asyncpush.listeners.timeline.model import Group, Span, Timeline

_TRACKS: dict[Group, tuple[int, str]] = {
    "hub": (1_000, "Hub call"),
    "hash": (2_000, "hashing"),
    "wait": (3_000, "waiting"),
    "connection": (10_000, "connection"),
    "transfer": (1_000_000, "transfer"),
}
"""The first thread id of each group's lanes, and the name of a lane; ids order the tracks."""

_FILES = 5
_SESSION = 0
"""The process for what pushes share: throughput, and waits that affect all of them."""


def trace_events(timeline: Timeline) -> bytes:
    """The trace as JSON."""
    document = {
        "traceEvents": [
            *_names(timeline),
            *(_complete(span) for span in timeline.spans),
            *_files(timeline),
            *_session(timeline),
            *_ends(timeline),
        ],
        "displayTimeUnit": "ms",
        "otherData": {"made_by": f"asyncpush {__version__}", "began": timeline.began},
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _names(timeline: Timeline) -> Iterator[dict[str, Any]]:
    yield _meta(_SESSION, "process_name", name="session")
    for number, push in enumerate(timeline.pushes, start=1):
        yield _meta(number, "process_name", name=clean(push.repo_id) or push.push_id)
    for pid, tid, name in sorted({_track(span) for span in timeline.spans}):
        yield _meta(pid, "thread_name", tid, name=name)
        yield _meta(pid, "thread_sort_index", tid, sort_index=tid)


def _meta(pid: int, what: str, tid: int = 0, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _track(span: Span) -> tuple[int, int, str]:
    base, name = _TRACKS[span.group]
    return span.push + 1, base + span.lane, f"{name} {span.lane + 1}"


def _complete(span: Span) -> dict[str, Any]:
    pid, tid, _ = _track(span)
    args = {
        "file": span.path and clean(span.path),
        "part": span.part,
        "bytes": span.size or None,
        "attempt": span.attempt if span.group in ("hub", "connection") else None,
        "queued_ms": round(span.queued * 1000, 3) or None,
        "local_port": span.connection,
        "error": clean(span.error) or None,
    }
    start, end = _microseconds(span.start), _microseconds(span.end)
    return {
        "ph": "X",
        "name": clean(span.name),
        "cat": span.kind,
        "pid": pid,
        "tid": tid,
        "ts": start,
        "dur": end - start,
        "args": {name: value for name, value in args.items() if value is not None},
    }


def _files(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Files overlap, so each is an async track of its own."""
    for number, file in enumerate(timeline.files):
        common = {
            "name": clean(file.path),
            "cat": "file",
            "id": number,
            "pid": file.push + 1,
            "tid": _FILES,
        }
        args = {"bytes": file.size, "stored": file.stored}
        yield {"ph": "b", "ts": _microseconds(file.start), **common, "args": args}
        yield {"ph": "e", "ts": _microseconds(file.end), **common}


def _session(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for at, amount in enumerate((*timeline.throughput, 0.0)):
        yield {
            "ph": "C",
            "name": "throughput",
            "pid": _SESSION,
            "tid": 0,
            "ts": _microseconds(at * timeline.slice_seconds),
            "args": {"MB/s": round(amount / timeline.slice_seconds / 1e6, 3)},
        }
    for number, hold in enumerate(timeline.holds):
        common = {"name": clean(hold.reason), "cat": "wait", "id": number, "pid": _SESSION}
        yield {"ph": "b", "ts": _microseconds(hold.start), "tid": 0, **common}
        yield {"ph": "e", "ts": _microseconds(hold.end), "tid": 0, **common}


def _ends(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for number, push in enumerate(timeline.pushes, start=1):
        name = clean(f"{push.outcome}: {push.error}" if push.error else push.outcome)
        at = _microseconds(push.end)
        yield {"ph": "i", "name": name, "cat": "push", "s": "p", "pid": number, "tid": 0, "ts": at}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
