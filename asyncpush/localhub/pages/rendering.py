"""From views to HTML. Everything in a view is text, and is escaped, unless it is `Markup`."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asyncpush.localhub.pages.views import Page

_STATIC = Path(__file__).parent / "static"
STYLE = (_STATIC / "style.css").read_bytes()
ICON = (_STATIC / "icon.svg").read_bytes()
# Their names contain a hash of their content, so that a browser may keep them for ever.
STYLE_URL = f"/_pages/style-{hashlib.sha256(STYLE).hexdigest()[:12]}.css"
ICON_URL = f"/_pages/icon-{hashlib.sha256(ICON).hexdigest()[:12]}.svg"

# These characters change the direction of text: a name could show its end in the middle.
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **{ord(mark): f"[U+{ord(mark):04X}]" for mark in _DIRECTIONS},
    **{code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x7F, 0xA0), *range(0xD800, 0xE000))},
}


def visible(text: str) -> str:
    r"""Text without characters that hide or turn what stands beside them.

    >>> visible("gpj.\u202eexe"), visible("\x1b[0m")
    ('gpj.[U+202E]exe', '␛[0m')
    """
    return text.translate(_VISIBLE)


def render(page: Page, now: datetime) -> str:
    """The page as HTML; "2 days ago" is relative to `now`."""
    return _TEMPLATES.get_template(page.template).render(page=page, now=now)


def size(count: int) -> str:
    """
    >>> size(0), size(999), size(1500), size(5_800_000_000)
    ('0 B', '999 B', '1.5 kB', '5.8 GB')
    """
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"


def ago(moment: datetime, now: datetime) -> str:
    """
    >>> day = datetime(2026, 3, 14, tzinfo=UTC)
    >>> ago(datetime(2026, 3, 12, tzinfo=UTC), day), ago(datetime(2025, 1, 2, tzinfo=UTC), day)
    ('2 days ago', '2 Jan 2025')
    """
    seconds = (now - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for unit, length, most in (("minute", 60, 60), ("hour", 3600, 24), ("day", 86_400, 31)):
        if seconds < length * most:
            return f"{plural(int(seconds // length), unit)} ago"
    return f"{moment.day} {moment:%b %Y}"


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "file"), plural(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("asyncpush.localhub.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"style_url": STYLE_URL, "icon_url": ICON_URL}
    templates.filters |= {"size": size, "ago": ago, "plural": plural, "utc": _utc}
    return templates


_TEMPLATES = _environment()
