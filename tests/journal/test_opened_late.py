"""The database is opened when something is first looked up or remembered, and not before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import PushOptions, UploadConfig, Uploader
from asyncpush.journal import Journal
from asyncpush.journal.database import Database
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.fake_clock import FakeClock
from tests.journal.helpers import SCOPE, SHA, database_file, make_identity, make_upload

Use = Callable[[Journal], object]

USES = {
    "look up a hash": lambda journal: journal.hash_of("/a", make_identity(), "sha256"),
    "forget a hash": lambda journal: journal.forget_hash("/a"),
    "find an upload": lambda journal: journal.find_upload(SCOPE, SHA),
    "begin an upload": lambda journal: journal.begin_upload(SCOPE, make_upload()),
    "end an upload": lambda journal: journal.end_upload(SCOPE, SHA),
    "find a commit": lambda journal: journal.pending_commits(SCOPE, "f1"),
    "read the statistics": lambda journal: journal.entries(),
    "clear": lambda journal: journal.clear(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_use_opens_it(tmp_path: Path, use: Use, clock: FakeClock) -> None:
    opened: list[Journal] = []
    with Journal.open(tmp_path, at_once=False, on_open=opened.append, clock=clock) as journal:
        assert not database_file(tmp_path).exists()
        use(journal)
        use(journal)
        assert database_file(tmp_path).exists()
        assert opened == [journal]


def test_what_is_not_used_leaves_no_file(tmp_path: Path) -> None:
    with Journal.open(tmp_path, at_once=False) as journal:
        assert journal.expire() == 0
        assert journal.disabled_reason is None
        with journal.claim(SCOPE, SHA) or pytest.fail("there is nobody else"):
            assert journal.claim(SCOPE, SHA) is None
        journal.flush()
    assert not database_file(tmp_path).exists()
    assert journal.hash_of("/a", make_identity(), "sha256") is None
    journal.begin_upload(SCOPE, make_upload())
    assert not database_file(tmp_path).exists(), "it was closed"


@pytest.mark.parametrize(
    ("age", "opened"),
    [(0, False), (3500, False), (3700, True), (-3700, True)],
    ids=["new", "lately", "long ago", "in the future"],
)
def test_an_uncleaned_journal_is_opened_at_once(tmp_path: Path, age: float, opened: bool) -> None:
    Journal.open(tmp_path).close()
    modified_at = time.time() - age
    os.utime(database_file(tmp_path), (modified_at, modified_at))
    found: list[Journal] = []
    with Journal.open(tmp_path, at_once=False, on_open=found.append) as journal:
        assert found == [journal] * opened
        journal.expire()
    assert (
        abs(database_file(tmp_path).stat().st_mtime - (time.time() if opened else modified_at)) < 60
    )


def test_the_last_hash_is_on_disk_after_close(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, at_once=False, clock=clock) as journal:
        journal.remember_hash("/a", make_identity(), "sha256", SHA)
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.hash_of("/a", make_identity(), "sha256") == SHA


def test_threads_that_need_it_at_the_same_time_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    opened: list[Database] = []
    begun = threading.Barrier(8)
    original = Database.open.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Database], *args: object) -> Database:
        opened.append(original(cls, *args))
        return opened[-1]

    monkeypatch.setattr(Database, "open", classmethod(counted))
    with Journal.open(tmp_path, at_once=False, clock=clock) as journal:

        def begin(number: int) -> None:
            begun.wait()
            journal.begin_upload(SCOPE, make_upload(f"{number:064}"))

        threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 1
        assert journal.stats().uploads == 8


def test_a_file_that_cannot_be_opened_then_turns_it_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal.open(tmp_path, at_once=False) as journal:
        database_file(tmp_path).mkdir()
        database_file(tmp_path).joinpath("a").touch()
        (tmp_path / "journal").chmod(0o500)
        journal.begin_upload(SCOPE, make_upload())
        assert journal.find_upload(SCOPE, SHA) is None
        if os.geteuid():  # root may set it aside nevertheless, and begin a new one
            assert journal.disabled_reason is not None
            (record,) = caplog.records
            assert record.getMessage().startswith("no resume journal: ")
        (tmp_path / "journal").chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_does_not_open_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path, at_once=False) as journal:
        child = os.fork()
        if not child:
            journal.begin_upload(SCOPE, make_upload())
            os._exit(int(database_file(tmp_path).exists()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("a.txt", PushOptions(), False),
        ("a.bin", PushOptions(), True),
        ("a.txt", PushOptions(create_pr=True), True),
    ],
    ids=["a regular file", "an LFS file", "a pull request"],
)
async def test_a_push_opens_it_if_it_has_something_to_remember(
    hub: LocalHub,
    config: UploadConfig,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: PushOptions,
    needed: bool,
) -> None:
    expired: list[Journal] = []
    monkeypatch.setattr(Journal, "expire", lambda journal, within: expired.append(journal))
    config = replace(config, transfer="lfs")
    async with Uploader(TOKEN, hub.url, config) as up:
        await up.push_to_hub("me/late", {"first.txt": b"1"})
        assert not database_file(Path(config.cache_dir)).exists()
        result = await up.push_to_hub("me/late", write({name: "text"}), options)
    assert result.verified
    assert database_file(Path(config.cache_dir)).exists() is needed
    assert len(expired) == needed
