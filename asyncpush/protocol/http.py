"""What is asked of a Hub and what it answers, as values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

JSON_HEADERS = {"Content-Type": "application/json"}
FORM_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}
LFS_HEADERS = {
    "Accept": "application/vnd.git-lfs+json",
    "Content-Type": "application/vnd.git-lfs+json",
}

Auth: TypeAlias = Literal["token", "none"]


@dataclass(frozen=True, slots=True)
class StreamBody:
    """A body of known size that is made anew for each attempt."""

    size: int
    open: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One call. `target` is a path below the endpoint, or an absolute URL that the Hub gave us.

    `call` names it in events; `fields` say there what it is about. `auth` says whether the Hub
    token belongs on it; it goes to the endpoint's own origin in any case only. `slow` calls may
    rightly take minutes to be answered (commit, completion, merge); the others are light. What is
    not `queued` takes no place among the calls under way: those wait for a token themselves.
    """

    call: str
    method: str
    target: str = field(repr=False)  # of a presigned URL the query is a credential
    body: bytes | StreamBody | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Auth = "token"
    fields: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False
    queued: bool = True

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
    """An answer, read whole. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(default="", repr=False)


def get(call: str, path: str, **fields: Any) -> HubRequest:
    return HubRequest(call, "GET", path, fields=fields)


def post_json(
    call: str, path: str, body: Any, *, headers: Mapping[str, str] = JSON_HEADERS, **fields: Any
) -> HubRequest:
    return HubRequest(call, "POST", path, orjson.dumps(body), headers, fields=fields)
