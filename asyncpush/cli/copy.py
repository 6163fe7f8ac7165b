"""`asyncpush copy`: files from one place on the Hub to another, without their bytes."""

from __future__ import annotations

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command, settings
from asyncpush.cli.output import Output, UsageError
from asyncpush.cli.push import result_document, result_lines, run_with_uploader
from asyncpush.cli.sync import check_for_bucket, run_sync
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.protocol.addresses import names_bucket

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
    arg.check_copied_on_hub(source, destination)
    if names_bucket(destination):
        to_bucket = _sync_options(context)
        run_sync(
            context,
            output,
            lambda uploader: uploader.copy(source, destination, to_bucket),
            to_bucket.dry_run,
        )
        return
    options = settings(context, PushOptions)
    arg.check_target(context, destination, options)
    connection = arg.connection(context, quiet=output.quiet)
    result = run_with_uploader(
        connection, output, lambda uploader: uploader.copy(source, destination, options)
    )
    output.result(result_lines(result, dry_run=options.dry_run), result_document(result))


def _sync_options(context: Context) -> SyncOptions:
    """Raises `UsageError` for an option that means nothing for a bucket."""
    check_for_bucket(context, _FOR_BUCKETS, "a copy to a bucket")
    deleted = context.params["delete"]
    if deleted not in ((), ("*",)):
        raise UsageError(
            f"--delete {deleted[0]!r}: a copy to a bucket deletes all files that are not in SRC, or"
            " none",
            suggestion="use --delete '*', and --include or --exclude to choose among the files",
        )
    return settings(context, SyncOptions, delete=bool(deleted))
