"""The one dispatcher: it delivers each event, with its time and span, to all listeners.

Without a listener, emitting costs one `if`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from asyncpush.lazy_dataclass import dataclass
from asyncpush.own_files import library_logger

logger = library_logger("events")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `name` is the event's name in JSON lines."""

    name: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its time and span. `time` is seconds since the epoch (UTC)."""

    event: Event
    time: float
    push_id: str
    span_id: str
    parent_id: str | None


Listener: TypeAlias = Callable[[Record], None]


@runtime_checkable
class TracingListener(Protocol):
    """A listener that also provides the trace context of a request.

    `trace_headers` is called after `RequestStarted`, with the span id of that event. The headers it
    returns are sent to the Hub's own origin only.
    """

    def __call__(self, record: Record) -> None: ...

    def trace_headers(self, span_id: str) -> Mapping[str, str]: ...


def wants_headers(listener: Listener) -> bool:
    """Whether a listener needs the headers and descriptions of requests and answers.

    Redacting them takes time. A listener that does not need them sets the attribute `wants_headers`
    to False, on itself or on the object whose method it is. One whose needs change makes it a
    property.
    """
    return bool(getattr(getattr(listener, "__self__", listener), "wants_headers", True))


def wants_event(listener: Listener, kind: type[Event]) -> bool:
    """Whether a listener handles events of this kind.

    A listener that does not handle all of them has a set of those it does in the attribute
    `wants_events`, of itself or of the object whose method it is. It is called for no others.
    """
    kinds = getattr(getattr(listener, "__self__", listener), "wants_events", None)
    return kinds is None or kind in kinds


_span_numbers = itertools.count(1)
_process = ""


def _name_process() -> None:
    global _process
    _process = f"{os.getpid() & 0xFFFFFFFF:08x}"


_name_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_name_process)


def new_span_id() -> str:
    """16 hex digits, as in W3C trace context, unique in this process."""
    return f"{_process}{next(_span_numbers) & 0xFFFFFFFF:08x}"


class _Listeners:
    """The listeners of a push, shared by all its spans: one that is removed is removed for all."""

    __slots__ = ("_asked_for_headers", "all", "by_kind")

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.all = list(listeners)
        self.by_kind: dict[type[Event], tuple[Listener, ...]] = {}
        self._asked_for_headers: tuple[Listener, ...] | None = None

    def of(self, kind: type[Event]) -> tuple[Listener, ...]:
        """Those that handle events of this kind."""
        found = self.by_kind.get(kind)
        if found is None:
            found = tuple(each for each in tuple(self.all) if wants_event(each, kind))
            self.by_kind[kind] = found
        return found

    def want_headers(self) -> bool:
        asked = self._asked_for_headers
        if asked is None:
            asked = tuple(each for each in tuple(self.all) if not _never_wants_headers(each))
            self._asked_for_headers = asked
        return any(map(wants_headers, asked))

    def remove(self, listener: Listener) -> None:
        self.all.remove(listener)
        self.by_kind.clear()
        self._asked_for_headers = None


def _never_wants_headers(listener: Listener) -> bool:
    owner = getattr(listener, "__self__", listener)
    may_change = isinstance(getattr(type(owner), "wants_headers", None), property)
    return not may_change and not wants_headers(listener)


class Emitter:
    """Delivers the events of one push to its listeners; `child()` opens a span below this one.

    A listener that raises an exception never harms the push: it is reported once and gets no more
    events.
    """

    __slots__ = ("_clock", "_listeners", "parent_id", "push_id", "span_id")

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        push_id: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listeners = _Listeners(listeners)
        self._clock = clock
        self.push_id: str = push_id
        self.span_id: str = new_span_id()
        self.parent_id: str | None = None

    @property
    def active(self) -> bool:
        """Whether there is a listener. If not, the event need not be created."""
        return bool(self._listeners.all)

    def wants(self, kind: type[Event]) -> bool:
        """Whether a listener handles events of this kind. If not, the event need not be created."""
        listeners = self._listeners.by_kind.get(kind)
        return bool(self._listeners.of(kind) if listeners is None else listeners)

    @property
    def detailed(self) -> bool:
        """Whether a listener needs the headers of requests and answers. If not, they stay empty."""
        return self._listeners.want_headers()

    def child(self) -> Emitter:
        """The same listeners, with a child span."""
        child = Emitter.__new__(Emitter)
        child._listeners = self._listeners
        child._clock = self._clock
        child.push_id = self.push_id
        child.span_id = new_span_id()
        child.parent_id = self.span_id
        return child

    def emit(self, event: Event) -> None:
        kind = type(event)
        listeners = self._listeners.by_kind.get(kind)  # by far the most often known already
        if listeners is None:
            listeners = self._listeners.of(kind)
        if not listeners:
            return
        record = Record(event, self._clock(), self.push_id, self.span_id, self.parent_id)
        for listener in listeners:
            try:
                listener(record)
            except Exception:
                if listener not in self._listeners.all:
                    # already reported: it failed in another thread, or while it was called
                    continue
                self._listeners.remove(listener)
                logger.exception("a listener failed and gets no more events: %r", listener)
