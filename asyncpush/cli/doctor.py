"""`asyncpush doctor`: what could stop a push, before hashing 500 GB."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from click import Context
from click.exceptions import Exit

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import argument, command, option, settings
from asyncpush.cli.output import (
    CommandFailedError,
    Output,
    beside,
    can_write,
    columns,
    terminal_columns,
)
from asyncpush.cli.push import run_with_uploader
from asyncpush.options import PushOptions

if TYPE_CHECKING:
    from asyncpush.doctor import Finding
    from asyncpush.uploader import Uploader


@command(
    argument(
        "repo_id",
        required=False,
        metavar="REPO_ID",
        help="The repo to push to: namespace/name, or an address as `push` and"
        " `sync` take"
        " (default: check everything else).",
    ),
    arg.repo_type,
    arg.revision,
    option(
        "--create-branch",
        fills="create_branch",
        section=arg.COMMIT,
        is_flag=True,
        help="The push will create that branch if it is missing.",
    ),
    arg.endpoint,
    arg.token,
    *arg.OUTPUT,
)
def doctor(context: Context, output: Output, /, *, repo_id: str | None, **_: object) -> None:
    """Check what could stop a push, and say how to fix it. It looks at the token, its rights, the
    namespace, branch, clock, proxy, certificates and disk, and changes nothing. The exit code is 0
    if a push can start, 3 if the token is the problem, else 1."""
    from asyncpush.doctor import exit_code_of

    options = settings(context, PushOptions)
    if repo_id is not None:
        arg.check_target(context, repo_id, options, buckets=True)

    async def examine(uploader: Uploader) -> tuple[str, list[Finding]]:
        return uploader.endpoint, await uploader.doctor(repo_id, options)

    connection = arg.connection(context, quiet=True)
    where, findings = run_with_uploader(connection, output, examine)
    document = {"endpoint": where, "repo_id": repo_id, "checks": findings_document(findings)}
    marks = "✓!✗" if can_write("✓✗", sys.stdout) else "+!x"
    lines = finding_lines(findings, marks=marks, width=terminal_columns(sys.stdout))
    code = exit_code_of(findings)
    if code == 0:
        output.result(lines, document)
        return
    failed = [finding for finding in findings if finding.verdict == "failed"]
    names = ", ".join(finding.name for finding in failed)
    error = CommandFailedError(f"a push would fail: {names}", suggestion=failed[0].fix)
    output.negative(lines, document, error, code=code)
    raise Exit(code)


def findings_document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {field.name: getattr(finding, field.name) for field in fields(finding)}
        for finding in findings
    ]


def finding_lines(
    findings: Sequence[Finding], *, marks: str, width: int | None = None
) -> list[str]:
    """A line for each check, and below it the fix where one is needed; wrapped where there is a
    width. `marks` stand for ok, warning and failed."""
    mark = dict(zip(("ok", "warning", "failed"), marks, strict=True))
    heads = columns([[mark[finding.verdict], finding.name, ""] for finding in findings])
    indent = max((len(head) for head in heads), default=0) + 2
    lines = []
    for head, finding in zip(heads, findings, strict=True):
        wrapped = beside(indent, finding.found, width)
        lines.append(head.ljust(indent) + wrapped[0].lstrip())
        lines += wrapped[1:]
        if finding.fix:
            lines += beside(indent, f"fix: {finding.fix}", width)
    return lines
