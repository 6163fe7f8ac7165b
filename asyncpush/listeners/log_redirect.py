"""Log lines and bars on one terminal: neither damages the other, and nothing is shown twice."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

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

    def start(self, tells: frozenset[str], room: Room | None) -> None:
        """Start, or count one more user if it has already started.

        Args:
            tells: events that the screen shows anyway.
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
                logging.lastResort = _LastResort(tells, room or _no_room)

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
