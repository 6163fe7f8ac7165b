"""A pytest plugin that lets a test that hangs end, with its fixtures, so that the next one is run.

pytest-timeout interrupts a test once, by `pytest.fail` in a signal handler, and never after another
failure. For async tests that is not enough: anyio then leaves the task of the test waiting, and it
is this task that has to clean up the async fixtures, so that their cleanup waited for ever. So did
it when a task other than the test's was interrupted, and when a fixture hung.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Generator
from types import FrameType, SimpleNamespace

import pytest

INTERRUPTED_AGAIN = 10.0
"""Seconds until what goes on after an interrupt is interrupted too."""

_ARM = pytest.StashKey[Callable[[], None]]()
_INTERRUPTIBLE = pytest.StashKey[bool]()
_TIMED_OUT = pytest.StashKey[bool]()


class TimedOut(BaseException):
    """A test took longer than `timeout`, and it was the event loop that was interrupted. It is no
    `pytest.fail.Exception`, hence anyio cancels the test's task and cleans up in a new one."""


def _loop_is_waiting() -> bool:
    """Whether an event loop runs in this thread, and none of its tasks."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return False


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(
    item: pytest.Item, settings: SimpleNamespace
) -> Generator[None, object, object]:
    """Leave it to pytest-timeout to print the stacks, but interrupt until all of the test ends."""
    answer = yield
    fail = signal.getsignal(signal.SIGALRM) if settings.method == "signal" else None
    if callable(fail):

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if not item.stash[_INTERRUPTIBLE]:
                return
            try:
                fail(signum, frame)
            except pytest.fail.Exception as failure:
                item.stash[_TIMED_OUT] = True
                if not _loop_is_waiting():
                    raise
                raise TimedOut(failure.msg) from None

        def arm() -> None:
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, settings.timeout, INTERRUPTED_AGAIN)

        item.stash[_INTERRUPTIBLE] = item.stash[_TIMED_OUT] = False
        item.stash[_ARM] = arm
        arm()
    return answer


def _interruptible(item: pytest.Item) -> Generator[None, object, object]:
    """Only what the test and its fixtures do is interrupted, and not pytest's own work after it."""
    if _ARM not in item.stash:
        return (yield)
    item.stash[_INTERRUPTIBLE] = True
    try:
        return (yield)
    finally:
        item.stash[_INTERRUPTIBLE] = False
        if item.stash[_TIMED_OUT]:
            gc.collect()  # here: what it finds may log a traceback, which must not be in a report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _interruptible(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _interruptible(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """After a failure pytest-timeout has stopped its timer: cleanup has the time anew."""
    arm = item.stash.get(_ARM, None)
    if arm is not None and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):
        arm()
    try:
        return (yield from _interruptible(item))
    finally:
        if arm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
