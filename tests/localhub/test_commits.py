"""Commits over the wire: what is accepted, what is refused, and that nothing lies between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pygit2
import pytest

from asyncpush.localhub import LocalHub
from asyncpush.localhub.routes import commit_request
from asyncpush.localhub.store import lfs_rules
from tests.localhub.conftest import HubClient, add, add_lfs, delete, delete_folder

OID = "ab" * 32


async def paths(client: HubClient, revision: str = "main") -> list[str]:
    answer = await client.get(f"/api/models/me/net/tree/{revision}?recursive=true")
    return [item["path"] for item in answer.json if item["type"] == "file"]


async def content(client: HubClient, path: str, revision: str = "main") -> bytes:
    answer = await client.get(f"/me/net/resolve/{revision}/{path}")
    assert answer.status == 200
    return answer.body


async def test_a_commit_says_where_it_is(client: HubClient) -> None:
    answer = await client.commit(add("a.txt"))

    assert answer.status == 200
    oid = await client.head()
    assert answer.json == {
        "success": True,
        "commitOid": oid,
        "commitUrl": f"{client.url}/me/net/commit/{oid}",
        "hookOutput": "",
    }


async def test_summary_and_description_become_the_message(client: HubClient) -> None:
    await client.commit(add("a.txt"), summary="One\nline ", description="\nSeveral\n\nlines\n")

    (newest, _) = (await client.get("/api/models/me/net/commits/main")).json

    assert newest["title"] == "One line"
    assert newest["message"] == "Several\n\nlines"


async def test_the_same_commit_twice_is_two_commits(client: HubClient) -> None:
    """As on the Hub: a client that repeats a commit whose answer was lost sees what it did."""
    first = await client.commit(add("a.txt"))
    second = await client.commit(add("a.txt"))

    assert first.json["commitOid"] != second.json["commitOid"]


async def test_a_commit_on_the_head_it_names_is_made(client: HubClient) -> None:
    head = await client.head()

    assert (await client.commit(add("a.txt"), parentCommit=head)).status == 200
    short = (await client.head())[:7]
    assert (await client.commit(add("b.txt"), parentCommit=short)).status == 200


async def test_a_commit_on_an_older_head_is_412(client: HubClient) -> None:
    stale = await client.head()
    await client.commit(add("a.txt"))
    head = await client.head()

    answer = await client.commit(add("b.txt"), parentCommit=stale)

    assert answer.status == 412
    assert "A commit has happened since" in answer.json["error"]
    assert await client.head() == head


async def test_one_bad_line_undoes_all(client: HubClient) -> None:
    head = await client.head()

    answer = await client.commit(add("a.txt"), add("b.txt"), add_lfs("c.bin", OID, 3))

    assert answer.status == 404
    assert await client.head() == head


async def test_a_pointer_to_nothing_is_refused_like_the_hub(client: HubClient) -> None:
    answer = await client.commit(add_lfs("c.bin", OID, 3))

    assert "LFS pointer pointed to a file that does not exist" in answer.json["error"]
    assert "c.bin" in answer.json["error"]


async def test_a_pointer_with_another_size_is_refused(client: HubClient) -> None:
    oid = await client.store(b"three")

    assert (await client.commit(add_lfs("c.bin", oid, 3))).status == 400
    assert (await client.commit(add_lfs("c.bin", oid, 5))).status == 200
    assert await content(client, "c.bin") == b"three"


async def test_a_pointer_without_a_size_gets_the_objects(client: HubClient) -> None:
    oid = await client.store(b"three")

    await client.commit(add_lfs("copy.bin", oid))

    answer = await client.post("/api/models/me/net/paths-info/main", {"paths": ["copy.bin"]})
    assert answer.json[0]["size"] == 5


async def test_files_and_folders_are_deleted(client: HubClient) -> None:
    await client.commit(add("a.txt"), add("deep/er/b.txt"), add("deep/c.txt"), add("x/y.txt"))

    await client.commit(delete("a.txt"), delete("x/y.txt"), delete_folder("deep/er/"))

    assert await paths(client) == [".gitattributes", "deep/c.txt"]
    root = (await client.get("/api/models/me/net/tree/main")).json
    assert [item["path"] for item in root] == [".gitattributes", "deep"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(delete("nowhere.txt"), id="missing file"),
        pytest.param(delete("nowhere/a.txt"), id="file in a missing folder"),
        pytest.param(delete_folder("deep/a.txt"), id="file as a folder"),
        pytest.param(delete_folder("nowhere/deep"), id="missing folder"),
    ],
)
async def test_deleting_what_is_not_there_is_404(client: HubClient, line: dict[str, Any]) -> None:
    await client.commit(add("deep/a.txt"))

    answer = await client.commit(line)

    assert answer.status == 404
    assert answer.error_code == "EntryNotFound"


async def test_a_file_may_replace_a_deleted_folder(client: HubClient) -> None:
    await client.commit(add("thing/a.txt"), add("other"))

    answer = await client.commit(
        add("thing", b"now a file"),
        add("other/b.txt"),
        delete("thing/a.txt"),
        delete("other"),
    )

    assert answer.status == 200
    assert await paths(client) == [".gitattributes", "other/b.txt", "thing"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([add("a.txt/b.txt")], id="file in the way of a folder"),
        pytest.param([add("deep")], id="folder in the way of a file"),
        pytest.param([add("new"), add("new/a.txt")], id="both new, file first"),
        pytest.param([add("new/a.txt"), add("new")], id="both new, folder first"),
    ],
)
async def test_a_path_is_a_file_or_a_folder(client: HubClient, lines: list[dict[str, Any]]) -> None:
    await client.commit(add("a.txt"), add("deep/a.txt"))

    answer = await client.commit(*lines)

    assert answer.status == 400
    assert "Invalid path" in answer.json["error"]


async def test_an_executable_stays_one(client: HubClient, hub: LocalHub) -> None:
    """The mode that somebody gave a file with git is not undone by a push."""
    git = pygit2.Repository(str(hub.root / "models/me/net.git"))
    builder = git.TreeBuilder()
    builder.insert("run.sh", git.create_blob(b"#!/bin/sh\n"), 0o100755)
    signature = pygit2.Signature("me", "me@example.org")
    parent = git.references["refs/heads/main"].target
    git.create_commit("refs/heads/main", signature, signature, "sh", builder.write(), [parent])

    await client.commit(add("run.sh", b"#!/bin/bash\n"))

    tree = pygit2.Repository(git.path).revparse_single("main^{tree}")
    assert isinstance(tree, pygit2.Tree)
    assert tree["run.sh"].filemode == 0o100755


BAD_LINES: list[Any] = [
    pytest.param({"key": "header", "value": {"summary": "again"}}, 400, id="second header"),
    pytest.param({"key": "rename", "value": {}}, 400, id="unknown key"),
    pytest.param({"key": "file"}, 400, id="no value"),
    pytest.param({"key": "file", "value": []}, 400, id="value is a list"),
    pytest.param({"key": "file", "value": {"path": "a"}}, 400, id="no content"),
    pytest.param({"key": "file", "value": {"path": "a", "content": 1}}, 400, id="number"),
    pytest.param(
        {"key": "file", "value": {"path": "a", "content": "%", "encoding": "base64"}},
        400,
        id="not base64",
    ),
    pytest.param(
        {"key": "file", "value": {"path": "a", "content": "é", "encoding": "base64"}},
        400,
        id="not ASCII",
    ),
    pytest.param(
        {"key": "file", "value": {"path": "a", "content": "a", "encoding": "hex"}},
        400,
        id="unknown encoding",
    ),
    pytest.param(add_lfs("a.bin", "AB" * 32, 1), 400, id="oid in capitals"),
    pytest.param(add_lfs("a.bin", "../../secret", 1), 400, id="oid is a path"),
    pytest.param(add_lfs("a.bin", OID, -1), 400, id="negative size"),
    pytest.param(
        {"key": "lfsFile", "value": {"path": "a", "oid": OID, "size": True}}, 400, id="size true"
    ),
    pytest.param(
        {"key": "lfsFile", "value": {"path": "a", "oid": OID, "algo": "md5"}}, 400, id="md5"
    ),
    pytest.param({"key": "deletedFolder", "value": {"path": 1}}, 400, id="folder is a number"),
]


@pytest.mark.parametrize(("line", "status"), BAD_LINES)
async def test_a_line_that_makes_no_sense_is_refused(
    client: HubClient, line: dict[str, Any], status: int
) -> None:
    head = await client.head()

    answer = await client.commit(add("good.txt"), line)

    assert answer.status == status
    assert await client.head() == head


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n", id="blank lines"),
        pytest.param(b"not json\n", id="not JSON"),
        pytest.param(b"[" * 100_000, id="deep JSON"),
        pytest.param(b'"header"\n', id="a string"),
        pytest.param(b'{"key":"deletedFile","value":{"path":"a"}}', id="no header"),
        pytest.param(
            b'{"key":"deletedFile","value":{"path":"a"}}\n{"key":"header","value":{"summary":"s"}}',
            id="header last",
        ),
        pytest.param(b'{"key":"header","value":{}}', id="no summary"),
        pytest.param(b'{"key":"header","value":{"summary":"  "}}', id="blank summary"),
        pytest.param(b'{"key":"header","value":{"summary":7}}', id="summary is a number"),
        pytest.param(b'{"key":"header","value":{"summary":"\xff"}}', id="not UTF-8"),
        pytest.param(b'{"key":"header","value":{"summary":"\\ud800"}}', id="half a character"),
        pytest.param(
            b'{"key":"header","value":{"summary":"s","parentCommit":"main"}}', id="parent a name"
        ),
        pytest.param(
            b'{"key":"header","value":{"summary":"s","description":[]}}', id="description a list"
        ),
    ],
)
async def test_a_body_that_is_no_commit_is_400(client: HubClient, body: bytes) -> None:
    answer = await client.call("POST", "/api/models/me/net/commit/main", data=body)

    assert answer.status == 400
    assert answer.json["error"]


BAD_PATHS = [
    pytest.param("../escape.txt", id="parent"),
    pytest.param("a/../../escape.txt", id="parent inside"),
    pytest.param("/etc/passwd", id="absolute"),
    pytest.param("a//b.txt", id="empty segment"),
    pytest.param("a/./b.txt", id="dot"),
    pytest.param("folder/", id="trailing slash"),
    pytest.param(".git/config", id="git"),
    pytest.param("a/.GIT/hooks/pre-commit", id="GIT in capitals"),
    pytest.param("a/git~1/config", id="short name of .git"),
    pytest.param("a/.git . /config", id=".git as Windows reads it"),
    pytest.param("nul\0byte", id="NUL"),
    pytest.param("line\nbreak", id="line break"),
    pytest.param("a\\..\\b", id="up a level, on Windows"),
    pytest.param("a\\.git\\config", id="git's own, on Windows"),
    pytest.param("", id="empty"),
    pytest.param(None, id="none"),
    pytest.param(7, id="number"),
    pytest.param("n" * 256, id="long name"),
    pytest.param("/".join(["d" * 200] * 11), id="long path"),
    pytest.param("/".join(["d"] * 101), id="deep path"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
async def test_a_path_that_a_repo_must_not_hold_is_400(client: HubClient, path: Any) -> None:
    line = add("x")
    line["value"]["path"] = path

    answer = await client.commit(line)

    assert answer.status == 400
    assert "Invalid path" in answer.json["error"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("größe/名前 (1).txt", id="unicode and spaces"),
        pytest.param("/".join("abcdefghij") + "/k.txt", id="ten deep"),
        pytest.param(".gitignore", id="gitignore"),
        pytest.param("a/.github/x", id="github"),
        pytest.param("100%25.txt", id="percent"),
        pytest.param("n" * 255, id="longest name"),
        pytest.param("a?b#c&d.txt", id="URL's own characters"),
        pytest.param("onnx\\model.txt", id="backslash"),
    ],
)
async def test_unusual_paths_come_back(client: HubClient, path: str) -> None:
    assert (await client.commit(add(path, b"here"))).status == 200

    assert await content(client, quote(path)) == b"here"
    assert path in await paths(client)


async def test_lines_come_in_any_pieces(client: HubClient) -> None:
    header = {"key": "header", "value": {"summary": "s"}}
    lines = [header, *(add(f"{number}.txt", b"%d" % number) for number in range(20))]
    body = b"\r\n".join(orjson.dumps(line) for line in lines)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 37):
            yield body[start : start + 37]

    answer = await client.call("POST", "/api/models/me/net/commit/main", data=pieces())

    assert answer.status == 200
    assert await content(client, "19.txt") == b"19"


async def test_many_files_are_committed_in_batches(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_request, "_BATCH_BYTES", 1000)

    await client.commit(*(add(f"{number}.txt", b"%d" % number) for number in range(100)))

    assert len(await paths(client)) == 101
    assert await content(client, "99.txt") == b"99"


async def test_a_large_regular_file_is_413_with_advice(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_request, "MAX_REGULAR_BYTES", 1000)

    answer = await client.commit(add("large.txt", b"x" * 1001))

    assert answer.status == 413
    assert "through LFS" in answer.json["error"]
    assert (await client.commit(add("large.txt", b"x" * 1000))).status == 200


async def test_an_endless_line_is_cut_off(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_request, "MAX_LINE_BYTES", 1000)

    whole = await client.commit(add("a.txt", b"x" * 1000), add("b.txt"))
    unfinished = await client.commit(add("a.txt", b"x" * 500_000))

    assert (whole.status, unfinished.status) == (413, 413)


async def test_an_endless_body_is_cut_off(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_request, "MAX_BODY_BYTES", 1000)

    assert (await client.commit(*[add("a.txt")] * 100)).status == 413


async def test_too_many_changes_are_413(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_request, "MAX_CHANGES", 3)

    assert (await client.commit(*[add("a.txt")] * 4)).status == 413


@pytest.mark.parametrize(
    ("revision", "status"),
    [
        pytest.param("refs%2Fheads%2Fmain", 200, id="full ref"),
        pytest.param("nowhere", 404, id="no such branch"),
        pytest.param("refs%2Fpr%2F9", 404, id="no such pull request"),
        pytest.param("v1", 400, id="tag"),
        pytest.param("refs%2Fheads%2F..%2F..%2FHEAD", 404, id="traversal"),
        pytest.param("main~0", 404, id="git's own syntax"),
    ],
)
async def test_commits_go_to_branches(client: HubClient, revision: str, status: int) -> None:
    await client.post("/api/models/me/net/tag/main", {"tag": "v1"})

    assert (await client.commit(add("a.txt"), revision=revision)).status == status


async def test_a_commit_to_a_commit_is_refused(client: HubClient) -> None:
    head = await client.head()

    assert (await client.commit(add("a.txt"), revision=head)).status == 400


async def test_a_pull_request_starts_at_the_parent_it_names(client: HubClient) -> None:
    old = await client.head()
    await client.commit(add("a.txt"))

    answer = await client.commit(
        add("b.txt"), query="?create_pr=1", parentCommit=old, description="push-id: 42"
    )

    assert answer.json["pullRequestUrl"] == f"{client.url}/me/net/discussions/1"
    assert await paths(client, "refs%2Fpr%2F1") == [".gitattributes", "b.txt"]
    assert await paths(client) == [".gitattributes", "a.txt"]
    details = (await client.get("/api/models/me/net/discussions/1")).json
    assert details["events"][0]["data"]["latest"]["raw"] == "push-id: 42"
    assert [event["data"]["oid"] for event in details["events"][1:]] == [answer.json["commitOid"]]


async def test_a_pull_request_on_an_unknown_parent_is_404(client: HubClient) -> None:
    answer = await client.commit(add("b.txt"), query="?create_pr=1", parentCommit="ab" * 20)

    assert answer.status == 404
    assert answer.error_code == "RevisionNotFound"


async def test_a_pull_request_is_for_a_branch(client: HubClient) -> None:
    head = await client.head()
    await client.post("/api/models/me/net/tag/main", {"tag": "v1"})

    for revision in (head, head[:7], "v1", "nowhere"):
        answer = await client.commit(add("b.txt"), revision=revision, query="?create_pr=1")
        assert (answer.status, answer.error_code) == (404, "RevisionNotFound")


async def test_a_commit_of_nothing_is_400(client: HubClient) -> None:
    answer = await client.commit()
    assert answer.status == 400
    assert "changes nothing" in answer.json["error"]


async def test_a_file_in_lfs_that_no_rule_names_gets_one(client: HubClient) -> None:
    oid = await client.store(b"large")
    before = (await client.get("/me/net/resolve/main/.gitattributes")).text
    rule = "filter=lfs diff=lfs merge=lfs -text\n"

    await client.commit(add_lfs("a.bin", oid), add_lfs("tokenizer.json", oid), add("b.json"))
    after = (await client.get("/me/net/resolve/main/.gitattributes")).text
    assert after == f"{before}tokenizer.json {rule}"
    await client.commit(add_lfs("tokenizer.json", oid))
    assert (await client.get("/me/net/resolve/main/.gitattributes")).text == after
    await client.commit(add_lfs("other.json", oid), add(".gitattributes", b"own"))
    assert (await client.get("/me/net/resolve/main/.gitattributes")).text == "own"
    await client.commit(delete(".gitattributes"))
    await client.commit(add_lfs("x", oid), query="?create_pr=1")
    proposed = await client.get("/me/net/resolve/refs%2Fpr%2F1/.gitattributes")
    assert proposed.text == f"x {rule}"


async def test_there_is_an_end_to_rules(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is looked up is compared with all of them."""
    there = (await client.get("/me/net/resolve/main/.gitattributes")).text.count("\n")
    monkeypatch.setattr(lfs_rules, "_MAX_RULES", there + 2)
    oid = await client.store(b"large")
    await client.commit(*(add_lfs(f"{number}", oid) for number in range(5)))
    after = (await client.get("/me/net/resolve/main/.gitattributes")).text
    assert after.count("\n") == there + 2


async def test_a_deleted_file_may_be_a_folder(client: HubClient) -> None:
    await client.commit(add("a/b/c.txt"), add("a/d.txt"))
    assert (await client.commit(delete("a/b"))).status == 200
    assert (await client.get("/me/net/resolve/main/a/b/c.txt")).status == 404
    assert (await client.get("/me/net/resolve/main/a/d.txt")).status == 200


async def test_each_pull_request_has_its_number(client: HubClient) -> None:
    answers = [await client.commit(add("b.txt"), query="?create_pr=1") for _ in range(3)]

    numbers = [answer.json["pullRequestUrl"].rpartition("/")[2] for answer in answers]
    assert numbers == ["1", "2", "3"]
    refs = (await client.get("/api/models/me/net/refs?include_prs=1")).json
    assert [ref["ref"] for ref in refs["pullRequests"]] == ["refs/pr/1", "refs/pr/2", "refs/pr/3"]


async def test_a_commit_to_a_pull_request_moves_it_alone(client: HubClient) -> None:
    await client.commit(add("b.txt"), query="?create_pr=1")
    head = await client.head()

    answer = await client.commit(add("c.txt"), revision="refs%2Fpr%2F1")

    assert answer.status == 200
    assert await client.head("refs%2Fpr%2F1") == answer.json["commitOid"]
    assert await client.head() == head


@pytest.mark.parametrize("query", ["", "?create_pr=1"])
async def test_a_card_with_wrong_metadata_is_not_committed(query: str, client: HubClient) -> None:
    head = await client.head()
    broken = add("README.md", b"---\nlicense: [\n---\n")

    answer = await client.commit(add("a.txt"), broken, query=query)

    assert answer.status == 400
    assert answer.json["error"].startswith("Invalid metadata in README.md.\n- Invalid YAML: ")
    assert await client.head() == head
    below = add("docs/README.md", b"---\nlicense: [\n---\n")
    assert (await client.commit(below, query=query)).status == 200
