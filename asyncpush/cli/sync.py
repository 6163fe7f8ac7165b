"""`asyncpush sync`: files to a storage bucket, verified."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Container, Coroutine
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from click import Context
from click.exceptions import Exit

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command, given_options, option, settings
from asyncpush.cli.output import Output, UsageError, columns, exit_code, paragraph
from asyncpush.cli.push import run_with_uploader
from asyncpush.errors import SyncError
from asyncpush.listeners.format import format_bytes, format_count, format_seconds
from asyncpush.options import LOCAL, PUBLIC_ENDPOINT, PushOptions, SyncOptions
from asyncpush.protocol.addresses import bucket_of, is_web_url
from asyncpush.uploader import Uploader

if TYPE_CHECKING:
    from asyncpush.models import SyncResult

BUCKET = "The bucket"


@command(
    argument(
        "source",
        type=arg.A_SOURCE,
        metavar="SOURCE",
        help="A folder (its contents go below ADDRESS) or a file.",
    ),
    argument(
        "address",
        metavar="ADDRESS",
        help="hf://buckets/namespace/name[/path], or the URL of the bucket's page. For a single"
        " file, the path is its new name, or its folder if it ends with a slash.",
    ),
    option(
        "--delete",
        fills="delete",
        section=arg.FILES,
        is_flag=True,
        help="Delete the bucket's files below ADDRESS that SOURCE does not have, once all others"
        " are added. Files that --include and --exclude leave out are kept.",
    ),
    arg.include,
    arg.exclude,
    arg.max_shard_size,
    arg.on_change,
    arg.strict,
    option(
        "--marker",
        fills="complete_marker",
        section=BUCKET,
        is_flag=True,
        help="Write .complete.json last, once all files are verified, so that readers can tell"
        " complete sets from incomplete ones.",
    ),
    option(
        "--private",
        fills="private",
        convert=lambda given: given or None,
        section=BUCKET,
        is_flag=True,
        help="Make the bucket private, if it is created (default: as the Hub decides).",
    ),
    option(
        "--no-create",
        fills="create_bucket",
        convert=operator.not_,
        section=BUCKET,
        is_flag=True,
        help="Fail if the bucket does not exist, instead of creating it.",
    ),
    option(
        "--region",
        fills="region",
        section=BUCKET,
        metavar="REGION",
        help="Where to store the bucket, such as us or eu, if it is created.",
    ),
    option(
        "--resource-group",
        fills="resource_group",
        section=BUCKET,
        metavar="ID",
        help="Resource group of the organisation, if the bucket is created.",
    ),
    option(
        "--no-verify",
        fills="verify",
        convert=operator.not_,
        section=BUCKET,
        is_flag=True,
        help="Do not check every file through the Hub's API afterwards.",
    ),
    option(
        "--dry-run",
        fills="dry_run",
        section=BUCKET,
        is_flag=True,
        help="Print what would be sent and deleted; change nothing.",
    ),
    arg.rehash,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def sync(context: Context, output: Output, /, *, source: str, address: str, **_: object) -> None:
    """Upload a folder or file to a storage bucket. Data that the bucket already has is not sent.
    Every file is verified by its size and Xet hash."""
    _check_address(context, source, address)
    options = settings(context, SyncOptions)
    run_sync(
        context, output, lambda uploader: uploader.sync(source, address, options), options.dry_run
    )


def run_sync(
    context: Context,
    output: Output,
    work: Callable[[Uploader], Coroutine[Any, Any, SyncResult]],
    dry_run: bool,
) -> None:
    """Change a bucket, and print what was done, also when not all of it was."""
    connection = arg.connection(context, quiet=output.quiet)
    try:
        result = run_with_uploader(connection, output, work)
    except SyncError as error:
        output.negative(result_lines(error.result), result_document(error.result), error)
        raise Exit(exit_code(error)) from error
    lines = _plan_lines(result) if dry_run else result_lines(result)
    output.result(lines, result_document(result))


def check_for_bucket(context: Context, taken: Container[str], what: str) -> None:
    """Raise `UsageError` for a push option on the command line that is not `taken` for a bucket."""
    known = {field.name for field in fields(PushOptions)}
    others = [name for name in given_options(context) & known if name not in taken]
    if others:
        params = context.command.params
        flags = [each.opts[0] for each in params if getattr(each, "fills", "") in others]
        raise UsageError(
            f"{what} takes no {', '.join(flags)}",
            suggestion="leave out these options; the path goes into the address of the bucket",
        )


def _check_address(context: Context, source: str, address: str) -> None:
    arg.check_direction(source, address, upload=f"`asyncpush sync {address} {source}`")
    endpoint = arg.hub_endpoint(context.params.get("endpoint"))
    if endpoint == LOCAL:
        if is_web_url(address):
            return  # whose page that is shows when the embedded Hub has started
        endpoint = PUBLIC_ENDPOINT
    bucket_of(address, endpoint)


def result_document(result: SyncResult) -> dict[str, Any]:
    """Every field of the result, under its own name; its activity is for pictures."""
    names = [field.name for field in fields(result) if field.name != "activity"]
    return {name: getattr(result, name) for name in names}


def result_lines(result: SyncResult) -> list[str]:
    """The bucket's URL, then what was done."""
    counts = []
    if result.files_uploaded:
        counts.append(f"{format_count(len(result.files_uploaded), 'file')} uploaded")
        sent = format_bytes(result.bytes_transferred)
        counts.append(f"{sent} sent in {format_seconds(result.elapsed_seconds)}")
    elif not result.files_deleted:
        counts.append("nothing new")
    if result.files_unchanged:
        counts.append(f"{len(result.files_unchanged):,} unchanged")
    if result.files_deleted:
        counts.append(f"{len(result.files_deleted):,} deleted")
    counts.append("verified" if result.verified else "not verified")
    if result.marker is not None:
        counts.append("marked as complete")
    return [result.bucket_url, *paragraph(", ".join(counts), sys.stdout)]


def _plan_lines(result: SyncResult) -> list[str]:
    to_send = [file for file in result.plan if file.action == "xet"]
    rows = [
        [
            "upload" if file.action == "xet" else file.action,
            "" if file.action == "delete" else format_bytes(file.size),
            file.path_in_repo,
        ]
        for file in result.plan
    ]
    size = format_bytes(sum(file.size for file in to_send))
    return [
        f"{result.bucket_url}: dry run, nothing was changed",
        *columns(rows, right=[1]),
        f"{format_count(len(to_send), 'file')} to send, {size}",
    ]
