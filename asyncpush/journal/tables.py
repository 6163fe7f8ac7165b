"""The journal's tables: what is remembered, as values and as rows, and the SQL statements.
Transactions are the caller's.

Each row has a checksum, its own or zlib's. SQLite has none, and a wrong hash or ETag would make a
push fail, where a missing one only makes it slower."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileIdentity
from asyncpush.redaction import without_user

if TYPE_CHECKING:
    import sqlite3

HashRecord: TypeAlias = tuple[str, FileIdentity, str, str]
"""Path, identity, kind, oid."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that can be resumed.

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
    """A commit that was about to be requested: what is needed to examine the head afterwards.

    `fingerprint` identifies the push by its content, `push_id` is in the commit's trailer.
    """

    push_id: str
    fingerprint: str
    created_at: float


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


Row: TypeAlias = tuple[Any, ...]

UPLOAD_LIFE = 7 * 86_400.0
"""Seconds. S3 signs URLs for no longer than this, whatever an answer says."""

SETTLED_AFTER = 60.0
"""Seconds since a file's last change (mtime and ctime) before its hash is remembered. Writes
through a memory map change the times only when a clean page is first touched; Linux cleans pages,
after which later writes show again, within 30 to 35 s."""

_UNPACKED_LIMIT = 256 << 20
_OID_LENGTH = {"sha256": 64, "git": 40, "xet": 64}


def blob(text: str) -> bytes:
    """Text as bytes. File names, and ETags of unusual servers, need not be valid Unicode."""
    return text.encode("utf-8", "surrogatepass")


def display(value: bytes) -> str:
    """A stored text for display, without the credentials that an endpoint's URL may contain."""
    return without_user(value.decode("utf-8", "replace"))


# Hashes


def is_settled(identity: FileIdentity, identified_at: float) -> bool:
    """Whether a write after `identified_at` would change the file's mtime or ctime."""
    changed = max(identity.mtime_ns, identity.ctime_ns) / 1e9
    return identified_at - changed >= SETTLED_AFTER


CUT_DIGEST_LENGTH = 64


def hash_key(path: str, kind: str) -> Row:
    with contextlib.suppress(OSError):  # The working directory no longer exists.
        path = os.path.abspath(path)
    return blob(path), blob(kind)


def is_of_file(stored: object, whole: bytes) -> bool:
    """Whether a hash's path is that of the file, or of what is cut out of it (`path#digest`)."""
    return isinstance(stored, bytes) and (
        stored == whole
        or (stored.startswith(whole + b"#") and len(stored) == len(whole) + 1 + CUT_DIGEST_LENGTH)
    )


def hash_row(path: str, identity: FileIdentity, kind: str, oid: str, now: float) -> Row:
    if len(oid) != _OID_LENGTH.get(kind):
        raise ValueError(f"{oid[:80]!r} is not an oid of kind {kind!r}")
    key = hash_key(path, kind)
    content = _identity(identity), bytes.fromhex(oid)
    return *key, *content, now, _seal(*key, *content)


def read_hash(key: Row, identity: FileIdentity, row: Row) -> str | None:
    """The oid of the row, if it is for this identity and undamaged."""
    _, _, known, oid, _, seal = row
    if known != _identity(identity) or seal != _seal(*key, known, oid):
        return None
    return bytes(oid).hex()


def _identity(identity: FileIdentity) -> bytes:
    # As text: an inode number may use all of 64 bits (more on Windows), an INTEGER has 63.
    return b"%d:%d:%d:%d:%d" % (
        identity.device,
        identity.inode,
        identity.size,
        identity.mtime_ns,
        identity.ctime_ns,
    )


# Uploads


def upload_row(number: int, scope: str, upload: OpenUpload) -> Row | None:
    """None for an upload with impossible times (NaN too): it could never be trusted."""
    if not upload.expires_at > upload.started_at:
        return None
    expires_at = min(upload.expires_at, upload.started_at + UPLOAD_LIFE)
    details = [
        upload.size,
        upload.chunk_size,
        upload.completion_url,
        upload.part_urls,
        upload.verify_url,
        upload.started_at,
        expires_at,
    ]
    return (
        number,
        blob(scope),
        blob(upload.oid),
        upload.size,
        len(upload.part_urls),
        upload.started_at,
        expires_at,
        pack(details),
    )


def read_upload(oid: str, details: object, parts: Iterable[Row]) -> OpenUpload | None:
    values = unpack(details)
    if values is None:
        return None
    size, chunk_size, completion_url, part_urls, verify_url, started_at, expires_at = values
    return OpenUpload(
        oid=oid,
        size=size,
        chunk_size=chunk_size,
        completion_url=completion_url,
        part_urls=tuple(part_urls),
        verify_url=verify_url,
        expires_at=expires_at,
        etags={
            number: etag.decode("utf-8", "surrogatepass")
            for upload, number, etag, seal in parts
            if seal == _seal(upload, number, etag) and 1 <= number <= len(part_urls)
        },
        started_at=started_at,
    )


def part_row(upload: int, number: int, etag: str) -> Row:
    stored = blob(etag)
    return upload, number, stored, _seal(upload, number, stored)


# Commits


def commit_row(scope: str, commit: PendingCommit) -> Row:
    details = pack([commit.push_id, commit.created_at])
    return blob(scope), commit_key(commit), commit.created_at, details


def commit_key(commit: PendingCommit) -> bytes:
    """The content and the push: several pushes may be committing the same content."""
    return blob(f"{commit.fingerprint}#{commit.push_id}")


def read_commit(fingerprint: str, details: object) -> PendingCommit | None:
    values = unpack(details)
    if values is None:
        return None
    push_id, *more = values
    # Earlier versions wrote five values, the time as the fourth.
    return PendingCommit(push_id, fingerprint, more[0] if len(more) == 1 else more[2])


# Integrity


def _seal(*fields: object) -> int:
    return zlib.crc32(repr(fields).encode())


def pack(values: list[Any]) -> bytes:
    """JSON, compressed: 10,000 presigned URLs share most of their text. The standard library's
    JSON, because it writes any `str` or `int`, where orjson would raise."""
    return zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 1)


def unpack(stored: object) -> list[Any] | None:
    """What `pack` was given, or None if this was not written by it."""
    if not isinstance(stored, bytes):
        return None
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(stored, _UNPACKED_LIMIT)
        values = (
            json.loads(text) if inflate.eof else None
        )  # Otherwise truncated, or larger than allowed.
    except (zlib.error, ValueError):
        return None
    return values if isinstance(values, list) else None


DAY = 86_400.0
HASH_LIFE = 90 * DAY
COMMIT_LIFE = 7 * DAY

EXPIRED_AT_ONCE = 500
"""Rows deleted in one transaction: this bounds how long others wait to write a part."""

UPLOADS_AT_ONCE = 4
"""The same for uploads, which have up to 10,000 parts each."""

READ_AT_ONCE = 100
"""Rows of one query. SQLite before 3.32 takes at most 999 parameters."""

TABLES = ("hashes", "uploads", "parts", "commits")


# Hashes


def find_hashes(connection: sqlite3.Connection, keys: Sequence[Row]) -> dict[Row, Row]:
    """The whole rows, by their keys."""
    rows: dict[Row, Row] = {}
    for start in range(0, len(keys), READ_AT_ONCE):
        some = keys[start : start + READ_AT_ONCE]
        marks = ",".join(["(?,?)"] * len(some))
        # CROSS JOIN: SQLite takes the tables in this order, and searches for each key. With IN, it
        # would read the whole table.
        found = connection.execute(
            f"WITH wanted(path, kind) AS (VALUES {marks})"
            " SELECT hashes.* FROM wanted CROSS JOIN hashes USING (path, kind)",
            list(chain.from_iterable(some)),
        )
        rows.update((row[:2], row) for row in found)
    return rows


def put_hashes(connection: sqlite3.Connection, rows: list[Row]) -> None:
    connection.executemany("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?,?)", rows)


def delete_hashes(connection: sqlite3.Connection, path: str) -> None:
    """All kinds, of this path and of what is cut out of it (`path#digest`)."""
    whole = hash_key(path, "")[0]
    cut = whole + b"#"
    connection.execute(
        "DELETE FROM hashes WHERE path = ? OR (path > ? AND path < ? AND length(path) = ?)",
        (whole, cut, whole + b"$", len(cut) + CUT_DIGEST_LENGTH),
    )


# Uploads


def find_upload(
    connection: sqlite3.Connection, scope: str, oid: str
) -> tuple[int, object, list[Row]] | None:
    """The upload's number, details and parts."""
    row = connection.execute(
        "SELECT id, details FROM uploads WHERE scope = ? AND oid = ?", (blob(scope), blob(oid))
    ).fetchone()
    if row is None:
        return None
    number, details = row
    parts = connection.execute(
        "SELECT upload, number, etag, seal FROM parts WHERE upload = ?", (number,)
    )
    return number, details, parts.fetchall()


def put_upload(connection: sqlite3.Connection, row: Row, parts: list[Row]) -> None:
    connection.execute("INSERT INTO uploads VALUES (?,?,?,?,?,?,?,?)", row)
    connection.executemany("INSERT INTO parts VALUES (?,?,?,?)", parts)


def put_parts(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Only those whose upload still exists."""
    connection.executemany(
        "INSERT OR REPLACE INTO parts SELECT ?, ?, ?, ?"
        " WHERE EXISTS (SELECT 1 FROM uploads WHERE id = ?)",
        [(*row, row[0]) for row in rows],
    )


def delete_parts(connection: sqlite3.Connection, scope: str, oid: str) -> None:
    connection.execute(
        "DELETE FROM parts WHERE upload IN (SELECT id FROM uploads WHERE scope = ? AND oid = ?)",
        (blob(scope), blob(oid)),
    )


def delete_upload(connection: sqlite3.Connection, scope: str, oid: str) -> None:
    delete_parts(connection, scope, oid)
    connection.execute("DELETE FROM uploads WHERE scope = ? AND oid = ?", (blob(scope), blob(oid)))


# Commits


def find_commits(connection: sqlite3.Connection, scope: str, fingerprint: str) -> list[object]:
    """The details of this content's commits, oldest first. Earlier versions kept one, under the
    fingerprint alone."""
    whole = blob(fingerprint)
    rows = connection.execute(
        "SELECT details FROM commits WHERE scope = ?"
        " AND (fingerprint = ? OR (fingerprint >= ? AND fingerprint < ?)) ORDER BY created_at",
        (blob(scope), whole, whole + b"#", whole + b"$"),
    )
    return [details for (details,) in rows]


def count_commits(connection: sqlite3.Connection, scope: str) -> int:
    row = connection.execute("SELECT count(*) FROM commits WHERE scope = ?", (blob(scope),))
    return int(row.fetchone()[0])


def put_commit(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute("INSERT OR REPLACE INTO commits VALUES (?,?,?,?)", row)


def delete_commit(connection: sqlite3.Connection, scope: str, commit: PendingCommit) -> None:
    scope_key, key, _, details = commit_row(scope, commit)
    connection.execute(
        "DELETE FROM commits WHERE scope = ?"
        " AND (fingerprint = ? OR (fingerprint = ? AND details = ?))",
        (scope_key, key, blob(commit.fingerprint), details),
    )


# Housekeeping


def expire_some(connection: sqlite3.Connection, now: float) -> int:
    """Delete some entries that are too old or from the future: at most `EXPIRED_AT_ONCE` hashes,
    uploads and commits each. Returns how many of each; 0 when none is left."""
    future = now + DAY
    gone = connection.execute(
        "DELETE FROM hashes WHERE (path, kind) IN (SELECT path, kind FROM hashes"
        " WHERE remembered_at < ? OR remembered_at > ? LIMIT ?)",
        (now - HASH_LIFE, future, EXPIRED_AT_ONCE),
    ).rowcount
    uploads = connection.execute(
        "SELECT id FROM uploads WHERE expires_at < ? OR started_at > ? LIMIT ?",
        (now, future, UPLOADS_AT_ONCE),
    ).fetchall()
    connection.executemany("DELETE FROM parts WHERE upload = ?", uploads)
    connection.executemany("DELETE FROM uploads WHERE id = ?", uploads)
    gone += len(uploads)
    gone += connection.execute(
        "DELETE FROM commits WHERE (scope, fingerprint) IN (SELECT scope, fingerprint FROM commits"
        " WHERE created_at < ? OR created_at > ? LIMIT ?)",
        (now - COMMIT_LIFE, future, EXPIRED_AT_ONCE),
    ).rowcount
    return gone


def clear(connection: sqlite3.Connection) -> int:
    """Delete everything; returns how many hashes, uploads and commits."""
    connection.execute("DELETE FROM parts")
    tables = ("hashes", "uploads", "commits")
    return sum(connection.execute(f"DELETE FROM {table}").rowcount for table in tables)


def entries(connection: sqlite3.Connection) -> list[Entry]:
    """The open uploads and pending commits, oldest first."""
    uploads = connection.execute(
        "SELECT scope, oid, size, (SELECT count(*) FROM parts WHERE upload = uploads.id),"
        " part_count, started_at, expires_at FROM uploads"
    )
    found = [
        Entry("upload", display(scope), display(oid), *numbers) for scope, oid, *numbers in uploads
    ]
    commits = connection.execute("SELECT scope, fingerprint, created_at FROM commits")
    found += [
        Entry(
            kind="commit",
            scope=display(scope),
            oid=display(name).partition("#")[0],
            size=0,
            parts_stored=0,
            parts_total=0,
            created_at=at,
            expires_at=at + COMMIT_LIFE,
        )
        for scope, name, at in commits
    ]
    return sorted(found, key=lambda entry: entry.created_at)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows by table."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for table in TABLES
    }
