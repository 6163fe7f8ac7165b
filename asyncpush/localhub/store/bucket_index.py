"""Buckets on disk: mutable sets of named files whose content is in the Xet store.

    buckets/<namespace>/<name>/files.db    an SQLite database: the files, and who created the bucket

A new bucket is built in a temporary folder and renamed into place. Deleting one renames it away
first.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from asyncpush.localhub.store.names import RepoId, make_repo_id
from asyncpush.localhub.web import Refusal, conflict

_LOCK_TIMEOUT = 30.0
_SCHEMA = """
CREATE TABLE about (author TEXT, created_at TEXT, private INTEGER);
CREATE TABLE files (
    path TEXT PRIMARY KEY, xet_hash TEXT, size INTEGER, mtime INTEGER, uploaded_at TEXT,
    content_type TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class BucketInfo:
    author: str
    created_at: str
    private: bool
    size: int = 0
    total_files: int = 0


@dataclass(frozen=True, slots=True)
class BucketFile:
    """`mtime` is milliseconds since the epoch."""

    path: str
    xet_hash: str
    size: int
    mtime: int
    uploaded_at: str
    content_type: str | None = None


def make_bucket_id(namespace: str, name: str) -> RepoId:
    """Bucket ids follow the same rules as model ids. Raises a 400."""
    return make_repo_id("model", namespace, name)


def bucket_not_found() -> Refusal:
    return Refusal(404, "Bucket not found", code="RepoNotFound")


class Buckets:
    """All buckets below `root`. Methods block: call them in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root / "buckets"
        self._workshop = root / "tmp"

    def create(self, bucket: RepoId, author: str, *, private: bool) -> None:
        """Raises a 409 if the bucket exists."""
        aside = self._aside()
        aside.mkdir(parents=True)
        with closing(sqlite3.connect(aside / "files.db")) as database:
            database.executescript(_SCHEMA)
            now = datetime.now(UTC).isoformat()
            database.execute("INSERT INTO about VALUES (?, ?, ?)", (author, now, int(private)))
            database.commit()
        target = self._path(bucket)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.rename(target)
        except OSError:  # a bucket exists at this path
            shutil.rmtree(aside, ignore_errors=True)
            raise conflict(f"You already created this bucket: {bucket.full_name}") from None

    def move(self, bucket: RepoId, target: RepoId) -> None:
        """Rename a bucket. Raises a 409 if a bucket with the new name exists."""
        new = self._path(target)
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            if bucket == target:
                raise FileExistsError
            self._path(bucket).rename(new)
        except FileNotFoundError:
            raise bucket_not_found() from None
        except OSError:
            raise conflict(f"{target.full_name} already exists") from None

    def delete(self, bucket: RepoId) -> None:
        aside = self._aside()
        try:
            self._path(bucket).rename(aside)
        except FileNotFoundError:
            raise bucket_not_found() from None
        shutil.rmtree(aside, ignore_errors=True)

    def info(self, bucket: RepoId) -> BucketInfo:
        with self._open(bucket) as database:
            about = database.execute("SELECT author, created_at, private FROM about").fetchone()
            total = database.execute("SELECT COALESCE(SUM(size), 0), COUNT(*) FROM files")
            size, count = total.fetchone()
        return BucketInfo(about[0], about[1], bool(about[2]), size, count)

    def set_private(self, bucket: RepoId, private: bool) -> None:
        with self._open(bucket) as database:
            database.execute("UPDATE about SET private = ?", (int(private),))
            database.commit()

    def named(self, namespace: str) -> list[RepoId]:
        found = (self._root / namespace).glob("*/files.db")
        return sorted(
            (make_bucket_id(namespace, path.parent.name) for path in found),
            key=lambda bucket: bucket.full_name,
        )

    def all(self) -> list[RepoId]:
        """The buckets of every namespace."""
        namespaces = sorted({path.parent.parent.name for path in self._root.glob("*/*/files.db")})
        return [bucket for namespace in namespaces for bucket in self.named(namespace)]

    def change(self, bucket: RepoId, files: Sequence[BucketFile], deleted: Sequence[str]) -> None:
        """Add and remove files, in one transaction."""
        with self._open(bucket) as database:
            database.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in deleted])
            database.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (f.path, f.xet_hash, f.size, f.mtime, f.uploaded_at, f.content_type)
                    for f in files
                ],
            )
            database.commit()

    def files(self, bucket: RepoId, paths: Sequence[str]) -> list[BucketFile]:
        """Those of `paths` that exist."""
        with self._open(bucket) as database:
            query = "SELECT * FROM files WHERE path = ?"
            rows = (database.execute(query, (path,)).fetchone() for path in paths)
            return [BucketFile(*row) for row in rows if row is not None]

    def below(self, bucket: RepoId, prefix: str, after: str, limit: int) -> list[BucketFile]:
        """The first files, in order of path, that begin with `prefix` and come after the path
        `after`."""
        query = (
            "SELECT * FROM files WHERE path >= ? AND path > ? AND substr(path, 1, ?) = ?"
            " ORDER BY path LIMIT ?"
        )
        with self._open(bucket) as database:
            rows = database.execute(query, (prefix, after, len(prefix), prefix, limit))
            return [BucketFile(*row) for row in rows]

    def _path(self, bucket: RepoId) -> Path:
        return self._root / bucket.namespace / bucket.name

    def _aside(self) -> Path:
        return self._workshop / f"bucket-{secrets.token_hex(8)}"

    @contextmanager
    def _open(self, bucket: RepoId) -> Iterator[sqlite3.Connection]:
        path = self._path(bucket) / "files.db"
        if not path.exists():
            raise bucket_not_found()
        with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT)) as database:
            yield database
