"""Blocking work in threads that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

NICENESS = 10


def step_back() -> None:
    """To begin a thread that reads and hashes: where cores are scarce, the event loop and the
    user's own threads go before it. It still gets a tenth of their share, so that a push never
    stands still. (On Linux niceness is a thread's own; elsewhere it would be the process's.)"""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # where that is forbidden, they go side by side
            os.nice(NICENESS)


async def in_thread(
    threads: Executor,
    work: Callable[[], T],
    *,
    on_cancel: Callable[[], None] = lambda: None,
    discard: Callable[[T], object] = lambda result: None,
) -> T:
    """Run blocking work in a thread.

    When the task is cancelled, `on_cancel` tells the work to stop, and the cancellation goes on
    once it has: a thread that still reads must not meet a closed file or a reused buffer. (anyio's
    own `to_thread` leaves the thread behind under asyncio's native cancellation.) A result that
    comes too late to be taken goes to `discard`: what was opened must be closed.
    """
    job = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        on_cancel()
        try:
            await settled(job)
        finally:
            if not job.cancelled() and job.exception() is None:
                discard(job.result())
        raise


async def settled(job: asyncio.Future[Any]) -> None:
    """Wait until a job has ended, in whatever way, however often this task is cancelled meanwhile;
    a cancellation that came goes on then."""
    interrupted: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError as exc:
                interrupted = exc
    if not job.cancelled():
        job.exception()  # seen: nobody waits for it any more
    if interrupted is not None:
        raise interrupted
