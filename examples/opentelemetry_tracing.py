"""See a push as a trace, below the span that is current when it starts.

pip install 'asyncpush[hub,otel]' opentelemetry-sdk
HF_ENDPOINT=local python examples/opentelemetry_tracing.py me/model

The spans are printed here; `opentelemetry-exporter-otlp` sends them to Jaeger, Tempo or Honeycomb.
"""

import asyncio
import os
import sys
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from asyncpush import PushOptions, UploadConfig, Uploader
from asyncpush.listeners.otel import OpenTelemetry


class PrintTree(SpanExporter):
    """Prints spans as a tree, when the outermost has ended."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.ended += spans
        for span in spans:
            if span.parent is None:
                self.show(span)
        return SpanExportResult.SUCCESS

    def show(self, span: ReadableSpan, indent: str = "") -> None:
        milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
        status = (span.attributes or {}).get("http.response.status_code", "")
        print(f"{indent}{span.name} {status}".ljust(40), f"{milliseconds:8.1f} ms")
        below = [each for each in self.ended if each.parent == span.context]
        for each in sorted(below, key=lambda each: each.start_time or 0):
            self.show(each, indent + "  ")


async def main(repo_id: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(PrintTree()))
    trace.set_tracer_provider(provider)

    # This line is all that asyncpush needs.
    config = UploadConfig(events=OpenTelemetry(), progress="none")

    with trace.get_tracer("training").start_as_current_span("checkpoint"):
        async with Uploader(config=config) as up:
            weights = os.urandom(12_000_000)
            options = PushOptions(path_in_repo="model.bin")
            await up.push_to_hub(repo_id, weights, options)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
