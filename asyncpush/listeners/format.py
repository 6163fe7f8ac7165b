"""Sizes, times and shares as text, cut to the width of a terminal."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from asyncpush.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters a terminal can show. `bar` runs from empty to full, like tqdm's `ascii`."""

    done: str
    failed: str
    dot: str
    ellipsis: str
    bar: str
    spinner: str

    def spin(self, now: float) -> str:
        return self.spinner[int(now * 10) % len(self.spinner)]


UNICODE = Glyphs("✓", "✗", "·", "…", "─╸━", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
ASCII = Glyphs("OK", "X", "-", "...", ".#", "|/-\\")
_CUT = replace(UNICODE, ellipsis="")


def clean(text: str) -> str:
    """One line without control characters: names and reasons may come from anywhere."""
    return "".join(
        " " if sign.isspace() else "?" if _is_control(sign) else sign for sign in text
    ).strip()


def _is_control(sign: str) -> bool:
    # Cc: escape sequences; Cf: direction marks; Cs: undecodable names.
    return not sign.isprintable() and unicodedata.category(sign) in ("Cc", "Cf", "Cs")


def text_width(text: str) -> int:
    """Terminal columns that `text` takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_sign_width(sign) for sign in text)


def _sign_width(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "FW" else 1


def fit(text: str, width: int, glyphs: Glyphs, *, keep_end: bool = False) -> str:
    """`text` in at most `width` columns, cut at its end, or at its start with `keep_end`."""
    if text_width(text) <= width:
        return text
    mark = glyphs.ellipsis[:width]
    room = width - len(mark)
    kept: list[str] = []
    signs = iter(reversed(text) if keep_end else text)
    # this ends because the text is too wide
    while (room := room - _sign_width(sign := next(signs))) >= 0:
        kept.append(sign)
    return mark + "".join(reversed(kept)) if keep_end else "".join(kept) + mark


def fit_path(path: str, width: int, glyphs: Glyphs) -> str:
    """A path in at most `width` columns. Its folders are dropped first, then its suffix, then its
    middle.

    >>> fit_path("run/model-00001-of-00005.safetensors", 20, UNICODE)
    'model-00001-of-00005'
    """
    name = last_name(path)
    stem = name.rpartition(".")[0] or name
    for text in (path, name, stem):
        if text_width(text) <= width:
            return text
    room = max(0, width - len(glyphs.ellipsis))
    head = fit(stem, room * 2 // 3, _CUT)  # the number is what distinguishes shards
    return head + fit(stem, width - text_width(head), glyphs, keep_end=True)


def last_name(path: str) -> str:
    """The part after the last slash."""
    return path.rpartition("/")[2]


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: float) -> str:
    """Bytes in powers of 1000, as the Hub shows them.

    >>> format_bytes(5_812_000_000)
    '5.81 GB'
    """
    value, unit = _scale(count)
    return f"{_three_digits(value, unit)} {unit}"


def format_share(part: float, whole: float) -> str:
    """Two amounts in one unit, that of the whole.

    >>> format_share(1_300_000_000, 5_812_000_000)
    '1.30/5.81 GB'
    """
    value, unit = _scale(whole)
    scaled = part / 1000 ** _UNITS.index(unit)
    digits = 0 if unit == "B" else _decimals(value)
    return f"{scaled:.{digits}f}/{value:.{digits}f} {unit}"


def format_rate(bytes_per_second: float) -> str:
    """
    >>> format_rate(212_400_000)
    '212 MB/s'
    """
    return f"{format_bytes(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(9), format_duration(754), format_duration(7260)
    ('9 s', '12:34', '2:01:00')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_seconds(seconds: float) -> str:
    """Like `format_duration`, with decimals where they matter.

    >>> format_seconds(0.416), format_seconds(75)
    ('0.42 s', '1:15')
    """
    return f"{seconds:.2f} s" if seconds < 9.995 else format_duration(seconds)


def format_count(count: int, noun: str) -> str:
    """
    >>> format_count(1, "file"), format_count(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scale(count: float) -> tuple[float, str]:
    value = float(count)
    for unit in _UNITS[:-1]:
        # 999.5 of a unit would be rounded to four digits: it is shown as 1.00 of the next unit.
        if value < 999.5:
            return value, unit
        value /= 1000
    return value, _UNITS[-1]


def _decimals(value: float) -> int:
    if value < 9.995:
        return 2
    return 1 if value < 99.95 else 0


def _three_digits(value: float, unit: str) -> str:
    return f"{value:.{0 if unit == 'B' else _decimals(value)}f}"
