"""`asyncpush audit`: local files against the repo, by size and checksum."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.failures import CommandFailedError
from asyncpush.cli.output import Output

if TYPE_CHECKING:
    from asyncpush.models import AuditReport


def audit(
    context: typer.Context,
    repo_id: arg.RepoId,
    source: arg.Source,
    repo_type: arg.RepoTypeOption = "model",
    revision: Annotated[
        str,
        typer.Option(
            "--revision",
            metavar="REVISION",
            help="Branch, tag or commit to look at.",
            rich_help_panel=arg.COMMIT,
        ),
    ] = "main",
    path_in_repo: arg.PathInRepo = "",
    include: arg.Include = None,
    exclude: arg.Exclude = None,
    max_shard_size: arg.MaxShardSize = None,
    allow_extra: Annotated[
        bool,
        typer.Option(
            "--allow-extra",
            help="Files that only the repo holds are fine.",
            rich_help_panel=arg.FILES,
        ),
    ] = False,
    count_ignored: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Files that a .gitignore leaves out count as missing.",
            rich_help_panel=arg.FILES,
        ),
    ] = False,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    events: arg.Events = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Compare local files with the repo by checksum. Nothing is downloaded. Exit code 0 only if the
    repo holds exactly these files."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.arguments import check_order, check_target, checked
        from asyncpush.cli.push import run_with_uploader
        from asyncpush.options import PushOptions

        check_order(repo_id, source)
        options = checked(
            PushOptions,
            repo_type=repo_type,
            revision=revision,
            path_in_repo=path_in_repo,
            allow_patterns=include,
            ignore_patterns=exclude,
            max_shard_size=max_shard_size,
        )
        check_target(repo_id, options, endpoint, arg.given_options(context))
        connection = arg.Connection(endpoint=endpoint, token=token, events=events, quiet=quiet)
        report = run_with_uploader(
            connection, output, lambda uploader: uploader.audit(repo_id, source, options)
        )
        if count_ignored:
            missing = tuple(sorted((*report.missing, *report.ignored)))
            report = replace(report, missing=missing, ignored=())
        if report.exact or (allow_extra and report.complete):
            output.result(report_lines(report), report_document(report))
            return
        error = CommandFailedError(
            f"{repo_id} does not hold {'all' if allow_extra else 'exactly'} these files"
        )
        output.negative(report_lines(report), report_document(report), error)
        raise typer.Exit(1)


def report_document(report: AuditReport) -> dict[str, object]:
    document = {field.name: getattr(report, field.name) for field in fields(report)}
    return document | {"complete": report.complete, "exact": report.exact}


def report_lines(report: AuditReport) -> list[str]:
    """Where, each path that is not as it should be, and the sum of it."""
    found = {
        "missing": report.missing,
        "different": report.different,
        "extra": report.extra,
    }
    lines = [f"{report.repo_url} at {report.commit_sha}"]
    lines += [f"{what:<9}  {path}" for what, paths in found.items() for path in sorted(paths)]
    counts = [f"{len(report.matching):,} equal"]
    counts += [f"{len(paths):,} {what}" for what, paths in found.items()]
    if report.ignored:
        counts.append(f"{len(report.ignored):,} ignored by a .gitignore")
    return [*lines, ", ".join(counts)]
