"""The sha256 of files, computed in threads, with earlier results kept in the journal."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field

from asyncpush.concurrency.threads import PushThreads, each_in_thread, in_thread
from asyncpush.errors import SourceChangedError
from asyncpush.events import Emitter, FileHashed, HashProgress
from asyncpush.journal import HashRecord, Journal, NullJournal
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import BytesSource, FileIdentity, FileSource, PathSource
from asyncpush.options import MIB
from asyncpush.sources import Reader
from asyncpush.sources.byte_sources import read_all

READ_SIZE = 1 * MIB
SHORT = READ_SIZE // 4
"""Files of up to this many bytes are hashed on other threads, and do not wait for long files."""

REPORT_EVERY = 32 * MIB

KEPT_SHARE = 8
"""The share of `max_memory` (one in this many) for the bytes of short files that are kept from
hashing until they are stored."""


@dataclass(slots=True)
class Hashed:
    """The sha256 of a small file, or `error`: it has changed. `kept` are its bytes, to be sent from
    memory, if it was read and there was memory for them. The hash of a file that was not read comes
    from the journal."""

    file: FileSource
    oid: str = ""
    kept: FileSource | None = None
    read: bool = False
    elapsed_ms: float = 0.0
    error: SourceChangedError | None = None


@dataclass(slots=True)
class KeptMemory:
    """What one push has taken of the memory that pushes share, in bytes."""

    _hasher: Hasher
    taken: int = 0

    def take(self, size: int) -> bool:
        """Whether there is so much memory. If so, it counts as used from now on."""
        if size > self._hasher.memory_left:
            return False
        self._hasher.memory_left -= size
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        self._hasher.memory_left += size
        self.taken -= size


@dataclass(slots=True)
class _Hashing:
    """A file being hashed, and its oid once that succeeded."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    oid: str | None = None


class Hasher:
    """Hashes on its own threads, so that reading parts never waits behind a long file. A file that
    several pushes need at the same time (a base model in a hundred repos) is read once."""

    def __init__(
        self,
        journal: Journal | NullJournal,
        *,
        trust_mtime: bool = True,
        with_md5: bool = True,
        memory: int = 0,
    ) -> None:
        """Short files are kept in up to `memory` bytes. With `with_md5` their MD5 is computed
        too."""
        self._journal = journal
        self._trust_mtime = trust_mtime
        self._with_md5 = with_md5
        self.memory_left = memory
        self._under_way: dict[tuple[str, FileIdentity, int], _Hashing] = {}

    @staticmethod
    def is_small(file: FileSource) -> bool:
        """Whether `sha256_of_small` takes this file: it is short, on disk, and its hash is not
        known beforehand."""
        return file.size <= SHORT and isinstance(file.content, PathSource) and not file.sha256

    @contextmanager
    def memory(self) -> Iterator[KeptMemory]:
        """Memory for the bytes of small files, which one push takes and gives back within this
        block."""
        memory = KeptMemory(self)
        try:
            yield memory
        finally:
            memory.give_back(memory.taken)

    async def sha256_of_small(
        self, files: Sequence[FileSource], events: Emitter, threads: PushThreads, *, keep: bool
    ) -> list[Hashed]:
        """The hashes of small files, a few files in each thread hop. With `keep` their bytes stay
        in memory. Raises `SourceError`, and `SourceChangedError` for a file that is not
        followed."""
        began = time.time()
        read: list[tuple[FileSource, str]] = []

        def looked_up() -> Iterator[tuple[FileSource, str | None]]:
            """Runs in the threads: all journal work on the group is done at once."""
            yield from zip(files, self._known(files), strict=True)
            self.remember(read, began)

        def hash_one(file_and_known: tuple[FileSource, str | None]) -> Hashed:
            file, known = file_and_known
            if known is not None:
                return Hashed(file, known)
            hashed = self._hash_small(file, keep=keep)
            if hashed.read:
                read.append((file, hashed.oid))
            return hashed

        hashed = await each_in_thread(threads.read.threads, looked_up(), hash_one)
        if events.wants(FileHashed):
            for each in hashed:
                if each.error is None:
                    events.emit(_event_of(each))
        return hashed

    def _known(self, files: Sequence[FileSource]) -> list[str | None]:
        """The stored hashes of files that have not changed since they were hashed. Blocks."""
        keys = [file.hash_key for file in files]
        if not self._trust_mtime:
            return [None] * len(files)
        found = iter(self._journal.hashes_of([key for key in keys if key is not None], "sha256"))
        return [None if key is None else next(found) for key in keys]

    def _hash_small(self, file: FileSource, *, keep: bool) -> Hashed:
        """Runs in a thread."""
        began = time.monotonic()
        try:
            data = read_all(file)
        except SourceChangedError as exc:
            if not file.may_change:
                raise
            return Hashed(file, error=exc)
        hashed = Hashed(file, hashlib.sha256(data).hexdigest(), read=True)
        if keep:
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() if self._with_md5 else None
            hashed.kept = FileSource(file.path_in_repo, file.size, BytesSource(data, md5))
        hashed.elapsed_ms = round((time.monotonic() - began) * 1000, 3)
        return hashed

    async def sha256(
        self,
        file: FileSource,
        events: Emitter,
        threads: PushThreads,
    ) -> str:
        """The oid of a file for LFS. Raises `SourceChangedError` when it changes in the
        meantime."""
        if file.sha256 is not None:
            events.emit(FileHashed(file.path_in_repo, file.size, file.sha256, cached=True))
            return file.sha256
        if file.hash_key is None:
            return await self._hash(file, events, threads)
        path, identity = file.hash_key
        # Identities are compared without ctime, but the bytes may differ when only ctime does.
        key = path, identity, identity.ctime_ns
        while (other := self._under_way.get(key)) is not None:
            await other.ended.wait()  # after a failure or a cancellation the next one hashes it
            if other.oid is not None:
                events.emit(FileHashed(file.path_in_repo, file.size, other.oid, cached=True))
                return other.oid
        this = self._under_way[key] = _Hashing()
        try:
            # The stored hash of a short file is looked up in the thread hop that otherwise hashes
            # it; a long file would wait for a thread behind other long files.
            short = file.size <= SHORT
            this.oid = None if short else await self.remembered(file, threads)
            if this.oid is not None:
                events.emit(FileHashed(file.path_in_repo, file.size, this.oid, cached=True))
                return this.oid
            look_up = short and self._trust_mtime
            this.oid = await self._hash(file, events, threads, look_up=look_up)
            return this.oid
        finally:
            del self._under_way[key]
            this.ended.set()

    async def sha256_anew(self, file: FileSource, events: Emitter, threads: PushThreads) -> str:
        """Like `sha256`, but from the current bytes, ignoring stored hashes."""
        return await self._hash(file, events, threads)

    async def _hash(
        self,
        file: FileSource,
        events: Emitter,
        threads: PushThreads,
        *,
        look_up: bool = False,
    ) -> str:
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def report(hashed: int) -> None:
            event = HashProgress(file.path_in_repo, hashed, file.size)
            loop.call_soon_threadsafe(events.emit, event)

        def hash_and_remember() -> tuple[str, float | None]:
            if look_up and file.hash_key is not None:
                known = self._journal.hash_of(*file.hash_key, "sha256")
                if known is not None:
                    return known, None
            identified_at, began = time.time(), time.monotonic()
            oid = _sha256(file, stop, report if events.active else None)
            if file.hash_key is not None and not stop.is_set():
                self._journal.remember_hash(
                    *file.hash_key, "sha256", oid, identified_at=identified_at
                )
            return oid, time.monotonic() - began

        if file.size <= SHORT:
            oid, elapsed = await threads.read.run(hash_and_remember, size=file.size)
        else:
            oid, elapsed = await in_thread(threads.hash, hash_and_remember, on_cancel=stop.set)
        cached = elapsed is None
        took = round((elapsed or 0.0) * 1000, 3)
        events.emit(FileHashed(file.path_in_repo, file.size, oid, cached=cached, elapsed_ms=took))
        return oid

    async def remembered(
        self, file: FileSource, threads: PushThreads, kind: str = "sha256"
    ) -> str | None:
        """The stored hash of a file that has not changed since it was hashed."""
        key = file.hash_key
        if key is None or not self._trust_mtime or self._journal.disabled_reason is not None:
            return None
        return await threads.look_up.run(lambda: self._journal.hash_of(*key, kind))

    def remember(
        self, oids: Iterable[tuple[FileSource, str]], identified_at: float, kind: str = "sha256"
    ) -> None:
        """Store hashes computed elsewhere, in reads that began at `identified_at`. Blocks."""
        records: list[HashRecord] = [
            (*file.hash_key, kind, oid) for file, oid in oids if file.hash_key is not None
        ]
        self._journal.remember_hashes(records, identified_at=identified_at)


def _event_of(hashed: Hashed) -> FileHashed:
    file = hashed.file
    return FileHashed(
        file.path_in_repo,
        file.size,
        hashed.oid,
        cached=not hashed.read,
        elapsed_ms=hashed.elapsed_ms,
    )


def _sha256(file: FileSource, stop: threading.Event, report: Callable[[int], None] | None) -> str:
    if isinstance(file.content, BytesSource):
        return hashlib.sha256(file.content.data).hexdigest()
    digest = hashlib.sha256()
    # A map is page-aligned, which makes reading into it cheaper (see `BufferPool`).
    buffer = mmap.mmap(-1, min(READ_SIZE, max(file.size, 1)))
    with Reader(file) as reader, memoryview(buffer) as view:
        reported = 0
        for offset in range(0, file.size, len(buffer)):
            if stop.is_set():
                return ""  # nobody waits for the result
            piece = view[: min(len(buffer), file.size - offset)]
            reader.readinto(offset, piece)
            digest.update(piece)
            if report is not None and offset - reported >= REPORT_EVERY:
                reported = offset
                report(offset)
        reader.check_unchanged()
    return digest.hexdigest()
