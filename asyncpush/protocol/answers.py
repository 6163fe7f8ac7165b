"""Reading JSON that may be anything: each helper gives a value of the type asked for, or a
`ProtocolError` that names the field."""

from __future__ import annotations

import re
from typing import Any

import orjson

from asyncpush.errors import ProtocolError
from asyncpush.protocol.http import HubResponse

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
VALUES_LIMIT = 500_000
"""Values of one JSON answer: 32 MiB of `[],[],…` would become a gigabyte of Python objects. A page
of 1,000 tree entries has some 10,000, a batch answer of 64 objects in 300 parts some 20,000."""

_LARGEST = 1 << 60  # bytes; no file, part or answer is larger than an exbibyte


def protocol_error(message: str, response: HubResponse | None = None) -> ProtocolError:
    """`retryable`, because a truncated or garbled answer is usually whole the next time."""
    if response is None:
        return ProtocolError(message, retryable=True)
    return ProtocolError(
        message,
        status=response.status,
        body=response.body[:1024].decode("utf-8", "replace"),
        url=response.url,
        headers=response.headers,
        retryable=True,
    )


def json_value(response: HubResponse) -> Any:
    body = response.body
    # At least as many as there are values, counted before any of them takes memory.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > VALUES_LIMIT:
        raise protocol_error(f"the answer holds more than {VALUES_LIMIT:,} values", response)
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError as exc:
        raise protocol_error(f"the answer is not JSON: {exc}", response) from exc


def json_object(response: HubResponse) -> dict[str, Any]:
    value = json_value(response)
    if not isinstance(value, dict):
        raise protocol_error(f"the answer is {_kind(value)}, an object was expected", response)
    return value


def json_list(response: HubResponse) -> list[Any]:
    value = json_value(response)
    if not isinstance(value, list):
        raise protocol_error(f"the answer is {_kind(value)}, a list was expected", response)
    return value


def an_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise protocol_error(f"{name} is {_kind(value)}, an object was expected")
    return value


def a_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise protocol_error(f"{name} is {_kind(value)}, a list was expected")
    return value


def a_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise protocol_error(f"{name} is {_kind(value)}, a text was expected")
    return value


def a_text_or_none(value: Any, name: str) -> str | None:
    return None if value is None else a_text(value, name)


def a_flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise protocol_error(f"{name} is {_kind(value)}, true or false was expected")
    return value


def a_size(value: Any, name: str) -> int:
    """A number of bytes; some Hubs write numbers in headers as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise protocol_error(f"{name} is {_kind(value)}, a number of bytes was expected")
    if not 0 <= value <= _LARGEST:
        raise protocol_error(f"{name} is {value}, which cannot be a number of bytes")
    return value


def a_sha256(value: Any, name: str) -> str:
    text = a_text(value, name)
    if not _SHA256.fullmatch(text):
        raise protocol_error(f"{name} is not a sha256: {text[:80]!r}")
    return text


def a_git_oid(value: Any, name: str) -> str:
    text = a_text(value, name)
    if not _GIT_OID.fullmatch(text):
        raise protocol_error(f"{name} is not a git object id: {text[:80]!r}")
    return text


def _kind(value: Any) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
