"""Git LFS pointers: the small text files that stand in a tree for large objects."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_POINTER_BYTES = 1024  # the LFS specification: a longer file is no pointer
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n"
    rb"(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,18})\n?"
)


@dataclass(frozen=True, slots=True)
class LfsPointer:
    """`oid` is the sha256 of the object, `size` its bytes."""

    oid: str
    size: int

    def encode(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n"
        ).encode()


def parse_pointer(data: bytes) -> LfsPointer | None:
    match = _POINTER.fullmatch(data) if len(data) <= MAX_POINTER_BYTES else None
    return LfsPointer(match[1].decode(), int(match[2])) if match else None
