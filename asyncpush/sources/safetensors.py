"""The safetensors format: from a header to its tensors, and back. Works on bytes only, not on
files.

A file consists of eight bytes for the header length (little endian), the header (a JSON object from
names to dtype, shape and data offsets), and the tensors' bytes one after another, without gaps.
Source: the format's own description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from asyncpush.lazy_dataclass import dataclass

LENGTH_SIZE = 8
HEADER_LIMIT = 100_000_000
"""In bytes. The safetensors library does not read longer headers either."""

METADATA = "__metadata__"
_ALIGNMENT = 8


class BadSafetensorsError(Exception):
    """Something is not a safetensors file. The text is a predicate, to be put after the file's
    name."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its entry in the header, and the position of its bytes, counted from the file's
    beginning."""

    name: str
    entry: Mapping[str, Any]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's tensors in the order of their bytes, and its free-form metadata, if any."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str] | None

    @property
    def size(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.size for tensor in self.tensors)


def header_length(beginning: bytes, file_size: int) -> int:
    """The length of the header, from the first eight bytes. Raises `BadSafetensorsError`."""
    if file_size < LENGTH_SIZE:
        raise BadSafetensorsError(f"has {file_size} bytes, too few for a safetensors file")
    length = int.from_bytes(beginning[:LENGTH_SIZE], "little")
    if length > HEADER_LIMIT:
        raise BadSafetensorsError(
            f"announces a header of {length:,} bytes; the limit is {HEADER_LIMIT:,}"
        )
    if length > file_size - LENGTH_SIZE:
        raise BadSafetensorsError(
            f"is truncated: its header has {length:,} bytes, the file {file_size:,}"
        )
    return length


def parse_header(header: bytes, file_size: int) -> Layout:
    """Parse the header of a file of this size, and check that every byte belongs to exactly one
    tensor.

    Dtypes and shapes are kept as they are, so that dtypes added to the format later also work.
    Raises `BadSafetensorsError`.
    """
    entries = _entries(header)
    metadata = entries.pop(METADATA, None)
    if metadata is not None and not _is_metadata(metadata):
        raise BadSafetensorsError(f"has a {METADATA} that is not a map from text to text")
    start = LENGTH_SIZE + len(header)
    tensors = [_tensor(name, entry, start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    _check_gapless(tensors, start, file_size)
    return Layout(tuple(tensors), metadata)


def build_header(tensors: Iterable[Tensor], metadata: Mapping[str, str] | None) -> bytes:
    """The length field and the header of a file that holds these tensors in this order. The header
    is padded so that the tensors begin at a multiple of eight."""
    entries: dict[str, Any] = {} if metadata is None else {METADATA: metadata}
    position = 0
    for tensor in tensors:
        end = position + tensor.size
        entries[tensor.name] = {**tensor.entry, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_SIZE, "little") + text


def _entries(header: bytes) -> dict[str, Any]:
    try:
        text = header.decode()
        found = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_finite
        )
        if "\\u" in text:  # escapes can encode lone surrogates, which cannot be written as UTF-8
            json.dumps(found, ensure_ascii=False).encode()
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError) as exc:
        raise BadSafetensorsError(f"has a header that is not valid JSON: {exc}") from exc
    raise BadSafetensorsError("has a header that is not a JSON object")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    twice = next(name for name in found if names.count(name) > 1)
    raise ValueError(f"{twice!r} appears twice")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a number")
    return number


def _is_metadata(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    match entry:
        case {"dtype": str(), "shape": list(shape), "data_offsets": [begin, end]}:
            counts = (*shape, begin, end)
            if all(type(count) is int and count >= 0 for count in counts) and begin <= end:
                return Tensor(name, entry, start + begin, end - begin)
    raise BadSafetensorsError(f"has a tensor, {name!r}, whose dtype, shape or offsets are invalid")


def _check_gapless(tensors: Iterable[Tensor], start: int, file_size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            what = "overlaps the one before it" if tensor.offset < position else "follows a gap"
            raise BadSafetensorsError(f"has a tensor, {tensor.name!r}, that {what}")
        position += tensor.size
    if position != file_size:
        raise BadSafetensorsError(
            f"is truncated or has bytes outside its tensors, which end at byte {position:,}"
            f" of {file_size:,}"
        )
