"""Where LFS objects are kept: one interface, with a disk and an S3-compatible server behind it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from asyncpush.localhub.blobs.signing import Signer

OBJECTS_PATH = "/_lfs"
"""First segment of the hub's own signed URLs. No namespace can begin with an underscore."""

MAX_PARTS = 10_000
"""The highest part number, as in S3."""

MAX_OBJECT_SIZE = 5 << 40
"""The largest object that S3 accepts."""

DEFAULT_PART_SIZE = 8_000_000
DEFAULT_URL_LIFETIME = 86_400

_OID = re.compile(r"[0-9a-f]{64}")


class BlobError(Exception):
    """The store refuses: `status` is the HTTP status for it, `code` is S3's error code."""

    def __init__(self, status: int, message: str, code: str = "InvalidRequest") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """How a client may store one object: presigned URLs and what they need.

    `part_urls` is empty for a single PUT to `href`; otherwise `href` is the completion URL and
    `part_urls[i]` takes part `i + 1`, each of `chunk_size` bytes except the last.
    """

    href: str = field(repr=False)
    expires_in: int
    part_urls: Sequence[str] = field(default=(), repr=False)
    chunk_size: int = 0
    upload_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class BlobStore(Protocol):
    """Objects by sha256. A stored object is complete, durable, and matches its oid."""

    signer: Signer
    """Signs the hub's own URLs: parts and downloads of the disk, completions of every store."""

    async def start(self) -> None:
        """Prepare the store, and remove uploads that can no longer be completed."""
        ...

    async def close(self) -> None: ...

    async def size(self, oid: str) -> int | None:
        """Size of the stored object in bytes, or None when it is not (completely) stored."""
        ...

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        """Open an upload. Each call opens a new one; `base_url` is the hub's own origin.

        Without `multipart` (the client does not speak it) the answer is a single PUT.
        """
        ...

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        """Join a multipart upload from its `(part_number, etag)` pairs. Raises `BlobError`, and
        stores nothing, when a number, an ETag, the size or the sha256 is wrong."""
        ...

    def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of a stored object."""
        ...

    def path(self, oid: str) -> Path | None:
        """The stored object as a local file, for `sendfile`; None when the store has no files."""
        ...

    async def download_url(self, oid: str, *, base_url: str) -> str:
        """A signed URL that answers GET with a stored object, Range included."""
        ...


@runtime_checkable
class PartSink(Protocol):
    """A store whose PUTs come to the hub itself rather than to another server."""

    async def receive(
        self,
        oid: str,
        size: int,
        body: AsyncIterable[bytes],
        *,
        upload_id: str | None = None,
        part_number: int = 1,
    ) -> str:
        """Store one part, or with no `upload_id` a whole object; answer the quoted ETag."""
        ...


def no_such_upload() -> BlobError:
    """S3's answer for an upload that is finished, aborted, or never was."""
    return BlobError(404, "The specified upload does not exist.", "NoSuchUpload")


def no_such_object() -> BlobError:
    """S3's answer for an object that does not exist."""
    return BlobError(404, "The specified key does not exist.", "NoSuchKey")


def bad_digest() -> BlobError:
    """The answer to bytes that do not match their oid."""
    return BlobError(422, "the sha256 of the uploaded bytes is not the oid", "BadDigest")


def check_oid(oid: str) -> None:
    """Raises `BlobError` 422 unless this is an oid: it becomes part of paths and keys."""
    if not is_oid(oid):
        raise BlobError(422, "an oid is 64 lower-case hexadecimal digits")


def is_oid(text: object) -> bool:
    """Whether this is a sha256 in lower-case hex, and so safe as a file name."""
    return isinstance(text, str) and _OID.fullmatch(text) is not None


def part_size_for(size: int, part_size: int) -> int:
    """The part size, increased where `size` would otherwise take more than 10,000 parts."""
    return max(part_size, -(-size // MAX_PARTS))


def check_part_list(parts: Sequence[tuple[int, str]], expected: int) -> dict[int, str]:
    """ETags by part number. Raises `BlobError` unless the numbers are 1 to `expected`, each
    once."""
    numbers = sorted(number for number, _ in parts)
    if numbers != list(range(1, expected + 1)):
        raise BlobError(
            400, f"the parts must be 1 to {expected}, each exactly once", "InvalidPartOrder"
        )
    return dict(parts)


__all__ = [
    "DEFAULT_PART_SIZE",
    "DEFAULT_URL_LIFETIME",
    "MAX_OBJECT_SIZE",
    "MAX_PARTS",
    "OBJECTS_PATH",
    "BlobError",
    "BlobStore",
    "PartSink",
    "UploadTicket",
    "bad_digest",
    "check_oid",
    "check_part_list",
    "is_oid",
    "no_such_object",
    "no_such_upload",
    "part_size_for",
]
