from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from asyncpush.events import (
    Event,
    HashProgress,
    PartStored,
    RequestFailed,
    RetryScheduled,
    TransferStarted,
)
from asyncpush.listeners import logs
from asyncpush.listeners.logs import (
    JsonFormatter,
    LogListener,
    VerboseFormatter,
    configure_from_env,
)
from tests.listeners.helpers import SHA, failed, finished, one_of_each, planned, record


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger("asyncpush")
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(caplog: pytest.LogCaptureFixture, *events: Event) -> list[tuple[str, str, str]]:
    listener = LogListener()
    with caplog.at_level(logging.DEBUG, "asyncpush"):
        for event in events:
            listener.on_event(record(event))
    return [(entry.name, entry.levelname, entry.getMessage()) for entry in caplog.records]


def test_a_push_from_first_to_last(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, *one_of_each()) == [
        ("asyncpush.push", "INFO", "pushing to model me/m, revision main"),
        ("asyncpush.push", "INFO", "3 files, 160 B"),
        ("asyncpush.push", "DEBUG", "hashing"),
        ("asyncpush.transfer", "DEBUG", f"big.bin: {'ab' * 32}"),
        ("asyncpush.http", "DEBUG", "POST https://hub/api/x (preupload, attempt 1, 99 B)"),
        (
            "asyncpush.http",
            "DEBUG",
            "200 from POST https://hub/api/x (preupload, attempt 1, 12 ms)",
        ),
        ("asyncpush.transfer", "DEBUG", "big.bin: lfs, 100 B"),
        ("asyncpush.transfer", "DEBUG", "README.md: inline, 10 B"),
        (
            "asyncpush.transfer",
            "INFO",
            "large files are sent through xet: the Hub grants a token for it",
        ),
        ("asyncpush.transfer", "DEBUG", "old.bin: unchanged"),
        (
            "asyncpush.http",
            "DEBUG",
            "200 from POST https://hub/me/m.git/info/lfs/objects/batch"
            " (lfs_batch, attempt 1, 10 ms)",
        ),
        ("asyncpush.push", "DEBUG", "uploading"),
        ("asyncpush.transfer", "DEBUG", "big.bin: 2 parts"),
        (
            "asyncpush.http",
            "DEBUG",
            "part failed, attempt 1 (no answer):"
            " reset: https://bucket.s3.amazonaws.com/x/part?<redacted>, again in 500 ms",
        ),
        (
            "asyncpush.transfer",
            "WARNING",
            "part of big.bin, part 1: again in 0.5 s (attempt 2): connection reset",
        ),
        ("asyncpush.http", "WARNING", "waiting 12 s: rate limit"),
        ("asyncpush.transfer", "DEBUG", "big.bin: part 1 stored"),
        ("asyncpush.transfer", "DEBUG", "big.bin: part 2 resumed"),
        ("asyncpush.transfer", "DEBUG", "big.bin: stored (lfs)"),
        ("asyncpush.push", "DEBUG", "committing"),
        ("asyncpush.commit", "INFO", "committing 2 files, 0 deletions"),
        ("asyncpush.commit", "INFO", f"committed {SHA}: https://hub/me/m/commit/x"),
        ("asyncpush.push", "DEBUG", "verifying"),
        ("asyncpush.commit", "INFO", f"verified 2 files at {SHA}"),
        ("asyncpush.push", "WARNING", "the card has no license"),
        ("asyncpush.push", "INFO", f"pushed 2 files, 3.00 GB in 30 s: commit {SHA}"),
        ("asyncpush.push", "ERROR", "push failed: HubError: boom"),
    ]


def test_what_else_there_is_to_say(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(
        caplog,
        failed("stop", cancelled=True),
        RequestFailed(
            call="head",
            url="https://hub/x",
            error="looking up the branch failed: gone",
            status=503,
            retry_attempt=6,
            backoff_ms=None,
        ),
        RetryScheduled("preupload", 2, 1.0, "HTTP 503"),
        TransferStarted("a", 100, 3, resumed=2_000_000),
        PartStored("a", 1, 5, resumed=True),
    ) == [
        ("asyncpush.push", "INFO", "push cancelled: AuthError: stop"),
        ("asyncpush.http", "WARNING", "head failed, attempt 6 (HTTP 503): gone"),
        ("asyncpush.transfer", "WARNING", "preupload: again in 1.0 s (attempt 2): HTTP 503"),
        ("asyncpush.transfer", "DEBUG", "a: 3 parts, 2.00 MB already stored"),
        ("asyncpush.transfer", "DEBUG", "a: part 1 resumed"),
    ]


def test_records_carry_the_event(caplog: pytest.LogCaptureFixture) -> None:
    logged(caplog, planned(2, 30))
    row: Any = caplog.records[0].__dict__["asyncpush"]
    assert row["event"] == "push.planned"
    assert row["total_bytes"] == 30
    assert row["push_id"] == "push-1"


def test_nothing_is_made_of_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> dict[str, Any]:
        raise AssertionError("a row was made")

    monkeypatch.setattr("asyncpush.listeners.log_messages.event_row", never)
    logging.getLogger("asyncpush").setLevel(logging.CRITICAL)
    for event in one_of_each():
        LogListener().on_event(record(event))


def test_an_event_without_a_text_is_logged_by_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (logging.getLogger("asyncpush.push"), logging.INFO)
    monkeypatch.setitem(logs._PLACES, HashProgress, place)
    assert logged(caplog, HashProgress("a", 1, 2)) == [("asyncpush.push", "INFO", "file.hashing")]


def log_record(**extra: object) -> logging.LogRecord:
    entry = logging.LogRecord("asyncpush.push", logging.INFO, "f.py", 1, "hi %s", ("you",), None)
    entry.created = 1_760_000_000.25
    entry.__dict__.update(extra)
    return entry


class TestJsonFormatter:
    def test_a_line_is_one_object(self) -> None:
        line = JsonFormatter().format(log_record(asyncpush={"event": "notice", "time": "other"}))
        assert orjson.loads(line) == {
            "time": "2025-10-09T08:53:20.250000Z",
            "level": "info",
            "logger": "asyncpush.push",
            "message": "hi you",
            "event": "notice",
        }

    def test_records_of_others_will_do(self) -> None:
        assert orjson.loads(JsonFormatter().format(log_record()))["message"] == "hi you"

    def test_a_traceback_is_in_it(self) -> None:
        try:
            raise ValueError("oh")
        except ValueError:
            line = JsonFormatter().format(log_record(exc_info=sys.exc_info()))
        assert "ValueError: oh" in orjson.loads(line)["exception"]

    def test_names_that_are_not_utf8_are_escaped(self) -> None:
        line = JsonFormatter().format(log_record(asyncpush={"path": "\udcff"}))
        assert "\\udcff" in line


class TestVerbose:
    def show(self, *events: Event) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(VerboseFormatter())
        root = logging.getLogger("asyncpush")
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        for event in events:
            LogListener().on_event(record(event))
        return stream.getvalue()

    def test_headers_and_answers_are_shown_and_secrets_are_not(self) -> None:
        text = self.show(*one_of_each())
        assert "    > Authorization: <redacted>\n" in text
        assert "    < X-Request-Id: r-1\n" in text
        assert "    upload_url = https://bucket.s3.amazonaws.com/x/part\n" in text
        assert '    files = [{"file":"big.bin","size":100,"route":"lfs"}]\n' in text
        assert "hf_s" not in text
        assert "X-Amz-Signature" not in text

    def test_other_events_take_one_line(self) -> None:
        line = self.show(finished())
        assert line.count("\n") == 1
        assert "INFO    asyncpush.push  pushed 2 files" in line

    def test_an_endless_answer_is_cut(self) -> None:
        event = RequestFailed(
            call="x",
            url="https://x",
            error="e",
            status=500,
            retry_attempt=1,
            backoff_ms=None,
            fields={"files": "b" * 10_000},
        )
        assert f"{'b' * 2048}… (10000 characters)" in self.show(event)


class TestConfigureFromEnv:
    def handlers(self) -> list[logging.Handler]:
        return logging.getLogger("asyncpush").handlers

    def test_without_the_variable_nothing_is_touched(self) -> None:
        configure_from_env({})
        assert self.handlers() == []

    def test_debug_writes_to_stderr_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_from_env({"ASYNCPUSH_LOG": " DEBUG "})
        configure_from_env({"ASYNCPUSH_LOG": "debug"})
        assert len(self.handlers()) == 1
        LogListener().on_event(record(planned(2, 30)))
        output = capsys.readouterr()
        assert output.err.count("2 files, 30 B") == 1
        assert output.out == ""

    def test_the_level_may_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASYNCPUSH_LOG", "warning")
        configure_from_env()
        assert logging.getLogger("asyncpush").level == logging.WARNING

    def test_a_word_it_does_not_know_is_said_so(self, caplog: pytest.LogCaptureFixture) -> None:
        configure_from_env({"ASYNCPUSH_LOG": "loud"})
        assert self.handlers() == []
        assert "ASYNCPUSH_LOG=loud" in caplog.text
