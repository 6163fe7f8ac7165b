"""The event stream as records of Python's `logging`, under `asyncpush.*`.

====================  ====================================================  ====================
logger                what                                                  level
====================  ====================================================  ====================
`asyncpush.push`      a push, sync or copy begins, ends; notices; failures  INFO, WARNING, ERROR
`asyncpush.http`      requests and answers; waits; failed attempts          DEBUG, WARNING
`asyncpush.transfer`  files hashed, routed, skipped, stored; retries        DEBUG, WARNING
`asyncpush.commit`    commits and their verification                        INFO
====================  ====================================================  ====================

Each record carries the whole event as `record.asyncpush`, a dict, for structured logging.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

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
from asyncpush.own_files import library_logger

_push = library_logger("push")
_http = library_logger("http")
_transfer = library_logger("transfer")
_commit = library_logger("commit")

ENV = "ASYNCPUSH_LOG"
_VALUE_LIMIT = 2048  # characters of one value in verbose output: a batch answer can have megabytes
_REQUEST_FAILED = r"^[A-Za-z' ]+ failed: "  # the beginning of a request's error
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_VERBS: dict[Operation, tuple[str, str]] = {
    "push": ("pushing to", "pushed"),
    "upload": ("uploading to", "stored"),
    "commit": ("committing to", "committed"),
    "copy": ("copying to", "copied"),
    "sync": ("syncing to", "synced"),
    "audit": ("comparing with", "compared"),
}
"""What is logged when an operation begins, and when it is done."""


class LogListener:
    """Writes events to `asyncpush.*` loggers. Each push has one. Whether a logger is enabled for a
    kind of event is looked up when the push emits the first of that kind."""

    def __init__(self) -> None:
        self.wants_headers: bool = _http.isEnabledFor(logging.DEBUG)

    @property
    def wants_events(self) -> Collection[type[Event]]:
        return [
            kind
            for kind, (log, level) in _PLACES.items()
            if log.isEnabledFor(logging.WARNING if kind is RequestFailed else level)
        ]

    def on_event(self, record: Record) -> None:
        event = record.event
        place = _PLACES.get(type(event))
        if place is None:  # positions within parts and hashes: too many to log
            return
        log, level = place
        if type(event) is RequestFailed and event.backoff_ms is None:
            level = logging.WARNING
        elif type(event) is PushFailed and event.cancelled:
            level = logging.INFO
        if log.isEnabledFor(level):
            row = event_row(record)
            log.log(level, "%s", _message(event, row), extra={"asyncpush": row})


_PLACES: dict[type[Event], tuple[logging.Logger, int]] = {
    PushStarted: (_push, logging.INFO),
    FilesPlanned: (_push, logging.INFO),
    PhaseChanged: (_push, logging.DEBUG),
    Notice: (_push, logging.WARNING),
    PushFinished: (_push, logging.INFO),
    PushFailed: (_push, logging.ERROR),
    RequestStarted: (_http, logging.DEBUG),
    RequestFinished: (_http, logging.DEBUG),
    RequestFailed: (_http, logging.DEBUG),
    Waiting: (_http, logging.WARNING),
    FileHashed: (_transfer, logging.DEBUG),
    FileRouted: (_transfer, logging.DEBUG),
    TransferChosen: (_transfer, logging.INFO),
    FileSkipped: (_transfer, logging.DEBUG),
    TransferStarted: (_transfer, logging.DEBUG),
    PartStored: (_transfer, logging.DEBUG),
    FileStored: (_transfer, logging.DEBUG),
    RetryScheduled: (_transfer, logging.WARNING),
    CommitStarted: (_commit, logging.INFO),
    Committed: (_commit, logging.INFO),
    Verified: (_commit, logging.INFO),
}


def _message(event: Event, row: Mapping[str, Any]) -> str:
    """The event as a sentence, from its redacted row."""
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


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the event's fields, the traceback.

    >>> handler = logging.StreamHandler()
    >>> handler.setFormatter(JsonFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        row: dict[str, Any] = {
            "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, "asyncpush", {}).items():
            row.setdefault(name, value)
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return _compact(row)


class VerboseFormatter(logging.Formatter):
    """For people: time, logger and message, with headers and fields of requests below."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        lines = [super().format(record)]
        row = getattr(record, "asyncpush", {})
        if str(row.get("event", "")).startswith("hf_hub."):
            arrow = "<" if "status" in row else ">"
            # The headers of an answer that was a failure have already been shown.
            headers = {} if "error" in row else row.get("headers", {})
            lines += [f"    {arrow} {name}: {value}" for name, value in headers.items()]
            lines += [
                f"    {name} = {_shortened(value)}"
                for name, value in row.items()
                if name not in _SHOWN_ELSEWHERE
            ]
        return "\n".join(lines)


# Already shown in the first line, or of no use to a reader.
_SHOWN_ELSEWHERE = frozenset(
    {"event", "time", "push_id", "span_id", "parent_id", "headers", "call", "method", "url"}
    | {"attempt", "status", "elapsed_ms", "bytes_out", "error", "retry_attempt", "backoff_ms"}
    | {"request_id", "error_type"}
)


def configure_from_env(environ: Mapping[str, str] | None = None) -> None:
    """Log to stderr at the level in `ASYNCPUSH_LOG`: debug, info, warning or error. Safe to call
    again.

    Without the variable nothing changes: logging belongs to the application.
    """
    wanted = (os.environ if environ is None else environ).get(ENV, "").strip().lower()
    if not wanted:
        return
    level = _LEVELS.get(wanted)
    if level is None:
        _push.warning("%s=%s is not one of %s", ENV, wanted, ", ".join(_LEVELS))
        return
    root = logging.getLogger("asyncpush")
    root.setLevel(level)
    if not any(isinstance(handler, _EnvHandler) for handler in root.handlers):
        handler = _EnvHandler(sys.stderr)
        handler.setFormatter(VerboseFormatter())
        root.addHandler(handler)


class _EnvHandler(logging.StreamHandler[Any]):
    """A type of its own, so that only one such handler is added."""


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else _compact(value)
    return text if len(text) <= _VALUE_LIMIT else f"{text[:_VALUE_LIMIT]}… ({len(text)} characters)"


def _compact(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode("utf-8")
    except TypeError:  # a file name that is not UTF-8, or an integer beyond 64 bits
        return json.dumps(value, default=str)
