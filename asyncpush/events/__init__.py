"""What happens during a push: frozen events, delivered by the `Emitter`.

Progress, bars, logs, JSON lines, traces and the timeline all listen here; the engine knows none of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal, TypeAlias

from asyncpush.events.dispatch import Emitter as Emitter
from asyncpush.events.dispatch import Event as Event
from asyncpush.events.dispatch import Listener as Listener
from asyncpush.events.dispatch import Record as Record
from asyncpush.events.dispatch import TracingListener as TracingListener
from asyncpush.events.dispatch import new_span_id as new_span_id
from asyncpush.events.dispatch import wants_event as wants_event
from asyncpush.events.dispatch import wants_headers as wants_headers
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Phase, Route, TransferName

Operation: TypeAlias = Literal["push", "upload", "commit", "copy", "sync", "audit"]


@dataclass(frozen=True, slots=True)
class PushStarted(Event):
    """A push begins, or another operation. `operation` is what was called: "push", "upload" (files
    are stored, not committed), "commit" (of receipts), "copy", "sync" or "audit"."""

    name: ClassVar[str] = "push.started"
    repo_id: str
    repo_type: str
    revision: str
    operation: Operation = "push"


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
    """`hashed` is the absolute number of bytes of this file read and hashed so far. Some transfers
    do that while they send the file."""

    name: ClassVar[str] = "file.hashing"
    path: str
    hashed: int
    size: int


@dataclass(frozen=True, slots=True)
class FileHashed(Event):
    """`elapsed_ms` is the time spent hashing in a thread, or 0 if a known hash was used."""

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
    """Which engine stores the large files of this push from now on, and why.

    `reads_while_sending`: it reads and hashes files while it sends them, not before.
    """

    name: ClassVar[str] = "transfer.chosen"
    engine: TransferName
    reason: str
    reads_while_sending: bool = False


@dataclass(frozen=True, slots=True)
class FileSkipped(Event):
    """Not uploaded: the Hub already has the same content at this path, or ignores the file."""

    name: ClassVar[str] = "file.skipped"
    path: str
    size: int
    reason: Literal["unchanged", "ignored"]


@dataclass(frozen=True, slots=True)
class TransferStarted(Event):
    """The upload of a file begins, in `parts` parts; `resumed` bytes are already stored."""

    name: ClassVar[str] = "file.started"
    path: str
    size: int
    parts: int
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class PartProgress(Event):
    """How far a part is: `sent` bytes went over the network, and the store was found to have
    `deduplicated` others. Both are absolute: a retry starts at zero again.

    A file that is not sent in parts is its own part 1, whose `size` may still grow.
    """

    name: ClassVar[str] = "part.progress"
    path: str
    part_number: int
    sent: int
    size: int
    deduplicated: int = 0

    @property
    def position(self) -> int:
        """The bytes of the part that need no sending any more."""
        return self.sent + self.deduplicated


@dataclass(frozen=True, slots=True)
class PartStored(Event):
    """The store has confirmed this part, and its ETag was verified."""

    name: ClassVar[str] = "part.stored"
    path: str
    part_number: int
    size: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class FileStored(Event):
    """The store holds the whole file. `deduplicated`: it did so before anything was sent.

    `bytes_sent` went over the network for it. This is 0 for a regular file, which is sent with the
    commit.
    """

    name: ClassVar[str] = "file.stored"
    path: str
    size: int
    route: Route
    deduplicated: bool = False
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(Event):
    """An attempt at a request begins. `call` is preupload, lfs_batch, part, complete, verify,
    commit …

    Written as `hf_hub.<call>`; `fields` are details of the request (repo_id, file, size …).
    `queued_ms` is how long it waited for its turn: because of the limits, and of the Hub's rate
    limit.
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
    """A part's attempt has its connection and starts to send.

    `connection` is the local port, as `ss` and packet dumps show it; None if there is none.
    """

    name: ClassVar[str] = "part.connected"
    connection: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Event):
    """An answer arrived, with any status. Written as `hf_hub.<call>.response`.

    `sent_ms` (of parts) is when the last byte was handed to the network. The rest of `elapsed_ms`
    was spent waiting for the answer.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed(Event):
    """An attempt failed. Written as `hf_hub.upload.failed`.

    Its span is the same as that of `RequestStarted`. The call "upload" is not a request: it means
    that an upload has to be started again. `retry_attempt` is the attempt's number. `backoff_ms` is
    the wait before the next attempt, None when there is none; `error_type` is the class of the
    error. `body` (its first 1 KB) and `headers` are the answer's, redacted, and empty when no
    answer came; `elapsed_seconds` counts from the first attempt.
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
    """The smallest unit is tried again after `delay` seconds. On the span of the failed attempt."""

    name: ClassVar[str] = "retry.scheduled"
    call: str
    attempt: int
    delay: float
    reason: str
    path: str | None = None
    part_number: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """Nothing is sent for `seconds`, because the server asked for it or the network is down."""

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
    """The Hub lists all of the push's files at this commit, and none of those it deletes. In a
    bucket, which has no commits, `commit_sha` is empty."""

    name: ClassVar[str] = "commit.verified"
    files: int
    commit_sha: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should know that does not stop the push."""

    name: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, slots=True)
class PushFinished(Event):
    """`what` was done: files committed ("upload"), only stored ("store"), planned by a dry run
    ("plan"), compared ("audit"), or synced to a bucket ("sync")."""

    name: ClassVar[str] = "push.finished"
    commit_sha: str
    files_uploaded: int
    bytes_transferred: int
    elapsed_seconds: float
    what: Literal["upload", "store", "plan", "audit", "sync"] = "upload"
    operation: Operation = "push"


@dataclass(frozen=True, slots=True)
class PushFailed(Event):
    name: ClassVar[str] = "push.failed"
    error: str
    error_type: str
    cancelled: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    operation: Operation = "push"
