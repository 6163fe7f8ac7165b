"""The journal holds presigned URLs: it is this user's alone, and says nothing of them."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from asyncpush.journal import Journal, filesystem
from tests.fake_clock import FakeClock
from tests.journal.helpers import SCOPE, SECRET, SHA, database_file, make_identity, make_upload


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(directory: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in (directory / "journal").iterdir()}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_all_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    before = os.umask(umask)
    try:
        with Journal.open(directory) as journal:
            journal.remember_hash("/a", make_identity(), "sha256", SHA)
            assert journal.disabled_reason is None
            assert mode(directory / "journal") == 0o700
            assert set(modes(directory)) >= {"journal.sqlite3", "journal.sqlite3-wal", "locks"}
            assert {bits & 0o077 for bits in modes(directory).values()} == {0}
    finally:
        os.umask(before)


def test_new_folders_are_private_existing_keep_their_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Journal.open(tmp_path / "new" / "cache") as journal:
        assert journal.disabled_reason is None
    assert mode(tmp_path / "new" / "cache") == 0o700
    assert mode(tmp_path) == 0o755


def test_loose_modes_are_tightened(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload())
    (tmp_path / "journal").chmod(0o777)
    database_file(tmp_path).chmod(0o666)
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.find_upload(SCOPE, SHA) is not None
        assert mode(tmp_path / "journal") == 0o700
        assert {bits & 0o077 for bits in modes(tmp_path).values()} == {0}


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link to a folder"])
def test_a_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if linked:
        (tmp_path / "journal").symlink_to(theirs)
    else:
        theirs.rename(tmp_path / "journal")
        theirs = tmp_path / "journal"
    inode = theirs.stat().st_ino
    monkeypatch.setattr(filesystem, "_is_ours", lambda status: status.st_ino != inode)
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason == f"{tmp_path / 'journal'}: belongs to another user"
    assert list(theirs.iterdir()) == []


def test_ownership_is_by_effective_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path.stat()
    assert filesystem._is_ours(status)
    monkeypatch.setattr(os, "geteuid", lambda: status.st_uid + 1)
    assert not filesystem._is_ours(status)
    monkeypatch.delattr(os, "geteuid")
    assert filesystem._is_ours(status)


def test_a_link_of_ours_to_another_disk_is_followed(tmp_path: Path) -> None:
    (tmp_path / "bigger").mkdir()
    (tmp_path / "journal").symlink_to("bigger")
    with Journal.open(tmp_path) as journal:
        assert journal.disabled_reason is None
    assert mode(tmp_path / "bigger") == 0o700


def test_no_presigned_url_is_logged(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload())
        texts = [repr(journal), repr(journal.find_upload(SCOPE, SHA)), repr(journal.entries())]
        assert journal._database is not None
        journal._database._writer.execute("PRAGMA max_page_count=1").fetchone()
        journal.begin_upload(SCOPE, make_upload(parts=2000, mark=os.urandom(3000).hex()))
        texts.append(str(journal.disabled_reason))
    database_file(tmp_path).write_text("garbage " * 1000)
    Journal.open(tmp_path, clock=clock).close()
    assert len(caplog.records) == 2
    assert not [text for text in [*texts, caplog.text] if SECRET in text or "s3.example" in text]


def test_urls_of_an_ended_upload_are_erased(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload(SCOPE, make_upload(parts=50, mark="unmistakable"))
        assert journal._database is not None
        (details,) = journal._database._reader.execute("SELECT details FROM uploads").fetchone()
        journal.end_upload(SCOPE, SHA)
    assert details[:200] not in database_file(tmp_path).read_bytes()
