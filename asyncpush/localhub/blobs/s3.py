"""Objects on an S3-compatible server; clients PUT to it directly, through presigned URLs.

S3 does not know our oids, so nothing that a client sends is taken for an object at once: it is
written under `staging/`, read back and hashed by the hub, and copied inside the server to its
final key when its sha256 is the oid.

    {prefix}staging/{oid}/single     a single PUT; looked at when somebody asks for the object
    {prefix}staging/{oid}/{random}   a multipart upload, looked at on its completion
    {prefix}objects/ab/cd/{oid}      verified objects
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, from_thread, to_thread

from asyncpush.localhub.blobs import (
    DEFAULT_PART_SIZE,
    DEFAULT_URL_LIFETIME,
    OBJECTS_PATH,
    BlobError,
    Signer,
    UploadTicket,
    bad_digest,
    check_oid,
    check_part_list,
    no_such_object,
    no_such_upload,
    part_size_for,
)

logger = logging.getLogger("asyncpush.localhub.s3")

_R = TypeVar("_R")

_MAX_LIFETIME = 7 * 86_400  # of a SigV4 presigned URL
_READ_SIZE = 1 << 20
_CALLS_AT_ONCE = 32
# One CopyObject takes at most 5 GiB; above that the copy is made of parts, 10,000 at most.
_COPY_AT_ONCE = 5 << 30
_COPY_PART = 1 << 30
_MD5_ETAG = re.compile(r'"?[0-9a-f]{32}"?')
# Bytes that were joined wrongly, or refused, cannot be completed any more: the client must start
# over.
_REFUSED_PARTS = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"}


class S3Store:
    """A `BlobStore` in a bucket. Keys come from the environment, as boto3 finds them.

    `signer` signs completion URLs, which lead to the hub: give the one loaded from the hub's own
    folder, or uploads cannot be completed after a restart. `part_size` must be at least 5 MiB on
    AWS itself.

    >>> S3Store("http://127.0.0.1:9000", "models").part_size
    8000000
    """

    def __init__(
        self,
        endpoint_url: str | None,
        bucket: str,
        *,
        prefix: str = "lfs/",
        signer: Signer | None = None,
        part_size: int = DEFAULT_PART_SIZE,
        url_lifetime: int = DEFAULT_URL_LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.bucket = bucket
        self.prefix = prefix
        self.part_size = part_size
        self.url_lifetime: int = min(url_lifetime, _MAX_LIFETIME)
        self.clock = clock
        self.signer: Signer = signer or Signer(secrets.token_bytes(32), clock=clock)
        self._s3: Any = None
        self._limiter: CapacityLimiter | None = None

    async def start(self) -> None:
        """Connect, and fail now rather than later if the bucket cannot be used."""
        self._limiter = CapacityLimiter(_CALLS_AT_ONCE)
        self._s3 = await to_thread.run_sync(self._connect)
        await self._run(self._s3.head_bucket, Bucket=self.bucket)
        await self._run(self._sweep)

    async def close(self) -> None:
        if self._s3 is not None:
            await to_thread.run_sync(self._s3.close)
            self._s3 = None

    async def size(self, oid: str) -> int | None:
        """Size of the object; a single PUT that has arrived is verified and stored first. There is
        no completion call after a single PUT, so the first question does its work."""
        check_oid(oid)
        return await self._run(self._size, oid)

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        check_oid(oid)
        if size <= self.part_size or not multipart:
            href = await self._run(self._presigned_put, self._staging(oid, "single"), size)
            return UploadTicket(href, self.url_lifetime)
        return await self._run(self._multipart_ticket, oid, size, base_url)

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        check_oid(oid)
        name, _, s3_upload_id = upload_id.partition(".")
        etags = check_part_list(parts, max(1, len(parts)))
        await self._run(self._complete, self._staging(oid, name), s3_upload_id, oid, size, etags)

    async def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        check_oid(oid)
        if start >= stop:
            return
        answer = await self._run(
            self._s3.get_object,
            Bucket=self.bucket,
            Key=self._key(oid),
            Range=f"bytes={start}-{stop - 1}",
        )
        with closing(answer["Body"]) as body:
            while piece := await self._run(body.read, _READ_SIZE):
                yield piece

    def path(self, oid: str) -> None:
        """There are no local files."""

    async def download_url(self, oid: str, *, base_url: str) -> str:
        """A presigned GET of the object server; `base_url` is not needed for it."""
        check_oid(oid)
        url: str = await self._run(
            self._s3.generate_presigned_url,
            "get_object",
            Params={"Bucket": self.bucket, "Key": self._key(oid)},
            ExpiresIn=self.url_lifetime,
        )
        return url

    # What follows blocks, and runs in threads.

    def _connect(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as exc:
            raise ImportError(
                "objects on an S3 server need boto3: pip install 'asyncpush[s3]'"
            ) from exc
        session = boto3.Session()
        return session.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=session.region_name or "us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                # Otherwise presigned URLs ask the client for checksums that it does not know.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=_CALLS_AT_ONCE,
                retries={"mode": "standard", "max_attempts": 3},
            ),
        )

    def _size(self, oid: str) -> int | None:
        stored = self._head(self._key(oid))
        if stored is None:
            staged = self._staging(oid, "single")
            if self._head(staged) is None:
                return None
            try:
                self._promote(staged, oid)
            except BlobError as exc:
                if exc.code != bad_digest().code:
                    raise
                return None
            stored = self._head(self._key(oid))
        return None if stored is None else int(stored["ContentLength"])

    def _presigned_put(self, key: str, size: int, **part: Any) -> str:
        """A URL for exactly `size` bytes: the length is part of what is signed."""
        url: str = self._s3.generate_presigned_url(
            "upload_part" if part else "put_object",
            Params={"Bucket": self.bucket, "Key": key, "ContentLength": size, **part},
            ExpiresIn=self.url_lifetime,
        )
        return url

    def _multipart_ticket(self, oid: str, size: int, base_url: str) -> UploadTicket:
        name = secrets.token_hex(8)
        key = self._staging(oid, name)
        opened = self._s3.create_multipart_upload(Bucket=self.bucket, Key=key)
        part_size = part_size_for(size, self.part_size)
        part_urls = [
            self._presigned_put(
                key,
                min(part_size, size - start),
                UploadId=opened["UploadId"],
                PartNumber=number,
            )
            for number, start in enumerate(range(0, size, part_size), 1)
        ]
        upload_id = f"{name}.{opened['UploadId']}"
        href = self.signer.sign(
            "POST",
            f"{OBJECTS_PATH}/{oid}/complete",
            {"uploadId": upload_id, "size": str(size)},
            lifetime=self.url_lifetime,
        )
        return UploadTicket(base_url + href, self.url_lifetime, part_urls, part_size, upload_id)

    def _complete(
        self, key: str, s3_upload_id: str, oid: str, size: int, etags: dict[int, str]
    ) -> None:
        numbered = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        try:
            self._s3.complete_multipart_upload(
                Bucket=self.bucket,
                Key=key,
                UploadId=s3_upload_id,
                MultipartUpload={"Parts": numbered},
            )
        except self._s3.exceptions.NoSuchUpload:
            # Joined already, if the hub was killed before it could verify: continue from there.
            if self._head(key) is None:
                raise no_such_upload() from None
        self._promote(key, oid)

    def _promote(self, staged: str, oid: str) -> None:
        """Copy a staged upload to its final key, if its sha256 is the oid; otherwise `BlobError`
        422."""
        answer = self._s3.get_object(Bucket=self.bucket, Key=staged)
        sha256 = hashlib.sha256()
        with closing(answer["Body"]) as body:
            for piece in body.iter_chunks(_READ_SIZE):
                from_thread.check_cancelled()
                sha256.update(piece)
        if sha256.hexdigest() == oid:
            self._copy(staged, self._key(oid), answer["ETag"])
        self._s3.delete_object(Bucket=self.bucket, Key=staged)
        if sha256.hexdigest() != oid:
            raise bad_digest()

    def _copy(self, staged: str, key: str, etag: str) -> None:
        """Copy what has been verified, and nothing uploaded in its place since (a URL can be
        reused)."""
        from boto3.s3.transfer import TransferConfig
        from botocore.exceptions import ClientError
        from s3transfer import exceptions  # type: ignore[import-untyped]

        # Newer releases have an exception of their own for a failed condition.
        refused = getattr(exceptions, "S3CopyFailedError", ClientError)
        sizes = TransferConfig(multipart_threshold=_COPY_AT_ONCE, multipart_chunksize=_COPY_PART)
        try:
            self._s3.copy(
                {"Bucket": self.bucket, "Key": staged},
                self.bucket,
                key,
                ExtraArgs={"CopySourceIfMatch": etag},
                Config=sizes,
            )
        except (refused, ClientError) as exc:
            if isinstance(exc, ClientError) and not _is_precondition(exc):
                raise
            raise _changed_meanwhile() from exc
        # Not every server honours CopySourceIfMatch: rclone ignores it. A copy in one piece has the
        # MD5 of its bytes as its ETag, like the source.
        copied = self._head(key)
        if copied is not None and _differ(etag, copied["ETag"]):
            self._s3.delete_object(Bucket=self.bucket, Key=key)
            raise _changed_meanwhile()

    def _head(self, key: str) -> Any:
        """What the server knows of a key, or None when it does not exist."""
        from botocore.exceptions import ClientError

        try:
            return self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as exc:
            if exc.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise

    def _sweep(self) -> None:
        """Remove staged objects and multipart uploads whose URLs have expired."""
        from botocore.exceptions import ClientError

        oldest = self.clock() - self.url_lifetime - 3600
        where = {"Bucket": self.bucket, "Prefix": f"{self.prefix}staging/"}
        try:
            for page in self._s3.get_paginator("list_objects_v2").paginate(**where):
                for item in page.get("Contents", ()):
                    if item["LastModified"].timestamp() < oldest:
                        self._s3.delete_object(Bucket=self.bucket, Key=item["Key"])
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(**where):
                for item in page.get("Uploads", ()):
                    if item["Initiated"].timestamp() < oldest:
                        self._s3.abort_multipart_upload(
                            Bucket=self.bucket, Key=item["Key"], UploadId=item["UploadId"]
                        )
        except ClientError as exc:
            # Some keys may write but not list. A lifecycle rule of the bucket serves as well.
            logger.warning("old uploads were not looked for: %s", exc)

    def _key(self, oid: str) -> str:
        return f"{self.prefix}objects/{oid[:2]}/{oid[2:4]}/{oid}"

    def _staging(self, oid: str, name: str) -> str:
        return f"{self.prefix}staging/{oid}/{name}"

    async def _run(self, work: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
        """Call boto3 in a thread; its errors become `BlobError`."""
        with _s3_errors():
            return await to_thread.run_sync(partial(work, *args, **kwargs), limiter=self._limiter)


@contextmanager
def _s3_errors() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as exc:
        code = exc.response["Error"]["Code"]
        if code == "NoSuchKey":
            raise no_such_object() from exc
        if code in _REFUSED_PARTS:
            raise BlobError(400, "the object server refuses these parts", code) from exc
        raise BlobError(502, f"the object server answers {code}", code) from exc
    except BotoCoreError as exc:
        # The text may name the endpoint and key, never a credential.
        raise BlobError(502, f"the object server fails: {exc}", "BadGateway") from exc


def _changed_meanwhile() -> BlobError:
    return BlobError(409, "the upload was changed while it was verified", "OperationAborted")


def _is_precondition(error: Any) -> bool:
    return error.response["Error"]["Code"] in ("412", "PreconditionFailed")


def _differ(verified: str, copied: str) -> bool:
    """Whether two ETags prove that the bytes differ: only those in MD5 form can."""
    both_md5 = all(_MD5_ETAG.fullmatch(etag) for etag in (verified, copied))
    return both_md5 and verified.strip('"') != copied.strip('"')
