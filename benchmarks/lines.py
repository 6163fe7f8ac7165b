"""A line chart as SVG, small enough to commit: panels side by side, one line for each contender."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Line = Sequence[tuple[float, float]]
"""Points: a share from 0 to 1, and what it costs."""

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _GAP = 800, 400, 108, 340, 56, 72
_PANEL = (_WIDTH - _LEFT - _GAP - 24) / 2
_COLOURS = ("#2f6fb0", "#e0993a", "#3a8f5c", "#8a4fa3")
_DASHES = ("", "", "6 4", "2 3")
_INK, _FAINT, _GRID = "#222", "#666", "#ddd"


@dataclass(frozen=True, slots=True)
class Panel:
    """One cost, by contender; `percent` when it is a share itself."""

    title: str
    lines: Mapping[str, Line]
    percent: bool = False


def line_chart(title: str, caption: str, panels: Sequence[Panel]) -> str:
    """Shares run along a square-root axis: the small ones, where most pushes are, have room."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    shapes = [
        _text(12, 24, title, size=16),
        _text(12, 44, caption, colour=_FAINT),
        *_legend(names),
    ]
    for number, panel in enumerate(panels):
        shapes += _panel(panel, _LEFT + number * (_PANEL + _GAP), names)
    shapes.append(
        _text(
            _WIDTH / 2,
            _HEIGHT - 12,
            "share of the file's bytes that changed (square-root axis)",
            anchor="middle",
        )
    )
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' font-family="sans-serif" font-size="13">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _legend(names: Sequence[str]) -> list[str]:
    shapes = []
    for number, name in enumerate(names):
        x = 12 + number * 190
        shapes.append(
            f'<path d="M{x} 66h36" stroke-width="2.5" {_stroke(number)}/>'
            + _mark(x + 18, 66, number)
            + _text(x + 44, 70, name)
        )
    return shapes


def _panel(panel: Panel, left: float, names: Sequence[str]) -> list[str]:
    top = _ceiling(y for line in panel.lines.values() for _, y in line)
    height = _BOTTOM - _TOP

    def at(x: float, y: float) -> tuple[float, float]:
        return left + math.sqrt(x) * _PANEL, _BOTTOM - y / top * height

    shapes = [_text(left - 40, _TOP - 14, panel.title)]
    for step in range(5):
        y = top * step / 4
        output = f"{y:.0%}" if panel.percent else f"{y:.3g}"
        (_, down) = at(0, y)
        shapes.append(f'<path d="M{left} {down:.1f}h{_PANEL:.1f}" stroke="{_GRID}"/>')
        shapes.append(_text(left - 6, down + 4, output, anchor="end", colour=_FAINT))
    for x in sorted({x for line in panel.lines.values() for x, _ in line}):
        (across, _) = at(x, 0)
        shapes.append(f'<path d="M{across:.1f} {_BOTTOM}v5" stroke="{_FAINT}"/>')
        shapes.append(_text(across, _BOTTOM + 20, f"{x:.0%}", anchor="middle", colour=_FAINT))
    for name, line in panel.lines.items():
        shapes += _line([at(x, y) for x, y in line], names.index(name))
    return shapes


def _line(points: Sequence[tuple[float, float]], number: int) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    drawn = f'<path d="M{path}" fill="none" stroke-width="2.5" {_stroke(number)}/>'
    return [drawn, *(_mark(x, y, number) for x, y in points)]


def _mark(x: float, y: float, number: int) -> str:
    """Each colour has its own shape: lines may overlap, and some readers see no colours."""
    colour = _COLOURS[number % len(_COLOURS)]
    if number % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if number % 3 == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    return (
        f'<path d="M{x:.1f} {y - 6:.1f}l5 10h-10z" fill="#fff" stroke="{colour}" stroke-width="2"/>'
    )


def _stroke(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    drawn = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}"{drawn}'


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = _INK, size: int = 0
) -> str:
    larger = f' font-size="{size}"' if size else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{larger}>'
        f"{escape(words)}</text>"
    )


def _ceiling(values: Iterable[float]) -> float:
    """The next round number that is divisible by four: 1, 2, 4, 6, 8 of whatever power."""
    highest = max(values, default=0.0) or 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)
    return next(step * power for step in steps if step * power >= highest * 0.995)
