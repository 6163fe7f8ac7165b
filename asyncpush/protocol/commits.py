"""The commit: the NDJSON lines that describe the changes, and the Hub's answer.

A commit is a header line, then one line per change. Inline files are contained in it as base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from asyncpush.models import Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    StreamBody,
    a_git_oid,
    a_text,
    a_text_or_none,
    json_object,
)
from asyncpush.protocol.urls import page_url

TRAILER = "Asyncpush-Push-Id"
"""Git trailer in the commit's description by which a push recognises its own commit."""


@dataclass(frozen=True, slots=True)
class AddInline:
    """A small file whose content is in the commit itself; `oid` is its git blob sha1."""

    path: str
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class AddLfs:
    """A file whose content is an LFS object that is already stored; `oid` is its sha256."""

    path: str
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class Delete:
    """The removal of a file from the repo."""

    path: str


Change: TypeAlias = AddInline | AddLfs | Delete


@dataclass(frozen=True, slots=True)
class CommitHeader:
    """The header line; `parent_commit` is the head that the commit must follow."""

    summary: str
    description: str
    parent_commit: str | None


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    oid: str
    url: str
    pr_url: str | None = field(default=None)


def with_trailer(description: str, push_id: str) -> str:
    """The description with the push's id as its last paragraph."""
    trailer = f"{TRAILER}: {push_id}"
    return f"{description.rstrip()}\n\n{trailer}" if description.strip() else trailer


def has_trailer(message: str, push_id: str) -> bool:
    return f"{TRAILER}: {push_id}" in message.splitlines()


def same_commit(one: str, other: str) -> bool:
    """Whether two ids mean the same commit. Some Hubs (KohakuHub) give the first 40 characters of
    an id in one answer and all 64 in another."""
    return one.startswith(other) or other.startswith(one)


def header_line(header: CommitHeader) -> bytes:
    value: dict[str, Any] = {"summary": header.summary, "description": header.description}
    if header.parent_commit is not None:
        value["parentCommit"] = header.parent_commit
    return _line("header", value)


def change_line(change: Change, content: bytes = b"") -> bytes:
    """The line of one change; `content` is the file's content for `AddInline`."""
    match change:
        case AddInline(path):
            encoded = base64.b64encode(content).decode("ascii")
            return _line("file", {"path": path, "content": encoded, "encoding": "base64"})
        case AddLfs(path, size, oid):
            return _line("lfsFile", {"path": path, "algo": "sha256", "oid": oid, "size": size})
        case Delete(path):
            return _line("deletedFile", {"path": path})


def payload_size(header: CommitHeader, changes: Iterable[Change]) -> int:
    """Size of the whole body in bytes. It allows the body to be streamed with a Content-Length:
    proxies and stores often have problems with bodies of unknown size."""
    size = len(header_line(header))
    for change in changes:
        size += len(change_line(change))
        if isinstance(change, AddInline):
            size += 4 * -(-change.size // 3)
    return size


def commit_request(
    repo: Repo, revision: str, body: StreamBody, *, create_pr: bool, **fields: Any
) -> HubRequest:
    query = "?create_pr=1" if create_pr else ""
    return HubRequest(
        "commit",
        "POST",
        routes.commit(repo, revision) + query,
        body,
        {"Content-Type": "application/x-ndjson"},
        fields={"repo_id": repo.repo_id, "revision": revision, **fields},
        slow=True,
    )


def parse_commit(response: HubResponse, endpoint: str) -> CommitAnswer:
    answer = json_object(response)
    pr_url = a_text_or_none(answer.get("pullRequestUrl"), "pullRequestUrl")
    return CommitAnswer(
        a_git_oid(answer.get("commitOid"), "commitOid"),
        page_url(a_text(answer.get("commitUrl"), "commitUrl"), endpoint),
        page_url(pr_url, endpoint) if pr_url else None,
    )


def _line(key: str, value: dict[str, Any]) -> bytes:
    """In ASCII, like the official client: some Hubs (KohakuHub) also split the body at other
    Unicode line separators, such as U+2028, which may occur in a title or a path."""
    row = {"key": key, "value": value}
    line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii():
        return line
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"
