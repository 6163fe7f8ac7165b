"""Events with a when and where, clocks that move when told, and a push from first event to last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncpush.events import (
    CommitStarted,
    Committed,
    Event,
    FileHashed,
    FileRouted,
    FileSkipped,
    FilesPlanned,
    FileStored,
    HashProgress,
    Notice,
    PartConnected,
    PartProgress,
    PartStored,
    PhaseChanged,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    RetryScheduled,
    TransferChosen,
    TransferStarted,
    Verified,
    Waiting,
)
from tests.fake_clock import FakeClock

OID = "ab" * 32
SHA = "0123456789" * 4
SIGNED_URL = "https://bucket.s3.amazonaws.com/x/part?X-Amz-Signature=abcdef&partNumber=3"


def record(event: Event, time: float = 1_760_000_000.25) -> Record:
    return Record(event, time, "push-1", "0000000a0000000b", None)


class Timers:
    """Stands in for `loop.call_later`: `advance` moves the clock and fires what is due."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pending: list[asyncio.TimerHandle] = []

    def call_later(self, delay: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.clock.now + delay, action, (), asyncio.get_running_loop())
        self.pending.append(handle)
        return handle

    def live(self) -> list[asyncio.TimerHandle]:
        return [handle for handle in self.pending if not handle.cancelled()]

    def advance(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while due := [handle for handle in self.live() if handle.when() <= until + 1e-9]:
            first = min(due, key=lambda handle: handle.when())
            self.pending.remove(first)
            self.clock.now = max(self.clock.now, first.when())
            first._run()
        self.clock.now = until


def planned(files: int, size: int) -> FilesPlanned:
    return FilesPlanned(total_files=files, total_bytes=size)


def finished(**changes: object) -> PushFinished:
    fields: dict[str, object] = {
        "commit_sha": SHA,
        "files_uploaded": 2,
        "bytes_transferred": 3_000_000_000,
        "elapsed_seconds": 30.0,
    }
    return PushFinished(**(fields | changes))  # type: ignore[arg-type]


def answered(call: str = "lfs_batch", **fields: object) -> RequestFinished:
    return RequestFinished(
        call=call,
        method="POST",
        url="https://x",
        attempt=1,
        status=200,
        elapsed_ms=1.0,
        bytes_out=0,
        bytes_in=0,
        headers={},
        fields=fields,
    )


def failed(error: str = "not allowed", *, cancelled: bool = False) -> PushFailed:
    return PushFailed(error, "AuthError", cancelled)


def one_of_each() -> list[Event]:
    """Every kind of event, in the order of a push, with secrets where somebody forgot them."""
    headers = {"Authorization": "Bearer hf_" + "s" * 34, "Content-Type": "application/json"}
    about = {"repo_id": "me/m", "file": "big.bin", "size": 100, "files": [_file("big.bin", 100)]}
    return [
        PushStarted("me/m", "model", "main"),
        planned(3, 160),
        PhaseChanged("hashing"),
        HashProgress("big.bin", 50, 100),
        FileHashed("big.bin", 100, OID, cached=False),
        RequestStarted(
            call="preupload",
            method="POST",
            url="https://hub/api/x",
            attempt=1,
            bytes_out=99,
            headers=headers,
            fields=about,
        ),
        RequestFinished(
            call="preupload",
            method="POST",
            url="https://hub/api/x",
            attempt=1,
            status=200,
            elapsed_ms=12.5,
            bytes_out=99,
            bytes_in=33,
            headers={"X-Request-Id": "r-1"},
            request_id="r-1",
            fields={"files": [_file("big.bin", 100) | {"route": "lfs"}]},
        ),
        FileRouted("big.bin", 100, "lfs"),
        FileRouted("README.md", 10, "inline"),
        TransferChosen("xet", "the Hub grants a token for it"),
        FileSkipped("old.bin", 50, "unchanged"),
        RequestFinished(
            call="lfs_batch",
            method="POST",
            url="https://hub/me/m.git/info/lfs/objects/batch",
            attempt=1,
            status=200,
            elapsed_ms=9.5,
            bytes_out=99,
            bytes_in=33,
            headers={},
            request_id=None,
            fields={"upload_url": SIGNED_URL, "files": []},
        ),
        PhaseChanged("uploading"),
        TransferStarted("big.bin", 100, 2),
        PartConnected(50_000),
        PartProgress("big.bin", 1, 30, 60, deduplicated=10),
        RequestFailed(
            call="part",
            url=SIGNED_URL,
            error=f"reset: {SIGNED_URL}",
            status=None,
            retry_attempt=1,
            backoff_ms=500.0,
            fields={"file": "x"},
        ),
        RetryScheduled("part", 2, 0.5, "connection reset", "big.bin", 1),
        Waiting(12.0, "rate limit"),
        PartStored("big.bin", 1, 60),
        PartStored("big.bin", 2, 40, resumed=True),
        FileStored("big.bin", 100, "lfs"),
        PhaseChanged("committing"),
        CommitStarted(2, 0, SHA),
        Committed(SHA, "https://hub/me/m/commit/x"),
        PhaseChanged("verifying"),
        Verified(2, SHA),
        Notice("the card has no license"),
        finished(),
        PushFailed("boom", "HubError", details={"url": SIGNED_URL, "token": "very secret"}),
    ]


def _file(name: str, size: int) -> dict[str, object]:
    return {"file": name, "size": size}
