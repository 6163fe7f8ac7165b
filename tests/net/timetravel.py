"""An event loop whose time passes at once when all that it could do is wait."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Travelling(selectors.DefaultSelector):
    """Instead of waiting, moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.now += max(timeout, 0)
        return ready


class TimeTravelLoop(asyncio.SelectorEventLoop):
    """For tests of timers alone: no sockets, no threads."""

    def __init__(self) -> None:
        self._travelling = _Travelling()
        super().__init__(self._travelling)

    def time(self) -> float:
        return self._travelling.now

    def block(self, seconds: float) -> None:
        """Let time pass in which the event loop does not run."""
        self._travelling.now += seconds
