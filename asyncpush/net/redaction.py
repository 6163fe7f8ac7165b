"""Taking secrets out of what is shown: URLs, headers, texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "<redacted>"

_SECRET_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-amz-security-token",
        "x-amz-server-side-encryption-customer-key",
        "www-authenticate",
    }
)
_URL_HEADERS = frozenset({"location", "link", "x-linked-url", "content-location", "referer"})

# A presigned URL's query is its credential, whatever its parameters are called.
_URL = re.compile(r"\b(https?://[^\s\"'<>\\?#]+)\?[^\s\"'<>\\]*", re.IGNORECASE)
_USERINFO = re.compile(r"\b(https?://)[^\s\"'<>\\/@]+@", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[^\s\"',;]+", re.IGNORECASE)
_SIGNED_VALUE = re.compile(
    r"\b(X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|Policy|Key-Pair-Id"
    r"|sig|accessToken)((?:\"\s*:\s*\"|=|:\s*))[^\s&\"'<>,;]+",
    re.IGNORECASE,
)


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment; a query that was there shows as
    `?<redacted>`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, HIDDEN if parts.query else "", ""))


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers safe to show: credentials hidden, URLs without their queries."""
    return {name: _redact_header(name.lower(), value) for name, value in headers.items()}


def redact_text(text: str, *secrets: str) -> str:
    """Free text (an answer's body, an exception's words) without anything that is, or looks
    like, a credential. `secrets` are hidden wherever they stand."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    text = _USERINFO.sub(r"\1", text)
    text = _URL.sub(rf"\1?{HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _SIGNED_VALUE.sub(rf"\1\2{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def _redact_header(name: str, value: str) -> str:
    if name in _SECRET_HEADERS:
        return HIDDEN
    if name in _URL_HEADERS:
        return redact_text(value)
    return value if "?" not in value and "hf_" not in value else redact_text(value)
