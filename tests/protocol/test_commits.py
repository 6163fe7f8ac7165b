from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import ProtocolError
from asyncpush.protocol.commits import (
    AddInline,
    AddLfs,
    Change,
    CommitAnswer,
    CommitHeader,
    Delete,
    change_line,
    commit_request,
    has_trailer,
    header_line,
    parse_commit,
    payload_size,
    with_trailer,
)
from asyncpush.protocol.http import StreamBody
from tests.protocol.helpers import REPO, SHA1, SHA256, answer

HUB = "https://hub.example/below"


def lines(*changes: tuple[Change, bytes]) -> list[Any]:
    return [orjson.loads(change_line(change, content)) for change, content in changes]


def test_each_change_is_one_line() -> None:
    assert lines(
        (AddInline("a", 3, SHA1), b"abc"),
        (AddLfs("b", 9, SHA256), b""),
        (Delete("c"), b""),
    ) == [
        {"key": "file", "value": {"path": "a", "content": "YWJj", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "b", "algo": "sha256", "oid": SHA256, "size": 9}},
        {"key": "deletedFile", "value": {"path": "c"}},
    ]


def test_lines_are_ascii_and_nothing_else_ends_them() -> None:
    odd = "é\u2028\u0085\x0b\x1c\U0001f600"
    header = header_line(CommitHeader(odd, odd, None))
    for line in (header, change_line(AddInline(odd, 3, SHA1), b"abc"), change_line(Delete(odd))):
        assert len(line.decode("ascii").splitlines()) == 1
    assert orjson.loads(header)["value"] == {"summary": odd, "description": odd}


@pytest.mark.parametrize("parent", [None, SHA1], ids=["no parent", "a parent"])
def test_the_header_names_the_parent_only_when_there_is_one(parent: str | None) -> None:
    value = orjson.loads(header_line(CommitHeader("s", "d", parent)))["value"]

    assert value.get("parentCommit") == parent
    assert ("parentCommit" in value) is (parent is not None)


texts = st.text(max_size=40)
inline = st.binary(max_size=70).flatmap(
    lambda content: texts.map(lambda path: (AddInline(path, len(content), SHA1), content))
)
large = st.builds(lambda path, size: (AddLfs(path, size, SHA256), b""), texts, st.integers(0, 9**9))
gone = texts.map(lambda path: (Delete(path), b""))


@settings(max_examples=40)
@given(
    header=st.builds(CommitHeader, texts, texts, st.none() | st.just(SHA1)),
    changes=st.lists(inline | large | gone, max_size=6),
)
def test_the_length_reported_is_the_length_sent(
    header: CommitHeader, changes: list[tuple[Change, bytes]]
) -> None:
    body = header_line(header) + b"".join(change_line(*change) for change in changes)

    assert payload_size(header, [change for change, _ in changes]) == len(body)
    assert body.count(b"\n") == 1 + len(changes)


async def nothing() -> AsyncIterator[bytes]:
    yield b""


@pytest.mark.parametrize(
    ("create_pr", "target"),
    [
        (False, "/api/models/me/m/commit/a%2Fb"),
        (True, "/api/models/me/m/commit/a%2Fb?create_pr=1"),
    ],
    ids=["on the branch", "as a pull request"],
)
def test_the_commit_call(create_pr: bool, target: str) -> None:
    body = StreamBody(7, nothing)

    request = commit_request(REPO, "a/b", body, create_pr=create_pr, files=1)

    assert request.target == target
    assert request.size == 7
    assert request.headers == {"Content-Type": "application/x-ndjson"}
    assert request.fields == {"repo_id": "me/m", "revision": "a/b", "files": 1}


@pytest.mark.parametrize("description", ["", " \n", "Why.", "Why.\n\n", "One.\n\nTwo."], ids=repr)
def test_a_push_finds_its_own_trailer(description: str) -> None:
    message = with_trailer(description, "p1")

    assert has_trailer(message, "p1")
    assert not has_trailer(message, "p")
    assert not has_trailer(message, "p12")
    assert message.splitlines()[-1] == "Asyncpush-Push-Id: p1"


def test_a_trailer_within_a_line_is_not_one() -> None:
    assert not has_trailer("see Asyncpush-Push-Id: p1", "p1")


@pytest.mark.parametrize(
    ("pr_url", "expected"),
    [(None, None), ("", None), ("https://h/1", "https://h/1")],
    ids=["null", "empty", "a pull request"],
)
def test_the_answer_names_the_commit(pr_url: str | None, expected: str | None) -> None:
    response = {"commitOid": SHA1, "commitUrl": "https://h/u", "pullRequestUrl": pr_url}

    assert parse_commit(answer(response), HUB) == CommitAnswer(SHA1, "https://h/u", expected)


@pytest.mark.parametrize(
    ("response", "url"),
    [
        ("/me/m/commit/1", f"{HUB}/me/m/commit/1"),
        ("me/m/commit/1", f"{HUB}/me/m/commit/1"),
        ("//elsewhere/x", f"{HUB}/elsewhere/x"),
        ("https://huggingface.co/me/m", f"{HUB}/me/m"),
        ("http://elsewhere/x", "http://elsewhere/x"),
    ],
)
def test_the_pages_that_an_answer_names_are_absolute(response: str, url: str) -> None:
    found = answer({"commitOid": SHA1, "commitUrl": response, "pullRequestUrl": response})

    assert parse_commit(found, HUB) == CommitAnswer(SHA1, url, url)


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param({}, "commitOid is missing", id="empty"),
        pytest.param({"commitOid": "main", "commitUrl": "u"}, "not a git object", id="a name"),
        pytest.param({"commitOid": SHA1}, "commitUrl is missing", id="URL missing"),
        pytest.param(
            {"commitOid": SHA1, "commitUrl": "u", "pullRequestUrl": 1}, "pullRequestUrl", id="PR 1"
        ),
    ],
)
def test_an_impossible_answer_is_refused_by_name(value: Any, fragment: str) -> None:
    with pytest.raises(ProtocolError, match=fragment):
        parse_commit(answer(value), HUB)
