"""Events as sentences for the log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncpush.events import (
    CommitStarted,
    Committed,
    Event,
    FileHashed,
    FileRouted,
    FileSkipped,
    FilesPlanned,
    FileStored,
    Notice,
    Operation,
    PartStored,
    PhaseChanged,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    RetryScheduled,
    TransferChosen,
    TransferStarted,
    Verified,
    Waiting,
)
from asyncpush.events.schema import event_row
from asyncpush.listeners.format import format_bytes, format_count, format_duration

_REQUEST_FAILED = r"^[A-Za-z' ]+ failed: "  # the beginning of a request's error

_VERBS: dict[Operation, tuple[str, str]] = {
    "push": ("pushing to", "pushed"),
    "upload": ("uploading to", "stored"),
    "commit": ("committing to", "committed"),
    "copy": ("copying to", "copied"),
    "sync": ("syncing to", "synced"),
    "audit": ("comparing with", "compared"),
}
"""What is logged when an operation begins, and when it is done."""


def described(record: Record) -> tuple[str, dict[str, Any]]:
    """The event as a sentence, and its redacted row."""
    row = event_row(record)
    return _message(record.event, row), row


def _message(event: Event, row: Mapping[str, Any]) -> str:
    match event:
        case PushStarted():
            revision = f", revision {event.revision}" if event.revision else ""
            return f"{_VERBS[event.operation][0]} {event.repo_type} {event.repo_id}{revision}"
        case FilesPlanned():
            return f"{format_count(event.total_files, 'file')}, {format_bytes(event.total_bytes)}"
        case PhaseChanged():
            return event.phase
        case Notice():
            return str(row["message"])
        case PushFinished():
            commit = f": commit {event.commit_sha}" if event.commit_sha else ""
            done = _VERBS[event.operation][1]
            if event.what == "plan":
                done = f"would {event.operation}"
            return (
                f"{done} {format_count(event.files_uploaded, 'file')},"
                f" {format_bytes(event.bytes_transferred)}"
                f" in {format_duration(event.elapsed_seconds)}{commit}"
            )
        case PushFailed():
            what = "cancelled" if event.cancelled else "failed"
            return f"{event.operation} {what}: {event.error_type}: {row['error']}"
        case RequestStarted():
            return (
                f"{event.method} {row['url']} ({event.call}, attempt {event.attempt},"
                f" {format_bytes(event.bytes_out)})"
            )
        case RequestFinished():
            return (
                f"{event.status} from {event.method} {row['url']} ({event.call},"
                f" attempt {event.attempt}, {event.elapsed_ms:.0f} ms)"
            )
        case RequestFailed():
            status = "no answer" if event.status is None else f"HTTP {event.status}"
            after = "" if event.backoff_ms is None else f", again in {event.backoff_ms:.0f} ms"
            reason = re.sub(_REQUEST_FAILED, "", row["error"])
            return f"{event.call} failed, attempt {event.retry_attempt} ({status}): {reason}{after}"
        case Waiting():
            return f"waiting {format_duration(event.seconds)}: {row['reason']}"
        case FileHashed():
            return f"{event.path}: {event.oid}{' (known)' if event.cached else ''}"
        case FileRouted():
            return f"{event.path}: {event.route}, {format_bytes(event.size)}"
        case TransferChosen():
            return f"large files are sent through {event.engine}: {row['reason']}"
        case FileSkipped():
            return f"{event.path}: {event.reason}"
        case TransferStarted():
            resumed = f", {format_bytes(event.resumed)} already stored" if event.resumed else ""
            return f"{event.path}: {format_count(event.parts, 'part')}{resumed}"
        case PartStored():
            how = "resumed" if event.resumed else "stored"
            return f"{event.path}: part {event.part_number} {how}"
        case FileStored():
            how = "was already there" if event.deduplicated else "stored"
            return f"{event.path}: {how} ({event.route})"
        case RetryScheduled():
            where = "" if event.path is None else f" of {event.path}"
            if event.part_number is not None:
                where += f", part {event.part_number}"
            return (
                f"{event.call}{where}: again in {event.delay:.1f} s"
                f" (attempt {event.attempt}): {row['reason']}"
            )
        case CommitStarted():
            return (
                f"committing {format_count(event.files, 'file')},"
                f" {format_count(event.deletions, 'deletion')}"
            )
        case Committed():
            return f"committed {event.commit_sha}: {row['commit_url']}"
        case Verified():
            at = f" at {event.commit_sha}" if event.commit_sha else ""
            return f"verified {format_count(event.files, 'file')}{at}"
        case _:
            return event.name
