"""The log of requests: one record each on `asyncpush.localhub.requests`, as text or as JSON.

Queries are left out: a presigned URL carries its permission there.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web import BaseRequest, StreamResponse

from asyncpush.localhub.web import is_request_id

LOGGER = logging.getLogger("asyncpush.localhub.requests")

_COLOURS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class RequestLog(AbstractAccessLogger):
    """aiohttp calls it when an answer has gone out, bodies included."""

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: BaseRequest, response: StreamResponse, time: float) -> None:
        match = getattr(request, "match_info", None)
        given = response.headers.get("X-Request-Id", "")
        row: dict[str, Any] = {
            "method": _printable(request.method),
            "path": _printable(request.rel_url.raw_path),
            "route": match.route.name if match is not None else None,
            "status": response.status,
            "seconds": round(time, 6),
            "bytes": response.body_length,
            "user_agent": _printable(request.headers.get("User-Agent", "")),
            "request_id": given if is_request_id(given) else None,
        }
        text = "{method} {path} {status} {seconds:.4f} s {user_agent}".format_map(row)
        self.logger.info("%s", text.rstrip(), extra={"request": row})


class TextLines(logging.Formatter):
    """`12:00:00 GET /me/net 200 12 ms git/2.39.5`, the status in colour if wanted."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        row = getattr(record, "request", None)
        if row is None:
            return super().format(record)
        status, time = str(row["status"]), self.formatTime(record, "%H:%M:%S")
        rest = f"{row['seconds'] * 1000:.0f} ms  {row['user_agent']}".rstrip()
        if self._colour:
            status = f"{_COLOURS.get(row['status'] // 100, '')}{status}{_PLAIN}"
            time, rest = f"{_DIM}{time}{_PLAIN}", f"{_DIM}{rest}{_PLAIN}"
        return f"{time} {row['method']:<6} {row['path']} {status} {rest}"


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, and a request's facts or a `message`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = getattr(record, "request", None) or {"message": super().format(record)}
        return orjson.dumps({"time": time, "level": record.levelname.lower(), **told}).decode()


def _printable(text: str) -> str:
    """A client's words must not move a terminal's cursor, nor begin a line."""
    return "".join(c if c.isprintable() else "?" for c in text[:2000])
