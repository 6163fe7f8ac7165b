"""Sizes as people write them: 4GB."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{infix}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for infix, base in (("", 1000), ("I", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(size: int | str) -> int:
    """Bytes: of a whole number, or of a number with a unit, in which KB to TB are powers of 1000
    (as in transformers and huggingface_hub) and KiB to TiB of 1024. Raises `ValueError`.

    >>> parse_size("4GB"), parse_size("1.5 MiB"), parse_size(500)
    (4000000000, 1572864, 500)
    """
    if isinstance(size, int) and not isinstance(size, bool):
        count = size
    else:
        found = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if found is None or found[2].upper() not in _UNITS:
            raise ValueError(f"a number of bytes, or text like '4GB' or '500MB', not {size!r}")
        count = int(float(found[1]) * _UNITS[found[2].upper()])
    if count < 1:
        raise ValueError(f"at least one byte, not {size!r}")
    return count
