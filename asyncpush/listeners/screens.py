"""Where pushes are shown: what all screens have in common, and the simplest screen.

One daemon thread draws all pushes of a screen. A terminal that is paused (Ctrl-S) blocks every
write to it, and the event loop must never be blocked. Log lines that go to the same terminal are
redirected while something is drawn there: neither damages the other, and nothing is shown twice."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TextIO, TypeAlias

from asyncpush.events import PushFailed
from asyncpush.listeners.format import ASCII, UNICODE, Glyphs
from asyncpush.listeners.view import PushView
from asyncpush.own_files import library_logger

logger = library_logger("bars")

PLAIN_INTERVAL = 30.0
"""Seconds between two lines when the output is not a terminal."""

_NARROWEST = 20


class Screen(ABC):
    """Shows any number of pushes on one stream, drawn by a thread that ends with the last push."""

    interval: ClassVar[float]
    shown_events: ClassVar[frozenset[str]]
    """Events that the screen shows. Without logging configured, they need not be logged as well."""
    room: Room | None = None
    """Makes room above what is drawn, for others that write to the same stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._views: list[PushView] = []
        self._leaving: list[tuple[PushView, threading.Event]] = []
        self.broken = False

    def add(self, view: PushView) -> None:
        with self._lock:
            if self.broken:
                return
            self._views.append(view)
            if self._thread is None:
                self._thread = self._start_thread()

    def remove(self, view: PushView) -> threading.Event:
        """Draw the last line of `view`; the returned event is set when that is done."""
        gone = threading.Event()
        with self._lock:
            if view in self._views:
                self._views.remove(view)
                self._leaving.append((view, gone))
            else:  # the screen has failed
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

    def pause(self) -> float:
        """Seconds until the next frame."""
        return self.interval

    @abstractmethod
    def frame(self, views: list[PushView]) -> None:
        """Draw the current state of the pushes."""

    @abstractmethod
    def finish(self, view: PushView) -> None:
        """Show how a push ended."""

    @abstractmethod
    def clear(self) -> None:
        """Remove everything except what is meant to remain."""

    def abandon(self) -> None:
        """The screen has failed: do not use it again."""
        self.broken = True

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="asyncpush-progress", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            while self.step():
                self._wake.wait(self.pause())
                self._wake.clear()
        except Exception:
            # A closed pipe, a broken terminal: the push matters more than its display.
            logger.warning("progress is no longer shown", exc_info=True)
            with self._lock:
                self._views.clear()
                leaving, self._leaving = self._leaving, []
                self.abandon()
            for _, gone in leaving:
                gone.set()


class PlainScreen(Screen):
    """An occasional line: for log files, pipes, and terminals that cannot move the cursor."""

    interval = PLAIN_INTERVAL
    shown_events = frozenset({PushFailed.name})

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._glyphs = glyphs_for(stream)
        self._clock = clock
        self._due: float | None = None

    def frame(self, views: list[PushView]) -> None:
        now = self._clock()
        if self._due is not None and now < self._due:
            return  # woken because a push has ended
        if self._due is not None:  # nothing to report at the very beginning
            self._write("".join(f"{view.plain()}\n" for view in views))
        self._due = now + self.interval

    def pause(self) -> float:
        return self.interval if self._due is None else max(0.0, self._due - self._clock())

    def finish(self, view: PushView) -> None:
        text = view.closing(sys.maxsize, self._glyphs)
        if text is not None:
            self._write(f"{text}\n")

    def clear(self) -> None:
        self._due = None

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream writes to a terminal."""
    # A replacement for stderr may lack some methods of a file.
    isatty = getattr(stream, "isatty", None)
    try:
        return isatty is not None and bool(isatty())
    except (OSError, ValueError):  # closed
        return False


def terminal_size(stream: TextIO) -> os.terminal_size:
    """Columns that can be filled without wrapping, and lines."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):  # not a terminal: a notebook, a test
        columns, lines = shutil.get_terminal_size()
    return os.terminal_size((max(_NARROWEST, (columns or 80) - 1), lines or 24))


def glyphs_for(stream: TextIO) -> Glyphs:
    """The characters that the stream's encoding contains."""
    try:
        "".join((UNICODE.done, UNICODE.bar, UNICODE.spinner)).encode(encoding_of(stream))
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def encoding_of(stream: TextIO) -> str:
    """The stream's encoding; ASCII when it does not say."""
    return getattr(stream, "encoding", None) or "ascii"


Room: TypeAlias = Callable[[Any], AbstractContextManager[None]]


class LogLines:
    """Moves log lines out of the way of what is drawn, from `start` to `stop`.

    `tqdm.contrib.logging` replaces handlers, and so loses their levels and filters. Here each
    handler that writes to the terminal keeps its settings and only gets another stream. Starts are
    counted, because pushes begin and end in any order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._moved: list[tuple[logging.StreamHandler[Any], _AboveStream]] = []
        self._last_resort: logging.Handler | None = None

    def start(self, shown_events: frozenset[str], room: Room | None) -> None:
        """Start, or count one more user if it has already started.

        Args:
            shown_events: events that the screen shows anyway.
            room: makes room above the bars for a write to a stream; None where this is not needed.
        """
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            if room is not None:
                for handler in _terminal_handlers():
                    stream = _AboveStream(handler.stream, room)
                    handler.setStream(stream)
                    self._moved.append((handler, stream))
            if logging.lastResort is not None:
                self._last_resort = logging.lastResort
                logging.lastResort = _LastResort(shown_events, room or _no_room)

    def stop(self) -> None:
        """Restore everything once the last user has stopped."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for handler, stream in self._moved:
                if handler.stream is stream:  # otherwise it has been given another stream since
                    handler.setStream(stream.wrapped)
            self._moved.clear()
            if isinstance(logging.lastResort, _LastResort):
                logging.lastResort = self._last_resort
            self._last_resort = None


class _AboveStream:
    """A terminal's stream. Each write clears the bars and draws them again below the text."""

    def __init__(self, wrapped: Any, room: Room) -> None:
        self.wrapped = wrapped
        self._room = room

    def write(self, text: str) -> None:
        with self._room(self.wrapped):
            self.wrapped.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


class _LastResort(logging.StreamHandler[Any]):
    """Replaces `logging.lastResort`, which shows warnings where logging is not configured.

    Messages about what the screen shows anyway are left out.
    """

    def __init__(self, shown: frozenset[str], room: Room) -> None:
        super().__init__(_AboveStream(sys.stderr, room))
        self.setLevel(logging.WARNING)
        self.addFilter(lambda record: getattr(record, "asyncpush", {}).get("event") not in shown)


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


def _no_room(stream: Any) -> AbstractContextManager[None]:
    return nullcontext()
