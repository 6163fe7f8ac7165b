"""The tree and single paths: pages, folders, forms."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from tests.localhub.answers import Answer
from tests.localhub.conftest import HubClient, add, add_lfs

TREE = "/api/models/me/net/tree/main"
PATHS_INFO = "/api/models/me/net/paths-info/main"


@pytest.fixture
async def filled(client: HubClient) -> HubClient:
    """Files before, in, between and after folders, some of them nested."""
    oid = await client.store(b"large object")
    await client.commit(
        add("a.txt", b"hello"),
        add("b/c/d.txt"),
        add("b/c/e/f.txt"),
        add("b/g.txt"),
        add("b-.txt"),
        add("h/i.txt"),
        add_lfs("model.bin", oid, 12),
    )
    return client


async def all_pages(client: HubClient, path: str) -> list[Answer]:
    pages = [await client.get(path)]
    while link := pages[-1].headers.get("Link"):
        match = re.fullmatch(r'<([^>]+)>; rel="next"', link)
        assert match is not None
        pages.append(await client.get(match[1]))
    return pages


TOP = [".gitattributes", "a.txt", "b-.txt", "b", "h", "model.bin"]
"""What lies at the top of it, in git's order."""


def paths_of(*pages: Answer) -> list[str]:
    return [item["path"] for page in pages for item in page.json]


async def test_a_folder_lists_what_is_in_it(filled: HubClient) -> None:
    assert paths_of(await filled.get(TREE)) == TOP
    assert paths_of(await filled.get(f"{TREE}/b/c")) == ["b/c/d.txt", "b/c/e"]
    assert paths_of(await filled.get(f"{TREE}/b%2Fc/")) == ["b/c/d.txt", "b/c/e"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(("folder", "count"), [("", 12), ("/b", 5)])
async def test_pages_join_to_the_whole_tree(
    filled: HubClient, folder: str, count: int, limit: int
) -> None:
    whole = paths_of(await filled.get(f"{TREE}{folder}?recursive=true"))

    pages = await all_pages(filled, f"{TREE}{folder}?recursive=true&limit={limit}")

    assert paths_of(*pages) == whole
    assert all(len(page.json) <= limit for page in pages)
    assert len(whole) == count


async def test_pages_are_of_one_commit_while_the_branch_moves(filled: HubClient) -> None:
    first = await filled.get(f"{TREE}?limit=3")
    await filled.commit(add("a0.txt"), add("zz.txt"))

    link = first.headers["Link"]
    second = await filled.get(link[1 : link.index(">")])

    assert paths_of(first, second) == TOP


async def test_files_and_folders_are_distinguished(filled: HubClient) -> None:
    items = {item["path"]: item for item in (await filled.get(TREE)).json}

    assert items["a.txt"] == {
        "path": "a.txt",
        "oid": "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
        "type": "file",
        "size": 5,
    }
    assert items["b"]["type"] == "directory"
    assert items["model.bin"]["size"] == 12
    assert items["model.bin"]["lfs"]["size"] == 12
    assert items["model.bin"]["lfs"]["pointerSize"] == 127


async def test_expanded_items_know_their_last_commit(filled: HubClient) -> None:
    before = await filled.head()
    await filled.commit(add("b/c/d.txt", b"changed\n"), summary="Change d")
    after = await filled.head()

    items = (await filled.get(f"{TREE}?recursive=true&expand=true")).json

    last = {item["path"]: item["lastCommit"]["id"] for item in items}
    assert last["b"] == last["b/c"] == last["b/c/d.txt"] == after
    assert last["a.txt"] == last["b/g.txt"] == last["h"] == before
    assert last[".gitattributes"] not in (before, after)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/api/models/me/net/tree/nowhere", 404, "RevisionNotFound", id="revision"),
        pytest.param(f"{TREE}/nowhere", 404, "EntryNotFound", id="folder"),
        pytest.param(f"{TREE}/a.txt", 404, "EntryNotFound", id="a file"),
        pytest.param(f"{TREE}/b%2F..%2F..%2Fx", 400, None, id="outside"),
        pytest.param(f"{TREE}?limit=0", 400, None, id="limit zero"),
        pytest.param(f"{TREE}?limit=many", 400, None, id="limit in words"),
        pytest.param(f"{TREE}?limit=-1", 400, None, id="limit negative"),
        pytest.param(f"{TREE}?limit=%C2%B2", 400, None, id="limit superscript"),
        pytest.param(f"{TREE}?cursor=%25", 400, None, id="cursor not base64"),
        pytest.param(f"{TREE}?cursor=_w==", 400, None, id="cursor not UTF-8"),
    ],
)
async def test_a_tree_that_is_not_there_is_refused(
    filled: HubClient, path: str, status: int, code: str | None
) -> None:
    answer = await filled.get(path)

    assert (answer.status, answer.error_code) == (status, code)


async def test_a_forged_cursor_leads_nowhere(filled: HubClient) -> None:
    cursor = base64.urlsafe_b64encode(b"../../nowhere").decode()

    answer = await filled.get(f"{TREE}?cursor={cursor}&limit=99999999")

    assert (answer.status, answer.json) == (200, [])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"json": {"paths": ["b", "a.txt", "no", "b/g.txt", "a.txt"]}}, id="JSON"),
        pytest.param({"data": [("paths", p) for p in ("b/", "a.txt", "no", "b/g.txt")]}, id="form"),
        pytest.param(
            {"data": [("paths[]", p) for p in ("b", "a.txt", "", "b/g.txt")]}, id="PHP's form"
        ),
    ],
)
async def test_paths_that_are_there_are_described(
    filled: HubClient, options: dict[str, Any]
) -> None:
    answer = await filled.call("POST", PATHS_INFO, **options)

    assert [(item["path"], item["type"]) for item in answer.json] == [
        ("b", "directory"),
        ("a.txt", "file"),
        ("b/g.txt", "file"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"json": {"paths": ["a.txt"], "expand": True}}, id="JSON"),
        pytest.param({"data": {"paths": "a.txt", "expand": "true"}}, id="form"),
    ],
)
async def test_paths_may_be_expanded(filled: HubClient, options: dict[str, Any]) -> None:
    answer = await filled.call("POST", PATHS_INFO, **options)

    assert answer.json[0]["lastCommit"]["title"] == "change"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"json": {}}, id="no paths"),
        pytest.param({"json": {"paths": "a.txt"}}, id="paths is a string"),
        pytest.param({"json": {"paths": [1]}}, id="path is a number"),
        pytest.param({"json": {"paths": ["a"] * 1001}}, id="1001 paths"),
        pytest.param({"json": []}, id="body is a list"),
        pytest.param({"data": [("paths", "a")] * 1001}, id="1001 paths in a form"),
        pytest.param({"data": [("paths", "a")] * 2000}, id="2000 paths in a form"),
        pytest.param({"data": b"paths=\xff"}, id="form not UTF-8"),
    ],
)
async def test_a_request_for_paths_that_makes_no_sense_is_400(
    filled: HubClient, options: dict[str, Any]
) -> None:
    assert (await filled.call("POST", PATHS_INFO, **options)).status == 400


async def test_odd_paths_are_simply_not_there(filled: HubClient) -> None:
    paths = ["../secret", "/a.txt", "a.txt/", "b//g.txt", ".", "b/..", "\0"]

    answer = await filled.post(PATHS_INFO, {"paths": paths})

    assert answer.status == 200
    assert paths_of(answer) in ([], ["a.txt"])
