"""`asyncpush demo`: the main job from end to end, with nothing needed but this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.output import Output


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="FOLDER",
            help="Leave the model here (default: a temporary folder, removed in the end).",
        ),
    ] = None,
    as_json: arg.Json = False,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Show the whole job on this machine. Starts the embedded Hub, makes a small model, pushes it,
    downloads it back and compares."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.showcase import show

        show(output, keep, quiet=quiet)
