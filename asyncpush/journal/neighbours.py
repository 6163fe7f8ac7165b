"""How many uploaders push on this host now: those who share its network should share its limits."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from asyncpush.journal.locks import Claim, HostLocks

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SEATS = 64
"""More uploaders than this on one host are counted as this many."""


class Neighbours:
    """The uploaders of this host that push at the moment. All methods may wait for the filesystem,
    and belong in a thread."""

    def __init__(self, locks: HostLocks) -> None:
        """`locks` are those of the journal that the host's uploaders have in common."""
        self._locks = locks
        self._seat: Claim | None = None

    def join(self) -> None:
        """Be one of them, until `leave` or the end of the process."""
        if self._seat is None:
            self._seat = self._locks.claim_any(_seats(), SEATS)

    def count(self) -> int:
        """How many there are, this one included."""
        return max(1, self._locks.count_claimed(_seats(), SEATS))

    def leave(self) -> None:
        """Be none of them any more; once more does no harm."""
        if self._seat is not None:
            self._seat.release()
            self._seat = None


@cache
def _seats() -> str:
    """The name of this host's seats: hosts that share a home directory share its locks."""
    try:
        host = BOOT_ID.read_text().strip()
    except OSError:  # not Linux. Containers of one host have that in common, though not a name
        host = platform.node()
    return f"uploaders of {host}"
