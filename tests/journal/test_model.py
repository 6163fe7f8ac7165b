"""The journal against a few dicts: whatever is done in whatever order, they agree."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncpush.journal import Journal, OpenUpload, PendingCommit
from asyncpush.models import FileIdentity
from tests.fake_clock import NOW, FakeClock
from tests.journal.helpers import DAY, HOUR, make_upload
from tests.scratch import in_memory

PATHS = st.sampled_from(["/a", "/b", "/ü\udcff"])
SIZES = st.integers(0, 2)
KINDS = st.sampled_from(["sha256", "git"])
SCOPES = st.sampled_from(["one", "two"])
OIDS = st.sampled_from(["ab" * 32, "cd" * 32])
FINGERPRINTS = st.sampled_from(["f", "g"])
PUSH_IDS = st.text(max_size=5) | st.sampled_from(["push-1", "push-2"])
ETAGS = st.text(max_size=5) | st.sampled_from(['"d41d8"', "\udcff"])
PARTS = st.integers(1, 4)


class JournalModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=in_memory()))
        self.clock = FakeClock(NOW)
        self.journals = [Journal.open(self.directory, clock=self.clock) for _ in range(2)]
        self.current = 0
        self.hashes: dict[tuple[str, str], tuple[FileIdentity, str, float]] = {}
        self.uploads: dict[tuple[str, str], OpenUpload] = {}
        self.commits: dict[tuple[str, str, str], PendingCommit] = {}
        # Which upload each journal means: the objects are told apart by identity.
        self.meant: list[dict[tuple[str, str], object]] = [{}, {}]
        self.generation: dict[tuple[str, str], object] = {}

    def teardown(self) -> None:
        for journal in self.journals:
            assert journal.disabled_reason is None
            journal.close()
        shutil.rmtree(self.directory)

    @property
    def journal(self) -> Journal:
        return self.journals[self.current]

    @rule(current=st.integers(0, 1))
    def go_on_in_another_process(self, current: int) -> None:
        self.current = current

    @rule()
    def start_anew(self) -> None:
        self.journal.close()
        self.journals[self.current] = Journal.open(self.directory, clock=self.clock)
        self.meant[self.current] = {}

    @rule(seconds=st.sampled_from([1.0, HOUR, DAY - 30, 8 * DAY, 91 * DAY, -2.0, -HOUR]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(path=PATHS, size=SIZES, kind=KINDS, age=st.sampled_from([0.0, 59.0, HOUR]))
    def remember_hash(self, path: str, size: int, kind: str, age: float) -> None:
        identity = FileIdentity(1, 2, size, int((self.clock.now - age) * 1000) * 1_000_000 + 1)
        oid = f"{size:0{64 if kind == 'sha256' else 40}x}"
        self.journal.remember_hash(path, identity, kind, oid)
        if age > 60:
            self.hashes[path, kind] = identity, oid, self.clock.now

    @rule(path=PATHS)
    def forget_hash(self, path: str) -> None:
        self.journal.forget_hash(path)
        for kind in ("sha256", "git"):
            self.hashes.pop((path, kind), None)

    @rule(scope=SCOPES, oid=OIDS, etags=st.dictionaries(PARTS, ETAGS), lifetime=st.integers(-1, 9))
    def begin_upload(self, scope: str, oid: str, etags: dict[int, str], lifetime: int) -> None:
        upload = make_upload(
            oid, parts=4, etags=etags, started_at=self.clock.now, lifetime=lifetime * DAY
        )
        self.journal.begin_upload(scope, upload)
        self.uploads.pop((scope, oid), None)
        self.generation[scope, oid] = self.meant[self.current][scope, oid] = object()
        if lifetime > 0:
            expires_at = min(upload.expires_at, self.clock.now + 7 * DAY)
            self.uploads[scope, oid] = replace(upload, expires_at=expires_at)

    @rule(scope=SCOPES, oid=OIDS, part=PARTS, etag=ETAGS)
    def part_stored(self, scope: str, oid: str, part: int, etag: str) -> None:
        self.journal.part_stored(scope, oid, part, etag)
        key = scope, oid
        meant = self.meant[self.current].get(key)
        if key in self.uploads and meant is not None and meant is self.generation[key]:
            upload = self.uploads[key]
            self.uploads[key] = replace(upload, etags={**upload.etags, part: etag})

    @rule(scope=SCOPES, oid=OIDS)
    def find_upload(self, scope: str, oid: str) -> None:
        found = self.journal.find_upload(scope, oid)
        assert found == self.expected_upload(scope, oid)
        if found is not None:
            self.meant[self.current][scope, oid] = self.generation[scope, oid]

    @rule(scope=SCOPES, oid=OIDS)
    def end_upload(self, scope: str, oid: str) -> None:
        self.journal.end_upload(scope, oid)
        self.uploads.pop((scope, oid), None)
        self.meant[self.current].pop((scope, oid), None)

    @rule(scope=SCOPES, fingerprint=FINGERPRINTS, push_id=PUSH_IDS)
    def begin_commit(self, scope: str, fingerprint: str, push_id: str) -> None:
        commit = PendingCommit(push_id, fingerprint, self.clock.now)
        self.journal.begin_commit(scope, commit)
        self.commits[scope, fingerprint, push_id] = commit

    @rule(scope=SCOPES, fingerprint=FINGERPRINTS, push_id=PUSH_IDS)
    def end_commit(self, scope: str, fingerprint: str, push_id: str) -> None:
        self.journal.end_commit(scope, PendingCommit(push_id, fingerprint, self.clock.now))
        self.commits.pop((scope, fingerprint, push_id), None)

    @rule()
    def expire(self) -> None:
        now = self.clock.now
        before = len(self.hashes) + len(self.uploads) + len(self.commits)
        self.hashes = {
            key: row for key, row in self.hashes.items() if now - 90 * DAY <= row[2] <= now + DAY
        }
        self.uploads = {
            key: upload
            for key, upload in self.uploads.items()
            if upload.expires_at >= now and upload.started_at <= now + DAY
        }
        self.commits = {
            key: commit
            for key, commit in self.commits.items()
            if now - 7 * DAY <= commit.created_at <= now + DAY
        }
        after = len(self.hashes) + len(self.uploads) + len(self.commits)
        assert self.journal.expire() == before - after

    @rule()
    def clear(self) -> None:
        assert self.journal.clear() == len(self.hashes) + len(self.uploads) + len(self.commits)
        self.hashes, self.uploads, self.commits = {}, {}, {}

    @invariant()
    def agree(self) -> None:
        for (path, kind), (identity, oid, *_) in self.hashes.items():
            assert self.journal.hash_of(path, identity, kind) == oid
            assert self.journal.hash_of(path, replace(identity, inode=3), kind) is None
        for scope in ("one", "two"):
            for fingerprint in ("f", "g"):
                expected = [
                    commit
                    for key, commit in self.commits.items()
                    if key[:2] == (scope, fingerprint)
                ]
                found = self.journal.pending_commits(scope, fingerprint)
                assert sorted(found, key=repr) == sorted(expected, key=repr)
        stats = self.journal.stats()
        assert stats.hashes == len(self.hashes)
        assert stats.uploads == len(self.uploads)
        assert stats.commits == len(self.commits)
        assert stats.parts == sum(len(upload.etags) for upload in self.uploads.values())
        assert len(self.journal.entries()) == stats.uploads + stats.commits

    def expected_upload(self, scope: str, oid: str) -> OpenUpload | None:
        upload = self.uploads.get((scope, oid))
        if upload is None or upload.started_at > self.clock.now + 5:
            return None
        return upload if upload.expires_at >= self.clock.now + 60 else None


JournalModel.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_the_journal_agrees_with_dicts = JournalModel.TestCase
