"""Reading shards: which files a Xet client describes, and of which chunks its xorbs are made.

The layout is that of https://huggingface.co/docs/xet/shard: a header of 48 bytes, then two
sections of rows of 48 bytes, each ended by a row that begins with ones. A file is a row with its
hash, one for each range of chunks in a xorb, as many again when the shard has verification hashes,
and one with its sha256. A xorb is a row with its hash and one for each chunk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import lz4.frame

_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")

_ROW = 48
_FILE = struct.Struct("<32sII8x")
_RANGE = struct.Struct("<32s4xIII")
_XORB = struct.Struct("<32s4xI8x")
_LAST = struct.Struct("<24xQ16x")  # The last of the four numbers of a chunk's hash.
_IN_MEMORY, _WRITTEN = struct.Struct("<4Q"), struct.Struct(">4Q")
_FOOTER = struct.Struct("<3Q6Q32s2Q72xQ")
_WITH_VERIFICATION = 1 << 31
_WITH_SHA256 = 1 << 30
_ONES = b"\xff" * 32
_END = _ONES + bytes(16)
_ELIGIBLE = 1024


@dataclass(frozen=True, slots=True)
class XorbRange:
    """Chunks `start` to `stop` (exclusive) of a xorb; `size` bytes of the file."""

    xorb: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class XetFile:
    """A file as a client describes it: hashes in hex, and the chunks it consists of."""

    hash: str
    sha256: str | None
    ranges: tuple[XorbRange, ...]

    @property
    def size(self) -> int:
        return sum(xorb_range.size for xorb_range in self.ranges)


@dataclass(frozen=True, slots=True)
class Shard:
    """`landmarks` are the chunks by which clients may find this shard; `xorbs` is the second
    section, unparsed."""

    files: tuple[XetFile, ...]
    landmarks: frozenset[str]
    xorbs: bytes


class BadShardError(ValueError):
    """These bytes are not a shard, or only the beginning of one."""


def parse_shard(data: bytes) -> Shard:
    """Raises `BadShardError`."""
    if not data.startswith(_TAG):
        raise BadShardError("these bytes are not a shard")
    files, at = _files(data, _ROW)
    begin = at
    xorbs: dict[
        str, tuple[int, int]
    ] = {}  # Where the chunks of each begin, and how many there are.
    while not _ends(data, at):
        xorb, count = _XORB.unpack(_row(data, at))
        at += _ROW
        xorbs.setdefault(hex_of(xorb), (at, count))
        at += count * _ROW
    landmarks = frozenset(hex_of(chunk) for chunk in _landmarks(data, files, xorbs))
    return Shard(files, landmarks, data[begin : at + _ROW])


def answer_shard(shard: Shard, *, now: float, lifetime: int) -> bytes:
    """A shard for clients to deduplicate against: xorbs and chunks, without files. One that is sent
    out has a footer: here without lookup tables, and with a key of zeros, which means that the
    chunks' hashes are unmodified. Clients forget it after `lifetime` seconds."""
    body = _TAG + struct.pack("<QQ", 2, _FOOTER.size) + _END + shard.xorbs
    at = len(body)
    tables = (at, 0) * 3
    times = int(now), int(now) + lifetime
    return body + _FOOTER.pack(1, _ROW, 2 * _ROW, *tables, bytes(32), *times, at)


def _files(data: bytes, at: int) -> tuple[tuple[XetFile, ...], int]:
    files = []
    while not _ends(data, at):
        file_hash, flags, count = _FILE.unpack(_row(data, at))
        rows = [_RANGE.unpack(_row(data, at + (1 + n) * _ROW)) for n in range(count)]
        at += _ROW * (1 + count * (2 if flags & _WITH_VERIFICATION else 1))
        sha256 = None
        if flags & _WITH_SHA256:
            sha256 = hex_of(_row(data, at)[:32])
            at += _ROW
        ranges = tuple(XorbRange(hex_of(xorb), *numbers) for xorb, *numbers in rows)
        files.append(XetFile(hex_of(file_hash), sha256, ranges))
    return tuple(files), at + _ROW


def _landmarks(
    data: bytes, files: tuple[XetFile, ...], xorbs: dict[str, tuple[int, int]]
) -> Iterator[bytes]:
    """The chunks that a client asks about: the first of each file, and one in 1,024."""
    for file in files:
        for first in file.ranges[:1]:
            at, count = xorbs.get(first.xorb, (0, 0))
            if first.start < count:
                yield _row(data, at + first.start * _ROW)[:32]
    for at, count in xorbs.values():
        for number, (last,) in enumerate(_LAST.iter_unpack(data[at : at + count * _ROW])):
            if last % _ELIGIBLE == 0:
                yield _row(data, at + number * _ROW)[:32]


def _ends(data: bytes, at: int) -> bool:
    return _row(data, at).startswith(_ONES)


def _row(data: bytes, at: int) -> bytes:
    row = data[at : at + _ROW]
    if len(row) < _ROW:
        raise BadShardError("the shard is truncated")
    return row


def hex_of(raw: bytes) -> str:
    """A hash is stored as four little-endian numbers of 64 bits, and written as those."""
    return _WRITTEN.pack(*_IN_MEMORY.unpack(raw)).hex()


MAX_XORB_BYTES = 80 << 20
"""A xorb has at most 64 MiB of chunks; what compression may add is far less than the rest."""

_MAX_CHUNK = 1 << 20
_HEADER = 8


class BadXorbError(ValueError):
    """These bytes are not a xorb."""


@dataclass(frozen=True, slots=True)
class Xorb:
    """`offsets[i]` is where chunk i begins; the last one is the end. `sizes` are those of the
    chunks' own bytes."""

    path: Path
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def open_xorb(path: Path) -> Xorb:
    """Find where the chunks begin. Raises `BadXorbError`, `FileNotFoundError`."""
    offsets, sizes = [0], []
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while (at := offsets[-1]) < end:
            file.seek(at)
            header = file.read(_HEADER)
            stored, size = _lengths(header)
            offsets.append(at + _HEADER + stored)
            sizes.append(size)
    if offsets[-1] != end or not sizes:
        raise BadXorbError("the xorb is truncated")
    return Xorb(path, tuple(offsets), tuple(sizes))


def read_chunks(xorb: Xorb, start: int, stop: int) -> list[bytes]:
    """The bytes of chunks `start` to `stop` (exclusive). Raises `BadXorbError`."""
    begin, end = xorb.offsets[start], xorb.offsets[stop]
    with xorb.path.open("rb", buffering=0) as file:
        file.seek(begin)
        data = file.read(end - begin)
    spans = pairwise(xorb.offsets[start : stop + 1])
    return [_chunk(data[first - begin : last - begin]) for first, last in spans]


def _lengths(header: bytes) -> tuple[int, int]:
    if len(header) < _HEADER or header[0] != 0:
        raise BadXorbError("the xorb has bytes that are not a chunk")
    stored = int.from_bytes(header[1:4], "little")
    size = int.from_bytes(header[5:8], "little")
    if not 0 < size <= _MAX_CHUNK or stored > _MAX_CHUNK:
        raise BadXorbError("a chunk of the xorb has an impossible length")
    return stored, size


def _chunk(stored: bytes) -> bytes:
    _, size = _lengths(stored[:_HEADER])
    body = stored[_HEADER:]
    try:
        match stored[4]:
            case 0:
                data = body
            case 1:
                data = lz4.frame.decompress(body)
            case 2:
                data = _ungrouped(lz4.frame.decompress(body))
            case scheme:
                raise BadXorbError(f"a chunk is compressed in an unknown way ({scheme})")
    except RuntimeError as exc:
        raise BadXorbError(f"a chunk cannot be decompressed: {exc}") from None
    if len(data) != size:
        raise BadXorbError("a chunk has another length than its header says")
    return data


def _ungrouped(grouped: bytes) -> bytes:
    """Every fourth byte is grouped (tensors compress better that way)."""
    data = bytearray(len(grouped))
    at = 0
    for lane in range(4):
        count = len(range(lane, len(grouped), 4))
        data[lane::4] = grouped[at : at + count]
        at += count
    return bytes(data)
