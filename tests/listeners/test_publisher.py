from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from asyncpush.events import (
    Committed,
    Emitter,
    Event,
    FileRouted,
    FileSkipped,
    FileStored,
    Notice,
    PartProgress,
    PhaseChanged,
)
from asyncpush.listeners import publisher as publisher_module
from asyncpush.listeners.aggregator import ProgressAggregator
from asyncpush.listeners.publisher import BURST, ProgressPublisher
from asyncpush.models import UploadProgress
from tests.fake_clock import FakeClock
from tests.listeners.helpers import SHA, Timers, failed, finished, planned, record

Callback = Callable[[UploadProgress], Awaitable[None] | None]


class Stage:
    """A publisher with a clock and timers of its own, and what it has told."""

    def __init__(self, callback: Callback | None = None) -> None:
        self.clock = FakeClock()
        self.timers = Timers(self.clock)
        self.reported: list[UploadProgress] = []
        self.publisher = ProgressPublisher(
            callback or self.reported.append,
            aggregator=ProgressAggregator(clock=self.clock),
            call_later=self.timers.call_later,
        )

    def emit(self, *events: Event) -> None:
        for event in events:
            self.publisher.on_event(record(event))

    def sent(self) -> list[int]:
        return [progress.bytes_sent for progress in self.reported]


def moved(sent: int) -> PartProgress:
    return PartProgress("a", 1, sent, 1000)


async def test_snapshots_are_a_tenth_of_a_second_apart() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000))
    for sent in range(1, 6):
        stage.emit(moved(sent))
    assert stage.sent() == [0]
    stage.timers.advance(0.1)
    assert stage.sent() == [0, 5]
    stage.emit(moved(6), moved(7))
    assert stage.sent() == [0, 5]
    stage.timers.advance(0.1)
    assert stage.sent() == [0, 5, 7]


async def test_the_rate_sinks_to_zero_when_events_stop() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000), PhaseChanged("uploading"))
    stage.timers.advance(1)
    stage.emit(moved(500))
    stage.timers.advance(0.1)
    assert stage.reported[-1].bytes_sent == 500
    stage.timers.advance(30)
    assert stage.reported[-1].bytes_per_second == 0
    assert stage.timers.live() == []
    stage.emit(moved(600))
    assert stage.reported[-1].bytes_sent == 600


async def test_news_after_a_quiet_second_is_reported_at_once() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000))
    stage.timers.advance(5)
    stage.emit(moved(1))
    stage.timers.advance(0.1)
    stage.emit(moved(2))
    stage.timers.advance(0.1)
    stage.timers.advance(0.5)  # now only the slow timer runs
    stage.emit(moved(3))
    assert stage.sent()[-1] == 3
    stage.timers.advance(0.05)
    assert len(stage.timers.live()) == 1


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(FileStored("b", 9, "lfs"), id="stored"),
        pytest.param(FileSkipped("b", 9, "unchanged"), id="skipped"),
        pytest.param(PhaseChanged("verifying"), id="phase"),
        pytest.param(Committed(SHA, "url"), id="committed"),
    ],
)
async def test_what_matters_is_reported_at_once(event: Event) -> None:
    stage = Stage()
    stage.emit(planned(2, 1000), FileRouted("c", 50, "inline"))
    reported = len(stage.reported)
    stage.emit(event)
    assert len(stage.reported) == reported + 1


async def test_thousands_of_files_that_complete_together_share_snapshots() -> None:
    stage = Stage()
    stage.emit(planned(10_000, 10_000))
    stage.emit(*(FileStored(f"f{number}", 1, "lfs") for number in range(10_000)))
    assert len(stage.reported) == 1 + BURST
    stage.timers.advance(0.1)
    assert stage.reported[-1].files_completed == 10_000
    assert len(stage.reported) == 2 + BURST


async def test_what_changes_nothing_is_not_reported() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000), Notice("hm"), PhaseChanged("hashing"))
    stage.timers.advance(3)
    assert len(stage.reported) == 1


async def test_the_end_is_reported_at_once_and_nothing_after_it() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000), moved(1), finished(), moved(2))
    assert stage.reported[-1].phase == "done"
    assert stage.reported[-1].bytes_sent == 1000
    assert stage.publisher.latest == stage.reported[-1]
    assert stage.timers.live() == []
    stage.timers.advance(10)
    assert len(stage.reported) == 2
    await stage.publisher.aclose()
    assert len(stage.reported) == 2


async def test_a_push_that_fails_at_once_is_still_reported() -> None:
    stage = Stage()
    stage.emit(failed())
    assert stage.reported == [UploadProgress(0, 0, None, 0, 0)]


async def test_closing_tells_what_was_left_unsaid() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000), moved(7))
    await stage.publisher.aclose()
    assert stage.sent() == [0, 7]
    await stage.publisher.aclose()
    assert stage.sent() == [0, 7]


async def test_closing_with_nothing_unsaid_says_nothing() -> None:
    stage = Stage()
    stage.emit(planned(1, 1000))
    await stage.publisher.aclose()
    assert stage.sent() == [0]


async def test_the_latest_snapshot_needs_no_callback() -> None:
    publisher = ProgressPublisher(None)
    publisher.on_event(record(planned(1, 1000)))
    assert publisher.latest.total_bytes == 1000
    await publisher.aclose()


async def test_the_running_loop_keeps_the_time_by_default() -> None:
    reported: list[int] = []
    second = anyio.Event()

    def callback(progress: UploadProgress) -> None:
        reported.append(progress.bytes_sent)
        if len(reported) == 2:
            second.set()

    publisher = ProgressPublisher(callback)
    publisher.on_event(record(planned(1, 1000)))
    publisher.on_event(record(moved(5)))
    assert reported == [0]
    await second.wait()
    assert reported == [0, 5]
    await publisher.aclose()


class TestFailingCallback:
    async def test_it_is_reported_once_and_called_on(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[UploadProgress] = []

        def callback(progress: UploadProgress) -> None:
            calls.append(progress)
            raise RuntimeError("broken dashboard")

        stage = Stage(callback)
        with caplog.at_level(logging.WARNING, "asyncpush.progress"):
            stage.emit(planned(1, 1000), PhaseChanged("uploading"), finished())
        assert len(calls) == 3
        assert [entry.getMessage() for entry in caplog.records] == [
            "the progress callback failed: RuntimeError('broken dashboard') (the upload continues)"
        ]
        assert caplog.records[0].exc_info is not None

    async def test_it_cannot_cancel_the_push(self, caplog: pytest.LogCaptureFixture) -> None:
        def callback(progress: UploadProgress) -> None:
            raise asyncio.CancelledError

        publisher = ProgressPublisher(callback)
        emitter = Emitter([publisher.on_event])
        emitter.emit(planned(1, 10))
        emitter.emit(finished())
        assert len(caplog.records) == 1
        await publisher.aclose()

    async def test_an_async_one_is_reported_too(self, caplog: pytest.LogCaptureFixture) -> None:
        async def callback(progress: UploadProgress) -> None:
            raise RuntimeError("broken dashboard")

        publisher = ProgressPublisher(callback)
        publisher.on_event(record(planned(1, 10)))
        publisher.on_event(record(finished()))
        await publisher.aclose()
        assert [entry.name for entry in caplog.records] == ["asyncpush.progress"]


class TestAsyncCallback:
    async def test_one_at_a_time_and_the_newest_wins(self) -> None:
        reported: list[int] = []
        running = 0
        release = anyio.Event()

        async def callback(progress: UploadProgress) -> None:
            nonlocal running
            running += 1
            assert running == 1
            reported.append(progress.bytes_sent)
            await release.wait()
            running -= 1

        stage = Stage(callback)
        stage.emit(planned(3, 1000))
        stage.emit(FileStored("a", 10, "lfs"), FileStored("b", 20, "lfs"))
        await anyio.wait_all_tasks_blocked()
        assert reported == [0]
        release.set()
        stage.emit(finished())
        await stage.publisher.aclose()
        assert reported == [0, 1000]

    async def test_any_awaitable_will_do(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reported: list[int] = []

        def callback(progress: UploadProgress) -> Awaitable[None]:
            reported.append(progress.total_bytes)
            return future

        stage = Stage(callback)
        stage.emit(planned(1, 1000))
        future.set_result(None)
        await stage.publisher.aclose()
        assert reported == [1000]

    async def test_one_that_cancels_itself_is_left_alone(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def callback(progress: UploadProgress) -> None:
            raise asyncio.CancelledError

        stage = Stage(callback)
        stage.emit(planned(1, 1000), finished())
        await stage.publisher.aclose()
        assert caplog.records == []

    async def test_a_slow_one_is_waited_for_within_bounds(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(publisher_module, "CLOSE_GRACE", 0.01)
        cancelled = anyio.Event()

        async def callback(progress: UploadProgress) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        tasks = asyncio.all_tasks()
        stage = Stage(callback)
        stage.emit(planned(1, 1000), finished())
        await anyio.wait_all_tasks_blocked()
        await stage.publisher.aclose()
        assert cancelled.is_set()
        assert "the progress callback did not return within 0.01 s" in caplog.text
        assert asyncio.all_tasks() == tasks

    async def test_one_that_resists_cancellation_is_left_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(publisher_module, "CLOSE_GRACE", 0.01)
        monkeypatch.setattr(publisher_module, "_CANCEL_GRACE", 0.01)
        release = anyio.Event()

        async def callback(progress: UploadProgress) -> None:
            with anyio.CancelScope(shield=True):
                while not release.is_set():
                    try:
                        await release.wait()
                    except asyncio.CancelledError:
                        continue

        stage = Stage(callback)
        stage.emit(planned(1, 1000))
        await anyio.wait_all_tasks_blocked()
        await stage.publisher.aclose()
        release.set()
        await anyio.wait_all_tasks_blocked()

    async def test_closing_under_cancellation_leaves_no_task(self) -> None:
        async def callback(progress: UploadProgress) -> None:
            await anyio.sleep_forever()

        tasks = asyncio.all_tasks()
        stage = Stage(callback)
        stage.emit(planned(1, 1000))
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stage.publisher.aclose()
        assert scope.cancelled_caught
        assert asyncio.all_tasks() == tasks


class TestSubscription:
    async def test_it_ends_with_the_push(self) -> None:
        stage = Stage()
        stage.emit(planned(1, 1000))
        seen: list[int] = []

        async def read() -> None:
            async for progress in stage.publisher.subscribe():
                seen.append(progress.bytes_sent)

        async with anyio.create_task_group() as tg:
            tg.start_soon(read)
            tg.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            stage.emit(FileStored("a", 400, "lfs"))
            await anyio.wait_all_tasks_blocked()
            stage.emit(finished())
        assert sorted(seen) == [0, 0, 400, 400, 1000, 1000]

    async def test_a_slow_reader_sees_the_newest_and_blocks_nobody(self) -> None:
        stage = Stage()
        stage.emit(planned(3, 1000))
        snapshots = stage.publisher.subscribe()
        assert (await anext(snapshots)).bytes_sent == 0
        for number in range(3):
            stage.emit(FileStored(f"f{number}", 100, "lfs"))
        assert (await anext(snapshots)).bytes_sent == 300
        stage.emit(finished())
        assert (await anext(snapshots)).phase == "done"
        with pytest.raises(StopAsyncIteration):
            await anext(snapshots)

    async def test_one_who_comes_late_gets_the_last(self) -> None:
        stage = Stage()
        stage.emit(planned(1, 1000), finished())
        assert [progress.phase async for progress in stage.publisher.subscribe()] == ["done"]

    async def test_it_ends_when_the_publisher_closes_without_a_word(self) -> None:
        stage = Stage()

        async def read() -> None:
            assert [progress async for progress in stage.publisher.subscribe()] == []

        async with anyio.create_task_group() as tg:
            tg.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await stage.publisher.aclose()


async def test_files_get_no_snapshot_while_nobody_waits() -> None:
    clock = FakeClock()
    timers = Timers(clock)
    publisher = ProgressPublisher(
        aggregator=ProgressAggregator(clock=clock), call_later=timers.call_later
    )
    publisher.on_event(record(planned(3, 30)))
    for name in "abc":
        publisher.on_event(record(FileStored(name, 10, "lfs")))
    assert publisher.latest.files_completed == 0
    timers.advance(0.1)
    assert publisher.latest.files_completed == 3
