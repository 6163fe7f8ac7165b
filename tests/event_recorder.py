"""A listener that keeps the events it receives."""

from __future__ import annotations

from typing import TypeVar

from asyncpush.events import Event, Record

E = TypeVar("E", bound=Event)


class EventRecorder:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    def of(self, kind: type[E]) -> list[E]:
        return [record.event for record in self.records if isinstance(record.event, kind)]
