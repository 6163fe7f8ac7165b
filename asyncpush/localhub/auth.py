"""Who is asking: a token, shown as Bearer or as the password of Basic, compared in constant time.

Basic is what git, git-lfs and official clients before 0.20 send: `user:TOKEN`, or `TOKEN` as the
user's name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web import BaseRequest, StreamResponse

from asyncpush.localhub.web import Refusal, is_request_id

USER = "local"
"""The user of the hub's one token, or of any token where it has none."""

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Authentication required", charset="UTF-8"'}
"""Makes git and git-lfs ask for a password or look one up."""


@dataclass(frozen=True, slots=True)
class Users:
    """Names by token; no repr shows the tokens. Without any, every token belongs to the local
    user."""

    by_token: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether any token is accepted."""
        return not self.by_token

    @property
    def is_single(self) -> bool:
        """Whether there is only one user, who then owns all repos."""
        return len(set(self.by_token.values())) <= 1

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.by_token.values())

    def name_of(self, token: str) -> str | None:
        """Compares with every token, by digest, so that timing reveals neither the token nor its
        length."""
        if self.is_open:
            return USER if token else None
        given, found = _digest(token), None
        for known, name in self.by_token.items():
            if hmac.compare_digest(_digest(known), given):
                found = name
        return found


USERS = web.AppKey("users", Users)


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def user_of(request: web.Request) -> str | None:
    """The user whose token is given here, or None; a wrong token is refused wherever it is
    given."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    for token in _tokens(header):
        name = request.app[USERS].name_of(token)
        if name is not None:
            return name
    raise Refusal(401, "Invalid credentials in Authorization header")


def require_user(request: web.Request) -> str:
    """The user, or a 401: every call that writes begins with this."""
    user = user_of(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return user


def _tokens(header: str) -> Iterator[str]:
    """The possible tokens in this header, the most likely first."""
    scheme, _, given = header.partition(" ")
    given = given.strip()
    if scheme.lower() == "bearer" and given:
        yield given
    elif scheme.lower() == "basic":
        try:
            pair = base64.b64decode(given, validate=True).decode()
        except (binascii.Error, ValueError):
            return
        name, _, password = pair.partition(":")
        yield from filter(None, (password, name))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


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
        told = getattr(record, "request", None) or {"message": super().format(record)}
        return orjson.dumps({"time": time, "level": record.levelname.lower(), **told}).decode()


def _printable(text: str) -> str:
    """Escapes what could move a terminal's cursor or start a new line: clients choose this text."""
    return "".join(c if c.isprintable() else "?" for c in text[:2000])
