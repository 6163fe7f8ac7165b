"""Collecting the facts that a push depends on: about the Hub, the token and this machine."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from asyncpush.concurrency.task_groups import open_files_limit
from asyncpush.errors import AuthError, HubError
from asyncpush.events import Emitter
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo
from asyncpush.net.connections import proxy_for
from asyncpush.net.session import HubSession
from asyncpush.options import UploadConfig
from asyncpush.protocol import accounts, buckets, repos
from asyncpush.protocol.accounts import Account, TokenKind
from asyncpush.protocol.hints import RateLimit, clock_skew, rate_limit
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.transfers import transfer_libraries
from asyncpush.transfers.interface import TransferLibrary

Verdict: TypeAlias = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was found, and how to fix it (empty if nothing needs fixing).

    `is_token` is true if the token is the problem.
    """

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    is_token: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The planned push."""

    repo: Repo
    revision: str = "main"
    create_branch: bool = False


@dataclass(frozen=True, slots=True)
class HubFacts:
    """The answers of the Hub. A `HubError` means that a request was refused or not answered; None
    means that it was not sent, or that its answer did not say.

    `head` is the branch's latest commit, or the id of a bucket. `shows_files` says whether the Hub
    lists the files of a commit or a bucket; every push is verified with such a list. `skew` is this
    machine's clock minus the Hub's, in seconds. `seconds` is how long the first answer took.
    """

    account: Account | HubError
    seconds: float = 0.0
    skew: float | None = None
    rate: RateLimit | None = None
    head: str | HubError | None = None
    may_write: Literal[True] | HubError | None = None
    used_storage: int | None = None
    shows_files: Literal[True] | HubError | None = None

    @property
    def unreached(self) -> HubError | None:
        """Why the Hub could not be reached, or None if it answered."""
        error = self.account
        if not isinstance(error, HubError) or error.status is not None:
            return None
        return None if isinstance(error, AuthError) else error  # no token, so no request was sent


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """Facts about this machine. Sizes are bytes; None means unknown.

    `token_from` says where the token comes from ("from HF_TOKEN"); None when there is none.
    `token_expires_at` is the Unix time at which the token expires, and `token_kind` is what its
    prefix says, if known. `publishes_to` is the only repo that a token of trusted publishing may
    write to. `proxy` is the one for the endpoint. `ca_files` maps variables that name CA
    certificates to the paths they name.
    """

    token_from: str | None
    cache_dir: Path
    proxy: str | HubError | None = None
    ca_files: Mapping[str, Path] = field(default_factory=dict)
    cache_error: str | None = None
    free_space: int | None = None
    libraries: tuple[tuple[TransferLibrary, str | None], ...] = ()
    """The libraries of transfers, each with its version if it is installed."""
    open_files: int | None = None
    open_files_wanted: int = 0
    token_expires_at: float | None = None
    token_kind: TokenKind | None = None
    publishes_to: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts about one endpoint and, if given, one push."""

    endpoint: str
    hub: HubFacts
    local: LocalFacts
    target: Target | None = None


T = TypeVar("T")

ANSWER_TIMEOUT = 20.0
"""Seconds for one request: the user is waiting for the diagnosis."""

OTHER_FILES = 64
"""File descriptors in use besides those for files and connections: interpreter, journal."""

CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


async def ask_hub(session: HubSession, target: Target | None, events: Emitter) -> HubFacts:
    """Ask the Hub about the token and the repo."""
    answers: list[tuple[float, Mapping[str, str]]] = []

    def parse(response: HubResponse) -> Account:
        answers.append((time.time(), response.headers))
        return accounts.parse_account(response)

    began = time.monotonic()
    account = await _ask(session, repos.whoami_request(), parse, events)
    seconds = time.monotonic() - began
    at, headers = answers[0] if answers else (time.time(), {})
    if isinstance(account, HubError):
        headers = account.headers
    head: str | HubError | None = None
    may_write: Literal[True] | HubError | None = None
    used: int | HubError | None = None
    shows_files: Literal[True] | HubError | None = None
    # Without an answer, or without a valid token, all later requests would fail the same way.
    unusable = isinstance(account, HubError) and (
        account.status in (None, 401)
        or (isinstance(account, AuthError) and account.status != 403)  # no token was available
    )
    if target is not None and target.repo.repo_type == "bucket" and not unusable:
        bucket = target.repo
        head = await _ask(session, buckets.info_request(bucket), buckets.parse_info, events)
        if isinstance(head, str):
            # There is no request for this question, but only users who may write get a write token
            # for Xet.
            token = buckets.xet_token_request(bucket, write=True)
            may_write = await _ask(session, token, lambda _: _YES, events)
            request = buckets.paths_info_request(bucket, [".complete.json"])
            shows_files = await _ask(session, request, _has_bucket_files, events)
    elif target is not None and not unusable:
        request = repos.head_request(target.repo, target.revision)
        head = await _ask(session, request, repos.parse_head, events)
        if isinstance(head, str) or head.error_code == "RevisionNotFound":
            may_write = await _ask(
                session, accounts.write_check_request(target.repo), lambda _: _YES, events
            )
            used = await _ask(
                session, accounts.storage_request(target.repo), accounts.parse_storage, events
            )
        if isinstance(head, str):
            request = repos.paths_info_request(target.repo, head, [".gitattributes"])
            shows_files = await _ask(session, request, _has_files, events)
    return HubFacts(
        account=account,
        seconds=seconds,
        skew=clock_skew(headers, now=at),
        rate=rate_limit(headers),
        head=head,
        may_write=may_write,
        used_storage=None if isinstance(used, HubError) else used,
        shows_files=shows_files,
    )


_YES: Literal[True] = True


def _has_bucket_files(response: HubResponse) -> Literal[True]:
    buckets.parse_paths_info(response)
    return _YES


def _has_files(response: HubResponse) -> Literal[True]:
    """True if a push can read the answer. It does not matter whether the file exists."""
    repos.parse_paths_info(response)
    return _YES


async def _ask(
    session: HubSession, request: HubRequest, parse: Callable[[HubResponse], T], events: Emitter
) -> T | HubError:
    """Send one request, without retries. A failure is returned as a fact."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await session.ask(
                request, parse, events, retry=False, expected=lambda error: True
            )
    except TimeoutError:
        return HubError(
            f"no answer within {ANSWER_TIMEOUT:.0f} s",
            method=request.method,
            url=session.endpoint,
            unreachable=True,
            suggestion="check the network, HF_ENDPOINT, and whether a proxy is needed",
        )
    except HubError as error:
        return error


def collect_local_facts(endpoint: str, config: UploadConfig, token_from: str | None) -> LocalFacts:
    """Collect the facts about this machine. Creates the cache folder, as a push would."""
    cache_dir = Path(config.cache_dir)
    return LocalFacts(
        token_from=token_from,
        cache_dir=cache_dir,
        proxy=_proxy(endpoint),
        ca_files={name: Path(os.environ[name]) for name in CA_VARIABLES if os.environ.get(name)},
        cache_error=_write_error(cache_dir),
        free_space=_free_space(cache_dir),
        libraries=tuple((each, _installed(each.distribution)) for each in transfer_libraries()),
        open_files=open_files_limit(),
        open_files_wanted=config.max_concurrent_files + config.max_concurrent_parts + OTHER_FILES,
    )


def _proxy(endpoint: str) -> str | HubError | None:
    try:
        found = proxy_for(endpoint)
    except HubError as error:
        return error
    return found[0] if found is not None else None


def _write_error(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _free_space(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
