"""What is to be pushed: a file, where its bytes are, and the parts it is sent in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, TypeAlias, Union

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

    def is_of(self, status: os.stat_result) -> bool:
        """Whether `of` would return an equal identity. It is asked three times of each file."""
        return (
            status.st_mtime_ns == self.mtime_ns
            and status.st_size == self.size
            and status.st_ino == self.inode
            and status.st_dev == self.device
        )

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
class PathSource:
    """A file on disk, with the identity it had when it was collected.

    `may_change` is for files that are followed (`on_change="follow"`): more bytes may be appended
    after those that were collected, and a file that changed in another way may be collected again.
    `optional` is a file found in a folder, which may no longer exist. `sha256` is the hash that the
    collected bytes must have, where it was computed when the file was collected.
    """

    path: str
    identity: FileIdentity
    may_change: bool = False
    optional: bool = False
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes in memory. `md5` is their MD5, if it was computed together with their sha256."""

    data: bytes = field(repr=False)
    md5: str | None = None


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


class VirtualSource(Protocol):
    """Bytes that are made as they are read, from several threads at once."""

    @property
    def may_change(self) -> bool:
        """Whether others can write to what the bytes are made from. Then only a second reading
        shows whether the first one saw a single moment."""

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Read into the beginning of `buffer`, as much as comes at once; 0 at the end. Raises
        `SourceChangedError` when a byte is not what it was when it was first read."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file to push: its name in the repo, its size in bytes, and where its bytes are.

    Most stages need only the name and the size. `asyncpush.sources.Reader` reads every kind of
    content in the same way.
    """

    path_in_repo: str
    size: int
    content: PathSource | BytesSource | ComposedSource | VirtualSource

    @classmethod
    def of_bytes(cls, path_in_repo: str, data: bytes) -> Self:
        return cls(path_in_repo, len(data), BytesSource(data))

    @property
    def disk_path(self) -> str | None:
        """The file on disk that these bytes are of, or are cut out of."""
        match self.content:
            case PathSource(path):
                return path
            case ComposedSource(base):
                return base.disk_path
            case _:
                return None

    @property
    def may_change(self) -> bool:
        """Whether it is a file on disk that is followed."""
        return isinstance(self.content, PathSource) and self.content.may_change

    @property
    def sha256(self) -> str | None:
        """The hash that the bytes must have, if it is already known."""
        return self.content.sha256 if isinstance(self.content, PathSource) else None

    @property
    def needs_second_reading(self) -> bool:
        """Whether only a second reading shows that the bytes did not change during the first."""
        match self.content:
            case PathSource() | BytesSource() | ComposedSource():
                return False
            case virtual:
                return virtual.may_change

    @property
    def hash_key(self) -> tuple[str, FileIdentity] | None:
        """The key under which a hash of these bytes may be stored: a name, and what must be the
        same for the hash to be valid. None when the bytes are not those of a file on disk as a
        whole or in parts, or when their hash is known anyway."""
        match self.content:
            case PathSource(path, identity, sha256=None):
                return path, identity
            case ComposedSource(base, digest=digest):
                key = base.hash_key
                return None if key is None else (f"{key[0]}#{digest}", key[1])
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a file that goes to one presigned URL; `number` counts from 1."""

    number: int
    offset: int
    size: int
    url: str = field(repr=False)
