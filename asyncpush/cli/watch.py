"""`asyncpush watch`: push a folder each time it has changed, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

import click
from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import Connection
from asyncpush.cli.base import argument, command, option, settings
from asyncpush.cli.output import Output, UsageError, exit_code
from asyncpush.cli.push import open_uploader, result_lines
from asyncpush.cli.running import run
from asyncpush.cli.sync import check_for_bucket
from asyncpush.listeners.format import format_bytes, format_count
from asyncpush.models import SyncResult, UploadResult
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.protocol.addresses import is_address, names_bucket

if TYPE_CHECKING:
    from asyncpush.watch import FolderWatch, WatchOutcome

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", re.ASCII)


class _Seconds(click.ParamType[float]):
    """A duration such as `60s`, `5m` or `1.5h`; a number without a unit is seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 60s, 5m or 1h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@command(
    argument(
        "folder",
        type=arg.A_SOURCE,
        metavar="FOLDER",
        help="The folder to push; it need not exist yet.",
    ),
    argument(
        "repo_id",
        metavar="REPO_ID",
        help="The repo or bucket to push to: namespace/name, or an hf:// address.",
    ),
    option(
        "--every",
        type=_Seconds(),
        default="60s",
        show_default=True,
        metavar="TIME",
        help="Least time from the end of a push to the next one. A folder that never stops"
        " changing is pushed after twice this time.",
    ),
    option(
        "--quiet-for",
        type=_Seconds(),
        default="5s",
        show_default=True,
        metavar="TIME",
        help="How long the folder must be unchanged before it is pushed.",
    ),
    arg.repo_type,
    *arg.NEW_REPO,
    arg.revision,
    arg.create_branch,
    arg.message,
    *arg.SELECTION,
    arg.on_change,
    arg.no_verify,
    arg.strict,
    *arg.ENGINE,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def watch(
    context: Context,
    output: Output,
    /,
    *,
    folder: str,
    repo_id: str,
    every: float,
    quiet_for: float,
    **_: object,
) -> None:
    """Push a folder each time it has changed, until Ctrl-C. A push starts once the folder has
    stopped changing. Ctrl-C pushes the last changes; a second one cancels that. A push that fails
    is reported and tried again."""
    if os.path.exists(repo_id) and not os.path.exists(folder):
        raise UsageError(
            f"FOLDER and REPO_ID look swapped: {repo_id!r} is a folder here",
            suggestion=f"give the folder first: {repo_id} {folder}",
        )
    if is_address(folder) and not os.path.exists(folder):
        raise UsageError(
            f"FOLDER is an address, {folder!r}",
            suggestion="give a local folder first, then the repo or bucket to push to",
        )
    if os.path.isfile(folder):
        raise UsageError(f"{folder!r} is a file: give a folder")
    options: PushOptions | SyncOptions
    if names_bucket(repo_id):
        taken = {field.name for field in fields(SyncOptions)}
        check_for_bucket(context, taken, "a watch that syncs to a bucket")
        options = settings(context, SyncOptions)
    else:
        options = settings(context, PushOptions)
        arg.check_target(context, repo_id, options)
    connection = arg.connection(context, quiet=output.quiet)
    timing = {"every": every, "quiet_for": quiet_for}
    ended = run(partial(_watch, connection, output, folder, repo_id, options, timing))
    document = {
        "pushes": ended.pushes,
        "failures": [str(error) for error in ended.failures],
        "commit_sha": getattr(ended.last_result, "commit_sha", None),
        "commit_url": getattr(ended.last_result, "commit_url", None),
    }
    if ended.last_error is not None:
        output.negative([], document, ended.last_error)
        raise click.exceptions.Exit(exit_code(ended.last_error))
    output.result([], document)


async def _watch(
    connection: Connection,
    output: Output,
    folder: str,
    repo_id: str,
    options: PushOptions | SyncOptions,
    timing: dict[str, float],
) -> FolderWatch:
    from asyncpush.watch import FATAL

    ending = False

    def report(outcome: WatchOutcome) -> None:
        if outcome.error is not None:
            again = "" if ending or isinstance(outcome.error, FATAL) else " and will be tried again"
            output.warn(f"a push failed{again}: {outcome.error}")
        elif outcome.result is not None and not output.as_json:
            output.result(_lines(outcome.result), {})

    async with open_uploader(connection, output) as uploader:
        watch = uploader.watch(folder, repo_id, options, on_outcome=report, **timing)
        inside = False
        try:
            async with watch:
                inside = True
                output.note(f"watching {folder}; Ctrl-C pushes the last changes and ends")
                try:
                    await watch.wait()
                finally:
                    ending = True
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not inside or task is None or task.uncancel() > 0 or not watch.finished:
                raise
    return watch


def _lines(result: UploadResult | SyncResult) -> list[str]:
    if isinstance(result, UploadResult):
        return result_lines(result)
    sent = format_bytes(result.bytes_transferred)
    return [f"{format_count(len(result.files_uploaded), 'file')} synced, {sent} sent"]
