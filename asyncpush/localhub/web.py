"""HTTP of the embedded Hub: request bodies, answers, refusals, and the log of requests."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web import BaseRequest, StreamResponse

MAX_JSON_BYTES = 16 << 20


async def read_body(request: web.Request, limit: int = MAX_JSON_BYTES) -> bytes:
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > limit:
            raise too_large(f"Request body is over {limit} bytes")
    return bytes(body)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object."""
    body = await read_body(request)
    return parse_object(body) if body else {}


def parse_object(data: bytes | bytearray) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"Invalid JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise bad_request("Invalid JSON: expected an object")
    return value


def text_of(
    body: Mapping[str, Any], key: str, *, default: str | None = None, limit: int = 65_536
) -> str:
    """A string member of a body; required unless there is a default."""
    value = body.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise bad_request(f"{key!r} must be a string")
    if len(value) > limit:
        raise bad_request(f"{key!r} is longer than {limit} characters")
    return value


def number_in_query(
    request: web.Request, key: str, default: int, *, low: int = 0, high: int
) -> int:
    """A whole number from the query; above `high` it becomes `high`, as the Hub does with
    limits."""
    text = request.query.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < low:
        raise bad_request(f"{key!r} must be a whole number, at least {low}")
    return min(int(text), high)


def flag_in_query(request: web.Request, *keys: str) -> bool:
    """True for `?expand=true`, `?expand=1`, or in a list `?expand[]=…`."""
    values = (value.lower() for key in keys for value in request.query.getall(key, []))
    return any(value not in ("", "0", "false") for value in values)


def json_answer(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def refusal_answer(refusal: Refusal) -> web.Response:
    headers = {"X-Error-Message": _header_text(refusal.message), **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    body = {"error": refusal.message, **refusal.extra}
    return json_answer(body, status=refusal.status, headers=headers)


def next_link(url: str, query: Mapping[str, str], **changes: str) -> dict[str, str]:
    """The `Link` header that leads to the next page."""
    return {"Link": f'<{url}?{urlencode({**query, **changes})}>; rel="next"'}


def wire_time(moment: datetime | str) -> str:
    """The Hub's time format: `2024-05-01T12:00:00.000Z`."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    time = moment.strftime("%m-%dT%H:%M:%S")
    return f"{moment.year:04d}-{time}.{moment.microsecond // 1000:03d}Z"


def new_request_id() -> str:
    return f"Root=1-{secrets.token_hex(4)}-{secrets.token_hex(12)}"


def is_request_id(text: str) -> bool:
    """Whether this may be echoed and logged as a request id; tokens (`hf_...`) have another
    form."""
    return re.fullmatch(r"[A-Za-z0-9=:.-]{1,128}", text) is not None


def _header_text(message: str) -> str:
    """A header holds one line of Latin-1 characters; the JSON body has the message as it is."""
    return "".join(c if " " <= c <= "~" else "?" for c in message[:500])


def strings_of(value: object, name: str, limit: int) -> Sequence[str]:
    """A list of strings, not longer than `limit`."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_request(f"{name!r} must be a list of strings")
    if len(value) > limit:
        raise bad_request(f"{name!r} has more than {limit} items")
    return value


class Refusal(Exception):
    """A request that is refused: `status`, `message` and the Hub's own error `code`. `extra` joins
    the JSON body (for example the URL of the repo that exists already)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.extra: dict[str, object] = dict(extra or {})
        self.headers: dict[str, str] = dict(headers or {})


def bad_request(message: str) -> Refusal:
    return Refusal(400, message)


def too_large(message: str) -> Refusal:
    return Refusal(413, message)


def conflict(message: str) -> Refusal:
    return Refusal(409, message)


def repo_not_found() -> Refusal:
    """Also the answer for a private repo: its existence is not revealed."""
    return Refusal(404, "Repository not found", code="RepoNotFound")


def not_logged_in() -> Refusal:
    """What an anonymous client is told of a repo that is private or missing, without saying which.
    The official client recognises this 401 by its URL, where that is https; here by its code."""
    return Refusal(401, "Invalid username or password.", code="RepoNotFound")


def gated(kind: str, name: str, url: str, *, known: bool) -> Refusal:
    """For users without access; `known` says whether the user is logged in."""
    if known:
        rest = f"and you are not in the authorized list. Visit {url} to ask for access."
        return Refusal(403, f"Access to {kind} {name} is restricted {rest}", code="GatedRepo")
    rest = "You must have access to it and be authenticated to access it. Please log in."
    return Refusal(401, f"Access to {kind} {name} is restricted. {rest}", code="GatedRepo")


def forbidden(message: str) -> Refusal:
    return Refusal(403, message)


def revision_not_found(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, revision: str | None = None) -> Refusal:
    where = f" on {revision!r}" if revision else ""
    return Refusal(404, f"Entry {path!r} does not exist{where}", code="EntryNotFound")


LOGGER = logging.getLogger("asyncpush.localhub.requests")

_COLOURS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class RequestLog(AbstractAccessLogger):
    """Called by aiohttp when an answer has been sent, body included."""

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
    """Writes lines such as `12:00:00 GET /me/net 200 12 ms git/2.39.5`, with the status coloured if
    wanted."""

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
        content = getattr(record, "request", None) or {"message": super().format(record)}
        return orjson.dumps({"time": time, "level": record.levelname.lower(), **content}).decode()


def _printable(text: str) -> str:
    """Escapes what could move a terminal's cursor or start a new line: clients choose this text."""
    return "".join(c if c.isprintable() else "?" for c in text[:2000])
