"""What a timeline shows: spans in lanes, files, waits of the session, throughput. Values only.

All times are seconds from `Timeline.began`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from asyncpush.lazy_dataclass import dataclass

Kind: TypeAlias = Literal["hash", "wait", "connect", "send", "answer", "retry", "call", "commit"]
"""What happens in a span. `connect` is opening a connection; `answer` is the time from a part's
last byte to the store's answer; `retry` is an attempt that failed; `wait` is the wait before the
next one; `call` is a request to the Hub's API."""

Group: TypeAlias = Literal["hash", "hub", "wait", "connection", "transfer"]
"""What a lane stands for: a hashing thread, one Hub request at a time, a wait, or a connection for
parts. A `transfer` is a file that is sent by requests which are not seen
here, such as a library's own."""

Outcome: TypeAlias = Literal["done", "failed", "cancelled", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took time, in a lane of its group. Spans of one lane never overlap."""

    kind: Kind
    group: Group
    lane: int
    start: float
    end: float
    name: str
    push: int
    path: str | None = None
    part: int | None = None
    size: int = 0
    attempt: int = 1
    queued: float = 0.0
    connection: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class FileTrack:
    """A file, from its first event to the moment it was stored."""

    path: str
    push: int
    size: int
    start: float
    end: float
    stored: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing was sent because the server asked for it or the network was down."""

    start: float
    end: float
    reason: str


@dataclass(frozen=True, slots=True)
class PushTrack:
    """One push of the timeline, or another operation."""

    push_id: str
    repo_id: str
    start: float
    end: float
    outcome: Outcome
    error: str = ""
    operation: str = "push"
    in_bucket: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One run: a push, or several at the same time.

    `throughput` is bytes sent per slice of `slice_seconds`; `skipped` counts the rows of a file
    that are not events.
    """

    began: float
    seconds: float
    pushes: tuple[PushTrack, ...]
    spans: tuple[Span, ...]
    files: tuple[FileTrack, ...]
    holds: tuple[Hold, ...]
    slice_seconds: float
    throughput: tuple[float, ...]
    skipped: int = 0

    @property
    def bytes_sent(self) -> float:
        return sum(self.throughput)

    @property
    def parts(self) -> int:
        """Parts that arrived."""
        sent = {"send", "answer"}
        stored = {(s.push, s.path, s.part) for s in self.spans if s.part and s.kind in sent}
        return len(stored)

    @property
    def retries(self) -> int:
        return sum(span.kind == "retry" for span in self.spans)


COLOURS: dict[str, str] = {
    "hash": "#aa6fb0",
    "queued": "#e4e7eb",
    "wait": "#f0a202",
    "connect": "#f2e05c",
    "send": "#1f6fb4",
    "answer": "#a6d0ee",
    "retry": "#d1352b",
    "call": "#7d93a0",
    "commit": "#14936a",
    "idle": "#f4f5f7",
}
