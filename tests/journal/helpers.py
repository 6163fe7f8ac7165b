"""What the journal's tests share: a clock to turn, uploads and identities to remember."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from asyncpush.journal import Journal, OpenUpload, PendingCommit
from asyncpush.models import FileIdentity
from tests.fake_clock import NOW

HOUR = 3600.0
DAY = 24 * HOUR
SCOPE = "https://huggingface.co/models/me/model"
SHA = "ab" * 32
GIT = "cd" * 20
SECRET = "X-Amz-Signature=5ec2e7"

# Forked from a clean server process, so that a hundred deaths cost a second.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.journal.workers"])


def make_identity(*, age: float = HOUR, size: int = 10, precise: bool = True) -> FileIdentity:
    """A file last modified `age` seconds before `NOW`, on a filesystem with fine times or not."""
    mtime_ns = int(NOW * 1000 - age * 1000) * 1_000_000
    return FileIdentity(device=7, inode=11, size=size, mtime_ns=mtime_ns + 123 * precise)


def make_upload(
    oid: str = SHA,
    *,
    parts: int = 3,
    etags: Mapping[int, str] | None = None,
    started_at: float = NOW,
    lifetime: float = DAY,
    mark: str = "",
) -> OpenUpload:
    return OpenUpload(
        oid=oid,
        size=parts * 100,
        chunk_size=100,
        completion_url=f"https://hub.example/complete?{SECRET}{mark}",
        part_urls=tuple(
            f"https://s3.example/{mark}?partNumber={number}&{SECRET}"
            for number in range(1, parts + 1)
        ),
        verify_url=f"https://hub.example/verify?{SECRET}",
        expires_at=started_at + lifetime,
        etags=dict(etags or {}),
        started_at=started_at,
    )


def make_commit(
    fingerprint: str = "f1", push_id: str = "push-1", *, created_at: float = NOW
) -> PendingCommit:
    return PendingCommit(push_id, fingerprint, created_at)


def database_file(directory: Path) -> Path:
    return directory / "journal" / "journal.sqlite3"


def set_aside(directory: Path) -> list[str]:
    """Names of the files that were set aside as damaged."""
    return sorted(
        path.name
        for path in (directory / "journal").glob("*.corrupt-*")
        if not path.name.endswith(("-wal", "-shm"))
    )


def connection_of(journal: Journal) -> sqlite3.Connection:
    """The connection that writes, to meddle with."""
    assert journal._database is not None
    return journal._database._writer
