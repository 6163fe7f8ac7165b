"""Running a command's coroutine: the first signal cancels it, the second ends the process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from asyncpush.cli.failures import InterruptedBySignal

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`asyncio.run`, but the first SIGINT or SIGTERM cancels the work, and when all of it has
    ended `InterruptedBySignal` is raised. A second one ends the process as it always does."""

    async def main() -> T:
        received: list[int] = []
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def listen_no_more() -> None:
            for signum in SIGNALS:
                with suppress(NotImplementedError):
                    loop.remove_signal_handler(signum)

        def stop(signum: int) -> None:
            received.append(signum)
            listen_no_more()
            task.cancel()

        for signum in SIGNALS:
            with suppress(NotImplementedError):  # Windows: Ctrl-C is a KeyboardInterrupt there
                loop.add_signal_handler(signum, stop, signum)
        try:
            return await work()
        except BaseException as error:
            if received:
                notes = getattr(error, "__notes__", ())
                raise InterruptedBySignal(received[0], notes) from error
            raise
        finally:
            listen_no_more()

    return asyncio.run(main())
