"""The picture: matplotlib's SVG backend, without pyplot, embedded fonts or anything to fetch.

Text stays text (and can be searched), blocks of one colour are one path, and equal timelines give
equal files.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from asyncpush.concurrency.threads import ProcessLock
from asyncpush.listeners.format import clean, format_rate, format_seconds
from asyncpush.listeners.result_stats import rebinned
from asyncpush.listeners.timeline.layout import (
    Block,
    Section,
    Shade,
    Verdict,
    bottleneck,
    facts,
    headline,
    sections,
    share_words,
    tick_words,
    verdict,
)
from asyncpush.listeners.timeline.model import COLOURS, Timeline

WIDTH, LEFT, RIGHT = 960.0, 150.0, 20.0
_PLOT = WIDTH - LEFT - RIGHT
_HEAD, _CURVE, _AXIS, _LEGEND = 104.0, 96.0, 22.0, 26.0
_TITLE = 16.0
_GAP = 6.0

_WORDS: dict[Shade, str] = {
    "hash": "hash",
    "queued": "file in line",
    "wait": "wait",
    "connect": "connect",
    "send": "send",
    "answer": "store's answer",
    "retry": "failed attempt",
    "call": "Hub call",
    "commit": "commit",
}
_INK, _DIM, _BAD = "#1c2430", "#66707c", "#d1352b"
_LABELS = 160
"""Only the widest blocks have a label."""

_SIGN = 4.4
"""Points for one character of a label, with some margin: the viewer's font is unknown."""

_CURVE_SLICES = 200

_STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 864000, 8640000),
)
"""Seconds between the ticks of the time axis."""

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "asyncpush",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.unicode_minus": False,
    "path.simplify": False,
}
_one_at_a_time = ProcessLock()


def draw_svg(timeline: Timeline) -> bytes:
    """The timeline as a self-contained SVG, 960 points wide."""
    with _one_at_a_time, _own_settings():
        drawn = sections(timeline, int(_PLOT))
        body = sum(_TITLE + _GAP + s.height * len(s.rows) for s in drawn)
        height = _HEAD + _CURVE + _GAP + body + _AXIS + _LEGEND
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="white")
        FigureCanvasSVG(figure)
        canvas = _Canvas(figure, height, max(timeline.seconds, 1e-3))
        judged = verdict(timeline)
        canvas.head(timeline, judged)
        canvas.curve(timeline)
        canvas.waterfall(timeline, drawn, body)
        canvas.legend(drawn)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": "asyncpush", "Title": clean(headline(timeline))}
        figure.savefig(buffer, format="svg", metadata=metadata)
        return buffer.getvalue()


@contextmanager
def _own_settings() -> Iterator[None]:
    """Uses settings of its own, whatever style the user has set for other plots, and restores those
    after."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # File names may have characters that the measuring font lacks; the viewer's font has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        settings: dict[Any, Any] = matplotlib.rcParams
        settings.update(_RC)
        yield


class _Canvas:
    """A figure in points, measured from its upper left corner; the time axis covers `seconds`."""

    def __init__(self, figure: Figure, height: float, seconds: float) -> None:
        self._figure = figure
        self._height = height
        self._seconds = seconds

    def _x(self, at: float) -> float:
        """Points from the left end of the time axis, to a tenth, which is precise enough and
        short."""
        return round(at / self._seconds * _PLOT, 1)

    def head(self, timeline: Timeline, judged: Verdict) -> None:
        self._text(LEFT - 130, 24, headline(timeline), size=13, weight="bold")
        errors = [push.error for push in timeline.pushes if push.error]
        said = " · ".join([*errors[:1], facts(timeline)])
        self._text(LEFT - 130, 40, said, size=8.5, colour=_BAD if errors else _DIM)
        self._text(LEFT - 130, 62, bottleneck(judged, timeline), size=10, weight="bold")
        self._strip(judged, 70.0, 16.0)

    def _strip(self, judged: Verdict, top: float, height: float) -> None:
        """Where the time went, as shares of one bar."""
        axes = self._axes(LEFT - 130, top, WIDTH - RIGHT - LEFT + 130, height)
        total = sum(took for _, took in judged.seconds) or 1.0
        axes.set(xlim=(0, total), ylim=(0, 1))
        axes.axis("off")
        at, points = 0.0, (WIDTH - RIGHT - LEFT + 130) / total
        for what, took in judged.seconds:
            axes.add_patch(Rectangle((at, 0), took, 1, facecolor=COLOURS[what], linewidth=0))
            for words in share_words(what, took, total):
                if len(words) * (_SIGN + 0.6) + 6 < took * points:
                    self._within(axes, at + 4 / points, 0.5, words, _on(what), 8)
                    break
            at += took

    def curve(self, timeline: Timeline) -> None:
        axes = self._axes(LEFT, _HEAD, _PLOT, _CURVE)
        width, sums = rebinned(timeline.slice_seconds, timeline.throughput, _CURVE_SLICES)
        rates = [amount / width for amount in sums]
        top = max([*rates, 1.0]) * 1.08
        axes.set(xlim=(0, _PLOT), ylim=(0, top))
        edges = [self._x(at * width) for at in range(len(rates) + 1)]
        blue = COLOURS["send"]
        axes.stairs(rates, edges, fill=True, facecolor=blue, alpha=0.35, linewidth=0)
        axes.stairs(rates, edges, color=blue, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#c5cbd3")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: format_rate(rate)))
        axes.tick_params(length=2, colors=_DIM, labelsize=7.5, color="#c5cbd3")
        axes.set_xticks([])
        axes.grid(axis="y", color="#eceef1", linewidth=0.6)
        axes.set_axisbelow(True)
        self._text(LEFT - 130, _HEAD + 12, "throughput", size=8.5, weight="bold")
        self._marks(axes, timeline, named=True)

    def waterfall(self, timeline: Timeline, drawn: list[Section], height: float) -> None:
        top = _HEAD + _CURVE + _GAP
        axes = self._axes(LEFT, top, _PLOT, max(height, 1.0))
        axes.set(xlim=(0, _PLOT), ylim=(max(height, 1.0), 0))
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#c5cbd3")
        self._clock(axes)
        axes.tick_params(length=3, colors=_DIM, labelsize=7.5, color="#c5cbd3")
        axes.grid(axis="x", color="#eceef1", linewidth=0.6)
        axes.set_axisbelow(True)
        self._marks(axes, timeline, named=False)
        labels: list[tuple[float, float, Block]] = []
        shapes: dict[Shade, list[tuple[float, float, float, float]]] = {}
        at = 0.0
        for section in drawn:
            self._text(LEFT - 130, top + at + _TITLE - 4, section.title, size=8.5, weight="bold")
            at += _TITLE
            for row in section.rows:
                middle = at + section.height / 2
                if section.height >= 7 and row.label:
                    self._row_label(top + middle, row.label)
                for block in row.blocks:
                    shape = self._shape(block, at, section.height)
                    shapes.setdefault(block.shade, []).append(shape)
                    if block.label and section.height >= 9:
                        labels.append((block.end - block.start, middle, block))
                at += section.height
            at += _GAP
        for shade in _WORDS:  # In the rows of files, later blocks are drawn on top.
            if shade in shapes:
                axes.add_patch(_joined(shapes[shade], COLOURS[shade], _DEPTH[shade]))
        self._block_labels(axes, labels)

    def _clock(self, axes: Axes) -> None:
        step = next((s for s in _STEPS if self._seconds / s <= 10), self._seconds / 4)
        ticks = [at * step for at in range(int(self._seconds / step) + 1)]
        axes.set_xticks([self._x(at) for at in ticks], [tick_words(at, step) for at in ticks])

    def _row_label(self, middle: float, label: str) -> None:
        label = clean(label)
        room = int(126 / _SIGN)
        if len(label) > room:
            label = "…" + label[-room + 1 :]
        self._text(LEFT - 5, middle, label, size=7, colour=_DIM, ha="right", va="center")

    def _shape(self, block: Block, top: float, height: float) -> tuple[float, float, float, float]:
        """With a small gap between neighbours. Everything has a minimum width, so that it can be
        seen."""
        left = self._x(block.start)
        width = self._x(block.end) - left
        width = max(0.6, round(width - min(0.5, width * 0.15), 1))
        inset = min(0.8, height * 0.12)
        return left, round(top + inset, 1), width, round(height - 2 * inset, 1)

    def _block_labels(self, axes: Axes, labels: list[tuple[float, float, Block]]) -> None:
        labels.sort(key=lambda label: -label[0])
        for width, middle, block in labels[:_LABELS]:
            text = clean(block.label)
            room = int((self._x(width) - 4) / 4.0)
            if len(text) > room and "#" in text:
                text = "#" + text.rpartition("#")[2]
            if text and len(text) <= room:
                left = self._x(block.start) + 2
                self._within(axes, left, middle, text, _on(block.shade), 6.5)

    def _marks(self, axes: Axes, timeline: Timeline, *, named: bool) -> None:
        """Waits that affected everything, and the ends of what failed."""
        for hold in timeline.holds:
            left, right = self._x(hold.start), self._x(hold.end)
            axes.axvspan(left, right, color=COLOURS["wait"], alpha=0.18, linewidth=0)
            words = f"{hold.reason}, {format_seconds(hold.end - hold.start)}"
            if named and len(words) * _SIGN < right - left:
                top = axes.get_ylim()[1]
                self._within(axes, left + 2, top * 0.92, clean(words), _INK, 7)
        for push in timeline.pushes:
            if push.outcome in ("failed", "cancelled"):
                axes.axvline(self._x(push.end), color=_BAD, linewidth=1.2)

    def legend(self, drawn: list[Section]) -> None:
        seen = {block.shade for s in drawn for row in s.rows for block in row.blocks}
        at, top = LEFT, self._height - 14
        for shade, words in _WORDS.items():
            if shade not in seen:
                continue
            square = (at / WIDTH, 1 - (top + 4) / self._height)
            self._figure.add_artist(
                Rectangle(square, 9 / WIDTH, 9 / self._height, facecolor=COLOURS[shade])
            )
            self._text(at + 13, top + 3, words, size=8, colour=_INK)
            at += 13 + len(words) * 5.2 + 14

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self._height - top - height
        return self._figure.add_axes(
            (left / WIDTH, bottom / self._height, width / WIDTH, height / self._height)
        )

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        weight: str = "normal",
        colour: str = _INK,
        ha: str = "left",
        va: str = "baseline",
    ) -> None:
        room = int((WIDTH - RIGHT - x) / (size * 0.56))
        text = clean(text)
        text = text if len(text) <= room else text[: room - 1] + "…"
        self._figure.text(
            x / WIDTH,
            1 - y / self._height,
            text,
            fontsize=size,
            fontweight=weight,
            color=colour,
            ha=ha,
            va=va,
            parse_math=False,  # a $ in a file name is a $
        )

    @staticmethod
    def _within(axes: Axes, x: float, y: float, text: str, colour: str, size: float) -> None:
        axes.text(x, y, text, color=colour, fontsize=size, va="center", parse_math=False, zorder=9)


def _on(shade: str) -> str:
    """The text colour that is readable on a colour."""
    return "white" if shade in ("send", "hash", "retry", "commit", "call") else _INK


_DEPTH: dict[str, float] = {
    shade: 2 + at / 100
    for at, shade in enumerate(
        ("queued", "hash", "wait", "call", "connect", "answer", "send", "commit", "retry")
    )
}


def _joined(
    shapes: Iterable[tuple[float, float, float, float]], colour: str, depth: float
) -> PathPatch:
    """All rectangles of a colour as one path: a tenth of the size that one each would take."""
    corners: list[tuple[float, float]] = []
    codes: list[Any] = []
    for x, y, width, height in shapes:
        corners += [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return PathPatch(Path(corners, codes), facecolor=colour, linewidth=0, zorder=depth)
