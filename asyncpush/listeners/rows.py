"""One event as one flat row: what JSON lines write and log records carry.

Emitters redact what they emit. `scrub` is the second lock on the same door: nothing that looks like
a credential leaves through a listener, whoever forgot what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from asyncpush.events import Event, Record, RequestFailed, RequestFinished, RequestStarted

REDACTED = "<redacted>"

_HARMLESS = frozenset({int, float, bool, type(None)})
_SECRET_KEYS = frozenset(
    {
        "access_token",
        "accesstoken",
        "authorization",
        "cookie",
        "password",
        "proxy-authorization",
        "secret",
        "set-cookie",
        "token",
        "x-amz-security-token",
        "x-xet-access-token",
    }
)
_URL_KEYS = frozenset({"url", "upload_url", "href", "location"})

# Queries whose value is the credential itself: S3, CloudFront, GCS, Azure, and plain tokens.
_SIGNED_QUERY = re.compile(
    r"(https?://[^\s?\"'<>]+)\?"
    r"(?:[^\s\"'<>]*(?:signature|credential|security-token|access_?token)"
    r"|(?:[^\s\"'<>]*&)?(?:sig|token|policy|key-pair-id)=)"
    r"[^\s\"'<>]*",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(https?://)[^/\s@\"'<>]+@", re.IGNORECASE)
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"  # the Hub's
    r"|\bey[A-Za-z0-9_-]{10,}\.ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"  # a JWT: Xet's
    r"|(?<=\bBearer )[^\s\"',]+"
)


def scrub(value: Any, key: str = "") -> Any:
    """`value` without credentials, `key` being the name it goes by; containers are copied."""
    kind = type(value)
    if kind is str:
        return _scrub_text(value, key)
    if kind in _HARMLESS:
        return value
    if isinstance(value, Mapping):
        return {str(name): scrub(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [scrub(item, key) for item in value]
    return _scrub_text(value, key) if isinstance(value, str) else value


def _scrub_text(text: str, key: str) -> str:
    meaning = _meaning(key)
    if meaning == "secret":
        return REDACTED
    if "://" in text:
        text = _USER_INFO.sub(r"\1", text)
        if meaning == "url":
            return text.partition("?")[0].partition("#")[0]
        if "?" in text:
            text = _SIGNED_QUERY.sub(r"\1", text)
    if "hf_" in text or "ey" in text or "Bearer " in text:
        text = _TOKEN.sub(REDACTED, text)
    return text


@lru_cache(maxsize=1024)
def _meaning(key: str) -> Literal["secret", "url", ""]:
    name = key.lower()
    return "secret" if name in _SECRET_KEYS else "url" if name in _URL_KEYS else ""


def event_name(event: Event) -> str:
    """What the row is called: `hf_hub.<call>` and `hf_hub.<call>.response` for requests."""
    if isinstance(event, RequestStarted):
        return f"hf_hub.{event.call}"
    if isinstance(event, RequestFinished):
        return f"hf_hub.{event.call}.response"
    return event.name


def event_fields(event: Event) -> dict[str, Any]:
    """The event's own fields, scrubbed. What a request is about lies beside them, not below."""
    row = {name: scrub(getattr(event, name), name) for name in _names(type(event))}
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
