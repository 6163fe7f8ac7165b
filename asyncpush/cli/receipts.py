"""`asyncpush upload` and `asyncpush commit`: store now, commit once later, maybe elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.failures import UsageError
from asyncpush.cli.files import write_atomically
from asyncpush.cli.output import Output
from asyncpush.cli.results import result_document, result_lines

if TYPE_CHECKING:
    from asyncpush.models import Receipt


def upload(
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
    strict: arg.Strict = False,
    max_parts: arg.MaxParts = arg.DEFAULT_MAX_PARTS,
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
        from asyncpush.cli.running import check_order, checked, run_with_uploader
        from asyncpush.models import receipts_to_json
        from asyncpush.options import PushOptions

        check_order(repo_id, source)
        if receipts.is_dir() or not receipts.absolute().parent.is_dir():
            # Said now, not after the upload.
            raise UsageError(f"--receipts must name a file in a folder that exists: {receipts}")
        options = checked(
            PushOptions,
            repo_type=repo_type,
            private=private or None,
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
        connection = arg.Connection(
            endpoint=endpoint,
            token=token,
            transfer=transfer,
            max_parts=max_parts,
            events=events,
            timeline=timeline,
            quiet=quiet,
        )
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


def commit(
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
        from asyncpush.cli.running import checked, run_with_uploader
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
