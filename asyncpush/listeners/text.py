"""Text for terminals: what it may hold, how wide it is, how it is cut to fit."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs a terminal can show. `bar` runs from empty to full, as tqdm's `ascii` does."""

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
    """One line without control characters: names and reasons come from anywhere."""
    return "".join(
        " " if sign.isspace() else "?" if _is_control(sign) else sign for sign in text
    ).strip()


def _is_control(sign: str) -> bool:
    # Cc: escape sequences; Cf: marks that turn the writing direction; Cs: undecodable names.
    return not sign.isprintable() and unicodedata.category(sign) in ("Cc", "Cf", "Cs")


def text_width(text: str) -> int:
    """Terminal columns that `text` takes: wide signs take two, combining ones none."""
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
    while (room := room - _sign_width(sign := next(signs))) >= 0:  # it ends: the text is too wide
        kept.append(sign)
    return mark + "".join(reversed(kept)) if keep_end else "".join(kept) + mark


def fit_path(path: str, width: int, glyphs: Glyphs) -> str:
    """A path in at most `width` columns: its folders go first, then its suffix, then its middle.

    >>> fit_path("run/model-00001-of-00005.safetensors", 20, UNICODE)
    'model-00001-of-00005'
    """
    name = last_name(path)
    stem = name.rpartition(".")[0] or name
    for text in (path, name, stem):
        if text_width(text) <= width:
            return text
    room = max(0, width - len(glyphs.ellipsis))
    head = fit(stem, room * 2 // 3, _CUT)  # of shards the number is what differs
    return head + fit(stem, width - text_width(head), glyphs, keep_end=True)


def last_name(path: str) -> str:
    """What comes after the last slash."""
    return path.rpartition("/")[2]
