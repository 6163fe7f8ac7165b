"""Many askers, few calls: single questions are gathered into calls of a bounded size."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from asyncpush.groups import for_group

K = TypeVar("K")
V = TypeVar("V")


class _Question(Generic[K, V]):
    __slots__ = ("answer", "answered", "item")

    def __init__(self, item: K) -> None:
        self.item = item
        self.answered = anyio.Event()
        self.answer: V | None = None


class Batcher(Generic[K, V]):
    """`ask` waits for the answer to one item; items that come while calls are under way go
    together into the next one.

    The first item goes at once and alone: a push of one file waits for nobody. A second call
    starts beside a running one only when half a call's worth has gathered, so that a thousand
    files make a handful of calls. A failing call fails the task group it runs in.

    A call takes `limit` items at most, and of those that `weigh` much only so many as stay within
    `heaviest` together, but always one.
    """

    def __init__(
        self,
        group: TaskGroup,
        call: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        *,
        limit: int,
        width: int = 4,
        weigh: Callable[[K], int] = lambda item: 0,
        heaviest: int = 0,
    ) -> None:
        self._group = group
        self._call = call
        self._limit = limit
        self._width = width
        self._weigh = weigh
        self._heaviest = heaviest
        self._waiting: deque[_Question[K, V]] = deque()
        self._running = 0

    async def ask(self, item: K) -> V:
        question: _Question[K, V] = _Question(item)
        self._waiting.append(question)
        self._start_call()
        await question.answered.wait()
        return question.answer  # type: ignore[return-value]  # set before the event

    def _start_call(self) -> None:
        enough = self._running == 0 or len(self._waiting) >= self._limit // 2
        if enough and self._waiting and self._running < self._width:
            self._running += 1
            self._group.start_soon(for_group(self._run))

    async def _run(self) -> None:
        # One turn of the loop: those who ask in the same breath go along.
        await anyio.lowlevel.checkpoint()
        questions = self._next_call()
        try:
            if questions:
                answers = await self._call([question.item for question in questions])
                for question in questions:
                    question.answer = answers[question.item]
                    question.answered.set()
        finally:
            self._running -= 1
        self._start_call()

    def _next_call(self) -> list[_Question[K, V]]:
        """Takes them in their order: nobody who waits is overtaken."""
        questions: list[_Question[K, V]] = []
        weight = 0
        while self._waiting and len(questions) < self._limit:
            weight += self._weigh(self._waiting[0].item)
            if questions and weight > self._heaviest:
                break
            questions.append(self._waiting.popleft())
        return questions
