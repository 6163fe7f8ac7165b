from __future__ import annotations

from typing import Any

import pytest

from asyncpush.errors import ProtocolError
from asyncpush.protocol.repos import (
    RemoteFile,
    next_tree_request,
    parse_paths_info,
    parse_tree,
    paths_info_request,
    tree_request,
)
from tests.protocol.helpers import DATASET, REPO, SHA1, SHA256, answer

SMALL = {"type": "file", "path": "a", "size": 3, "oid": SHA1}
LARGE = {
    "type": "file",
    "path": "b",
    "size": 9,
    "oid": SHA1,
    "lfs": {"oid": SHA256, "size": 9, "pointerSize": 133},
}
FOLDER = {"type": "directory", "path": "d", "size": 0, "oid": SHA1}


def test_paths_are_asked_about_by_name() -> None:
    request = paths_info_request(DATASET, "refs/pr/1", ["a b", "é&c/d"])

    assert request.target == "/api/datasets/me/d/paths-info/refs%2Fpr%2F1"
    assert isinstance(request.body, bytes)
    # A form, byte for byte what the official client (2.4.0) sends.
    assert request.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert request.body == b"paths=a+b&paths=%C3%A9%26c%2Fd&expand=false"


def test_files_are_shown_by_path_and_folders_skipped() -> None:
    assert parse_paths_info(answer([SMALL, FOLDER, LARGE])) == {
        "a": RemoteFile("a", 3, SHA1, lfs=False),
        "b": RemoteFile("b", 9, SHA256, lfs=True),
    }


def test_unknown_checksums_are_ignored_in_a_listing() -> None:
    """They are shown as they are, and equal no oid of ours."""
    odd = "md5-" + "\x1b" + "a" * 200
    small, large = SMALL | {"oid": odd}, LARGE | {"lfs": {"oid": f"sha256:{SHA256}", "size": 9}}
    files, _ = parse_tree(answer([small, large]))
    assert files == [
        RemoteFile("a", 3, "md5-\ufffd" + "a" * 95, lfs=False),
        RemoteFile("b", 9, SHA256, lfs=True),
    ]
    assert not files[0].holds(3, SHA1)


NEXT = "https://h/api/models/me/m/tree/main?cursor=x"


@pytest.mark.parametrize(
    ("link", "following"),
    [
        pytest.param(None, None, id="no Link"),
        pytest.param("", None, id="empty"),
        pytest.param(f'<{NEXT}>; rel="next"', NEXT, id="next"),
        pytest.param(f"<{NEXT}>;rel=next", NEXT, id="unquoted"),
        pytest.param(f'<{NEXT}>; title="x"; rel="next"', NEXT, id="another parameter first"),
        pytest.param(f'<https://h/0>; rel="prev", <{NEXT}>; rel="next"', NEXT, id="second"),
        pytest.param('<https://h/0>; rel="prev"', None, id="prev alone"),
        pytest.param("next", None, id="garbage"),
    ],
)
def test_the_tree_comes_page_by_page(link: str | None, following: str | None) -> None:
    headers = {} if link is None else {"link": link}

    assert parse_tree(answer([SMALL], headers=headers)) == (
        [RemoteFile("a", 3, SHA1, lfs=False)],
        following,
    )


def test_the_next_page_is_the_same_call_at_another_url() -> None:
    first = tree_request(REPO, "main")

    following = next_tree_request(first, NEXT)

    assert first.target == "/api/models/me/m/tree/main?recursive=true&expand=false"
    assert (following.call, following.target, following.fields) == ("tree", NEXT, first.fields)


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param({}, "a list was expected", id="an object"),
        pytest.param([1], "[] is a number", id="row a number"),
        pytest.param([{"path": "a"}], "[].type is missing", id="type missing"),
        pytest.param([SMALL | {"path": 1}], "[].path is a number", id="path a number"),
        pytest.param([SMALL | {"size": -1}], "[].size is -1", id="size negative"),
        pytest.param([SMALL | {"oid": 1}], "[].oid is a number", id="oid a number"),
        pytest.param([LARGE | {"lfs": []}], "[].lfs is a list", id="lfs a list"),
        pytest.param([LARGE | {"lfs": {"size": 1}}], "[].lfs.oid is missing", id="lfs no oid"),
        pytest.param([LARGE | {"lfs": {"oid": SHA256}}], "[].lfs.size", id="lfs no size"),
    ],
)
def test_an_impossible_answer_is_refused_by_name(value: Any, fragment: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_tree(answer(value))

    assert fragment in caught.value.message
