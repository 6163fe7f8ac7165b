from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncpush.journal import Journal
from tests.fake_clock import NOW, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Iterator[Journal]:
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.disabled_reason is None
        yield journal
