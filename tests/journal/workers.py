"""What other processes do in these tests."""

from __future__ import annotations

import itertools
import os
import resource
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path

from asyncpush.journal import Journal, locks
from tests.journal.helpers import make_commit, make_identity, make_upload

ACK = struct.Struct("<III")
PARTS = 8
SHARED_SCOPE = "churn"


def acked_oid(writer: int, cycle: int) -> str:
    return f"{writer:032x}{cycle:032x}"


def write_until_killed(directory: Path, writer: int, acks: Connection) -> None:
    """Tell the journal of parts, and the parent of each that the journal took. A write of 12 bytes
    to a pipe is whole or not at all, so the last one cannot be half."""
    with Journal.open(directory) as journal:
        for cycle in itertools.count():
            oid = acked_oid(writer, cycle)
            now = time.time()
            journal.begin_upload("kept", make_upload(oid, parts=PARTS, started_at=now))
            for part in range(1, PARTS + 1):
                journal.part_stored("kept", oid, part, f'"{oid}-{part}"')
                assert journal.disabled_reason is None, journal.disabled_reason
                os.write(acks.fileno(), ACK.pack(writer, cycle, part))
                churn(journal, f"{writer}-{cycle}-{part}")


def churn(journal: Journal, name: str) -> None:
    """Other writes, so that a kill may fall into one of any kind."""
    journal.remember_hash(f"/{name}", make_identity(), "sha256", "ab" * 32)
    journal.begin_upload(SHARED_SCOPE, make_upload("cd" * 32, parts=2, started_at=time.time()))
    journal.part_stored(SHARED_SCOPE, "cd" * 32, 1, "etag")
    commit = make_commit(created_at=time.time())
    journal.begin_commit(SHARED_SCOPE, commit)
    journal.end_commit(SHARED_SCOPE, commit)
    journal.end_upload(SHARED_SCOPE, "cd" * 32)


def fill_small_disk(directory: Path, answer: Connection) -> None:
    """Write until no file may grow any more, as on a full disk; answer what became of it."""
    with Journal.open(directory) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for number in range(10_000):
            journal.remember_hash(f"/{number}", make_identity(), "sha256", "ab" * 32)
            journal.flush()
            if journal.disabled_reason is not None:
                break
        claim = journal.claim("scope", "oid")
        answer.send((journal.disabled_reason, claim is not None))


def hold_claim(directory: Path, scope: str, oid: str, answer: Connection) -> None:
    """Try to claim, answer whether that went well, and stay alive until told otherwise."""
    with Journal.open(directory) as journal:
        claim = journal.claim(scope, oid)
        answer.send(claim is not None)
        answer.recv()
        if claim is not None:
            claim.release()
        answer.send("released")
        answer.recv()


def store_parts(directory: Path, oid: str, numbers: list[int], answer: Connection) -> None:
    """Go on with an upload that another process began."""
    with Journal.open(directory) as journal:
        found = journal.find_upload("scope", oid)
        for number in numbers:
            journal.part_stored("scope", oid, number, f"etag-{number}")
        answer.send((found is not None, journal.disabled_reason))


def open_at_once(directory: Path, answer: Connection) -> None:
    answer.recv()
    with Journal.open(directory) as journal:
        journal.remember_hash(f"/{os.getpid()}", make_identity(), "git", "ab" * 20)
        answer.send((journal.disabled_reason, os.getpid()))
        answer.recv()


def take_seats(directory: Path, seats: int, by_kernel: bool, answer: Connection) -> None:
    """Be so many uploaders; count all there are, again and again, when told to."""
    if not by_kernel:
        locks._FLOCK = {}
    with Journal.open(directory) as journal:
        sitting = [journal.peers() for _ in range(seats)]
        for each in sitting:
            each.join()
        answer.send("sitting")
        answer.recv()
        answer.send({sitting[0].count() for _ in range(200)})
        answer.recv()
        for each in sitting:
            each.leave()
        answer.send("left")
        answer.recv()
