"""How many parts at once: slots in order, a width that adapts."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.net.adaptive_limit import (
    AT_ONCE,
    COOLDOWN,
    FEWEST,
    FIRST_CHECK_INTERVAL,
    PIONEERS,
    SMALL_PARTS,
    START,
    AdaptiveLimit,
    Slot,
)
from tests.fake_clock import FakeClock, let_tasks_run


@pytest.fixture(autouse=True)
def no_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncpush.net.adaptive_limit.HEAD_START", 0.0)


class Holder:
    """A task in a slot until it is let go."""

    def __init__(self, limit: AdaptiveLimit, name: int, order: list[int]) -> None:
        self._limit = limit
        self._name = name
        self._order = order
        self._leave = asyncio.Event()
        self.task: asyncio.Task[None] = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._limit.slot():
            self._order.append(self._name)
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def held(limit: AdaptiveLimit, count: int) -> tuple[list[Holder], list[int]]:
    order: list[int] = []
    holders = [Holder(limit, number, order) for number in range(count)]
    await let_tasks_run()
    return holders, order


# --- slots --------------------------------------------------------------------------------------


async def test_slots_are_limited_and_given_in_order() -> None:
    limit = AdaptiveLimit(2)
    holders, order = await held(limit, 5)
    assert order == [0, 1]
    assert limit.in_flight == 2
    for number, holder in enumerate(holders):
        await holder.leave()
        await let_tasks_run()
        assert order == list(range(min(5, number + 3)))
    assert limit.in_flight == 0


async def test_few_begin_in_one_turn_of_the_event_loop() -> None:
    """Else whatever else runs there waits until sixteen requests are made."""
    limit = AdaptiveLimit(16)
    holders = [Holder(limit, number, []) for number in range(20)]
    begun = [0]
    while begun[-1] < 16:
        await anyio.lowlevel.checkpoint()
        begun.append(limit.in_flight)
    assert all(after - before <= AT_ONCE for before, after in pairwise(begun))
    for holder in holders:
        await holder.leave()
    assert limit.in_flight == 0


async def test_nobody_overtakes_those_who_wait() -> None:
    limit = AdaptiveLimit(1)
    (first, *others), order = await held(limit, 3)
    first._leave.set()
    late = Holder(limit, 99, order)
    await let_tasks_run()
    await others[0].leave()
    await others[1].leave()
    await late.leave()
    assert order == [0, 1, 2, 99]


async def test_the_last_few_parts_may_exceed_the_limit() -> None:
    limit = AdaptiveLimit(48)
    holders, order = await held(limit, 20)
    assert order == list(range(16))  # nobody knows yet how many come
    await holders[0].leave()
    await let_tasks_run()
    assert order == list(range(17))
    await holders[1].leave()
    await let_tasks_run()
    assert order == list(range(20))  # two were left, an eighth of sixteen
    assert limit.in_flight == 18
    for holder in holders[2:]:
        await holder.leave()


async def test_more_than_a_few_wait_for_their_turn() -> None:
    limit = AdaptiveLimit(48)
    holders, order = await held(limit, 20)
    await holders[0].leave()
    await let_tasks_run()
    assert limit.in_flight == 16
    for holder in holders[1:]:
        await holder.leave()
    assert order == list(range(20))


async def test_after_an_overload_no_part_exceeds_the_limit() -> None:
    limit = AdaptiveLimit(48)
    async with limit.slot() as slot:
        limit.overloaded(slot)
    assert limit.limit == 8
    holders, order = await held(limit, 10)
    await holders[0].leave()
    await let_tasks_run()
    assert limit.in_flight == 8  # though but one waits
    assert order == list(range(9))
    for holder in holders[1:]:
        await holder.leave()


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    limit = AdaptiveLimit(1)
    holders, order = await held(limit, 3)
    holders[1].task.cancel()
    await let_tasks_run()
    await holders[0].leave()
    await holders[2].leave()
    assert order == [0, 2]
    assert limit.in_flight == 0


async def test_a_slot_of_a_cancelled_task_goes_to_the_next() -> None:
    limit = AdaptiveLimit(1)
    holders, order = await held(limit, 3)
    holders[0]._leave.set()
    while holders[0].task.done() is False:
        await anyio.lowlevel.checkpoint()
    # The slot is holder 1's, who has not run yet.
    assert order == [0]
    holders[1].task.cancel()
    await let_tasks_run()
    assert order == [0, 2]
    await holders[2].leave()
    assert limit.in_flight == 0


async def test_a_cancelled_holder_frees_its_slot() -> None:
    limit = AdaptiveLimit(1)
    holders, order = await held(limit, 2)
    holders[0].task.cancel()
    await let_tasks_run()
    assert order == [0, 1]
    await holders[1].leave()


async def test_an_error_frees_the_slot() -> None:
    limit = AdaptiveLimit(1)
    with pytest.raises(ZeroDivisionError):
        async with limit.slot():
            raise ZeroDivisionError
    assert limit.in_flight == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), st.integers(1, 4))
def test_prop_slots_are_never_lost_nor_made(moves: list[tuple[int, bool]], width: int) -> None:
    """Whoever leaves or is cancelled, in whatever order: the limit holds and all get their turn."""

    async def run() -> None:
        limit = AdaptiveLimit(width)
        holders, _ = await held(limit, 10)
        for number, cancelled in moves:
            if cancelled:
                holders[number].task.cancel()
            else:
                holders[number]._leave.set()
            assert 0 <= limit.in_flight <= width
            await anyio.lowlevel.checkpoint()
        for holder in holders:
            holder._leave.set()
        with anyio.fail_after(10):
            await asyncio.wait([holder.task for holder in holders])
        assert limit.in_flight == 0

    anyio.run(run)


# --- width --------------------------------------------------------------------------------------


def test_it_begins_at_sixteen_or_the_maximum() -> None:
    assert AdaptiveLimit(64).limit == START == 16
    assert AdaptiveLimit(3).limit == 3


class Link:
    """A store behind a limit: parts of a thousand bytes that take `seconds(width)` each, and
    somebody always waits for a slot."""

    def __init__(self, maximum: int, seconds: Callable[[int], float]) -> None:
        self.clock = FakeClock()
        self.limit = AdaptiveLimit(maximum, clock=self.clock)
        self._seconds = seconds
        self.widths = [self.limit.limit]

    async def epoch(self, fail_above: int = 1000) -> None:
        """As many parts at once as the width lets in, stored (or refused) together."""
        async with slots_of(self.limit, 2 * self.limit._maximum) as waiting:
            holders = slots_held(waiting)
            self.clock.now += self._seconds(len(holders))
            for number, slot in enumerate(holders):
                if number < fail_above:
                    self.limit.succeeded(slot, 1000)
                else:
                    self.limit.overloaded(slot)
        self.widths.append(self.limit.limit)


class HeldSlot:
    """A task that takes a slot and keeps it until it is cancelled."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.slot: Slot | None = None
        self.task = asyncio.create_task(self._hold(limit))

    async def _hold(self, limit: AdaptiveLimit) -> None:
        async with limit.slot() as self.slot:
            await anyio.sleep_forever()


async def test_separate_rates_raise_the_limit_to_the_maximum() -> None:
    link = Link(64, lambda width: 1.0)
    for _ in range(6):
        await link.epoch()
    assert link.widths == [16, 32, 64, 64, 64, 64, 64]


async def test_a_shared_rate_narrows_to_the_fewest() -> None:
    link = Link(64, lambda width: width / 20)
    for _ in range(8):
        await link.epoch()
    assert link.widths == [16, 32, *[4] * 5, 6, 4]


@pytest.mark.no_cover
async def test_each_rise_in_vain_is_rested_from_for_longer() -> None:
    link = Link(64, lambda width: width / 20)
    for _ in range(70):
        await link.epoch()
    rises = [number for number, width in enumerate(link.widths) if width == 6]
    assert [second - first for first, second in pairwise(rises)] == [9, 17, 33]


@pytest.mark.parametrize("enough", [1, 6, 16, 24, 44])
async def test_it_settles_at_the_fewest_parts_that_suffice(enough: int) -> None:
    """Where so many parts fill the pipe, and each has a rate of its own below that."""
    link = Link(48, lambda width: max(1.0, width / enough))
    for _ in range(40):
        await link.epoch()
    width, waves = Counter(link.widths[10:]).most_common(1)[0]
    assert max(FEWEST, math.ceil(0.95 * enough)) <= width <= max(FEWEST, 1.1 * enough)
    assert waves >= 25  # the rest are trials


async def test_goodput_that_still_grows_is_not_compared_yet() -> None:
    """As while TCP's own slow start lasts: a limit that has just begun would seem slow."""
    clock = FakeClock()
    limit = AdaptiveLimit(64, clock=clock)
    async with slots_of(limit, 40) as slots:
        held = slots_held(slots)
        for position in (10, 110, 310, 710):
            assert await measure(limit, clock, held, position) == 16
        assert await measure(limit, clock, held, 1110) == 32


async def test_parts_beyond_the_limit_pause_and_resume_first() -> None:
    clock = FakeClock()
    limit = AdaptiveLimit(16, clock=clock)
    async with slots_of(limit, 20) as slots:
        held = slots_held(slots)
        for position in (1, 101, 201):
            await measure(limit, clock, held, position)
        assert [slot.paused for slot in held] == [False] * FEWEST + [True] * 12
        async with anyio.create_task_group() as group:
            group.start_soon(held[FEWEST].wait_while_paused)
            slots[0].task.cancel()
            await let_tasks_run()  # else this would not end
        assert [slot.paused for slot in held[FEWEST:]] == [False] + [True] * 11
        assert len(slots_held(slots)) == 16  # and none begins before those that were paused


async def test_a_paused_part_sends_a_piece_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the store would take its connection for dead."""
    monkeypatch.setattr("asyncpush.net.adaptive_limit.PAUSE", 0.0)
    slot = Slot(0, 16, 0.0, resumed=asyncio.Event())
    with anyio.fail_after(30):
        await slot.wait_while_paused()
    assert slot.paused


async def test_small_parts_are_not_limited_by_large_ones() -> None:
    limit = AdaptiveLimit(48)
    limit._steer(4)
    begun: Counter[bool] = Counter()

    async def part(number: int, small: bool) -> None:
        async with limit.slot(number, "push", small=small):
            begun[small] += 1
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(part, number, number % 2 == 0)
        await let_tasks_run(100)
        assert begun == {True: SMALL_PARTS - 4, False: 4}
        group.cancel_scope.cancel()
    assert limit.in_flight == 0


async def test_a_store_that_refuses_above_eight_gets_eight() -> None:
    link = Link(64, lambda width: 1.0)
    for _ in range(COOLDOWN):
        await link.epoch(fail_above=8)
    assert link.widths == [16, 8, 8, 8, 8]
    while link.limit.limit == 8:
        await link.epoch(fail_above=8)
    assert link.limit.limit == 12
    await link.epoch(fail_above=8)
    assert link.limit.limit == 8  # what was good before the rise, not half of what was too much


async def test_parts_begun_at_another_width_are_not_compared() -> None:
    clock = FakeClock()
    limit = rising(64, clock)
    async with slots_of(limit, 40) as slots:
        held = slots_held(slots)
        for slot in held[:8]:
            limit.succeeded(slot, 1000)
        assert limit.limit == 32
        for slot in held[8:]:
            limit.succeeded(slot, 1)  # so slow that it would go back
        assert limit.limit == 32


async def test_a_short_push_rises_long_before_a_part_is_whole() -> None:
    clock = FakeClock()
    limit = rising(64, clock)
    async with slots_of(limit, 40) as slots:
        held = slots_held(slots)
        assert await measure(limit, clock, held, 0) == 16
        assert await measure(limit, clock, held, 100) == 16  # buffers took these, for all we know
        assert await measure(limit, clock, held, 150) == 16  # 50 of 1,000 bytes tell too little yet
        assert await measure(limit, clock, held, 200) == 32


async def test_connection_setup_does_not_count_against_a_rise() -> None:
    clock = FakeClock()
    async with risen_mid_part(clock) as (limit, new):
        clock.now += 100
        for position in (1, 101, 201, 301):
            await measure(limit, clock, new, position)
        assert limit.limit == 32


async def test_a_rise_between_parts_without_gain_is_undone() -> None:
    clock = FakeClock()
    async with risen_mid_part(clock) as (limit, new):
        for position in range(1, 400, 50):
            await measure(limit, clock, new, position)
        assert limit.limit == FEWEST


async def test_once_it_was_too_wide_only_whole_parts_tell() -> None:
    clock = FakeClock()
    limit = AdaptiveLimit(32, clock=clock)
    async with limit.slot() as slot:
        limit.overloaded(slot)
    limit._rest = 0
    async with slots_of(limit, 40) as slots:
        held = slots_held(slots)
        assert await measure(limit, clock, held, 1) == 8
        assert await measure(limit, clock, held, 450) == 8
        assert await measure(limit, clock, held, 550) == 12


async def test_acknowledgements_that_shrink_change_nothing() -> None:
    clock = FakeClock()
    limit = AdaptiveLimit(32, clock=clock)
    async with slots_of(limit, 16) as slots:
        held = slots_held(slots)
        for position in (10, 30, 20):
            await measure(limit, clock, held, position)
        assert limit._bytes == 16 * 20
        assert [slot.position for slot in held] == [30] * 16


def rising(maximum: int, clock: FakeClock) -> AdaptiveLimit:
    """A limit that knows already that fewer parts than at the start do not suffice."""
    limit = AdaptiveLimit(maximum, clock=clock)
    limit._growing = None
    return limit


@asynccontextmanager
async def slots_of(limit: AdaptiveLimit, count: int) -> AsyncIterator[list[HeldSlot]]:
    slots = [HeldSlot(limit) for _ in range(count)]
    await let_tasks_run()
    yield slots
    for slot in slots:
        slot.task.cancel()
    await asyncio.wait([slot.task for slot in slots])


def slots_held(slots: list[HeldSlot]) -> list[Slot]:
    """Of those that are in."""
    return [slot.slot for slot in slots if slot.slot is not None]


@asynccontextmanager
async def risen_mid_part(clock: FakeClock) -> AsyncIterator[tuple[AdaptiveLimit, list[Slot]]]:
    """A width that rose from 16 to 32 before any part was whole, and the turns that this let in."""
    limit = rising(32, clock)
    async with slots_of(limit, 40) as slots:
        held = slots_held(slots)
        for position in (1, 101):
            await measure(limit, clock, held, position)
        assert limit.limit == 32
        yield limit, slots_held(slots)[16:]


async def measure(
    limit: AdaptiveLimit, clock: FakeClock, taken_slots: list[Slot], position: int
) -> int:
    """A second later each of these parts of a thousand bytes is so far; the width then."""
    clock.now += 1
    for slot in taken_slots:
        limit.moving(slot, position, 1000)
    await let_tasks_run()
    return limit.limit


async def test_a_width_that_nobody_uses_does_not_rise() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(100):
        async with limit.slot() as slot:
            limit.succeeded(slot, 1000)
    assert limit.limit == 16


async def test_a_rise_lets_the_next_ones_in() -> None:
    limit = rising(17, FakeClock())
    async with slots_of(limit, 18) as slots:
        taken_slots = slots_held(slots)
        assert len(taken_slots) == 16
        for slot in taken_slots[:8]:
            limit.succeeded(slot, 1000)
        await let_tasks_run()
        assert len(slots_held(slots)) == 17


async def test_the_file_that_holds_the_fewest_slots_is_next() -> None:
    """The first file asks for all slots many times over; the second has not to wait behind it."""
    limit = AdaptiveLimit(4)
    order: list[str] = []

    async def part(file: str) -> None:
        async with limit.slot(file):
            order.append(file)
            await let_tasks_run()

    async with anyio.create_task_group() as group:
        for file in ("large",) * 12 + ("late",) * 4:
            group.start_soon(part, file)
    assert order[:4] == ["large"] * 4
    assert order.index("late") <= 4
    assert order[4:12].count("late") == 4
    assert limit.in_flight == 0
    assert limit._held == {}


async def test_the_push_that_holds_the_fewest_slots_is_next() -> None:
    """A push of many small files, each of which holds none, keeps no slot from another's parts."""
    limit = AdaptiveLimit(4)
    order: list[str] = []

    async def part(push: str, file: object) -> None:
        async with limit.slot(file, push):
            order.append(push)
            await let_tasks_run()

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(part, "many files", number)
        for _ in range(4):
            group.start_soon(part, "one file", "large")
    assert order[:4] == ["many files"] * 4
    assert order[4:12].count("one file") == 4
    assert limit._held == {}


@pytest.mark.parametrize("refused", [False, True])
async def test_a_push_without_parts_may_exceed_the_limit(refused: bool) -> None:
    """The others' slots may be held by a source that hangs."""
    limit = AdaptiveLimit(START + 2)
    if refused:
        async with limit.slot() as slot:
            limit.overloaded(slot)
    width, held = limit.limit, list[str]()

    async def part(push: str) -> None:
        async with limit.slot("file", push):
            held.append(push)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        for _ in range(2 * START):
            group.start_soon(part, "hangs")
        await let_tasks_run()
        for push in ("a", "a", "a", "b", "c"):
            group.start_soon(part, push)
        await let_tasks_run()
        others = set() if refused else {"a", "b"}  # for one more there is no room
        assert held.count("hangs") == width
        assert sorted(set(held) - {"hangs"}) == sorted(others)
        assert limit.in_flight == width + len(others)
        group.cancel_scope.cancel()
    assert limit.in_flight == 0


async def test_an_overload_halves_it_down_to_one() -> None:
    limit = AdaptiveLimit(16)
    seen = []
    for _ in range(6):
        async with limit.slot() as slot:
            limit.overloaded(slot)
        seen.append(limit.limit)
    assert seen == [8, 4, 2, 1, 1, 1]


async def test_parts_begun_before_a_halving_do_not_halve_again() -> None:
    limit = AdaptiveLimit(16)
    taken_slots = []
    for _ in range(16):
        async with limit.slot() as slot:
            taken_slots.append(slot)
    for slot in taken_slots:
        limit.overloaded(slot)
    assert limit.limit == 8
    async with limit.slot() as slot:
        limit.overloaded(slot)
    assert limit.limit == 4


async def test_a_halved_limit_admits_none_until_below_it() -> None:
    limit = AdaptiveLimit(4)
    holders, order = await held(limit, 6)
    limit.overloaded(Slot(0, 4, 0.0))
    for number in range(2):
        await holders[number].leave()
        await let_tasks_run()
        assert len(order) == 4
    await holders[2].leave()
    await let_tasks_run()
    assert order == [0, 1, 2, 3, 4]
    for holder in holders[3:]:
        await holder.leave()


# --- sharing a host -----------------------------------------------------------------------------


@pytest.mark.parametrize(("sharers", "limit"), [(1, 16), (2, 8), (4, 4), (8, 2), (100, 1)], ids=str)
async def test_processes_of_one_host_share_the_limit(sharers: int, limit: int) -> None:
    link = Link(32, lambda width: 1.0)
    link.limit.share(sharers)
    assert link.limit.limit == limit
    link.limit.share(sharers)
    assert link.limit.limit == limit
    for _ in range(12):
        await link.epoch()
    assert link.limit.limit == max(1, 32 // sharers)


async def test_when_the_others_have_gone_the_width_grows_again() -> None:
    link = Link(32, lambda width: 1.0)
    link.limit.share(8)
    link.limit.share(1)
    assert link.limit.limit == 2
    for _ in range(12):
        await link.epoch()
    assert link.limit.limit == 32


async def test_an_overload_before_sharing_does_not_raise_the_limit() -> None:
    limit = AdaptiveLimit(64)
    async with limit.slot() as slot:
        limit.share(32)
        assert limit.limit == 2
        limit.overloaded(slot)
        assert limit.limit <= 2


# --- the head start -----------------------------------------------------------------------------


@pytest.fixture
def head_start(monkeypatch: pytest.MonkeyPatch, no_head_start: None) -> None:
    monkeypatch.setattr("asyncpush.net.adaptive_limit.HEAD_START", 3.0)


@asynccontextmanager
async def joined(clock: FakeClock) -> AsyncIterator[tuple[AdaptiveLimit, list[Slot]]]:
    """Parts of a million bytes: the first have sent 300,000 bytes alone, then the others began."""
    limit = AdaptiveLimit(32, clock=clock)
    async with slots_of(limit, 40) as slots:
        pioneers = slots_held(slots)
        assert len(pioneers) == PIONEERS
        for position in (100_000, 200_000, 300_000):
            clock.now += 1
            for slot in pioneers:
                limit.moving(slot, position, 1_000_000)
        assert limit.check_interval == FIRST_CHECK_INTERVAL
        await end_head_start(limit)
        assert limit.in_flight == START
        yield limit, slots_held(slots)


async def end_head_start(limit: AdaptiveLimit) -> None:
    """As its timer does."""
    assert limit._head_start is not None
    limit._end_head_start(limit._head_start)
    await let_tasks_run()


async def sampled(limit: AdaptiveLimit, clock: FakeClock, slots: list[Slot], step: int) -> None:
    clock.now += 1
    for slot in slots:
        limit.moving(slot, slot.position + step, 1_000_000)
    await let_tasks_run()


@pytest.mark.usefixtures("head_start")
async def test_parts_sharing_one_bandwidth_are_paused_early() -> None:
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        while limit.check_interval is not None:
            await sampled(limit, clock, slots, 20_000)
        assert max(slot.position for slot in slots[PIONEERS:]) <= 100_000
        # 16 x 20,000 bytes a second are 3.2 x 100,000, and each part waits for its answer, too.
        assert [slot.paused for slot in slots] == [False] * 5 + [True] * 11


@pytest.mark.usefixtures("head_start")
async def test_the_total_goodput_says_how_many_parts_are_needed() -> None:
    """The first ones may have more than their share, as those that join have hardly begun."""
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        clock.now += 1
        while limit.check_interval is not None:
            clock.now += 1
            for slot in slots:
                step = 40_000 if slot in slots[:PIONEERS] else 15_000
                limit.moving(slot, slot.position + step, 1_000_000)
            await let_tasks_run()
        # 3 x 40,000 and 13 x 15,000 bytes a second are 3.2 x 100,000.
        assert [slot.paused for slot in slots] == [False] * 5 + [True] * 11


@pytest.mark.usefixtures("head_start")
async def test_parts_that_join_are_compared_until_rates_are_known() -> None:
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        assert [slot.is_compared() for slot in slots] == [False] * PIONEERS + [True] * 13
        while limit.check_interval is not None:
            await sampled(limit, clock, slots, 20_000)
        assert not any(slot.is_compared() for slot in slots)


@pytest.mark.usefixtures("head_start")
async def test_parts_with_separate_rates_rise_at_once() -> None:
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        for _ in range(3):
            await sampled(limit, clock, slots, 100_000)
        assert limit.limit == 32
        assert not any(slot.paused for slot in slots)


@pytest.mark.usefixtures("head_start")
async def test_no_more_parts_begin_before_those_that_joined_get_going() -> None:
    """On a busy machine they wait for the processor at first, and the pioneers keep their rate."""
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        pioneers, others = slots[:PIONEERS], slots[PIONEERS:]
        for slot in others:
            limit.moving(slot, 11_000, 1_000_000)
        clock.now += 1
        for slot in slots:
            step = 100_000 if slot in pioneers else 1_000
            limit.moving(slot, slot.position + step, 1_000_000)
        await let_tasks_run()
        assert limit.limit == START
        while limit.check_interval is not None:
            await sampled(limit, clock, slots, 20_000)
        assert any(slot.paused for slot in slots)


@pytest.mark.usefixtures("head_start")
async def test_a_comparison_that_was_wrong_is_taken_back() -> None:
    """Something else kept this machine busy while the others began."""
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        while limit.check_interval is not None:
            await sampled(limit, clock, slots, 20_000)
        going = [slot for slot in slots if not slot.paused]
        while limit.limit < START:
            await sampled(limit, clock, going, 20_000)
        assert len(going) == 5
        assert not any(slot.paused for slot in slots)


@pytest.mark.usefixtures("head_start")
async def test_a_goodput_that_went_into_buffers_is_measured_again() -> None:
    clock = FakeClock()
    async with joined(clock) as (limit, slots):
        while limit.check_interval is not None:
            await sampled(limit, clock, slots, 40_000)  # as long as the buffers have room
        going = [slot for slot in slots if not slot.paused]
        few = len(going)
        assert few < START
        while limit.limit < START:
            await sampled(limit, clock, going, 200_000 // few)
        while limit.limit == START:
            await sampled(limit, clock, slots, 200_000 // START)
        assert limit.limit == few
        assert sum(not slot.paused for slot in slots) == few


@pytest.mark.usefixtures("head_start")
async def test_the_first_push_of_many_parts_has_the_head_start() -> None:
    limit = AdaptiveLimit(32)
    async with limit.slot() as slot:
        await end_head_start(limit)
        limit.succeeded(slot, 1_000_000)
    async with slots_of(limit, 10) as slots:
        assert len(slots_held(slots)) == PIONEERS


@pytest.mark.usefixtures("head_start")
async def test_a_late_pioneer_is_not_compared() -> None:
    limit = AdaptiveLimit(32, clock=FakeClock())
    async with slots_of(limit, 40) as slots:
        await end_head_start(limit)
        for position in (10_000, 20_000, 30_000):
            for slot in reversed(slots_held(slots)):
                limit.moving(slot, position, 1_000_000)
        assert limit.limit == START
        assert limit.check_interval == FIRST_CHECK_INTERVAL
        limit.succeeded(slots_held(slots)[0], 1_000_000)
        assert limit.check_interval is None


@pytest.mark.usefixtures("head_start")
async def test_a_rise_that_slows_the_others_down_is_not_kept() -> None:
    """This is seen in the parts that were there before, long before the new ones have sent much."""
    clock = FakeClock()
    limit = AdaptiveLimit(32, clock=clock)
    await end_head_start(limit)
    limit._growing = None
    async with slots_of(limit, 40) as slots:
        earlier = slots_held(slots)
        while limit.limit == START:
            await sampled(limit, clock, earlier, 20_000)
        new = slots_held(slots)[START:]
        assert len(new) == 32 - START
        for _ in range(5):  # until then the new ones connect
            await sampled(limit, clock, earlier, 20_000)
        while limit.check_interval is not None:
            await sampled(limit, clock, earlier + new, 10_000)
        assert limit.limit == FEWEST
        assert max(slot.position for slot in new) <= 100_000
