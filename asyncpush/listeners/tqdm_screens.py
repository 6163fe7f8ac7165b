"""Progress drawn with tqdm: rows at the bottom of a terminal, widgets in a notebook.

The only module that imports tqdm. It is imported only when something is drawn, because tqdm costs
27 ms of CPU. It uses only tqdm's public names, none with an underscore.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from asyncpush.events import PushFailed, RequestFailed, RetryScheduled, Waiting
from asyncpush.listeners.format import UNICODE, Glyphs, fit
from asyncpush.listeners.screens import Screen, encoding_of, glyphs_for, terminal_size
from asyncpush.listeners.view import Line, PushView

FRAME_INTERVAL = 0.1
"""Seconds between two frames in a terminal."""
WIDGET_INTERVAL = 0.25
"""Seconds between two updates of a notebook's widget."""

_WIDGET_TEXT = 120  # a widget does not wrap its text
_PROBLEM_EVENTS = frozenset({RetryScheduled.name, RequestFailed.name, Waiting.name})


def notebook_screen(stream: TextIO) -> Screen:
    """A widget if ipywidgets is installed, else one row of text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing ipywidgets, which are optional
        from tqdm.auto import tqdm as bar_class
    if "tqdm.notebook" in sys.modules and issubclass(
        bar_class, sys.modules["tqdm.notebook"].tqdm_notebook
    ):
        return NotebookScreen(stream, bar_class)
    return TerminalScreen(stream, rows=1)


class TerminalScreen(Screen):
    """Rows of tqdm at the bottom of the terminal, below the user's own bars.

    Args:
        stream: a terminal.
        rows: the most rows to draw; None for as many as fit. With one row the cursor never moves
        up,
            and a notebook without widgets supports nothing else.
    """

    interval = FRAME_INTERVAL
    shown_events = _PROBLEM_EVENTS | {PushFailed.name}

    def __init__(self, stream: TextIO, *, rows: int | None = None) -> None:
        super().__init__(stream)
        self._frame = _Frame(stream)
        self._rows: list[_Row] = []
        self._most_rows = rows
        self._width = 0
        self._glyphs = glyphs_for(stream)
        self.room = self._room

    def frame(self, views: list[PushView]) -> None:
        size = terminal_size(self.stream)
        width, height = size.columns, min(size.lines - 2, self._most_rows or size.lines)
        lines = self._lines(views, width, max(1, height))
        with self._frame.whole():
            moved = self._give_up_places()
            if moved or (width != self._width and self._rows):
                # There is text where no row is now, or the terminal has wrapped it differently.
                self._frame.write("\r\x1b[J")
            self._width = width
            while len(self._rows) < len(lines):
                self._rows.append(_Row(self._frame))
            for index, row in enumerate(self._rows):
                line = lines[index] if index < len(lines) else Line(" ")
                row.show(line, size, self._glyphs)
            self._frame.write("\r")  # where the cursor stays in a terminal that is resized

    def finish(self, view: PushView) -> None:
        width, _ = terminal_size(self.stream)
        text = view.closing(width, self._glyphs)
        if text is not None:
            # Not within `whole`: other bars, which tqdm clears for this, write directly.
            tqdm.write(text, file=self._frame)

    def clear(self) -> None:
        with self._frame.whole():
            self._close_rows()

    def _room(self, stream: Any) -> AbstractContextManager[None]:
        return tqdm.external_write_mode(file=stream)

    def abandon(self) -> None:
        super().abandon()
        # Otherwise tqdm would clear our rows when others write.
        self._frame.dead = True
        self.clear()

    def _give_up_places(self) -> bool:
        """Close our rows if other bars have left an empty place above them; True if so.

        New rows then take the places from the top. tqdm shows which places are free only to a new
        bar, so one is created that is never drawn.
        """
        if not self._rows:
            return False
        probe = _Row(self._frame, delay=math.inf)
        gap = probe.pos < max(row.pos for row in self._rows)
        probe.close()
        if gap:
            self._close_rows()
        return gap

    def _close_rows(self) -> None:
        while self._rows:
            self._rows.pop().close()

    def _lines(self, views: list[PushView], width: int, height: int) -> list[Line]:
        if len(views) == 1 and height > 1:
            return views[0].lines(width, self._glyphs)[:height]
        lines = [view.line(width, self._glyphs) for view in views[:height]]
        if len(views) > height > 1:
            lines[-1] = Line(f"  {self._glyphs.ellipsis} and {len(views) - height + 1} more")
        return lines


class NotebookScreen(Screen):
    """A widget of `tqdm.auto` for each push."""

    interval = WIDGET_INTERVAL
    shown_events = _PROBLEM_EVENTS | {PushFailed.name}

    def __init__(self, stream: TextIO, bar_class: Any) -> None:
        super().__init__(stream)
        self._bar_class = bar_class
        self._bars: dict[PushView, Any] = {}

    def add(self, view: PushView) -> None:
        # Created here, not in the drawing thread, so that it appears below the running cell.
        bar = self._bar_class(total=1, bar_format="{bar}", leave=True, dynamic_ncols=True)
        self._bars[view] = bar
        super().add(view)

    def frame(self, views: list[PushView]) -> None:
        for view in views:
            progress = view.snapshot()
            bar = self._bars[view]
            self._fill(bar, progress.bytes_sent, progress.total_bytes)
            bar.bar_format = _bar_format(*view.widget_texts(progress))
            bar.refresh()

    def finish(self, view: PushView) -> None:
        bar = self._bars.pop(view)
        progress = view.snapshot()
        self._fill(bar, progress.bytes_sent, progress.total_bytes)
        text = view.closing(sys.maxsize, UNICODE)
        if text is not None:
            bar.bar_format = _bar_format("", fit(text, _WIDGET_TEXT, UNICODE))
        bar.refresh()
        if not view.succeeded:
            bar.disp(bar_style="danger")
        bar.close()

    def clear(self) -> None:
        """Widgets remain."""

    @staticmethod
    def _fill(bar: Any, sent: int, total: int) -> None:
        if bar.total != (total or 1):
            bar.reset(total=total or 1)
        bar.n = sent if total else 0


class _Row(tqdm):  # type: ignore[type-arg]  # tqdm is generic only in its stubs
    """One row of the terminal: tqdm draws the bar in it and finds its place."""

    monitor_interval = 0  # no monitor thread: it would look for bars that are not updated

    def __init__(self, frame: _Frame, *, delay: float = 0) -> None:
        super().__init__(total=1, file=frame, leave=False, bar_format=" ", ascii=" #", delay=delay)

    def show(self, line: Line, size: os.terminal_size, glyphs: Glyphs) -> None:
        bar = f"{{bar:{line.bar_width}}}" if line.bar_width else ""
        self.bar_format = _escaped(line.left) + bar + _escaped(line.right)
        self.ascii = glyphs.bar
        self.n, self.total = line.done, line.total
        self.ncols, self.nrows = size.columns, size.lines
        self.refresh()


class _Frame:
    """The stream, for tqdm: what is written within `whole` is written in one piece.

    It is equal to its stream, as tqdm's own wrapper of streams (`DisableOnWriteError`) is: by `==`
    `tqdm.write` finds the bars to clear before it writes to a stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pieces: list[str] | None = None
        self.dead = False
        self.encoding = encoding_of(stream)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._stream

    @contextmanager
    def whole(self) -> Iterator[None]:
        # tqdm's lock: bars of the user's training loop move the same cursor.
        with tqdm.get_lock():  # type: ignore[no-untyped-call]
            self._pieces = []
            try:
                yield
            finally:
                text, self._pieces = "".join(self._pieces), None
                self.write(text)
                self.flush()

    def write(self, text: str) -> None:
        if self._pieces is not None:
            self._pieces.append(text)
        elif not self.dead:
            self._stream.write(text)

    def flush(self) -> None:
        if self._pieces is None and not self.dead:
            self._stream.flush()


def _bar_format(left: str, right: str) -> str:
    return f"{_escaped(left)}{{bar}}{_escaped(right)}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
