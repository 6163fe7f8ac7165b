"""`asyncpush hub`: the embedded Hub, until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncpush.cli import arguments as arg
from asyncpush.cli.failures import InterruptedBySignal, UsageError
from asyncpush.cli.output import Output, has_colour, paragraph

if TYPE_CHECKING:
    from asyncpush.localhub import LocalHub
    from asyncpush.localhub.blobs.s3 import S3Store


TOKEN_ENV = "ASYNCPUSH_HUB_TOKEN"


def hub(
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="Where repos and objects lie (default: `hub` in the cache directory, which is what"
            " --endpoint local means).",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="Address to listen on; beyond loopback with --token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", help="Port to listen on, to 65535; 0: a free one."),
    ] = 0,
    token: Annotated[
        list[str] | None,
        typer.Option(
            "--token",
            metavar="[NAME=]TOKEN",
            help="A token to accept, of the user `local` or of NAME; may be given again. Others can"
            f" see it in the process list, so rather set {TOKEN_ENV}, with spaces between several"
            " (default: that, else any will do).",
        ),
    ] = None,
    s3_endpoint: Annotated[
        str | None,
        typer.Option(
            "--s3-endpoint",
            metavar="URL",
            help="Keep objects on this S3-compatible server, with the keys in AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY (default: AWS itself, when there is a bucket).",
        ),
    ] = None,
    s3_bucket: Annotated[
        str | None,
        typer.Option(
            "--s3-bucket",
            metavar="NAME",
            help="Keep objects in this bucket (default: on disk, under --root).",
        ),
    ] = None,
    no_xet: Annotated[
        bool,
        typer.Option(
            "--no-xet", help="Grant no Xet tokens (with --s3-bucket none are granted anyway)."
        ),
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="ROUTE=ACTION[:WHICH]",
            help="Make requests fail, to see what a client does then: commit=504-after:3 loses the"
            " answer of the third commit, part=503:5% refuses a part in twenty; may be given again."
            " The README names routes and actions.",
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="Log each request to stderr, and failures with their tracebacks."
        ),
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log each request to stderr as a JSON object.")
    ] = False,
) -> None:
    """Run the embedded Hub, until Ctrl-C. Its URL is the first line on stdout."""
    output = Output(verbose=verbose)
    with output.failures():
        from asyncpush.cli.running import run
        from asyncpush.options import default_cache_dir

        if not 0 <= port <= 65535:
            raise UsageError(f"--port must be from 0 to 65535, not {port}")
        if verbose or log_json:
            _log(as_json=log_json)
        if token:
            arg.warn_of_token(TOKEN_ENV)
        one, users = _tokens(token or os.environ.get(TOKEN_ENV, "").split())
        folder = root or default_cache_dir() / "hub"
        store = _store(folder, s3_endpoint, s3_bucket)
        xet = False if no_xet else None
        where = {"host": host, "port": port, "store": store, "xet": xet}
        server = _server(folder, fault or [], token=one, users=users, **where)
        with suppress(InterruptedBySignal):  # as it is meant to end
            run(partial(_serve, server, output))


def _log(*, as_json: bool) -> None:
    """What the hub tells, on stderr."""
    from asyncpush.localhub.auth import JsonLines, TextLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines(colour=has_colour(sys.stderr)))
    logger = logging.getLogger("asyncpush")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _tokens(given: list[str]) -> tuple[str | None, dict[str, str]]:
    """The local user's token, and those of named users by name."""
    one, users = None, {}
    for text in given:
        name, _, token = text.partition("=")
        if name and token.strip("="):
            if name in users:
                raise UsageError(f"--token: {name} is given two tokens")
            users[name] = token
        elif one is None:
            one = text
        else:
            raise UsageError("--token: name the users of all tokens but one, as in NAME=TOKEN")
    return one, users


def _server(folder: Path, bad_days: list[str], **settings: Any) -> LocalHub:
    from asyncpush.localhub import Fault, LocalHub
    from asyncpush.localhub.app import ROUTE_NAMES
    from asyncpush.localhub.faults import Faults

    try:
        faults = [Fault.parse(text) for text in bad_days]
        Faults.of(faults, ROUTE_NAMES)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from error
    try:
        return LocalHub(folder, faults=faults, **settings)
    except ValueError as error:
        raise UsageError(f"--host, --token: {error}") from error


async def _serve(server: LocalHub, output: Output) -> None:
    from asyncio import Event

    async with server:
        output.result([server.url], {})
        output.note(*_welcome(server))
        await Event().wait()


def _store(folder: Path, endpoint: str | None, bucket: str | None) -> S3Store | None:
    """Where objects lie, when that is not the hub's own disk."""
    if bucket is None:
        if endpoint is not None:
            raise UsageError("--s3-endpoint goes with --s3-bucket")
        return None
    from asyncpush.localhub.blobs.s3 import S3Store
    from asyncpush.localhub.blobs.signing import Signer

    # Completions lead to the hub, whose secret signs them: kept, they outlive a restart.
    return S3Store(endpoint, bucket, signer=Signer.load(folder / "lfs" / "secret"))


def _welcome(server: LocalHub) -> list[str]:
    token, whose = ("any", "any token") if server.is_open else ("...", "the given tokens")
    kept = f"the embedded Hub, kept in {server.root}: any namespace, {whose}"
    return [
        *paragraph(kept, sys.stderr),
        f"  use it   export HF_ENDPOINT={server.url} HF_TOKEN={token}",
        "  stop it  Ctrl-C",
    ]
