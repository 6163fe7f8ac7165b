"""Xet's folder: xorbs and shards as clients sent them, and a record of each object that was rebuilt
from them and verified.

    xorbs/ab/cd/<xorb hash>     chunks, packed
    shards/<sha256>             files, described: a shard says only what a client says
    objects/ab/cd/<sha256>      xet hash and size, written after the object was read back whole
    incoming/                   bodies under way
    secret                      signs the tokens; mode 0600

Several processes may share the folder; a killed one leaves nothing half-written under a final name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import orjson
from anyio import to_thread

from asyncpush.localhub.blobs import BlobError, BlobStore, PartSink, Signer, UploadTicket, check_oid
from asyncpush.localhub.blobs.multipart import publish
from asyncpush.localhub.store.writing import write_atomically
from asyncpush.localhub.web import Refusal
from asyncpush.localhub.xet.shards import (
    BadShardError,
    BadXorbError,
    XetFile,
    Xorb,
    XorbRange,
    answer_shard,
    open_xorb,
    parse_shard,
    read_chunks,
)

_GRAIN = 1_000_000_000
"""Nanoseconds after which a folder's modification time covers every earlier change."""

_ABANDONED = 24 * 3600.0
_SHARD_LIFETIME = 24 * 3600
_CHUNKS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Known:
    """An object that was read back: its Xet hash and its size."""

    hash: str
    size: int


class XetStore:
    """Objects that were uploaded with Xet. Blocks: call it in threads. `root` need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._shards_read: set[str] = set()
        self._looked_at = -1
        self._by_hash: dict[str, XetFile] = {}
        self._by_sha256: dict[str, dict[str, XetFile]] = {}
        self._by_chunk: dict[str, str] = {}
        self._xorb = lru_cache(64)(self._open_xorb)

    @property
    def exists(self) -> bool:
        """Whether anything was ever uploaded."""
        return (self.root / "shards").is_dir()

    def sweep(self) -> None:
        """Remove incomplete bodies that are old."""
        for body in (self.root / "incoming").glob("*"):
            if body.stat().st_mtime < time.time() - _ABANDONED:
                body.unlink(missing_ok=True)

    def new_body(self) -> Path:
        """A path where a body may be written while it arrives."""
        folder = self.root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / secrets.token_hex(16)

    def add_xorb(self, xorb_hash: str, body: Path) -> bool:
        """Store a xorb that has arrived; False when it was stored already. Raises
        `BadXorbError`."""
        target = self._xorb_path(xorb_hash)
        if target.exists():
            return False
        open_xorb(body)
        descriptor = os.open(body, os.O_RDONLY)
        try:
            publish(descriptor, body, target)
        finally:
            os.close(descriptor)
        return True

    def add_shard(self, data: bytes) -> bool:
        """Store a shard; False when it was stored already. Raises `BadShardError`, also for a shard
        that names chunks which are not stored here."""
        for file in parse_shard(data).files:
            for xorb_range in file.ranges:
                self._check_range(xorb_range)
        target = self.root / "shards" / hashlib.sha256(data).hexdigest()
        if target.exists():
            return False
        scratch = self.new_body().parent
        write_atomically(target, data, scratch=scratch)
        return True

    def shard_with_chunk(self, chunk_hash: str) -> bytes | None:
        """A shard with this chunk, for clients to deduplicate against."""
        self._read_new_shards()
        if (name := self._by_chunk.get(chunk_hash)) is None:
            return None
        data = (self.root / "shards" / name).read_bytes()
        return answer_shard(parse_shard(data), now=time.time(), lifetime=_SHARD_LIFETIME)

    def file(self, xet_hash: str) -> XetFile | None:
        """A file that some client has described."""
        self._read_new_shards()
        return self._by_hash.get(xet_hash)

    def known(self, oid: str) -> Known | None:
        """An object that was read back before."""
        if (found := self._known.get(oid)) is not None:
            return found
        try:
            record = orjson.loads(self._record(oid).read_bytes())
        except FileNotFoundError:
            return None
        found = self._known[oid] = Known(**record)
        return found

    def accept(self, oid: str) -> Known | None:
        """An object that is known, or that has been described and is verified now; otherwise None.
        It is valid when all of its bytes can be read back and have this sha256."""
        if (found := self.known(oid)) is not None:
            return found
        self._read_new_shards()
        for file in tuple(self._by_sha256.get(oid, {}).values()):
            if self._reads_back(file):
                record = orjson.dumps({"hash": file.hash, "size": file.size})
                write_atomically(self._record(oid), record)
                return self.known(oid)
        return None

    def read(self, oid: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of a known object."""
        known = self.known(oid)
        file = None if known is None else self.file(known.hash)
        if file is None:
            raise FileNotFoundError(f"no object {oid} in the Xet store")
        return self._pieces(file, start, stop)

    def read_file(self, xet_hash: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of a file that some client has described."""
        if (file := self.file(xet_hash)) is None:
            raise FileNotFoundError(f"no file {xet_hash} in the Xet store")
        return self._pieces(file, start, stop)

    def reconstruction(self, file: XetFile, start: int, stop: int) -> dict[str, Any]:
        """How a client reads bytes `start` to `stop` (exclusive), in the form of the CAS API; URLs
        are left to the caller: each `url` is the xorb's hash."""
        terms: list[XorbRange] = []
        skipped = at = 0
        for xorb_range in file.ranges:
            if at < stop and at + xorb_range.size > start:
                if not terms:
                    skipped = start - at
                terms.append(xorb_range)
            at += xorb_range.size
        by_xorb = groupby(sorted(terms, key=attrgetter("xorb", "start")), attrgetter("xorb"))
        return {
            "offset_into_first_range": skipped,
            "terms": [
                {"hash": t.xorb, "unpacked_length": t.size, "range": _span(t.start, t.stop)}
                for t in terms
            ],
            "fetch_info": {name: self._fetches(name, list(own)) for name, own in by_xorb},
        }

    def xorb_path(self, xorb_hash: str) -> Path | None:
        """The xorb as a file, if it is stored."""
        path = self._xorb_path(xorb_hash)
        return path if path.exists() else None

    def _check_range(self, xorb_range: XorbRange) -> None:
        try:
            xorb = self._xorb(xorb_range.xorb)
        except FileNotFoundError:
            raise BadShardError(f"xorb {xorb_range.xorb} was never sent") from None
        sizes = xorb.sizes[xorb_range.start : xorb_range.stop]
        if (
            not 0 < xorb_range.stop - xorb_range.start == len(sizes)
            or sum(sizes) != xorb_range.size
        ):
            raise BadShardError(f"xorb {xorb_range.xorb} has no such chunks")

    def _fetches(self, name: str, terms: list[XorbRange]) -> list[dict[str, Any]]:
        """What to fetch of one xorb: neighbours and overlaps are joined."""
        joined: list[list[int]] = []
        for term in terms:
            if joined and term.start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], term.stop)
            else:
                joined.append([term.start, term.stop])
        offsets = self._xorb(name).offsets
        return [
            {
                "range": _span(start, stop),
                "url": name,
                # An HTTP range: its end is the last byte.
                "url_range": _span(offsets[start], offsets[stop] - 1),
            }
            for start, stop in joined
        ]

    def _xorb_path(self, xorb_hash: str) -> Path:
        return self.root / "xorbs" / xorb_hash[:2] / xorb_hash[2:4] / xorb_hash

    def _open_xorb(self, xorb_hash: str) -> Xorb:
        return open_xorb(self._xorb_path(xorb_hash))

    def _record(self, oid: str) -> Path:
        return self.root / "objects" / oid[:2] / oid[2:4] / oid

    def _read_new_shards(self) -> None:
        folder = self.root / "shards"
        with self._lock:
            try:
                changed = folder.stat().st_mtime_ns
            except FileNotFoundError:
                return
            if changed == self._looked_at:
                return
            for name in sorted(set(os.listdir(folder)) - self._shards_read):
                self._index(name, (folder / name).read_bytes())
            self._looked_at = changed if time.time_ns() - changed > _GRAIN else -1

    def _index(self, name: str, data: bytes) -> None:
        shard = parse_shard(data)
        self._shards_read.add(name)
        for file in shard.files:
            self._by_hash.setdefault(file.hash, file)
            if file.sha256 is not None:
                self._by_sha256.setdefault(file.sha256, {}).setdefault(file.hash, file)
        for chunk in shard.landmarks:
            self._by_chunk.setdefault(chunk, name)

    def _reads_back(self, file: XetFile) -> bool:
        digest = hashlib.sha256()
        try:
            for piece in self._pieces(file, 0, file.size):
                digest.update(piece)
        except (BadXorbError, FileNotFoundError):
            return False
        return digest.hexdigest() == file.sha256

    def _pieces(self, file: XetFile, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of a file, a few chunks at a time."""
        at = 0
        for xorb_range in file.ranges:
            if at < stop and at + xorb_range.size > start:
                xorb = self._xorb(xorb_range.xorb)
                position = at
                for first in range(xorb_range.start, xorb_range.stop, _CHUNKS_AT_ONCE):
                    last = min(first + _CHUNKS_AT_ONCE, xorb_range.stop)
                    size = sum(xorb.sizes[first:last])
                    if position < stop and position + size > start:
                        data = b"".join(read_chunks(xorb, first, last))
                        yield data[max(0, start - position) : stop - position]
                    position += size
            at += xorb_range.size


def _span(start: int, end: int) -> dict[str, int]:
    return {"start": start, "end": end}


def with_xet(blobs: BlobStore, xet: XetStore) -> BlobStore:
    """`blobs`, plus everything in `xet`; LFS uploads still go to `blobs`."""
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
        """Also for an object that a Xet client has just uploaded: it is read back first."""
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


Scope = Literal["read", "write"]

LIFETIME = 3600
"""Seconds for which a token is valid; the Hub's own last about as long."""


def new_token(signer: Signer, scope: Scope, *, lifetime: int) -> str:
    """A token for everything in the store: chunks are shared by all repos."""
    signed = signer.sign("XET", scope, {}, lifetime=lifetime)
    return base64.urlsafe_b64encode(signed.encode()).decode()


def check_token(signer: Signer, header: str | None, scope: Scope) -> None:
    """Raises a `Refusal` 401 unless this Authorization header allows `scope`; a write token allows
    reading."""
    kind, _, token = (header or "").partition(" ")
    try:
        given, _, query = base64.urlsafe_b64decode(token.encode()).decode().partition("?")
        if kind.lower() != "bearer" or given not in (scope, "write"):
            raise Refusal(401, "This needs a Xet token to " + scope)
        signer.check("XET", given, parse_qsl(query))
    except (BlobError, binascii.Error, UnicodeError):
        raise Refusal(401, "The Xet token was not issued by this hub, or has expired") from None
