"""The commands and what they share: the name, the version, the way help looks."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncpush._version import __version__
from asyncpush.cli.audit import audit
from asyncpush.cli.cache import cache
from asyncpush.cli.demo import demo
from asyncpush.cli.doctor import doctor
from asyncpush.cli.hub import hub
from asyncpush.cli.many import many
from asyncpush.cli.plain import PlainCommand, PlainGroup
from asyncpush.cli.push import push
from asyncpush.cli.receipts import commit, upload
from asyncpush.cli.timeline import timeline

# Plain help: drawing it with rich costs as much as everything else that `--help` does.
app = typer.Typer(
    name="asyncpush",
    cls=PlainGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncpush {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Publish models to the Hugging Face Hub: many files, many parts, one verified commit.

    Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not
    authorised, 4 conflict, 130 interrupted (and resumable).
    """


for command in (push, many, upload, commit, audit, doctor, timeline, hub, demo):
    app.command(cls=PlainCommand)(command)
app.add_typer(cache, name="cache")


def main() -> None:
    """The entry point of the `asyncpush` script."""
    app(prog_name="asyncpush")
