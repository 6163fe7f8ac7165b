"""Progress on the screen: bars in a terminal, a widget in a notebook, plain lines elsewhere.

This module decides which of these is used, and when; what tqdm draws is in `tqdm_screens`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from asyncpush.concurrency.threads import ProcessLock
from asyncpush.events import (
    Event,
    PushFailed,
    PushFinished,
    Record,
)
from asyncpush.listeners.screens import (
    LogLines,
    PlainScreen,
    Screen,
    is_terminal,
)
from asyncpush.listeners.view import PushView
from asyncpush.options import ProgressChoice, progress_is_shown

_CLOSE_GRACE = 2.0  # seconds that `close` waits for the last frame to be drawn


class BarDisplay:
    """Shows one push on stderr; several pushes at once share the screen.

    On a terminal: a headline with the phase; an overall bar with bytes, rate, time left and the
    number of completed files; a bar for each of up to three files in flight; waits and retries in
    words; and one line that remains at the end. In a notebook: one widget. Elsewhere: a plain line
    every 30 seconds and at the end.

    Args:
        mode: "none" shows nothing; "auto" and "bar" show what the output can show.
            `HF_HUB_DISABLE_PROGRESS_BARS` set to 1, true, yes or on overrides both.
        title: what is pushed, such as the repo id; if empty, it is taken from the first event.
        stream: where to write, stderr if None.
        clock: seconds, monotonic.
    """

    wants_headers = False

    @property
    def wants_events(self) -> frozenset[type[Event]] | None:
        """All, or none when nothing is drawn."""
        return None if self.enabled else frozenset()

    def __init__(
        self,
        mode: ProgressChoice = "auto",
        title: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.enabled: bool = progress_is_shown(mode, self._stream)
        self._view = PushView(title, clock=clock)
        self._screen: Screen | None = None
        self._gone: threading.Event | None = None
        self._closed = False

    def on_event(self, record: Record) -> None:
        if not self.enabled or self._closed:
            return
        self._view.on_event(record)
        if self._screen is None:
            self._screen = _screen_for(self._stream)
            _log_lines.start(self._screen.shown_events, self._screen.room)
            self._screen.add(self._view)
        elif self._gone is None and type(record.event) in (PushFinished, PushFailed):
            self._gone = self._screen.remove(self._view)

    def close(self) -> None:
        """Draw the last line and release the screen. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        if self._screen is not None:
            if self._gone is None:
                self._gone = self._screen.remove(self._view)
            self._gone.wait(_CLOSE_GRACE)
            _log_lines.stop()


_log_lines = LogLines()
_screens: list[Screen] = []  # the screens in use: pushes that write to one stream share a screen
_screens_lock = ProcessLock()


def _screen_for(stream: TextIO) -> Screen:
    with _screens_lock:
        for screen in _screens:
            if screen.stream is stream and not screen.broken:
                return screen
        screen = _make_screen(stream)
        _screens[:] = [other for other in _screens if other.busy]
        _screens.append(screen)
        return screen


def _make_screen(stream: TextIO) -> Screen:
    if _is_notebook(stream):
        from asyncpush.listeners.tqdm_screens import notebook_screen

        return notebook_screen(stream)
    if _is_drawn(stream):
        from asyncpush.listeners.tqdm_screens import TerminalScreen

        return TerminalScreen(stream)
    return PlainScreen(stream)


def _is_notebook(stream: TextIO) -> bool:
    return "ipykernel.zmqshell" in sys.modules and stream is sys.stderr


def _is_drawn(stream: TextIO) -> bool:
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def preload(mode: ProgressChoice) -> None:
    """Import what drawing to stderr needs, so that the first event does not have to. Call it in a
    thread."""
    if not progress_is_shown(mode, sys.stderr):
        return
    if _is_notebook(sys.stderr) or _is_drawn(sys.stderr):
        import asyncpush.listeners.tqdm_screens  # noqa: F401
