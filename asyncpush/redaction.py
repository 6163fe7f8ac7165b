"""Removing secrets from what is shown: URLs, headers, texts, and the fields of events.

This module alone defines what is secret, and the text that replaces it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "<redacted>"

_SECRET_KEYS = frozenset(
    {
        "access_token",
        "accesstoken",
        "authorization",
        "cookie",
        "password",
        "proxy-authorization",
        "refresh_token",
        "secret",
        "set-cookie",
        "subject_token",
        "token",
        "www-authenticate",
        "x-amz-security-token",
        "x-amz-server-side-encryption-customer-key",
        "x-xet-access-token",
    }
)
"""Headers, and fields of JSON objects and events, whose whole value is a credential."""

_URL_KEYS = frozenset({"url", "upload_url", "href", "location"})
_HOST_LETTERS = f"{string.ascii_letters}{string.digits}.:-"

# These expressions are compiled when they are first used, since most pushes of small files have
# nothing to hide.

# The query of a presigned URL is a credential, whatever its parameters are called. JSON may write
# slashes as `\/`.
_URL = (
    r"(?i)(?P<scheme>https?:\\?/\\?/)(?P<host>[^\s\"'<>\\/?#]*)(?P<path>[^\s\"'<>?#]*)"
    rf"(?P<rest>(?:\?{HIDDEN})?[^\s\"'<>]*)"  # a text may be redacted twice
)
_WORD = r"[^\s\"'<>]+"
_USERINFO = r"(:\\?/\\?/)[^\\/]*@"
_USERINFO_OF_ANY = r"//[^/@]*@"
# The Hub's tokens, and JWTs: OAuth tokens contain one, and Xet's tokens are JWTs.
_TOKEN = (
    r"hf_(?:[a-z]{2,8}_[\w.~-]{8,}|[A-Za-z0-9]{16,})"
    r"|api_org_[A-Za-z0-9]{8,}"
    r"|eyJ[\w-]{8,400}\.[\w-]{8,}(?:\.[\w-]*)?"
)
_CUT_TOKEN = r"hf_\w{0,40}$"
"""A token that is cut off at the end of a text is still recognised as a token."""

_BEARER = r"(?i)(Bearer|Basic)\s+[^\s\"',;]+"
_NAME = r"(?<![\w-])([\w-]++)(?:\\?\"\s*:\s*\\?\"|%3[Dd]|=|:\s*)"
_VALUE = r"[^\s&\"'<>,;]*"
_SECRET_NAMES = (
    "signature",
    "-credential",
    "security-token",
    "awsaccesskeyid",
    "googleaccessid",
    "policy",
    "key-pair-id",
    "sig",
    "accesstoken",
    "access_token",
    "refresh_token",
    "subject_token",
    "password",
)

_SHORTEST_SECRET = 6
"""Shorter secrets are not hidden: the embedded Hub accepts "local" as a token, and hiding that
would garble "localhost"."""

_SHORTEST_CUT = 4
"""If a text is cut off within a known secret, at least this many characters of it are
recognised."""


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment; a query that was there shows as
    `?<redacted>`."""
    if _is_plain(url):
        address, _, query = url.partition("?")
        return f"{address}?{HIDDEN}" if query else address
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, HIDDEN if parts.query else "", ""))


def _is_plain(url: str) -> bool:
    """Whether this is like the URL of nearly any request: no user, no fragment, no character that
    parsers remove. Its parts are then the same without parsing it, which takes 20 times as long."""
    scheme, _, rest = url.partition("://")
    host, slash, _ = rest.partition("/")
    return (
        scheme in ("https", "http")
        and bool(host and slash)
        and not host.strip(_HOST_LETTERS)
        and url.isascii()
        and url.isprintable()
        and " " not in url
        and "#" not in url
    )


def bare_url(url: str) -> str:
    """The URL without user, password, query and fragment, and without `<redacted>`; empty when it
    is not a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_user(text: str) -> str:
    """The text without the user and password of a URL in it."""
    return re.sub(_USERINFO_OF_ANY, "//", text)


def redact_headers(headers: Mapping[str, str], *secrets: str) -> dict[str, str]:
    """Headers that are safe to show: credentials hidden, URLs without their queries."""
    return {
        name: HIDDEN if name.lower() in _SECRET_KEYS else redact_text(value, *secrets)
        for name, value in headers.items()
    }


def redact_text(text: str, *secrets: str) -> str:
    """Free text (an answer's body, an exception's message) without anything that is, or looks
    like, a credential. Known `secrets` are hidden everywhere, also when the text was cut off
    within one."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = _without_cut_off(text.replace(secret, HIDDEN), secret)
    text = re.sub(_URL, _bare_url, text)
    if "?" in text:
        text = re.sub(_WORD, _without_query, text)
    text = re.sub(_BEARER, rf"\1 {HIDDEN}", text)
    return re.sub(_CUT_TOKEN, HIDDEN, re.sub(_TOKEN, HIDDEN, _without_values(text)))


def redact_value(value: Any, key: str = "") -> Any:
    """A field of an event without credentials. `key` is its name; containers are copied. Texts may
    be file names, so only the queries of URLs and tokens are removed from them."""
    kind = type(value)
    if kind is str:
        return _redact_field(value, key)
    if kind in _HARMLESS:
        return value
    if isinstance(value, Mapping):
        return {str(name): redact_value(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact_value(item, key) for item in value]
    return _redact_field(value, key) if isinstance(value, str) else value


_HARMLESS = frozenset({int, float, bool, type(None)})


def _redact_field(text: str, key: str) -> str:
    meaning = _meaning(key)
    if meaning == "secret":
        return HIDDEN
    if meaning == "url" and "://" in text:
        return bare_url(text)
    # The fast tests come first: there are many events, and most texts contain no secret.
    if "://" in text or ":\\/" in text:
        text = re.sub(_URL, _bare_url, text)
    if " " in text:
        text = re.sub(_BEARER, rf"\1 {HIDDEN}", text)
    if "hf_" in text or "eyJ" in text or "api_org_" in text:
        text = re.sub(_TOKEN, HIDDEN, text)
    return text


@lru_cache(maxsize=1024)
def _meaning(key: str) -> Literal["secret", "url", ""]:
    name = key.lower()
    return "secret" if name in _SECRET_KEYS else "url" if name in _URL_KEYS else ""


def _bare_url(match: re.Match[str]) -> str:
    host = match["host"].rpartition("@")[2]
    path = re.sub(_USERINFO, r"\1", match["path"])  # a URL within the URL
    return f"{match['scheme']}{host}{path}{f'?{HIDDEN}' if match['rest'] else ''}"


def _without_query(match: re.Match[str]) -> str:
    """The same without scheme and host: a relative redirect, or a server that repeats what it was
    asked for."""
    path, _, query = match[0].partition("?")
    is_path = path.lstrip("([{,;:\\").startswith("/")
    return f"{path}?{HIDDEN}" if is_path and query else match[0]


def _without_values(text: str) -> str:
    """Hide the values of secret names, in forms, JSON and headers alike."""
    shown, at = "", 0
    for match in re.finditer(_NAME, text):
        if match.start() >= at and match[1].lower().endswith(_SECRET_NAMES):
            value = re.compile(_VALUE).match(text, match.end())
            if value is not None and value[0]:
                shown += text[at : match.end()] + HIDDEN
                at = value.end()
    return shown + text[at:]


def _without_cut_off(text: str, secret: str) -> str:
    if secret[:_SHORTEST_CUT] not in text[-len(secret) :]:
        return text
    for length in range(len(secret) - 1, _SHORTEST_CUT - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + HIDDEN
    return text
