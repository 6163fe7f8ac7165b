"""Requests read within limits, answers written one way."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from asyncpush.localhub.errors import Refusal, bad_request, too_large

MAX_JSON_BYTES = 16 << 20


async def read_body(request: web.Request, limit: int = MAX_JSON_BYTES) -> bytes:
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > limit:
            raise too_large(f"Request body is over {limit} bytes")
    return bytes(body)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty one."""
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
    """A string member of a body. Without a default it must be there."""
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
    """A whole number from the query; above `high` it is `high`, as the Hub does with limits."""
    text = request.query.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < low:
        raise bad_request(f"{key!r} must be a whole number, at least {low}")
    return min(int(text), high)


def flag_in_query(request: web.Request, *keys: str) -> bool:
    """`?expand=true`, `?expand=1`, or in a list `?expand[]=…`."""
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
    """The Hub's form: `2024-05-01T12:00:00.000Z`."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def new_request_id() -> str:
    return f"Root=1-{secrets.token_hex(4)}-{secrets.token_hex(12)}"


def is_request_id(text: str) -> bool:
    """Whether this may be echoed and logged as one; tokens (`hf_...`) are of another form."""
    return re.fullmatch(r"[A-Za-z0-9=:.-]{1,128}", text) is not None


def _header_text(message: str) -> str:
    """A header holds one line of Latin letters; the JSON body has the message as it is."""
    return "".join(c if " " <= c <= "~" else "?" for c in message[:500])


def strings_of(value: object, name: str, limit: int) -> Sequence[str]:
    """A list of strings, not longer than `limit`."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_request(f"{name!r} must be a list of strings")
    if len(value) > limit:
        raise bad_request(f"{name!r} has more than {limit} items")
    return value
