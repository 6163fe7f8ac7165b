"""Authentication: the user of a request's token, which is given as Bearer or as Basic password.

Tokens are those that the hub was started with, and those that it issues itself, which expire. Basic
is what git, git-lfs and official clients before 0.20 send: `user:TOKEN`, or `TOKEN` as the user's
name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

from aiohttp import web

from asyncpush.localhub.blobs import DATE, DATE_FORMAT, EXPIRES, BlobError, Signer
from asyncpush.localhub.web import Refusal

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

OAUTH_PREFIX, EXCHANGED_PREFIX = "hf_oauth_local-", "hf_jwt_local-"
"""Prefixes of the tokens that this hub issues: like those of the public Hub, which uses neither of
these."""

OAUTH_LIFETIME = 30 * 86_400
"""Seconds that a token of a browser login is valid."""

EXCHANGED_LIFETIME = 3600
"""Seconds that a token of trusted publishing is valid, as on the public Hub."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token that this hub issued: its user, the Unix time at which it expires, and the only
    `resource` that it may write to (`me/m`, `datasets/me/d`). A user as the resource means that it
    may write to no repo; None means that it may do everything its user may."""

    token: str = field(repr=False)
    user: str
    expires_at: float
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class BrowserLogin:
    """What `hf auth login` stores: a token, the Unix time at which it expires, and a refresh token,
    which can be used once."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: float


class TokenIssuer:
    """Issues tokens that expire, and recognizes them. Hubs that serve the same folder recognize
    each other's tokens.

    A token contains its own rights, signed. A refresh token is random, and names a file that says
    whose it is. Using a refresh token removes that file; only the first one who removes it
    succeeds.
    """

    def __init__(self, folder: Path, *, lifetime: int = OAUTH_LIFETIME) -> None:
        self._folder = folder
        self._signer = Signer.load(folder / "secret")
        self._lifetime = lifetime
        self._generation = 0

    def log_in(self, user: str) -> BrowserLogin:
        """A token and a refresh token for `user`, as after a login in the browser."""
        refresh_token = f"hf_refresh_{secrets.token_urlsafe(32)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(self._refresh_file(refresh_token), flags, 0o600), "w") as file:
            file.write(user)
        issued = self._issue(OAUTH_PREFIX, user, self._lifetime)
        return BrowserLogin(issued.token, refresh_token, issued.expires_at)

    def refresh(self, refresh_token: str) -> BrowserLogin | None:
        """Another login for the user of this refresh token; None when it is unknown or used."""
        path = self._refresh_file(refresh_token)
        try:
            user = path.read_text()
            path.unlink()
        except FileNotFoundError:
            return None
        return self.log_in(user)

    def exchange(self, user: str, resource: str) -> IssuedToken:
        """A token only for `resource`, as trusted publishing issues it."""
        return self._issue(EXCHANGED_PREFIX, user, EXCHANGED_LIFETIME, resource)

    def find(self, token: str) -> IssuedToken | None:
        """The token's rights; None when this hub did not issue it, or when it has expired or was
        revoked."""
        if not token.startswith((OAUTH_PREFIX, EXCHANGED_PREFIX)):
            return None
        encoded = token.partition("-")[2]
        try:
            padded = encoded.encode() + b"=" * (-len(encoded) % 4)
            user, _, query = base64.urlsafe_b64decode(padded).decode().partition("?")
            self._signer.check("OAUTH", user, parse_qsl(query))
        except (BlobError, binascii.Error, UnicodeError):
            return None
        signed = dict(parse_qsl(query))
        if int(signed["generation"]) < self._generation:
            return None
        issued = datetime.strptime(signed[DATE], DATE_FORMAT).replace(tzinfo=UTC)
        expires_at = issued.timestamp() + int(signed[EXPIRES])
        return IssuedToken(token, user, expires_at, signed.get("resource"))

    def seconds_left(self, issued: IssuedToken | BrowserLogin) -> int:
        return max(0, round(issued.expires_at - self._signer.clock()))

    def revoke(self) -> None:
        """Accept none of the tokens issued so far, on this hub. Refresh tokens stay valid."""
        self._generation += 1

    def _issue(
        self, prefix: str, user: str, lifetime: int, resource: str | None = None
    ) -> IssuedToken:
        # The random part makes all tokens different.
        params = {"generation": str(self._generation), "id": secrets.token_hex(8)}
        if resource is not None:
            params["resource"] = resource
        signed = self._signer.sign("OAUTH", user, params, lifetime=lifetime).encode()
        token = prefix + base64.urlsafe_b64encode(signed).decode().rstrip("=")
        return IssuedToken(token, user, self._signer.clock() + lifetime, resource)

    def _refresh_file(self, refresh_token: str) -> Path:
        digest = hashlib.sha256(refresh_token.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / digest


TOKENS = web.AppKey("tokens", TokenIssuer)


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def user_of(request: web.Request) -> str | None:
    """The user of the request's token, or None without a token. An invalid token is refused
    everywhere."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    users, tokens = request.app[USERS], request.app[TOKENS]
    for token in _tokens(header):
        if token.startswith((OAUTH_PREFIX, EXCHANGED_PREFIX)):
            issued = tokens.find(token)  # an expired token is refused even by an open hub
            name = None if issued is None else issued.user
        else:
            name = users.name_of(token)
        if name is not None:
            return name
    raise Refusal(401, "Invalid credentials in Authorization header")


def issued_token(request: web.Request) -> IssuedToken | None:
    """The request's token, if this hub issued it."""
    given = _tokens(request.headers.get("Authorization", ""))
    return next(filter(None, map(request.app[TOKENS].find, given)), None)


def signed_in(request: web.Request) -> str:
    """The user, or a 401."""
    user = user_of(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return user


def require_user(request: web.Request) -> str:
    """The user, or a 401; a 403 when the token is for another repo than that of the URL. Every call
    that writes begins with this."""
    user = signed_in(request)
    match = request.match_info
    kind = (match.get("kind") or match.get("prefix") or "models").rstrip("/")
    named = "/".join(filter(None, (match.get("namespace"), match.get("name"))))
    check_scope(request, named if kind == "models" else f"{kind}/{named}")
    return user


def check_scope(request: web.Request, resource: str) -> None:
    """Raises a `Refusal` 403 when the request's token was issued for another resource."""
    issued = issued_token(request)
    if issued is not None and issued.resource not in (None, resource):
        raise Refusal(403, f"This token may write only to {issued.resource}")


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
