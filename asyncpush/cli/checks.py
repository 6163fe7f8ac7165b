"""What flags and arguments may say: each complaint names the flag, before anything is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from asyncpush.cli.arguments import Connection
from asyncpush.cli.failures import UsageError
from asyncpush.errors import InvalidRepoIdError
from asyncpush.models import check_repo_id
from asyncpush.options import LOCAL, PUBLIC_ENDPOINT, PushOptions, endpoint_in_use
from asyncpush.protocol import urls
from asyncpush.protocol.addresses import is_address, is_web_url, parse_address, target_of

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
    from asyncpush.listeners.timeline.writing import check_target

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
