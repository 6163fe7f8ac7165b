"""Repos as a whole: names, visibility, moving, deleting, listing; and the refs in them."""

from __future__ import annotations

from typing import Any

import pytest

from asyncpush.localhub import LocalHub
from tests.localhub.conftest import HubClient, add, add_lfs, git


async def test_a_new_repo_says_where_it_is(client: HubClient) -> None:
    answer = await client.create("data", type="dataset")

    assert answer.json == {
        "url": f"{client.url}/datasets/me/data",
        "name": "me/data",
        "id": "me/data",
    }


async def test_a_repo_that_exists_is_409_with_its_url(client: HubClient) -> None:
    answer = await client.create()

    assert answer.status == 409
    assert answer.json["url"] == f"{client.url}/me/net"
    assert answer.json["error"].startswith("You already created this model repo")


@pytest.mark.parametrize(
    ("body", "full_name"),
    [
        pytest.param({"name": "mine"}, "local/mine", id="the user's own"),
        pytest.param({"name": "you/yours"}, "you/yours", id="older form"),
        pytest.param({"name": "a.b_c-D9", "organization": "x"}, "x/a.b_c-D9", id="all letters"),
        pytest.param({"name": "n" * 96, "organization": "x"}, f"x/{'n' * 96}", id="longest"),
        pytest.param(
            {"name": "s", "organization": "x", "type": "space", "sdk": "docker"}, "x/s", id="space"
        ),
    ],
)
async def test_good_names_are_taken(
    client: HubClient, body: dict[str, Any], full_name: str
) -> None:
    answer = await client.post("/api/repos/create", body)

    assert (answer.status, answer.json["name"]) == (200, full_name)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="no name"),
        pytest.param({"name": ""}, id="empty name"),
        pytest.param({"name": 7}, id="number"),
        pytest.param({"name": ".."}, id="parent folder"),
        pytest.param({"name": "../../etc/x"}, id="path"),
        pytest.param({"name": "a/b/c"}, id="three parts"),
        pytest.param({"name": "a", "organization": ".."}, id="namespace is the parent folder"),
        pytest.param({"name": "a", "organization": "a/b"}, id="namespace is a path"),
        pytest.param({"name": "a", "organization": "datasets"}, id="namespace has a meaning"),
        pytest.param({"name": "a", "organization": "_lfs"}, id="namespace is the hub's own"),
        pytest.param({"name": "a--b"}, id="two dashes"),
        pytest.param({"name": "-a"}, id="dash in front"),
        pytest.param({"name": "a."}, id="dot behind"),
        pytest.param({"name": "a.git"}, id="ends in .git"),
        pytest.param({"name": "é"}, id="not ASCII"),
        pytest.param({"name": "a\n"}, id="line break"),
        pytest.param({"name": "n" * 97}, id="too long"),
        pytest.param({"name": "a", "type": "bucket"}, id="unknown type"),
        pytest.param({"name": "a", "type": ["model"]}, id="type is a list"),
        pytest.param({"name": "a", "visibility": "secret"}, id="unknown visibility"),
        pytest.param({"name": "a", "private": "yes"}, id="private is a string"),
        pytest.param({"name": "a", "type": "space"}, id="space without sdk"),
        pytest.param({"name": "a", "type": "space", "sdk": "php"}, id="unknown sdk"),
    ],
)
async def test_bad_requests_make_nothing(
    client: HubClient, hub: LocalHub, body: dict[str, Any]
) -> None:
    before = sorted(hub.root.rglob("*.git"))

    answer = await client.post("/api/repos/create", body)

    assert answer.status == 400
    assert sorted(hub.root.rglob("*.git")) == before


@pytest.mark.parametrize(
    "body",
    [{"private": True}, {"visibility": "private"}, {"private": False, "visibility": "private"}],
)
async def test_a_private_repo_needs_a_token(client: HubClient, body: dict[str, Any]) -> None:
    await client.create("secret", **body)
    await client.commit(add("a.txt"), repo="models/me/secret")

    for path in (
        "/api/models/me/secret",
        "/api/models/me/secret/tree/main",
        "/api/models/me/secret/refs",
        "/api/models/me/secret/discussions",
        "/me/secret/resolve/main/a.txt",
    ):
        assert (await client.get(path)).status == 200
        stranger = await client.get(path, token=None)
        missing = await client.get(path.replace("secret", "nothing"), token=None)
        assert (stranger.status, stranger.error_code) == (401, "RepoNotFound")
        assert stranger.json == missing.json
        unknown = await client.get(path.replace("secret", "nothing"))
        assert (unknown.status, unknown.error_code) == (404, "RepoNotFound")
    batch = {"operation": "download", "objects": [{"oid": "ab" * 32, "size": 1}]}
    path = "/me/secret.git/info/lfs/objects/batch"
    answer = await client.post(path, batch, token=None)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


async def test_settings_change_what_they_name(client: HubClient) -> None:
    path = "/api/models/me/net/settings"

    hidden = await client.call("PUT", path, json={"visibility": "private"})
    gated = await client.call("PUT", path, json={"gated": "auto"})
    shown = await client.call("PUT", path, json={"private": False})

    assert [answer.json for answer in (hidden, gated, shown)] == [
        {"private": True, "gated": False},
        {"private": True, "gated": "auto"},
        {"private": False, "gated": "auto"},
    ]
    assert (await client.call("PUT", path, json={"gated": "maybe"})).status == 400


async def test_a_repo_moves_with_all_it_has(client: HubClient) -> None:
    await client.commit(add("a.txt", b"moved"))
    await client.commit(add("b.txt"), query="?create_pr=1")

    answer = await client.post("/api/repos/move", {"fromRepo": "me/net", "toRepo": "you/net2"})

    assert answer.json["url"] == f"{client.url}/you/net2"
    assert (await client.get("/you/net2/resolve/main/a.txt")).body == b"moved"
    assert (await client.get("/api/models/you/net2/discussions")).json["count"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/{}",
        "/api/models/{}/tree/main?recursive=1&limit=5",
        "/{}/resolve/main/a%20b.txt",
        "/{}/blob/main/a%20b.txt",
        "/{}.git/info/refs?service=git-upload-pack",
        "/{}/info/refs?service=git-upload-pack",
    ],
)
async def test_an_old_name_leads_to_the_new_one(client: HubClient, path: str) -> None:
    await client.commit(add("a b.txt"))
    for source, target in (("me/net", "you/second"), ("you/second", "you/third")):
        move = {"fromRepo": source, "toRepo": target}
        assert (await client.post("/api/repos/move", move)).status == 200

    for old in ("me/net", "you/second", "You/THIRD"):
        answer = await client.get(path.format(old))
        assert (answer.status, answer.headers["Location"]) == (307, path.format("you/third"))
        assert (await client.get(answer.headers["Location"])).status == 200


async def test_an_old_name_reveals_no_private_repo(client: HubClient) -> None:
    await client.post("/api/repos/move", {"fromRepo": "me/net", "toRepo": "me/other"})
    await client.call("PUT", "/api/models/me/other/settings", json={"private": True})
    assert (await client.get("/api/models/me/net")).status == 307
    assert (await client.get("/api/models/me/net", token=None)).status == 401


async def test_a_new_repo_takes_an_old_name(client: HubClient) -> None:
    await client.post("/api/repos/move", {"fromRepo": "me/net", "toRepo": "me/other"})
    assert (await client.create("net")).status == 200
    assert (await client.get("/api/models/me/net")).json["id"] == "me/net"
    gone = {"organization": "me", "name": "net"}
    assert (await client.call("DELETE", "/api/repos/delete", json=gone)).status == 200
    assert (await client.get("/api/models/me/net")).status == 404


async def test_names_that_differ_in_case_alone_are_one(client: HubClient) -> None:
    assert (await client.create("NET")).status == 409
    assert (await client.create("net", organization="ME")).status == 409
    renamed = await client.post("/api/repos/move", {"fromRepo": "me/net", "toRepo": "Me/Net"})
    assert renamed.status == 200
    assert [repo["id"] for repo in (await client.get("/api/models")).json] == ["Me/Net"]
    assert (await client.create("net", type="dataset")).status == 200


async def test_a_repo_is_duplicated_without_its_discussions(client: HubClient) -> None:
    await client.commit(add("a.txt", b"copied"))
    await client.commit(add("b.txt"), query="?create_pr=1")
    await client.post("/api/models/me/net/branch/pr%2Fx")
    copy = "/api/models/me/net/duplicate"

    answer = await client.post(copy, {"repository": "you/copy", "visibility": "private"})

    assert answer.json["url"] == f"{client.url}/you/copy"
    assert await client.head(repo="models/you/copy") == await client.head()
    assert (await client.get("/you/copy/resolve/pr%2Fx/a.txt")).body == b"copied"
    info = (await client.get("/api/models/you/copy")).json
    assert info["private"] is True
    assert (await client.get("/api/models/you/copy/discussions")).json["count"] == 0
    refs = (await client.get("/api/models/you/copy/refs?include_prs=1")).json
    assert refs["pullRequests"] == []
    taken = await client.post(copy, {"repository": "you/Copy"})
    assert (taken.status, taken.json["url"]) == (409, f"{client.url}/you/Copy")
    await client.commit(add("c.txt"), repo="models/you/copy")
    assert (await client.get("/me/net/resolve/main/c.txt")).status == 404


@pytest.mark.parametrize(
    ("source", "target", "status"),
    [
        ("me/nothing", "me/other", 404),
        ("me/net", "me/taken", 409),
        ("me/net", "me/net", 409),
        ("me/net", "Me/TAKEN", 409),
        ("me/net", "other", 400),
        ("me/net", "../x", 400),
    ],
)
async def test_a_move_that_cannot_be_is_refused(
    client: HubClient, source: str, target: str, status: int
) -> None:
    await client.create("taken")

    answer = await client.post("/api/repos/move", {"fromRepo": source, "toRepo": target})

    assert answer.status == status
    assert (await client.get("/api/models/me/net")).status == 200


async def test_a_deleted_repo_is_gone_and_may_come_again(client: HubClient, hub: LocalHub) -> None:
    await client.commit(add("a.txt"))
    body = {"type": "model", "organization": "me", "name": "net"}

    assert (await client.call("DELETE", "/api/repos/delete", json=body)).status == 200
    assert (await client.call("DELETE", "/api/repos/delete", json=body)).status == 404

    assert list((hub.root / "tmp").iterdir()) == []
    assert (await client.create()).status == 200
    assert (await client.get("/me/net/resolve/main/a.txt")).status == 404


async def test_repos_are_listed_by_type_author_and_word(client: HubClient) -> None:
    await client.create("other", organization="you")
    await client.create("data", type="dataset")
    await client.create("secret", private=True)

    async def names(path: str, token: str | None = "any") -> list[str]:
        return [item["id"] for item in (await client.get(path, token=token)).json]

    assert await names("/api/models") == ["me/net", "me/secret", "you/other"]
    assert await names("/api/models", token=None) == ["me/net", "you/other"]
    assert await names("/api/models?author=you") == ["you/other"]
    assert await names("/api/models?search=NET") == ["me/net"]
    assert await names("/api/models?limit=1") == ["me/net"]
    assert await names("/api/models?search=ME&search=net") == ["me/net"]
    assert await names("/api/models?gated=true") == []
    assert await names("/api/datasets") == ["me/data"]
    assert await names("/api/spaces") == []


async def test_repos_are_found_by_what_their_cards_say(client: HubClient) -> None:
    card = b"---\nlicense: mit\nlanguage: no\ntags: [tiny]\ndatasets: beans\n"
    card += b"pipeline_tag: fill-mask\nlibrary_name: transformers\nbase_model: [x/y]\n---\n"
    await client.create("plain")
    await client.commit(add("README.md", card))

    async def names(query: str) -> list[str]:
        return [item["id"] for item in (await client.get(f"/api/models?{query}")).json]

    for found in (
        *("filter=tiny", "filter=no", "filter=license:mit", "filter=dataset:beans"),
        *("filter=tiny,license:mit", "filter=tiny&filter=fill-mask", "pipeline_tag=fill-mask"),
        *("filter=base_model:x/y", "filter=transformers", "filter[]=tiny"),
    ):
        assert await names(found) == ["me/net"], found
    assert await names("filter=tiny&filter=large") == []
    assert await names("sort=lastModified&direction=-1") == ["me/net", "me/plain"]
    assert await names("sort=createdAt&direction=1") == ["me/net", "me/plain"]
    (row, _) = (await client.get("/api/models")).json
    assert (row["downloads"], row["likes"], row["author"]) == (0, 0, "me")
    assert "license:mit" in row["tags"]
    assert not {"siblings", "cardData"} & set(row)
    (row, _) = (await client.get("/api/models?full=true")).json
    assert {file["rfilename"] for file in row["siblings"]} == {".gitattributes", "README.md"}
    (row, _) = (await client.get("/api/models?expand=sha&expand=likes")).json
    assert set(row) == {"_id", "id", "sha", "likes"}


async def test_repos_come_in_pages(client: HubClient) -> None:
    for name in ("a", "b", "c"):
        await client.create(name)
    found, path = [], "/api/models?limit=3&author=me"
    while path:
        answer = await client.get(path)
        found.append([item["id"] for item in answer.json])
        link = answer.headers.get("Link", "<>")
        path = link[1 : link.index(">")]
    assert found == [["me/a", "me/b", "me/c"], ["me/net"]]


async def test_a_space_begins_with_a_card(client: HubClient) -> None:
    await client.create("my-first_space", type="space", sdk="gradio")
    info = (await client.get("/api/spaces/me/my-first_space")).json
    assert [file["rfilename"] for file in info["siblings"]] == [".gitattributes", "README.md"]
    assert info["cardData"]["sdk"] == "gradio"
    assert info["cardData"]["title"] == "My First Space"


async def test_commits_are_counted_and_formatted(client: HubClient) -> None:
    await client.commit(add("a.txt"), summary="<b>", description="one & two\n\nthree")
    answer = await client.get("/api/models/me/net/commits/main?limit=1&expand[]=formatted")
    assert answer.headers["X-Total-Count"] == "2"
    (commit,) = answer.json
    formatted = {"title": "&lt;b&gt;", "message": "<p>one &amp; two</p><p>three</p>"}
    assert commit["formatted"] == formatted
    plain = await client.get("/api/models/me/net/commits/main")
    assert "formatted" not in plain.json[0]


WRITES = [
    ("POST", "/api/repos/create"),
    ("DELETE", "/api/repos/delete"),
    ("POST", "/api/repos/move"),
    ("PUT", "/api/models/me/net/settings"),
    ("POST", "/api/models/me/net/preupload/main"),
    ("POST", "/api/models/me/net/commit/main"),
    ("POST", "/api/models/me/net/duplicate"),
    ("POST", "/api/models/me/net/super-squash/main"),
    ("GET", "/api/models/me/net/lfs-files"),
    ("POST", "/api/models/me/net/lfs-files/batch"),
    ("POST", "/api/models/me/net/lfs-files/duplicate"),
    ("GET", "/api/settings/repositories"),
    ("POST", "/api/models/me/net/branch/dev"),
    ("DELETE", "/api/models/me/net/branch/dev"),
    ("POST", "/api/models/me/net/tag/main"),
    ("DELETE", "/api/models/me/net/tag/v1"),
    ("POST", "/api/models/me/net/discussions"),
    ("POST", "/api/models/me/net/discussions/1/comment"),
    ("POST", "/api/models/me/net/discussions/1/title"),
    ("POST", "/api/models/me/net/discussions/1/status"),
    ("POST", "/api/models/me/net/discussions/1/merge"),
    ("GET", "/api/whoami-v2"),
    ("GET", "/api/models/me/net/auth-check/write"),
]


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/gpt2",
        "/api/models/gpt2/revision/main",
        "/api/models/gpt2/tree/main/a/b",
        "/api/datasets/squad/refs",
        "/gpt2/resolve/main/config.json",
        "/datasets/squad/resolve/main/a/b.json",
        "/gpt2.git/info/lfs/objects/batch",
    ],
)
async def test_a_name_of_one_segment_is_no_repo(client: HubClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.error_code) == (404, "RepoNotFound")
    stranger = await client.get(path, token=None)
    assert (stranger.status, stranger.error_code) == (401, "RepoNotFound")
    unknown = await client.get("/api/models/me/net/nonsense")
    assert (unknown.status, unknown.error_code) == (404, None)


async def test_a_revision_may_be_head_or_an_abbreviated_commit(client: HubClient) -> None:
    first = await client.head()
    await client.commit(add("a.txt"))
    assert await client.head("HEAD") == await client.head()
    assert await client.head(first[:7]) == first
    assert await client.head(first[:20]) == first
    tree = (await client.get("/api/models/me/net/tree/main")).json[0]["oid"]
    for revision in (first[:6], tree[:8], "ab" * 5):
        answer = await client.get(f"/api/models/me/net/revision/{revision}")
        assert (answer.status, answer.error_code) == (404, "RevisionNotFound")


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_every_write_needs_a_token(client: HubClient, method: str, path: str) -> None:
    answer = await client.call(method, path, token=None, json={})

    assert answer.status == 401


async def test_branches_start_where_they_are_told(client: HubClient) -> None:
    first = await client.head()
    await client.commit(add("a.txt"))

    await client.post("/api/models/me/net/branch/old", {"startingPoint": first})
    await client.call("POST", "/api/models/me/net/branch/new%2Fone")

    assert await client.head("old") == first
    assert await client.head("new%2Fone") == await client.head()


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        pytest.param("dev", {}, 409, id="exists"),
        pytest.param("dev%2Fx", {}, 409, id="below a branch"),
        pytest.param("x", {}, 409, id="above a branch"),
        pytest.param("new", {"startingPoint": "nowhere"}, 404, id="start unknown"),
        pytest.param("new", {"startingPoint": 7}, 400, id="start is a number"),
        pytest.param("..%2F..%2FHEAD", {}, 400, id="traversal"),
        pytest.param("a..b", {}, 400, id="two dots"),
        pytest.param("a.lock", {}, 400, id="lock file"),
        pytest.param("-a", {}, 400, id="dash in front"),
        pytest.param("a%20b", {}, 400, id="space"),
        pytest.param("a%00b", {}, 400, id="NUL"),
        pytest.param("a~1", {}, 400, id="git's own syntax"),
        pytest.param("ab" * 20, {}, 400, id="looks like a commit"),
        pytest.param("refs%2Fpr%2F1", {}, 400, id="looks like a pull request"),
        pytest.param("HEAD", {}, 400, id="HEAD"),
        pytest.param("n" * 300, {}, 400, id="too long"),
    ],
)
async def test_a_branch_that_cannot_be_is_refused(
    client: HubClient, name: str, body: dict[str, Any], status: int
) -> None:
    await client.post("/api/models/me/net/branch/dev")
    await client.post("/api/models/me/net/branch/x%2Fy")

    answer = await client.post(f"/api/models/me/net/branch/{name}", body)

    assert answer.status == status


async def test_a_branch_may_begin_anew_or_move(client: HubClient) -> None:
    first = await client.head()
    await client.commit(add("a.txt"))
    branch = "/api/models/me/net/branch"

    assert (await client.post(f"{branch}/bare", {"emptyBranch": True})).status == 201
    assert (await client.get("/api/models/me/net/tree/bare")).json == []
    (only,) = (await client.get("/api/models/me/net/commits/bare")).json
    assert only["title"] == "initial commit"
    assert (await client.commit(add("b.txt"), revision="bare")).status == 200
    assert (await client.post(f"{branch}/bare", {"startingPoint": first})).status == 409
    moved = await client.post(f"{branch}/bare", {"startingPoint": first, "overwrite": True})
    assert moved.status == 201
    assert await client.head("bare") == first


async def test_main_stays(client: HubClient) -> None:
    answer = await client.call("DELETE", "/api/models/me/net/branch/main")

    assert answer.status == 403


async def test_a_deleted_branch_makes_room_for_its_folder(client: HubClient) -> None:
    await client.post("/api/models/me/net/branch/x%2Fy%2Fz")

    await client.call("DELETE", "/api/models/me/net/branch/x%2Fy%2Fz")

    assert (await client.post("/api/models/me/net/branch/x")).status == 201
    missing = await client.call("DELETE", "/api/models/me/net/branch/x%2Fy%2Fz")
    assert (missing.status, missing.error_code) == (404, "RevisionNotFound")


async def test_a_tag_without_a_name_is_400(client: HubClient) -> None:
    assert (await client.post("/api/models/me/net/tag/main", {})).status == 400
    assert (await client.post("/api/models/me/net/tag/main", {"tag": "a b"})).status == 400


async def test_a_repo_describes_itself(client: HubClient) -> None:
    oid = await client.store(b"large")
    card = b"---\nlicense: mit\ntags: [a, b]\npipeline_tag: text-generation\nn: 2024-05-01\n---\n"
    await client.commit(add("README.md", card), add_lfs("deep/m.bin", oid))

    info = (await client.get("/api/models/me/net")).json

    assert info["sha"] == await client.head()
    assert info["tags"] == ["text-generation", "a", "b", "license:mit"]
    assert info["pipeline_tag"] == "text-generation"
    assert info["cardData"]["n"] == "2024-05-01"
    assert [item["rfilename"] for item in info["siblings"]] == [
        ".gitattributes",
        "README.md",
        "deep/m.bin",
    ]
    blobs = (await client.get("/api/models/me/net/revision/main?blobs=true")).json["siblings"]
    assert blobs[2]["size"] == 5
    assert blobs[2]["lfs"] == {"sha256": oid, "size": 5, "pointerSize": 126}


async def test_a_repo_tells_only_what_is_asked(client: HubClient) -> None:
    info = (await client.get("/api/models/me/net?expand=sha&expand[]=private&expand=magic")).json

    assert sorted(info) == ["_id", "id", "private", "sha"]


async def test_a_card_in_lfs_is_not_read(client: HubClient) -> None:
    oid = await client.store(b"---\nlicense: mit\n---\n")
    await client.commit(add_lfs("README.md", oid))

    assert "cardData" not in (await client.get("/api/models/me/net")).json


async def test_commits_come_in_pages(client: HubClient) -> None:
    for number in range(4):
        await client.commit(add("a.txt", b"%d" % number), summary=f"number {number}")

    titles, path = [], "/api/models/me/net/commits/main?limit=2"
    while path:
        answer = await client.get(path)
        titles.append([commit["title"] for commit in answer.json])
        link = answer.headers.get("Link", "<>")
        path = link[1 : link.index(">")]

    assert titles == [["number 3", "number 2"], ["number 1", "number 0"], ["initial commit"]]


async def test_packed_refs_are_listed_and_deleted(client: HubClient, hub: LocalHub) -> None:
    await client.post("/api/models/me/net/branch/dev")
    path = hub.root / "models/me/net.git"
    git("-C", path, "pack-refs", "--all")
    (path / "packed-refs.lock").touch()

    assert (await client.post("/api/models/me/net/branch/dev%2Fx")).status == 409
    assert (await client.commit(add("a.txt"))).status == 200
    assert (await client.call("DELETE", "/api/models/me/net/branch/dev")).status == 200

    names = [ref["name"] for ref in (await client.get("/api/models/me/net/refs")).json["branches"]]
    assert names == ["main"]
