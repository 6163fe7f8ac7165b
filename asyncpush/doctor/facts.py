"""What is known before a push, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from asyncpush.errors import AuthError, HubError
from asyncpush.models import Repo
from asyncpush.protocol.accounts import Account
from asyncpush.protocol.hints import RateLimit

Verdict: TypeAlias = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do about it (empty when nothing is to be done).

    `is_token` says that the token is the trouble.
    """

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    is_token: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The push that is to be made."""

    repo: Repo
    revision: str = "main"
    create_branch: bool = False


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the Hub said. A `HubError` stands for a question that was refused or not answered,
    None for one that was not asked (or not told).

    `shows_files` is its answer to what a commit holds, by which every push is verified.
    `skew` is this machine's clock less the Hub's, in seconds; `seconds` is how long the first
    answer took.
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
        """Why there was no answer at all, if there was none."""
        error = self.account
        if not isinstance(error, HubError) or error.status is not None:
            return None
        return None if isinstance(error, AuthError) else error  # no token, and so not asked


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What this machine says. Sizes in bytes; None where it cannot be told.

    `token_from` says which token it is ("from HF_TOKEN"), None when there is none;
    `token_expires_at` is the Unix time of its end, where that is known; `proxy` is the one for the
    endpoint; `ca_files` are variables that name CA certificates, with what they name.
    """

    token_from: str | None
    cache_dir: Path
    proxy: str | HubError | None = None
    ca_files: Mapping[str, Path] = field(default_factory=dict)
    cache_error: str | None = None
    free_space: int | None = None
    xet_version: str | None = None
    xet_disabled: bool = False
    open_files: int | None = None
    open_files_wanted: int = 0
    token_expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it, about one endpoint and perhaps one push."""

    endpoint: str
    hub: HubFacts
    local: LocalFacts
    target: Target | None = None
