"""Pushes as traces and metrics, seen through the SDK's own in-memory exporters."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from asyncpush import AuthError, BackgroundUploader, HubError, UploadConfig, Uploader
from asyncpush.events import (
    FileHashed,
    FileRouted,
    FileStored,
    Notice,
    PartProgress,
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
from asyncpush.listeners.otel import OpenTelemetry
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer
from tests.listeners.helpers import SIGNED_URL

PART = 256 << 10
PRESIGNED = re.compile(r'http://127\.0\.0\.1:([^"]*)X-Amz')
SECRETS = (TOKEN, "X-Amz-Signature", "5ec7e7", "Bearer")


class Telemetry:
    """Providers that keep what they get, and questions about it."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.listener = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def parent(self, span: ReadableSpan) -> ReadableSpan:
        assert span.parent is not None
        (found,) = [each for each in self.spans if id_of(each) == span.parent.span_id]
        return found

    def metric(self, name: str) -> list[Any]:
        """The data points of one metric."""
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        (found,) = [metric for metric in metrics if metric.name == name]
        return list(found.data.data_points)

    def total(self, name: str, **about: str) -> Any:
        points = [point for point in self.metric(name) if about.items() <= point.attributes.items()]
        return sum(point.count if hasattr(point, "count") else point.value for point in points)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


class Elsewhere:
    """Has the hub name its parts at another origin, and keeps what requests carried."""

    def __init__(self) -> None:
        self.carried: list[tuple[str, str, str | None, str | None]] = []

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        carried = request.headers.get("traceparent"), request.headers.get("baggage")
        route = request.match_info.route.name or ""
        self.carried.append((route, (request.url.host or ""), *carried))
        response = await handler(request)
        if request.path.endswith("/objects/batch"):
            assert isinstance(response, web.Response)
            response.text = PRESIGNED.sub(r"http://localhost:\1X-Amz", response.text or "")
        return response


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer, elsewhere: Elsewhere) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, elsewhere.middleware, part_size=PART) as hub:
        yield hub


@pytest.fixture
def config(config: UploadConfig, tmp_path: Path, telemetry: Telemetry) -> UploadConfig:
    return replace(config, events=[tmp_path / "events.jsonl", telemetry.listener])


@pytest.fixture
def folder(write: Callable[..., Path]) -> Path:
    return write({"config.json": "{}", "weights.bin": os.urandom(3 * PART)})


async def test_a_push_is_a_span_tree_below_the_callers(
    telemetry: Telemetry,
    uploader: Uploader,
    faults: FaultLayer,
    folder: Path,
    elsewhere: Elsewhere,
    tmp_path: Path,
) -> None:
    faults.add("part", "503", nth=2)
    tracer = telemetry.tracers.get_tracer("the application")
    token = context.attach(baggage.set_baggage("customer", "secret"))
    with tracer.start_as_current_span("training"):
        result = await uploader.push_to_hub("me/m", folder)
    context.detach(token)

    push, file = telemetry.one("asyncpush.push"), telemetry.one("asyncpush.file")
    parts = telemetry.named("asyncpush.part")
    assert telemetry.parent(push).name == "training"
    assert telemetry.parent(file) is push
    assert (
        attributes(push).items()
        >= {
            "asyncpush.repo_id": "me/m",
            "asyncpush.repo_type": "model",
            "asyncpush.revision": "main",
            "asyncpush.files": 2,
            "asyncpush.commit": result.commit_sha,
            "asyncpush.files_uploaded": 2,
        }.items()
    )
    assert attributes(file)["asyncpush.path"] == "weights.bin"
    assert attributes(file)["asyncpush.parts"] == 3
    assert sorted(attributes(part)["asyncpush.part.number"] for part in parts) == [1, 2, 3]
    assert all(telemetry.parent(part) is file for part in parts)

    # Each attempt is a span of its own below its part; the one that failed says so.
    puts = telemetry.named("PUT part")
    assert len(puts) == 4
    assert all(attributes(put)["network.local.port"] > 0 for put in puts)
    assert all(telemetry.parent(put).name == "asyncpush.part" for put in puts)
    (failed,) = [put for put in puts if put.status.status_code is StatusCode.ERROR]
    assert attributes(failed)["http.response.status_code"] == 503
    assert attributes(failed)["error.type"] == "503"
    (again,) = [put for put in puts if "http.request.resend_count" in attributes(put)]
    assert attributes(again)["http.request.resend_count"] == 1
    assert telemetry.parent(again) is telemetry.parent(failed)
    retried = telemetry.parent(again)
    assert [event.name for event in retried.events] == ["asyncpush.retry"]
    assert retried.status.status_code is StatusCode.UNSET

    # Calls of the Hub lie below what they are for.
    assert telemetry.parent(telemetry.one("POST complete")) is file
    assert telemetry.parent(telemetry.one("POST verify")) is file
    assert telemetry.parent(telemetry.one("POST commit")) is push
    commit = telemetry.one("POST commit")
    assert commit.kind is SpanKind.CLIENT
    assert (
        attributes(commit).items()
        >= {
            "http.request.method": "POST",
            "server.address": "127.0.0.1",
            "server.port": int(uploader.endpoint.rpartition(":")[2]),
            "url.full": f"{uploader.endpoint}/api/models/me/m/commit/main",
            "http.response.status_code": 200,
        }.items()
    )
    assert attributes(commit)["asyncpush.request_id"]
    for span in telemetry.spans:
        assert span.start_time is not None
        assert span.end_time is not None
        if span.parent is not None:
            assert span.start_time >= (telemetry.parent(span).start_time or 0)
            assert span.end_time <= (telemetry.parent(span).end_time or 0) + 1e6

    check_trace_headers(telemetry, elsewhere)
    check_metrics(telemetry)
    for secret in SECRETS:
        assert not any(secret in span.to_json() for span in telemetry.spans)
    assert b'"push.finished"' in (tmp_path / "events.jsonl").read_bytes()  # both sinks are served


def check_trace_headers(telemetry: Telemetry, elsewhere: Elsewhere) -> None:
    """The Hub's own calls name their span; what is presigned or lies elsewhere names nothing."""
    spans = {id_of(span): span for span in telemetry.spans}
    by_host: dict[str, set[bool]] = {}
    for route, host, traceparent, carried_baggage in elsewhere.carried:
        by_host.setdefault(host, set()).add(traceparent is not None)
        assert carried_baggage is None
        if traceparent is not None:
            span = spans[int(traceparent.split("-")[2], 16)]
            assert span.kind is SpanKind.CLIENT
        assert (traceparent is None) == (route in ("part", "complete") or host == "localhost")
    assert by_host == {"127.0.0.1": {True}, "localhost": {False}}


def check_metrics(telemetry: Telemetry) -> None:
    assert telemetry.total("asyncpush.retries") == 1
    assert telemetry.total("asyncpush.sent", **{"asyncpush.call": "part"}) == 4 * PART
    assert telemetry.total("asyncpush.parts.in_flight") == 0
    assert telemetry.total("asyncpush.part.duration") == 3
    assert telemetry.total("asyncpush.part.throughput") == 3
    assert telemetry.total("asyncpush.push.duration") == 1
    requests = [span for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    assert telemetry.total("http.client.request.duration") == len(requests)
    assert telemetry.total("http.client.request.duration", **{"error.type": "503"}) == 1


async def test_a_background_push_is_below_its_callers_span(
    telemetry: Telemetry, hub: LocalHub, config: UploadConfig
) -> None:
    def train() -> None:
        tracer = telemetry.tracers.get_tracer("the application")
        with BackgroundUploader(TOKEN, hub.url, config) as background:
            with tracer.start_as_current_span("step 100"):
                ticket = background.push("me/m", {"config.json": b"{}"})
            ticket.result()

    await asyncio.to_thread(train)
    assert telemetry.parent(telemetry.one("asyncpush.push")).name == "step 100"


async def test_a_failed_push_says_why(
    telemetry: Telemetry, hub: LocalHub, config: UploadConfig, folder: Path
) -> None:
    wrong = "hf_" + "w" * 30
    async with Uploader(wrong, hub.url, config) as uploader:
        with pytest.raises(AuthError):
            await uploader.push_to_hub("me/m", folder)

    push = telemetry.one("asyncpush.push")
    assert push.parent is None
    assert push.status.status_code is StatusCode.ERROR
    assert attributes(push)["error.type"] == "AuthError"
    assert "HF_TOKEN" in str(attributes(push)["asyncpush.suggestion"])
    assert not any(wrong in span.to_json() for span in telemetry.spans)
    assert telemetry.total("asyncpush.push.duration", **{"error.type": "AuthError"}) == 1


async def test_a_failed_part_fails_its_file_and_ends_siblings(
    telemetry: Telemetry, uploader: Uploader, faults: FaultLayer, folder: Path
) -> None:
    faults.add("part", "reset mid-body", nth=3, times=100)
    with pytest.raises(HubError):
        await uploader.push_to_hub("me/m", folder)

    failed = [put for put in telemetry.named("PUT part") if put.status.description]
    assert len(failed) >= 6
    assert {attributes(put)["error.type"] for put in failed} <= {
        "ClientOSError",
        "ServerDisconnectedError",
    }
    file = telemetry.one("asyncpush.file")
    assert file.status.status_code is StatusCode.ERROR
    assert all(telemetry.parent(part) is file for part in telemetry.named("asyncpush.part"))
    assert telemetry.total("asyncpush.parts.in_flight") == 0


async def test_a_cancelled_push_leaves_no_span_open(
    telemetry: Telemetry, uploader: Uploader, faults: FaultLayer, folder: Path
) -> None:
    faults.add("part", "stall before reading", times=9)
    handle = uploader.start_push("me/m", folder)
    await faults.stalled.wait()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle

    push = telemetry.one("asyncpush.push")
    assert push.status.status_code is StatusCode.UNSET
    assert attributes(push)["error.type"] == "CancelledError"
    assert telemetry.named("asyncpush.file")
    assert telemetry.named("PUT part")
    assert telemetry.total("asyncpush.parts.in_flight") == 0
    assert telemetry.listener._pushes == {}


ROOT, FILE, ATTEMPT = "a" * 16, "b" * 16, "c" * 16


class Emits:
    """Events by hand: what real pushes seldom do."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._listener = telemetry.listener
        self._time = 1000.0
        self(PushStarted("me/m", "model", "main"))

    def __call__(self, event: Any, span_id: str = ROOT, parent_id: str | None = None) -> None:
        self._time += 1
        self._listener(Record(event, self._time, "p1", span_id, parent_id))


def started(call: str = "commit", **fields: Any) -> RequestStarted:
    return RequestStarted(
        call=call,
        method="POST",
        url="https://hub/api/x",
        attempt=1,
        bytes_out=10,
        headers={},
        fields=fields,
    )


def finished(call: str = "commit", status: int = 200) -> RequestFinished:
    return RequestFinished(
        call=call,
        method="POST",
        url="https://hub/api/x",
        attempt=1,
        status=status,
        elapsed_ms=2.0,
        bytes_out=10,
        bytes_in=5,
        headers={},
    )


DONE = PushFinished("c" * 40, 1, 1, 1.0)


def test_long_hashing_is_a_span_and_short_hashing_is_none(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(FileHashed("big", 100, "0" * 64, False, elapsed_ms=700.0))
    emit(FileHashed("small", 1, "0" * 64, False, elapsed_ms=0.2))
    emit(FileHashed("known", 100, "0" * 64, True))
    emit(FileRouted("config.json", 1, "inline"))
    emit(FileRouted("small", 1, "lfs"))
    emit(FileStored("small", 1, "lfs", deduplicated=True))
    emit(DONE)

    span = telemetry.one("asyncpush.hash")
    assert attributes(span) == {"asyncpush.path": "big", "asyncpush.size": 100}
    assert (span.end_time or 0) - (span.start_time or 0) == 700_000_000
    assert telemetry.parent(span).name == "asyncpush.push"
    file = telemetry.one("asyncpush.file")
    assert attributes(file)["asyncpush.deduplicated"] is True
    assert attributes(file)["asyncpush.route"] == "lfs"


def test_waits_and_notices_are_reported_on_the_push(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(Waiting(3.0, "rate limit"))
    emit(Notice(f"see {SIGNED_URL}"))
    emit(RetryScheduled("upload", 1, 0.5, "void", "big"))
    emit(TransferStarted("big", 9, 1), FILE, ROOT)
    emit(RetryScheduled("upload", 2, 0.5, "void", "big"), FILE, ROOT)
    emit(PushFailed("cut", "TimeoutError"))

    push = telemetry.one("asyncpush.push")
    assert [event.name for event in push.events] == [
        "asyncpush.waiting",
        "asyncpush.notice",
        "asyncpush.retry",
    ]
    assert [event.name for event in telemetry.one("asyncpush.file").events] == ["asyncpush.retry"]
    assert "Signature" not in push.to_json()


def test_a_restarted_transfer_counts_its_bytes_anew(
    telemetry: Telemetry,
) -> None:
    emit = Emits(telemetry)
    emit(TransferChosen("xet", "the Hub grants a token for it"))
    for sent in (0, 40, 100, 0, 7):
        emit(PartProgress("x.bin", 1, sent, 100, 0))
    emit(DONE)
    assert telemetry.total("asyncpush.sent", **{"asyncpush.call": "xet"}) == 107
    assert attributes(telemetry.one("asyncpush.push"))["asyncpush.transfer"] == "xet"


def test_each_request_under_one_id_has_a_span(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(started(), ATTEMPT, ROOT)
    emit(finished(status=307), ATTEMPT, ROOT)
    emit(started(), ATTEMPT, ROOT)
    emit(started(), ATTEMPT, ROOT)
    emit(finished(), ATTEMPT, ROOT)
    emit(finished(), ATTEMPT, ROOT)  # answered twice: nothing is open any more
    emit(DONE)
    assert len(telemetry.named("POST commit")) == 3


def test_an_unparsable_answer_fails_its_files_span(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(FileRouted("big", 9, "lfs"))
    emit(started("verify"), ATTEMPT, ROOT)
    emit(finished("verify"), ATTEMPT, ROOT)
    fields = {"file": "big"}
    emit(
        RequestFailed(
            call="verify",
            url="https://hub",
            error="garbled",
            status=200,
            retry_attempt=3,
            backoff_ms=None,
            fields=fields,
        ),
        ATTEMPT,
        ROOT,
    )
    emit(PushFailed("garbled", "ProtocolError"))
    assert telemetry.one("asyncpush.file").status.status_code is StatusCode.ERROR


def test_a_failure_of_unknown_kind_still_ends_its_request(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(started(), ATTEMPT, ROOT)
    emit(
        RequestFailed(
            call="commit",
            url="https://hub",
            error=f"at {SIGNED_URL}",
            status=None,
            retry_attempt=1,
            backoff_ms=5.0,
        ),
        ATTEMPT,
        ROOT,
    )
    emit(
        RequestFailed(
            call="part",
            url="https://hub",
            error="of no file",
            status=None,
            retry_attempt=1,
            backoff_ms=5.0,
        ),
        FILE,
        ROOT,
    )
    emit(DONE)
    span = telemetry.one("POST commit")
    assert attributes(span)["error.type"] == "_OTHER"
    assert "Signature" not in (span.status.description or "")


def test_a_part_of_no_known_file_lies_below_the_push(telemetry: Telemetry) -> None:
    emit = Emits(telemetry)
    emit(started("part"), ATTEMPT, ROOT)
    emit(finished("part"), ATTEMPT, ROOT)
    emit(DONE)
    assert telemetry.parent(telemetry.one("POST part")).name == "asyncpush.push"


def test_events_of_a_push_that_began_unheard_are_left_out(telemetry: Telemetry) -> None:
    telemetry.listener(Record(DONE, 1.0, "unknown", ROOT, None))
    assert telemetry.spans == ()
    assert telemetry.listener.trace_headers(ROOT) == {}


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import asyncpush\n"
        "try: import asyncpush.listeners.otel\n"
        "except ImportError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'asyncpush[otel]'" in ran.stdout


def test_the_application_decides_where_it_goes() -> None:
    listener = OpenTelemetry()  # no provider is set: nothing is recorded, and nothing breaks
    listener(Record(PushStarted("me/m", "model", "main"), 1.0, "p", ROOT, None))
    listener(Record(started(), 2.0, "p", ATTEMPT, ROOT))
    assert listener.trace_headers(ATTEMPT) == {}
    assert trace.get_current_span().get_span_context().is_valid is False


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def id_of(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.span_id
