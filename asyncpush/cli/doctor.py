"""`asyncpush doctor`: what could stop a push, before hashing 500 GB."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.failures import CommandFailedError
from asyncpush.cli.output import Output, can_write, columns, terminal_columns

if TYPE_CHECKING:
    from asyncpush.doctor import Finding
    from asyncpush.uploader import Uploader


def doctor(
    context: typer.Context,
    repo_id: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO_ID",
            help="The repo that is to be pushed to: namespace/name, or an address as `push` takes"
            " (default: look at the rest).",
            show_default=False,
        ),
    ] = None,
    repo_type: arg.RepoTypeOption = "model",
    revision: arg.Revision = "main",
    create_branch: Annotated[
        bool,
        typer.Option(
            "--create-branch",
            help="The push will make that branch if need be.",
            rich_help_panel=arg.COMMIT,
        ),
    ] = False,
    endpoint: arg.Endpoint = None,
    token: arg.Token = None,
    as_json: arg.Json = False,
    verbose: arg.Verbose = False,
) -> None:
    """Look for what could stop a push, and how to fix it. Token, rights, namespace, branch, clock,
    proxy, certificates, disk; nothing is changed. Exit code 0 if nothing is in the way, 3 if the
    token is, else 1."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.arguments import check_target, checked
        from asyncpush.cli.push import run_with_uploader
        from asyncpush.doctor import exit_code_of
        from asyncpush.options import PushOptions

        options = checked(
            PushOptions, repo_type=repo_type, revision=revision, create_branch=create_branch
        )
        if repo_id is not None:
            check_target(repo_id, options, endpoint, arg.given_options(context))
        connection = arg.Connection(endpoint=endpoint, token=token, quiet=True)

        async def examine(uploader: Uploader) -> tuple[str, list[Finding]]:
            return uploader.endpoint, await uploader.doctor(repo_id, options)

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
        raise typer.Exit(code)


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
        told = _beside(indent, finding.found, width)
        lines.append(head.ljust(indent) + told[0].lstrip())
        lines += told[1:]
        if finding.fix:
            lines += _beside(indent, f"fix: {finding.fix}", width)
    return lines


def _beside(indent: int, text: str, width: int | None) -> list[str]:
    if width is None:
        return [" " * indent + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
