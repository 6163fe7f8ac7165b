"""Processes killed at any instant, and processes at work side by side."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

from asyncpush.journal import Journal
from tests.fake_clock import FakeClock
from tests.journal.helpers import (
    SHA,
    connection_of,
    database_file,
    make_upload,
    processes,
    set_aside,
)
from tests.journal.workers import (
    ACK,
    PARTS,
    SHARED_SCOPE,
    acked_oid,
    open_at_once,
    store_parts,
    write_until_killed,
)


def read_acks(connection: Connection) -> list[tuple[int, int, int]]:
    """All that a dead process has told: (writer, cycle, part)."""
    data = b""
    while piece := os.read(connection.fileno(), 1 << 16):
        data += piece
    assert len(data) % ACK.size == 0
    return list(ACK.iter_unpack(data))


def run_and_kill(directory: Path, writers: list[int], delays: list[float]) -> list[tuple[int, ...]]:
    """Let processes write side by side, kill each after its delay; what they had been promised."""
    running = []
    for writer in writers:
        reading, writing = processes.Pipe(duplex=False)
        process = processes.Process(target=write_until_killed, args=(directory, writer, writing))
        process.start()
        writing.close()
        running.append((process, reading))
    for _, reading in running:
        assert reading.poll(30)  # it is at work
    began = time.monotonic()
    promised: list[tuple[int, ...]] = []
    for (process, reading), delay in zip(running, sorted(delays), strict=True):
        time.sleep(max(0.0, began + delay - time.monotonic()))
        process.kill()
        process.join()
        promised += read_acks(reading)
        process.close()
        reading.close()
    return promised


def test_a_killed_process_loses_no_durable_record(tmp_path: Path) -> None:
    rng = random.Random()
    total = 0
    for number in range(10):
        writers = [2 * number, 2 * number + 1]
        delays = [rng.uniform(0.0, 0.1) for _ in writers]
        promised = run_and_kill(tmp_path, writers, delays)
        total += len(promised)
        by_upload = defaultdict(set)
        for writer, cycle, part in promised:
            by_upload[acked_oid(writer, cycle)].add(part)
        with closing(sqlite3.connect(database_file(tmp_path))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with Journal.open(tmp_path) as journal:
            assert journal.disabled_reason is None
            for oid, parts in by_upload.items():
                found = journal.find_upload("kept", oid)
                assert found is not None
                assert parts <= set(found.etags) <= set(range(1, PARTS + 1))
                assert all(etag == f'"{oid}-{part}"' for part, etag in found.etags.items())
            shared = journal.find_upload(SHARED_SCOPE, "cd" * 32)
            assert shared is None or set(shared.etags) <= {1}
    assert set_aside(tmp_path) == []
    assert total >= 20


def test_many_processes_open_a_journal_at_once(tmp_path: Path) -> None:
    running = []
    for _ in range(6):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=open_at_once, args=(tmp_path, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    database_file(tmp_path).parent.mkdir(mode=0o700, exist_ok=True)
    database_file(tmp_path).write_text("garbage " * 1000)  # set aside by one of them only
    for _, ours in running:
        ours.send("go")
    reasons = [ours.recv()[0] for _, ours in running]
    for process, ours in running:
        ours.send("done")
        process.join()
        process.close()
        ours.close()
    assert reasons == [None] * 6
    assert len(set_aside(tmp_path)) == 1
    with Journal.open(tmp_path) as journal:
        assert journal.stats().hashes == 6


def test_two_processes_store_parts_of_one_upload(tmp_path: Path) -> None:
    oid = "ef" * 32
    numbers = [list(range(start, 201, 2)) for start in (1, 2)]
    with Journal.open(tmp_path) as journal:
        journal.begin_upload("scope", make_upload(oid, parts=200, started_at=time.time()))
        running = []
        for own in numbers:
            ours, theirs = processes.Pipe()
            process = processes.Process(target=store_parts, args=(tmp_path, oid, own, theirs))
            process.start()
            theirs.close()
            running.append((process, ours))
        for process, ours in running:
            assert ours.recv() == (True, None)
            process.join()
            process.close()
            ours.close()
        found = journal.find_upload("scope", oid)
        assert found is not None
        assert found.etags == {number: f"etag-{number}" for number in range(1, 201)}


def test_threads_that_store_parts_at_once_share_their_syncs(
    tmp_path: Path, clock: FakeClock
) -> None:
    threads = 16
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload("scope", make_upload(parts=threads))
        statements: Counter[str] = Counter()
        connection_of(journal).set_trace_callback(
            lambda statement: statements.update([statement.split()[0]])
        )
        assert journal._database is not None
        with journal._database._write_lock:  # the disk is slow
            journal.drop_upload("scope", "another")  # the writer waits for it with this
            while journal._writer._waiting:
                time.sleep(0.001)
            running = [
                threading.Thread(target=journal.part_stored, args=("scope", SHA, part, f"e{part}"))
                for part in range(1, threads + 1)
            ]
            for thread in running:
                thread.start()
            while len(journal._writer._waiting) < threads:
                time.sleep(0.001)
        for thread in running:
            thread.join()
        connection_of(journal).set_trace_callback(None)
        assert (statements["INSERT"], statements["COMMIT"]) == (threads, 2)
        found = journal.find_upload("scope", SHA)
        assert found is not None
        assert found.etags == {part: f"e{part}" for part in range(1, threads + 1)}


def test_a_recorded_part_is_on_the_disk(tmp_path: Path, clock: FakeClock) -> None:
    threads, each = 8, 25
    with Journal.open(tmp_path, clock=clock) as journal:
        journal.begin_upload("scope", make_upload(parts=threads * each))
        stored: list[int] = []

        def run(first: int) -> None:
            for part in range(first, first + each):
                journal.part_stored("scope", SHA, part, f"e{part}")
                stored.append(part)

        running = [
            threading.Thread(target=run, args=(1 + thread * each,)) for thread in range(threads)
        ]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            promised = set(stored)
            found = journal.find_upload("scope", SHA)
            assert found is not None
            assert found.etags.keys() >= promised
        for thread in running:
            thread.join()
        assert journal.stats().parts == threads * each
