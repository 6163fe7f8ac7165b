"""Storage buckets: requests and answers.

A bucket is a mutable set of named files. It has no commits and no branches, and its content is kept
only in the Xet store. A batch changes up to 1,000 files and is not a transaction: the Hub does what
it can and lists the operations that failed. The format follows the official client (`_buckets.py`,
`hf_api.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo
from asyncpush.options import SyncOptions
from asyncpush.protocol import routes, xet
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
    protocol_error,
)
from asyncpush.protocol.repos import next_page

OPERATIONS_LIMIT = 1000
"""The most operations in one batch."""

PATHS_LIMIT = 1000
"""The most paths in one paths-info request."""

EMPTY_HASH = "0" * 64
"""The Xet hash of an empty file."""

HASH_KIND = "xet"
"""The kind of hash by which a bucket finds content, as the journal names it."""

_NDJSON = {"Content-Type": "application/x-ndjson"}
_LASTING = re.compile(
    r"invalid|not allowed|permission|forbidden|denied|unauthorized|quota|too (?:long|large)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class BucketFile:
    """A file in a bucket. `size` is bytes; `xet_hash` is None for a file without one; `uploaded_at`
    is the Hub's own time in ISO 8601, empty if the Hub does not give it."""

    path: str
    size: int
    xet_hash: str | None
    uploaded_at: str = ""

    def holds(self, size: int, xet_hash: str) -> bool:
        """Whether the file has this content."""
        return (self.size, self.xet_hash) == (size, xet_hash)


@dataclass(frozen=True, slots=True)
class AddFile:
    """Add a file whose content the Xet store already has. `mtime` is milliseconds since the epoch.
    `source` is the repo or bucket that it is copied from; None for a file that was uploaded."""

    path: str
    size: int
    xet_hash: str
    mtime: int
    content_type: str | None = None
    source: Repo | None = None

    def shows_in(self, found: Mapping[str, BucketFile]) -> bool:
        """Whether the listed files are what they should be after this operation."""
        there = found.get(self.path)
        return there is not None and there.holds(self.size, self.xet_hash)


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Remove a file. If it does not exist, that is not a failure."""

    path: str

    def shows_in(self, found: Mapping[str, BucketFile]) -> bool:
        """Whether the listed files are what they should be after this operation."""
        return self.path not in found


Operation: TypeAlias = AddFile | DeleteFile


@dataclass(frozen=True, slots=True)
class FailedOperation:
    """An operation that the Hub did not carry out, and the reason in the Hub's words."""

    path: str
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether repeating the operation may help. It does not if the reason is permanent."""
        return not is_lasting(self.reason)


def is_lasting(reason: str) -> bool:
    """Whether a reason that the Hub gives for a failed operation is permanent."""
    return _LASTING.search(reason) is not None


def address_of(bucket: Repo) -> str:
    return f"hf://{bucket.git_path}"


def info_request(bucket: Repo) -> HubRequest:
    return get("bucket", routes.api(bucket), repo_id=address_of(bucket))


def parse_info(response: HubResponse) -> str:
    """The id of the bucket, which exists."""
    return a_text(json_object(response).get("id"), "id")


def create_request(bucket: Repo, options: SyncOptions) -> HubRequest:
    body: dict[str, Any] = {}
    if options.private is not None:
        body["visibility"] = "private" if options.private else "public"
    if options.resource_group is not None:
        body["resourceGroupId"] = options.resource_group
    if options.region is not None:
        body["region"] = options.region
    path = routes.api(bucket)
    return post_json("create_bucket", path, body, repo_id=address_of(bucket))


def check_created(response: HubResponse) -> None:
    """Raise unless the bucket was created: then the Hub answers with the new bucket's `url`."""
    a_text(json_object(response).get("url"), "url")


def xet_token_request(bucket: Repo, *, write: bool) -> HubRequest:
    """A token for the Xet store. The URL has no revision, because buckets have none."""
    path = routes.bucket_xet_token(bucket, write=write)
    return xet.token_request(path, repo_id=address_of(bucket))


def batch_request(bucket: Repo, operations: Sequence[Operation]) -> HubRequest:
    """The body has one line of JSON per operation."""
    return HubRequest(
        "bucket_batch",
        "POST",
        target=routes.bucket_batch(bucket),
        body=b"".join(orjson.dumps(_row(operation)) + b"\n" for operation in operations),
        headers=_NDJSON,
        fields={"repo_id": address_of(bucket), "operations": len(operations)},
        slow=True,
    )


def _row(operation: Operation) -> dict[str, Any]:
    match operation:
        case DeleteFile(path):
            return {"type": "deleteFile", "path": path}
        case AddFile(path, _, xet_hash, mtime, source=Repo() as source):
            return {
                "type": "copyFile",
                "path": path,
                "xetHash": xet_hash,
                "mtime": mtime,
                "sourceRepoType": source.repo_type,
                "sourceRepoId": source.repo_id,
            }
        case AddFile(path, _, xet_hash, mtime, content_type):
            row = {"type": "addFile", "path": path, "xetHash": xet_hash, "mtime": mtime}
            return row if content_type is None else {**row, "contentType": content_type}


def answers_batch(response: HubResponse) -> bool:
    """Whether this is the answer to a batch: status 200, or 422 with the list of failed operations,
    if all of them failed. Any other 422 means that the request itself is invalid."""
    if response.status != 422:
        return response.status < 300
    try:
        answer = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("failed"), list)


def parse_batch(response: HubResponse) -> list[FailedOperation]:
    """The operations that failed. According to the Hub, all others were carried out."""
    answer = json_object(response)
    success = a_flag(answer.get("success"), "success")
    failed = []
    for item in a_list(answer.get("failed", []), "failed"):
        row = an_object(item, "failed[]")
        reason = a_text_or_none(row.get("error"), "failed[].error") or "no reason given"
        failed.append(FailedOperation(a_text(row.get("path"), "failed[].path"), reason))
    if not success and not failed:
        raise protocol_error("the batch failed, but the answer does not say which operations did")
    return failed


def paths_info_request(bucket: Repo, paths: Sequence[str]) -> HubRequest:
    return post_json(
        "bucket_paths_info",
        routes.bucket_paths_info(bucket),
        {"paths": list(paths)},
        repo_id=address_of(bucket),
        paths=len(paths),
    )


def parse_paths_info(response: HubResponse) -> dict[str, BucketFile]:
    """The files among the requested paths; a path that does not exist is not in the answer."""
    return {file.path: file for file in _files(json_list(response))}


def tree_request(bucket: Repo, prefix: str = "") -> HubRequest:
    """Every file whose path starts with `prefix`. The comparison is textual: "logs" also matches
    "logs.json"."""
    path = f"{routes.bucket_tree(bucket, prefix)}?recursive=true"
    return get("bucket_tree", path, repo_id=address_of(bucket))


def parse_tree(response: HubResponse) -> tuple[list[BucketFile], str | None]:
    """The files of one page, and the URL of the next page if there is one."""
    return list(_files(json_list(response))), next_page(response)


def _files(rows: Iterable[Any]) -> Iterable[BucketFile]:
    for item in rows:
        row = an_object(item, "[]")
        if (kind := row.get("type")) != "file":
            a_text(kind, "[].type")
            continue
        xet_hash, uploaded_at = row.get("xetHash"), row.get("uploadedAt")
        yield BucketFile(
            a_text(row.get("path"), "[].path"),
            a_size(row.get("size"), "[].size"),
            None if xet_hash is None else a_sha256(xet_hash, "[].xetHash"),
            a_text(uploaded_at, "[].uploadedAt") if uploaded_at else "",
        )
