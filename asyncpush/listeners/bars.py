"""Progress on the screen: bars in a terminal, a widget in a notebook, plain lines elsewhere.

Whatever is drawn is drawn by one daemon thread for all pushes of the process. A terminal that has
been paused (Ctrl-S) blocks whoever writes to it: that must never be the event loop.

The only importer of tqdm.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO

from tqdm import tqdm

from asyncpush.events import (
    PushFailed,
    PushFinished,
    Record,
    RequestFailed,
    RetryScheduled,
    Waiting,
)
from asyncpush.listeners.view import ASCII, UNICODE, Glyphs, Line, PushView
from asyncpush.options import ProgressChoice

logger = logging.getLogger("asyncpush.bars")

DISABLE_ENV = "HF_HUB_DISABLE_PROGRESS_BARS"
FRAME_INTERVAL = 0.1
"""Seconds between two frames in a terminal."""
WIDGET_INTERVAL = 0.25
"""Seconds between two updates of a notebook's widget."""
PLAIN_INTERVAL = 30.0
"""Seconds between two lines where the output is no terminal."""

_CLOSE_GRACE = 2.0  # seconds that `close` waits for the last frame to be drawn
_NARROWEST = 20


class BarDisplay:
    """Shows one push on stderr; several at once share the screen.

    On a terminal: a headline with the phase, an overall bar with bytes, rate, time left and the
    count of completed files, a bar for each of up to three files in flight, waits and retries in
    words, and one line that stays at the end. In a notebook: one widget. Elsewhere: a plain line
    each 30 seconds and at the end.

    Args:
        mode: "none" shows nothing; "auto" and "bar" show what the output can show.
            `HF_HUB_DISABLE_PROGRESS_BARS` set to 1, true, yes or on overrules both.
        title: what is pushed, such as the repo id; empty takes it from the first event.
        stream: where to, stderr if None.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        mode: ProgressChoice = "auto",
        title: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.enabled = mode != "none" and self._stream is not None and not disabled_by_env()
        self._view = PushView(title, clock=clock)
        self._screen: Screen | None = None
        self._gone: threading.Event | None = None
        self._closed = False

    def on_event(self, record: Record) -> None:
        if not self.enabled or self._closed:
            return
        self._view.on_event(record)
        if self._screen is None:
            _above_bars.start()
            self._screen = _screen_for(self._stream)
            self._screen.add(self._view)
        elif self._gone is None and type(record.event) in (PushFinished, PushFailed):
            self._gone = self._screen.remove(self._view)

    def close(self) -> None:
        """Draw the last line and give the screen back. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        if self._screen is not None:
            if self._gone is None:
                self._gone = self._screen.remove(self._view)
            self._gone.wait(_CLOSE_GRACE)
            _above_bars.stop()


def disabled_by_env(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `HF_HUB_DISABLE_PROGRESS_BARS` says so, in the official client's words."""
    value = (os.environ if environ is None else environ).get(DISABLE_ENV, "")
    return value.strip().lower() in ("1", "true", "yes", "on")


class Screen(ABC):
    """Shows any number of pushes on one stream, drawn by a thread that ends with the last push."""

    interval: ClassVar[float]

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._views: list[PushView] = []
        self._leaving: list[tuple[PushView, threading.Event]] = []
        self._broken = False

    def add(self, view: PushView) -> None:
        with self._lock:
            if self._broken:
                return
            self._views.append(view)
            if self._thread is None:
                self._thread = self._start_thread()

    def remove(self, view: PushView) -> threading.Event:
        """Have the last line of `view` drawn; the event is set when that is done."""
        gone = threading.Event()
        with self._lock:
            if view in self._views:
                self._views.remove(view)
                self._leaving.append((view, gone))
            else:  # the screen broke
                gone.set()
        self._wake.set()
        return gone

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def step(self) -> bool:
        """Draw one frame. False when nothing is left to draw, now or later."""
        with self._lock:
            views, leaving = list(self._views), self._leaving
            self._leaving = []
        try:
            for view, _ in leaving:
                self.finish(view)
            if views:
                self.frame(views)
            else:
                self.clear()
        finally:
            for _, gone in leaving:
                gone.set()
        with self._lock:
            if self._views or self._leaving:
                return True
            self._thread = None
            return False

    @abstractmethod
    def frame(self, views: list[PushView]) -> None:
        """Show the pushes as they are now."""

    @abstractmethod
    def finish(self, view: PushView) -> None:
        """Show how a push has ended."""

    @abstractmethod
    def clear(self) -> None:
        """Leave nothing but what is to stay."""

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="asyncpush-progress", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            while self.step():
                self._wake.wait(self.interval)
                self._wake.clear()
        except Exception:
            # A closed pipe, a broken terminal: the push matters more than its picture.
            logger.warning("progress is no longer shown", exc_info=True)
            with self._lock:
                self._views.clear()
                leaving, self._leaving = self._leaving, []
                self._broken = True
            for _, gone in leaving:
                gone.set()


class TerminalScreen(Screen):
    """Rows of tqdm at the bottom of the terminal. tqdm keeps them clear of bars that are not ours.

    Args:
        stream: a terminal.
        rows: the most rows to draw; None for as many as fit. With one row no cursor moves up,
            which is all that a notebook without widgets understands.
    """

    interval = FRAME_INTERVAL

    def __init__(self, stream: TextIO, *, rows: int | None = None) -> None:
        super().__init__(stream)
        self._frame = _Frame(stream)
        self._rows: list[_Row] = []
        self._most_rows = rows
        self._width = 0
        self._glyphs = _glyphs_for(stream)

    def frame(self, views: list[PushView]) -> None:
        size = _terminal_size(self.stream)
        width, height = size.columns, min(size.lines - 2, self._most_rows or size.lines)
        lines = self._lines(views, width, max(1, height))
        with self._frame.whole():
            if width < self._width:
                # The terminal has wrapped the longer rows: what they left behind goes.
                self._frame.write("\r\x1b[J")
            self._width = width
            while len(self._rows) < len(lines):
                self._rows.append(_Row(self._frame))
            for index, row in enumerate(self._rows):
                line = lines[index] if index < len(lines) else Line(" ")
                row.show(line, size, self._glyphs)

    def finish(self, view: PushView) -> None:
        width, _ = _terminal_size(self.stream)
        text = view.closing(width, self._glyphs)
        if text is not None:
            with self._frame.whole():
                tqdm.write(text, file=self._frame)

    def clear(self) -> None:
        with self._frame.whole():
            while self._rows:
                self._rows.pop().close()

    def _lines(self, views: list[PushView], width: int, height: int) -> list[Line]:
        if len(views) == 1 and height > 1:
            return views[0].lines(width, self._glyphs)[:height]
        lines = [view.line(width, self._glyphs) for view in views[:height]]
        if len(views) > height > 1:
            lines[-1] = Line(f"  {self._glyphs.ellipsis} and {len(views) - height + 1} more pushes")
        return lines


class NotebookScreen(Screen):
    """A widget of `tqdm.auto` for each push."""

    interval = WIDGET_INTERVAL

    def __init__(self, stream: TextIO, bar_class: Any) -> None:
        super().__init__(stream)
        self._bar_class = bar_class
        self._bars: dict[PushView, Any] = {}

    def add(self, view: PushView) -> None:
        # Made here, not in the drawing thread: it appears below the cell that is running now.
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
            bar.bar_format = _bar_format("", text)
        bar.refresh()
        if not view.succeeded:
            bar.disp(bar_style="danger")
        bar.close()

    def clear(self) -> None:
        """Widgets stay."""

    @staticmethod
    def _fill(bar: Any, sent: int, total: int) -> None:
        if bar.total != (total or 1):
            bar.reset(total=total or 1)
        bar.n = sent if total else 0


class PlainScreen(Screen):
    """A line now and then: for log files, pipes, and terminals that cannot move the cursor."""

    interval = PLAIN_INTERVAL

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._glyphs = _glyphs_for(stream)
        self._clock = clock
        self._due: float | None = None

    def frame(self, views: list[PushView]) -> None:
        now = self._clock()
        if self._due is not None and now < self._due:
            return  # woken because a push has ended
        if self._due is not None:  # at the very beginning there is nothing to tell
            self._write("".join(f"{view.plain()}\n" for view in views))
        self._due = now + self.interval

    def finish(self, view: PushView) -> None:
        text = view.closing(sys.maxsize, self._glyphs)
        if text is not None:
            self._write(f"{text}\n")

    def clear(self) -> None:
        self._due = None

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class _Row(tqdm):  # type: ignore[type-arg]  # tqdm is generic in its stubs alone
    """One row of the terminal: tqdm draws the bar in it and finds its place."""

    monitor_interval = 0  # tqdm's own thread would watch for bars that are never updated

    def __init__(self, frame: _Frame) -> None:
        super().__init__(total=1, file=frame, leave=False, bar_format=" ", ascii=" #")

    def show(self, line: Line, size: os.terminal_size, glyphs: Glyphs) -> None:
        bar = f"{{bar:{line.bar_width}}}" if line.bar_width else ""
        self.bar_format = _escaped(line.left) + bar + _escaped(line.right)
        self.ascii = glyphs.bar
        self.n, self.total = line.done, line.total
        self.ncols, self.nrows = size.columns, size.lines
        self.refresh()


class _Frame:
    """The stream, for tqdm: what is written within `whole` goes out in one piece, untorn.

    It equals its stream, so that tqdm counts our rows among those to clear for `tqdm.write`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pieces: list[str] | None = None
        self.encoding = stream.encoding

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._stream

    def __hash__(self) -> int:
        return hash(self._stream)

    @contextmanager
    def whole(self) -> Iterator[None]:
        # The lock is tqdm's: bars of the user's own training loop move the same cursor.
        with tqdm.get_lock():  # type: ignore[no-untyped-call]
            self._pieces = []
            try:
                yield
            finally:
                text, self._pieces = "".join(self._pieces), None
                if text:
                    self.write(text)
                    self.flush()

    def write(self, text: str) -> None:
        if self._pieces is None:
            self._stream.write(text)
        else:
            self._pieces.append(text)

    def flush(self) -> None:
        if self._pieces is None:
            self._stream.flush()


class _AboveBars:
    """While bars are shown, log lines go above them.

    `tqdm.contrib.logging` swaps handlers, and loses their levels and filters; here each handler
    that writes to the terminal keeps all it has and gets another stream. Counted, since pushes
    begin and end in any order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._moved: list[tuple[logging.StreamHandler[Any], _AboveStream]] = []
        self._last_resort: logging.Handler | None = None

    def start(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            for handler in _terminal_handlers():
                stream = _AboveStream(handler.stream)
                handler.setStream(stream)
                self._moved.append((handler, stream))
            if logging.lastResort is not None:
                self._last_resort = logging.lastResort
                logging.lastResort = _LastResort()

    def stop(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for handler, stream in self._moved:
                if handler.stream is stream:  # else somebody has given it another one meanwhile
                    handler.setStream(stream.wrapped)
            self._moved.clear()
            if isinstance(logging.lastResort, _LastResort):
                logging.lastResort = self._last_resort
            self._last_resort = None


class _AboveStream:
    """A terminal's stream; each write clears the bars and draws them again below it."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=self.wrapped):
            self.wrapped.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


class _LastResort(logging.StreamHandler[Any]):
    """Stands in for `logging.lastResort`: what is logged where nobody has configured logging.

    Retries, waits and failures of pushes are left out: the bars say them.
    """

    def __init__(self) -> None:
        super().__init__(_AboveStream(sys.stderr))
        self.setLevel(logging.WARNING)
        self.addFilter(lambda record: not _is_on_screen(record))


def _is_on_screen(record: logging.LogRecord) -> bool:
    row = getattr(record, "asyncpush", None)
    return isinstance(row, dict) and row.get("event") in _ON_SCREEN


_ON_SCREEN = frozenset(kind.name for kind in (RetryScheduled, RequestFailed, Waiting, PushFailed))


def _terminal_handlers() -> list[logging.StreamHandler[Any]]:
    loggers: list[logging.Logger] = [logging.getLogger()]
    loggers += [
        log for log in logging.Logger.manager.loggerDict.values() if isinstance(log, logging.Logger)
    ]
    return [
        handler
        for log in loggers
        for handler in log.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.stdout)
    ]


_above_bars = _AboveBars()
_screens: list[Screen] = []  # those in use: pushes that write to one stream share a screen
_screens_lock = threading.Lock()


def _screen_for(stream: TextIO) -> Screen:
    with _screens_lock:
        for screen in _screens:
            if screen.stream is stream:
                return screen
        screen = _make_screen(stream)
        _screens[:] = [other for other in _screens if other.busy]
        _screens.append(screen)
        return screen


def _make_screen(stream: TextIO) -> Screen:
    if "ipykernel.zmqshell" in sys.modules and stream is sys.stderr:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ipywidgets are missing: text will do
            from tqdm.auto import tqdm as bar_class
        if "tqdm.notebook" in sys.modules and issubclass(
            bar_class, sys.modules["tqdm.notebook"].tqdm_notebook
        ):
            return NotebookScreen(stream, bar_class)
        return TerminalScreen(stream, rows=1)
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalScreen(stream)
    return PlainScreen(stream)


def _terminal_size(stream: TextIO) -> os.terminal_size:
    """Columns that can be filled without wrapping, and lines."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # no terminal behind it: a notebook, a test
        columns, lines = shutil.get_terminal_size()
    return os.terminal_size((max(_NARROWEST, (columns or 80) - 1), lines or 24))


def _glyphs_for(stream: TextIO) -> Glyphs:
    try:
        "".join((UNICODE.done, UNICODE.bar, UNICODE.spinner)).encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def _bar_format(left: str, right: str) -> str:
    return f"{_escaped(left)}{{bar}}{_escaped(right)}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
