from __future__ import annotations

import dataclasses
import logging
import pickle

import pytest

from asyncpush import events
from asyncpush.events import Emitter, Event, Notice, Record
from asyncpush.listeners.bars import BarDisplay
from asyncpush.listeners.logs import LogListener
from asyncpush.listeners.publisher import ProgressPublisher
from asyncpush.listeners.result_stats import ActivityTally, RetryTally


def failing(record: Record) -> None:
    raise RuntimeError("a listener's own bug")


def test_listeners_get_the_event_with_its_when_and_where() -> None:
    seen: list[Record] = []
    emit = Emitter([seen.append], push_id="p1", clock=lambda: 12.5)

    emit.emit(Notice("hello"))

    assert seen == [Record(Notice("hello"), 12.5, "p1", emit.span_id, None)]


def test_nobody_listens_and_nothing_is_made() -> None:
    def clock() -> float:
        raise AssertionError("the clock was read for nobody")

    emit = Emitter(clock=clock)
    emit.emit(Notice("hello"))

    assert not emit.active


def test_a_child_is_a_span_below_with_the_same_listeners() -> None:
    seen: list[Record] = []
    parent = Emitter([seen.append], push_id="p1", clock=lambda: 1.0)

    child = parent.child()
    grandchild = child.child()
    grandchild.emit(Notice("hello"))

    assert child.parent_id == parent.span_id
    assert grandchild.parent_id == child.span_id
    assert len({parent.span_id, child.span_id, grandchild.span_id}) == 3
    assert seen == [Record(Notice("hello"), 1.0, "p1", grandchild.span_id, child.span_id)]


def test_a_failing_listener_is_left_out_and_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Record] = []
    emit = Emitter([failing, seen.append])

    with caplog.at_level(logging.ERROR, "asyncpush.events"):
        emit.child().emit(Notice("one"))
        emit.emit(Notice("two"))

    assert [record.event for record in seen] == [Notice("one"), Notice("two")]
    assert len(caplog.records) == 1
    assert "a listener failed" in caplog.text


def test_the_last_listener_to_fail_leaves_nobody() -> None:
    emit = Emitter([failing])

    emit.emit(Notice("one"))

    assert not emit.active


def test_a_listener_that_fails_within_itself_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def entangled(record: Record) -> None:
        if record.event == Notice("outer"):
            emit.emit(Notice("inner"))
        raise RuntimeError("both times")

    emit = Emitter([entangled])
    emit.emit(Notice("outer"))

    assert not emit.active
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_listener_may_stop_the_program(error: type[BaseException]) -> None:
    def stop(record: Record) -> None:
        raise error

    emit = Emitter([stop])
    with pytest.raises(error):
        emit.emit(Notice("one"))


def test_span_ids_are_16_hex_digits_and_unique() -> None:
    spans = {events.new_span_id() for _ in range(1000)}

    assert len(spans) == 1000
    assert all(len(span) == 16 and int(span, 16) >= 0 for span in spans)


KINDS = [
    kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)
]


def test_every_event_has_a_name_of_its_own() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_frozen_and_travels(kind: type[Event]) -> None:
    event = kind(**{field.name: "x" for field in dataclasses.fields(kind)})

    assert pickle.loads(pickle.dumps(event)) == event
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, "y")


class Calm:
    """A listener that can do without headers, until it is told otherwise."""

    wants_headers = False

    def on_event(self, record: Record) -> None: ...

    def __call__(self, record: Record) -> None: ...


def test_headers_are_shown_while_anybody_wants_them() -> None:
    calm, seen = Calm(), list[Record]()
    assert not Emitter().detailed
    assert not Emitter([calm, calm.on_event]).detailed
    assert Emitter([calm, seen.append]).detailed

    child = Emitter([calm]).child()
    calm.wants_headers = True
    assert child.detailed


@pytest.mark.parametrize(("level", "wanted"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_a_log_that_shows_headers_wants_them(
    level: int, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(level, logger="asyncpush.http"):
        assert Emitter([LogListener().on_event]).detailed is wanted


def test_progress_alone_wants_no_headers() -> None:
    listeners = (ProgressPublisher(), BarDisplay("none"), RetryTally(), ActivityTally())
    assert not Emitter([listener.on_event for listener in listeners]).detailed


def test_a_listener_gets_only_the_kinds_that_it_names() -> None:
    class Picky:
        wants_events = frozenset({events.PushStarted})

        def __init__(self) -> None:
            self.seen: list[Event] = []

        def on_event(self, record: Record) -> None:
            self.seen.append(record.event)

    picky, seen = Picky(), list[Record]()
    emit = Emitter([picky.on_event])
    assert emit.wants(events.PushStarted)
    assert not emit.child().wants(events.PartConnected)
    assert Emitter([picky.on_event, seen.append]).wants(events.PartConnected)
    started = events.PushStarted("me/a", "model", "main")
    emit.emit(events.PartConnected(1))
    emit.child().emit(started)
    assert picky.seen == [started]


def test_a_failed_listener_is_removed_for_every_kind() -> None:
    calls: list[Event] = []

    def fails(record: Record) -> None:
        calls.append(record.event)
        raise ValueError

    emit = Emitter([fails])
    assert emit.wants(events.PartConnected)
    emit.child().emit(events.PushStarted("me/a", "model", "main"))
    emit.emit(events.PartConnected(1))
    assert len(calls) == 1
    assert not emit.wants(events.PartConnected)
