"""One multipart upload on disk: a sparse file that takes parts at their offsets.

    uploads/<upload id>/
      meta.json   what was announced: oid, size, part size, expiry
      data        the object's bytes, each part written at its own offset
      etags       16 bytes a part: the MD5 of what was stored, zeros for "not there"

Nothing is kept in memory, so several processes, or one that was killed and started again, carry on
with the same upload. Writers hold a shared `flock` on `data` for each write; completion takes it
alone, and then *seals* the file (drops its write permission bit, which writers look at), so that
no late writer can change bytes between their hashing and their rename.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from asyncpush.localhub.blobs import BlobError, bad_digest, check_part_list, no_such_upload
from asyncpush.localhub.store.writing import lock, unlock

_ETAG_BYTES = 16
_HASHED_AT_ONCE = 1 << 20
_ABSENT = bytes(_ETAG_BYTES)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the client announced that it would upload, and until when it may."""

    oid: str
    size: int
    part_size: int
    expires: float

    @property
    def part_count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def part_range(self, number: int) -> tuple[int, int]:
        """Where part `number` (from 1) begins and ends in the object."""
        start = (number - 1) * self.part_size
        return start, min(start + self.part_size, self.size)


class Upload:
    """An open upload in its folder. All methods block: call them in a thread."""

    def __init__(self, folder: Path, promise: Promise) -> None:
        self.folder = folder
        self.promise = promise

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def etags(self) -> Path:
        return self.folder / "etags"

    @classmethod
    def create(cls, folder: Path, promise: Promise) -> Upload:
        """Make the folder; `meta.json` is written last, and only then does the upload exist."""
        upload = cls(folder, promise)
        folder.mkdir(mode=0o700)
        for path, size in (
            (upload.data, promise.size),
            (upload.etags, promise.part_count * _ETAG_BYTES),
        ):
            with path.open("wb") as file:
                file.truncate(size)
        (folder / "meta.json").write_bytes(orjson.dumps(asdict(promise)))
        return upload

    @classmethod
    def open(cls, folder: Path) -> Upload:
        """The upload of this folder; 404 when it no longer exists."""
        try:
            meta = orjson.loads((folder / "meta.json").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            raise no_such_upload() from None
        return cls(folder, Promise(**meta))

    def remove(self) -> None:
        """Forget the upload and what it stored."""
        shutil.rmtree(self.folder, ignore_errors=True)


class PartWriter:
    """Writes one part at its place. `write` and `finish` block; `close` is quick."""

    def __init__(self, upload: Upload, number: int) -> None:
        self._upload = upload
        self._slot = (number - 1) * _ETAG_BYTES
        self._offset, _ = upload.promise.part_range(number)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._data: int | None = None
        self._etags: int | None = None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Store the next bytes of the part."""
        data = self._open()
        with _shared(data):
            there = self._is_there()
            for piece in pieces:
                if there and _read_at(data, len(piece), self._offset) != bytes(piece):
                    # Sent again, with other bytes: until these are complete, neither version
                    # counts.
                    write_all(self._etags_file, _ABSENT, self._slot)
                    there = False
                if not there:
                    write_all(data, piece, self._offset)
                self._offset += len(piece)
        for piece in pieces:
            self._md5.update(piece)

    def finish(self, pieces: Sequence[bytes]) -> str:
        """Store the last bytes, record the part, and answer its ETag."""
        self.write(pieces)
        assert self._data is not None
        with _shared(self._data):
            write_all(self._etags_file, self._md5.digest(), self._slot)
        return f'"{self._md5.hexdigest()}"'

    def close(self) -> None:
        for fd in (self._data, self._etags):
            if fd is not None:
                os.close(fd)
        self._data = self._etags = None

    @property
    def _etags_file(self) -> int:
        assert self._etags is not None
        return self._etags

    def _is_there(self) -> bool:
        """Whether the part is stored already. A client that sent a part twice, because one
        connection was slow, may cut the slower one at any time: the same bytes change nothing."""
        return _read_at(self._etags_file, _ETAG_BYTES, self._slot) != _ABSENT

    def _open(self) -> int:
        if self._data is None:
            try:
                self._data = os.open(self._upload.data, os.O_RDWR)
                self._etags = os.open(self._upload.etags, os.O_RDWR)
            except (FileNotFoundError, PermissionError):  # sealed files cannot be opened either
                raise no_such_upload() from None
        return self._data


class Completion:
    """Turns an upload into an object: `begin`, `hash_some` until it answers False, `commit`."""

    def __init__(self, upload: Upload, parts: Sequence[tuple[int, str]]) -> None:
        self._upload = upload
        self._claimed = check_part_list(parts, upload.promise.part_count)
        self._sha256 = hashlib.sha256()
        self._fd: int | None = None

    def begin(self) -> None:
        """Lock the upload, compare the ETags with what was stored, and seal it."""
        try:
            self._fd = os.open(self._upload.data, os.O_RDONLY)
        except FileNotFoundError:
            raise no_such_upload() from None
        lock(self._fd)
        # Another completion may have held the lock until now, and renamed or removed the file.
        if not self._upload.data.exists():
            raise no_such_upload()
        stored = self._upload.etags.read_bytes()
        for number, etag in self._claimed.items():
            slot = stored[(number - 1) * _ETAG_BYTES : number * _ETAG_BYTES]
            if slot == _ABSENT or slot.hex() != etag.strip('"').lower():
                raise BlobError(
                    400,
                    f"part {number} is not there, or its ETag is not the one given",
                    "InvalidPart",
                )
        self._upload.data.chmod(0o400)

    def hash_some(self, budget: int) -> bool:
        """Hash up to about `budget` bytes more; False at the end. Short, so it can be stopped."""
        assert self._fd is not None
        while budget > 0:
            piece = os.read(self._fd, _HASHED_AT_ONCE)
            if not piece:
                return False
            self._sha256.update(piece)
            budget -= len(piece)
        return True

    def commit(self, target: Path) -> None:
        """Make the file the object if its sha256 matches; otherwise remove the upload and
        refuse."""
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        if (
            size != self._upload.promise.size
            or self._sha256.hexdigest() != self._upload.promise.oid
        ):
            self._upload.remove()
            raise bad_digest()
        publish(self._fd, self._upload.data, target)
        self._upload.remove()

    def close(self) -> None:
        """Release the file and its lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def publish(fd: int, source: Path, target: Path) -> None:
    """Make a written file appear under its final name, complete, and durable across power loss."""
    source.chmod(0o444)
    os.fsync(fd)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    # The new name, and the two folders that may be new as well.
    for folder in (target.parent, target.parent.parent, target.parent.parent.parent):
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(fd: int, piece: bytes, offset: int) -> None:
    """Write from `offset` on, until everything is: a nearly full disk takes less than asked. The
    descriptor is used by one thread at a time."""
    os.lseek(fd, offset, os.SEEK_SET)
    left = memoryview(piece)
    while left:
        left = left[os.write(fd, left) :]


def _read_at(fd: int, size: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, size)


@contextmanager
def _shared(fd: int) -> Iterator[None]:
    """Lock the upload for one write, together with other writers; 404 when it is sealed."""
    try:
        lock(fd, shared=True, wait=False)
    except BlockingIOError:
        # A sealed upload stays locked while it is hashed, which takes minutes if it is large: do
        # not wait for that. One that is not sealed yet is only having its ETags compared, and is
        # free again soon.
        _refuse_sealed(fd)
        lock(fd, shared=True)
    try:
        _refuse_sealed(fd)
        yield
    finally:
        unlock(fd)


def _refuse_sealed(fd: int) -> None:
    if not os.fstat(fd).st_mode & stat.S_IWUSR:
        raise no_such_upload()
