"""The event stream as OpenTelemetry traces and metrics.

    pip install 'asyncpush[otel]'

    from asyncpush.listeners.otel import OpenTelemetry
    config = UploadConfig(events=OpenTelemetry())

Spans and metrics go to the providers that the application has set, or to those given here. A push
is a child of whatever span is current where it is started:

===================  ============================================================================
span                 lasts
===================  ============================================================================
`asyncpush.push`     from the first event of a push to its last; also of a sync, a copy and the
                     others: its attribute `asyncpush.operation` says which
`asyncpush.hash`     while a file is hashed, if that takes 50 ms or more
`asyncpush.file`     from the decision to send a file by itself until the store has confirmed it
`asyncpush.part`     one part, all its attempts
`PUT part`, …        one attempt of one request; attributes by the conventions for HTTP clients
===================  ============================================================================

Regular files ride in the commit and have no span. Retries and waits are span events on what is
tried again.

==============================  =========================  ======================================
metric                          kind, unit                 counts
==============================  =========================  ======================================
`http.client.request.duration`  histogram, s               each attempt of each request
`asyncpush.sent`                counter, By                bodies of requests that were answered,
                                                           and what transfers sent by requests of
                                                           their own
`asyncpush.retries`             counter, {retry}           attempts after the first
`asyncpush.parts.in_flight`     up-down counter, {part}    parts being sent now
`asyncpush.part.duration`       histogram, s               parts that the store took
`asyncpush.part.throughput`     histogram, By/s            parts that the store took
`asyncpush.push.duration`       histogram, s               pushes, by `asyncpush.operation`, and
                                                           by `error.type` if they failed
==============================  =========================  ======================================

Conventions: https://opentelemetry.io/docs/specs/semconv/http/ (stable names).
"""

from __future__ import annotations

from collections.abc import Mapping

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "OpenTelemetry needs opentelemetry-api: pip install 'asyncpush[otel]'", name=error.name
    ) from error

from asyncpush._version import __version__
from asyncpush.events import (
    HashProgress,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
)
from asyncpush.listeners.otel.spans import Meters, PushSpans

SCHEMA_URL = "https://opentelemetry.io/schemas/1.30.0"
"""The version of the conventions that define these names."""


class OpenTelemetry:
    """A listener for `UploadConfig(events=...)`; one may serve many pushes and `Uploader`s.

    No token and no signed query is in any span: URLs are shown without their queries. Calls to the
    Hub's own origin carry a `traceparent` header; presigned URLs and other hosts never do.

    Args:
        tracer_provider: where spans go; None means the one that the application has set.
        meter_provider: where metrics go, likewise.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("asyncpush", __version__, tracer_provider, SCHEMA_URL)
        meter = metrics.get_meter("asyncpush", __version__, meter_provider, SCHEMA_URL)
        self._meters = Meters.of(meter)
        self._pushes: dict[str, PushSpans] = {}

    def __call__(self, record: Record) -> None:
        event = record.event
        if isinstance(event, HashProgress):
            return  # thousands of events with nothing new
        if isinstance(event, PushStarted):
            self._pushes[record.push_id] = PushSpans(self._tracer, self._meters, record, event)
        elif (push := self._pushes.get(record.push_id)) is not None:
            push.add(record)
            if isinstance(event, PushFinished | PushFailed):
                del self._pushes[record.push_id]

    def trace_headers(self, span_id: str) -> Mapping[str, str]:
        """The `traceparent` header for the request whose events have this span id; empty when there
        is none.

        Nothing else of the context is sent: `tracestate` and baggage belong to the application.
        """
        for push in list(self._pushes.values()):  # other threads may start pushes at the same time
            if (request := push.requests.get(span_id)) is not None:
                carrier: dict[str, str] = {}
                context = trace.set_span_in_context(request.span)
                TraceContextTextMapPropagator().inject(carrier, context)
                return {name: value for name, value in carrier.items() if name == "traceparent"}
        return {}
