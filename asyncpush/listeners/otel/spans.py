"""The spans and metrics of one push, from its events."""

from __future__ import annotations

from dataclasses import field
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from asyncpush.events import (
    Committed,
    FileHashed,
    FileRouted,
    FilesPlanned,
    FileStored,
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
    Waiting,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.redaction import redact_value

LONG_HASH = 50.0
"""Hashing that takes at least this many milliseconds gets a span. Shorter ones are many, and no
bottleneck."""

_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True)
class _Request:
    """An attempt under way; `shared` holds the attributes that its metrics have too."""

    span: Span
    call: str
    started: float
    shared: Attributes = field(default_factory=dict)


class PushSpans:
    """The spans of one push that have begun and not ended."""

    def __init__(
        self, tracer: trace.Tracer, meters: Meters, record: Record, event: PushStarted
    ) -> None:
        self._tracer = tracer
        self._meters = meters
        self._root = tracer.start_span(  # below the current span here, which is the caller's own
            "asyncpush.push",
            attributes={
                "asyncpush.push_id": record.push_id,
                "asyncpush.operation": event.operation,
                "asyncpush.repo_id": event.repo_id,
                "asyncpush.repo_type": event.repo_type,
                "asyncpush.revision": event.revision,
            },
            start_time=_nanoseconds(record),
        )
        self._began = record.time
        self._engine = "transfer"
        self._requested: set[str] = set()
        """The files whose parts are sent by requests that are seen here."""
        self._sent: dict[str, int] = {}
        """Bytes sent of each other file, by path."""
        self.requests: dict[str, _Request] = {}
        self._files: dict[str, Span] = {}
        self._parts: dict[tuple[str, int], Span] = {}
        self._scopes = {record.span_id: self._root}
        """Spans by the ids that events have: the push's own, and those of files being sent."""

    def add(self, record: Record) -> None:
        match record.event:
            case PartProgress() as event:
                self._count_sent(event)
            case RequestStarted() as event:
                self._open_request(record, event)
            case PartConnected(connection=int(port)) if record.span_id in self.requests:
                self.requests[record.span_id].span.set_attribute("network.local.port", port)
            case RequestFinished() as event:
                self._answered(record, event)
            case RequestFailed() as event:
                self._request_failed(record, event)
            case RetryScheduled() as event:
                self._retry(record, event)
            case FileHashed() as event:
                self._hashed(record, event)
            case FileRouted() | TransferStarted() | FileStored():
                self._on_file(record, record.event)
            case PartStored(resumed=False) as event:
                self._end(self._parts.pop((event.path, event.part_number), None), record)
            case PushFinished() | PushFailed() as event:
                self._finish(record, event)
            case _:
                self._on_push(record)

    def _on_push(self, record: Record) -> None:
        """Events that concern the push as a whole."""
        match record.event:
            case FilesPlanned() as event:
                self._root.set_attribute("asyncpush.files", event.total_files)
                self._root.set_attribute("asyncpush.bytes", event.total_bytes)
            case TransferChosen() as event:
                self._engine = event.engine
                self._root.set_attribute("asyncpush.transfer", event.engine)
            case Committed() as event:
                self._root.set_attribute("asyncpush.commit", event.commit_sha)
            case PhaseChanged() as event:
                self._add_event(self._root, record, f"phase {event.phase}", {})
            case Waiting() as event:
                attributes = {"asyncpush.seconds": event.seconds, "asyncpush.reason": event.reason}
                self._add_event(self._root, record, "waiting", attributes)
            case Notice() as event:
                self._add_event(self._root, record, "notice", {"message": event.message})

    def _count_sent(self, event: PartProgress) -> None:
        """Count the bytes of a transfer whose own requests are not seen here."""
        if event.path in self._requested:
            return
        before = self._sent.get(event.path, 0)
        self._sent[event.path] = event.sent
        new = event.sent - before if event.sent >= before else event.sent  # begun again
        if new:
            self._meters.sent.add(new, {"asyncpush.call": self._engine})

    def _hashed(self, record: Record, event: FileHashed) -> None:
        """The event comes when hashing is over: the span begins in the past."""
        if event.elapsed_ms >= LONG_HASH:
            began = _nanoseconds(record) - int(event.elapsed_ms * 1e6)
            about = _file(event.path, event.size)
            self._end(self._span("asyncpush.hash", record, about, start_time=began), record)

    def _on_file(self, record: Record, event: FileRouted | TransferStarted | FileStored) -> None:
        path, size = event.path, event.size
        match event:
            case FileRouted(route=route) if route != "inline":
                self._file_span(record, path, size, **{"asyncpush.route": route})
            case TransferStarted():
                span = self._file_span(record, path, size)
                span.set_attribute("asyncpush.parts", event.parts)
                span.set_attribute("asyncpush.resumed", event.resumed)
                self._scopes[record.span_id] = span
            case FileStored():
                span = self._file_span(record, path, size)
                span.set_attribute("asyncpush.deduplicated", event.deduplicated)
                self._end(self._files.pop(path), record)
                self._sent.pop(path, None)
                self._requested.discard(path)

    def _file_span(self, record: Record, path: str, size: int, **more: Any) -> Span:
        span = self._files.get(path)
        if span is None:
            attributes = {**_file(path, size), **more}
            span = self._files[path] = self._span("asyncpush.file", record, attributes)
        return span

    def _open_request(self, record: Record, event: RequestStarted) -> None:
        self._close_request(record)  # a redirect, or a new token: sent again with the same id
        attributes = _http_attributes(event)
        request = _Request(
            self._span(
                f"{event.method} {event.call}",
                record,
                {
                    **attributes,
                    "url.full": redact_value(event.url, "url"),
                    "http.request.body.size": event.bytes_out,
                    "asyncpush.call": event.call,
                    "asyncpush.queued_ms": event.queued_ms,
                    **(
                        {"http.request.resend_count": event.attempt - 1}
                        if event.attempt > 1
                        else {}
                    ),
                },
                self._parent_of_request(record, event),
                SpanKind.CLIENT,
            ),
            event.call,
            record.time,
            attributes,
        )
        self.requests[record.span_id] = request
        self._meters.request_started(event.call)

    def _parent_of_request(self, record: Record, event: RequestStarted) -> Span:
        scope = self._scopes.get(record.parent_id or "", self._root)
        path, number = event.fields.get("file"), event.fields.get("part_number")
        if event.call != PART or not isinstance(path, str) or not isinstance(number, int):
            return scope
        self._requested.add(path)
        part = self._parts.get((path, number))
        if part is None:
            attributes = {
                "asyncpush.path": path,
                "asyncpush.part.number": number,
                "asyncpush.part.size": event.bytes_out,
            }
            part = self._span("asyncpush.part", record, attributes, scope)
            self._parts[path, number] = part
        return part

    def _answered(self, record: Record, event: RequestFinished) -> None:
        request = self.requests.get(record.span_id)
        if request is None:
            return
        attributes: Attributes = {"http.response.status_code": event.status}
        if event.status >= 400:
            attributes["error.type"] = str(event.status)
            request.span.set_status(StatusCode.ERROR)
        request.shared.update(attributes)
        request.span.set_attributes({**attributes, "http.response.body.size": event.bytes_in})
        if event.request_id is not None:
            request.span.set_attribute("asyncpush.request_id", redact_value(event.request_id))
        if event.sent_ms is not None:
            request.span.set_attribute("asyncpush.sent_ms", event.sent_ms)
        self._meters.answered(event)
        self._close_request(record, event.elapsed_ms / 1000)

    def _request_failed(self, record: Record, event: RequestFailed) -> None:
        """The attempt got no answer, or a failure, or one that cannot be parsed."""
        attributes = {"error.type": str(event.status or event.error_type or "_OTHER")}
        if (request := self.requests.get(record.span_id)) is not None:
            request.shared.update(attributes)
            request.span.set_attributes(attributes)
            request.span.set_status(StatusCode.ERROR, redact_value(event.error))
            self._close_request(record)
        if event.backoff_ms is None:
            self._given_up(record, event, attributes)

    def _given_up(self, record: Record, event: RequestFailed, attributes: Attributes) -> None:
        """No attempt follows: the part and the file have failed with it."""
        path, number = event.fields.get("file"), event.fields.get("part_number")
        part = self._parts.pop((path, number), None) if event.call == PART else None  # type: ignore[arg-type]
        for span in (part, self._files.get(path) if isinstance(path, str) else None):
            if span is not None:
                span.set_attributes(attributes)
                span.set_status(StatusCode.ERROR, redact_value(event.error))
        self._end(part, record)

    def _retry(self, record: Record, event: RetryScheduled) -> None:
        self._meters.retries.add(1, {"asyncpush.call": event.call})
        attributes = {
            "asyncpush.call": event.call,
            "asyncpush.attempt": event.attempt,
            "asyncpush.seconds": event.delay,
            "asyncpush.reason": event.reason,
        }
        span = None
        if event.path is not None and event.part_number is not None:
            span = self._parts.get((event.path, event.part_number))
        if span is None and event.path is not None:
            span = self._files.get(event.path)
        self._add_event(span or self._root, record, "retry", attributes)

    def _finish(self, record: Record, event: PushFinished | PushFailed) -> None:
        """End the span of the push, and those that are still open."""
        for span_id in list(self.requests):
            self._close_request(record, span_id=span_id)
        for span in (*self._parts.values(), *self._files.values()):
            self._end(span, record)
        outcome: Attributes = {}
        if isinstance(event, PushFailed):
            outcome["error.type"] = event.error_type
            self._root.set_attributes(
                {
                    **outcome,
                    "asyncpush.suggestion": redact_value(event.details.get("suggestion") or ""),
                }
            )
            if not event.cancelled:  # a cancellation is not an error
                self._root.set_status(StatusCode.ERROR, redact_value(event.error))
        else:
            self._root.set_attribute("asyncpush.files_uploaded", event.files_uploaded)
            self._root.set_attribute("asyncpush.bytes_transferred", event.bytes_transferred)
        outcome["asyncpush.operation"] = event.operation
        self._meters.push_duration.record(record.time - self._began, outcome)
        self._end(self._root, record)

    def _close_request(
        self, record: Record, seconds: float | None = None, *, span_id: str | None = None
    ) -> None:
        request = self.requests.pop(span_id or record.span_id, None)
        if request is None:
            return
        lasted = record.time - request.started if seconds is None else seconds
        self._meters.request_ended(request.call, lasted, request.shared)
        self._end(request.span, record)

    def _span(
        self,
        name: str,
        record: Record,
        attributes: Attributes,
        parent: Span | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        start_time: int | None = None,
    ) -> Span:
        context = trace.set_span_in_context(parent or self._root)
        began = start_time or _nanoseconds(record)
        return self._tracer.start_span(name, context, kind, attributes, start_time=began)

    def _add_event(self, span: Span, record: Record, name: str, attributes: Attributes) -> None:
        span.add_event(f"asyncpush.{name}", redact_value(attributes), _nanoseconds(record))

    def _end(self, span: Span | None, record: Record) -> None:
        if span is not None:
            span.end(_nanoseconds(record))


def _file(path: str, size: int) -> Attributes:
    return {"asyncpush.path": path, "asyncpush.size": size}


def _http_attributes(event: RequestStarted) -> Attributes:
    """The conventions' attributes that spans and metrics share."""
    parts = urlsplit(event.url)
    return {
        "http.request.method": event.method,
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
    }


def _nanoseconds(record: Record) -> int:
    return int(record.time * 1e9)


Attributes = dict[str, Any]

PART = "part"
"""The name of the request that sends a part."""

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_PART_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_PART_RATES = (1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
_PUSH_SECONDS = (0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


@dataclass(frozen=True, slots=True)
class Meters:
    """The instruments, and the rules for using them."""

    request_duration: metrics.Histogram
    sent: metrics.Counter
    retries: metrics.Counter
    parts_in_flight: metrics.UpDownCounter
    part_duration: metrics.Histogram
    part_throughput: metrics.Histogram
    push_duration: metrics.Histogram

    @classmethod
    def of(cls, meter: metrics.Meter) -> Meters:
        def histogram(name: str, unit: str, what: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(
                name, unit, what, explicit_bucket_boundaries_advisory=bounds
            )

        return cls(
            histogram(
                "http.client.request.duration",
                "s",
                "Duration of HTTP client requests.",
                _REQUEST_SECONDS,
            ),
            meter.create_counter("asyncpush.sent", "By", "Request bodies that were answered."),
            meter.create_counter("asyncpush.retries", "{retry}", "Attempts after the first."),
            meter.create_up_down_counter(
                "asyncpush.parts.in_flight", "{part}", "Parts being sent now."
            ),
            histogram("asyncpush.part.duration", "s", "Time to send a part.", _PART_SECONDS),
            histogram("asyncpush.part.throughput", "By/s", "Bytes a second.", _PART_RATES),
            histogram("asyncpush.push.duration", "s", "Time for a whole push.", _PUSH_SECONDS),
        )

    def request_started(self, call: str) -> None:
        if call == PART:
            self.parts_in_flight.add(1)

    def answered(self, event: RequestFinished) -> None:
        self.sent.add(event.bytes_out, {"asyncpush.call": event.call})
        if event.call == PART and event.status < 300:
            seconds = event.elapsed_ms / 1000
            self.part_duration.record(seconds)
            self.part_throughput.record(event.bytes_out / max(seconds, 1e-6))

    def request_ended(self, call: str, seconds: float, attributes: Attributes) -> None:
        """The request ended in any way: it was answered, failed or was interrupted."""
        self.request_duration.record(max(seconds, 0.0), attributes)
        if call == PART:
            self.parts_in_flight.add(-1)
