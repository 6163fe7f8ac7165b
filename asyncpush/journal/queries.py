"""The journal's SQL statements; transactions are the caller's."""

from __future__ import annotations

import sqlite3

from asyncpush.journal.rows import CUT_DIGEST_LENGTH, Entry, Row, blob, display, hash_key

DAY = 86_400.0
HASH_LIFE = 90 * DAY
COMMIT_LIFE = 7 * DAY

EXPIRED_AT_ONCE = 500
"""Rows deleted in one transaction: this bounds how long others wait to write a part."""

UPLOADS_AT_ONCE = 4
"""The same for uploads, which have up to 10,000 parts each."""

TABLES = ("hashes", "uploads", "parts", "commits")


# Hashes


def find_hash(connection: sqlite3.Connection, key: Row) -> Row | None:
    """The whole row."""
    found: Row | None = connection.execute(
        "SELECT * FROM hashes WHERE path = ? AND kind = ?", key
    ).fetchone()
    return found


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


def find_commit(connection: sqlite3.Connection, scope: str, fingerprint: str) -> object | None:
    """The commit's details."""
    row = connection.execute(
        "SELECT details FROM commits WHERE scope = ? AND fingerprint = ?",
        (blob(scope), blob(fingerprint)),
    ).fetchone()
    return None if row is None else row[0]


def put_commit(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute("INSERT OR REPLACE INTO commits VALUES (?,?,?,?)", row)


def delete_commit(connection: sqlite3.Connection, scope: str, fingerprint: str) -> None:
    connection.execute(
        "DELETE FROM commits WHERE scope = ? AND fingerprint = ?",
        (blob(scope), blob(fingerprint)),
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
        Entry("commit", display(scope), display(name), 0, 0, 0, at, at + COMMIT_LIFE)
        for scope, name, at in commits
    ]
    return sorted(found, key=lambda entry: entry.created_at)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows by table."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for table in TABLES
    }
