"""Events in the form that the timeline uses, live or from a file with any content."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from asyncpush.events import Event, Record
from asyncpush.events.schema import event_name
from asyncpush.lazy_dataclass import dataclass
from asyncpush.redaction import redact_value


@dataclass(frozen=True, slots=True)
class Moment:
    """One event: its name in JSON lines, its time and span, and its fields, none of which can be
    relied on. Credentials are removed when a text is read."""

    name: str
    time: float
    push_id: str
    span_id: str
    parent_id: str
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return str(redact_value(value, name)) if isinstance(value, str) else ""

    def number(self, name: str, default: float = 0.0) -> float:
        """A finite number that is not negative, else the default."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return default
        return float(value) if 0 <= value < 2**62 else default

    def whole(self, name: str) -> int | None:
        value = self.number(name, math.nan)
        return None if math.isnan(value) else int(value)

    def flag(self, name: str) -> bool:
        return self.fields.get(name) is True


def moment_of(record: Record) -> Moment:
    """A live event."""
    event = record.event
    return Moment(
        name=event_name(event),
        time=record.time,
        push_id=record.push_id,
        span_id=record.span_id,
        parent_id=record.parent_id or "",
        fields=_fields_of(event),
    )


def _fields_of(event: Event) -> dict[str, Any]:
    """The fields as in a row, but not redacted yet: most are never read, and there are
    thousands."""
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    return {**fields.pop("fields", {}), **fields}


def read_moments(path: str | os.PathLike[str]) -> Iterator[Moment | None]:
    """The rows of a JSON lines file; None for a line that is not an event, because it was cut off
    or comes from elsewhere."""
    with open(path, "rb") as file:
        for line in file:
            if line.strip():
                yield _moment_of_line(line)


def _moment_of_line(line: bytes) -> Moment | None:
    row = _parsed(line)
    if not isinstance(row, dict):
        return None
    name, push_id, when = row.get("event"), row.get("push_id"), _epoch(row.get("time"))
    if not isinstance(name, str) or not isinstance(push_id, str) or when is None:
        return None
    span, parent = row.get("span_id"), row.get("parent_id")
    return Moment(
        name=name, time=when, push_id=push_id, span_id=str(span), parent_id=str(parent), fields=row
    )


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(line)  # accepts what is written for file names that are not UTF-8
    except (ValueError, RecursionError):
        return None


def _epoch(time: object) -> float | None:
    if not isinstance(time, str):
        return None
    try:
        moment = datetime.fromisoformat(time)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
