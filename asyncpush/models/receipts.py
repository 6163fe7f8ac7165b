"""Receipts, and their JSON form for the machine that commits them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from asyncpush.errors import SourceError
from asyncpush.options import TransferName

Route: TypeAlias = Literal["inline", TransferName]
"""How a file gets to the Hub: in the commit itself, or by a transfer."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that the store has confirmed, waiting for its commit.

    `oid` is the sha256 for the routes lfs and xet, the git blob hash (sha1) for inline. A receipt
    of an inline file that is to be committed elsewhere carries its bytes in `content`.
    `size`, `bytes_sent` and `bytes_deduplicated` are bytes; `unchanged` means that the branch had
    the file already. Picklable, and JSON-able through `to_json` and `from_json`.

    Example:
        >>> receipt = Receipt("model.safetensors", 4 << 20, "ab" * 32, "lfs", bytes_sent=4 << 20)
        >>> Receipt.from_json(receipt.to_json()) == receipt
        True
    """

    path_in_repo: str
    size: int
    oid: str
    route: Route
    content: bytes | None = field(default=None, repr=False)
    xet_hash: str | None = None
    bytes_sent: int = 0
    bytes_deduplicated: int = 0
    unchanged: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `content` as base64."""
        row: dict[str, Any] = {
            "path_in_repo": self.path_in_repo,
            "size": self.size,
            "oid": self.oid,
            "route": self.route,
            "bytes_sent": self.bytes_sent,
            "bytes_deduplicated": self.bytes_deduplicated,
            "unchanged": self.unchanged,
        }
        if self.content is not None:
            row["content"] = base64.b64encode(self.content).decode("ascii")
        if self.xet_hash is not None:
            row["xet_hash"] = self.xet_hash
        return row

    @classmethod
    def from_json(cls, row: Any) -> Receipt:
        """Read what `to_json` wrote. Raises `SourceError` naming the field that is wrong."""
        if not isinstance(row, dict):
            raise SourceError("a receipt must be a JSON object")
        route: Any = _field(row, "route", str)
        if route not in get_args(Route):
            known = ", ".join(get_args(Route))
            raise SourceError(f"receipt: route must be one of {known}, not {route!r}")
        oid = _field(row, "oid", str)
        if len(oid) != (40 if route == "inline" else 64) or set(oid) - set("0123456789abcdef"):
            raise SourceError(f"receipt: oid {oid[:80]!r} does not fit route {route}")
        size = _count(row, "size")
        return cls(
            path_in_repo=_field(row, "path_in_repo", str),
            size=size,
            oid=oid,
            route=route,
            content=_content(row, size),
            xet_hash=_field(row, "xet_hash", str) if row.get("xet_hash") is not None else None,
            bytes_sent=_count(row, "bytes_sent", 0),
            bytes_deduplicated=_count(row, "bytes_deduplicated", 0),
            unchanged=_field(row, "unchanged", bool, False),
        )


def receipts_to_json(receipts: list[Receipt]) -> bytes:
    """Receipts as one JSON document: what `asyncpush upload --receipts` writes.

    Example:
        >>> oid = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
        >>> receipt = Receipt("config.json", 2, oid, "inline")
        >>> receipts_from_json(receipts_to_json([receipt])) == [receipt]
        True
    """
    import orjson

    return orjson.dumps({"version": 1, "receipts": [receipt.to_json() for receipt in receipts]})


def receipts_from_json(text: bytes) -> list[Receipt]:
    """Read what `receipts_to_json` wrote. Raises `SourceError` when it is anything else.

    Example:
        >>> receipts_from_json(b'{"version": 1, "receipts": []}')
        []
        >>> receipts_from_json(b"[]")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        asyncpush.errors.SourceError: not a receipts file: version 1 with a list of receipts was...
    """
    import orjson

    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise SourceError(f"not a receipts file: {exc}") from exc
    rows = document.get("receipts") if isinstance(document, dict) else None
    if not isinstance(rows, list) or document.get("version") != 1:
        raise SourceError("not a receipts file: version 1 with a list of receipts was expected")
    return [Receipt.from_json(row) for row in rows]


def _field(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = row.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SourceError(f"receipt: {name} must be of type {kind.__name__}")
    return value


def _count(row: dict[str, Any], name: str, default: Any = None) -> int:
    count: int = _field(row, name, int, default)
    if not 0 <= count < 1 << 60:
        raise SourceError(f"receipt: {name} {count} cannot be a number of bytes")
    return count


def _content(row: dict[str, Any], size: int) -> bytes | None:
    if row.get("content") is None:
        return None
    try:
        content = base64.b64decode(_field(row, "content", str), validate=True)
    except ValueError as exc:
        raise SourceError("receipt: content must be base64") from exc
    if len(content) != size:
        raise SourceError(f"receipt: content has {len(content)} bytes, size says {size}")
    return content
