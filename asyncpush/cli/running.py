"""Running a command: its coroutine and signals, and the listeners that its options ask for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from asyncpush.cli.arguments import Connection
from asyncpush.cli.output import InterruptedBySignal, Output, end_at_once
from asyncpush.events import Event, Listener, PushFailed, PushFinished, Record, RequestFailed
from asyncpush.listeners.bars import BarDisplay
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.logs import ENV, configure_from_env
from asyncpush.own_files import Announcement, write_atomically

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_DEFAULTS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}

GRACE = 2.0
"""Seconds from the second Ctrl-C to the end of the process, whatever still runs."""


def run(work: Callable[[], Coroutine[Any, Any, T]], *, untouched: str = "") -> T:
    """`asyncio.run`, with signals: the first SIGINT or SIGTERM cancels the work, and when the work
    has ended `InterruptedBySignal` is raised, with its notes or else `untouched`. A second Ctrl-C
    interrupts the cancellation too, and ends the process within `GRACE`. A second SIGTERM ends it
    at once.

    On Windows the same holds for Ctrl-C. Its event loops have no signal handlers, so Python's own
    are used, which only run between two steps of the main thread: a call that blocks it is not
    interrupted, except by the end after `GRACE`. No other process can send SIGTERM there:
    `taskkill /F` and `Popen.terminate` end the process at once, like SIGKILL, and Ctrl-Break does.
    The next push resumes after each of them.
    """
    received: list[int] = []
    interrupted: list[InterruptedBySignal] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def ignore_signals_again() -> None:
            for signum in SIGNALS:
                try:
                    loop.remove_signal_handler(signum)
                except NotImplementedError:  # Windows
                    signal.signal(signum, _DEFAULTS[signum])

        def stop(signum: int) -> None:
            if received:  # a second one that came before this ran
                return
            received.append(signum)
            try:
                ignore_signals_again()
                signal.signal(signal.SIGINT, hurry)
            except KeyboardInterrupt:  # a second one, between the two handlers
                hurry(signal.SIGINT, None)
            task.cancel()

        def stop_soon(signum: int, frame: object) -> None:
            loop.call_soon_threadsafe(stop, signum)

        for signum in SIGNALS:
            try:
                loop.add_signal_handler(signum, stop, signum)
            except NotImplementedError:  # Windows
                signal.signal(signum, stop_soon)
        try:
            return await work()
        except BaseException as error:
            if not received:
                raise
            notes = getattr(error, "__notes__", ())
            interrupted.append(InterruptedBySignal(received[0], notes, untouched))
            if len(received) > 1:
                # The loop is being closed: it logs any other error than this one as unhandled.
                raise asyncio.CancelledError from error
            raise interrupted[0] from error
        finally:
            ignore_signals_again()

    def hurry(signum: int, frame: object) -> None:
        received.append(signum)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # In case the cleanup hangs. A thread could not be started at the end of the program.
        if sys.platform != "win32" and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: end_at_once(128 + signum))
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        else:
            timer = threading.Timer(GRACE, end_at_once, [128 + signum])
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    try:
        return asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        # The cancellation was interrupted. What is known about the commit is said all the same.
        known = interrupted[0] if interrupted else InterruptedBySignal()
        raise known.with_(at_once=True) from error
    finally:
        if len(received) == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def log_everything() -> None:
    """Log everything to stderr, as `ASYNCPUSH_LOG=debug` does: the meaning of `--verbose`."""
    os.environ[ENV] = "debug"  # an Uploader looks there too
    configure_from_env()


@contextmanager
def listeners_of(
    connection: Connection, printed: tuple[type[Event], ...], output: Output
) -> Iterator[list[Listener]]:
    """The listeners that the options ask for. `printed` are the final events that print a line.

    Failures are not logged, since the command prints them, unless logging is switched on.
    """
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if connection.timeline is not None:
            listeners.append(stack.enter_context(_drawing(connection.timeline, output)))
        if connection.events is not None:
            writer = JsonlWriter(connection.events)
            stack.callback(_close, writer, output)
            listeners.append(writer.on_event)
        if not connection.quiet:
            bars = _Bars(printed)
            stack.callback(bars.close)
            listeners.append(bars.on_event)
        for name in ("asyncpush.push", "asyncpush.http"):
            log = logging.getLogger(name)
            log.addFilter(_unless_failure)
            stack.callback(log.removeFilter, _unless_failure)
        yield listeners


def _close(writer: JsonlWriter, output: Output) -> None:
    writer.close()
    if writer.error is not None:
        output.file_not_written(
            "events", f"{writer.path} does not have all events of this run: {writer.error}"
        )


@contextmanager
def _drawing(path: Path, output: Output) -> Iterator[Listener]:
    """Draw the timeline at the end, also of a failure. A timeline that cannot be written does not
    stop the push."""
    from asyncpush.listeners.timeline.recording import TimelineRecorder, render

    recorder = TimelineRecorder()
    try:
        with Announcement(path, "the timeline of this push"):
            yield recorder.on_event
    finally:
        try:
            write_atomically(path, render(recorder.timeline(), path))
            output.note(f"timeline: {path}")
        except Exception as error:
            output.trace(error)
            output.file_not_written(
                "timeline", f"the timeline could not be written to {path}: {error}"
            )


class _Bars:
    """A `BarDisplay` for each push."""

    wants_headers = False

    def __init__(self, printed: tuple[type[Event], ...]) -> None:
        self._printed = printed
        self._displays: dict[str, BarDisplay] = {}

    def on_event(self, record: Record) -> None:
        event, display = record.event, self._displays.get(record.push_id)
        if display is None:
            display = self._displays[record.push_id] = BarDisplay("auto")
        ended = isinstance(event, PushFailed | PushFinished)
        if not ended or isinstance(event, self._printed):
            display.on_event(record)
        if ended:
            self._displays.pop(record.push_id).close()

    def close(self) -> None:
        for display in self._displays.values():
            display.close()
        self._displays.clear()


def _unless_failure(record: logging.LogRecord) -> bool:
    """Leave failures to the command, unless logging is switched on. One that is not the end of the
    push has a warning of its own."""
    row = getattr(record, "asyncpush", {})
    failures = (PushFailed.name, RequestFailed.name)
    return bool(os.environ.get(ENV)) or row.get("event") not in failures
