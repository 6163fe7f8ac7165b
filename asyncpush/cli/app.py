"""The commands and what they share: the name, the version, the way help looks."""

from __future__ import annotations

import gc
from importlib import import_module
from typing import Annotated, Any

import typer

from asyncpush._version import __version__
from asyncpush.cli.plain import PlainCommand, PlainGroup

COMMANDS = {
    "push": "push",
    "many": "many",
    "upload": "push",
    "commit": "push",
    "audit": "audit",
    "doctor": "doctor",
    "timeline": "timeline",
    "hub": "hub",
    "demo": "demo",
    "cache": "cache",
}
"""As help lists them, and the module of each."""


class Commands(PlainGroup):
    """Commands that are imported and made when one is asked for: to make all takes 30 ms, one 5."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.add_command(_made(cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:  # what comes nearest is looked for among those that are there
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _made(name: str) -> Any:
    found = getattr(import_module(f"asyncpush.cli.{COMMANDS[name]}"), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=PlainCommand)(found)
    return typer.main.get_command(alone)


# Plain help: drawing it with rich costs as much as everything else that `--help` does.
app = typer.Typer(
    name="asyncpush",
    cls=Commands,
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


def main() -> None:
    """The entry point of the `asyncpush` script."""
    gc.set_threshold(20_000)  # imports make no garbage, pushes little: a tenth of their CPU
    app(prog_name="asyncpush")
