from __future__ import annotations

from types import MappingProxyType
from typing import Any

import orjson
import pytest

from asyncpush.events import FilesPlanned, RequestFailed, RequestStarted
from asyncpush.events.schema import event_fields, event_name, event_row
from asyncpush.redaction import HIDDEN, redact_value
from tests.listeners.helpers import SIGNED_URL, answered, one_of_each, record

TOKEN = "hf_" + "aB3" * 11
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("value", "key", "clean"),
    [
        (SIGNED_URL, "url", SIGNED_URL.partition("?")[0]),
        (SIGNED_URL, "upload_url", SIGNED_URL.partition("?")[0]),
        ("https://hub/x?create_pr=1#top", "href", "https://hub/x"),
        ("https://me:pw@proxy:8080/x", "Location", "https://proxy:8080/x"),
        (
            f"PUT {SIGNED_URL} was reset",
            "error",
            f"PUT https://bucket.s3.amazonaws.com/x/part?{HIDDEN} was reset",
        ),
        ("https://blob/x?sv=1&sig=abc", "reason", f"https://blob/x?{HIDDEN}"),
        ("https://cdn/x?Policy=abc&n=1", "reason", f"https://cdn/x?{HIDDEN}"),
        ("see https://hub/docs?page=2", "error", f"see https://hub/docs?{HIDDEN}"),
        (f"token {TOKEN} is invalid", "error", f"token {HIDDEN} is invalid"),
        (f"Bearer {TOKEN}", "x", f"Bearer {HIDDEN}"),
        ("Bearer abc123", "x", f"Bearer {HIDDEN}"),
        (JWT, "x", HIDDEN),
        ("anything", "Authorization", HIDDEN),
        ("anything", "accessToken", HIDDEN),
        (f"hf_oauth_{JWT}", "x", HIDDEN),
        ("Basic dXNlcjpwdw==", "x", f"Basic {HIDDEN}"),
        ("anything", "Proxy-Authorization", HIDDEN),
        ("weights/hf_model", "file", "weights/hf_model"),
        ("runs/sig=3.bin", "file", "runs/sig=3.bin"),
        ("model-key_v2 they say", "path", "model-key_v2 they say"),
        ("hf_hub.preupload", "event", "hf_hub.preupload"),
        (7, "token", 7),
        (None, "url", None),
    ],
)
def test_nothing_that_looks_like_a_credential_passes(value: Any, key: str, clean: Any) -> None:
    assert redact_value(value, key) == clean


def test_containers_are_searched_to_the_bottom() -> None:
    value = {
        "parts": [{"href": SIGNED_URL}, (TOKEN,)],
        "header": MappingProxyType({"Cookie": "a=b"}),
        3: {TOKEN},
    }
    assert redact_value(value) == {
        "parts": [{"href": SIGNED_URL.partition("?")[0]}, [HIDDEN]],
        "header": {"Cookie": HIDDEN},
        "3": [HIDDEN],
    }


def test_a_kind_of_text_is_text() -> None:
    class Path(str):
        pass

    assert redact_value(Path(TOKEN)) == HIDDEN


def test_no_row_of_any_event_holds_a_secret() -> None:
    rows = b"".join(orjson.dumps(event_row(record(event))) for event in one_of_each())
    assert b"X-Amz-Signature" not in rows
    assert b"hf_s" not in rows
    assert b"very secret" not in rows


def test_requests_are_named_by_their_call() -> None:
    started = RequestStarted(
        call="lfs_batch", method="POST", url="https://x", attempt=1, bytes_out=0, headers={}
    )
    lost = RequestFailed(
        call="lfs_batch",
        url="https://x",
        error="reset",
        status=None,
        retry_attempt=1,
        backoff_ms=None,
    )
    assert event_name(started) == "hf_hub.lfs_batch"
    assert event_name(answered()) == "hf_hub.lfs_batch.response"
    assert event_name(lost) == "hf_hub.upload.failed"


def test_the_subject_of_a_request_hides_no_field() -> None:
    about = {"repo_id": "me/m", "status": "mine", "time": "mine", "event": "mine"}
    row = event_row(record(answered("x", **about)))
    assert row["repo_id"] == "me/m"
    assert row["status"] == 200
    assert row["event"] == "hf_hub.x.response"
    assert row["time"] == "2025-10-09T08:53:20.250000Z"
    assert "fields" not in row


def test_other_events_keep_their_fields() -> None:
    assert event_fields(FilesPlanned(2, 30)) == {"total_files": 2, "total_bytes": 30}
