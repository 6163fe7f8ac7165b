"""`asyncpush many`: a manifest of pushes, one session, one summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.output import Output
from asyncpush.options import MAX_CONCURRENT_PARTS


def many(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="TOML ([[push]] tables with repo_id, source and options, [defaults] for all) or"
            " JSON lines. Paths are relative to it.",
            show_default=False,
        ),
    ],
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Leave out what MANIFEST.state.jsonl says is done; without it all is pushed.",
        ),
    ] = False,
    transfer: arg.TransferOption = "auto",
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
    """Do all pushes of a manifest. Each goes to its end, whatever becomes of the others."""
    output = Output(as_json=as_json, verbose=verbose)
    with output.failures():
        from asyncpush.cli.batch import push_manifest

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
        push_manifest(output, manifest, connection, go_on=go_on, strict=strict)
