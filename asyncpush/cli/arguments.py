"""Options that commands share, and the checks of their values and files.

An option of the command line that fills a setting is written here, once: `fills` names the field of
`PushOptions`, `UploadConfig` or `SyncOptions`, and every command that lists the option takes it.
"""

from __future__ import annotations

import operator
import os
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, get_args

import click

from asyncpush.cli.base import argument, filled, given_options, option
from asyncpush.cli.output import UsageError
from asyncpush.errors import InvalidRepoIdError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import check_repo_id
from asyncpush.options import (
    LOCAL,
    MAX_CONCURRENT_PARTS,
    PUBLIC_ENDPOINT,
    OnChange,
    PushOptions,
    RepoType,
    TransferChoice,
    UploadConfig,
    Visibility,
    endpoint_in_use,
)
from asyncpush.protocol import urls
from asyncpush.protocol.addresses import (
    any_target_of,
    is_address,
    is_web_url,
    names_bucket,
    parse_address,
    source_of,
    target_of,
)

COMMIT, FILES, HUB, OUTPUT_SECTION = "The commit", "The files", "The Hub", "Output"
"""Sections of a command's help."""


class _NonEmptyPath(click.Path):
    """A path that is not empty: an unset variable gives an empty one, which would mean the current
    folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty path names no file or folder", param, ctx)
        return super().convert(value, param, ctx)


A_PATH = _NonEmptyPath(path_type=Path)
A_SOURCE = _NonEmptyPath()


def warn_of_token(instead: str) -> None:
    click.echo(
        f"warning: other users can see --token in the process list (ps): set {instead} instead",
        err=True,
    )


def _warn_of_token(context: click.Context, param: click.Parameter, token: Any) -> Any:
    if token is not None:
        warn_of_token("HF_TOKEN")
    return token


def _given(value: Any) -> Any:
    """None for a flag or list that was not given."""
    return value or None


def _without_slash(path: str) -> str:
    """`/train` is `train`, as for the official client."""
    return path.removeprefix("/")


repo_id = argument(
    "repo_id",
    metavar="REPO_ID",
    help="The repo: namespace/name, hf://datasets/namespace/name@revision/path, or the URL of its"
    " page. An address may replace --repo-type, --revision and --path-in-repo.",
)
source = argument(
    "source",
    type=A_SOURCE,  # a path, so that shells complete it
    metavar="SOURCE",
    help="A folder (its contents go to --path-in-repo) or a file.",
)
repo_type = option(
    "--repo-type",
    "--type",
    "repo_type",
    fills="repo_type",
    section=COMMIT,
    type=click.Choice(get_args(RepoType)),
    default="model",
    metavar="TYPE",
    help="model, dataset, space or kernel.",
)
private = option(
    "--private",
    fills="private",
    convert=_given,
    section=COMMIT,
    is_flag=True,
    help="Make the repo private, if it is created (default: as the Hub decides).",
)
visibility = option(
    "--visibility",
    fills="visibility",
    section=COMMIT,
    type=click.Choice(get_args(Visibility)),
    metavar="KIND",
    help="public, private or, for a Space, protected: for a repo that is created.",
)
region = option(
    "--region",
    fills="region",
    section=COMMIT,
    metavar="REGION",
    help="Where to store a repo that is created, such as us or eu.",
)
resource_group = option(
    "--resource-group",
    fills="resource_group",
    section=COMMIT,
    metavar="ID",
    help="Resource group of the organisation, for a repo that is created.",
)
revision = option(
    "--revision",
    fills="revision",
    section=COMMIT,
    default="main",
    metavar="BRANCH",
    help="Branch to commit to.",
)
create_branch = option(
    "--create-branch",
    fills="create_branch",
    section=COMMIT,
    is_flag=True,
    help="Create that branch from the default branch, if it is missing.",
)
message = option(
    "--message",
    "--commit-message",
    fills="commit_message",
    section=COMMIT,
    metavar="TEXT",
    help="First line of the commit message (default: names what is pushed).",
)
description = option(
    "--description",
    "--commit-description",
    fills="commit_description",
    section=COMMIT,
    default="",
    metavar="TEXT",
    help="The rest of the commit message (default: none).",
)
create_pr = option(
    "--create-pr",
    fills="create_pr",
    section=COMMIT,
    is_flag=True,
    help="Open a pull request instead of committing to the branch.",
)
no_verify = option(
    "--no-verify",
    fills="verify",
    convert=operator.not_,
    section=COMMIT,
    is_flag=True,
    help="Do not check every file through the Hub's API after the commit.",
)
dry_run = option(
    "--dry-run",
    fills="dry_run",
    section=COMMIT,
    is_flag=True,
    help="Print what would be uploaded and how; change nothing.",
)
target = argument(
    "target",
    required=False,
    metavar="PATH_IN_REPO",
    fills="path_in_repo",
    convert=_without_slash,
    help="Where in the repo, as with --path-in-repo.",
)
path_in_repo = option(
    "--path-in-repo",
    fills="path_in_repo",
    convert=_without_slash,
    section=FILES,
    default="",
    metavar="PATH",
    help="Folder of the repo to upload to, or the name of a single file (default: the top).",
)
include = option(
    "--include",
    fills="allow_patterns",
    convert=_given,
    section=FILES,
    multiple=True,
    metavar="PATTERN",
    help="Only files that match, such as '*.safetensors'; may be repeated (default: all).",
)
exclude = option(
    "--exclude",
    fills="ignore_patterns",
    convert=_given,
    section=FILES,
    multiple=True,
    metavar="PATTERN",
    help="No files that match, such as 'logs/*'; may be repeated (default: none).",
)
delete = option(
    "--delete",
    fills="delete_patterns",
    convert=_given,
    section=FILES,
    multiple=True,
    metavar="PATTERN",
    help="Delete remote files that match and are not in SOURCE, in the same commit;"
    " may be repeated (default: none).",
)
model_card = option(
    "--model-card",
    fills="model_card",
    section=FILES,
    metavar="CARD",
    help="A file or text to commit as README.md (default: the README.md in SOURCE).",
)
max_shard_size = option(
    "--max-shard-size",
    fills="max_shard_size",
    section=FILES,
    metavar="SIZE",
    help="Split safetensors files larger than this, such as 4GB, into shards and an index"
    " (default: do not split).",
)
on_change = option(
    "--on-change",
    fills="on_change",
    section=FILES,
    type=click.Choice(get_args(OnChange)),
    default="follow",
    metavar="HOW",
    help="What to do when a file changes during the push: follow (a growing log is stored as it was"
    " at one moment, a small file is read again) or error.",
)
rehash = option(
    "--rehash",
    fills="trust_mtime",
    convert=operator.not_,
    section=FILES,
    is_flag=True,
    help="Hash every file again, instead of trusting the stored hashes of files whose size and"
    " times have not changed.",
)
strict = option(
    "--strict",
    fills="strict",
    section=FILES,
    is_flag=True,
    help="Refuse files that look as if they contain credentials (.env, keys, tokens), before"
    " anything is sent. Without it there is a warning.",
)
transfer = option(
    "--transfer",
    fills="transfer",
    section=HUB,
    type=click.Choice(get_args(TransferChoice)),
    default="auto",
    metavar="HOW",
    help="How to store large files: lfs, xet, or auto (xet where the Hub offers it).",
)
max_parts = option(
    "--max-parts",
    fills="max_concurrent_parts",
    section=HUB,
    type=int,
    default=MAX_CONCURRENT_PARTS,
    metavar="N",
    help="Parts in flight at once, over all files.",
)
endpoint = option(
    "--endpoint",
    section=HUB,
    metavar="URL|local",
    help="The Hub; 'local' is the embedded one, stored in the cache directory"
    f" (default: HF_ENDPOINT, else {PUBLIC_ENDPOINT}).",
)
token = option(
    "--token",
    section=HUB,
    callback=_warn_of_token,
    metavar="TOKEN",
    help="Write token. Other users can see it in the process list: set HF_TOKEN instead"
    " (default: HF_TOKEN, else what `hf auth login` stored).",
)
events = option(
    "--events",
    section=OUTPUT_SECTION,
    type=A_PATH,
    metavar="FILE",
    help="Append every event to this file, one JSON object a line (default: none).",
)
timeline = option(
    "--timeline",
    section=OUTPUT_SECTION,
    type=A_PATH,
    metavar="FILE.svg",
    help="Draw when each step took place, even if the push fails: as a picture (needs"
    " asyncpush[viz]) or, with FILE.json, as a Perfetto trace (default: none).",
)
as_json = option(
    "--json",
    "as_json",
    section=OUTPUT_SECTION,
    is_flag=True,
    help="Print the result or the error as one JSON object.",
)
quiet = option(
    "-q",
    "--quiet",
    section=OUTPUT_SECTION,
    is_flag=True,
    help="Print only the result, warnings and errors: no progress bars, no notes.",
)
verbose = option(
    "-v",
    "--verbose",
    section=OUTPUT_SECTION,
    is_flag=True,
    help="Log requests and answers to stderr, without secrets; print errors with traceback.",
)

NEW_REPO = (private, visibility, region, resource_group)
"""Settings for a repo that the push creates."""

SELECTION = (path_in_repo, include, exclude)
"""Which files, and where they go."""

ENGINE = (transfer, rehash, max_parts)
"""How bytes are moved: fields of `UploadConfig`."""

RECORDS = (events, timeline)
"""Files that record what happened."""

OUTPUT = (as_json, quiet, verbose)
"""Options of every command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which Hub, with which token, and how to upload and report. `config` are fields of
    `UploadConfig`; `quiet` means no progress bars."""

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict)
    events: Path | None = None
    timeline: Path | None = None
    quiet: bool = False


def connection(context: click.Context, *, quiet: bool) -> Connection:
    """The connection that this command's options describe."""
    named = {name: context.params.get(name) for name in ("endpoint", "token", "events", "timeline")}
    return Connection(config=filled(context, UploadConfig), quiet=quiet, **named)


def hub_endpoint(given: str | None) -> str:
    """The endpoint for an `Uploader`. Raises `UsageError` if it is not valid."""
    endpoint = endpoint_in_use(given)
    if endpoint == LOCAL:
        return LOCAL
    try:
        return urls.check_endpoint(endpoint)
    except ValueError as error:
        raise UsageError(f"{'--endpoint' if given else 'HF_ENDPOINT'}: {error}") from error


def check_records(connection: Connection) -> None:
    """Check before the upload that `--timeline` and `--events` can be written. Raises `UsageError`,
    and `ImportError` naming the extra."""
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
    """Check that a file can be written there. Raises `UsageError`."""
    try:
        usable = not path.is_dir() and path.absolute().parent.is_dir()
    except FileNotFoundError:  # the current folder has been deleted
        usable = False
    if not usable:
        raise UsageError(f"{flag} must be a file in a folder that exists: {path}")


def check_target(
    context: click.Context, repo_id: str, options: PushOptions, *, buckets: bool = False
) -> None:
    """Check that the repo id or address is valid and contradicts none of the options given. With
    `buckets` it may be a bucket's.

    Raises `InvalidRepoIdError` and `UsageError`.
    """
    endpoint: str | None = context.params.get("endpoint")
    given: Collection[str] = given_options(context)
    where = hub_endpoint(endpoint)
    if where == LOCAL:
        if is_web_url(repo_id):
            return  # the embedded Hub has a URL only once it runs
        where = PUBLIC_ENDPOINT
    try:
        (any_target_of if buckets else target_of)(repo_id, options, where, given=given)
    except InvalidRepoIdError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_order(repo_id: str, source: str) -> None:
    """Detect that the repo and the source are swapped, since later errors would be misleading.
    Raises `UsageError`."""
    if os.path.exists(source) or not os.path.exists(repo_id):
        return
    with suppress(InvalidRepoIdError):
        parse_address(source) if is_address(source) else check_repo_id(source)
        raise UsageError(
            f"REPO_ID and SOURCE look swapped: {repo_id!r} is a local path, {source!r} is not",
            suggestion=f"give the repo first: {source} {repo_id}",
        )


def check_direction(source: str, target: str, *, upload: str) -> None:
    """Detect a source that is on the Hub: a download or a copy is wanted. `upload` is the command
    that uploads to `target`. Raises `UsageError`."""
    if not is_address(source) or os.path.exists(source):
        return
    to_hub = is_address(target) or ("/" in target and not _looks_local(target))
    instead = (
        f"to copy it on the Hub: {_command('asyncpush', 'copy', source, target)}"
        if to_hub
        else f"to download it: {_download(source, target)}; to upload {target}: {upload}"
    )
    raise UsageError(
        f"this command uploads, and its source is on the Hub: {source}", suggestion=instead
    )


def check_copied_on_hub(source: str, destination: str) -> None:
    """Detect a copy from or to this machine. Raises `UsageError`."""
    if not _looks_local(source) and (_looks_local(destination) or "/" not in destination):
        raise UsageError(
            f"copy stays on the Hub, and DST is a local path: {destination}",
            suggestion=f"to download: {_download(source, destination)}",
        )
    if _looks_local(source) and not _looks_local(destination):
        bucket = names_bucket(destination)
        words = ("sync", source, destination) if bucket else ("push", destination, source)
        raise UsageError(
            f"copy stays on the Hub, and SRC is a local path: {source}",
            suggestion=f"to upload: {_command('asyncpush', *words)}",
        )


def _looks_local(text: str) -> bool:
    """Whether this can only be meant as a path on this machine."""
    if is_address(text):
        return False
    if text.startswith((".", "/", "~", "\\")):
        return True
    return text.count("/") != 1 and os.path.exists(text)


def _download(source: str, folder: str) -> str:
    """The command of the official client that downloads it."""
    try:
        address = source_of(source, "model", PUBLIC_ENDPOINT)
    except InvalidRepoIdError:
        return "use `hf download` or, for a bucket, `hf buckets sync`"
    if address.kind == "bucket":
        return _command("hf", "buckets", "sync", source, folder)
    words = ["hf", "download", address.repo_id]
    words += [address.path] if address.path else []
    words += ["--repo-type", address.kind] if address.kind != "model" else []
    words += ["--revision", address.revision] if address.revision else []
    return _command(*words, "--local-dir", folder)


def _command(*words: str) -> str:
    return f"`{shlex.join(words)}`"


def check_source(source: str) -> None:
    """Detect a pattern, which the official client takes as a source. Raises `UsageError`."""
    if not any(sign in source for sign in "*?[") or os.path.lexists(source):
        return
    folder, name = os.path.split(source)
    raise UsageError(
        f"SOURCE is a folder or a file, and {source!r} is neither",
        suggestion=f"choose files by name with --include: {folder or '.'} --include {name!r}",
    )


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file and flush it to the disk, where it survives a power cut."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the last write was cut off
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
