"""`asyncpush copy`: files from one place on the Hub to another, without their bytes."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command, given_options, settings
from asyncpush.cli.failures import UsageError
from asyncpush.cli.output import Output, paragraph
from asyncpush.cli.push import plan_lines, result_document, result_lines, run_with_uploader
from asyncpush.listeners.format import format_bytes, format_count, format_seconds
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.protocol.addresses import names_bucket

if TYPE_CHECKING:
    from asyncpush.models import SyncResult

_FOR_BUCKETS = frozenset(
    {
        *("private", "region", "resource_group", "allow_patterns", "ignore_patterns"),
        *("delete_patterns", "verify", "dry_run", "strict"),
    }
)
"""The settings that a copy to a bucket takes."""


@command(
    argument(
        "source",
        metavar="SRC",
        help="A repo, or a file or folder in it: hf://namespace/name@revision/path, namespace/name,"
        " or the URL of its page. Or hf://buckets/namespace/name/path.",
    ),
    argument(
        "destination",
        metavar="DST",
        help="The repo, branch and path to copy to, or the bucket and path, in the same forms."
        " What is missing is created.",
    ),
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
    arg.no_verify,
    arg.dry_run,
    arg.strict,
    arg.endpoint,
    arg.token,
    *arg.RECORDS,
    *arg.OUTPUT,
)
def copy(
    context: Context, output: Output, /, *, source: str, destination: str, **_: object
) -> None:
    """Copy files on the Hub without their bytes. It ends in one verified commit, or, for a bucket,
    in a verified sync. Small files are read and sent.

    To release a tested commit:

    \b
      asyncpush copy hf://me/staging@SHA hf://org/prod --message "v1.2"
    """
    connection = arg.connection(context, quiet=output.quiet)
    if names_bucket(destination):
        to_bucket = _sync_options(context)
        synced = run_with_uploader(
            connection, output, lambda uploader: uploader.copy(source, destination, to_bucket)
        )
        lines = plan_lines(synced.bucket_url, synced.plan) if to_bucket.dry_run else _lines(synced)
        output.result(lines, _document(synced))
        return
    options = settings(context, PushOptions)
    arg.check_target(context, destination, options)
    result = run_with_uploader(
        connection, output, lambda uploader: uploader.copy(source, destination, options)
    )
    output.result(result_lines(result, dry_run=options.dry_run), result_document(result))


def _sync_options(context: Context) -> SyncOptions:
    """Raises `UsageError` for an option that means nothing for a bucket."""
    known = {field.name for field in fields(PushOptions)}
    if others := (given_options(context) & known) - _FOR_BUCKETS:
        flags = [each.opts[0] for each in context.command.params if _fills(each) in others]
        raise UsageError(
            f"a copy to a bucket takes no {', '.join(flags)}",
            suggestion="leave out these options; the path goes into the address of the bucket",
        )
    deleted = context.params["delete"]
    if deleted not in ((), ("*",)):
        raise UsageError(
            f"--delete {deleted[0]!r}: a copy to a bucket deletes all files that are not in SRC, or"
            " none",
            suggestion="use --delete '*', and --include or --exclude to choose among the files",
        )
    return settings(context, SyncOptions, delete=bool(deleted))


def _fills(param: object) -> str:
    return getattr(param, "fills", "")


def _lines(result: SyncResult) -> list[str]:
    """Where it is, then what was done."""
    count = len(result.files_uploaded)
    deeds = ["nothing new"]
    if count:
        seconds = format_seconds(result.elapsed_seconds)
        sent = format_bytes(result.bytes_transferred)
        deeds = [f"{format_count(count, 'file')} copied", f"{sent} sent in {seconds}"]
    if result.files_unchanged:
        deeds.append(f"{len(result.files_unchanged):,} unchanged")
    if result.files_deleted:
        deeds.append(f"{len(result.files_deleted):,} deleted")
    deeds.append("verified" if result.verified else "not verified")
    return [result.bucket_url, *paragraph(", ".join(deeds), sys.stdout)]


def _document(result: SyncResult) -> dict[str, Any]:
    return {
        field.name: getattr(result, field.name)
        for field in fields(result)
        if field.name != "activity"
    }
