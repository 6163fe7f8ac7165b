"""Preupload: the route of each file, what is ignored, what is there already."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from asyncpush.localhub.routes.commit_request import is_binary
from asyncpush.localhub.store.lfs_rules import MAX_REGULAR_BYTES
from tests.localhub.answers import Answer
from tests.localhub.conftest import HubClient, add, add_lfs


def wanted(path: str = "a.txt", size: int = 5, sample: bytes = b"hello") -> dict[str, Any]:
    return {"path": path, "size": size, "sample": base64.b64encode(sample).decode()}


async def preupload(client: HubClient, *files: Any, query: str = "", **body: Any) -> Answer:
    path = f"/api/models/me/net/preupload/main{query}"
    return await client.post(path, {"files": list(files), **body})


@pytest.mark.parametrize(
    ("file", "mode"),
    [
        pytest.param(wanted("a.txt"), "regular", id="text"),
        pytest.param(wanted("a.bin"), "lfs", id="ruled by .gitattributes"),
        pytest.param(wanted("deep/a.safetensors"), "lfs", id="ruled, in a folder"),
        pytest.param(wanted("saved_model/x/variables"), "lfs", id="ruled by folder"),
        pytest.param(wanted("a.bin", 0, b""), "regular", id="empty, though ruled"),
        pytest.param(wanted("a.dat", 5, b"a\0b"), "lfs", id="NUL byte"),
        pytest.param(wanted("a.dat", 5, b"\xff\xfe"), "lfs", id="not UTF-8"),
        pytest.param(wanted("a.txt", MAX_REGULAR_BYTES), "regular", id="at the limit"),
        pytest.param(wanted("a.txt", MAX_REGULAR_BYTES + 1), "lfs", id="over the limit"),
    ],
)
async def test_each_file_has_its_route(client: HubClient, file: dict[str, Any], mode: str) -> None:
    (answer,) = (await preupload(client, file)).json["files"]

    assert answer == {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


@pytest.mark.parametrize(
    ("sample", "binary"),
    [
        pytest.param(b"", False, id="empty"),
        pytest.param("größe 名前".encode(), False, id="UTF-8"),
        pytest.param(b"x" * 510 + "名".encode()[:2], False, id="character cut by the end"),
        pytest.param("名".encode()[:2] + b"x", True, id="character cut in the middle"),
        pytest.param(b"a\0", True, id="NUL"),
        pytest.param("é".encode("latin-1") + b"x", True, id="Latin-1"),
    ],
)
def test_binary_is_what_is_not_text(sample: bytes, binary: bool) -> None:
    assert is_binary(sample) is binary


async def test_the_repos_own_rules_decide(client: HubClient) -> None:
    await client.commit(
        add(".gitattributes", b"*.bin -filter\n*.txt filter=lfs diff=lfs merge=lfs -text\n"),
        add("sub/.gitattributes", b"*.txt !filter\n"),
    )

    answer = await preupload(client, wanted("a.bin"), wanted("a.txt"), wanted("sub/a.txt"))

    assert [file["uploadMode"] for file in answer.json["files"]] == ["regular", "lfs", "regular"]


async def test_what_is_there_is_reported_by_its_oid(client: HubClient) -> None:
    oid = await client.store(b"large")
    await client.commit(add("a.txt", b"hello"), add("deep/b.txt"), add_lfs("c.bin", oid, 5))

    answer = await preupload(
        client, wanted("a.txt"), wanted("c.bin"), wanted("deep"), wanted("new.txt")
    )

    assert [file.get("oid") for file in answer.json["files"]] == [
        hashlib.sha1(b"blob 5\0hello").hexdigest(),
        oid,
        None,
        None,
    ]


async def test_the_repos_gitignore_is_asked(client: HubClient) -> None:
    await client.commit(add(".gitignore", b"*.log\n!keep.log\n/build/\n"))
    files = ["a.log", "keep.log", "build/x", "deep/build/x", "a.txt"]

    answer = await preupload(client, *(wanted(path) for path in files))

    ignored = [file["path"] for file in answer.json["files"] if file["shouldIgnore"]]
    assert ignored == ["a.log", "build/x"]


async def test_an_ignored_folder_takes_all_in_it_along(client: HubClient) -> None:
    rules = "\ufeffsecrets/\n!*.json\n"
    files = [wanted("secrets/key.json"), wanted("key.json"), wanted("x/secrets/deep/key.json")]

    answer = await preupload(client, *files, gitIgnore=rules)

    assert [file["shouldIgnore"] for file in answer.json["files"]] == [True, False, True]


async def test_the_gitignore_of_the_request_comes_first(client: HubClient) -> None:
    await client.commit(add(".gitignore", b"*.log\n"))

    answer = await preupload(client, wanted("a.log"), wanted("a.txt"), gitIgnore="*.txt\n")

    assert [file["shouldIgnore"] for file in answer.json["files"]] == [False, True]


async def test_a_pull_request_may_be_prepared(client: HubClient) -> None:
    assert (await preupload(client, wanted(), query="?create_pr=1")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="no files"),
        pytest.param({"files": {}}, id="files is no list"),
        pytest.param({"files": [wanted()] * 257}, id="257 files"),
        pytest.param({"files": ["a.txt"]}, id="file is no object"),
        pytest.param({"files": [wanted("../a")]}, id="path outside"),
        pytest.param({"files": [wanted(size=-1)]}, id="negative size"),
        pytest.param({"files": [wanted() | {"size": "5"}]}, id="size is a string"),
        pytest.param({"files": [wanted() | {"size": True}]}, id="size is true"),
        pytest.param({"files": [wanted() | {"size": 1 << 60}]}, id="huge size"),
        pytest.param({"files": [wanted() | {"sample": "%%"}]}, id="sample not base64"),
        pytest.param({"files": [wanted() | {"sample": "é"}]}, id="sample not ASCII"),
        pytest.param({"files": [wanted() | {"sample": None}]}, id="no sample"),
        pytest.param({"files": [wanted(sample=b"x" * 513)]}, id="long sample"),
        pytest.param({"files": [], "gitIgnore": 7}, id="gitIgnore is a number"),
    ],
)
async def test_a_request_that_makes_no_sense_is_400(
    client: HubClient, body: dict[str, Any]
) -> None:
    answer = await client.post("/api/models/me/net/preupload/main", body)

    assert answer.status == 400
    assert answer.json["error"]


async def test_256_files_are_answered_in_order(client: HubClient) -> None:
    files = [wanted(f"{number}.txt") for number in range(256)]

    answer = await preupload(client, *files)

    assert [file["path"] for file in answer.json["files"]] == [file["path"] for file in files]


async def test_preupload_needs_a_token(client: HubClient) -> None:
    answer = await client.post("/api/models/me/net/preupload/main", {"files": []}, token=None)

    assert answer.status == 401
