"""`asyncpush audit`: local files against the repo, by size and checksum."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from click import Context
from click.exceptions import Exit

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import command, option, settings
from asyncpush.cli.output import CommandFailedError, Output, UsageError
from asyncpush.cli.push import run_with_uploader
from asyncpush.options import PushOptions
from asyncpush.protocol.addresses import is_address

if TYPE_CHECKING:
    from asyncpush.models import AuditReport


@command(
    arg.repo_id,
    arg.source,
    arg.repo_type,
    option(
        "--revision",
        fills="revision",
        section=arg.COMMIT,
        default="main",
        metavar="REVISION",
        help="Branch, tag or commit to compare with.",
    ),
    *arg.SELECTION,
    arg.max_shard_size,
    option(
        "--allow-extra",
        section=arg.FILES,
        is_flag=True,
        help="Accept files that only the repo has.",
    ),
    option(
        "--all",
        "count_ignored",
        section=arg.FILES,
        is_flag=True,
        help="Count files that a .gitignore excludes as missing.",
    ),
    arg.endpoint,
    arg.token,
    arg.events,
    *arg.OUTPUT,
)
def audit(
    context: Context,
    output: Output,
    /,
    *,
    repo_id: str,
    source: str,
    allow_extra: bool,
    count_ignored: bool,
    **_: object,
) -> None:
    """Compare local files with a repo or a bucket by checksum. Nothing is downloaded. The exit code
    is 0 only if it has exactly these files."""
    arg.check_order(repo_id, source)
    if is_address(source) and not os.path.exists(source):
        raise UsageError(
            f"audit compares local files with the Hub, and SOURCE is on the Hub: {source}",
            suggestion="give a local folder or file as SOURCE",
        )
    options = settings(context, PushOptions)
    arg.check_target(context, repo_id, options, buckets=True)
    connection = arg.connection(context, quiet=output.quiet)
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
    raise Exit(1)


def report_document(report: AuditReport) -> dict[str, object]:
    document = {field.name: getattr(report, field.name) for field in fields(report)}
    return document | {"complete": report.complete, "exact": report.exact}


def report_lines(report: AuditReport) -> list[str]:
    """The URL, each path that differs, and the counts."""
    found = {
        "missing": report.missing,
        "different": report.different,
        "extra": report.extra,
    }
    at = f" at {report.commit_sha}" if report.commit_sha else ""  # a bucket has no commits
    lines = [f"{report.repo_url}{at}"]
    lines += [f"{what:<9}  {path}" for what, paths in found.items() for path in sorted(paths)]
    counts = [f"{len(report.matching):,} equal"]
    counts += [f"{len(paths):,} {what}" for what, paths in found.items()]
    if report.ignored:
        counts.append(f"{len(report.ignored):,} ignored by a .gitignore")
    return [*lines, ", ".join(counts)]
