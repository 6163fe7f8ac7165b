"""What happens during a push: frozen events, and the one dispatcher that hands them on.

Progress, bars, logs, JSON lines, traces and the timeline all listen here; the engine knows none of
them. With no listener, emitting costs one `if`.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from asyncpush.models import Phase, Route

logger = logging.getLogger("asyncpush.events")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `name` is what JSON lines call it."""

    name: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class PushStarted(Event):
    name: ClassVar[str] = "push.started"
    repo_id: str
    repo_type: str
    revision: str


@dataclass(frozen=True, slots=True)
class FilesPlanned(Event):
    """The files are known: totals for everything that follows."""

    name: ClassVar[str] = "push.planned"
    total_files: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    name: ClassVar[str] = "push.phase"
    phase: Phase


@dataclass(frozen=True, slots=True)
class HashProgress(Event):
    """`hashed` is the absolute number of bytes of this file hashed so far."""

    name: ClassVar[str] = "file.hashing"
    path: str
    hashed: int
    size: int


@dataclass(frozen=True, slots=True)
class FileHashed(Event):
    """`elapsed_ms` is the time in its thread, 0 when the hash was remembered."""

    name: ClassVar[str] = "file.hashed"
    path: str
    size: int
    oid: str
    cached: bool
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class FileRouted(Event):
    name: ClassVar[str] = "file.routed"
    path: str
    size: int
    route: Route


@dataclass(frozen=True, slots=True)
class TransferChosen(Event):
    """Which engine stores the large files of this push from here on, and why."""

    name: ClassVar[str] = "transfer.chosen"
    engine: Literal["lfs", "xet"]
    reason: str


@dataclass(frozen=True, slots=True)
class FileSkipped(Event):
    """Not uploaded: the Hub holds the same bytes there, or its .gitignore says so."""

    name: ClassVar[str] = "file.skipped"
    path: str
    size: int
    reason: Literal["unchanged", "ignored"]


@dataclass(frozen=True, slots=True)
class TransferStarted(Event):
    """A file's bytes begin to move, in `parts` parts, `resumed` bytes being stored already."""

    name: ClassVar[str] = "file.started"
    path: str
    size: int
    parts: int
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class PartProgress(Event):
    """`sent` is the absolute position within the part: a retry starts at zero again."""

    name: ClassVar[str] = "part.progress"
    path: str
    part_number: int
    sent: int
    size: int


@dataclass(frozen=True, slots=True)
class PartStored(Event):
    """The store has confirmed this part, its ETag verified."""

    name: ClassVar[str] = "part.stored"
    path: str
    part_number: int
    size: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class XetProgress(Event):
    """How far Xet is with all files of the push: bytes that were `sent`, bytes that the store was
    found to have, of `size` in all. (A file's own `part.progress` counts both.)"""

    name: ClassVar[str] = "xet.progress"
    sent: int
    deduplicated: int
    size: int


@dataclass(frozen=True, slots=True)
class FileStored(Event):
    """The store holds the whole file. `deduplicated`: it held it before we sent anything."""

    name: ClassVar[str] = "file.stored"
    path: str
    size: int
    route: Route
    deduplicated: bool = False


@dataclass(frozen=True, slots=True)
class RequestStarted(Event):
    """One attempt of one call. `call` is preupload, lfs_batch, part, complete, verify, commit …

    Written as `hf_hub.<call>`; `fields` are what the call is about (repo_id, file, size …).
    `queued_ms` is how long it waited for its turn: under the limits, and for the Hub's rate limit.
    """

    name: ClassVar[str] = "request.started"
    call: str
    method: str
    url: str
    attempt: int
    bytes_out: int
    headers: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)
    queued_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class PartConnected(Event):
    """A part's attempt has its connection and begins to send.

    `connection` is the local port, as `ss` and packet dumps show it; None where there is none.
    """

    name: ClassVar[str] = "part.connected"
    connection: int | None


@dataclass(frozen=True, slots=True)
class RequestFinished(Event):
    """An answer came, of whatever status. Written as `hf_hub.<call>.response`.

    `sent_ms` (of parts) is when the last byte was handed to the network; the rest of `elapsed_ms`
    went by until the answer was there.
    """

    name: ClassVar[str] = "request.finished"
    call: str
    method: str
    url: str
    attempt: int
    status: int
    elapsed_ms: float
    bytes_out: int
    bytes_in: int
    headers: Mapping[str, str]
    request_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    sent_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """An attempt failed. Written as `hf_hub.upload.failed`.

    `backoff_ms` is the wait before the next attempt, None when there is none; `error_type` is the
    class of what went wrong. `body` (its first 1 KB) and `headers` are the answer's, redacted, and
    empty when none came; `elapsed_seconds` are counted from the first attempt.
    """

    name: ClassVar[str] = "hf_hub.upload.failed"
    call: str
    url: str
    error: str
    status: int | None
    retry_attempt: int
    backoff_ms: float | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    error_type: str = ""
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    request_id: str | None = None
    suggestion: str = ""


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """The smallest unit is done again after `delay` seconds."""

    name: ClassVar[str] = "retry.scheduled"
    call: str
    attempt: int
    delay: float
    reason: str
    path: str | None = None
    part_number: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """Nothing is sent for `seconds`: the server said so, or the network is away."""

    name: ClassVar[str] = "session.waiting"
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class CommitStarted(Event):
    name: ClassVar[str] = "commit.started"
    files: int
    deletions: int
    parent_commit: str | None


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """`final` is False while more commits of the same push follow (`max_files_per_commit`)."""

    name: ClassVar[str] = "commit.done"
    commit_sha: str
    commit_url: str
    pr_url: str | None = None
    final: bool = True


@dataclass(frozen=True, slots=True)
class Verified(Event):
    name: ClassVar[str] = "commit.verified"
    files: int
    commit_sha: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should know that stops nothing."""

    name: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, slots=True)
class PushFinished(Event):
    """`what` was done: files committed ("upload"), only stored ("store"), planned by a dry run
    ("plan"), or compared ("audit")."""

    name: ClassVar[str] = "push.finished"
    commit_sha: str
    files_uploaded: int
    bytes_transferred: int
    elapsed_seconds: float
    what: Literal["upload", "store", "plan", "audit"] = "upload"


@dataclass(frozen=True, slots=True)
class PushFailed(Event):
    name: ClassVar[str] = "push.failed"
    error: str
    error_type: str
    cancelled: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its when and where. `time` is seconds since the epoch (UTC)."""

    event: Event
    time: float
    push_id: str
    span_id: str
    parent_id: str | None


Listener: TypeAlias = Callable[[Record], None]


@runtime_checkable
class TracingListener(Protocol):
    """A listener that also names the trace that a request belongs to.

    `trace_headers` is asked after `RequestStarted`, with the span id of that event; what it
    returns goes along to the Hub's own origin, and nowhere else.
    """

    def __call__(self, record: Record) -> None: ...

    def trace_headers(self, span_id: str) -> Mapping[str, str]: ...


def wants_headers(listener: Listener) -> bool:
    """Whether a listener has a use for the headers and descriptions of requests and answers.

    They are dear, as all of them are redacted; a listener that can do without says so by an
    attribute of its own, or of the object whose method it is: `wants_headers`.
    """
    return bool(getattr(getattr(listener, "__self__", listener), "wants_headers", True))


_span_numbers = itertools.count(1)


def new_span_id() -> str:
    """16 hex digits, as in W3C trace context, unique in this process."""
    return f"{os.getpid() & 0xFFFFFFFF:08x}{next(_span_numbers) & 0xFFFFFFFF:08x}"


class Emitter:
    """Hands events of one push to its listeners; `child()` opens a span below this one.

    A listener that raises never harms the push: it is reported once and left out from then on.
    """

    __slots__ = ("_clock", "_listeners", "parent_id", "push_id", "span_id")

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        push_id: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listeners = list(listeners)
        self._clock = clock
        self.push_id: str = push_id
        self.span_id: str = new_span_id()
        self.parent_id: str | None = None

    @property
    def active(self) -> bool:
        """Whether anybody listens: spare the making of an event when not."""
        return bool(self._listeners)

    @property
    def detailed(self) -> bool:
        """Whether anybody wants the headers of requests and answers; if not, they stay empty."""
        return any(map(wants_headers, tuple(self._listeners)))

    def child(self) -> Emitter:
        """The same listeners, one span further down."""
        child = Emitter.__new__(Emitter)
        child._listeners = self._listeners  # shared: one that is left out is left out everywhere
        child._clock = self._clock
        child.push_id = self.push_id
        child.span_id = new_span_id()
        child.parent_id = self.span_id
        return child

    def emit(self, event: Event) -> None:
        if not self._listeners:
            return
        record = Record(event, self._clock(), self.push_id, self.span_id, self.parent_id)
        for listener in tuple(self._listeners):
            try:
                listener(record)
            except Exception:
                if listener not in self._listeners:
                    continue  # reported already: it failed in another thread, or within itself
                self._listeners.remove(listener)
                logger.exception("a listener failed and gets no more events: %r", listener)
