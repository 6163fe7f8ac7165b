"""Options that commands share, and the checks of their values and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from asyncpush.cli.failures import UsageError
from asyncpush.errors import InvalidRepoIdError
from asyncpush.models import check_repo_id
from asyncpush.options import (
    LOCAL,
    MAX_CONCURRENT_PARTS,
    PUBLIC_ENDPOINT,
    PushOptions,
    RepoType,
    TransferChoice,
    Visibility,
    endpoint_in_use,
)
from asyncpush.protocol import urls
from asyncpush.protocol.addresses import is_address, is_web_url, parse_address, target_of

COMMIT, FILES, HUB, TOLD = "The commit", "The files", "The Hub", "Output"
"""Sections of a command's help."""


def warn_of_token(instead: str) -> None:
    typer.echo(
        f"warning: --token can be seen in the process list (ps): set {instead} instead", err=True
    )


def _warn_of_token(token: str | None) -> str | None:
    if token is not None:
        warn_of_token("HF_TOKEN")
    return token


RepoId = Annotated[
    str,
    typer.Argument(
        metavar="REPO_ID",
        help="The repo: namespace/name, hf://datasets/namespace/name@revision/path, or its URL."
        " What an address says need not be said by options.",
        show_default=False,
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder (its contents land under --path-in-repo) or a file.",
        show_default=False,
    ),
]
RepoTypeOption = Annotated[
    RepoType,
    typer.Option(
        "--repo-type",
        metavar="KIND",
        help="model, dataset, space or kernel.",
        rich_help_panel=COMMIT,
    ),
]
Private = Annotated[
    bool,
    typer.Option(
        "--private",
        help="Make a repo that is created private (default: the Hub's choice).",
        rich_help_panel=COMMIT,
    ),
]
VisibilityOption = Annotated[
    Visibility | None,
    typer.Option(
        "--visibility",
        metavar="KIND",
        help="public, private or, for a Space, protected: of a repo that is created.",
        show_default=False,
        rich_help_panel=COMMIT,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="REGION",
        help="Where a repo that is created is stored, such as us or eu.",
        show_default=False,
        rich_help_panel=COMMIT,
    ),
]
ResourceGroup = Annotated[
    str | None,
    typer.Option(
        "--resource-group",
        metavar="ID",
        help="The organisation's resource group of a repo that is created.",
        show_default=False,
        rich_help_panel=COMMIT,
    ),
]
Revision = Annotated[
    str,
    typer.Option(
        "--revision", metavar="BRANCH", help="Branch to commit to.", rich_help_panel=COMMIT
    ),
]
CreateBranch = Annotated[
    bool,
    typer.Option(
        "--create-branch",
        help="Make that branch when it is missing, from the default branch.",
        rich_help_panel=COMMIT,
    ),
]
Message = Annotated[
    str | None,
    typer.Option(
        "--message",
        metavar="TEXT",
        help="First line of the commit message (default: names what is pushed).",
        rich_help_panel=COMMIT,
    ),
]
Description = Annotated[
    str,
    typer.Option(
        "--description",
        metavar="TEXT",
        help="The rest of the commit message (default: none).",
        show_default=False,
        rich_help_panel=COMMIT,
    ),
]
CreatePr = Annotated[
    bool,
    typer.Option(
        "--create-pr",
        help="Open a pull request instead of committing to the branch.",
        rich_help_panel=COMMIT,
    ),
]
PathInRepo = Annotated[
    str,
    typer.Option(
        "--path-in-repo",
        metavar="PATH",
        help="Folder of the repo that SOURCE lands in, or the name of a single file"
        " (default: the top).",
        show_default=False,
        rich_help_panel=FILES,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATTERN",
        help="Only files that match, such as '*.safetensors'; may be repeated (default: all).",
        rich_help_panel=FILES,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="No files that match, such as 'logs/*'; may be repeated (default: none).",
        rich_help_panel=FILES,
    ),
]
Delete = Annotated[
    list[str] | None,
    typer.Option(
        "--delete",
        metavar="PATTERN",
        help="Delete remote files that match and are not in SOURCE, in the same commit;"
        " may be repeated (default: none).",
        rich_help_panel=FILES,
    ),
]
ModelCard = Annotated[
    str | None,
    typer.Option(
        "--model-card",
        metavar="CARD",
        help="A file or text to be README.md, in the same commit (default: SOURCE's own).",
        rich_help_panel=FILES,
    ),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(
        "--max-shard-size",
        metavar="SIZE",
        help="Split safetensors files larger than this, such as 4GB, into shards and an index"
        " (default: leave them whole).",
        rich_help_panel=FILES,
    ),
]
TransferOption = Annotated[
    TransferChoice,
    typer.Option(
        "--transfer",
        metavar="HOW",
        help="How large files are stored: lfs, xet, or auto (xet where the Hub offers it).",
        rich_help_panel=HUB,
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Do not look at every file through the Hub's API after the commit.",
        rich_help_panel=COMMIT,
    ),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        help="Hash every file anew instead of trusting hashes that are remembered for files whose"
        " size and times have not changed.",
        rich_help_panel=FILES,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse files that look as if they held credentials (.env, keys, tokens), before"
        " anything is sent; without it they are warned of.",
        rich_help_panel=FILES,
    ),
]
MaxParts = Annotated[
    int,
    typer.Option(
        "--max-parts",
        metavar="N",
        help="Parts in flight at once, over all files.",
        rich_help_panel=HUB,
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL|local",
        help="The Hub; 'local' is the embedded one, kept under the cache directory"
        " (default: HF_ENDPOINT, else https://huggingface.co).",
        rich_help_panel=HUB,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        callback=_warn_of_token,
        help="Write token; others can see it in the process list: set HF_TOKEN instead"
        " (default: HF_TOKEN, else what `hf auth login` stored).",
        rich_help_panel=HUB,
    ),
]
Events = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="FILE",
        help="Append every event to this file, one JSON object a line (default: none).",
        rich_help_panel=TOLD,
    ),
]
TimelineFile = Annotated[
    Path | None,
    typer.Option(
        "--timeline",
        metavar="FILE.svg",
        help="Draw what went on when, also of a push that fails: a picture (needs asyncpush[viz]),"
        " or with FILE.json a trace for Perfetto (default: none).",
        rich_help_panel=TOLD,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result, or the failure, as one JSON object.", rich_help_panel=TOLD
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Draw no progress bars.", rich_help_panel=TOLD)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Log requests and answers to stderr, secrets redacted; failures with traceback.",
        rich_help_panel=TOLD,
    ),
]


def given_options(context: typer.Context) -> set[str]:
    """The parameters that stand on the command line, whatever their values are."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which Hub, as whom, and how it is talked to and listened to."""

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    transfer: TransferChoice = "auto"
    max_parts: int = MAX_CONCURRENT_PARTS
    rehash: bool = False
    events: Path | None = None
    timeline: Path | None = None
    quiet: bool = False


T = TypeVar("T")

_FLAGS = {
    "max_concurrent_parts": "--max-parts",
    "commit_message": "--message",
    "commit_description": "--description",
    "allow_patterns": "--include",
    "ignore_patterns": "--exclude",
    "delete_patterns": "--delete",
}
"""Settings whose flags have another name."""


def checked(kind: Callable[..., T], **values: object) -> T:
    """Settings from flags; a bad value is a usage error that names its flag."""
    try:
        return kind(**values)
    except ValueError as error:
        name, _, complaint = str(error).partition(" ")
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{flag} {complaint}") from error


def hub_endpoint(given: str | None) -> str:
    """The endpoint that an `Uploader` takes. Raises `UsageError` when it is none."""
    endpoint = endpoint_in_use(given)
    if endpoint == LOCAL:
        return LOCAL
    try:
        return urls.check_endpoint(endpoint)
    except ValueError as error:
        raise UsageError(f"{'--endpoint' if given else 'HF_ENDPOINT'}: {error}") from error


def check_records(connection: Connection) -> None:
    """What `--timeline` and `--events` ask for can be had: said now, not after the upload. Raises
    `UsageError`, and `ImportError` naming the extra."""
    if connection.timeline is not None:
        _check_timeline(connection.timeline)
    if connection.events is not None:
        check_file("--events", connection.events)


def _check_timeline(path: Path) -> None:
    from asyncpush.listeners.timeline.recording import check_target

    try:
        check_target(path)
    except ValueError as error:
        raise UsageError(f"--timeline: {error}") from error
    check_file("--timeline", path)


def check_file(flag: str, path: Path) -> None:
    """A file can be written there. Raises `UsageError`."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{flag} must name a file in a folder that exists: {path}")


def check_target(
    repo_id: str, options: PushOptions, endpoint: str | None, given: Collection[str]
) -> None:
    """The repo id or address is fit to be one, and contradicts none of the flags that were
    `given`. Raises `InvalidRepoIdError` and `UsageError`."""
    where = hub_endpoint(endpoint)
    if where == LOCAL:
        if is_web_url(repo_id):
            return  # what its address is shows when it has been started
        where = PUBLIC_ENDPOINT
    try:
        target_of(repo_id, options, where, given=given)
    except InvalidRepoIdError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_order(repo_id: str, source: str) -> None:
    """The two are easily swapped, and each complaint of what comes of it would lead astray."""
    if os.path.exists(source) or not os.path.exists(repo_id):
        return
    with suppress(InvalidRepoIdError):
        parse_address(source) if is_address(source) else check_repo_id(source)
        raise UsageError(
            f"REPO_ID and SOURCE look swapped: {repo_id!r} is here, {source!r} is not",
            suggestion=f"name the repo first: {source} {repo_id}",
        )


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, to the disk: a power cut does not take it away again."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # whoever wrote last was cut short
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
