"""Objects on the local disk; clients PUT to the hub itself, through URLs signed here."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from anyio import to_thread

from asyncpush.localhub.blobs import (
    DEFAULT_PART_SIZE,
    DEFAULT_URL_LIFETIME,
    OBJECTS_PATH,
    BlobError,
    Signer,
    UploadTicket,
    bad_digest,
    check_oid,
    no_such_object,
    no_such_upload,
    part_size_for,
)
from asyncpush.localhub.blobs.multipart import (
    Completion,
    PartWriter,
    Promise,
    Upload,
    publish,
    write_all,
)

HOP = 2 << 20
"""Bytes gathered before a thread hashes and writes them. A hop costs 0.2 ms of CPU, as much as the
MD5 of 150 KiB; measured at 512 KiB, 1, 2 and 4 MiB, there is little to gain beyond this."""

_HASH_SLICE = 64 << 20
_READ_SIZE = 1 << 20
# An upload outlives its URLs a little, so that a completion that began in time is not removed.
_GRACE = 3600.0
_SWEEP_EVERY = 600.0

_A = TypeVar("_A")
_R = TypeVar("_R")


class DiskStore:
    """A `BlobStore` in a folder; safe to share by several processes and across kill -9.

        objects/ab/cd/<oid>   whole, synced, verified objects: they appear by rename
        uploads/<upload id>/  multipart uploads under way, see `multipart`
        incoming/             bodies of single PUTs under way
        secret                signs the URLs; mode 0600

    `part_size` is what clients are told to send at a time, `url_lifetime` how many seconds they
    have. Uploads not completed in that time are removed. `clock` is `time.time` but in tests.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        part_size: int = DEFAULT_PART_SIZE,
        url_lifetime: int = DEFAULT_URL_LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root: Path = Path(root)
        self.part_size = part_size
        self.url_lifetime = url_lifetime
        self.clock = clock
        self.signer: Signer = Signer.load(self.root / "secret", clock=clock)
        self._next_sweep = 0.0

    async def start(self) -> None:
        await to_thread.run_sync(self._prepare)

    async def close(self) -> None:
        """Nothing is held open between calls."""

    def path(self, oid: str) -> Path:
        check_oid(oid)
        return self.root / "objects" / oid[:2] / oid[2:4] / oid

    async def size(self, oid: str) -> int | None:
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        check_oid(oid)
        return await to_thread.run_sync(self._ticket, oid, size, base_url, multipart)

    async def receive(
        self,
        oid: str,
        size: int,
        body: AsyncIterable[bytes],
        *,
        upload_id: str | None = None,
        part_number: int = 1,
    ) -> str:
        """Store exactly `size` bytes of `body`: a part, or without `upload_id` a whole object. One
        thread hop for each 2 MiB, and only one for a body smaller than that."""
        writer = await self._writer(oid, size, upload_id, part_number)
        pieces: list[bytes] = []
        held = received = 0
        try:
            async for piece in body:
                received += len(piece)
                if received > size:
                    raise BlobError(400, "the body is longer than was signed", "EntityTooLarge")
                pieces.append(piece)
                held += len(piece)
                if held >= HOP and received < size:
                    await _in_thread(writer.write, pieces)
                    pieces, held = [], 0
            if received < size:
                raise BlobError(400, "the body is shorter than was signed", "IncompleteBody")
            return await _in_thread(writer.finish, pieces)
        finally:
            writer.close()

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        upload = await to_thread.run_sync(self._open_upload, upload_id, oid)
        if size != upload.promise.size:
            raise BlobError(400, "the size is not the one the upload was opened with")
        completion = Completion(upload, parts)
        try:
            await to_thread.run_sync(completion.begin)
            while await to_thread.run_sync(completion.hash_some, _HASH_SLICE):
                pass
            await _in_thread(completion.commit, self.path(oid))
        finally:
            completion.close()

    async def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            file = self.path(oid).open("rb", buffering=0)
        except FileNotFoundError:
            raise no_such_object() from None
        with file:
            file.seek(start)
            while start < stop:
                wanted = min(_READ_SIZE, stop - start)
                piece = await to_thread.run_sync(file.read, wanted)
                if not piece:
                    return
                start += len(piece)
                yield piece

    async def download_url(self, oid: str, *, base_url: str) -> str:
        check_oid(oid)
        return base_url + self.signer.sign(
            "GET", f"{OBJECTS_PATH}/{oid}", {}, lifetime=self.url_lifetime
        )

    def _prepare(self) -> None:
        for name in ("objects", "uploads", "incoming"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._sweep()

    def _ticket(self, oid: str, size: int, base_url: str, multipart: bool) -> UploadTicket:
        if self.clock() >= self._next_sweep:
            self._sweep()
        if size <= self.part_size or not multipart:
            href = self._signed_put(oid, size, {})
            return UploadTicket(base_url + href, self.url_lifetime)
        promise = Promise(
            oid, size, part_size_for(size, self.part_size), self.clock() + self.url_lifetime
        )
        upload_id = secrets.token_hex(16)
        Upload.create(self.root / "uploads" / upload_id, promise)
        part_urls = []
        for number in range(1, promise.part_count + 1):
            start, stop = promise.part_range(number)
            scope = {"uploadId": upload_id, "partNumber": str(number)}
            part_urls.append(base_url + self._signed_put(oid, stop - start, scope))
        href = self.signer.sign(
            "POST",
            f"{OBJECTS_PATH}/{oid}/complete",
            {"uploadId": upload_id, "size": str(size)},
            lifetime=self.url_lifetime,
        )
        return UploadTicket(
            base_url + href, self.url_lifetime, part_urls, promise.part_size, upload_id
        )

    def _signed_put(self, oid: str, length: int, scope: dict[str, str]) -> str:
        return self.signer.sign(
            "PUT",
            f"{OBJECTS_PATH}/{oid}",
            {**scope, "size": str(length)},
            lifetime=self.url_lifetime,
        )

    async def _writer(
        self, oid: str, size: int, upload_id: str | None, part_number: int
    ) -> _Writer:
        if upload_id is None:
            return ObjectWriter(self.root / "incoming" / secrets.token_hex(16), oid, self.path(oid))
        # Three small system calls: cheaper here than in a thread.
        upload = self._open_upload(upload_id, oid)
        start, stop = upload.promise.part_range(part_number)
        if not 1 <= part_number <= upload.promise.part_count or size != stop - start:
            raise BlobError(400, "no part of this upload has this number and size", "InvalidPart")
        return PartWriter(upload, part_number)

    def _open_upload(self, upload_id: str, oid: str) -> Upload:
        if len(upload_id) != 32 or not upload_id.isalnum():
            raise no_such_upload()
        upload = Upload.open(self.root / "uploads" / upload_id)
        if upload.promise.oid != oid:
            raise no_such_upload()
        return upload

    def _sweep(self) -> None:
        """Remove what can no longer be completed: uploads whose URLs have expired, and incomplete
        bodies."""
        now = self.clock()
        self._next_sweep = now + _SWEEP_EVERY
        for folder in (self.root / "uploads").iterdir():
            try:
                expires = Upload.open(folder).promise.expires
            except BlobError:  # killed before, or while, its meta.json was written
                expires = _modified(folder) + self.url_lifetime
            if now > expires + _GRACE:
                Upload(folder, Promise("", 0, 1, 0)).remove()
        for body in (self.root / "incoming").iterdir():
            if now > _modified(body) + self.url_lifetime + _GRACE:
                body.unlink(missing_ok=True)


class _Writer(Protocol):
    def write(self, pieces: Sequence[bytes]) -> None: ...

    def finish(self, pieces: Sequence[bytes]) -> str: ...

    def close(self) -> None: ...


class ObjectWriter:
    """Writes a whole object, and publishes it when its sha256 is the oid."""

    def __init__(self, incoming: Path, oid: str, target: Path) -> None:
        self._incoming = incoming
        self._oid = oid
        self._target = target
        self._offset = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._fd: int | None = None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Store the next bytes of the object."""
        if self._fd is None:
            self._fd = os.open(self._incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        for piece in pieces:
            write_all(self._fd, piece, self._offset)
            self._offset += len(piece)
            self._md5.update(piece)
            self._sha256.update(piece)

    def finish(self, pieces: Sequence[bytes]) -> str:
        """Store the last bytes, check the sha256, publish, and answer the ETag."""
        self.write(pieces)
        if self._sha256.hexdigest() != self._oid:
            raise bad_digest()
        assert self._fd is not None
        publish(self._fd, self._incoming, self._target)
        return f'"{self._md5.hexdigest()}"'

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._incoming.unlink(missing_ok=True)


async def _in_thread(work: Callable[[_A], _R], argument: _A) -> _R:
    """Run `work` in a thread; a full disk becomes an answer that the client understands."""
    with _disk_errors():
        return await to_thread.run_sync(work, argument)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise BlobError(507, "the hub's disk is full", "InsufficientStorage") from exc


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process removes them too
        return 0.0
