"""Where LFS objects are kept: one interface, with a disk and an S3-compatible server behind it.

The hub's own URLs carry their permission: HMAC-SHA256 over method, path, parameters and expiry."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlencode

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


# S3's own names: whoever redacts or reads expiry from a presigned URL knows these.
DATE, EXPIRES, SIGNATURE = "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"

DATE_FORMAT = "%Y%m%dT%H%M%SZ"


class Signer:
    """Signs URLs and checks them. A URL is valid for exactly one method, path and parameter set.

    >>> signer = Signer(b"secret", clock=lambda: 0)
    >>> signer.sign("PUT", "/_lfs/ab", {"size": "3"}, lifetime=60)[:37]
    '/_lfs/ab?size=3&X-Amz-Date=19700101T0'
    """

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self.clock = clock

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Signer:
        """The signer with the secret kept in `path`, which is created (mode 0600) when missing."""
        return cls(_load_secret(path), clock=clock)

    @property
    def name(self) -> str:
        """Identifies this signer without revealing its secret."""
        return hmac.digest(self._secret, b"name", "sha256").hex()[:16]

    def sign(self, method: str, path: str, params: Mapping[str, str], *, lifetime: int) -> str:
        """`path` with `params`, the date, the lifetime in seconds, and the signature."""
        issued = datetime.fromtimestamp(int(self.clock()), UTC).strftime(DATE_FORMAT)
        pairs = [*params.items(), (DATE, issued), (EXPIRES, str(lifetime))]
        signature = self._signature(method, path, pairs)
        return f"{path}?{urlencode([*pairs, (SIGNATURE, signature)])}"

    def check(self, method: str, path: str, query: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The signed parameters. Raises `BlobError` 403 when they were not signed here or have
        expired."""
        pairs = list(query)
        claimed = [value for name, value in pairs if name == SIGNATURE]
        signed = [pair for pair in pairs if pair[0] != SIGNATURE]
        if len(claimed) != 1 or not hmac.compare_digest(
            claimed[0].encode(), self._signature(method, path, signed).encode()
        ):
            raise BlobError(
                403,
                "The request signature we calculated does not match the signature you provided.",
                "SignatureDoesNotMatch",
            )
        # What is signed was written by `sign`, so it parses.
        params = dict(signed)
        issued = datetime.strptime(params.pop(DATE), DATE_FORMAT).replace(tzinfo=UTC)
        if self.clock() >= issued.timestamp() + int(params.pop(EXPIRES)):
            raise BlobError(403, "Request has expired", "AccessDenied")
        return params

    def _signature(self, method: str, path: str, pairs: Iterable[tuple[str, str]]) -> str:
        # Percent-encoding keeps a separator inside a value from being read as one.
        message = f"{method}\n{path}\n{urlencode(sorted(pairs))}"
        return hmac.digest(self._secret, message.encode(), "sha256").hex()


def _load_secret(path: Path) -> bytes:
    """Read the secret, or create it so that racing processes all end up with the same one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, secrets.token_bytes(32))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(fresh, path)  # Unlike a rename, this never replaces the winner's secret.
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()
