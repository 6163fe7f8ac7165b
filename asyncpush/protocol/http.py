"""Requests to a Hub and its answers as values, and reading an answer's fields one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias

import orjson

from asyncpush.errors import ProtocolError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.protocol.failures import REMEDIES

JSON_HEADERS = {"Content-Type": "application/json"}
FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}
LFS_HEADERS = {
    "Accept": "application/vnd.git-lfs+json",
    "Content-Type": "application/vnd.git-lfs+json",
}

VERIFY = "verify"
"""The name of the verify request in events. There is one for each LFS object that was sent."""

Auth: TypeAlias = Literal["token", "none"]


@dataclass(frozen=True, slots=True)
class StreamBody:
    """A body of known size that is produced anew for each attempt."""

    size: int
    open: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One request.

    `target` is a path below the endpoint, or an absolute URL that the Hub gave us. `call` is its
    name in events, and `fields` are its details there. `auth` says whether it carries the Hub
    token, which in any case is sent only to the endpoint's own origin. `slow` requests may take
    minutes (commit, completion, merge); all others are light. A request that is not `queued` does
    not count towards the limit of concurrent requests, because the requests that fill the limit may
    be waiting for the token that it gets. An `optional` one is for something that not every Hub
    has: a 404 means that this Hub does not have it.
    """

    call: str
    method: str
    target: str = field(repr=False)  # The query of a presigned URL is a credential.
    body: bytes | StreamBody | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Auth = "token"
    fields: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False
    queued: bool = True
    optional: bool = False

    @property
    def size(self) -> int:
        """Bytes of the body."""
        match self.body:
            case None:
                return 0
            case StreamBody(size=size):
                return size
            case body:
                return len(body)


@dataclass(frozen=True, slots=True)
class HubResponse:
    """A complete answer. The names in `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(default="", repr=False)


def get(call: str, path: str, **fields: Any) -> HubRequest:
    return HubRequest(call, "GET", path, fields=fields)


def post_json(
    call: str, path: str, body: Any, *, headers: Mapping[str, str] = JSON_HEADERS, **fields: Any
) -> HubRequest:
    return HubRequest(
        call, "POST", target=path, body=orjson.dumps(body), headers=headers, fields=fields
    )


VALUES_LIMIT = 500_000
"""The most values in one JSON answer: 32 MiB of `[],[],…` would become a gigabyte of Python
objects. A page of 1,000 tree entries has about 10,000 values, a batch answer of 64 objects in 300
parts about 20,000."""

_LARGEST = 1 << 60  # Bytes; no file, part or answer is larger than an exbibyte.


def protocol_error(message: str, response: HubResponse | None = None) -> ProtocolError:
    """The error for an answer that cannot be parsed. `response` may be left out where the parser
    has only the answer's fields."""
    retryable = REMEDIES["garbled"].retryable
    if response is None:
        return ProtocolError(message, retryable=retryable)
    return ProtocolError(
        message,
        status=response.status,
        body=response.body[:1024].decode("utf-8", "replace"),
        url=response.url,
        headers=response.headers,
        retryable=retryable,
    )


def json_value(response: HubResponse) -> Any:
    body = response.body
    # An upper bound of the number of values, counted before any of them takes memory.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > VALUES_LIMIT:
        raise protocol_error(f"the answer contains more than {VALUES_LIMIT:,} values", response)
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError as exc:
        raise protocol_error(f"the answer is not JSON: {exc}", response) from exc


def json_object(response: HubResponse) -> dict[str, Any]:
    value = json_value(response)
    if not isinstance(value, dict):
        raise protocol_error(f"the answer is {_kind(value)}, but an object was expected", response)
    return value


def json_list(response: HubResponse) -> list[Any]:
    value = json_value(response)
    if not isinstance(value, list):
        raise protocol_error(f"the answer is {_kind(value)}, but a list was expected", response)
    return value


def an_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise protocol_error(f"{name} is {_kind(value)}, but an object was expected")
    return value


def a_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise protocol_error(f"{name} is {_kind(value)}, but a list was expected")
    return value


def a_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise protocol_error(f"{name} is {_kind(value)}, but a text was expected")
    return value


def a_text_or_none(value: Any, name: str) -> str | None:
    return None if value is None else a_text(value, name)


def a_flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise protocol_error(f"{name} is {_kind(value)}, but true or false was expected")
    return value


def a_size(value: Any, name: str) -> int:
    """A number of bytes. Some Hubs send numbers in headers as text, or as `16000000.0`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise protocol_error(f"{name} is {_kind(value)}, but a number of bytes was expected")
    if not 0 <= value <= _LARGEST:
        raise protocol_error(f"{name} is {value}, which cannot be a number of bytes")
    return value


def a_sha256(value: Any, name: str) -> str:
    text = a_text(value, name)
    if not is_hex(text, 64):
        raise protocol_error(f"{name} is not a sha256: {text[:80]!r}")
    return text


def a_git_oid(value: Any, name: str) -> str:
    text = a_text(value, name)
    if not is_hex(text, 40, 64):
        raise protocol_error(f"{name} is not a git object id: {text[:80]!r}")
    return text


def is_hex(text: str, *lengths: int) -> bool:
    """Whether a text is a hash of one of these lengths, in lower-case hexadecimal digits."""
    return len(text) in lengths and not text.strip("0123456789abcdef")


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
