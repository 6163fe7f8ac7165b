"""What a push remembers across processes: hashes, open uploads with their parts, commits."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asyncpush.journal import tables
from asyncpush.journal.filesystem import (
    forget_aside,
    in_memory,
    is_neglected,
    note_cleaned,
    private_folder,
    size_on_disk,
)
from asyncpush.journal.group_commit import GroupCommit, WriteBehind
from asyncpush.journal.locks import Claim, HostLocks, HostPeers
from asyncpush.journal.tables import (
    Entry,
    HashRecord,
    OpenUpload,
    PendingCommit,
    Row,
    Stats,
    commit_row,
    hash_key,
    hash_row,
    is_of_file,
    is_settled,
    part_row,
    read_commit,
    read_hash,
    read_upload,
    upload_row,
)
from asyncpush.models import FileIdentity
from asyncpush.own_files import library_logger

if TYPE_CHECKING:
    import sqlite3

    from asyncpush.journal.database import Database

logger = library_logger("journal")

T = TypeVar("T")

EXPIRY_MARGIN = 60.0
"""Seconds for which a URL must still be valid to be worth using."""
CLOCK_SLACK = 5.0
"""Seconds by which clocks may disagree before a time in the future is rejected."""

_CLEANUP_PAUSE = 0.001
"""Seconds between two steps of housekeeping, in which others can use the database."""

_LONG_TO_HASH = 64 << 20
"""Files of this size (bytes) have their hash written at once: computing it again would take a
while."""


class Journal:
    """Remembers, in a private SQLite file, what an interrupted push need not do again.

    Nothing here makes a push fail. When the disk is full, or the file is damaged or locked for
    long, the journal turns itself off with one warning: `disabled_reason` says why; from then on
    lookups find nothing and writes are dropped. All methods may be called from any thread. They may
    wait, for the disk or for another process, and belong in a thread; `remember_hash`,
    `remember_hashes`, `store_part` and `drop_upload` never wait.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, Journal.open(Path(folder)) as journal:
    ...     journal.find_upload("https://huggingface.co/me/model", "0" * 64) is None
    True
    """

    def __init__(
        self,
        folder: Path | None,
        locks: HostLocks,
        *,
        disabled_reason: str | None = None,
        on_open: Callable[[Journal], object] = lambda journal: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a `folder` it is off."""
        self._folder = folder
        """Where the database is, until it is opened."""
        self._database: Database | None = None
        self._opening = threading.Lock()
        self._on_open = on_open
        self._pid = os.getpid()
        self._locks = locks
        self._locks_left = False
        self._disabled_reason = disabled_reason
        self._clock = clock
        self._state = threading.Lock()
        self._closing = threading.Event()
        # The multipart upload that this process means by (scope, oid): another host that shares the
        # disk may have opened a newer one, to which our parts do not belong.
        self._current: dict[tuple[str, str], int] = {}
        self._writer = GroupCommit(self._transaction)
        self._hashes = WriteBehind(lambda rows: self._write(partial(tables.put_hashes, rows=rows)))

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        at_once: bool = True,
        on_open: Callable[[Journal], object] = lambda journal: None,
        clock: Callable[[], float] = time.time,
    ) -> Journal:
        """The journal kept in the folder `journal` of `directory`; both are created if missing.

        That folder gets mode 0700 and its file 0600, and both must belong to this user. A file that
        is damaged, not a journal, or of another version is renamed to `*.corrupt-<time>` and a new
        one is created; if that fails, the journal returned is off.

        Unless this is to happen `at_once`, the file is opened when something is first looked up or
        remembered: a push of small files needs neither it nor SQLite, which takes a while to
        import. A file that nobody has cleaned up for an hour is opened at once nevertheless.
        `on_open` is called once it is open, and should clean up (`expire`).
        """
        try:
            folder = private_folder(directory)
            locks = HostLocks.shared(folder / "locks")
        except OSError as exc:
            reason = f"{exc.filename or directory}: {exc.strerror}"
            _warn_of_none(reason)
            return cls(None, HostLocks.private(), disabled_reason=reason, clock=clock)
        journal = cls(folder, locks, on_open=on_open, clock=clock)
        if at_once or is_neglected(folder):
            journal._opened()
        return journal

    def _opened(self) -> Database | None:
        """The database, opened now if it has not been needed before; None when it cannot be used.
        It stays closed in a forked child, where SQLite must not be used."""
        if self._folder is None or self._pid != os.getpid():
            return self._database
        with self._opening:
            if self._folder is None:  # another thread was faster
                return self._database
            from asyncpush.journal.database import Database, UnusableError

            try:
                self._database = Database.open(self._folder, self._locks)
            except (OSError, UnusableError) as exc:
                reason = str(exc)
                if isinstance(exc, OSError):
                    reason = f"{exc.filename or self._folder}: {exc.strerror}"
                self._disabled_reason = reason
            self._folder = None
        if self._database is None:
            _warn_of_none(self._disabled_reason)
        else:
            self._on_open(self)
        return self._database

    @property
    def _in_use(self) -> bool:
        """Whether the database is open, or will be opened when it is needed."""
        if self._pid != os.getpid():
            return False
        return self._folder is not None or (self._database is not None and self._database.is_open)

    @property
    def disabled_reason(self) -> str | None:
        """Why nothing is remembered, or None while the journal works."""
        if self._database is None:
            return self._disabled_reason
        return self._database.failure

    def close(self) -> None:
        """Close the file. Later calls, from threads still at work, do nothing."""
        self._closing.set()
        if self._in_use:
            self._hashes.close()
            self._writer.close()
        if self._pid == os.getpid():
            with self._opening:
                self._folder = None
        if self._database is not None:
            self._database.close()
        with self._state:
            left, self._locks_left = self._locks_left, True
        if not left:
            self._locks.leave()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Hashes

    def hash_of(self, path: str, identity: FileIdentity, kind: str) -> str | None:
        """The hash of the file when it had this identity. `kind`: "sha256", "git" or "xet"."""
        return self.hashes_of([(path, identity)], kind)[0]

    def hashes_of(self, files: Sequence[tuple[str, FileIdentity]], kind: str) -> list[str | None]:
        """`hash_of` for many files at once, in order."""
        if not self._in_use:
            return [None] * len(files)
        keys = [hash_key(path, kind) for path, _ in files]
        rows = self._hashes.get(keys)
        unknown = [key for key in keys if key not in rows]
        if unknown:
            rows |= self._read(partial(tables.find_hashes, keys=unknown)) or {}
        return [
            read_hash(key, identity, rows[key]) if key in rows else None
            for key, (_, identity) in zip(keys, files, strict=True)
        ]

    def remember_hash(
        self,
        path: str,
        identity: FileIdentity,
        kind: str,
        oid: str,
        *,
        identified_at: float | None = None,
    ) -> None:
        """Remember the oid of a file that had this identity before and after it was hashed.

        It is on disk a second later, together with others, or when the journal is closed.
        """
        self.remember_hashes([(path, identity, kind, oid)], identified_at=identified_at)

    def remember_hashes(
        self, items: Iterable[HashRecord], *, identified_at: float | None = None
    ) -> None:
        """`remember_hash` for many (path, identity, kind, oid) at once.

        A file that changed in the minute before it was looked at is left out: another write, by a
        memory map or within the same tick of the filesystem's clock, could still leave size and
        times unchanged, and the remembered oid would be wrong for ever (git calls such entries
        racily clean). So is any file that exists in memory only, where a memory map's writes change
        no time at all. `identified_at` is when the identity was taken (seconds since the epoch); by
        default now.
        """
        if not self._in_use:
            return
        now = self._clock()
        seen = now if identified_at is None else identified_at
        rows: dict[Row, Row] = {}
        long = False
        for path, identity, kind, oid in items:
            if is_settled(identity, seen) and not in_memory(identity.device):
                row = hash_row(path, identity, kind, oid, now)
                rows[row[:2]] = row
                long = long or identity.size >= _LONG_TO_HASH
        if rows:
            self._hashes.add(rows, urgent=long)

    def forget_hash(self, path: str) -> None:
        """Forget what is known of this path, and of what is cut out of it: the store found that the
        bytes have another hash. (Bytes can change under an unchanged identity: through mmap, or by
        tools that set mtime.)"""
        whole = hash_key(path, "")[0]
        self._hashes.drop(lambda key: is_of_file(key[0], whole))
        self._write(partial(tables.delete_hashes, path=path))

    # Uploads

    def find_upload(self, scope: str, oid: str) -> OpenUpload | None:
        """The upload of this object that can be resumed, or None. From now on parts that are stored
        belong to it: only whoever has the object's claim may call this.

        None when its URLs have expired or are about to, and when it was opened in the future: the
        clock has been set back since, so the remaining lifetime is unknown. `scope` is the endpoint
        and the repo.
        """
        number, upload = self._read_upload(scope, oid)
        if upload is None or not self._is_alive(upload):
            return None
        with self._state:
            self._current[scope, oid] = number
        return upload

    def watch_upload(self, scope: str, oid: str) -> tuple[float, int] | None:
        """When the upload of this object was opened and how many parts are stored, or None if there
        is none. For those who wait for whoever has the object's claim."""
        _, upload = self._read_upload(scope, oid)
        return None if upload is None else (upload.started_at, len(upload.etags))

    def _read_upload(self, scope: str, oid: str) -> tuple[int, OpenUpload | None]:
        found = self._read(partial(tables.find_upload, scope=scope, oid=oid), at_once=True)
        if found is None:
            return 0, None
        number, details, parts = found
        return number, read_upload(oid, details, parts)

    def begin_upload(self, scope: str, upload: OpenUpload) -> None:
        """Remember a multipart upload that was just opened, in place of any earlier one. Durable
        when this returns."""
        # Never reused, unlike a row id: a part row must not end up in a later upload.
        number = secrets.randbits(62)
        row = upload_row(number, scope, upload)
        parts = [part_row(number, part, etag) for part, etag in upload.etags.items()]

        def write(connection: sqlite3.Connection) -> None:
            tables.delete_upload(connection, scope, upload.oid)
            if row is not None:
                tables.put_upload(connection, row, parts)

        with self._state:
            self._current[scope, upload.oid] = number
        self._write(write, durable=True)

    def part_stored(self, scope: str, oid: str, part_number: int, etag: str) -> None:
        """Remember a verified part of an upload that was begun or found here. Durable when this
        returns. Concurrent calls share one sync."""
        self.store_part(scope, oid, part_number, etag).result()

    def store_part(self, scope: str, oid: str, part_number: int, etag: str) -> Future[None]:
        """Like `part_stored`, without waiting."""
        with self._state:
            upload = self._current.get((scope, oid))
        rows = [] if upload is None else [part_row(upload, part_number, etag)]
        return self._begin_write(partial(tables.put_parts, rows=rows), durable=True)

    def end_upload(self, scope: str, oid: str) -> None:
        """The object is stored, or its upload no longer exists: forget it, its URLs and its
        parts."""
        self.drop_upload(scope, oid).result()

    def drop_upload(self, scope: str, oid: str) -> Future[None]:
        """Like `end_upload`, without waiting."""
        with self._state:
            self._current.pop((scope, oid), None)
        return self._begin_write(partial(tables.delete_upload, scope=scope, oid=oid))

    def _is_alive(self, upload: OpenUpload) -> bool:
        now = self._clock()
        return upload.started_at <= now + CLOCK_SLACK and upload.expires_at >= now + EXPIRY_MARGIN

    # Commits

    def take_commit(self, scope: str, commit: PendingCommit) -> tuple[PendingCommit, Claim | None]:
        """Remember that this commit is about to be requested. Durable when this returns.

        If an earlier push of the same content ended without knowing the outcome, its record is
        returned instead, and is now this push's. A record whose push is still running is left to
        it: the claim says so until it is released or the process ends.
        """
        for known in self.pending_commits(scope, commit.fingerprint):
            claim = self._claim_commit(scope, known)
            if claim is None:
                continue
            # Its push may have ended between the two steps.
            if known in self.pending_commits(scope, commit.fingerprint):
                return known, claim
            claim.release()
        claim = self._claim_commit(scope, commit)
        self.begin_commit(scope, commit)
        return commit, claim

    def _claim_commit(self, scope: str, commit: PendingCommit) -> Claim | None:
        return self._locks.claim(scope, f"commit {commit.push_id}")

    def begin_commit(self, scope: str, commit: PendingCommit) -> None:
        """Remember that this commit is about to be requested. Durable when this returns."""
        row = commit_row(scope, commit)
        self._write(partial(tables.put_commit, row=row), durable=True)

    def pending_commits(self, scope: str, fingerprint: str) -> list[PendingCommit]:
        """The commits that were requested without their answer having been seen, oldest first."""
        found = self._read(partial(tables.find_commits, scope=scope, fingerprint=fingerprint))
        commits = (read_commit(fingerprint, details) for details in found or [])
        return [commit for commit in commits if commit is not None]

    def has_pending_commits(self, scope: str) -> bool:
        """Whether any commit to this repo was requested without its answer having been seen."""
        return bool(self._read(partial(tables.count_commits, scope=scope)))

    def end_commit(self, scope: str, commit: PendingCommit) -> None:
        """The commit's outcome is known."""
        self._write(partial(tables.delete_commit, scope=scope, commit=commit), durable=True)

    # Processes

    def claim(self, scope: str, oid: str) -> Claim | None:
        """The exclusive right, on this host, to upload this object; None while another has it.

        Held until released, or until this process ends in whatever way. Also exclusive between the
        tasks and threads of one process. A journal that is off still gives claims.
        """
        return self._locks.claim(scope, oid)

    def peers(self) -> HostPeers:
        """The uploaders of this host that share this journal."""
        return HostPeers(self._locks)

    # Housekeeping

    def expire(self, within: float = math.inf) -> int:
        """Forget what is too old to be useful; returns how many hashes, uploads and commits: none
        as long as the database has not been needed.

        After `within` seconds, or when the journal is closed meanwhile, the rest is left for next
        time. Times far in the future come from a wrong clock, and are removed as well.
        """
        if self._database is None:
            return 0
        database = self._database
        deadline = time.monotonic() + within
        gone = 0
        while some := self._write(partial(tables.expire_some, now=self._clock())) or 0:
            gone += some
            if time.monotonic() >= deadline or self._closing.wait(_CLEANUP_PAUSE):
                break
        else:
            note_cleaned(database.path)
        while gone and database.compact_some():
            if time.monotonic() >= deadline or self._closing.wait(_CLEANUP_PAUSE):
                return gone
        if gone:
            database.compact()
        return gone

    def clear(self) -> int:
        """Forget everything, including files set aside as damaged; returns how many entries that
        were."""
        database = self._opened()
        if database is None:
            return 0
        self.flush()
        gone = self._write(tables.clear, durable=True) or 0
        database.compact()
        with contextlib.suppress(OSError):
            gone += forget_aside(database.path)
        return gone

    def flush(self) -> None:
        """Returns when everything is written."""
        if self._in_use:
            self._hashes.flush()

    def entries(self) -> list[Entry]:
        """The open uploads and pending commits, oldest first."""
        return self._read(tables.entries, at_once=True) or []

    def stats(self) -> Stats:
        """How much is remembered."""
        self.flush()
        counts = self._read(tables.counts, at_once=True) or dict.fromkeys(tables.TABLES, 0)
        path = None if self._database is None else self._database.path
        return Stats(
            path="" if path is None else str(path),
            size=0 if path is None else size_on_disk(path),
            **counts,
            disabled_reason=self.disabled_reason,
        )

    def _read(self, work: Callable[[sqlite3.Connection], T], *, at_once: bool = False) -> T | None:
        database = self._opened()
        return None if database is None else database.read(work, at_once=at_once)

    def _write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T | None:
        return self._begin_write(work, durable=durable).result()

    def _begin_write(
        self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False
    ) -> Future[T | None]:
        if self._opened() is not None and self._in_use:
            return self._writer.add(work, durable=durable)
        nothing: Future[T | None] = Future()
        nothing.set_result(None)
        return nothing

    def _transaction(
        self, work: Callable[[sqlite3.Connection], list[Any]], durable: bool
    ) -> list[Any] | None:
        return None if self._database is None else self._database.write(work, durable=durable)


def _warn_of_none(reason: str | None) -> None:
    logger.warning("no resume journal: %s; continuing without it", reason)


class NullJournal(Journal):
    """Remembers nothing, as `resume=False` asks. Its claims exclude only its own users."""

    def __init__(self, disabled_reason: str = "resume is off") -> None:
        super().__init__(None, HostLocks.private(), disabled_reason=disabled_reason)
