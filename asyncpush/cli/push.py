"""`asyncpush push`: a folder or file, one verified commit."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.output import Output
from asyncpush.cli.results import result_document, result_lines
from asyncpush.options import MAX_CONCURRENT_PARTS


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
        from asyncpush.cli.checks import check_order, check_target, checked
        from asyncpush.cli.uploading import run_with_uploader
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
