"""The metrics, and which events each of them counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry import metrics

from asyncpush.events import RequestFinished

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
