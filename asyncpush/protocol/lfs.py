"""LFS: the batch request, multipart and basic uploads, completion and verify, and objects that are
copied from another repo without an upload.

Sources: the git-lfs batch API document; the transfer agent `lfs-multipart-upload` of
huggingface_hub for the keys of the upload action's header; its `copy_files` (2.4) for copies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple, TypeAlias

from asyncpush.errors import HubError, printable
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Part, Repo
from asyncpush.protocol import routes
from asyncpush.protocol.failures import is_retryable_status, object_refused
from asyncpush.protocol.http import (
    LFS_HEADERS,
    VERIFY,
    HubRequest,
    HubResponse,
    a_list,
    a_sha256,
    a_size,
    a_text,
    an_object,
    get,
    is_hex,
    json_object,
    post_json,
    protocol_error,
)

TRANSFERS = ("basic", "multipart")
"""The transfers that we offer, by their names in the batch request."""

BATCH_LIMIT = 256
"""Objects in one batch request."""

USUAL_PART_SIZE = 16_000_000
"""The algorithm that the public Hub uses. Each answer names the one that applies."""

SURELY_ONE_PUT = 1 << 20
"""An object of up to this many bytes never needs parts: S3's parts have at least 5 MiB, except for
the last one."""

PARTS_A_BATCH = 16_000
"""The most parts of all objects in one request. A URL takes half a KiB, sometimes twice that, so
this keeps the answer well within the size limit."""

PARTS_LIMIT = 100_000
"""More parts than any store accepts (S3: 10,000). An answer with more is invalid."""

OTHER_KEYS = 100
"""The most entries of an upload action's header that are not part URLs."""


class LfsObject(NamedTuple):
    """An object, identified by its sha256; `size` is bytes. It is a key of several dicts, and a
    tuple is hashed in C."""

    oid: str
    size: int


def parts_expected(item: LfsObject) -> int:
    """About how many part URLs the answer for an object will contain: the Hub's parts have 16
    MB."""
    return -(-item.size // USUAL_PART_SIZE)


@dataclass(frozen=True, slots=True)
class BasicUpload:
    """The whole object goes to `url` in one PUT, with `headers`. `lifetime` is how many seconds the
    URL is valid; None if the Hub does not say."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """Each part goes to its own URL; then the parts' ETags are POSTed to `completion_url`.
    `chunk_size` is the size in bytes of each part but the last. `lifetime` is how many seconds the
    URLs are valid; None if the Hub does not say."""

    completion_url: str = field(repr=False)
    parts: tuple[Part, ...]
    chunk_size: int
    lifetime: float | None = None


Upload: TypeAlias = BasicUpload | MultipartUpload
"""How the store accepts one object."""


@dataclass(frozen=True, slots=True)
class LfsActions:
    """The batch's answer for one object. Without `upload` the object is already stored."""

    oid: str
    upload: Upload | None = None
    verify_url: str | None = field(default=None, repr=False)


def batch_request(repo: Repo, objects: Sequence[LfsObject], *, revision: str | None) -> HubRequest:
    """`revision` is None for a pull request, whose ref does not exist yet."""
    body: dict[str, Any] = {
        "operation": "upload",
        "transfers": list(TRANSFERS),
        "objects": [{"oid": item.oid, "size": item.size} for item in objects],
        "hash_algo": "sha256",
    }
    if revision is not None:
        body["ref"] = {"name": revision}
    return post_json(
        "lfs_batch",
        routes.lfs_batch(repo),
        body,
        headers=LFS_HEADERS,
        repo_id=repo.repo_id,
        objects=[{"oid": item.oid, "size": item.size} for item in objects],
    )


def parse_batch(response: HubResponse, objects: Sequence[LfsObject]) -> Mapping[str, LfsActions]:
    """Actions by oid, for every requested object. Raises `HubError` when the Hub refuses one, and
    `ProtocolError` for an invalid answer, such as a transfer we did not offer."""
    answer = json_object(response)
    transfer = _parse_transfer(answer.get("transfer"), response)
    sizes = {item.oid: item.size for item in objects}
    actions: dict[str, LfsActions] = {}
    for row in a_list(answer.get("objects"), "objects"):
        fields = an_object(row, "objects[]")
        oid = a_sha256(fields.get("oid"), "objects[].oid")
        if oid not in sizes:
            raise protocol_error(f"objects[] names {oid}, which was not requested", response)
        if fields.get("error") is not None:
            raise _object_error(an_object(fields["error"], "objects[].error"), oid, response)
        actions[oid] = _parse_actions(fields, oid, sizes[oid], transfer)
    for oid in sizes:
        if oid not in actions:
            raise protocol_error(f"objects[] has no entry for {oid}", response)
    return actions


def _parse_transfer(value: object, response: HubResponse) -> str | None:
    """The transfer that the Hub has chosen; None if the answer does not name one."""
    if value is None:
        return None
    transfer = a_text(value, "transfer")
    if transfer not in TRANSFERS:
        raise protocol_error(
            f"the LFS batch answers transfer {transfer[:40]!r}, but only"
            f" {' and '.join(TRANSFERS)} were offered",
            response,
        )
    return transfer


def _object_error(error: Mapping[str, Any], oid: str, response: HubResponse) -> HubError:
    code = a_size(error.get("code"), "objects[].error.code")
    message = a_text(error.get("message"), "objects[].error.message")
    return HubError(
        f"the Hub refuses LFS object {oid}: {message[:300]}",
        status=code,
        body=message,
        method="POST",
        url=response.url,
        headers=response.headers,
        retryable=is_retryable_status(code, message),
        suggestion=object_refused(code, message),
    )


def _parse_actions(
    fields: Mapping[str, Any], oid: str, size: int, transfer: str | None
) -> LfsActions:
    if fields.get("actions") is None:
        return LfsActions(oid)
    actions = an_object(fields["actions"], "actions")
    verify = actions.get("verify")
    verify_url = (
        None
        if verify is None
        else a_text(an_object(verify, "actions.verify").get("href"), "actions.verify.href")
    )
    upload: Upload | None = None
    if actions.get("upload") is not None:
        fields = an_object(actions["upload"], "actions.upload")
        upload = _parse_upload(fields, size, transfer)
    return LfsActions(oid, upload, verify_url)


def _parse_upload(upload: Mapping[str, Any], size: int, transfer: str | None) -> Upload:
    href = a_text(upload.get("href"), "actions.upload.href")
    header = an_object(upload.get("header") or {}, "actions.upload.header")
    if not _in_parts(header, transfer):
        plain = {
            name: a_text(value, f"actions.upload.header.{name}") for name, value in header.items()
        }
        return BasicUpload(href, plain, _lifetime(upload, href))
    chunk_size = a_size(header["chunk_size"], "actions.upload.header.chunk_size")
    if chunk_size == 0:
        raise protocol_error("actions.upload.header.chunk_size is 0")
    urls = _part_urls(header, expected=-(-size // chunk_size))
    if not urls:
        raise protocol_error("actions.upload asks for an empty object in parts")
    parts = cut_into_parts(urls, size, chunk_size)
    return MultipartUpload(href, parts, chunk_size, _lifetime(upload, urls[0]))


def _in_parts(header: Mapping[str, Any], transfer: str | None) -> bool:
    """Whether an object is uploaded in parts.

    Under "multipart", each object's action says so with a `chunk_size`: small objects of the same
    batch are single PUTs. Under "basic", the action's header contains HTTP headers for the PUT,
    unless it lists part URLs: KohakuHub lists them but leaves `transfer` at its default, and the
    official client never reads `transfer`.
    """
    if header.get("chunk_size") is None:
        return False
    return transfer != "basic" or any(key.isdigit() for key in header)


def _part_urls(header: Mapping[str, Any], *, expected: int) -> list[str]:
    """Presigned URLs in part order. The keys are part numbers, which some Hubs pad with zeros."""
    if expected > PARTS_LIMIT:
        raise protocol_error(f"chunk_size would make {expected} parts")
    if len(header) > expected + OTHER_KEYS:
        raise protocol_error(
            f"actions.upload.header has {len(header)} entries, but parts 1 to {expected} were"
            " expected"
        )
    numbered = sorted(
        (int(key), a_text(value, f"actions.upload.header.{key}"))
        for key, value in header.items()
        if key.isascii() and key.isdigit() and len(key) <= 8
    )
    if [number for number, _ in numbered] != list(range(1, expected + 1)):
        raise protocol_error(
            f"actions.upload.header names {len(numbered)} parts, but 1 to {expected} were expected"
        )
    return [url for _, url in numbered]


def _lifetime(upload: Mapping[str, Any], url: str) -> float | None:
    """`expires_in`, else the URL's own `X-Amz-Expires`. Never an absolute time: comparing it needs
    a correct local clock."""
    seconds = upload.get("expires_in")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
        return float(seconds)
    signed = re.search(r"[?&]X-Amz-Expires=(\d{1,7})(?:&|$)", url)
    return float(signed[1]) if signed else None


def cut_into_parts(urls: Sequence[str], size: int, chunk_size: int) -> tuple[Part, ...]:
    """Part `i` of `chunk_size` bytes goes to `urls[i - 1]`; the last one gets the rest."""
    return tuple(
        Part(number, offset, min(chunk_size, size - offset), url)
        for number, (offset, url) in enumerate(
            zip(range(0, size, chunk_size), urls, strict=True), start=1
        )
    )


def complete_request(url: str, oid: str, etags: Sequence[str]) -> HubRequest:
    """Completes a multipart upload. POSTed without the Hub token, like the official client does:
    the URL itself is the credential."""
    body = {
        "oid": oid,
        "parts": [
            {"partNumber": number, "etag": etag} for number, etag in enumerate(etags, start=1)
        ],
    }
    request = post_json("complete", url, body, headers=LFS_HEADERS, oid=oid, parts=len(etags))
    return HubRequest(
        request.call,
        request.method,
        target=request.target,
        body=request.body,
        headers=request.headers,
        auth="none",
        fields=request.fields,
        slow=True,
    )


def verify_request(url: str, item: LfsObject, **fields: Any) -> HubRequest:
    """LFS's own check that an object arrived completely. Unlike the other two requests it is plain
    JSON, as the official client sends it."""
    body = {"oid": item.oid, "size": item.size}
    return post_json(VERIFY, url, body, oid=item.oid, **fields)


def strong(etag: str) -> str:
    """The ETag without the prefix of a weak one (RFC 9110, section 8.8.3).

    >>> strong('W/"abc"')
    '"abc"'
    """
    return etag.strip().removeprefix("W/")


def md5_of_etag(etag: str, headers: Mapping[str, str]) -> str | None:
    """The MD5 that an ETag contains, or None when it has another form.

    Stores without encryption, or with SSE-S3, answer with a part's MD5; with KMS or customer keys
    the ETag is something else (AWS documentation of PutObject, "ETag").
    """
    if headers.get("x-amz-server-side-encryption", "").startswith("aws:kms"):
        return None
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    md5 = strong(etag).removeprefix('"').removesuffix('"').lower()
    return md5 if is_hex(md5, 32) else None


DUPLICATES_LIMIT = 500
"""Objects in one request, as in the official client."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in the store: its sha256, its Xet hash, and the path of a file in the source repo
    that has this content."""

    oid: str
    xet_hash: str
    path: str


def duplicate_request(source: Repo, target: Repo, objects: Sequence[StoredObject]) -> HubRequest:
    """Give the repo `target` the objects of `source`, so that a commit there may name them. The
    request goes to the source repo. Both repos must be stored in the same region."""
    body = {
        "target": {"type": target.repo_type, "name": target.repo_id},
        "files": [
            {"xetHash": each.xet_hash, "sha256": each.oid, "filename": each.path}
            for each in objects
        ],
    }
    return post_json(
        "duplicate",
        routes.duplicate(source),
        body,
        repo_id=target.repo_id,
        source=source.repo_id,
        objects=len(objects),
    )


def parse_duplicate(response: HubResponse) -> Mapping[str, str]:
    """The objects that could not be copied: the reason by sha256. Empty when all were copied."""
    failed: dict[str, str] = {}
    for row in a_list(json_object(response).get("failed") or [], "failed"):
        fields = an_object(row, "failed[]")
        oid = a_sha256(fields.get("sha256"), "failed[].sha256")
        failed[oid] = printable(a_text(fields.get("error"), "failed[].error")[:300])
    return failed


def content_request(repo: Repo, revision: str, path: str) -> HubRequest:
    """The content of a file, which is the body of the answer."""
    return get(
        "content",
        routes.content(repo, revision, path),
        repo_id=repo.repo_id,
        revision=revision,
        file=path,
    )
