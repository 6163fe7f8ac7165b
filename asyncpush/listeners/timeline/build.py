"""From events to a timeline: attempts begin, are answered or fail; at the end they become spans.

It accepts events in any order and with any fields, so that half a file gives half a timeline.
Memory is a few hundred bytes for each request and file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from asyncpush.lazy_dataclass import dataclass
from asyncpush.listeners.result_stats import FIRST_REPORT, TimeBins
from asyncpush.listeners.timeline.layout import in_lanes, merged
from asyncpush.listeners.timeline.model import (
    FileTrack,
    Hold,
    Kind,
    Outcome,
    PushTrack,
    Span,
    Timeline,
)
from asyncpush.listeners.timeline.parsed_events import Moment

SLICES = 512
"""Points of the throughput curve: one for about two pixels."""


@dataclass(slots=True)
class _Push:
    push_id: str
    started: float
    latest: float
    repo_id: str = ""
    operation: str = "push"
    in_bucket: bool = False
    outcome: Outcome = "unfinished"
    error: str = ""
    positions: bool = False
    """Whether there are progress events; most files of events leave them out."""


@dataclass(slots=True)
class _File:
    size: int
    start: float
    latest: float
    settled: bool = False
    transfer: float | None = None
    """When its transfer began."""
    requested: bool = False
    """Whether its parts are sent by requests that are seen here, or were found stored."""
    sent: float = 0.0
    sent_at: float | None = None
    whole: float | None = None


class Builder:
    """Collects events; `timeline()` returns the timeline so far.

    `began` is time 0, in seconds since the epoch; by default it is the time of the first event.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = began
        self._pushes: dict[str, _Push] = {}
        self._numbers: dict[str, int] = {}
        self._attempts: list[AttemptTrack] = []
        self._by_span: dict[tuple[int, str], AttemptTrack] = {}
        self._in_flight: dict[tuple[int, str], dict[int, AttemptTrack]] = {}
        self._files: dict[tuple[int, str], _File] = {}
        self._paths: dict[tuple[int, str], str] = {}
        self._spans: list[Span] = []
        self._holds: list[Hold] = []
        self._slices = TimeBins(SLICES)

    def add(self, moment: Moment) -> None:
        """Add an event; those that a timeline does not show are ignored."""
        handler = _HANDLERS.get(moment.name)
        if handler is None:
            if not moment.name.startswith("hf_hub."):
                handler = Builder._passed
            elif moment.name.endswith(".response"):
                handler = Builder._answered
            else:
                handler = Builder._asked
        if self._began is None:
            self._began = moment.time
        now = max(0.0, moment.time - self._began)
        push = self._pushes.get(moment.push_id)
        if push is None:
            self._numbers[moment.push_id] = len(self._pushes)
            push = self._pushes[moment.push_id] = _Push(moment.push_id, now, now)
        push.latest = max(push.latest, now)
        handler(self, moment, self._numbers[moment.push_id], now)

    # --- events, one by one -----------------------------------------------------------------------

    def _passed(self, moment: Moment, push: int, now: float) -> None:
        pass

    def _push_started(self, moment: Moment, push: int, now: float) -> None:
        push_of = self._pushes[moment.push_id]
        push_of.repo_id = moment.text("repo_id")
        push_of.operation = moment.text("operation") or "push"
        push_of.in_bucket = moment.text("repo_type") == "bucket"

    def _push_finished(self, moment: Moment, push: int, now: float) -> None:
        self._pushes[moment.push_id].outcome = "done"

    def _push_failed(self, moment: Moment, push: int, now: float) -> None:
        ended = self._pushes[moment.push_id]
        if moment.flag("cancelled"):
            ended.outcome = "cancelled"
            return
        ended.outcome = "failed"
        words = (moment.text("error_type"), moment.text("error"))
        ended.error = ": ".join(word for word in words if word)

    def _hashed(self, moment: Moment, push: int, now: float) -> None:
        path, took = moment.text("path"), moment.number("elapsed_ms") / 1000
        start = max(0.0, now - took)
        size = moment.whole("size") or 0
        self._touch(push, path, start, now, size)
        if took:
            self._spans.append(
                Span(
                    kind="hash",
                    group="hash",
                    lane=0,
                    start=start,
                    end=now,
                    name=path,
                    push=push,
                    path=path,
                    size=size,
                )
            )

    def _routed(self, moment: Moment, push: int, now: float) -> None:
        if moment.text("route") != "inline":  # those are part of the commit
            self._touch(push, moment.text("path"), now, now, moment.whole("size"))

    def _skipped(self, moment: Moment, push: int, now: float) -> None:
        if (file := self._files.get((push, moment.text("path")))) is not None:
            file.latest, file.settled = max(file.latest, now), True

    def _transfer_started(self, moment: Moment, push: int, now: float) -> None:
        path = moment.text("path")
        self._paths[push, moment.span_id] = path  # requests below this span belong to the file
        file = self._touch(push, path, now, now, moment.whole("size"))
        file.transfer, file.requested = now, bool(moment.whole("resumed"))
        file.sent, file.sent_at, file.whole = 0.0, None, None

    def _stored(self, moment: Moment, push: int, now: float) -> None:
        path, route = moment.text("path"), moment.text("route")
        if route == "inline":
            return
        file = self._touch(push, path, now, now, moment.whole("size"))
        file.settled = True
        if file.transfer is not None and not file.requested:
            # The files of a push may be confirmed together; each transfer ended with its last byte.
            end = max(file.transfer, now if file.whole is None else file.whole)
            span = Span(
                kind="send",
                group="transfer",
                lane=0,
                start=file.transfer,
                end=end,
                name=path,
                push=push,
                path=path,
            )
            self._spans.append(replace(span, size=file.size))
            if not self._pushes[moment.push_id].positions:
                self._slices.spread(file.transfer, end, moment.number("bytes_sent"))

    def _asked(self, moment: Moment, push: int, now: float) -> None:
        call = moment.name.removeprefix("hf_hub.")
        part = moment.whole("part_number")
        path = moment.text("file") if call == "part" else self._paths.get((push, moment.parent_id))
        attempt = AttemptTrack(
            push=push,
            call=call,
            path=path or None,
            part=part if call == "part" else None,
            size=moment.whole("bytes_out") or 0,
            number=moment.whole("attempt") or 1,
            queued=moment.number("queued_ms") / 1000,
            started=now,
        )
        self._attempts.append(attempt)
        self._by_span[push, moment.span_id] = attempt
        if attempt.path is not None and attempt.part is not None:
            self._in_flight.setdefault((push, attempt.path), {})[attempt.part] = attempt
            self._touch(push, attempt.path, now, now).requested = True

    def _connected(self, moment: Moment, push: int, now: float) -> None:
        if (attempt := self._by_span.get((push, moment.span_id))) is not None:
            attempt.connected = now
            attempt.connection = moment.whole("connection")

    def _progress(self, moment: Moment, push: int, now: float) -> None:
        self._pushes[moment.push_id].positions = True
        path, sent = moment.text("path"), moment.number("sent")
        file = self._files.get((push, path))
        if file is not None and not file.requested:
            self._sent_beside(file, sent, sent + moment.number("deduplicated"), now)
            return
        attempt = self._in_flight.get((push, path), {}).get(moment.whole("part_number") or 0)
        if attempt is None or sent <= attempt.progress:
            return
        since = attempt.progress_at or attempt.connected or attempt.started
        self._slices.spread(since, now, sent - attempt.progress)
        attempt.progress, attempt.progress_at = sent, now

    def _sent_beside(self, file: _File, sent: float, position: float, now: float) -> None:
        """Progress of a file that is sent by requests which are not seen here."""
        if position >= file.size:
            file.whole = now
        if sent > file.sent:
            first = max(0.0, now - FIRST_REPORT)
            since = first if file.sent_at is None else file.sent_at
            self._slices.spread(since, now, sent - file.sent)
        file.sent, file.sent_at = sent, now

    def _answered(self, moment: Moment, push: int, now: float) -> None:
        attempt = self._by_span.get((push, moment.span_id))
        if attempt is None or attempt.ended is not None:
            return
        attempt.ended = max(now, attempt.started)
        self._land(attempt)
        if attempt.call == "part":
            attempt.failed = not 200 <= moment.number("status") < 300
            took = moment.number("sent_ms", -1.0)
            if took >= 0:
                attempt.sent = min(attempt.started + took / 1000, attempt.ended)
        if not attempt.failed:
            self._count_rest(attempt, attempt.sent or attempt.ended)

    def _count_rest(self, attempt: AttemptTrack, until: float) -> None:
        """Count the bytes that no progress event covered: files of events leave those out."""
        rest = attempt.size - attempt.progress
        if rest > 0:
            since = attempt.progress_at or attempt.connected or attempt.started
            self._slices.spread(since, max(since, until), rest)

    def _failed(self, moment: Moment, push: int, now: float) -> None:
        if moment.text("call") == "upload":  # a new upload begins: parts in flight are given up
            self._give_up(push, moment.text("file"), now)
            return
        attempt = self._by_span.get((push, moment.span_id))
        if attempt is not None:
            attempt.failed = True
            attempt.error = moment.text("error")
            attempt.ended = max(now, attempt.started) if attempt.ended is None else attempt.ended
            self._land(attempt)

    def _give_up(self, push: int, path: str, now: float) -> None:
        for attempt in self._in_flight.pop((push, path), {}).values():
            attempt.failed, attempt.error = True, "cancelled with the upload it was part of"
            attempt.ended = max(now, attempt.started)

    def _land(self, attempt: AttemptTrack) -> None:
        """The attempt is no longer in flight."""
        flying = self._in_flight.get((attempt.push, attempt.path or ""), {})
        if flying.get(attempt.part or 0) is attempt:
            del flying[attempt.part or 0]

    def _again_later(self, moment: Moment, push: int, now: float) -> None:
        delay, path = moment.number("delay"), moment.text("path") or None
        call, reason = moment.text("call"), moment.text("reason")
        if delay:
            name = f"{call} again"
            span = Span(
                kind="wait",
                group="wait",
                lane=0,
                start=now,
                end=now + delay,
                name=name,
                push=push,
                path=path,
                error=reason,
            )
            self._spans.append(replace(span, part=moment.whole("part_number")))

    def _waiting(self, moment: Moment, push: int, now: float) -> None:
        until = now + moment.number("seconds")
        self._holds.append(Hold(now, until, moment.text("reason")))

    def _touch(
        self, push: int, path: str, start: float, now: float, size: int | None = None
    ) -> _File:
        file = self._files.get((push, path))
        if file is None:
            file = self._files[push, path] = _File(size or 0, start, now)
        file.start, file.latest = min(file.start, start), max(file.latest, now)
        file.size = size or file.size
        return file

    # --- the whole --------------------------------------------------------------------------------

    def timeline(self, *, skipped: int = 0) -> Timeline:
        """The timeline of the events so far."""
        pushes = tuple(
            PushTrack(
                push_id=p.push_id,
                repo_id=p.repo_id,
                operation=p.operation,
                in_bucket=p.in_bucket,
                start=p.started,
                end=p.latest,
                outcome=p.outcome,
                error=p.error,
            )
            for p in self._pushes.values()
        )
        seconds = max((push.end for push in pushes), default=0.0)
        spans = [span for attempt in self._attempts for span in spans_of(attempt, pushes)]
        for span in self._spans:
            end = min(span.end, max(pushes[span.push].end, span.start))
            spans.append(replace(span, end=end))
        return Timeline(
            began=self._began or 0.0,
            seconds=seconds,
            pushes=pushes,
            spans=tuple(in_lanes(spans)),
            files=tuple(self._tracks(pushes)),
            holds=tuple(_holds(self._holds, seconds)),
            slice_seconds=self._slices.width,
            throughput=self._slices.sums,
            skipped=skipped,
        )

    def _tracks(self, pushes: tuple[PushTrack, ...]) -> Iterator[FileTrack]:
        for (push, path), file in self._files.items():
            end = file.latest if file.settled else pushes[push].end
            yield FileTrack(
                path=path, push=push, size=file.size, start=file.start, end=end, stored=file.settled
            )


_Handler = Callable[[Builder, Moment, int, float], None]

_HANDLERS: dict[str, _Handler] = {
    "push.started": Builder._push_started,
    "push.finished": Builder._push_finished,
    "push.failed": Builder._push_failed,
    "file.hashed": Builder._hashed,
    "file.routed": Builder._routed,
    "file.skipped": Builder._skipped,
    "file.started": Builder._transfer_started,
    "file.stored": Builder._stored,
    "part.connected": Builder._connected,
    "part.progress": Builder._progress,
    "hf_hub.upload.failed": Builder._failed,
    "retry.scheduled": Builder._again_later,
    "session.waiting": Builder._waiting,
}


def _holds(holds: list[Hold], seconds: float) -> Iterator[Hold]:
    """Each wait once, however many requests it delayed."""
    reasons: dict[str, list[tuple[float, float]]] = {}
    for hold in holds:
        reasons.setdefault(hold.reason, []).append((hold.start, min(hold.end, seconds)))
    for reason, intervals in reasons.items():
        for start, end in merged(intervals):
            yield Hold(start, end, reason)


_SHORT = 0.0005
"""Seconds: shorter connects and waits for an answer are not drawn as spans of their own."""


@dataclass(slots=True, kw_only=True)
class AttemptTrack:
    """One attempt at a request, as it is drawn. Times are None until they are known."""

    push: int
    call: str
    path: str | None
    part: int | None
    size: int
    number: int
    queued: float
    started: float
    connected: float | None = None
    connection: int | None = None
    sent: float | None = None
    ended: float | None = None
    failed: bool = False
    error: str = ""
    progress: float = 0.0
    progress_at: float | None = None


def spans_of(attempt: AttemptTrack, pushes: tuple[PushTrack, ...]) -> Iterator[Span]:
    end = max(pushes[attempt.push].end, attempt.started) if attempt.ended is None else attempt.ended
    whole = Span(
        kind=_kind(attempt),
        group="connection" if attempt.call == "part" else "hub",
        lane=0,
        start=attempt.started,
        end=end,
        name=_name(attempt),
        push=attempt.push,
        path=attempt.path,
        part=attempt.part,
        size=attempt.size,
        attempt=attempt.number,
        queued=attempt.queued,
        connection=attempt.connection,
        error=attempt.error or ("unfinished" if attempt.ended is None else ""),
    )
    if attempt.connected is not None and attempt.connected - attempt.started >= _SHORT:
        yield replace(whole, kind="connect", end=min(attempt.connected, end), size=0)
        whole = replace(whole, start=min(attempt.connected, end))
    sent = end if attempt.sent is None else max(attempt.sent, whole.start)
    if whole.kind == "send" and end - sent >= _SHORT:
        yield replace(whole, end=sent)
        whole = replace(whole, kind="answer", start=sent, size=0)
    yield whole


def _kind(attempt: AttemptTrack) -> Kind:
    if attempt.failed:
        return "retry"
    if attempt.call == "part":
        return "send"
    return "commit" if attempt.call == "commit" else "call"


def _name(attempt: AttemptTrack) -> str:
    if attempt.call != "part":
        return attempt.call
    return f"{attempt.path or 'part'} #{attempt.part}"
