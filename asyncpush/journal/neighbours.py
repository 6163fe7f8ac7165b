"""How many uploaders run on this host: those who share its network should share its limits."""

from __future__ import annotations

from asyncpush.journal.journal import Journal, NullJournal
from asyncpush.journal.locks import Claim

SEATS = 64
"""More uploaders than this on one host are counted as this many."""

_SCOPE = "uploaders of this host"


class Neighbours:
    """A seat among the host's uploaders, held until `leave` or the end of the process."""

    def __init__(self, journal: Journal | NullJournal) -> None:
        self._journal = journal
        self._seat: Claim | None = None
        self._number = 0
        for number in range(SEATS):
            self._seat = journal.claim(_SCOPE, str(number))
            if self._seat is not None:
                self._number = number
                return

    def count(self) -> int:
        """Uploaders that are alive now, this one included."""
        taken = 1
        for number in range(SEATS):
            if number == self._number and self._seat is not None:
                continue
            seat = self._journal.claim(_SCOPE, str(number))
            if seat is None:
                taken += 1
            else:
                seat.release()
        return min(taken, SEATS)

    def leave(self) -> None:
        if self._seat is not None:
            self._seat.release()
            self._seat = None
