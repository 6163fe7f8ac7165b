"""Runs told event by event, as a push tells them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asyncpush.events import (
    Event,
    FileHashed,
    FileRouted,
    FileStored,
    PartConnected,
    PartProgress,
    PushFinished,
    PushStarted,
    Record,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    RetryScheduled,
    TransferStarted,
)
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.timeline.build import Builder
from asyncpush.listeners.timeline.model import Timeline
from asyncpush.listeners.timeline.parsed_events import moment_of
from tests.listeners.helpers import OID, SHA

MB = 1_000_000
BEGAN = 1_760_000_000.0


class EventScript:
    """Events of a push, at seconds from its beginning."""

    def __init__(self, push_id: str = "p1", repo_id: str = "me/m", began: float = BEGAN) -> None:
        self.push_id = push_id
        self.records: list[Record] = []
        self._began = began
        self._spans = 0
        self.emit(0.0, PushStarted(repo_id, "model", "main"))

    def emit(self, at: float, event: Event, span: str = "root", parent: str | None = None) -> None:
        self.records.append(Record(event, self._began + at, self.push_id, span, parent))

    def call(self, name: str, start: float, end: float, status: int = 200, **about: object) -> str:
        span = self._span()
        self.emit(start, _asked(name, 1, 100, about), span, "root")
        self.emit(end, _answered(name, 1, status, 100, about), span, "root")
        return span

    def hashed(self, path: str, start: float, end: float, size: int = MB) -> None:
        took = (end - start) * 1000
        self.emit(end, FileHashed(path, size, OID, cached=False, elapsed_ms=took))

    def transfer(self, path: str, at: float, parts: int = 1, size: int = MB) -> str:
        """The span that the file's parts are below."""
        self.emit(at, FileRouted(path, size, "lfs"))
        self.emit(at, TransferStarted(path, size, parts), f"file {path}", "root")
        return f"file {path}"

    def part(
        self,
        path: str,
        number: int,
        start: float,
        end: float | None = None,
        *,
        connected: float | None = None,
        sent: float | None = None,
        connection: int | None = 50_001,
        status: int = 200,
        attempt: int = 1,
        size: int = MB,
        queued: float = 0.0,
    ) -> str:
        """One attempt; without an end it is still on its way."""
        span, parent = self._span(), f"file {path}"
        about = {"file": path, "part_number": number}
        started = _asked("part", attempt, size, about, queued)
        self.emit(start, started, span, parent)
        if connected is not None:
            self.emit(connected, PartConnected(connection), span, parent)
        if end is not None:
            sent_ms = None if sent is None else (sent - start) * 1000
            answered = _answered("part", attempt, status, size, about, sent_ms)
            self.emit(end, answered, span, parent)
        return span

    def failed(self, path: str, number: int, at: float, span: str, *, delay: float = 0.0) -> None:
        """The attempt of this span."""
        about = {"file": path, "part_number": number}
        url = "https://store/part"
        error = RequestFailed(
            call="part",
            url=url,
            error="unavailable",
            status=503,
            retry_attempt=1,
            backoff_ms=delay * 1000,
            fields=about,
        )
        self.emit(at, error, span, f"file {path}")
        if delay:
            again = RetryScheduled("part", 1, delay, "unavailable", path, number)
            self.emit(at, again, span, f"file {path}")

    def progress(self, path: str, number: int, at: float, sent: int, size: int = MB) -> None:
        self.emit(at, PartProgress(path, number, sent, size), f"file {path}", "root")

    def stored(self, path: str, at: float, size: int = MB) -> None:
        self.emit(at, FileStored(path, size, "lfs"))

    def done(self, at: float) -> None:
        self.emit(at, PushFinished(SHA, 1, MB, at))

    def _span(self) -> str:
        self._spans += 1
        return f"{self._spans:016x}"


def _asked(
    call: str, attempt: int, size: int, about: dict[str, object], queued: float = 0.0
) -> RequestStarted:
    url = f"https://hub/{call}"
    return RequestStarted(
        call=call,
        method="POST",
        url=url,
        attempt=attempt,
        bytes_out=size,
        headers={},
        fields=about,
        queued_ms=queued * 1000,
    )


def _answered(
    call: str,
    attempt: int,
    status: int,
    size: int,
    about: dict[str, object],
    sent_ms: float | None = None,
) -> RequestFinished:
    url = f"https://hub/{call}"
    return RequestFinished(
        call=call,
        method="POST",
        url=url,
        attempt=attempt,
        status=status,
        elapsed_ms=1.0,
        bytes_out=size,
        bytes_in=0,
        headers={},
        fields=about,
        sent_ms=sent_ms,
    )


def timeline_of(*scripts: EventScript) -> Timeline:
    """What a listener makes of them, all told at once."""
    builder = Builder()
    for record in in_time(scripts):
        builder.add(moment_of(record))
    return builder.timeline()


def in_time(scripts: Iterable[EventScript]) -> list[Record]:
    return sorted((r for script in scripts for r in script.records), key=lambda record: record.time)


def write_events(path: Path, *scripts: EventScript) -> Path:
    """The JSON lines that `--events` writes of them."""
    writer = JsonlWriter(path)
    for record in in_time(scripts):
        writer.on_event(record)
    writer.close()
    return path


def one_file() -> EventScript:
    """Hashed, asked for, two parts over two connections of which one fails once, committed."""
    script = EventScript()
    script.call("preupload", 0.0, 0.5)
    script.hashed("w.bin", 0.2, 1.0, 2 * MB)
    script.call("lfs_batch", 1.0, 1.25)
    script.transfer("w.bin", 1.25, 2, 2 * MB)
    script.part("w.bin", 1, 1.5, 3.0, connected=1.75, sent=2.75, connection=50_001, queued=0.25)
    lost = script.part("w.bin", 2, 1.5, 2.5, connected=1.5, connection=50_002, status=503)
    script.failed("w.bin", 2, 2.5, lost, delay=1.0)
    script.part("w.bin", 2, 3.5, 4.5, connected=3.5, sent=4.5, connection=50_001, attempt=2)
    script.stored("w.bin", 4.5, 2 * MB)
    script.call("commit", 5.0, 6.0)
    script.done(6.0)
    return script
