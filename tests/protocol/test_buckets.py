"""Requests to buckets, and answers, as bytes."""

from __future__ import annotations

import orjson
import pytest

from asyncpush import SyncOptions
from asyncpush.errors import ProtocolError
from asyncpush.models import Repo
from asyncpush.protocol import buckets
from asyncpush.protocol.buckets import AddFile, BucketFile, DeleteFile, FailedOperation
from asyncpush.protocol.http import HubResponse
from tests.protocol.helpers import answer

BUCKET = Repo("me/runs", "bucket")
HASH = "ab" * 32


def test_a_batch_is_one_line_of_json_an_operation() -> None:
    request = buckets.batch_request(
        BUCKET, [AddFile("a", 1, HASH, 5), AddFile("b", 0, HASH, 6, "text/plain"), DeleteFile("c")]
    )
    assert (request.method, request.target) == ("POST", "/api/buckets/me/runs/batch")
    assert isinstance(request.body, bytes)
    assert [orjson.loads(line) for line in request.body.splitlines()] == [
        {"type": "addFile", "path": "a", "xetHash": HASH, "mtime": 5},
        {"type": "addFile", "path": "b", "xetHash": HASH, "mtime": 6, "contentType": "text/plain"},
        {"type": "deleteFile", "path": "c"},
    ]


def test_the_prefix_of_a_tree_is_quoted_whole() -> None:
    assert buckets.tree_request(BUCKET, "a/b c").target == (
        "/api/buckets/me/runs/tree/a%2Fb%20c?recursive=true"
    )
    assert buckets.tree_request(BUCKET).target == "/api/buckets/me/runs/tree?recursive=true"


def test_unset_fields_are_not_in_the_request() -> None:
    assert buckets.create_request(BUCKET, SyncOptions()).body == b"{}"
    options = SyncOptions(private=False, region="eu", resource_group="g1")
    body = buckets.create_request(BUCKET, options).body
    assert isinstance(body, bytes)
    assert orjson.loads(body) == {"visibility": "public", "region": "eu", "resourceGroupId": "g1"}


@pytest.mark.parametrize(
    ("status", "body", "is_answer"),
    [
        pytest.param(200, b"{}", True, id="done"),
        pytest.param(422, b'{"success": false, "failed": []}', True, id="all failed"),
        pytest.param(422, b'{"detail": "Field required"}', False, id="a wrong request"),
        pytest.param(422, b"<html>", False, id="not JSON"),
        pytest.param(422, b"[]", False, id="a list"),
        pytest.param(400, b'{"failed": []}', False, id="another status"),
    ],
)
def test_a_422_answers_a_batch_when_it_lists_what_failed(
    status: int, body: bytes, is_answer: bool
) -> None:
    assert buckets.answers_batch(HubResponse(status, {}, body)) is is_answer


def test_failed_operations_are_read_with_their_reasons() -> None:
    rows = [{"path": "a", "error": "storage is busy"}, {"path": "b"}]
    failed = buckets.parse_batch(answer({"success": False, "failed": rows}))
    assert failed == [
        FailedOperation("a", "storage is busy"),
        FailedOperation("b", "no reason given"),
    ]
    assert buckets.parse_batch(answer({"success": True})) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"success": 1},
        {"success": True, "failed": {}},
        {"success": True, "failed": [1]},
        {"success": False},
        {"success": False, "failed": []},
    ],
)
def test_an_answer_of_another_form_is_refused(body: object) -> None:
    with pytest.raises(ProtocolError):
        buckets.parse_batch(answer(body))


def test_files_are_read_and_folders_left_out() -> None:
    rows = [
        {"type": "directory", "path": "d"},
        {"type": "file", "path": "d/a", "size": 3, "xetHash": HASH, "uploadedAt": "2026"},
        {"type": "file", "path": "old", "size": 4},
    ]
    assert buckets.parse_paths_info(answer(rows)) == {
        "d/a": BucketFile("d/a", 3, HASH, "2026"),
        "old": BucketFile("old", 4, None),
    }


@pytest.mark.parametrize(
    ("reason", "passes"),
    [("storage is busy", True), ("Invalid path", False), ("Storage quota exceeded", False)],
)
def test_a_reason_that_will_still_hold_is_not_tried_again(reason: str, passes: bool) -> None:
    assert FailedOperation("a", reason).may_pass is passes
