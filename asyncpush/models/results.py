"""What comes of a push, a dry run and an audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from asyncpush.models.progress import Activity
from asyncpush.models.receipts import Receipt, Route


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What a dry run would do with one file of `size` bytes: send it ("inline", "lfs", "xet"), or
    "unchanged", "ignored" (by the Hub, most often for the repo's .gitignore), "delete".

    Example:
        >>> plan = [PlannedFile("a.bin", 2048, "lfs"), PlannedFile("b.bin", 512, "unchanged")]
        >>> sum(file.size for file in plan if file.action in ("inline", "lfs", "xet"))
        2048
    """

    path_in_repo: str
    size: int
    action: Route | Literal["unchanged", "ignored", "delete"]


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What the Hub confirmed.

    When nothing had changed no commit was made: `commit_sha` is the head's and `files_uploaded`
    is empty. `plan` is filled by a dry run alone. `retries` counts what had to be tried again, and
    `waited_seconds` sums the waits before (those of parallel requests add up). `activity` is the
    course of it, for the picture on the card. Sizes are bytes, times seconds. See `push_to_hub` for
    an example.
    """

    repo_url: str
    commit_sha: str
    commit_url: str
    files_uploaded: tuple[str, ...]
    bytes_transferred: int
    bytes_deduplicated: int
    verified: bool
    elapsed_seconds: float
    pr_url: str | None = None
    files_unchanged: tuple[str, ...] = ()
    files_ignored: tuple[str, ...] = ()
    files_deleted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    retries: int = 0
    waited_seconds: float = 0.0
    receipts: tuple[Receipt, ...] = field(default=(), repr=False)
    plan: tuple[PlannedFile, ...] = field(default=(), repr=False)
    activity: Activity = field(default=Activity(), repr=False, compare=False)

    def _repr_html_(self) -> str:
        """A small card for notebooks."""
        from asyncpush.listeners.card import result_card

        return result_card(self)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Local files against the repo at `commit_sha`, by size and checksum: what `Uploader.audit`
    returns. The other fields list paths in the repo: those `missing` there, those `extra` there;
    `ignored` are local files that are not there because a .gitignore, the repo's or the source's
    own, leaves them out: no push would bring them, so that they are not missing.

    Example:
        >>> report = AuditReport("https://hub/me/m", "ab" * 20, matching=("a",), extra=("b",))
        >>> report.complete, report.exact
        (True, False)
    """

    repo_url: str
    commit_sha: str
    matching: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every local file that is not ignored is there with the same bytes."""
        return not self.missing and not self.different

    @property
    def exact(self) -> bool:
        """The repo holds these files, but for those that are ignored, and no others."""
        return self.complete and not self.extra
