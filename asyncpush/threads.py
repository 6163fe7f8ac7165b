"""Blocking work in threads that never outlives the task that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import anyio

T = TypeVar("T")


async def in_thread(
    threads: Executor, work: Callable[[], T], *, on_cancel: Callable[[], None] = lambda: None
) -> T:
    """Run blocking work in a thread.

    When the task is cancelled, `on_cancel` tells the work to stop, and the cancellation goes on
    once it has: a thread that still reads must not meet a closed file or a reused buffer. (anyio's
    own `to_thread` leaves the thread behind under asyncio's native cancellation.)
    """
    job = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        on_cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([job])
        if not job.cancelled():
            job.exception()  # seen: nobody waits for it any more
        raise
