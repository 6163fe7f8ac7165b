"""`asyncpush push`, `upload` and `commit`: the commands that upload, and what they print."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from click import Context, get_current_context

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import Connection, check_records, hub_endpoint
from asyncpush.cli.base import argument, checked, command, option, settings
from asyncpush.cli.output import CommandError, Output, UsageError, columns, paragraph
from asyncpush.cli.running import listeners_of, log_everything, run
from asyncpush.events import Event, Listener, PushFinished
from asyncpush.listeners.format import format_bytes, format_count, format_rate, format_seconds
from asyncpush.options import PushOptions, UploadConfig
from asyncpush.own_files import Announcement, write_atomically
from asyncpush.uploader import Uploader

if TYPE_CHECKING:
    from asyncpush.models import Receipt, UploadResult


@command(
    arg.repo_id,
    arg.source,
    arg.target,
    option("--every", hidden=True, help="An option of `hf upload`, in minutes."),
    arg.repo_type,
    *arg.NEW_REPO,
    arg.revision,
    arg.create_branch,
    arg.message,
    arg.description,
    arg.create_pr,
    *arg.SELECTION,
    arg.delete,
    arg.model_card,
    arg.max_shard_size,
    arg.on_change,
    arg.no_verify,
    arg.dry_run,
    arg.strict,
    *arg.ENGINE,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def push(
    context: Context,
    output: Output,
    /,
    *,
    repo_id: str,
    source: str,
    every: str | None,
    **_: object,
) -> None:
    """Upload a folder or file as one verified commit."""
    if every is not None:
        raise UsageError(
            "push takes no --every: it pushes once",
            suggestion=f"run asyncpush watch {source} {repo_id} --every {every}m (m: minutes)",
        )
    arg.check_order(repo_id, source)
    arg.check_direction(source, repo_id, upload=f"asyncpush push {repo_id} SOURCE")
    arg.check_source(source)
    options = settings(context, PushOptions)
    arg.check_target(context, repo_id, options)
    connection = arg.connection(context, quiet=output.quiet)
    result = run_with_uploader(
        connection,
        output,
        lambda uploader: uploader.push_to_hub(repo_id, source, options),
        untouched=_NO_COMMIT,
    )
    output.result(result_lines(result, dry_run=options.dry_run), result_document(result))


@command(
    arg.repo_id,
    arg.source,
    arg.target,
    option(
        "--receipts",
        type=arg.A_PATH,
        required=True,
        metavar="OUT.json",
        help="Write the receipts here, for `asyncpush commit`. They contain the bytes of small"
        " text files, and no credentials.",
    ),
    arg.repo_type,
    *arg.NEW_REPO,
    arg.revision,
    arg.create_branch,
    option(
        "--create-pr",
        fills="create_pr",
        section=arg.COMMIT,
        is_flag=True,
        help="The commit will open a pull request, so read access is enough.",
    ),
    *arg.SELECTION,
    arg.model_card,
    arg.max_shard_size,
    arg.on_change,
    arg.strict,
    *arg.ENGINE,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def upload(
    context: Context,
    output: Output,
    /,
    *,
    repo_id: str,
    source: str,
    receipts: Path,
    **_: object,
) -> None:
    """Store files now, to commit them later. `asyncpush commit` takes the receipts."""
    from asyncpush.models import receipts_to_json

    arg.check_order(repo_id, source)
    arg.check_direction(source, repo_id, upload=f"asyncpush push {repo_id} SOURCE")
    arg.check_source(source)
    arg.check_file("--receipts", receipts)  # before the upload, not after it
    options = settings(context, PushOptions)
    arg.check_target(context, repo_id, options)
    connection = arg.connection(context, quiet=output.quiet)
    with Announcement(receipts, "the file that --receipts names"):
        stored = run_with_uploader(
            connection,
            output,
            lambda uploader: uploader.upload_files(repo_id, source, options),
            untouched="no receipts were written",
        )
    # Not private: another user's rank 0 may be the one who commits. The umask decides.
    try:
        write_atomically(receipts, receipts_to_json(stored))
    except OSError as error:
        raise CommandError(
            f"the files are stored, but their receipts could not be written to {receipts}:"
            f" {error.strerror or error}",
            suggestion="free some disk space or name another file, then run the command again:"
            " what is stored is not sent again",
        ) from error
    output.result(_stored_lines(receipts, stored), _stored_document(receipts, stored))


def _stored_lines(path: Path, stored: list[Receipt]) -> list[str]:
    sent = sum(receipt.bytes_sent for receipt in stored)
    size = sum(receipt.size for receipt in stored)
    return [
        str(path),
        f"{format_count(len(stored), 'receipt')} for {format_bytes(size)},"
        f" {format_bytes(sent)} sent; not yet committed",
    ]


def _stored_document(path: Path, stored: list[Receipt]) -> dict[str, object]:
    return {
        "receipts_file": str(path),
        "receipts": [_receipt_document(receipt) for receipt in stored],
        "bytes_transferred": sum(receipt.bytes_sent for receipt in stored),
    }


@command(
    arg.repo_id,
    argument(
        "receipts",
        nargs=-1,
        required=True,
        type=arg.A_PATH,
        metavar="RECEIPTS",
        help="Files that `asyncpush upload` wrote, on this or other machines.",
    ),
    arg.repo_type,
    arg.revision,
    arg.create_branch,
    arg.message,
    arg.description,
    arg.create_pr,
    arg.no_verify,
    option(
        "--path-in-repo",
        fills="path_in_repo",
        section=arg.FILES,
        default="",
        metavar="PATH",
        help="Folder of the repo in which --delete looks for files (default: the top).",
    ),
    arg.delete,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def commit(
    context: Context,
    output: Output,
    /,
    *,
    repo_id: str,
    receipts: Sequence[Path],
    **_: object,
) -> None:
    """Commit files that `asyncpush upload` stored. They may come from several machines."""
    options = settings(context, PushOptions)
    arg.check_target(context, repo_id, options)
    connection = arg.connection(context, quiet=output.quiet)
    stored = read_receipts(receipts)
    result = run_with_uploader(
        connection,
        output,
        lambda uploader: uploader.commit(repo_id, stored, options),
        untouched=_NO_COMMIT,
    )
    output.result(result_lines(result), result_document(result))


def read_receipts(paths: Sequence[Path]) -> list[Receipt]:
    """All receipts of these files. Raises one `SourceError` that names every unusable file."""
    from asyncpush.errors import SourceError
    from asyncpush.models import receipts_from_json

    receipts, problems = [], []
    for path in paths:
        try:
            receipts += receipts_from_json(path.read_bytes())
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except SourceError as error:
            problems.append(f"{path}: {error.message}")
    if problems:
        raise SourceError(
            f"cannot use {'this file' if len(problems) == 1 else 'these files'}: "
            + "; ".join(problems),
            problems=problems,
            suggestion="name the files that `asyncpush upload --receipts` wrote",
        )
    return receipts


T = TypeVar("T")

_NO_COMMIT = "nothing was committed"
_PRINTED = "the output of this command"


def run_with_uploader(
    connection: Connection,
    output: Output,
    work: Callable[[Uploader], Coroutine[Any, Any, T]],
    *,
    untouched: str = "",
) -> T:
    """`run` a coroutine with an `open_uploader`. `untouched` says what is not done if it is
    interrupted."""

    async def main() -> T:
        async with open_uploader(connection, output) as uploader:
            return await work(uploader)

    return run(main, untouched=untouched)


@asynccontextmanager
async def open_uploader(
    connection: Connection,
    output: Output,
    *,
    listener: Listener | None = None,
    printed: tuple[type[Event], ...] = (PushFinished,),
) -> AsyncIterator[Uploader]:
    """An `Uploader` as the options say, with bars on stderr and the files of events.

    `printed` are the final events that print a line in place of the bars; failures are not among
    them, since the command prints them itself.
    """
    hub_endpoint(connection.endpoint)
    check_records(connection)
    if output.verbose:
        log_everything()
    with (
        Announcement(1, _PRINTED),  # the shell may redirect it to a file within the source
        Announcement(2, _PRINTED),
        listeners_of(connection, printed, output) as listeners,
    ):
        if listener is not None:
            listeners.append(listener)
        config = checked(
            get_current_context(silent=True),
            UploadConfig,
            **connection.config,
            progress="none",  # the bars are among the listeners; a failure is printed once
            events=listeners,
        )
        async with Uploader(connection.token, connection.endpoint, config) as uploader:
            yield uploader


_WORTH_A_RATE = 1_000_000
_SENT = ("inline", "lfs", "xet")


def result_document(result: UploadResult) -> dict[str, Any]:
    """Every field of the result by its name, without `activity`, which is for pictures."""
    names = [field.name for field in fields(result) if field.name != "activity"]
    document = {name: getattr(result, name) for name in names}
    return document | {"receipts": [_receipt_document(receipt) for receipt in result.receipts]}


def _receipt_document(receipt: Receipt) -> dict[str, Any]:
    """A receipt without the bytes of the file."""
    return {name: value for name, value in receipt.to_json().items() if name != "content"}


def result_lines(result: UploadResult, *, dry_run: bool = False) -> list[str]:
    """The URL, then what was done."""
    if dry_run:
        return _plan_lines(result)
    where = result.pr_url or result.commit_url
    return [where, *paragraph(", ".join(_counts(result)), sys.stdout)]


def _counts(result: UploadResult) -> list[str]:
    counts = []
    if result.files_uploaded:
        counts.append(f"{format_count(len(result.files_uploaded), 'file')} committed")
        counts.append(f"{format_bytes(result.bytes_transferred)} sent{_pace(result)}")
    elif result.files_ignored and not (result.files_unchanged or result.files_deleted):
        counts.append("nothing was pushed")
    elif not result.files_deleted:
        counts.append("nothing new, no commit was needed")
    for paths, what in (
        (result.files_unchanged, "unchanged"),
        (result.files_deleted, "deleted"),
        (result.files_ignored, "ignored by the Hub"),
    ):
        if paths:
            counts.append(f"{len(paths):,} {what}")
    counts.append("verified" if result.verified else "not verified")
    return counts


def _pace(result: UploadResult) -> str:
    seconds, sent = max(result.elapsed_seconds, 1e-6), result.bytes_transferred
    # The rate of a few bytes only measures latency.
    rate = f" ({format_rate(sent / seconds)})" if sent >= _WORTH_A_RATE else ""
    return f" in {format_seconds(seconds)}{rate}"


def _plan_lines(result: UploadResult) -> list[str]:
    to_send = [file for file in result.plan if file.action in _SENT]
    rows = [
        [file.action, "" if file.action == "delete" else format_bytes(file.size), file.path_in_repo]
        for file in result.plan
    ]
    size = format_bytes(sum(file.size for file in to_send))
    return [
        f"{result.repo_url}: dry run, nothing was changed",
        *columns(rows, right=[1]),
        f"{format_count(len(to_send), 'file')} to send, {size}",
    ]
