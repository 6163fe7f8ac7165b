from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncpush.journal import Journal
from tests.clocks import NOW, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        yield journal
