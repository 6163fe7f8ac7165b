"""No listener tells a secret, whoever forgot to redact it before.

Each listener stands in `LISTENERS` with a way to hear all that it tells; a listener that does not
stand there fails a test.
"""

from __future__ import annotations

import ast
import io
import logging
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asyncpush.listeners
from asyncpush.events import (
    Committed,
    Event,
    Notice,
    PushFailed,
    PushStarted,
    Record,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    RetryScheduled,
    Waiting,
)
from asyncpush.listeners.aggregator import ProgressAggregator
from asyncpush.listeners.bars import BarDisplay
from asyncpush.listeners.format import ASCII
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.logs import JsonFormatter, LogListener, VerboseFormatter
from asyncpush.listeners.otel import OpenTelemetry
from asyncpush.listeners.publisher import ProgressPublisher
from asyncpush.listeners.result_stats import ActivityTally, RetryTally
from asyncpush.listeners.timeline.recording import TimelineRecorder, render
from asyncpush.listeners.view import PushView
from tests.listeners.helpers import one_of_each, record
from tests.listeners.test_otel import Telemetry

LETTERS = string.ascii_letters + string.digits


def json_lines(records: Sequence[Record], folder: Path) -> str:
    writer = JsonlWriter(folder / "events.jsonl", verbose=True)
    for each in records:
        writer.on_event(each)
    writer.close()
    return (folder / "events.jsonl").read_text()


def log_records(records: Sequence[Record], folder: Path) -> str:
    reported: list[str] = []

    class KeepingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reported.extend(form.format(record) for form in (VerboseFormatter(), JsonFormatter()))
            reported.append(repr(vars(record)))

    log = logging.getLogger("asyncpush")
    handler, level = KeepingHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        for each in records:
            LogListener().on_event(each)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return "\n".join(reported)


def plain_bars(records: Sequence[Record], folder: Path) -> str:
    stream = io.StringIO()
    display = BarDisplay("bar", "me/m", stream=stream)
    for each in records:
        display.on_event(each)
    display.close()
    return stream.getvalue()


def terminal_view(records: Sequence[Record], folder: Path) -> str:
    """Every frame that a terminal could draw."""
    reported, view = [], PushView("me/m")
    for each in records:
        view.on_event(each)
        reported += [line.left for line in view.lines(2000, ASCII)]
        reported.append(view.line(2000, ASCII).left)
    return "\n".join([*map(str, reported), view.closing(2000, ASCII) or ""])


def spans(records: Sequence[Record], folder: Path) -> str:
    telemetry = Telemetry()
    for each in records:
        telemetry.listener(each)
    return "\n".join(span.to_json() for span in telemetry.spans)


def aggregated(records: Sequence[Record], folder: Path) -> str:
    aggregator, tally, activity = ProgressAggregator(), RetryTally(), ActivityTally()
    for each in records:
        for listener in (aggregator, tally, activity):
            listener.on_event(each)
    return repr((aggregator.snapshot(), tally.retries, activity.activity()))


def timeline(records: Sequence[Record], folder: Path) -> str:
    """What is drawn, and the trace that is written; a picture shows no more than that."""
    recorder = TimelineRecorder()
    for each in records:
        recorder.on_event(each)
    drawn = recorder.timeline()
    return repr(drawn) + render(drawn, PurePath("trace.json")).decode()


LISTENERS: dict[str, tuple[set[type], Callable[[Sequence[Record], Path], str]]] = {
    "JSON lines": ({JsonlWriter}, json_lines),
    "log records": ({LogListener}, log_records),
    "plain bars": ({BarDisplay}, plain_bars),
    "terminal": ({PushView}, terminal_view),
    "spans": ({OpenTelemetry}, spans),
    "progress": ({ProgressAggregator, ProgressPublisher, RetryTally, ActivityTally}, aggregated),
    "timeline": ({TimelineRecorder}, timeline),
}


def test_every_listener_is_listened_to() -> None:
    found = set()
    for path in Path(asyncpush.listeners.__path__[0]).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                found |= {node.name} if methods & {"on_event", "__call__"} else set()
    listed = {kind.__name__ for kinds, _ in LISTENERS.values() for kind in kinds}
    assert found == listed, "add it to LISTENERS, with a way to hear what it tells"


def with_secrets(random: Random) -> tuple[list[Event], set[str]]:
    """Every kind of event, with secrets wherever a Hub's answer could put one."""
    secrets: set[str] = set()

    def secret(length: int = 34) -> str:
        made = "".join(random.choices(LETTERS, k=length))
        secrets.add(made)
        return made

    def url() -> str:
        return (
            f"https://user:{secret()}@bucket.s3.amazonaws.com/k?X-Amz-Credential={secret()}"
            f"&X-Amz-Security-Token={secret()}&X-Amz-Signature={secret()}"
        )

    def text() -> str:
        forms = [
            f"hf_{secret()}",
            url(),
            f"Authorization: Bearer {secret()}",
            f"eyJ{secret()}.eyJ{secret()}.{secret()}",
            f"refused: {url()} (again)",
        ]
        return " ".join(random.sample(forms, 2))

    def headers() -> dict[str, str]:
        return {
            "Authorization": f"Bearer {secret()}",
            "Location": url(),
            "X-Amz-Security-Token": secret(),
            "Set-Cookie": secret(),
            "X-Echo": text(),
        }

    def fields() -> dict[str, object]:
        return {"upload_url": url(), "token": secret(), "said": [text()], "deep": {"href": url()}}

    changed: list[Event] = []
    for event in one_of_each():
        match event:
            case RequestStarted():
                event = replace(event, url=url(), headers=headers(), fields=fields())
            case RequestFinished():
                event = replace(event, url=url(), headers=headers(), fields=fields())
            case RequestFailed():
                event = replace(event, url=url(), error=text(), fields=fields(), body=text())
                event = replace(event, headers=headers(), suggestion=text(), request_id=text())
            case RetryScheduled() | Waiting():
                event = replace(event, reason=text())
            case Committed():
                event = replace(event, commit_url=url(), pr_url=url())
            case Notice():
                event = replace(event, message=text())
            case PushFailed():
                event = replace(event, error=text(), details=fields() | {"headers": headers()})
        changed.append(event)
    return changed, secrets


@settings(
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 1 << 30))
@pytest.mark.parametrize("name", LISTENERS)
def test_prop_no_listener_tells_a_secret(name: str, seed: int, tmp_path: Path) -> None:
    events, secrets = with_secrets(Random(seed))
    reported = LISTENERS[name][1]([record(event) for event in events], tmp_path)

    assert any(isinstance(event, PushStarted) for event in events)
    assert len(reported) > 20
    assert [secret for secret in secrets if secret in reported] == []
