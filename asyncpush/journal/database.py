"""The journal's SQLite database: how it is opened, used, and given up after an error.

Nothing here raises because of the disk: a database that cannot be opened raises `UnusableError`
once, at the start, and one that fails later turns itself off with one warning.

**Durability.** The file is in WAL mode. A killed process loses nothing that was committed, since
the pages are the kernel's by then. A power cut would lose what was committed since the last sync,
so durable writes (uploads, parts, commits) run with `synchronous=FULL`; those that wait together
share one sync. Hashes, which are written behind the work (see `group_commit`), run with `NORMAL`
and are synced by the next durable write. On network filesystems, where WAL's shared memory does not
work between hosts, a rollback journal is used instead.

**Threads.** Two connections, each under its own lock: one writes, the other reads, so that a read
never waits for the disk. More would gain nothing, as SQLite has one writer anyway.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from asyncpush.journal.filesystem import (
    FILE_NAME,
    DamagedError,
    file_key,
    has_log,
    on_network,
    prepare_file,
    set_aside,
)
from asyncpush.journal.locks import OPENING, HostLocks
from asyncpush.own_files import library_logger

logger = library_logger("journal")

T = TypeVar("T")

APPLICATION_ID = 0x61737970  # "asyp"
SCHEMA_VERSION = 1
BUSY_TIMEOUT = 10.0
"""Seconds to wait for other processes. Generous, since one sync of a busy disk can take several."""
WARN_AFTER = 1.0
"""Seconds of such a wait after which the user is warned what the push waits for."""
_OWN_WAIT_MS = 3
_PAGES_AT_ONCE = 500

# Every column is a blob or a number: SQLite's reader would raise on text that is not UTF-8.
SCHEMA = (
    "CREATE TABLE hashes (path BLOB, kind BLOB, identity BLOB, oid BLOB, remembered_at REAL,"
    " seal INTEGER, PRIMARY KEY (path, kind)) WITHOUT ROWID",
    "CREATE TABLE uploads (id INTEGER PRIMARY KEY, scope BLOB, oid BLOB, size INTEGER,"
    " part_count INTEGER, started_at REAL, expires_at REAL, details BLOB, UNIQUE (scope, oid))",
    "CREATE TABLE parts (upload INTEGER, number INTEGER, etag BLOB, seal INTEGER,"
    " PRIMARY KEY (upload, number)) WITHOUT ROWID",
    "CREATE TABLE commits (scope BLOB, fingerprint BLOB, created_at REAL, details BLOB,"
    " PRIMARY KEY (scope, fingerprint)) WITHOUT ROWID",
)
INDEX = "CREATE INDEX hashes_by_age ON hashes (remembered_at)"
"""For `expire`: a journal may hold a million hashes, and only a few are too old at a time."""

SMALL = 1 << 20
"""Bytes of a journal that is checked completely whenever it is opened: that takes a few
milliseconds."""

_OPEN_JOURNALS = "open journals", 64

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


class UnusableError(Exception):
    """No journal can be used here; the text says why."""


class Database:
    """An open journal file. `failure` says why it was abandoned, None while it works."""

    def __init__(
        self, path: Path, locks: HostLocks, writer: sqlite3.Connection, reader: sqlite3.Connection
    ) -> None:
        self.path = path
        self._locks = locks
        self.failure: str | None = None
        self._file = file_key(path)
        self._writer = writer
        self._reader = reader
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._synchronous = ""
        self._open = True
        self._pid = os.getpid()
        self._presence = locks.claim_any(*_OPEN_JOURNALS)

    @classmethod
    def open(cls, folder: Path, locks: HostLocks) -> Database:
        """The journal in `folder`, created if necessary. Raises `UnusableError`."""
        opening = locks.wait(OPENING, min(WARN_AFTER, BUSY_TIMEOUT))
        if opening is None and BUSY_TIMEOUT > WARN_AFTER:
            _warn_of_wait()
            opening = locks.wait(OPENING, BUSY_TIMEOUT - WARN_AFTER)
        if opening is None:
            raise UnusableError(f"{folder}: locked by another process")
        with opening:
            return _open_or_replace(folder / FILE_NAME, locks)

    @property
    def is_open(self) -> bool:
        """False once closed or abandoned, and in a forked child, where SQLite must not be used."""
        return self._open and self._pid == os.getpid()

    def read(self, work: Callable[[sqlite3.Connection], T], *, at_once: bool = False) -> T | None:
        """Returns what `work` reads; None when the journal is off. `at_once`: in one
        transaction."""
        if at_once:
            return self._run(
                self._read_lock, self._reader, lambda reader: _transaction(reader, "BEGIN", work)
            )
        return self._run(self._read_lock, self._reader, work)

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T | None:
        """Returns what `work` returns, after its changes are committed (and synced, if
        `durable`)."""

        def transaction(connection: sqlite3.Connection) -> T:
            self._set_synchronous("FULL" if durable else "NORMAL")
            return _transaction(connection, "BEGIN IMMEDIATE", work)

        return self._run(self._write_lock, self._writer, transaction)

    def _set_synchronous(self, wanted: str) -> None:
        if self._synchronous != wanted:
            self._writer.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted

    def compact(self) -> None:
        """Return free pages to the disk, and empty the write-ahead log."""
        while self.compact_some():
            pass
        if self.is_open:
            # Another process may be reading, or this one closing: then the next one does it.
            with self._write_lock, contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def compact_some(self) -> bool:
        """Return some free pages to the disk; returns whether there are more."""
        if not self.is_open:
            return False
        with self._write_lock, contextlib.suppress(sqlite3.Error):
            (before,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            # (`execute` would do one page.)
            self._writer.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
            (left,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            return bool(0 < left < before)
        return False

    def close(self) -> None:
        """Close the file. Later calls are answered as by a journal that is off."""
        if self._pid == os.getpid():
            with self._write_lock, self._read_lock:
                self._shut()

    def _run(
        self,
        lock: threading.Lock,
        connection: sqlite3.Connection,
        work: Callable[[sqlite3.Connection], T],
    ) -> T | None:
        if not self.is_open:  # Before the lock, which a forked child may find held for ever.
            return None
        with lock:
            if not self._open:  # Closed while this call waited.
                return None
            try:
                return work(connection)
            except sqlite3.Error as exc:
                failure = exc
        self._give_up(failure)
        return None

    def _give_up(self, failure: sqlite3.Error) -> None:
        with self._write_lock, self._read_lock:
            if not self._open:
                return
            self.failure = f"{self.path}: {failure}"
            self._shut()
        logger.warning(
            "the resume journal is off: %s; continuing without it: after an interruption, files may"
            " have to be sent again",
            self.failure,
        )
        if _is_damage(failure):
            self._set_aside_own_file()

    def _set_aside_own_file(self) -> None:
        """So that the next push starts a new one, unless another process has done that already."""
        opening = self._locks.wait(OPENING, 0)
        if opening is not None:
            with opening, contextlib.suppress(OSError):
                if file_key(self.path) == self._file:
                    set_aside(self.path)

    def _shut(self) -> None:
        if self._open:
            self._open = False
            for connection in (self._reader, self._writer):
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            if self._presence is not None:
                self._presence.release()


def _transaction(
    connection: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]
) -> T:
    _execute_when_free(connection, begin)
    try:
        result = work(connection)
        _execute_when_free(connection, "COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()
        raise
    return result


def _execute_when_free(connection: sqlite3.Connection, statement: str) -> None:
    """Execute, retrying for `BUSY_TIMEOUT` while other processes keep the database locked. SQLite's
    own waiting backs off to one try every 100 ms, and so can starve for seconds beside a process
    that writes and syncs without pause, which leaves gaps of microseconds."""
    began = time.monotonic()
    warned = False
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc):
                raise
            waited = time.monotonic() - began
            if not warned and waited >= WARN_AFTER:
                warned = True
                _warn_of_wait()
            if waited >= BUSY_TIMEOUT:
                raise
        time.sleep(random.uniform(0.0005, 0.003))


def _warn_of_wait() -> None:
    logger.warning(
        "another process keeps the resume journal locked: waiting up to %g s for it, then"
        " continuing without the journal",
        BUSY_TIMEOUT,
    )


def _open_or_replace(path: Path, locks: HostLocks) -> Database:
    try:
        try:
            return _open(path, locks)
        except DamagedError as exc:
            aside = set_aside(path)
            logger.warning(
                "the resume journal cannot be used (%s): set aside as %s; a new one is started",
                exc,
                aside,
            )
            return _open(path, locks)
    except (sqlite3.Error, DamagedError) as exc:
        raise UnusableError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise UnusableError(f"{exc.filename or path}: {exc.strerror}") from exc


def _open(path: Path, locks: HostLocks) -> Database:
    prepare_file(path)
    # A process that has it open has already checked it, and keeps a write-ahead log beside it.
    unclean = has_log(path) and not locks.count_claimed(*_OPEN_JOURNALS)
    needs_check = unclean or path.lstat().st_size <= SMALL
    with contextlib.ExitStack() as undo:
        try:
            writer = undo.enter_context(contextlib.closing(_connect(path)))
            _check_or_create(writer, network=on_network(path.parent), needs_check=needs_check)
            writer.execute(
                f"PRAGMA busy_timeout={_OWN_WAIT_MS}"
            ).fetchone()  # then we _execute_when_free
            reader = undo.enter_context(contextlib.closing(_connect(path)))
            reader.execute("PRAGMA query_only=ON")
            database = Database(path, locks, writer, reader)
        except sqlite3.DatabaseError as exc:
            if _is_damage(exc):
                raise DamagedError(str(exc)) from exc
            raise
        undo.pop_all()
        return database


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )


def _check_or_create(connection: sqlite3.Connection, *, network: bool, needs_check: bool) -> None:
    """Check the schema, and with `needs_check` all content. Raises `DamagedError` for a
    file that is not such a journal."""
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA secure_delete=ON")  # Presigned URLs are secrets.
    connection.execute("PRAGMA temp_store=MEMORY")
    found = _schema_of(connection)
    if found == (0, 0, frozenset()):
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _choose_log(connection, network=network)
        _transaction(connection, "BEGIN IMMEDIATE", _create)
        return
    application, version, tables = found
    if application != APPLICATION_ID:
        raise DamagedError("it is not a journal of asyncpush")
    if version != SCHEMA_VERSION:
        raise DamagedError(f"its schema version is {version}, not {SCHEMA_VERSION}")
    if tables - {INDEX} != frozenset(SCHEMA):
        raise DamagedError("its tables are not as they should be")
    _choose_log(connection, network=network)
    if needs_check:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedError(f"it is damaged: {verdict}")
    if INDEX not in tables:  # From before there was one.
        _transaction(connection, "BEGIN IMMEDIATE", lambda writer: writer.execute(INDEX))


def _schema_of(connection: sqlite3.Connection) -> tuple[int, int, frozenset[str]]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    return application, version, frozenset(str(sql) for (sql,) in rows)


def _create(connection: sqlite3.Connection) -> None:
    for statement in (*SCHEMA, INDEX):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _choose_log(connection: sqlite3.Connection, *, network: bool) -> None:
    if not network:
        # Some filesystems have no shared memory for WAL, and report it by an error or another mode.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute(f"PRAGMA journal_size_limit={8 << 20}").fetchone()
            return
    connection.execute("PRAGMA journal_mode=DELETE").fetchone()


def _is_damage(failure: sqlite3.Error) -> bool:
    return getattr(failure, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _is_busy(failure: sqlite3.Error) -> bool:
    return getattr(failure, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
