"""A bar chart as SVG, small enough to commit: wall above, CPU below, a tick for each round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

Bar = tuple[str, Sequence[float], Sequence[float]]
"""A name, and its wall and CPU seconds by round."""

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 190, 90, 44, 64
_WALL, _CPU, _INK, _FAINT = "#2f6fb0", "#e0993a", "#222", "#888"


def chart(title: str, caption: str, bars: Sequence[Bar], ideal: float = 0.0) -> str:
    """The longest bar fills the width; a dashed line is the ideal time."""
    longest = max(
        [ideal, *(value for _, *series in bars for s in series for value in s)], default=1
    )
    scale = (_WIDTH - _LEFT - _RIGHT) / (longest or 1)
    height = _TOP + _ROW * len(bars) + 24
    shapes = [
        f'<text x="12" y="22" font-size="15" fill="{_INK}">{escape(title)}</text>',
        f'<text x="12" y="42" fill="{_FAINT}">{escape(caption)}</text>',
    ]
    for number, (name, walls, cpus) in enumerate(bars):
        top = _TOP + _ROW * number
        shapes.append(
            f'<text x="{_LEFT - 8}" y="{top + 19}" text-anchor="end"'
            f' fill="{_INK}">{escape(name)}</text>'
        )
        shapes += _bar(top, walls, scale, _WALL, "s")
        shapes += _bar(top + 15, cpus, scale, _CPU, "CPU s")
    if ideal:
        x = _LEFT + ideal * scale
        shapes.append(
            f'<path d="M{x:.1f} {_TOP - 6}V{height - 22}" stroke="{_FAINT}"'
            ' stroke-dasharray="4 3"/>'
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="{_FAINT}">'
            f"ideal {ideal:.2f} s</text>"
        )
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' font-family="sans-serif" font-size="12">\n'
        f'<title>{escape(title)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{body}\n</svg>\n"
    )


def _bar(top: float, values: Sequence[float], scale: float, colour: str, unit: str) -> list[str]:
    middle = statistics.median(values)
    width = max(1.0, middle * scale)
    shapes = [
        f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="13" fill="{colour}"/>',
        f'<text x="{_LEFT + max(width, max(values) * scale) + 6:.1f}" y="{top + 11}"'
        f' fill="{_INK}">{middle:.2f} {unit}</text>',
    ]
    for value in values:
        x = _LEFT + value * scale
        shapes.append(f'<path d="M{x:.1f} {top + 1}v11" stroke="{_INK}" stroke-opacity=".6"/>')
    return shapes
