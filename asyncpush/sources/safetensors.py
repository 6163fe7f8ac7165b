"""The safetensors format: from a header to its tensors, and back. No files here, only bytes.

A file is eight bytes of header length (little endian), the header (a JSON object from names to
dtype, shape and data offsets), and the tensors' bytes one after another, without gaps.
Source: the format's own description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LENGTH_SIZE = 8
HEADER_LIMIT = 100_000_000
"""Bytes: the library reads no longer header either."""

METADATA = "__metadata__"
_ALIGNMENT = 8


class BadSafetensorsError(Exception):
    """Why something is no safetensors file: a text that goes after its name."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its entry in the header, and where its bytes lie, counted from the file's
    beginning."""

    name: str
    entry: Mapping[str, Any]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's tensors in the order of their bytes, and its free-form metadata, if it has any."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str] | None

    @property
    def size(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.size for tensor in self.tensors)


def header_length(beginning: bytes, file_size: int) -> int:
    """The length of the header, which the first eight bytes give. Raises `BadSafetensorsError`."""
    if file_size < LENGTH_SIZE:
        raise BadSafetensorsError(f"has {file_size} bytes, too few for a safetensors file")
    length = int.from_bytes(beginning[:LENGTH_SIZE], "little")
    if length > HEADER_LIMIT:
        raise BadSafetensorsError(
            f"claims a header of {length:,} bytes; {HEADER_LIMIT:,} is the most there can be"
        )
    if length > file_size - LENGTH_SIZE:
        raise BadSafetensorsError(
            f"is cut short: its header has {length:,} bytes, the file {file_size:,}"
        )
    return length


def parse_header(header: bytes, file_size: int) -> Layout:
    """What the header says of a file of this size, checked: every byte belongs to one tensor.

    Dtypes and shapes are carried over as they are, so that a dtype of tomorrow is no obstacle.
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
    """The length and header of a file that holds the bytes of these tensors in this order, padded
    so that they begin at a multiple of eight."""
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
            text, object_pairs_hook=_each_once, parse_float=_finite, parse_constant=_finite
        )
        if "\\u" in text:  # escapes may stand for halves of characters, which nothing can write
            json.dumps(found, ensure_ascii=False).encode()
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError) as exc:
        raise BadSafetensorsError(f"has a header that is not proper JSON: {exc}") from exc
    raise BadSafetensorsError("has a header that is not a JSON object")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    twice = next(name for name in found if names.count(name) > 1)
    raise ValueError(f"{twice!r} stands there twice")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number")
    return number


def _is_metadata(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    match entry:
        case {"dtype": str(), "shape": list(shape), "data_offsets": [begin, end]}:
            counts = (*shape, begin, end)
            if all(type(count) is int and count >= 0 for count in counts) and begin <= end:
                return Tensor(name, entry, start + begin, end - begin)
    raise BadSafetensorsError(
        f"has a tensor, {name!r}, whose dtype, shape or offsets are not right"
    )


def _check_gapless(tensors: Iterable[Tensor], start: int, file_size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            what = "overlaps the one before it" if tensor.offset < position else "follows a gap"
            raise BadSafetensorsError(f"has a tensor, {tensor.name!r}, that {what}")
        position += tensor.size
    if position != file_size:
        raise BadSafetensorsError(
            f"is cut short or has bytes of no tensor: they end at byte {position:,}"
            f" of {file_size:,}"
        )
