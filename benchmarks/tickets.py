"""The Hub's side of the benchmark stores: where clients are sent, and what counts as stored."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from anyio import to_thread

from asyncpush.localhub.blobs import (
    DEFAULT_URL_LIFETIME,
    OBJECTS_PATH,
    Signer,
    UploadTicket,
    no_such_object,
)
from benchmarks.files import part_sizes
from benchmarks.store import SinkServer


class _Tickets:
    """A `BlobStore` that believes everything: bytes are checked by the test suite, not here."""

    def __init__(self, part_size: int) -> None:
        self.part_size = part_size
        self.signer = Signer(secrets.token_bytes(32))
        self._sizes: dict[str, int] = {}

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        raise no_such_object()

    def path(self, oid: str) -> Path | None:
        return None

    async def download_url(self, oid: str, *, base_url: str) -> str:
        raise no_such_object()

    def _completion(self, base_url: str, oid: str, size: int, upload_id: str) -> str:
        scope = {"uploadId": upload_id, "size": str(size)}
        path = f"{OBJECTS_PATH}/{oid}/complete"
        return base_url + self.signer.sign("POST", path, scope, lifetime=DEFAULT_URL_LIFETIME)


class SinkTickets(_Tickets):
    """Sends clients to a `SinkServer`."""

    def __init__(self, sink: SinkServer, part_size: int) -> None:
        super().__init__(part_size)
        self._sink = sink

    async def size(self, oid: str) -> int | None:
        return self._sizes.get(oid) if oid in self._sink.stored else None

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        self._sizes[oid] = size
        if size <= self.part_size or not multipart:
            return UploadTicket(f"{self._sink.url}/{oid}/whole", DEFAULT_URL_LIFETIME)
        numbers = range(1, len(part_sizes(size, self.part_size)) + 1)
        upload_id = secrets.token_hex(16)
        return UploadTicket(
            self._completion(base_url, oid, size, upload_id),
            DEFAULT_URL_LIFETIME,
            [f"{self._sink.url}/{oid}/{number}" for number in numbers],
            self.part_size,
            upload_id,
        )

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        self._sink.stored.add(oid)


class S3Tickets(_Tickets):
    """Sends clients to an S3 server, through URLs presigned by boto3."""

    def __init__(self, endpoint: str, bucket: str, part_size: int) -> None:
        super().__init__(part_size)
        self._endpoint = endpoint
        self._bucket = bucket
        self._s3: Any = None
        self._stored: set[str] = set()

    async def start(self) -> None:
        import boto3
        from botocore.config import Config

        settings = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        self._s3 = boto3.client(
            "s3", endpoint_url=self._endpoint, region_name="us-east-1", config=settings
        )

    async def size(self, oid: str) -> int | None:
        return self._sizes.get(oid) if oid in self._stored else None

    def forget(self) -> None:
        self._stored.clear()

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        self._sizes[oid] = size
        return await to_thread.run_sync(self._open, oid, size, base_url)

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        await to_thread.run_sync(
            lambda: self._s3.complete_multipart_upload(
                Bucket=self._bucket,
                Key=oid,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
            )
        )
        self._stored.add(oid)

    def _open(self, oid: str, size: int, base_url: str) -> UploadTicket:
        where = {"Bucket": self._bucket, "Key": oid}
        upload_id = str(self._s3.create_multipart_upload(**where)["UploadId"])
        numbers = range(1, len(part_sizes(size, self.part_size)) + 1)
        urls = [
            str(
                self._s3.generate_presigned_url(
                    "upload_part", {**where, "UploadId": upload_id, "PartNumber": number}
                )
            )
            for number in numbers
        ]
        completion = self._completion(base_url, oid, size, upload_id)
        return UploadTicket(completion, DEFAULT_URL_LIFETIME, urls, self.part_size, upload_id)
