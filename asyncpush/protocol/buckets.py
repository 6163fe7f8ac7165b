"""Storage buckets: requests and answers.

A bucket is a mutable set of named files. It has no commits and no branches, and its bytes are in
the Xet store alone. A batch changes up to 1,000 files and is no transaction: the Hub does what it
can and lists what failed. The facts are from the official client (`_buckets.py`, `hf_api.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

import orjson

from asyncpush.models import Repo
from asyncpush.options import SyncOptions
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    a_flag,
    a_list,
    a_sha256,
    a_size,
    a_text,
    a_text_or_none,
    an_object,
    get,
    json_list,
    json_object,
    post_json,
)
from asyncpush.protocol.tree import next_page

OPERATIONS_LIMIT = 1000
"""Operations of one batch."""

PATHS_LIMIT = 1000
"""Paths of one paths-info call."""

EMPTY_HASH = "0" * 64
"""The Xet hash of a file without bytes."""

_NDJSON = {"Content-Type": "application/x-ndjson"}
_LASTING = re.compile(
    r"invalid|not allowed|permission|forbidden|denied|unauthorized|quota|too (?:long|large)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class BucketFile:
    """A file as the Hub shows it. `size` is bytes; `xet_hash` is None for a file that has none;
    `uploaded_at` is the Hub's own time, ISO 8601, or empty where the Hub does not say."""

    path: str
    size: int
    xet_hash: str | None
    uploaded_at: str = ""

    def holds(self, size: int, xet_hash: str) -> bool:
        """Whether these are its bytes."""
        return (self.size, self.xet_hash) == (size, xet_hash)


@dataclass(frozen=True, slots=True)
class AddFile:
    """Put a file whose bytes the Xet store has. `mtime` is milliseconds since the epoch."""

    path: str
    size: int
    xet_hash: str
    mtime: int
    content_type: str | None = None

    def shows_in(self, found: Mapping[str, BucketFile]) -> bool:
        """Whether these files are what this operation leads to."""
        there = found.get(self.path)
        return there is not None and there.holds(self.size, self.xet_hash)


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Remove a file. One that is not there is no failure."""

    path: str

    def shows_in(self, found: Mapping[str, BucketFile]) -> bool:
        """Whether these files are what this operation leads to."""
        return self.path not in found


Operation: TypeAlias = AddFile | DeleteFile


@dataclass(frozen=True, slots=True)
class FailedOperation:
    """An operation that the Hub did not do, and why, in the Hub's words."""

    path: str
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether sending it again is worth it: not where the reason will still hold then."""
        return _LASTING.search(self.reason) is None


def address_of(bucket: Repo) -> str:
    return f"hf://{bucket.git_path}"


def info_request(bucket: Repo) -> HubRequest:
    return get("bucket", f"/api/{bucket.api_path}", repo_id=address_of(bucket))


def parse_info(response: HubResponse) -> str:
    """The id of the bucket that is there."""
    return a_text(json_object(response).get("id"), "id")


def create_request(bucket: Repo, options: SyncOptions) -> HubRequest:
    body: dict[str, Any] = {}
    if options.private is not None:
        body["visibility"] = "private" if options.private else "public"
    if options.resource_group is not None:
        body["resourceGroupId"] = options.resource_group
    if options.region is not None:
        body["region"] = options.region
    path = f"/api/{bucket.api_path}"
    return post_json("create_bucket", path, body, repo_id=address_of(bucket))


def check_created(response: HubResponse) -> None:
    """The Hub answers with the new bucket's `url`: another answer created nothing for sure."""
    a_text(json_object(response).get("url"), "url")


def xet_token_request(bucket: Repo, *, write: bool) -> HubRequest:
    """A token for the Xet store. There is no revision in its address, as buckets have none."""
    path = f"/api/{bucket.api_path}/xet-{'write' if write else 'read'}-token"
    return get("xet_token", path, repo_id=address_of(bucket))


def batch_request(bucket: Repo, operations: Sequence[Operation]) -> HubRequest:
    """One line of JSON an operation."""
    return HubRequest(
        "bucket_batch",
        "POST",
        f"/api/{bucket.api_path}/batch",
        b"".join(orjson.dumps(_row(operation)) + b"\n" for operation in operations),
        _NDJSON,
        fields={"repo_id": address_of(bucket), "operations": len(operations)},
        slow=True,
    )


def _row(operation: Operation) -> dict[str, Any]:
    match operation:
        case DeleteFile(path):
            return {"type": "deleteFile", "path": path}
        case AddFile(path, _, xet_hash, mtime, content_type):
            row = {"type": "addFile", "path": path, "xetHash": xet_hash, "mtime": mtime}
            return row if content_type is None else {**row, "contentType": content_type}


def answers_batch(response: HubResponse) -> bool:
    """Whether this is the answer to a batch: 200, or 422 with the operations that failed, which is
    all of them. Any other 422 says that the request itself is wrong."""
    if response.status != 422:
        return response.status < 300
    try:
        answer = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("failed"), list)


def parse_batch(response: HubResponse) -> list[FailedOperation]:
    """The operations that failed; all others were done, by the Hub's account."""
    answer = json_object(response)
    a_flag(answer.get("success"), "success")
    failed = []
    for item in a_list(answer.get("failed", []), "failed"):
        row = an_object(item, "failed[]")
        reason = a_text_or_none(row.get("error"), "failed[].error") or "no reason given"
        failed.append(FailedOperation(a_text(row.get("path"), "failed[].path"), reason))
    return failed


def paths_info_request(bucket: Repo, paths: Sequence[str]) -> HubRequest:
    return post_json(
        "bucket_paths_info",
        f"/api/{bucket.api_path}/paths-info",
        {"paths": list(paths)},
        repo_id=address_of(bucket),
        paths=len(paths),
    )


def parse_paths_info(response: HubResponse) -> dict[str, BucketFile]:
    """The files among the paths asked about; a path that is not there is not in the answer."""
    return {file.path: file for file in _files(json_list(response))}


def tree_request(bucket: Repo, prefix: str = "") -> HubRequest:
    """The files whose paths begin with the text of `prefix`: "logs" also lists "logs.json"."""
    below = f"/{quote(prefix, safe='')}" if prefix else ""
    path = f"/api/{bucket.api_path}/tree{below}?recursive=true"
    return get("bucket_tree", path, repo_id=address_of(bucket))


def parse_tree(response: HubResponse) -> tuple[list[BucketFile], str | None]:
    """The files of one page, and the URL of the next page if there is one."""
    return list(_files(json_list(response))), next_page(response)


def _files(rows: Iterable[Any]) -> Iterable[BucketFile]:
    for item in rows:
        row = an_object(item, "[]")
        if a_text(row.get("type"), "[].type") != "file":
            continue
        xet_hash = row.get("xetHash")
        yield BucketFile(
            a_text(row.get("path"), "[].path"),
            a_size(row.get("size"), "[].size"),
            None if xet_hash is None else a_sha256(xet_hash, "[].xetHash"),
            a_text_or_none(row.get("uploadedAt"), "[].uploadedAt") or "",
        )
