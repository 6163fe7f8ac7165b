"""Reading xorbs: where each chunk lies in one, and what its bytes are.

A xorb is a row of chunks, each with a header of 8 bytes: a version, the length as stored, how it is
compressed, the length of its bytes (https://huggingface.co/docs/xet/xorb).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import lz4.frame

MAX_XORB_BYTES = 80 << 20
"""A xorb has at most 64 MiB of chunks; what compression may add to it is far less than the rest."""

_MAX_CHUNK = 1 << 20
_HEADER = 8


class BadXorbError(ValueError):
    """These bytes are no xorb."""


@dataclass(frozen=True, slots=True)
class Xorb:
    """`offsets[i]` is where chunk i begins; the last one is the end. `sizes` are those of the
    chunks' own bytes."""

    path: Path
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def open_xorb(path: Path) -> Xorb:
    """Look where the chunks lie. Raises `BadXorbError`, `FileNotFoundError`."""
    offsets, sizes = [0], []
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while (at := offsets[-1]) < end:
            header = os.pread(file.fileno(), _HEADER, at)
            stored, size = _lengths(header)
            offsets.append(at + _HEADER + stored)
            sizes.append(size)
    if offsets[-1] != end or not sizes:
        raise BadXorbError("the xorb ends within a chunk")
    return Xorb(path, tuple(offsets), tuple(sizes))


def read_chunks(xorb: Xorb, start: int, stop: int) -> list[bytes]:
    """The bytes of chunks `start` to `stop` (exclusive). Raises `BadXorbError`."""
    begin, end = xorb.offsets[start], xorb.offsets[stop]
    with xorb.path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), end - begin, begin)
    spans = pairwise(xorb.offsets[start : stop + 1])
    return [_chunk(data[first - begin : last - begin]) for first, last in spans]


def _lengths(header: bytes) -> tuple[int, int]:
    if len(header) < _HEADER or header[0] != 0:
        raise BadXorbError("the xorb holds something that is no chunk")
    stored = int.from_bytes(header[1:4], "little")
    size = int.from_bytes(header[5:8], "little")
    if not 0 < size <= _MAX_CHUNK or stored > _MAX_CHUNK:
        raise BadXorbError("the xorb holds a chunk of impossible length")
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
        raise BadXorbError("a chunk has not the length that it says")
    return data


def _ungrouped(grouped: bytes) -> bytes:
    """Every fourth byte stands together (tensors compress better so)."""
    data = bytearray(len(grouped))
    at = 0
    for lane in range(4):
        count = len(range(lane, len(grouped), 4))
        data[lane::4] = grouped[at : at + count]
        at += count
    return bytes(data)
