"""Where LFS objects lie: one interface, a disk and an S3-compatible server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class BlobError(Exception):
    """The store refuses: `status` is the HTTP status that says so to the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """How a client may store one object: presigned URLs and what they need.

    `part_urls` is empty for a single PUT to `href`; otherwise `href` is the completion URL and
    `part_urls[i]` takes part `i + 1`, each of `chunk_size` bytes but the last.
    """

    href: str
    expires_in: int
    part_urls: Sequence[str] = ()
    chunk_size: int = 0
    headers: Mapping[str, str] | None = None


class BlobStore(Protocol):
    """Objects by sha256. A stored object is whole, durable, and has the bytes its oid says."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def size(self, oid: str) -> int | None:
        """Bytes of the stored object, or None when it is not (wholly) there."""
        ...

    async def ticket(self, oid: str, size: int, *, base_url: str) -> UploadTicket:
        """Open an upload. Each call opens a new one; `base_url` is the hub's own origin."""
        ...

    async def complete(self, upload_id: str, oid: str, parts: Mapping[int, str]) -> None:
        """Join a multipart upload; `BlobError` when a part, an ETag, the size or the sha256 is off."""
        ...

    def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of a stored object."""
        ...
