"""The bytes of a push's small files, read once: for the search for credentials, for preupload, and
for the commit.

Kept bytes are committed only if the file still looks as it did when it was collected. Files that
there is no memory for are read again each time."""

from __future__ import annotations

import threading

from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, PathSource
from asyncpush.options import KIB
from asyncpush.protocol.commits import SAMPLE_SIZE, AddInline
from asyncpush.sources.byte_sources import is_there, read_again, read_all, read_sample
from asyncpush.transfers.inline import checked_content, git_blob_oid

LARGEST_KEPT = 256 * KIB
"""The largest file that is kept: opening a larger one costs little beside reading it."""

SURELY_CHEAP = 32 * KIB
"""Files of up to this many bytes are hashed before the Hub has said whether the hash is needed."""

CACHE_SHARE = 3
"""The share of `max_memory` (one in this many) for these bytes, over all pushes."""

OVERHEAD = 256
"""Bytes of Python objects for each file that is kept."""


class CacheMemory:
    """The memory for the small files of all pushes of an `Uploader`, in bytes."""

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()  # files are read in several threads

    def take(self, size: int) -> bool:
        """Whether there is so much memory. If so, it counts as used from now on."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
        return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self.left += size


@dataclass(slots=True)
class _Kept:
    file: FileSource
    data: bytes
    oid: str | None = None
    """The git blob hash, once it was needed."""


class ContentCache:
    """The small files of one push. All methods may be called in threads; those that read a file
    block, and raise `SourceChangedError` and `SourceError`."""

    def __init__(self, memory: CacheMemory) -> None:
        self._memory = memory
        self._kept: dict[str, _Kept] = {}

    def read(self, file: FileSource, limit: int) -> bytes:
        """The first `limit` bytes of a file. Those of a small file are kept."""
        if file.size > min(limit, LARGEST_KEPT):
            return read_sample(file, limit)
        kept = self._found(file)
        return read_all(file) if kept is None else kept.data

    def start(self, file: FileSource) -> tuple[bytes, str | None]:
        """The first bytes of a file, for preupload, and the git blob hash of a small one: most
        small files are regular."""
        if file.size > SURELY_CHEAP:
            return self.read(file, SAMPLE_SIZE), None
        data, oid = self.hashed(file)
        return data[:SAMPLE_SIZE], oid

    def hashed(self, file: FileSource) -> tuple[bytes, str]:
        """The bytes of a file that may be regular, and their git blob hash."""
        kept = self._found(file)
        if kept is None:
            data = read_all(file)
            return data, git_blob_oid(data)
        if kept.oid is None:
            kept.oid = git_blob_oid(kept.data)
        return kept.data, kept.oid

    def for_commit(self, file: FileSource, change: AddInline) -> bytes:
        """The bytes to commit. Raises `SourceChangedError` when the file has no bytes any more that
        have the hash which the commit names."""
        kept = self._kept.get(file.path_in_repo)
        if kept is not None and kept.file is file and kept.oid == change.oid:
            content = file.content
            if isinstance(content, PathSource) and is_there(content):
                return kept.data
        return checked_content(change.path, change.oid, read_again(file))

    def drop(self, file: FileSource) -> None:
        """Forget the bytes of a file that will not be in the commit."""
        self._forget(file.path_in_repo)

    def clear(self) -> None:
        """Forget all bytes, and give the memory back."""
        for path in tuple(self._kept):
            self._forget(path)

    def _found(self, file: FileSource) -> _Kept | None:
        """The file's bytes, kept from now on if there is memory. None if there is not, or if they
        are not those of a small file on disk."""
        kept = self._kept.get(file.path_in_repo)
        if kept is not None and kept.file is file:
            return kept
        if not isinstance(file.content, PathSource) or file.size > LARGEST_KEPT:
            return None
        self._forget(file.path_in_repo)
        if not self._memory.take(file.size + OVERHEAD):
            return None
        try:
            kept = _Kept(file, read_all(file))
        except BaseException:
            self._memory.give_back(file.size + OVERHEAD)
            raise
        self._kept[file.path_in_repo] = kept
        return kept

    def _forget(self, path: str) -> None:
        kept = self._kept.pop(path, None)
        if kept is not None:
            self._memory.give_back(kept.file.size + OVERHEAD)
