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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from asyncpush.localhub.errors import Refusal

USER = "local"
"""The user of the hub's one token, or of any token where it has none."""

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Authentication required", charset="UTF-8"'}
"""What makes git and git-lfs ask for a password, or look one up."""


@dataclass(frozen=True, slots=True)
class Users:
    """Names by token, which no repr shows. Without any, every token is the local user's."""

    by_token: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether any token will do."""
        return not self.by_token

    @property
    def is_single(self) -> bool:
        """Whether there is but one user, whose all repos are."""
        return len(set(self.by_token.values())) <= 1

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.by_token.values())

    def name_of(self, token: str) -> str | None:
        """Every token is compared, by digests: neither which it is nor its length can be timed."""
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
    """Who shows a token here, or None; a wrong token is refused wherever it is shown."""
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
    """What may be the token in this header, the likelier first."""
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
