"""Events of many uploads become those of one push; no Ray in here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from asyncpush.distributed import ray as relay
from asyncpush.distributed.ray import Merger, Outbox, Relay
from asyncpush.events import (
    Emitter,
    Event,
    FilesPlanned,
    FileStored,
    HashProgress,
    PartProgress,
    PartStored,
    PhaseChanged,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
    TransferStarted,
)
from asyncpush.listeners.aggregator import ProgressAggregator


def record(event: Event) -> Record:
    return Record(event, 0.0, "p", "s", None)


def sent_through(events: Sequence[Event]) -> list[Event]:
    sent: list[Event] = []
    outbox = Outbox(sent.extend)
    for event in events:
        outbox.on_event(record(event))
    outbox.flush()
    return sent


def test_of_each_parts_positions_the_newest_is_sent() -> None:
    started = TransferStarted("a", 9, 2)
    assert sent_through(
        [
            HashProgress("a", 1, 9),
            HashProgress("a", 9, 9),
            started,
            PartProgress("a", 1, 2, 5),
            PartProgress("a", 2, 1, 4),
            PartProgress("a", 1, 5, 5),
            PartProgress("b", 1, 1, 1),
        ]
    ) == [
        HashProgress("a", 9, 9),
        started,
        PartProgress("a", 1, 5, 5),
        PartProgress("a", 2, 1, 4),
        PartProgress("b", 1, 1, 1),
    ]


def test_start_and_end_of_one_upload_are_not_sent() -> None:
    ends = [
        PushStarted("me/m", "model", "main"),
        PushFinished("", 1, 1, 1.0, "store"),
        PushFailed("oops", "HubError"),
    ]
    assert sent_through([*ends, FilesPlanned(1, 9)]) == [FilesPlanned(1, 9)]


def test_nothing_is_sent_when_there_is_nothing() -> None:
    outbox = Outbox(lambda events: pytest.fail("there was nothing"))
    assert outbox.flush() is None


async def test_the_outbox_is_emptied_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FLUSH_INTERVAL", 0)
    sent = asyncio.Event()
    outbox = Outbox(lambda events: sent.set())
    running = asyncio.create_task(outbox.run())
    outbox.on_event(record(FilesPlanned(1, 9)))
    await asyncio.wait_for(sent.wait(), 30)
    running.cancel()


async def test_what_is_reported_is_taken_once_and_in_order() -> None:
    between = Relay()
    taking = asyncio.create_task(between.take(5))
    await between.send(0, [FilesPlanned(1, 9)])
    await between.send(1, [FilesPlanned(2, 9)])
    assert await taking == [(0, [FilesPlanned(1, 9)]), (1, [FilesPlanned(2, 9)])]
    assert await between.take(0) == []


async def test_a_driver_that_does_not_listen_costs_bounded_memory() -> None:
    between = Relay()
    for number in range(relay.WAITING_MOST + 5):
        await between.send(number, ())
    reported = await between.take()
    assert [reported[0][0], reported[-1][0]] == [5, relay.WAITING_MOST + 4]


def test_many_uploads_are_shown_as_one_push() -> None:
    seen: list[Event] = []
    aggregator = ProgressAggregator()
    merger = Merger(Emitter([aggregator.on_event, lambda record: seen.append(record.event)]))
    merger.on_report((0, [FilesPlanned(1, 10), PhaseChanged("hashing")]))
    merger.on_report((1, [FilesPlanned(2, 20), PhaseChanged("uploading")]))
    merger.on_report((0, [PhaseChanged("uploading"), TransferStarted("a", 10, 2)]))
    merger.on_report((0, [PartStored("a", 1, 5)]))
    before = aggregator.snapshot()
    assert (before.bytes_sent, before.total_bytes, before.total_files) == (5, 30, 3)
    assert before.phase == "uploading"

    merger.on_report((0, [FilesPlanned(1, 10), PhaseChanged("hashing"), PhaseChanged("uploading")]))
    merger.on_report((0, [TransferStarted("a", 10, 2), PartProgress("a", 1, 1, 5)]))
    assert aggregator.snapshot().bytes_sent == 5
    merger.on_report((0, [FileStored("a", 10, "lfs")]))
    after = aggregator.snapshot()
    assert (after.bytes_sent, after.total_bytes, after.files_completed) == (10, 30, 1)
    assert [e.phase for e in seen if isinstance(e, PhaseChanged)] == ["uploading"]
