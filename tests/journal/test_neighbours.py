"""Uploaders of one host know how many they are."""

from __future__ import annotations

from pathlib import Path

from asyncpush.journal import Journal, Neighbours, NullJournal
from asyncpush.journal.neighbours import SEATS


def test_each_counts_all_that_are_there(tmp_path: Path) -> None:
    journals = [Journal.open(tmp_path / "journal") for _ in range(3)]
    sitting = [Neighbours(journal) for journal in journals]
    assert [neighbours.count() for neighbours in sitting] == [3, 3, 3]
    sitting[1].leave()
    sitting[1].leave()
    assert sitting[0].count() == 2
    for neighbours, journal in zip(sitting, journals, strict=True):
        neighbours.leave()
        journal.close()


def test_a_full_house_is_counted_as_full() -> None:
    journal = NullJournal()
    sitting = [Neighbours(journal) for _ in range(SEATS + 1)]
    assert sitting[-1].count() == SEATS
    for neighbours in sitting:
        neighbours.leave()
    journal.close()
