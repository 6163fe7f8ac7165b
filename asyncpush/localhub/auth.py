"""Who is asking: the bearer token, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field

from aiohttp import web

from asyncpush.localhub.errors import Refusal

USER = "local"


@dataclass(frozen=True, slots=True)
class Token:
    """The hub's own token; never shown by a repr."""

    value: str | None = field(repr=False)


TOKEN = web.AppKey("token", Token)


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def user_of(request: web.Request) -> str | None:
    """Who shows a token here, or None; a wrong token is refused wherever it is shown.

    When the hub has no token of its own, any bearer token that is not empty will do.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, given = header.partition(" ")
    given, token = given.strip(), request.app[TOKEN].value
    if scheme.lower() != "bearer" or not given or not (token is None or _equal(given, token)):
        raise Refusal(401, "Invalid credentials in Authorization header")
    return USER


def require_user(request: web.Request) -> str:
    """The user, or a 401: every call that writes begins with this."""
    user = user_of(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return user


def _equal(given: str, token: str) -> bool:
    """Compare digests, so that not even the token's length can be timed."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")) for text in (given, token)]
    return hmac.compare_digest(digests[0].digest(), digests[1].digest())
