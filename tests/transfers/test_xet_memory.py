"""How much memory hf_xet may hold: what we pass to it waits until there is room."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from asyncpush.options import MIB
from asyncpush.transfers.xet import memory
from asyncpush.transfers.xet.memory import XORB_SIZE, XetBacklog, XetMemory, resident_memory

STOPPED = threading.Event()
STOPPED.set()


class Room(XetMemory):
    """Has no room the first `times`."""

    def __init__(self, times: int) -> None:
        super().__init__(2)
        self.times = times
        self.asked = 0

    def has_room(self, unsent: int, spare: int = 0) -> bool:
        self.asked += 1
        return self.asked > self.times

    def is_within_limit(self, spare: int = 0) -> bool:
        return True


def report(*, packed: int, sent: int, done: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        total_transfer_bytes=packed,
        total_transfer_bytes_completed=sent,
        total_bytes_completed=sent if done is None else done,
    )


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHECK_EVERY", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("asyncpush.transfers.xet.memory.time.monotonic", lambda: clock.now)
    return clock


@pytest.mark.usefixtures("no_pause")
def test_idle_counts_after_a_report_past_the_last_bytes(
    clock: SimpleNamespace,
) -> None:
    """A xorb that they have filled is not in an earlier report."""
    room = Room(times=2)
    backlog = XetBacklog(room)
    backlog.on_report(report(packed=0, sent=0))
    backlog.add(XORB_SIZE)
    backlog.wait(MIB, threading.Event())
    assert room.asked == 3


def test_files_wait_until_half_of_the_earlier_are_read() -> None:
    """One long wait for many files: each question to hf_xet takes time."""
    read: list[int] = []
    backlog = XetBacklog(Room(times=0))
    for number in range(12):
        handle = SimpleNamespace(result=lambda number=number: read.append(number))
        backlog.add_file(memory.MOST_UNREAD // 8, handle)
        if number == 7:
            assert not read
    assert read == [4]


@pytest.mark.usefixtures("no_pause")
def test_bytes_that_may_fill_a_xorb_wait_for_room() -> None:
    room = Room(times=3)
    backlog = XetBacklog(room)
    backlog.add(2 * XORB_SIZE - 4 * MIB)
    backlog.on_report(report(packed=XORB_SIZE, sent=MIB))
    backlog.wait(4 * MIB, threading.Event())
    assert room.asked == 4


@pytest.mark.parametrize(
    ("passed", "packed", "sent", "done"),
    [
        (XORB_SIZE - 8 * MIB, 0, 0, 0),  # they do not fill one
        (2 * XORB_SIZE - 8 * MIB, XORB_SIZE, MIB, MIB),  # nor the second one
        (2 * XORB_SIZE - MIB, XORB_SIZE, MIB, 21 * MIB),  # 20 MiB were in the store already
        (2 * XORB_SIZE, XORB_SIZE, XORB_SIZE, XORB_SIZE),  # nothing is being sent
    ],
)
def test_other_bytes_do_not_wait(
    passed: int, packed: int, sent: int, done: int, clock: SimpleNamespace
) -> None:
    room = Room(times=99)
    backlog = XetBacklog(room)
    backlog.add(passed)
    clock.now += 1
    backlog.on_report(report(packed=packed, sent=sent, done=done))
    backlog.wait(4 * MIB, threading.Event())
    assert room.asked == 0


def test_a_wait_ends_when_the_push_is_cancelled() -> None:
    backlog = XetBacklog(Room(times=99))
    backlog.add(2 * XORB_SIZE)
    backlog.on_report(report(packed=XORB_SIZE, sent=0))
    backlog.wait(MIB, STOPPED)


def test_room_is_what_the_process_has_not_grown_by(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = 100 * MIB
    monkeypatch.setattr(memory, "resident_memory", lambda: resident)
    held = XetMemory(2)
    held.begin(alone=True)
    resident += 2 * XORB_SIZE
    assert held.has_room(2 * XORB_SIZE)
    assert not held.has_room(2 * XORB_SIZE, 48 * MIB)
    assert held.is_within_limit()
    assert not held.is_within_limit(128 * MIB)
    held.begin(alone=False)  # beside the first: what that one holds counts
    resident += XORB_SIZE
    assert not held.has_room(0)
    held.begin(alone=True)
    assert held.has_room(2 * XORB_SIZE)


def test_without_system_figures_unsent_bytes_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resident_memory() is not None or sys.platform != "linux"
    monkeypatch.setattr(memory, "resident_memory", lambda: None)
    held = XetMemory(2)
    held.begin(alone=True)
    assert held.has_room(XORB_SIZE)
    assert not held.has_room(XORB_SIZE + 1)
