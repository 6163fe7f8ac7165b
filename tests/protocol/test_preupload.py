from __future__ import annotations

from typing import Any

import pytest

from asyncpush.errors import ProtocolError
from asyncpush.models import FileSource
from asyncpush.protocol.commits import UploadMode, parse_preupload, preupload_request
from tests.protocol.helpers import REPO, answer, said

FILE = FileSource.of_bytes("a/b.txt", b"abc")
EMPTY = FileSource.of_bytes("empty", b"")


def test_the_call_shows_the_hub_the_first_bytes() -> None:
    request = preupload_request(REPO, "refs/pr/1", [(FILE, b"abc")])

    assert request.target == "/api/models/me/m/preupload/refs%2Fpr%2F1"
    assert isinstance(request.body, bytes)
    assert said(request.body) == {"files": [{"path": "a/b.txt", "size": 3, "sample": "YWJj"}]}


def test_a_pull_request_and_a_gitignore_are_reported() -> None:
    request = preupload_request(REPO, "main", [(FILE, b"")], create_pr=True, gitignore="*.tmp\n")

    assert request.target.endswith("/preupload/main?create_pr=1")
    assert isinstance(request.body, bytes)
    assert said(request.body)["gitIgnore"] == "*.tmp\n"


def row(**fields: Any) -> dict[str, Any]:
    return {"path": "a/b.txt", "uploadMode": "lfs", **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, UploadMode("lfs", False, None), id="lfs"),
        pytest.param({"uploadMode": "regular"}, UploadMode("regular", False, None), id="regular"),
        pytest.param({"shouldIgnore": True}, UploadMode("lfs", True, None), id="ignored"),
        pytest.param({"oid": "f" * 40}, UploadMode("lfs", False, "f" * 40), id="there already"),
        pytest.param({"oid": None, "new": 1}, UploadMode("lfs", False, None), id="unknown fields"),
    ],
)
def test_the_hub_says_how_a_file_goes(fields: Any, expected: UploadMode) -> None:
    assert parse_preupload(answer({"files": [row(**fields)]}), [FILE]) == {"a/b.txt": expected}


def test_an_empty_file_is_always_regular() -> None:
    response = answer({"files": [row(path="empty", oid="f" * 40)]})

    assert parse_preupload(response, [EMPTY]) == {"empty": UploadMode("regular", False, "f" * 40)}


def test_a_path_that_was_not_asked_about_is_left_out() -> None:
    response = answer({"files": [row(), row(path="other")]})

    assert list(parse_preupload(response, [FILE])) == ["a/b.txt"]


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param({"files": []}, "has no entry for 'a/b.txt'", id="a path missing"),
        pytest.param({}, "files is missing", id="files missing"),
        pytest.param({"files": {}}, "files is an object", id="files an object"),
        pytest.param({"files": ["x"]}, "files[] is a text", id="row a text"),
        pytest.param({"files": [row(path=None)]}, "files[].path is missing", id="path null"),
        pytest.param({"files": [row(uploadMode="ftp")]}, "uploadMode is 'ftp'", id="unknown mode"),
        pytest.param({"files": [row(uploadMode=1)]}, "uploadMode is a number", id="mode a number"),
        pytest.param({"files": [row(shouldIgnore=1)]}, "shouldIgnore is", id="flag a number"),
        pytest.param({"files": [row(oid=5)]}, "oid is a number", id="oid a number"),
        pytest.param(b"null", "an object was expected", id="null"),
        pytest.param(b"\xff", "not JSON", id="not UTF-8"),
    ],
)
def test_an_impossible_answer_is_refused_by_name(value: Any, fragment: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_preupload(answer(value), [FILE])

    assert fragment in caught.value.message
