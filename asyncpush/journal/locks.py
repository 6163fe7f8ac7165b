"""Locks between the processes of one host that die with their holder.

All locks of a journal are single bytes of one file, locked through POSIX `fcntl`. Three reasons
against `flock` on a file each: a forked child (a data loader's worker) does not inherit POSIX
locks, so it cannot keep its dead parent's alive; nothing is left behind that would have to be
deleted, which cannot be done without a race; and NFS knows them. Their price is that closing *any*
descriptor of the file drops every lock the process has on it, hence the registry: a process opens
the file once. What the kernel does not do, exclusion within the process, is a set.

Without `fcntl` (Windows), or on a filesystem without locks, exclusion ends at the process: another
one may then send the same bytes, which costs time and harms nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import struct
import sys
import threading
import time
from functools import cache
from pathlib import Path

from asyncpush.own_files import library_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


logger = library_logger("journal")

OPENING = 0
"""The byte that is locked while the journal's files are checked, created or set aside."""

_POLL = 0.02

_FLOCK = {"linux": ("hhqqi", 0, 2, 3), "darwin": ("qqihh", 3, 0, 1)}
"""The layout of `struct flock`, and the positions of type, start and length in it (with 64-bit
pointers)."""


class HostLocks:
    """The locks in one file (`shared`), or within this journal only (`private`)."""

    def __init__(self, key: str, descriptor: int | None) -> None:
        self._key = key
        self._descriptor = descriptor
        self._held: set[int] = set()
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._users = 1

    @classmethod
    def private(cls) -> HostLocks:
        """Locks within this journal only: for a journal without files."""
        return cls("", None)

    @classmethod
    def shared(cls, path: Path) -> HostLocks:
        """The locks in the file at `path`, created if missing. Raises `OSError` if it cannot be.
        Each call needs one `leave()`."""
        key = os.path.realpath(path)
        with _registry_guard:
            locks = _registry.get(key)
            if locks is not None and locks._is_at(key):
                locks._users += 1
                return locks
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            locks = cls(key, os.open(key, flags, 0o600))
            _registry[key] = locks
            return locks

    def leave(self) -> None:
        """One user fewer; the file is closed after the last."""
        with _registry_guard:
            self._users -= 1
            if self._users == 0 and self._descriptor is not None:
                if _registry.get(self._key) is self:
                    del _registry[self._key]
                os.close(self._descriptor)
                self._descriptor = None

    def _is_at(self, path: str) -> bool:
        """Whether the open file is still the one with that name."""
        try:
            return self._descriptor is not None and os.path.samestat(
                os.fstat(self._descriptor), os.stat(path)
            )
        except OSError:
            return False

    def claim(self, scope: str, oid: str) -> Claim | None:
        """The lock on this object, or None while a living process has it."""
        position = _position(f"{scope}\0{oid}")
        return Claim(self, position) if self._try_lock(position) else None

    def claim_any(self, name: str, count: int) -> Claim | None:
        """One of the `count` locks of this name, whichever is free; None when none is."""
        first, begin = _position(name), random.randrange(count)
        for number in range(count):
            position = first + (begin + number) % count
            if self._try_lock(position):
                return Claim(self, position)
        return None

    def count_claimed(self, name: str, count: int) -> int:
        """How many of these locks are held, by this process or others. None is taken for that, so
        others that count or claim at the same time are not misled."""
        first = _position(name)
        with self._guard:
            self._forget_parents()
            own = {position for position in self._held if first <= position < first + count}
            if sys.platform == "win32" or self._descriptor is None or fcntl is None:
                return len(own)
            try:
                if sys.platform in _FLOCK and sys.maxsize > 1 << 32:
                    return len(own) + self._held_by_others(first, first + count)
                return len(own) + self._refused(set(range(first, first + count)) - own)
            except OSError as exc:  # as for `_try_lock_host`
                logger.debug("cannot count locks in %s: %s", self._key, exc.strerror)
                return len(own)

    def wait(self, position: int, timeout: float) -> Claim | None:
        """The lock at `position`, or None when it is not free within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self._try_lock(position):
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL)
        return Claim(self, position)

    def _try_lock(self, position: int) -> bool:
        with self._guard:
            self._forget_parents()
            if position in self._held or not self._try_lock_host(position):
                return False
            self._held.add(position)
        with _registry_guard:
            self._users += 1
        return True

    def _forget_parents(self) -> None:
        if self._pid != os.getpid():  # Forked: the locks stayed with the parent.
            self._pid = os.getpid()
            self._held.clear()

    def _held_by_others(self, start: int, stop: int) -> int:
        """Bytes from `start` to `stop` that other processes have locked. The kernel reports one
        lock of a range at a time, not always the first."""
        if sys.platform == "win32" or start >= stop:
            return 0
        layout, *fields = _FLOCK[sys.platform]
        values = [0] * 5
        for field, value in zip(fields, (fcntl.F_WRLCK, start, stop - start), strict=True):
            values[field] = value
        answer = fcntl.fcntl(self._descriptor or 0, fcntl.F_GETLK, struct.pack(layout, *values))
        answered = struct.unpack(layout, answer)
        kind, begin, length = (int(answered[field]) for field in fields)
        if kind == int(fcntl.F_UNLCK):
            return 0
        begin, end = max(begin, start), min(begin + length if length else stop, stop)
        if (
            begin >= end
        ):  # An impossible answer: counting one too few is better than looping for ever.
            return 0
        others = self._held_by_others(start, begin) + self._held_by_others(end, stop)
        return end - begin + others

    def _refused(self, positions: set[int]) -> int:
        """For how many of these a shared lock is refused. Others may hold shared locks, which count
        as well. Whoever claims one at that moment takes the next."""
        refused = 0
        if sys.platform == "win32":
            return refused
        for position in positions:
            try:
                fcntl.lockf(self._descriptor or 0, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, position)
            except (BlockingIOError, PermissionError):
                refused += 1
            else:
                fcntl.lockf(self._descriptor or 0, fcntl.LOCK_UN, 1, position)
        return refused

    def _try_lock_host(self, position: int) -> bool:
        if sys.platform == "win32" or self._descriptor is None or fcntl is None:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as exc:  # ENOLCK, EOPNOTSUPP, ENOSYS: the filesystem has no locks
            logger.debug("file locks do not work on %s: %s", self._key, exc.strerror)
        return True

    def _unlock(self, position: int) -> None:
        with self._guard:
            self._held.discard(position)
            if sys.platform != "win32" and self._descriptor is not None and fcntl is not None:
                try:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, position)
                except OSError as exc:
                    logger.debug("cannot unlock in %s: %s", self._key, exc.strerror)
        self.leave()


def _position(name: str) -> int:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return 1 + (int.from_bytes(digest[:8], "big") >> 2)  # off_t is signed; byte 0 is OPENING


_registry: dict[str, HostLocks] = {}
_registry_guard = threading.Lock()


def _renew_guards() -> None:
    """In a forked child: threads of the parent may have held them."""
    global _registry_guard
    _registry_guard = threading.Lock()
    for locks in _registry.values():
        locks._guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guards)


class Claim:
    """The right to upload one object, until `release()`, the end of `with`, or of the process."""

    __slots__ = ("_locks", "_pid", "_position")

    def __init__(self, locks: HostLocks, position: int) -> None:
        self._locks = [
            locks
        ]  # Popped only once, however often this is called, and by which threads.
        self._position = position
        self._pid = os.getpid()

    def release(self) -> None:
        """Let another have it. May be called twice, and from any thread."""
        if self._pid != os.getpid():  # A forked child's copy of the claim is not the claim.
            return
        with contextlib.suppress(IndexError):
            self._locks.pop()._unlock(self._position)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

PEERS_LIMIT = 64
"""The number of uploaders on one host is capped at this."""


class HostPeers:
    """The uploaders of this host that are pushing now. All methods may wait for the filesystem, and
    belong in a thread."""

    def __init__(self, locks: HostLocks) -> None:
        """`locks` are those of the journal that the host's uploaders share."""
        self._locks = locks
        self._claim_of_peer: Claim | None = None

    def join(self) -> None:
        """Count as one of them, until `leave` or the end of the process."""
        if self._claim_of_peer is None:
            self._claim_of_peer = self._locks.claim_any(_peer_lock_name(), PEERS_LIMIT)

    def count(self) -> int:
        """The number of uploaders, this one included."""
        return max(1, self._locks.count_claimed(_peer_lock_name(), PEERS_LIMIT))

    def leave(self) -> None:
        """No longer count as one of them; may be called again."""
        if self._claim_of_peer is not None:
            self._claim_of_peer.release()
            self._claim_of_peer = None


@cache
def _peer_lock_name() -> str:
    """The name of this host's locks: hosts that share a home directory share the file."""
    try:
        host = BOOT_ID.read_text().strip()
    except OSError:  # Not Linux. Containers of one host have this in common, though not a hostname.
        host = platform.node()
    return f"uploaders of {host}"
