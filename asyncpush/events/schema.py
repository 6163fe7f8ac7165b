"""Events as rows of JSON lines, and the JSON schema of these rows."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import orjson

from asyncpush import events
from asyncpush.events import Event, Record, RequestFailed, RequestFinished, RequestStarted
from asyncpush.models import Route
from asyncpush.redaction import redact_value


def event_name(event: Event) -> str:
    """The row's name: `hf_hub.<call>` and `hf_hub.<call>.response` for requests."""
    if isinstance(event, RequestStarted):
        return f"hf_hub.{event.call}"
    if isinstance(event, RequestFinished):
        return f"hf_hub.{event.call}.response"
    return event.name


def event_fields(event: Event) -> dict[str, Any]:
    """The event's own fields and the details of the request, without secrets."""
    names = _names(type(event))
    row = {name: redact_value(getattr(event, name), name) for name in names}
    if isinstance(event, (RequestStarted, RequestFinished, RequestFailed)):
        for name, value in row.pop("fields").items():
            row.setdefault(name, value)
    return row


def event_row(record: Record) -> dict[str, Any]:
    """The whole row: `event`, `time` (RFC 3339, UTC, microseconds), the ids, then the fields."""
    moment = datetime.fromtimestamp(record.time, UTC)
    row: dict[str, Any] = {
        "event": event_name(record.event),
        "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "push_id": record.push_id,
        "span_id": record.span_id,
        "parent_id": record.parent_id,
    }
    for name, value in event_fields(record.event).items():
        row.setdefault(name, value)
    return row


_field_names: dict[type[Event], tuple[str, ...]] = {}


def _names(kind: type[Event]) -> tuple[str, ...]:
    names = _field_names.get(kind)
    if names is None:
        names = _field_names[kind] = tuple(field.name for field in fields(kind))
    return names


SCHEMA_PATH = Path(__file__).with_name("events.schema.json")

_ANY_JSON: dict[str, Any] = {}
_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: _ANY_JSON,
}
_COMMON: dict[str, Any] = {
    "time": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
        "description": "when, in UTC",
    },
    "push_id": {"type": "string", "description": "one push, from its first event to its last"},
    "span_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "parent_id": {
        "type": ["string", "null"],
        "pattern": "^[0-9a-f]{16}$",
        "description": "the span that this one is part of; null for the push itself",
    },
}

# Details of requests, which their rows may have in addition to their own fields.
_SIZE = {"type": "integer", "minimum": 0, "description": "bytes"}
_ABOUT: dict[str, Any] = {
    "repo_id": {"type": "string"},
    "file": {"type": "string", "description": "path in the repo"},
    "size": _SIZE,
    "files": {
        "anyOf": [
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string"},
                        "size": _SIZE,
                        "route": {"enum": [*get_args(Route)]},
                    },
                    "required": ["file", "size"],
                },
            },
            {
                "type": "integer",
                "minimum": 0,
                "description": "in events of a commit: the number of files",
            },
        ],
    },
    "upload_url": {
        "type": ["string", "null"],
        "pattern": "^[^?#]*$",
        "description": "without its query, which is the credential",
    },
}


def event_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one row."""
    definitions: dict[str, Any] = {}
    for kind in event_kinds():
        definitions |= _definitions(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:asyncpush:events",
        "title": "One row of asyncpush's JSON lines",
        "type": "object",
        "required": ["event", *_COMMON],
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": definitions,
    }


def event_kinds() -> list[type[Event]]:
    """Every kind of event. `__subclasses__()` would not do: `slots=True` creates a second class for
    each, and the first one stays in that list."""
    return [
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    ]


def write_schema(path: Path = SCHEMA_PATH) -> None:
    """Write the schema. Run this after a change of `asyncpush.events`."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps(event_schema(), option=options))


def _definitions(kind: type[Event]) -> dict[str, Any]:
    properties, required = _properties(kind)
    if kind is RequestStarted:
        preupload = ["repo_id", "file", "size"]
        return {
            "hf_hub.preupload": _definition(
                kind, {"const": "hf_hub.preupload"}, properties, required + preupload
            ),
            "hf_hub.CALL": _definition(
                kind, {"pattern": r"^hf_hub\.(?!preupload$)[a-z_]+$"}, properties, required
            ),
        }
    if kind is RequestFinished:
        name = {"pattern": r"^hf_hub\.[a-z_]+\.response$"}
        return {"hf_hub.CALL.response": _definition(kind, name, properties, required)}
    return {kind.name: _definition(kind, {"const": kind.name}, properties, required)}


def _definition(
    kind: type[Event], name: dict[str, str], properties: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    return {
        "description": _first_sentence(kind),
        "properties": {"event": {"type": "string", **name}, **_COMMON, **properties},
        "required": required,
        "additionalProperties": kind in (RequestStarted, RequestFinished, RequestFailed),
    }


def _properties(kind: type[Event]) -> tuple[dict[str, Any], list[str]]:
    hints = get_type_hints(kind)
    properties = {field.name: _type_schema(hints[field.name]) for field in fields(kind)}
    if properties.pop("fields", None) is not None:
        properties |= _ABOUT
    # A row has every field, including those with a default in Python.
    return properties, [field.name for field in fields(kind) if field.name in properties]


def _type_schema(hint: Any) -> dict[str, Any]:
    if hint in _SCALARS:
        return dict(_SCALARS[hint])
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type_schema(argument) for argument in arguments]}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1])}
    raise TypeError(f"no JSON Schema for {hint!r}: add it to asyncpush.events.schema")


def _first_sentence(kind: type[Event]) -> str:
    text = " ".join((kind.__doc__ or "").split())
    # A dataclass without a docstring gets its signature as one.
    return "" if text.startswith(f"{kind.__name__}(") else text.partition(". ")[0].rstrip(".")
