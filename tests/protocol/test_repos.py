from __future__ import annotations

from typing import Any

import pytest

from asyncpush.errors import ProtocolError
from asyncpush.models import Repo
from asyncpush.options import PushOptions
from asyncpush.protocol import repos
from asyncpush.protocol.http import HubRequest
from asyncpush.protocol.repos import LoggedCommit, PullRequest
from tests.protocol.helpers import DATASET, REPO, SHA1, answer, said

SPACE = Repo("me/s", "space")


@pytest.mark.parametrize(
    ("repo", "options", "expected"),
    [
        pytest.param(REPO, PushOptions(), {"type": "model", "name": "m"}, id="model"),
        pytest.param(
            DATASET,
            PushOptions(private=True),
            {"type": "dataset", "name": "d", "visibility": "private"},
            id="private dataset",
        ),
        pytest.param(
            REPO,
            PushOptions(private=False),
            {"type": "model", "name": "m", "visibility": "public"},
            id="public model",
        ),
        pytest.param(
            SPACE, PushOptions(), {"type": "space", "name": "s", "sdk": "static"}, id="space"
        ),
        pytest.param(
            SPACE,
            PushOptions(repo_type="space", space_sdk="docker"),
            {"type": "space", "name": "s", "sdk": "docker"},
            id="space with an SDK",
        ),
    ],
)
def test_creating_names_type_owner_and_visibility(
    repo: Repo, options: PushOptions, expected: dict[str, str]
) -> None:
    request = repos.create_request(repo, options)

    assert isinstance(request.body, bytes)
    assert said(request.body) == {"organization": "me", **expected}


@pytest.mark.parametrize(
    ("request_", "method", "target"),
    [
        (repos.whoami_request(), "GET", "/api/whoami-v2"),
        (repos.head_request(REPO, "a/b"), "GET", "/api/models/me/m/revision/a%2Fb"),
        (repos.create_branch_request(REPO, "a/b"), "POST", "/api/models/me/m/branch/a%2Fb"),
        (repos.commits_request(REPO, "x"), "GET", "/api/models/me/m/commits/x?limit=100"),
        (
            repos.pull_requests_request(DATASET),
            "GET",
            "/api/datasets/me/d/discussions?type=pull_request&status=open&p=0",
        ),
        (repos.pull_request_request(REPO, 3), "GET", "/api/models/me/m/discussions/3"),
        (repos.ready_request(REPO, 3), "POST", "/api/models/me/m/discussions/3/status"),
        (repos.merge_request(REPO, 3), "POST", "/api/models/me/m/discussions/3/merge"),
        (
            repos.open_pull_request_request(REPO, "t", "d"),
            "POST",
            "/api/models/me/m/discussions",
        ),
    ],
    ids=lambda value: value.call if isinstance(value, HubRequest) else "",
)
def test_each_call_has_its_path(request_: HubRequest, method: str, target: str) -> None:
    assert (request_.method, request_.target) == (method, target)
    assert request_.size == len(request_.body or b"")  # type: ignore[arg-type]


def test_a_created_repo_has_a_url() -> None:
    repos.check_created(answer({"url": "https://h/me/m"}))
    with pytest.raises(ProtocolError, match="url"):
        repos.check_created(answer({"unexpected": ["answer"]}))


def test_the_head_is_an_oid() -> None:
    assert repos.parse_head(answer({"sha": SHA1})) == SHA1


def test_commits_are_listed_with_their_messages() -> None:
    rows = [{"id": SHA1, "title": "t", "message": "m"}, {"id": SHA1, "title": "t"}]

    assert repos.parse_commits(answer(rows)) == [
        LoggedCommit(SHA1, "t", "m"),
        LoggedCommit(SHA1, "t", ""),
    ]


def test_open_pull_requests_come_newest_first_without_discussions() -> None:
    rows = [
        {"num": 1, "isPullRequest": True},
        {"num": 2, "isPullRequest": False},
        {"num": 7, "isPullRequest": True},
    ]

    assert repos.parse_pull_requests(answer({"discussions": rows})) == [7, 1]


def test_a_new_pull_request_has_a_number() -> None:
    assert repos.parse_pull_request_number(answer({"num": 4})) == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(
            {
                "num": 4,
                "status": "merged",
                "events": [{"data": {"latest": {"raw": "hi"}}}, {"data": 1}],
                "changes": {"mergeCommitId": SHA1},
            },
            PullRequest(4, "merged", "hi", SHA1),
            id="merged",
        ),
        pytest.param(
            {"num": 4, "status": "draft", "events": []}, PullRequest(4, "draft", "", None), id="new"
        ),
        pytest.param(
            {"num": 4, "status": "open", "events": [{"data": None}], "changes": None},
            PullRequest(4, "open", "", None),
            id="no data",
        ),
    ],
)
def test_a_pull_request_is_read(value: Any, expected: PullRequest) -> None:
    assert repos.parse_pull_request(answer(value)) == expected


@pytest.mark.parametrize("number", [None, "1", True, 0, -1, 1.5], ids=repr)
def test_what_cannot_be_a_number_of_a_pull_request(number: Any) -> None:
    row = {"num": number, "status": "open", "events": [], "isPullRequest": True}
    with pytest.raises(ProtocolError):
        repos.parse_pull_request_number(answer(row))
    with pytest.raises(ProtocolError):
        repos.parse_pull_request(answer(row))
    with pytest.raises(ProtocolError):
        repos.parse_pull_requests(answer({"discussions": [row]}))
