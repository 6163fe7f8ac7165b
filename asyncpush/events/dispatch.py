"""The one dispatcher: an event, with its when and where, to all who listen.

With no listener, emitting costs one `if`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from asyncpush.own_files import library_logger

logger = library_logger("events")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `name` is what JSON lines call it."""

    name: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its when and where. `time` is seconds since the epoch (UTC)."""

    event: Event
    time: float
    push_id: str
    span_id: str
    parent_id: str | None


Listener: TypeAlias = Callable[[Record], None]


@runtime_checkable
class TracingListener(Protocol):
    """A listener that also names the trace that a request belongs to.

    `trace_headers` is asked after `RequestStarted`, with the span id of that event; what it
    returns goes along to the Hub's own origin, and nowhere else.
    """

    def __call__(self, record: Record) -> None: ...

    def trace_headers(self, span_id: str) -> Mapping[str, str]: ...


def wants_headers(listener: Listener) -> bool:
    """Whether a listener has a use for the headers and descriptions of requests and answers.

    Redacting them takes time. A listener that does not need them sets the attribute
    `wants_headers` to False, on itself or on the object whose method it is.
    """
    return bool(getattr(getattr(listener, "__self__", listener), "wants_headers", True))


_span_numbers = itertools.count(1)


def new_span_id() -> str:
    """16 hex digits, as in W3C trace context, unique in this process."""
    return f"{os.getpid() & 0xFFFFFFFF:08x}{next(_span_numbers) & 0xFFFFFFFF:08x}"


class Emitter:
    """Hands events of one push to its listeners; `child()` opens a span below this one.

    A listener that raises never harms the push: it is reported once and left out from then on.
    """

    __slots__ = ("_clock", "_listeners", "parent_id", "push_id", "span_id")

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        push_id: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listeners = list(listeners)
        self._clock = clock
        self.push_id: str = push_id
        self.span_id: str = new_span_id()
        self.parent_id: str | None = None

    @property
    def active(self) -> bool:
        """Whether anybody listens: spare the making of an event when not."""
        return bool(self._listeners)

    @property
    def detailed(self) -> bool:
        """Whether anybody wants the headers of requests and answers; if not, they stay empty."""
        return any(map(wants_headers, tuple(self._listeners)))

    def child(self) -> Emitter:
        """The same listeners, one span further down."""
        child = Emitter.__new__(Emitter)
        child._listeners = self._listeners  # shared: one that is left out is left out everywhere
        child._clock = self._clock
        child.push_id = self.push_id
        child.span_id = new_span_id()
        child.parent_id = self.span_id
        return child

    def emit(self, event: Event) -> None:
        if not self._listeners:
            return
        record = Record(event, self._clock(), self.push_id, self.span_id, self.parent_id)
        for listener in tuple(self._listeners):
            try:
                listener(record)
            except Exception:
                if listener not in self._listeners:
                    continue  # reported already: it failed in another thread, or within itself
                self._listeners.remove(listener)
                logger.exception("a listener failed and gets no more events: %r", listener)
