"""`asyncpush commit`: one commit of what `asyncpush upload` stored, here or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.output import Output
from asyncpush.cli.results import result_document, result_lines

if TYPE_CHECKING:
    from asyncpush.models import Receipt


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
        from asyncpush.cli.checks import check_target, checked
        from asyncpush.cli.uploading import run_with_uploader
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
