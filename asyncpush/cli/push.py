"""`asyncpush push`, `upload` and `commit`: the commands that upload, and what they print."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import (
    Connection,
    check_records,
    checked,
    hub_endpoint,
)
from asyncpush.cli.output import Output, columns, paragraph
from asyncpush.cli.running import listeners_of, log_everything, run
from asyncpush.events import Event, Listener, PushFinished
from asyncpush.listeners.format import format_bytes, format_count, format_rate, format_seconds
from asyncpush.options import MAX_CONCURRENT_PARTS, UploadConfig
from asyncpush.own_files import Announcement, write_atomically
from asyncpush.uploader import Uploader

if TYPE_CHECKING:
    from asyncpush.models import Receipt, UploadResult


def push(
    context: typer.Context,
    repo_id: arg.RepoId,
    source: arg.Source,
    repo_type: arg.RepoTypeOption = "model",
    private: arg.Private = False,
    visibility: arg.VisibilityOption = None,
    region: arg.Region = None,
    resource_group: arg.ResourceGroup = None,
    revision: arg.Revision = "main",
    create_branch: arg.CreateBranch = False,
    message: arg.Message = None,
    description: arg.Description = "",
    create_pr: arg.CreatePr = False,
    path_in_repo: arg.PathInRepo = "",
    include: arg.Include = None,
    exclude: arg.Exclude = None,
    delete: arg.Delete = None,
    model_card: arg.ModelCard = None,
    max_shard_size: arg.MaxShardSize = None,
    transfer: arg.TransferOption = "auto",
    no_verify: arg.NoVerify = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be uploaded and how; change nothing.",
            rich_help_panel=arg.COMMIT,
        ),
    ] = False,
    rehash: arg.Rehash = False,
    strict: arg.Strict = False,
    max_parts: arg.MaxParts = MAX_CONCURRENT_PARTS,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    events: arg.Events = None,
    timeline: arg.TimelineFile = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Upload a folder or file as one verified commit."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.arguments import check_order, check_target
        from asyncpush.options import PushOptions

        check_order(repo_id, source)
        options = checked(
            PushOptions,
            repo_type=repo_type,
            private=private or None,
            visibility=visibility,
            region=region,
            resource_group=resource_group,
            revision=revision,
            create_branch=create_branch,
            commit_message=message,
            commit_description=description,
            create_pr=create_pr,
            path_in_repo=path_in_repo,
            allow_patterns=include,
            ignore_patterns=exclude,
            delete_patterns=delete,
            model_card=model_card,
            max_shard_size=max_shard_size,
            verify=not no_verify,
            dry_run=dry_run,
            strict=strict,
        )
        check_target(repo_id, options, endpoint, arg.given_options(context))
        connection = arg.Connection(
            endpoint=endpoint,
            token=token,
            transfer=transfer,
            max_parts=max_parts,
            rehash=rehash,
            events=events,
            timeline=timeline,
            quiet=quiet,
        )
        result = run_with_uploader(
            connection, output, lambda uploader: uploader.push_to_hub(repo_id, source, options)
        )
        output.result(result_lines(result, dry_run=dry_run), result_document(result))


def upload(
    context: typer.Context,
    repo_id: arg.RepoId,
    source: arg.Source,
    receipts: Annotated[
        Path,
        typer.Option(
            "--receipts",
            metavar="OUT.json",
            help="Write the receipts here, for `asyncpush commit`. They hold the bytes of small"
            " text files, and no credentials.",
            show_default=False,
        ),
    ],
    repo_type: arg.RepoTypeOption = "model",
    private: arg.Private = False,
    visibility: arg.VisibilityOption = None,
    region: arg.Region = None,
    resource_group: arg.ResourceGroup = None,
    revision: arg.Revision = "main",
    create_branch: arg.CreateBranch = False,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr",
            help="The commit will open a pull request: read access will do.",
            rich_help_panel=arg.COMMIT,
        ),
    ] = False,
    path_in_repo: arg.PathInRepo = "",
    include: arg.Include = None,
    exclude: arg.Exclude = None,
    model_card: arg.ModelCard = None,
    max_shard_size: arg.MaxShardSize = None,
    transfer: arg.TransferOption = "auto",
    rehash: arg.Rehash = False,
    strict: arg.Strict = False,
    max_parts: arg.MaxParts = MAX_CONCURRENT_PARTS,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    events: arg.Events = None,
    timeline: arg.TimelineFile = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Store files now, for a commit later. The receipts are what `asyncpush commit` takes."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.arguments import check_file, check_order, check_target
        from asyncpush.models import receipts_to_json
        from asyncpush.options import PushOptions

        check_order(repo_id, source)
        check_file("--receipts", receipts)  # said now, not after the upload
        options = checked(
            PushOptions,
            repo_type=repo_type,
            private=private or None,
            visibility=visibility,
            region=region,
            resource_group=resource_group,
            revision=revision,
            create_branch=create_branch,
            create_pr=create_pr,
            path_in_repo=path_in_repo,
            allow_patterns=include,
            ignore_patterns=exclude,
            model_card=model_card,
            strict=strict,
            max_shard_size=max_shard_size,
        )
        check_target(repo_id, options, endpoint, arg.given_options(context))
        connection = arg.Connection(
            endpoint=endpoint,
            token=token,
            transfer=transfer,
            max_parts=max_parts,
            rehash=rehash,
            events=events,
            timeline=timeline,
            quiet=quiet,
        )
        with Announcement(receipts, "the file that --receipts names"):
            stored = run_with_uploader(
                connection, output, lambda uploader: uploader.upload_files(repo_id, source, options)
            )
        # Not private: another user's rank 0 may be the one who commits. The umask decides.
        write_atomically(receipts, receipts_to_json(stored))
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
        "receipts": [receipt.to_json() | {"content": None} for receipt in stored],
        "bytes_transferred": sum(receipt.bytes_sent for receipt in stored),
    }


def commit(
    context: typer.Context,
    repo_id: arg.RepoId,
    receipts: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECEIPTS",
            help="Files that `asyncpush upload` wrote, here or on other machines.",
            show_default=False,
        ),
    ],
    repo_type: arg.RepoTypeOption = "model",
    revision: arg.Revision = "main",
    message: arg.Message = None,
    description: arg.Description = "",
    create_pr: arg.CreatePr = False,
    path_in_repo: Annotated[
        str,
        typer.Option(
            "--path-in-repo",
            metavar="PATH",
            help="Folder of the repo that --delete looks in (default: the top).",
            rich_help_panel=arg.FILES,
            show_default=False,
        ),
    ] = "",
    delete: arg.Delete = None,
    no_verify: arg.NoVerify = False,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    events: arg.Events = None,
    timeline: arg.TimelineFile = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Commit what `asyncpush upload` stored, here or elsewhere."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.arguments import check_target
        from asyncpush.options import PushOptions

        options = checked(
            PushOptions,
            repo_type=repo_type,
            revision=revision,
            commit_message=message,
            commit_description=description,
            create_pr=create_pr,
            path_in_repo=path_in_repo,
            delete_patterns=delete,
            verify=not no_verify,
        )
        check_target(repo_id, options, endpoint, arg.given_options(context))
        connection = arg.Connection(
            endpoint=endpoint, token=token, events=events, timeline=timeline, quiet=quiet
        )
        stored = read_receipts(receipts)
        result = run_with_uploader(
            connection, output, lambda uploader: uploader.commit(repo_id, stored, options)
        )
        output.result(result_lines(result), result_document(result))


def read_receipts(paths: list[Path]) -> list[Receipt]:
    """All receipts of these files. Raises one `SourceError` that names every file with a fault."""
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


_WORTH_A_RATE = 1_000_000
_SENT = ("inline", "lfs", "xet")


def result_document(result: UploadResult) -> dict[str, Any]:
    """Every field of the result, under its own name; its activity is for pictures."""
    names = [field.name for field in fields(result) if field.name != "activity"]
    document = {name: getattr(result, name) for name in names}
    return document | {"receipts": [receipt.to_json() for receipt in result.receipts]}


def result_lines(result: UploadResult, *, dry_run: bool = False) -> list[str]:
    """Where it is, then what was done."""
    if dry_run:
        return _plan_lines(result)
    where = result.pr_url or result.commit_url
    return [where, *paragraph(", ".join(_deeds(result)), sys.stdout)]


def _deeds(result: UploadResult) -> list[str]:
    deeds = []
    if result.files_uploaded:
        deeds.append(f"{format_count(len(result.files_uploaded), 'file')} committed")
        deeds.append(f"{format_bytes(result.bytes_transferred)} sent{_pace(result)}")
    elif result.files_ignored and not (result.files_unchanged or result.files_deleted):
        deeds.append("nothing was pushed")
    elif not result.files_deleted:
        deeds.append("nothing new, no commit was needed")
    for paths, what in (
        (result.files_unchanged, "unchanged"),
        (result.files_deleted, "deleted"),
        (result.files_ignored, "ignored by the Hub"),
    ):
        if paths:
            deeds.append(f"{len(paths):,} {what}")
    deeds.append("verified" if result.verified else "not verified")
    return deeds


def _pace(result: UploadResult) -> str:
    seconds, sent = max(result.elapsed_seconds, 1e-6), result.bytes_transferred
    # The rate of a few bytes would only tell of latency.
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
