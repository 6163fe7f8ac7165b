"""Another process keeps the journal locked: a push says so, and does not wait for ever."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import PushOptions, UploadConfig, Uploader
from asyncpush.journal import Journal, database
from asyncpush.journal.locks import OPENING, HostLocks
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.journal.helpers import database_file, make_commit

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""

EXPECTED = "another process keeps the resume journal locked"


@contextmanager
def write_transaction(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Of another process, until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "locked\n"
            yield other
        finally:
            other.kill()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "asyncpush")
    monkeypatch.setattr(database, "WARN_AFTER", 0.1)


def test_a_long_wait_is_told_and_the_change_is_made(
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with write_transaction(database_file(tmp_path)) as other:

        def emit() -> None:
            reported.append(time.monotonic())
            other.kill()

        reported: list[float] = []
        monkeypatch.setattr(database, "_warn_of_wait", emit)
        journal.begin_commit("scope", make_commit())
        journal.flush()
    assert len(reported) == 1
    assert journal.disabled_reason is None
    assert not caplog.records


def test_a_short_wait_is_not_reported(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.begin_commit("scope", make_commit())
    journal.flush()
    assert not caplog.records


def test_opening_reports_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.3)
    locks = HostLocks.private()
    claim = locks.wait(OPENING, 1)
    assert claim is not None
    with claim, pytest.raises(database.UnusableError, match="locked by another process"):
        database.Database.open(tmp_path, locks)
    assert [EXPECTED in record.getMessage() for record in caplog.records] == [True]


@pytest.fixture
def config(config: UploadConfig, tmp_path: Path) -> UploadConfig:
    return replace(config, cache_dir=tmp_path / "cache")


def journal_of(config: UploadConfig) -> Path:
    """Created here if no push has needed it yet."""
    Journal.open(Path(config.cache_dir)).close()
    (path,) = Path(config.cache_dir).rglob("journal.sqlite3")
    return path


async def test_a_push_with_a_locked_journal_warns_and_completes(
    hub: LocalHub,
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.5)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        with write_transaction(journal_of(config)):
            options = PushOptions(create_pr=True)
            result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert result.verified
    messages = [record.getMessage() for record in caplog.records]
    assert EXPECTED in messages[0]
    assert "the resume journal is off" in messages[1]
    assert any("could not have been resumed" in warning for warning in result.warnings)


async def test_small_files_wait_for_no_lock_of_the_journal(
    hub: LocalHub,
    config: UploadConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their hashes are written behind the push."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(bytes([0, number]) * 1000)
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 3600.0)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        with write_transaction(journal_of(config)):
            result = await uploader.push_to_hub("me/m", folder)
    assert result.verified
    assert not any("the resume journal is off" in r.getMessage() for r in caplog.records)
