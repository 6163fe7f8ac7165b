"""An `Uploader` as a command's flags want it.

Whatever takes time to import hangs on this module: commands import it when they run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asyncpush.cli.arguments import Connection
from asyncpush.cli.checks import check_records, checked, hub_endpoint
from asyncpush.cli.listening import listeners_of, log_everything
from asyncpush.cli.output import Output
from asyncpush.cli.running import run
from asyncpush.events import Event, Listener, PushFinished
from asyncpush.options import UploadConfig
from asyncpush.outputs import Announcement
from asyncpush.uploader import Uploader

T = TypeVar("T")

_PRINTED = "where the output of this command goes"


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
    check_records(connection)
    if output.verbose:
        log_everything()
    with (
        Announcement(1, _PRINTED),  # the shell may lead them to files within the source
        Announcement(2, _PRINTED),
        listeners_of(connection, told, output) as listeners,
    ):
        if listener is not None:
            listeners.append(listener)
        config = checked(
            UploadConfig,
            max_concurrent_parts=connection.max_parts,
            transfer=connection.transfer,
            trust_mtime=not connection.rehash,
            progress="none",  # the bars listen here, so that a failure is told once
            events=listeners,
        )
        async with Uploader(connection.token, connection.endpoint, config) as uploader:
            yield uploader
