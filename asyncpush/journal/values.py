"""What the journal takes and hands out: frozen values, with their secrets kept out of `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from asyncpush.models import FileIdentity

HashRecord: TypeAlias = tuple[str, FileIdentity, str, str]
"""Path, identity, kind, oid."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that may be gone on with.

    The URLs are presigned, so each is a credential: none is in the `repr`. Times are seconds since
    the epoch. `etags` holds the verified parts by number, from 1.
    """

    oid: str
    size: int
    chunk_size: int
    completion_url: str = field(repr=False)
    part_urls: tuple[str, ...] = field(repr=False)
    verify_url: str | None = field(repr=False)
    expires_at: float
    etags: Mapping[int, str]
    started_at: float


@dataclass(frozen=True, slots=True)
class PendingCommit:
    """A commit that was about to be asked for: what whoever looks at the head afterwards needs.

    `fingerprint` names the push by its content, `push_id` is in the commit's trailer.
    """

    push_id: str
    parent_commit: str | None
    create_pr: bool
    fingerprint: str
    created_at: float
    pr_url: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `asyncpush cache ls`. `oid` is the object's, or the commit's fingerprint."""

    kind: Literal["upload", "commit"]
    scope: str
    oid: str
    size: int
    parts_stored: int
    parts_total: int
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Stats:
    """How much the journal remembers, and where. `path` is empty for one that remembers nothing."""

    path: str
    size: int
    hashes: int
    uploads: int
    parts: int
    commits: int
    disabled_reason: str | None
