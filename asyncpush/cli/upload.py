"""`asyncpush upload`: store now, commit once later, maybe elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.files import write_atomically
from asyncpush.cli.output import Output
from asyncpush.options import MAX_CONCURRENT_PARTS

if TYPE_CHECKING:
    from asyncpush.models import Receipt


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
        from asyncpush.cli.checks import check_file, check_order, check_target, checked
        from asyncpush.cli.uploading import run_with_uploader
        from asyncpush.models import receipts_to_json
        from asyncpush.options import PushOptions
        from asyncpush.outputs import Announcement

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
    from asyncpush.listeners.wording import format_bytes, format_count

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
