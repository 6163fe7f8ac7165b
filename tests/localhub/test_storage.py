"""Making a repo smaller, as the official client does it: squashed branches, LFS files removed."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from asyncpush.localhub import LocalHub
from tests.localhub.conftest import HubClient, add, add_lfs, git


@pytest.fixture
def api(hub_in_thread: LocalHub, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api = HfApi(endpoint=hub_in_thread.url, token="hf_local")
    api.create_repo("me/net")
    return api


def upload(api: HfApi, path: str, content: bytes, **where: Any) -> str:
    made = api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="me/net", **where)
    return str(made.oid)


def test_a_branch_is_squashed_into_one_commit(api: HfApi) -> None:
    for number in range(3):
        upload(api, f"{number}.txt", b"text")
    api.create_branch("me/net", branch="dev")

    api.super_squash_history("me/net", branch="dev", commit_message="All of it")

    (only,) = api.list_repo_commits("me/net", revision="dev")
    assert only.title == "All of it"
    assert api.list_repo_files("me/net", revision="dev") == api.list_repo_files("me/net")
    assert len(api.list_repo_commits("me/net")) == 4


def test_lfs_files_are_listed_and_removed_from_every_commit(
    api: HfApi, hub_in_thread: LocalHub
) -> None:
    upload(api, "old/model.bin", b"first version" * 9)
    upload(api, "old/model.bin", b"second version" * 9)
    upload(api, "keep.bin", b"kept" * 9)
    api.create_tag("me/net", tag="v1")
    pull = upload(api, "idea.bin", b"an idea" * 9, create_pr=True)
    assert pull

    files = {file.filename: file for file in api.list_lfs_files("me/net")}
    assert set(files) == {"old/model.bin", "keep.bin", "idea.bin"}
    assert len(list(api.list_lfs_files("me/net"))) == 4
    assert files["keep.bin"].size == 36
    assert files["idea.bin"].ref == "refs/pr/1"

    api.permanently_delete_lfs_files(
        "me/net", [file for file in api.list_lfs_files("me/net") if file.filename != "keep.bin"]
    )

    assert {file.filename for file in api.list_lfs_files("me/net")} == {"keep.bin"}
    for revision in ("main", "v1"):
        assert set(api.list_repo_files("me/net", revision=revision)) == {
            ".gitattributes",
            "keep.bin",
        }
    titles = [commit.title for commit in api.list_repo_commits("me/net")]
    assert len(titles) == 4
    details = api.get_discussion_details("me/net", discussion_num=1)
    assert [event.type for event in details.events] == ["comment", "commit"]
    api.merge_pull_request("me/net", discussion_num=1)
    git("-C", hub_in_thread.root / "models/me/net.git", "fsck", "--strict")


def test_a_history_without_the_file_is_unchanged(api: HfApi) -> None:
    upload(api, "keep.bin", b"kept" * 9)
    head = api.model_info("me/net").sha
    (file,) = api.list_lfs_files("me/net")
    file.file_oid = "ab" * 32
    api.permanently_delete_lfs_files("me/net", [file])
    assert api.model_info("me/net").sha == head


def test_storage_is_reported_by_repo(api: HfApi) -> None:
    upload(api, "model.bin", b"large" * 100)
    api.create_repo("team/data", repo_type="dataset", private=True)
    listed = {(repo.id, repo.type): repo for repo in api.list_user_repos()}
    assert listed["me/net", "model"].storage == 500
    assert listed["team/data", "dataset"].visibility == "private"
    assert [repo.id for repo in api.list_user_repos(namespace="team")] == ["team/data"]


async def test_only_objects_of_the_source_repo_are_duplicated(client: HubClient) -> None:
    oid, other = await client.store(b"large"), await client.store(b"of no repo")
    await client.commit(add_lfs("a.bin", oid))
    await client.create("copy", type="dataset")
    url = "/api/models/me/net/lfs-files/duplicate"
    body = {
        "target": {"type": "dataset", "name": "me/copy"},
        "files": [
            {"xetHash": "0" * 64, "sha256": oid, "filename": "a.bin"},
            {"xetHash": "0" * 64, "sha256": other, "filename": "b.bin"},
        ],
    }
    answer = await client.post(url, body)
    assert answer.json["failed"] == [{"sha256": other, "error": "File not found"}]
    made = await client.commit(add_lfs("a.bin", oid), repo="datasets/me/copy")
    assert made.status == 200
    body["target"] = {"type": "dataset", "name": "me/nothing"}
    assert (await client.post(url, body)).status == 404


async def test_lfs_files_come_in_pages(client: HubClient) -> None:
    for number in range(3):
        oid = await client.store(b"%d" % number)
        await client.commit(add_lfs(f"{number}.bin", oid), add(f"{number}.txt"))
    found, path = [], "/api/models/me/net/lfs-files?limit=2"
    while path:
        answer = await client.get(path)
        found += [file["filename"] for file in answer.json]
        link = answer.headers.get("Link", "<>")
        path = link[1 : link.index(">")]
    assert sorted(found) == ["0.bin", "1.bin", "2.bin"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"deletions": {"sha": ["x"]}}, 400),
        ({"deletions": {"sha": ["ab" * 32], "rewriteHistory": False}}, 501),
    ],
)
async def test_deletions_that_cannot_be_are_refused(
    body: dict[str, Any], status: int, client: HubClient
) -> None:
    answer = await client.post("/api/models/me/net/lfs-files/batch", body)
    assert answer.status == status
