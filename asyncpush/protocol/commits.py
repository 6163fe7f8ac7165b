"""Preupload and commit. Preupload asks for the upload mode of files and whether a model card is
valid; the commit is made of NDJSON lines that describe the changes.

A commit is a header line, then one line per change. Inline files are contained in it as base64."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, TypeAlias

import orjson

from asyncpush.errors import ProtocolError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import CARD_NAME, FileSource, Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    StreamBody,
    a_flag,
    a_git_oid,
    a_list,
    a_text,
    a_text_or_none,
    an_object,
    json_object,
    post_json,
    protocol_error,
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
    return b"".join(change_pieces(change, content))


def change_pieces(change: Change, content: bytes = b"") -> tuple[bytes, ...]:
    """The line of one change, in pieces to be joined with those of other lines. The line of an
    inline file is not made as a JSON value: its content would be copied four more times."""
    match change:
        case AddInline(path):
            encoded = binascii.b2a_base64(content, newline=False)
            return _INLINE_START, _ascii_json(path), _INLINE_CONTENT, encoded, _INLINE_END
        case AddLfs(path, size, oid):
            value = {"path": path, "algo": "sha256", "oid": oid, "size": size}
            return (_line("lfsFile", value),)
        case Delete(path):
            return (_line("deletedFile", {"path": path}),)


_INLINE_START = b'{"key":"file","value":{"path":'
_INLINE_CONTENT = b',"content":"'
_INLINE_END = b'","encoding":"base64"}}\n'
_INLINE_SIZE = len(_INLINE_START + _INLINE_CONTENT + _INLINE_END)


def payload_size(header: CommitHeader, changes: Iterable[Change]) -> int:
    """Size of the whole body in bytes. It allows the body to be streamed with a Content-Length:
    proxies and stores often have problems with bodies of unknown size."""
    size = len(header_line(header))
    for change in changes:
        if isinstance(change, AddInline):
            size += _INLINE_SIZE + len(_ascii_json(change.path)) + 4 * -(-change.size // 3)
        else:
            size += len(change_line(change))
    return size


def commit_request(
    repo: Repo, revision: str, body: StreamBody, *, create_pr: bool, **fields: Any
) -> HubRequest:
    query = "?create_pr=1" if create_pr else ""
    return HubRequest(
        "commit",
        "POST",
        target=routes.commit(repo, revision) + query,
        body=body,
        headers={"Content-Type": "application/x-ndjson"},
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
    return _ascii_json({"key": key, "value": value}) + b"\n"


def _ascii_json(value: object) -> bytes:
    """In ASCII, like the official client: some Hubs (KohakuHub) also split the body at other
    Unicode line separators, such as U+2028, which may occur in a title or a path."""
    text = orjson.dumps(value)
    return text if text.isascii() else json.dumps(value, separators=(",", ":")).encode("ascii")


PREUPLOAD_LIMIT = 256
"""Files in one request, as in the official client."""

SAMPLE_SIZE = 512
"""The Hub asks for this many bytes from the beginning of each file."""


@dataclass(frozen=True, slots=True)
class UploadMode:
    """The Hub's answer for one path. `oid` is what the path holds now (git blob sha1 for a regular
    file, sha256 for an LFS one)."""

    mode: Literal["regular", "lfs"]
    ignored: bool
    oid: str | None


def preupload_request(
    repo: Repo,
    revision: str,
    files: Sequence[tuple[FileSource, bytes]],
    *,
    create_pr: bool = False,
    gitignore: str | None = None,
) -> HubRequest:
    """`files` are pairs of a file and its sample."""
    body: dict[str, object] = {
        "files": [
            {
                "path": file.path_in_repo,
                "size": file.size,
                "sample": base64.b64encode(sample).decode("ascii"),
            }
            for file, sample in files
        ]
    }
    if gitignore is not None:
        body["gitIgnore"] = gitignore
    query = "?create_pr=1" if create_pr else ""
    return post_json(
        "preupload",
        routes.preupload(repo, revision) + query,
        body,
        repo_id=repo.repo_id,
        file=files[0][0].path_in_repo,
        size=sum(file.size for file, _ in files),
        files=[{"file": file.path_in_repo, "size": file.size} for file, _ in files],
    )


def parse_preupload(response: HubResponse, files: Sequence[FileSource]) -> Mapping[str, UploadMode]:
    """The mode of every requested file. Empty files are always regular, because the Hub's store
    refuses empty objects."""
    modes: dict[str, UploadMode] = {}
    for row in a_list(json_object(response).get("files"), "files"):
        fields = an_object(row, "files[]")
        path = a_text(fields.get("path"), "files[].path")
        mode: Any = a_text(fields.get("uploadMode"), "files[].uploadMode")
        if mode not in ("regular", "lfs"):
            raise protocol_error(f"files[].uploadMode is {mode[:80]!r}", response)
        modes[path] = UploadMode(
            mode,
            a_flag(fields.get("shouldIgnore", False), "files[].shouldIgnore"),
            a_text_or_none(fields.get("oid"), "files[].oid"),
        )
    answered: dict[str, UploadMode] = {}
    for file in files:
        if file.path_in_repo not in modes:
            raise protocol_error(f"files[] has no entry for {file.path_in_repo!r}", response)
        mode = modes[file.path_in_repo]
        answered[file.path_in_repo] = (
            mode if file.size else UploadMode("regular", mode.ignored, mode.oid)
        )
    return answered


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """What the Hub says about the card, in sentences. With any error it would refuse the commit."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def validate_request(repo: Repo, card: str) -> HubRequest:
    return post_json(
        "validate_yaml",
        routes.VALIDATE_CARD,
        {"content": card, "repoType": repo.repo_type},
        repo_id=repo.repo_id,
        file=CARD_NAME,
        size=len(card.encode()),
    )


def parse_verdict(response: HubResponse) -> CardVerdict:
    """The Hub answers 200 with warnings, or 400 with errors."""
    answer = json_object(response)
    return CardVerdict(
        _messages(answer.get("errors"), "errors"), _messages(answer.get("warnings"), "warnings")
    )


def is_verdict(response: HubResponse) -> bool:
    """Whether a 400 is about the card, rather than about the request."""
    if response.status != 400:
        return False
    try:
        answer = json_object(response)
    except ProtocolError:
        return False
    return isinstance(answer.get("errors"), list)


def _messages(rows: Any, name: str) -> tuple[str, ...]:
    return tuple(
        a_text(an_object(row, f"{name}[]").get("message"), f"{name}[].message")
        for row in a_list(rows or [], name)
    )
