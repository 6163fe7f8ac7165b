"""Two ways of one part to the store, when the first one crawls: the first good answer counts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from asyncpush.net.puts import SentPart


class Race:
    """The ways of one part: usually one, at most two. The first good answer counts, a failure only
    when no other way is left."""

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        self._on_sent = on_sent
        self._position = 0
        self._running = 0
        self._sent: SentPart | None = None
        self._failure: Exception | None = None

    def moved(self, position: int) -> None:
        """How far the part is, is how far the way is that has come furthest."""
        if position > self._position:
            self._position = position
            self._on_sent(position)

    async def run(self, way: Coroutine[Any, Any, SentPart]) -> bool:
        """Whether this way has decided the race."""
        self._running += 1
        try:
            sent = await way
        except Exception as exc:
            self._failure = self._failure or exc
            return False
        finally:
            self._running -= 1
        # An answer that is no good is the caller's to judge, unless a better one comes.
        self._sent = sent if self._sent is None or sent.is_good else self._sent
        return sent.is_good or not self._running

    def result(self) -> SentPart:
        if self._sent is not None:
            return self._sent
        assert self._failure is not None
        raise self._failure
