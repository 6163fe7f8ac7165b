from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.events import (
    Committed,
    Event,
    FileHashed,
    FileRouted,
    FileSkipped,
    FilesPlanned,
    FileStored,
    HashProgress,
    Notice,
    PartProgress,
    PartStored,
    PhaseChanged,
    PushFailed,
    PushFinished,
    TransferChosen,
    TransferStarted,
)
from asyncpush.listeners.aggregator import InFlight, ProgressAggregator
from asyncpush.models import UploadProgress
from asyncpush.options import MIB
from tests.fake_clock import FakeClock
from tests.listeners.helpers import OID, SHA, finished, planned, record


def after(*events: Event) -> UploadProgress:
    return emit(ProgressAggregator(), *events).snapshot()


def emit(aggregator: ProgressAggregator, *events: Event) -> ProgressAggregator:
    for event in events:
        aggregator.on_event(record(event))
    return aggregator


def test_before_the_plan_nothing_is_known() -> None:
    assert after() == UploadProgress(0, 0, None, 0, 0)
    assert not ProgressAggregator().planned


def test_positions_within_parts_add_up() -> None:
    progress = after(
        planned(2, 300),
        TransferStarted("a", 100, 2),
        TransferStarted("b", 200, 4),
        PartProgress("a", 1, 30, 50),
        PartProgress("b", 3, 20, 50),
        PartProgress("a", 2, 5, 50),
    )
    assert (progress.bytes_sent, progress.total_bytes) == (55, 300)
    assert progress.current_file == "a"


def test_a_retry_that_starts_at_zero_lowers_nothing() -> None:
    aggregator = emit(ProgressAggregator(), planned(1, 100), PartProgress("a", 1, 80, 100))
    before = aggregator.snapshot().bytes_sent
    emit(aggregator, PartProgress("a", 1, 0, 100), PartProgress("a", 1, 60, 100))
    assert aggregator.snapshot().bytes_sent == before == 80
    emit(aggregator, PartProgress("a", 1, 90, 100))
    assert aggregator.snapshot().bytes_sent == 90


def test_other_parts_count_during_a_retry() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(1, 200),
        PartProgress("a", 1, 80, 100),
        PartProgress("a", 1, 10, 100),
        PartProgress("a", 2, 20, 100),
    )
    assert aggregator.snapshot().bytes_sent == 100


def test_new_parts_never_exceed_the_file() -> None:
    progress = after(
        planned(2, 300),
        TransferStarted("a", 100, 4),
        PartStored("a", 1, 25),
        PartStored("a", 2, 25),
        TransferStarted("a", 100, 2),
        PartProgress("a", 1, 50, 50),
        PartProgress("a", 2, 50, 50),
        PartProgress("a", 3, 25, 25),
    )
    assert progress.bytes_sent == 100


def test_a_position_beyond_its_part_counts_as_the_whole_part() -> None:
    assert after(planned(1, 100), PartProgress("a", 1, 90, 20)).bytes_sent == 20


def test_a_size_known_late_bounds_the_progress() -> None:
    aggregator = emit(ProgressAggregator(), planned(2, 300), PartProgress("a", 1, 90, 90))
    emit(aggregator, TransferStarted("a", 60, 1), TransferStarted("b", 240, 1))
    emit(aggregator, PartProgress("b", 1, 40, 240))
    assert aggregator.snapshot().bytes_sent == 60 + 40


def test_a_resumed_part_does_not_count_as_sent() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(1, 100),
        TransferStarted("a", 100, 2, resumed=50),
        PartStored("a", 1, 50, resumed=True),
    )
    assert aggregator.snapshot().bytes_sent == 50
    assert aggregator._wire == 0


def test_a_stored_part_counts_in_full() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(1, 100),
        PartProgress("a", 1, 30, 50),
        PartStored("a", 1, 50),
        PartStored("a", 1, 50),
    )
    assert aggregator.snapshot().bytes_sent == 50
    assert aggregator._wire == 50


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(FileSkipped("a", 70, "unchanged"), id="unchanged"),
        pytest.param(FileSkipped("a", 70, "ignored"), id="ignored"),
        pytest.param(FileStored("a", 70, "lfs", deduplicated=True), id="deduplicated"),
        pytest.param(FileStored("a", 70, "xet"), id="xet"),
        pytest.param(FileStored("a", 70, "inline"), id="inline"),
    ],
)
def test_a_file_that_needs_nothing_more_counts_whole(event: Event) -> None:
    progress = after(planned(2, 100), event, event)
    assert (progress.bytes_sent, progress.files_completed) == (70, 1)
    assert progress.current_file is None


def test_inline_files_count_with_the_commit() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(3, 100),
        FileRouted("a", 10, "inline"),
        FileRouted("b", 20, "inline"),
        FileRouted("c", 70, "lfs"),
    )
    assert aggregator.snapshot().bytes_sent == 0
    emit(aggregator, Committed(SHA, "url"))
    progress = aggregator.snapshot()
    assert (progress.bytes_sent, progress.files_completed) == (30, 2)


def test_the_last_commit_of_a_series_completes_inline_files() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(2, 30),
        FileRouted("a", 10, "inline"),
        FileRouted("b", 20, "inline"),
        Committed(SHA, "url", final=False),
        FileStored("a", 10, "inline"),
    )
    assert aggregator.snapshot().bytes_sent == 10
    emit(aggregator, Committed(SHA, "url"))
    assert aggregator.snapshot().bytes_sent == 30


def test_a_rerouted_file_does_not_wait_for_the_commit() -> None:
    progress = after(
        planned(1, 10),
        FileRouted("a", 10, "inline"),
        FileRouted("a", 10, "lfs"),
        Committed(SHA, "url"),
    )
    assert progress.bytes_sent == 0


def test_stragglers_of_a_completed_file_count_for_nothing() -> None:
    progress = after(
        planned(2, 200),
        FileStored("a", 100, "lfs"),
        FileStored("a", 100, "lfs"),
        TransferStarted("a", 100, 1),
        PartProgress("a", 1, 100, 100),
        PartStored("a", 1, 100),
        FileRouted("a", 100, "inline"),
        HashProgress("a", 10, 100),
        FileSkipped("a", 100, "unchanged"),
        Committed(SHA, "url"),
    )
    assert (progress.bytes_sent, progress.files_completed) == (100, 1)
    assert progress.current_file is None


def test_the_current_file_is_the_last_incomplete_one_sent() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(3, 300),
        TransferStarted("a", 100, 1),
        TransferStarted("b", 100, 1),
        TransferStarted("c", 100, 1),
        PartProgress("b", 1, 1, 100),
        PartStored("a", 1, 50),
    )
    assert aggregator.snapshot().current_file == "a"
    emit(aggregator, FileStored("a", 100, "lfs"))
    assert aggregator.snapshot().current_file == "b"


def test_the_current_file_may_be_the_one_being_hashed() -> None:
    aggregator = emit(ProgressAggregator(), planned(1, 100), HashProgress("a", 40, 100))
    assert aggregator.snapshot().current_file == "a"
    assert aggregator.snapshot().bytes_processed == 40
    emit(aggregator, FileHashed("a", 100, OID, cached=False))
    assert aggregator.snapshot().current_file is None
    assert aggregator.snapshot().bytes_processed == 100


def test_files_in_flight_are_reported_in_order_of_start() -> None:
    aggregator = emit(
        ProgressAggregator(),
        TransferStarted("a", 100, 2),
        PartProgress("b", 1, 5, 10),
        PartProgress("a", 2, 7, 50),
    )
    assert aggregator.in_flight() == [InFlight("a", 7, 100), InFlight("b", 5, None)]


def test_a_success_is_full_and_stays_so() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(3, 300),
        PhaseChanged("uploading"),
        PartProgress("a", 1, 5, 100),
        finished(),
        PartProgress("a", 2, 5, 100),
        planned(9, 900),
        PhaseChanged("uploading"),
    )
    assert aggregator.snapshot() == UploadProgress(300, 300, None, 3, 3, "done", 0.0, 0.0, 300)
    assert aggregator.in_flight() == []


def test_a_failure_and_news_of_others_change_nothing() -> None:
    before = (planned(2, 100), FileStored("a", 60, "lfs"))
    assert after(*before, PushFailed("no", "HubError"), Notice("hm")) == after(*before)


def test_a_smaller_second_plan_lowers_no_shown_total() -> None:
    aggregator = emit(
        ProgressAggregator(),
        planned(2, 100),
        FileStored("a", 50, "lfs"),
        FileStored("b", 50, "lfs"),
    )
    aggregator.snapshot()
    emit(aggregator, planned(1, 10))
    progress = aggregator.snapshot()
    assert (progress.bytes_sent, progress.total_bytes) == (100, 100)
    assert (progress.files_completed, progress.total_files) == (2, 2)


def test_completed_files_leave_only_their_names_behind() -> None:
    aggregator = emit(ProgressAggregator(), planned(1000, 1000))
    for number in range(1000):
        path = f"f{number}"
        emit(
            aggregator,
            HashProgress(path, 1, 1),
            FileRouted(path, 1, "inline"),
            TransferStarted(path, 1, 1),
            PartStored(path, 1, 1),
            FileStored(path, 1, "lfs"),
        )
    assert not aggregator._files
    assert not aggregator._inline
    assert not aggregator._hashing
    assert aggregator.snapshot().files_completed == 1000


class TestRate:
    def test_it_is_taken_over_the_last_five_seconds(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        emit(aggregator, planned(1, 10_000), PhaseChanged("uploading"))
        for second in range(1, 21):
            aggregator.snapshot()
            clock.now += 1
            slow = 100 * second if second <= 10 else 1000 + 300 * (second - 10)
            emit(aggregator, PartProgress("a", 1, slow, 10_000))
        progress = aggregator.snapshot()
        assert progress.bytes_per_second == pytest.approx(300)
        assert progress.eta_seconds == pytest.approx((10_000 - 4000) / 300)

    def test_idle_time_before_the_first_byte_is_not_counted(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        for _ in range(50):
            clock.now += 0.1
            assert aggregator.snapshot().bytes_per_second == 0
        clock.now += 1
        emit(aggregator, PartProgress("a", 1, 500, 1000))
        assert aggregator.snapshot().bytes_per_second == pytest.approx(500)

    def test_it_sinks_to_zero_when_nothing_moves(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        aggregator.snapshot()
        emit(aggregator, planned(1, 1000), PartProgress("a", 1, 500, 1000))
        for _ in range(8):
            clock.now += 1
            progress = aggregator.snapshot()
        assert progress.bytes_per_second == 0
        assert progress.eta_seconds is None

    def test_bytes_sent_again_count_and_deduplicated_ones_do_not(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        aggregator.snapshot()
        emit(
            aggregator,
            planned(2, 2000),
            PartProgress("a", 1, 400, 1000),
            PartProgress("a", 1, 100, 1000),
            PartProgress("a", 1, 500, 1000),
            FileStored("b", 1000, "lfs", deduplicated=True),
        )
        clock.now += 1
        progress = aggregator.snapshot()
        assert progress.bytes_per_second == pytest.approx(900)
        assert progress.bytes_sent == 1500

    def test_an_instant_is_too_short_for_a_rate(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        aggregator.snapshot()
        emit(aggregator, PartProgress("a", 1, 500, 1000))
        clock.now += 0.1
        assert aggregator.snapshot().bytes_per_second == 0

    def test_asking_often_keeps_no_more_samples(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        emit(aggregator, PartProgress("a", 1, 1, 10_000))
        for _ in range(10_000):
            clock.now += 0.001
            aggregator.snapshot()
        assert len(aggregator._samples) <= 102

    def test_committing_has_no_time_left(self) -> None:
        clock = FakeClock()
        aggregator = ProgressAggregator(clock=clock)
        aggregator.snapshot()
        emit(aggregator, planned(1, 10), PartProgress("a", 1, 9, 10), PhaseChanged("committing"))
        clock.now += 1
        progress = aggregator.snapshot()
        assert progress.bytes_per_second == 9
        assert progress.eta_seconds is None


class TestReadingWhileSending:
    """As Xet does: it reads and hashes, packs 64 MiB, then sends."""

    def test_what_is_read_runs_ahead_of_what_is_sent(self) -> None:
        aggregator = emit(
            ProgressAggregator(),
            planned(2, 300),
            TransferChosen("xet", "granted", reads_while_sending=True),
            PhaseChanged("uploading"),
            TransferStarted("a", 200, 1),
            HashProgress("a", 120, 200),
        )
        progress = aggregator.snapshot()
        assert (progress.bytes_processed, progress.bytes_sent) == (120, 0)
        assert aggregator.is_reading

        emit(aggregator, PartProgress("a", 1, 30, 200, deduplicated=60))
        progress = aggregator.snapshot()
        assert (progress.bytes_processed, progress.bytes_sent) == (120, 90)
        assert aggregator.sent_of_read == 30  # the store had the others
        assert not aggregator.is_reading

    def test_the_rate_counts_only_sent_bytes(self) -> None:
        clock = FakeClock()
        aggregator = emit(
            ProgressAggregator(clock=clock),
            planned(1, 1000),
            TransferChosen("xet", "granted", reads_while_sending=True),
            PhaseChanged("uploading"),
        )
        aggregator.snapshot()
        clock.now += 1
        emit(
            aggregator,
            HashProgress("a", 500, 1000),
            PartProgress("a", 1, 100, 1000, deduplicated=400),
        )
        aggregator.snapshot()
        assert aggregator.snapshot().bytes_per_second == pytest.approx(100)

    @pytest.mark.parametrize(
        ("read", "sent", "seconds"),
        [
            pytest.param(500 * MIB, 450 * MIB, 1.0, id="reading is slower"),
            pytest.param(900 * MIB, 250 * MIB, 3.0, id="sending is slower"),
            pytest.param(1000 * MIB, 950 * MIB, 50 / 950, id="all is read"),
        ],
    )
    def test_the_time_left_is_that_of_what_is_slower(
        self, read: int, sent: int, seconds: float
    ) -> None:
        clock = FakeClock()
        total = 1000 * MIB
        aggregator = emit(
            ProgressAggregator(clock=clock),
            planned(1, total),
            TransferChosen("xet", "granted", reads_while_sending=True),
            PhaseChanged("uploading"),
        )
        aggregator.snapshot()
        clock.now += 1
        emit(
            aggregator,
            HashProgress("a", read, total),
            PartProgress("a", 1, sent, total),
        )
        aggregator.snapshot()
        assert aggregator.snapshot().eta_seconds == pytest.approx(seconds)

    def test_an_upload_that_is_begun_again_sends_anew(self) -> None:
        aggregator = emit(
            ProgressAggregator(),
            planned(1, 300),
            TransferChosen("xet", "granted", reads_while_sending=True),
            PhaseChanged("uploading"),
            HashProgress("a", 200, 300),
            PartProgress("a", 1, 100, 300),
            HashProgress("a", 10, 300),
            PartProgress("a", 1, 5, 300),
        )
        assert aggregator.snapshot().bytes_processed == 200
        assert aggregator.sent_of_read == 105

    def test_a_file_is_processed_once_by_whichever_engine(self) -> None:
        progress = after(
            planned(3, 300),
            HashProgress("a", 100, 100),  # by Xet, which fails
            FileHashed("a", 100, OID, cached=False),
            FileHashed("a", 100, OID, cached=True),
            FileStored("a", 100, "lfs"),
            FileSkipped("b", 50, "unchanged"),
        )
        assert progress.bytes_processed == 150


paths = st.sampled_from(["a", "b", "dir/c"])
sizes = st.integers(0, 1000)
positions = st.integers(0, 1200)
numbers = st.integers(1, 3)
events = st.one_of(
    st.builds(FilesPlanned, st.integers(0, 6), st.integers(0, 3000)),
    st.builds(
        PhaseChanged,
        st.sampled_from(["hashing", "uploading", "committing", "verifying"]),
    ),
    st.builds(HashProgress, paths, positions, sizes),
    st.builds(FileHashed, paths, sizes, st.just(OID), st.booleans()),
    st.builds(FileRouted, paths, sizes, st.sampled_from(["inline", "lfs", "xet"])),
    st.builds(FileSkipped, paths, sizes, st.sampled_from(["unchanged", "ignored"])),
    st.builds(TransferStarted, paths, sizes, numbers, sizes),
    st.builds(PartProgress, paths, numbers, positions, sizes, positions),
    st.builds(PartStored, paths, numbers, sizes, st.booleans()),
    st.builds(FileStored, paths, sizes, st.sampled_from(["inline", "lfs", "xet"]), st.booleans()),
    st.builds(Committed, st.just(SHA), st.just("url"), st.none(), st.booleans()),
    st.builds(TransferChosen, st.sampled_from(["lfs", "xet"]), st.just("so"), st.booleans()),
    st.builds(PushFailed, st.just("no"), st.just("HubError")),
    st.builds(PushFinished, st.just(SHA), st.integers(0, 5), sizes, st.floats(0, 9)),
)


@pytest.mark.no_cover
@settings(max_examples=250, deadline=None)  # a busy machine is slow, not wrong
@given(
    st.sampled_from([(0, 0), (3, 1500), (3, 10_000)]),
    st.lists(st.tuples(events, st.sampled_from([0.0, 0.01, 1.5])), min_size=5, max_size=50),
    st.sampled_from([1, 1, 2, 5]),
)
def test_prop_progress_monotonic(
    plan: tuple[int, int], reported: list[tuple[Event, float]], every: int
) -> None:
    """Whatever happens in whatever order, bytes never fall and never pass the total."""
    clock = FakeClock()
    aggregator = emit(ProgressAggregator(clock=clock), FilesPlanned(*plan))
    shown = [aggregator.snapshot()]
    done = False
    for count, (event, pause) in enumerate(reported):
        aggregator.on_event(record(event))
        done = done or isinstance(event, PushFinished)
        clock.now += pause
        if count % every == 0:
            shown.append(aggregator.snapshot())
    shown.append(aggregator.snapshot())
    for before, progress in pairwise(shown):
        assert before.bytes_sent <= progress.bytes_sent
        assert min(before.bytes_processed, progress.total_bytes) <= progress.bytes_processed
        assert before.files_completed <= progress.files_completed
    for progress in shown:
        assert 0 <= progress.bytes_sent <= progress.bytes_processed <= progress.total_bytes
        assert 0 <= progress.files_completed <= progress.total_files
        assert progress.bytes_per_second >= 0
        assert progress.eta_seconds is None or progress.eta_seconds >= 0
    if done:
        last = shown[-1]
        assert last.phase == "done"
        assert last.bytes_sent == last.total_bytes
        assert last.files_completed == last.total_files


@st.composite
def pushes(draw: st.DrawFn) -> tuple[list[list[Event]], int]:
    """What each file goes through, with retries; and the seed of how they mix."""
    scripts: list[list[Event]] = []
    for index in range(draw(st.integers(1, 5))):
        path, size = f"f{index}", draw(st.integers(0, 500))
        kind = draw(st.sampled_from(["inline", "lfs", "skipped", "deduplicated"]))
        match kind:
            case "inline":
                scripts.append([FileRouted(path, size, "inline")])
            case "skipped":
                scripts.append([FileSkipped(path, size, "unchanged")])
            case "deduplicated":
                scripts.append([FileStored(path, size, "lfs", deduplicated=True)])
            case _:
                script: list[Event] = [TransferStarted(path, size, 2)]
                half = size // 2
                for number, part in ((1, half), (2, size - half)):
                    marks = draw(st.lists(st.integers(0, part), max_size=6))
                    script += [PartProgress(path, number, mark, part) for mark in marks]
                    script.append(PartStored(path, number, part))
                script.append(FileStored(path, size, "lfs"))
                scripts.append(script)
    return scripts, draw(st.integers(0, 2**16))


@settings(deadline=None)
@given(pushes())
def test_prop_the_sum_is_exact_when_all_is_reported(case: tuple[list[list[Event]], int]) -> None:
    scripts, seed = case
    rng = random.Random(seed)
    sizes = {
        event.path: event.size
        for script in scripts
        for event in script
        if isinstance(event, FileRouted | FileSkipped | FileStored)
    }
    total = sum(sizes.values())
    inline = {script[0].path for script in scripts if isinstance(script[0], FileRouted)}
    aggregator = emit(ProgressAggregator(), planned(len(scripts), total))
    while scripts:
        script = rng.choice(scripts)
        emit(aggregator, script.pop(0))
        scripts = [script for script in scripts if script]
    progress = aggregator.snapshot()
    assert progress.bytes_sent == total - sum(sizes[path] for path in inline)
    assert progress.files_completed == len(sizes) - len(inline)
    emit(aggregator, Committed(SHA, "url"))
    assert aggregator.snapshot().bytes_sent == total
