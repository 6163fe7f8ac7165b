"""`asyncpush hub`: run the embedded Hub until a signal stops it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.base import command, option
from asyncpush.cli.output import InterruptedBySignal, Output, UsageError, has_colour, paragraph

if TYPE_CHECKING:
    from asyncpush.localhub import LocalHub
    from asyncpush.localhub.blobs.s3 import S3Store


TOKEN_ENV = "ASYNCPUSH_HUB_TOKEN"


@command(
    option(
        "--root",
        type=arg.A_PATH,
        metavar="FOLDER",
        help="Where to store repos and objects (default: `hub` in the cache directory, which"
        " --endpoint local uses too).",
    ),
    option(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Address to listen on; any but a loopback address needs --token.",
    ),
    option(
        "--port",
        type=int,
        default=0,
        metavar="N",
        show_default=False,
        help="Port to listen on, up to 65535 (default: 0, a free one).",
    ),
    option(
        "--token",
        multiple=True,
        metavar="[NAME=]TOKEN",
        help="Accept this token, as that of the user `local` or of NAME; may be repeated. Other"
        f" users can see it in the process list: set {TOKEN_ENV} instead, with spaces between"
        " several tokens (default: that variable, else accept any token).",
    ),
    option(
        "--s3-endpoint",
        metavar="URL",
        help="Store objects on this S3-compatible server, with the keys in AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY (default: AWS, when --s3-bucket is given).",
    ),
    option(
        "--s3-bucket",
        metavar="NAME",
        help="Store objects in this bucket (default: on disk, under --root).",
    ),
    option(
        "--no-xet",
        is_flag=True,
        help="Offer no Xet uploads (with --s3-bucket there are none anyway).",
    ),
    option(
        "--fault",
        multiple=True,
        metavar="ROUTE=ACTION[:WHICH]",
        help="Make requests fail, to test a client: commit=504-after:3 loses the answer to the"
        " third commit, part=503:5% refuses 5 % of the parts; may be repeated."
        " asyncpush/localhub/README.md lists routes and actions.",
    ),
    option("--log-json", is_flag=True, help="Log each request to stderr as a JSON object."),
    arg.as_json,
    arg.quiet,
    option(
        "--verbose",
        section=arg.OUTPUT_SECTION,
        is_flag=True,
        help="Log each request to stderr; print errors with traceback.",
    ),
)
def hub(
    context: Context,
    output: Output,
    /,
    *,
    root: Path | None,
    host: str,
    port: int,
    token: Sequence[str],
    s3_endpoint: str | None,
    s3_bucket: str | None,
    no_xet: bool,
    fault: Sequence[str],
    log_json: bool,
) -> None:
    """Run the embedded Hub until Ctrl-C. Its URL is the first line on stdout."""
    from asyncpush.cli.running import run
    from asyncpush.options import default_cache_dir

    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 to 65535, not {port}")
    if output.verbose or log_json:
        _log(as_json=log_json)
    if token:
        arg.warn_of_token(TOKEN_ENV)
    one, users = _tokens(token or os.environ.get(TOKEN_ENV, "").split())
    folder = root or default_cache_dir() / "hub"
    store = _store(folder, s3_endpoint, s3_bucket)
    xet = False if no_xet else None
    where = {"host": host, "port": port, "store": store, "xet": xet}
    server = _server(folder, fault, token=one, users=users, **where)
    with suppress(InterruptedBySignal):  # the usual way to stop it is no failure
        run(partial(_serve, server, output))


def _log(*, as_json: bool) -> None:
    """Log requests to stderr."""
    from asyncpush.localhub.web import JsonLines, TextLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines(colour=has_colour(sys.stderr)))
    logger = logging.getLogger("asyncpush")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _tokens(given: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The local user's token, and those of named users by name."""
    one, users = None, {}
    for text in given:
        name, _, token = text.partition("=")
        if name and token.strip("="):
            if name in users:
                raise UsageError(f"--token: there are two tokens for {name}")
            users[name] = token
        elif one is None:
            one = text
        else:
            raise UsageError(
                "--token: only one token may be without a name; write the others as NAME=TOKEN"
            )
    return one, users


def _server(folder: Path, wanted: Sequence[str], **settings: Any) -> LocalHub:
    from asyncpush.localhub import Fault, LocalHub
    from asyncpush.localhub.faults import Faults
    from asyncpush.localhub.server import ROUTE_NAMES

    try:
        faults = [Fault.parse(text) for text in wanted]
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
        document = {"url": server.url, "root": str(server.root), "any_token": server.is_open}
        output.result([server.url], document, done="the Hub is running")
        output.note(*_startup_lines(server))
        await Event().wait()


def _store(folder: Path, endpoint: str | None, bucket: str | None) -> S3Store | None:
    """The S3 store of objects, or None for the disk."""
    if bucket is None:
        if endpoint is not None:
            raise UsageError("--s3-endpoint needs --s3-bucket")
        return None
    from asyncpush.localhub.blobs import Signer
    from asyncpush.localhub.blobs.s3 import S3Store

    # The hub signs completion URLs with this secret; stored, they stay valid after a restart.
    return S3Store(endpoint, bucket, signer=Signer.load(folder / "lfs" / "secret"))


def _startup_lines(server: LocalHub) -> list[str]:
    token, whose = ("any", "any token") if server.is_open else ("...", "the given tokens")
    kept = f"the embedded Hub, stored in {server.root}: any namespace, {whose}"
    return [
        *paragraph(kept, sys.stderr),
        f"  use it   export HF_ENDPOINT={server.url} HF_TOKEN={token}",
        "  stop it  Ctrl-C",
    ]
