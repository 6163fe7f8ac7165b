"""One store of objects out of two: LFS's own, and behind it what came by Xet."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

from anyio import to_thread

from asyncpush.localhub.blobs import BlobStore, PartSink, UploadTicket, check_oid
from asyncpush.localhub.xet.store import XetStore


def with_xet(blobs: BlobStore, xet: XetStore) -> BlobStore:
    """`blobs`, and all that `xet` holds besides; LFS uploads go to `blobs` as ever."""
    return _DiskAndXet(blobs, blobs, xet) if isinstance(blobs, PartSink) else _WithXet(blobs, xet)


class _WithXet:
    def __init__(self, blobs: BlobStore, xet: XetStore) -> None:
        self._blobs = blobs
        self._xet = xet
        self.signer = blobs.signer

    async def start(self) -> None:
        await self._blobs.start()
        await to_thread.run_sync(self._xet.sweep)

    async def close(self) -> None:
        await self._blobs.close()

    async def size(self, oid: str) -> int | None:
        """Also of an object that a Xet client has just sent: it is read back first."""
        size = await self._blobs.size(oid)
        if size is not None or not self._xet.exists:
            return size
        check_oid(oid)
        found = await to_thread.run_sync(self._xet.accept, oid)
        return None if found is None else found.size

    async def ticket(
        self, oid: str, size: int, *, base_url: str, multipart: bool = True
    ) -> UploadTicket:
        return await self._blobs.ticket(oid, size, base_url=base_url, multipart=multipart)

    async def complete(
        self, upload_id: str, oid: str, size: int, parts: Sequence[tuple[int, str]]
    ) -> None:
        await self._blobs.complete(upload_id, oid, size, parts)

    async def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        if await self._blobs.size(oid) is not None:
            async for piece in self._blobs.read(oid, start, stop):
                yield piece
            return
        pieces = await to_thread.run_sync(self._xet.read, oid, start, stop)
        while piece := await to_thread.run_sync(next, pieces, b""):
            yield piece

    def path(self, oid: str) -> Path | None:
        return self._blobs.path(oid)

    async def download_url(self, oid: str, *, base_url: str) -> str:
        return await self._blobs.download_url(oid, base_url=base_url)


class _DiskAndXet(_WithXet):
    def __init__(self, blobs: BlobStore, sink: PartSink, xet: XetStore) -> None:
        super().__init__(blobs, xet)
        self._sink = sink

    async def receive(
        self,
        oid: str,
        size: int,
        body: AsyncIterable[bytes],
        *,
        upload_id: str | None = None,
        part_number: int = 1,
    ) -> str:
        return await self._sink.receive(
            oid, size, body, upload_id=upload_id, part_number=part_number
        )
