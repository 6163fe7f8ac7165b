"""Many items, few at a time: in order, no more than asked, and none after a failure."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from itertools import chain

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpush.concurrency.task_groups import batches, descriptors_left, each_affordable, for_each
from asyncpush.options import UploadConfig
from asyncpush.runtime import sparing


@given(st.lists(st.integers()), st.integers(1, 10))
def test_prop_batches_are_full_and_in_order(items: list[int], size: int) -> None:
    made = list(batches(iter(items), size))
    assert list(chain.from_iterable(made)) == items
    assert all(len(batch) == size for batch in made[:-1])
    assert all(1 <= len(batch) <= size for batch in made)


def test_open_files_are_counted() -> None:
    before = descriptors_left()
    if before is None:
        pytest.skip("no limit here")
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    after = descriptors_left()
    for descriptor in held:
        os.close(descriptor)
    assert after == before - 10
    assert [each_affordable(left) for left in (0, 22, 26, 170)] == [1, 1, 2, 50]


def test_a_low_limit_that_costs_nothing_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """As on macOS, where it is 256."""
    config = UploadConfig()
    assert sparing(config, 240) == config
    assert caplog.text == ""
    assert sparing(config, 80).max_concurrent_files == 20
    assert "raise the limit (`ulimit -n`)" in caplog.text


@pytest.mark.parametrize("width", [1, 3, 20], ids="{} at once".format)
async def test_items_begin_in_order_within_the_width(width: int) -> None:
    begun: list[int] = []
    running, most = 0, 0

    async def work(item: int) -> None:
        nonlocal running, most
        begun.append(item)
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    await for_each(range(9), work, width=width)
    assert begun == list(range(9))
    assert most == min(width, 9)


@pytest.mark.parametrize("count", [0, 1, 9])
async def test_lazy_items_start_no_more_workers_than_needed(count: int) -> None:
    running = 0
    go = asyncio.Event()

    async def work(item: int) -> None:
        nonlocal running
        running += 1
        await go.wait()

    before = len(asyncio.all_tasks())
    async with anyio.create_task_group() as group:
        group.start_soon(partial(for_each, iter(range(count)), work, width=4))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
            assert len(asyncio.all_tasks()) <= before + 1 + min(4, count + 1)
        assert running == min(4, count)
        go.set()
    assert running == count


async def test_a_failure_stops_the_others_and_is_raised() -> None:
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise OSError("no")
        await anyio.sleep_forever()

    with pytest.raises(OSError, match="no"):
        await for_each(range(9), work, width=3)
    assert begun == [0, 1, 2]


async def test_of_nothing_there_is_nothing_to_do() -> None:
    async def work(item: int) -> None:
        raise AssertionError

    await for_each([], work, width=3)
