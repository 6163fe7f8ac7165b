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
from asyncpush.own_files import library_logger

_push = library_logger("push")
_http = library_logger("http")
_transfer = library_logger("transfer")
_commit = library_logger("commit")

ENV = "ASYNCPUSH_LOG"
_VALUE_LIMIT = 2048  # characters of one value in verbose output: a batch answer can have megabytes
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


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
            from asyncpush.listeners.log_messages import described  # most pushes log nothing

            message, row = described(record)
            log.log(level, "%s", message, extra={"asyncpush": row})


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
