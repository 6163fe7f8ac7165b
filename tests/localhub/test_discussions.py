"""Discussions and pull requests: listing, changing, merging."""

from __future__ import annotations

from typing import Any

import pytest

from asyncpush.localhub import LocalHub
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repo_folders import Repos
from tests.localhub.conftest import HubClient, add

PATH = "/api/models/me/net/discussions"


async def numbers(client: HubClient, query: str = "") -> list[int]:
    answer = await client.get(f"{PATH}{query}")
    return [item["num"] for item in answer.json["discussions"]]


async def test_they_are_listed_newest_first_in_pages(client: HubClient) -> None:
    for number in range(12):
        await client.post(PATH, {"title": f"number {number + 1}", "description": "d"})

    first = (await client.get(PATH)).json
    second = (await client.get(f"{PATH}?p=1")).json

    assert [item["num"] for item in first["discussions"]] == list(range(12, 2, -1))
    assert [item["num"] for item in second["discussions"]] == [2, 1]
    assert (second["count"], second["start"]) == (12, 10)


async def test_they_are_filtered(client: HubClient) -> None:
    await client.post(PATH, {"title": "a question"})
    await client.commit(add("a.txt"), query="?create_pr=1", summary="a pull request")
    await client.post(PATH, {"title": "a draft", "pullRequest": True})
    await client.post(f"{PATH}/1/status", {"status": "closed"})

    assert await numbers(client) == [3, 2, 1]
    assert await numbers(client, "?type=pull_request") == [3, 2]
    assert await numbers(client, "?type=discussion") == [1]
    assert await numbers(client, "?status=open") == [3, 2]
    assert await numbers(client, "?status=closed") == [1]
    assert await numbers(client, "?author=local&type=all") == [3, 2, 1]
    assert await numbers(client, "?author=somebody") == []


async def test_they_can_be_closed_and_opened_with_a_word(client: HubClient) -> None:
    await client.post(PATH, {"title": "a question", "description": "why?"})

    closed = await client.post(f"{PATH}/1/status", {"status": "closed", "comment": "because"})
    opened = await client.post(f"{PATH}/1/status", {"status": "open"})

    assert closed.json["newStatus"]["data"] == {"status": "closed"}
    assert opened.status == 200
    details = (await client.get(f"{PATH}/1")).json
    assert details["status"] == "open"
    assert [event["type"] for event in details["events"]] == [
        "comment",
        "comment",
        "status-change",
        "status-change",
    ]
    assert "changes" not in details


async def test_a_pull_request_merges_beside_other_changes(client: HubClient, hub: LocalHub) -> None:
    await client.commit(add("idea.txt"), query="?create_pr=1", summary="An idea")
    await client.commit(add("meanwhile.txt"))
    main, pull = await client.head(), await client.head("refs%2Fpr%2F1")

    answer = await client.post(f"{PATH}/1/merge")

    merged = answer.json["mergeCommitId"]
    assert await client.head() == merged
    for path in ("idea.txt", "meanwhile.txt"):
        assert (await client.get(f"/me/net/resolve/main/{path}")).status == 200
    with Repos(hub.root).open(RepoId("model", "me", "net")) as repo:
        assert repo.commit(merged).parents == (main, pull)
        assert repo.commit(merged).title == "Merge PR #1: An idea"
    details = (await client.get(f"{PATH}/1?diff=1")).json
    assert (details["status"], details["changes"]["mergeCommitId"]) == ("merged", merged)
    assert "idea.txt" in details["diff"]


async def test_a_merge_that_conflicts_is_409_and_changes_nothing(client: HubClient) -> None:
    await client.commit(add("a.txt", b"theirs\n"), query="?create_pr=1")
    await client.commit(add("a.txt", b"ours\n"))
    head = await client.head()

    answer = await client.post(f"{PATH}/1/merge")

    assert answer.status == 409
    assert await client.head() == head
    assert (await client.get(f"{PATH}/1")).json["status"] == "open"


@pytest.mark.parametrize(
    ("resource", "body", "status"),
    [
        pytest.param("1/merge", {}, 400, id="merge a discussion"),
        pytest.param("2/merge", {}, 400, id="merge twice"),
        pytest.param("2/status", {"status": "open"}, 400, id="open what is merged"),
        pytest.param("1/status", {"status": "merged"}, 400, id="merged by word"),
        pytest.param("1/status", {}, 400, id="no status"),
        pytest.param("1/title", {"title": "ab"}, 400, id="short title"),
        pytest.param("1/title", {"title": "x" * 201}, 400, id="long title"),
        pytest.param("1/comment", {"comment": " "}, 400, id="blank comment"),
        pytest.param("1/comment", {"comment": 7}, 400, id="comment is a number"),
        pytest.param("9/comment", {"comment": "hi"}, 404, id="no such discussion"),
        pytest.param("9/merge", {}, 404, id="no such pull request"),
        pytest.param("0/merge", {}, 404, id="number zero"),
        pytest.param("..%2F..%2Frepo/merge", {}, 404, id="traversal"),
    ],
)
async def test_what_cannot_be_is_refused(
    client: HubClient, resource: str, body: dict[str, Any], status: int
) -> None:
    await client.post(PATH, {"title": "a question"})
    await client.commit(add("a.txt"), query="?create_pr=1")
    assert (await client.post(f"{PATH}/2/merge", {"comment": "good"})).status == 200

    assert (await client.post(f"{PATH}/{resource}", body)).status == status


async def test_a_title_is_needed(client: HubClient) -> None:
    assert (await client.post(PATH, {})).status == 400
