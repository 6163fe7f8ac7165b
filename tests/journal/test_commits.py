from __future__ import annotations

from pathlib import Path

import pytest

from asyncpush.journal import Claim, Journal, PendingCommit
from asyncpush.journal.tables import pack, read_commit
from tests.fake_clock import NOW, FakeClock
from tests.journal.helpers import (
    DAY,
    SCOPE,
    SHA,
    connection_of,
    make_commit,
    make_identity,
    make_upload,
)


def test_a_pending_commit_is_remembered(tmp_path: Path, clock: FakeClock) -> None:
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_commit(SCOPE, make_commit())
    with Journal.open(tmp_path, clock=clock) as journal:
        assert journal.pending_commits(SCOPE, "f1") == [make_commit()]
        assert journal.pending_commits(SCOPE, "f2") == []
        assert journal.pending_commits(SCOPE, "f") == []
        assert journal.pending_commits("other", "f1") == []
        journal.end_commit(SCOPE, make_commit())
        assert journal.pending_commits(SCOPE, "f1") == []


def test_an_update_replaces_a_pending_commit(journal: Journal) -> None:
    journal.begin_commit(SCOPE, make_commit())
    again = make_commit(created_at=NOW + 1)
    journal.begin_commit(SCOPE, again)
    assert journal.pending_commits(SCOPE, "f1") == [again]
    assert journal.stats().commits == 1


def test_pushes_of_one_content_have_a_record_each(tmp_path: Path, clock: FakeClock) -> None:
    """Two journals stand for two processes: neither replaces, takes or removes the other's."""
    left, right = make_commit(push_id="left"), make_commit(push_id="right", created_at=NOW + 1)
    with (
        Journal.open(tmp_path, clock=clock) as ours,
        Journal.open(tmp_path, clock=clock) as theirs,
    ):
        taken, left_claim = ours.take_commit(SCOPE, left)
        also_taken, right_claim = theirs.take_commit(SCOPE, right)
        assert (taken, also_taken) == (left, right)
        assert ours.pending_commits(SCOPE, "f1") == [left, right]
        theirs.end_commit(SCOPE, right)
        assert ours.pending_commits(SCOPE, "f1") == [left]
        for claim in (left_claim, right_claim):
            assert claim is not None
            claim.release()


def test_the_record_of_an_ended_push_is_taken_once(journal: Journal) -> None:
    journal.begin_commit(SCOPE, make_commit(push_id="lost"))
    taken, claim = journal.take_commit(SCOPE, make_commit(push_id="second"))
    also_taken, _ = journal.take_commit(SCOPE, make_commit(push_id="third"))
    assert (taken.push_id, also_taken.push_id) == ("lost", "third")
    assert claim is not None
    claim.release()
    assert journal.take_commit(SCOPE, make_commit(push_id="fourth"))[0].push_id == "lost"


def test_a_record_removed_while_it_is_claimed_is_not_taken(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = make_commit(push_id="lost")
    journal.begin_commit(SCOPE, lost)
    claim_commit = journal._claim_commit

    def removed_first(scope: str, commit: PendingCommit) -> Claim | None:
        journal.end_commit(scope, lost)
        return claim_commit(scope, commit)

    monkeypatch.setattr(journal, "_claim_commit", removed_first)
    own = make_commit(push_id="own")
    assert journal.take_commit(SCOPE, own)[0] == own
    assert claim_commit(SCOPE, lost) is not None  # released


def test_the_record_of_an_earlier_version_is_found_and_removed(journal: Journal) -> None:
    journal.begin_commit(SCOPE, make_commit())
    connection_of(journal).execute("UPDATE commits SET fingerprint = ?", (b"f1",))
    assert journal.pending_commits(SCOPE, "f1") == [make_commit()]
    journal.end_commit(SCOPE, make_commit(push_id="another"))
    assert journal.pending_commits(SCOPE, "f1") == [make_commit()]
    journal.end_commit(SCOPE, make_commit())
    assert journal.pending_commits(SCOPE, "f1") == []


def test_a_commit_that_an_earlier_version_wrote_is_read() -> None:
    details = pack(["push-1", "0" * 40, True, 12.5, None])
    assert read_commit("f1", details) == PendingCommit("push-1", "f1", 12.5)


def test_a_commit_of_the_future_is_still_looked_for(journal: Journal, clock: FakeClock) -> None:
    clock.now -= DAY / 2  # believing too much costs a look at the head, too little a second commit
    journal.begin_commit(SCOPE, make_commit())
    assert journal.expire() == 0
    assert journal.pending_commits(SCOPE, "f1") == [make_commit()]


def test_a_damaged_commit_is_none(journal: Journal) -> None:
    journal.begin_commit(SCOPE, make_commit())
    connection_of(journal).execute("UPDATE commits SET details = x'00'")
    assert journal.pending_commits(SCOPE, "f1") == []


def test_commits_expire(journal: Journal, clock: FakeClock) -> None:
    journal.begin_commit(SCOPE, make_commit("old"))
    clock.now += 4 * DAY
    journal.begin_commit(SCOPE, make_commit("new", created_at=clock.now))
    clock.now += 4 * DAY
    assert journal.expire() == 1
    assert len(journal.pending_commits(SCOPE, "new")) == 1


def test_entries_show_what_is_open_oldest_first_without_credentials(journal: Journal) -> None:
    journal.begin_commit("https://user:pass@hub.example/me/m", make_commit(created_at=NOW + 1))
    journal.begin_upload(SCOPE, make_upload(etags={1: "e"}))
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    upload, commit = journal.entries()
    assert (upload.kind, upload.scope, upload.oid, upload.size) == ("upload", SCOPE, SHA, 300)
    assert (upload.parts_stored, upload.parts_total) == (1, 3)
    assert (upload.created_at, upload.expires_at) == (NOW, NOW + DAY)
    assert (commit.kind, commit.oid) == ("commit", "f1")
    assert commit.scope == "https://hub.example/me/m"


def test_stats_count_what_is_remembered(journal: Journal, tmp_path: Path) -> None:
    journal.begin_commit(SCOPE, make_commit())
    journal.begin_upload(SCOPE, make_upload(etags={1: "e", 2: "e"}))
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    stats = journal.stats()
    assert (stats.hashes, stats.uploads, stats.parts, stats.commits) == (1, 1, 2, 1)
    assert stats.path == str(tmp_path / "journal" / "journal.sqlite3")
    assert stats.size > 4096
    assert stats.disabled_reason is None


def test_clear_forgets_everything_and_gives_the_room_back(journal: Journal, tmp_path: Path) -> None:
    journal.begin_commit(SCOPE, make_commit())
    journal.begin_upload(SCOPE, make_upload(etags={1: "e", 2: "e"}))
    journal.remember_hashes(
        (f"/{number}", make_identity(), "sha256", SHA) for number in range(5_000)
    )
    aside = tmp_path / "journal" / "journal.sqlite3.corrupt-20200101T000000"
    aside.touch()
    Path(f"{aside}-wal").touch()
    before = journal.stats().size
    assert journal.clear() == 5_003
    assert journal.entries() == []
    assert journal.stats().size < before / 5
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == [
        "journal.sqlite3",
        "journal.sqlite3-shm",
        "journal.sqlite3-wal",
        "locks",
    ]
    journal.remember_hash("/a", make_identity(), "sha256", SHA)
    assert journal.hash_of("/a", make_identity(), "sha256") == SHA
