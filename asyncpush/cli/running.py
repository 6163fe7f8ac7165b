"""Running a command's coroutine: what a signal does, and an `Uploader` with its listeners.

Whatever takes time to import hangs on this module: commands import it when they run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from asyncpush.cli.arguments import Connection
from asyncpush.cli.failures import InterruptedBySignal, UsageError
from asyncpush.cli.files import write_atomically
from asyncpush.cli.output import Output
from asyncpush.errors import InvalidRepoIdError
from asyncpush.events import Event, Listener, PushFailed, PushFinished, Record
from asyncpush.listeners.bars import BarDisplay
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.logs import ENV, configure_from_env
from asyncpush.models import check_repo_id
from asyncpush.options import LOCAL, PUBLIC_ENDPOINT, UploadConfig
from asyncpush.protocol import urls
from asyncpush.uploader import Uploader

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_FLAGS = {
    "max_concurrent_parts": "--max-parts",
    "commit_message": "--message",
    "commit_description": "--description",
    "allow_patterns": "--include",
    "ignore_patterns": "--exclude",
    "delete_patterns": "--delete",
}
"""Settings whose flags have another name."""


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
                raise InterruptedBySignal(received[0]) from error
            raise
        finally:
            listen_no_more()

    return asyncio.run(main())


def run_with_uploader(
    connection: Connection, output: Output, work: Callable[[Uploader], Coroutine[Any, Any, T]]
) -> T:
    """`run` what is to be done with an `open_uploader`."""

    async def main() -> T:
        async with open_uploader(connection, output) as uploader:
            return await work(uploader)

    return run(main)


@asynccontextmanager
async def open_uploader(
    connection: Connection,
    output: Output,
    *,
    listener: Listener | None = None,
    told: tuple[type[Event], ...] = (PushFinished,),
) -> AsyncIterator[Uploader]:
    """An `Uploader` as the flags say, with bars on stderr and events where they are wanted.

    `told` are the ends of a push that leave a line where its bars were: a failure is the command's
    own to tell.
    """
    hub_endpoint(connection.endpoint)
    check_timeline(connection)
    check_events(connection)
    if output.verbose:
        log_everything()
    with _listening(connection, told, output) as listeners:
        if listener is not None:
            listeners.append(listener)
        config = checked(
            UploadConfig,
            max_concurrent_parts=connection.max_parts,
            transfer=connection.transfer,
            progress="none",  # the bars listen here, so that a failure is told once
            events=listeners,
        )
        async with Uploader(connection.token, connection.endpoint, config) as uploader:
            yield uploader


def checked(kind: Callable[..., T], **values: object) -> T:
    """Settings from flags; a bad value is a usage error that names its flag."""
    try:
        return kind(**values)
    except ValueError as error:
        name, _, complaint = str(error).partition(" ")
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{flag} {complaint}") from error


def hub_endpoint(given: str | None) -> str:
    """The endpoint that an `Uploader` takes. Raises `UsageError` when it is none."""
    endpoint = given or os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT
    if endpoint == LOCAL:
        return LOCAL
    try:
        return urls.check_endpoint(endpoint)
    except ValueError as error:
        raise UsageError(f"{'--endpoint' if given else 'HF_ENDPOINT'}: {error}") from error


def check_timeline(connection: Connection) -> None:
    """What `--timeline` asks for can be had: said now, not after the upload. Raises `UsageError`,
    and `ImportError` naming the extra."""
    path = connection.timeline
    if path is None:
        return
    from asyncpush.listeners.timeline.writing import check_target

    try:
        check_target(path)
    except ValueError as error:
        raise UsageError(f"--timeline: {error}") from error
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--timeline must name a file in a folder that exists: {path}")


def check_events(connection: Connection) -> None:
    """The same for `--events`: whoever asks for a record is not left without one."""
    path = connection.events
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"--events must name a file in a folder that exists: {path}")


def check_order(repo_id: str, source: str) -> None:
    """The two are easily swapped, and each complaint of what comes of it would lead astray."""
    if os.path.exists(source) or not os.path.exists(repo_id):
        return
    with suppress(InvalidRepoIdError):
        check_repo_id(source)
        raise UsageError(
            f"REPO_ID and SOURCE look swapped: {repo_id!r} is here, {source!r} is not",
            suggestion=f"name the repo first: {source} {repo_id}",
        )


def log_everything() -> None:
    """What `--verbose` means: all that happens, on stderr, as `ASYNCPUSH_LOG=debug` has it."""
    os.environ[ENV] = "debug"  # an Uploader looks there too
    configure_from_env()


@contextmanager
def _listening(
    connection: Connection, told: tuple[type[Event], ...], output: Output
) -> Iterator[list[Listener]]:
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if connection.timeline is not None:
            listeners.append(stack.enter_context(_drawing(connection.timeline, output)))
        if connection.events is not None:
            writer = JsonlWriter(connection.events)
            stack.callback(writer.close)
            listeners.append(writer.on_event)
        if not connection.quiet:
            bars = _Bars(told)
            stack.callback(bars.close)
            listeners.append(bars.on_event)
        log = logging.getLogger("asyncpush.push")
        log.addFilter(_unless_failure)
        stack.callback(log.removeFilter, _unless_failure)
        yield listeners


@contextmanager
def _drawing(path: Path, output: Output) -> Iterator[Listener]:
    """Draws when all has ended, however it ended. The push is done or not whatever becomes of its
    picture, so that a failure here is only told."""
    from asyncpush.listeners.timeline.recorder import TimelineRecorder
    from asyncpush.listeners.timeline.writing import render

    recorder = TimelineRecorder()
    try:
        yield recorder.on_event
    finally:
        try:
            write_atomically(path, render(recorder.timeline(), path))
            output.note(f"timeline: {path}")
        except Exception as error:
            output.trace(error)
            output.note(f"warning: the timeline could not be written to {path}: {error}")


class _Bars:
    """A `BarDisplay` for each push."""

    wants_headers = False

    def __init__(self, told: tuple[type[Event], ...]) -> None:
        self._told = told
        self._displays: dict[str, BarDisplay] = {}

    def on_event(self, record: Record) -> None:
        event, display = record.event, self._displays.get(record.push_id)
        if display is None:
            display = self._displays[record.push_id] = BarDisplay("auto")
        ended = isinstance(event, PushFailed | PushFinished)
        if not ended or isinstance(event, self._told):
            display.on_event(record)
        if ended:
            self._displays.pop(record.push_id).close()

    def close(self) -> None:
        for display in self._displays.values():
            display.close()
        self._displays.clear()


def _unless_failure(record: logging.LogRecord) -> bool:
    """Failures are the command's to tell, unless somebody reads the log."""
    row = getattr(record, "asyncpush", {})
    return bool(os.environ.get(ENV)) or row.get("event") != PushFailed.name
