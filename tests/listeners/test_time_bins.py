from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.listeners.result_stats import TimeBins, rebinned

TIMES = st.floats(0, 1e5)
AMOUNTS = st.lists(st.tuples(TIMES, TIMES, st.floats(0, 1e9)), max_size=12)


@settings(max_examples=40)
@given(AMOUNTS)
def test_prop_nothing_is_lost_however_long_it_takes(
    amounts: list[tuple[float, float, float]],
) -> None:
    slices = TimeBins(8)
    for start, end, amount in amounts:
        slices.spread(min(start, end), max(start, end), amount)
    assert len(slices.sums) <= 8
    assert sum(slices.sums) == pytest.approx(sum(amount for _, _, amount in amounts))


def test_an_amount_lies_where_its_time_was() -> None:
    slices = TimeBins(8, width=1.0)
    slices.spread(0.5, 2.5, 4.0)
    assert list(slices.sums) == [1.0, 2.0, 1.0]
    slices.spread(8.0, 8.0, 5.0)  # past the end: twice as wide
    assert slices.width == 2.0
    assert list(slices.sums) == [3.0, 1.0, 0.0, 0.0, 5.0]
    slices.spread(-1.0, -0.5, 1.0)
    assert slices.sums[0] == 4.0


def test_fewer_bins_hold_the_same() -> None:
    assert rebinned(0.5, [1, 2, 3, 4, 5], 3) == (1.0, [3, 7, 5])
    assert rebinned(0.5, [], 3) == (0.5, [])
