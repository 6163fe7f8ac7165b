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
        "x-xet-access-token",
        "www-authenticate",
    }
)

# A presigned URL's query is its credential, whatever its parameters are called. JSON may write
# its slashes as `\/`.
_URL = re.compile(
    r"(?P<scheme>https?:\\?/\\?/)(?P<host>[^\s\"'<>\\/?#]*)(?P<path>[^\s\"'<>?#]*)"
    rf"(?P<rest>(?:\?{HIDDEN})?[^\s\"'<>]*)",  # a text may come by here twice
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(:\\?/\\?/)[^\\/]*@")
# A token that was cut off at the end of a text is one still. OAuth's hold a JWT, as Xet's are.
_TOKEN = re.compile(
    r"hf_(?:[a-z]{2,8}_[\w.~-]{8,}|[A-Za-z0-9]{16,}|\w{0,40}$)"
    r"|api_org_[A-Za-z0-9]{8,}"
    r"|eyJ[\w-]{8,400}\.[\w-]{8,}(?:\.[\w-]*)?"
)
_BEARER = re.compile(r"(Bearer|Basic)\s+[^\s\"',;]+", re.IGNORECASE)
_NAME = re.compile(r"(?<![\w-])([\w-]++)(?:\\?\"\s*:\s*\\?\"|%3[Dd]|=|:\s*)")
_VALUE = re.compile(r"[^\s&\"'<>,;]*")
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
"""The embedded Hub takes "local" for a token: hiding that would garble "localhost"."""

_SHORTEST_CUT = 4
"""Characters of a known secret that are hidden where a text was cut off within it."""


def redact_url(url: str) -> str:
    """The URL without user, password, query and fragment; a query that was there shows as
    `?<redacted>`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, HIDDEN if parts.query else "", ""))


def redact_headers(headers: Mapping[str, str], *secrets: str) -> dict[str, str]:
    """Headers safe to show: credentials hidden, URLs without their queries."""
    return {
        name: HIDDEN if name.lower() in _SECRET_HEADERS else redact_text(value, *secrets)
        for name, value in headers.items()
    }


def redact_text(text: str, *secrets: str) -> str:
    """Free text (an answer's body, an exception's words) without anything that is, or looks
    like, a credential. `secrets` are hidden wherever they stand, the first half of one at the end
    of a text that was cut off too."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = _without_cut_off(text.replace(secret, HIDDEN), secret)
    text = _URL.sub(_bare_url, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, _without_values(text))


def _bare_url(match: re.Match[str]) -> str:
    host = match["host"].rpartition("@")[2]
    path = _USERINFO.sub(r"\1", match["path"])  # a URL within the URL
    return f"{match['scheme']}{host}{path}{f'?{HIDDEN}' if match['rest'] else ''}"


def _without_values(text: str) -> str:
    """The values of secret names hidden, in forms, JSON and headers alike."""
    shown, at = "", 0
    for match in _NAME.finditer(text):
        if match.start() >= at and match[1].lower().endswith(_SECRET_NAMES):
            value = _VALUE.match(text, match.end())
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
