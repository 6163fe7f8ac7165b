"""What is to be pushed: a file, where its bytes are, and the parts it is sent in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias, Union

from asyncpush.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from asyncpush.sources.tensors import Tensors

Content: TypeAlias = Union[str, os.PathLike[str], bytes, BinaryIO, AsyncIterable[bytes], "Tensors"]
Source: TypeAlias = Union[str, os.PathLike[str], bytes, "Tensors", Mapping[str, Content]]


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which bytes a path named when it was looked at.

    Nearly every change shows in the first four. Programs can put an mtime back (`cp -p`, rsync,
    tar); ctime shows that, but it also moves when a file gains a hard link, as a snapshot does. So
    it takes no part in comparisons, and counts only where a hash is remembered.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int = field(default=0, compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file to push: its name in the repo, its size in bytes, and where its bytes are.

    Exactly one of these is set: `path` (a file on disk, with the `identity` it had when it was
    collected), `data` (bytes), `cut` (made of ranges of another file) or `virtual` (made as it is
    read). They are fields of one class, not four classes, because nearly every stage needs the name
    and the size alone; `asyncpush.sources.Reader` is what reads all four in the same way.

    `may_change` is for files on disk that are followed (`on_change="follow"`): more bytes may be
    appended after the first `size`, and a file that changed in another way may be collected again.
    `optional` is a file found in a folder, which may no longer exist. `sha256` is the hash that the
    first `size` bytes must have, where it was computed when the file was collected. `md5` is that
    of `data`, if it was computed together with its sha256.
    """

    path_in_repo: str
    size: int
    path: str | None = None
    identity: FileIdentity | None = None
    data: bytes | None = field(default=None, repr=False)
    cut: ComposedSource | None = None
    virtual: VirtualFile | None = field(default=None, repr=False)
    may_change: bool = False
    optional: bool = False
    sha256: str | None = None
    md5: str | None = None

    @property
    def disk_path(self) -> str | None:
        """The file on disk that these bytes are of, or are cut out of."""
        return self.path if self.cut is None else self.cut.base.disk_path

    @property
    def hash_key(self) -> tuple[str, FileIdentity] | None:
        """What a hash of these bytes may be remembered under: a name, and what must be the same
        for it to hold. None when no file on disk vouches for the bytes."""
        if self.cut is not None:
            base = self.cut.base.hash_key
            return None if base is None else (f"{base[0]}#{self.cut.digest}", base[1])
        if self.path is None or self.identity is None or self.sha256 is not None:
            return None
        return self.path, self.identity


class VirtualFile(Protocol):
    """Bytes that are made as they are read, from several threads at once."""

    @property
    def may_change(self) -> bool:
        """Whether somebody else can write to what they are made from: until they have been read
        for a second time, nobody knows whether they are what it was at one moment."""

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read into the beginning of `buffer`, as much as comes at once; 0 at the end. Raises
        `SourceChangedError` when a byte is no longer what it was when it was first read."""


@dataclass(frozen=True, slots=True)
class ComposedSource:
    """Bytes made of another source's without a copy: `head`, then `ranges` of `base`, each its
    offset and size. `digest` is different for each such composition of a source."""

    base: FileSource
    head: bytes = field(repr=False)
    ranges: tuple[tuple[int, int], ...]
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.head)
        digest.update(repr(self.ranges).encode())
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def size(self) -> int:
        return len(self.head) + sum(size for _, size in self.ranges)


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a file that goes to one presigned URL; `number` counts from 1."""

    number: int
    offset: int
    size: int
    url: str = field(repr=False)
