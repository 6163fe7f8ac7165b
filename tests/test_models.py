from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush import (
    AuditReport,
    InvalidRepoIdError,
    Receipt,
    SourceError,
    UploadResult,
    receipts_from_json,
    receipts_to_json,
)
from asyncpush.models import FileIdentity, Repo
from asyncpush.options import RepoType

SHA256 = "a" * 64


@pytest.mark.parametrize(
    "repo_id",
    ["me/m", "a/b", "My-Org_1/model.v2_x", "_a/_b", "m" * 96 + "/" + "n" * 96, "me/git", "me/1"],
)
def test_ids_that_the_hub_can_hold(repo_id: str) -> None:
    assert Repo(repo_id).repo_id == repo_id


@pytest.mark.parametrize(
    ("repo_id", "problem"),
    [
        pytest.param("m", "not namespace/name", id="no namespace"),
        pytest.param("", "not namespace/name", id="empty"),
        pytest.param("a/b/c", "not namespace/name", id="three names"),
        pytest.param(None, "not namespace/name", id="None"),
        pytest.param(5, "not namespace/name", id="a number"),
        pytest.param("/m", "a name is empty", id="no owner"),
        pytest.param("me/", "a name is empty", id="no name"),
        pytest.param("me/" + "m" * 97, "longer than 96", id="97 characters"),
        pytest.param("me/m m", "only letters", id="a space"),
        pytest.param("me/é", "only letters", id="an accent"),
        pytest.param("me/m\n", "only letters", id="a line break"),
        pytest.param("me/m?x", "only letters", id="a query"),
        pytest.param("me/..", "start or end", id="dots"),
        pytest.param("-me/m", "start or end", id="a dash first"),
        pytest.param("me/m.", "start or end", id="a dot last"),
        pytest.param("me/a--b", "not allowed", id="two dashes"),
        pytest.param("me/a..b", "not allowed", id="two dots"),
        pytest.param("me/m.git", "must not end in", id=".git"),
        pytest.param("me/m.ipynb", "must not end in", id=".ipynb"),
    ],
)
def test_ids_that_it_cannot(repo_id: Any, problem: str) -> None:
    with pytest.raises(InvalidRepoIdError, match=problem) as caught:
        Repo(repo_id)

    assert repr(repo_id) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("repo_type", "api_path", "git_path"),
    [
        ("model", "models/me/m", "me/m"),
        ("dataset", "datasets/me/m", "datasets/me/m"),
        ("space", "spaces/me/m", "spaces/me/m"),
        ("kernel", "kernels/me/m", "kernels/me/m"),
    ],
)
def test_paths_of_a_repo(repo_type: RepoType, api_path: str, git_path: str) -> None:
    repo = Repo("me/m", repo_type)

    assert (repo.api_path, repo.git_path) == (api_path, git_path)
    assert (repo.namespace, repo.name) == ("me", "m")


def test_a_file_that_changes_has_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = FileIdentity.of(path.stat())
    os.utime(path, ns=(1, 1))

    assert before.size == 3
    assert FileIdentity.of(path.stat()) != before


counts = st.integers(0, (1 << 60) - 1)
paths = st.text(min_size=1, max_size=20)
stored = st.builds(
    Receipt,
    path_in_repo=paths,
    size=counts,
    oid=st.text("0123456789abcdef", min_size=64, max_size=64),
    route=st.sampled_from(["lfs", "xet"]),
    xet_hash=st.none() | st.text(max_size=10),
    bytes_sent=counts,
    bytes_deduplicated=counts,
    unchanged=st.booleans(),
)
inline = st.binary(max_size=40).flatmap(
    lambda content: st.builds(
        Receipt,
        path_in_repo=paths,
        size=st.just(len(content)),
        oid=st.text("0123456789abcdef", min_size=40, max_size=40),
        route=st.just("inline"),
        content=st.just(content) | st.none(),
    )
)


@settings(max_examples=40)
@given(st.lists(stored | inline, max_size=5))
def test_receipts_come_back_from_json_and_pickle(receipts: list[Receipt]) -> None:
    assert receipts_from_json(receipts_to_json(receipts)) == receipts
    assert pickle.loads(pickle.dumps(receipts)) == receipts


ROW = {"path_in_repo": "a", "size": 3, "oid": SHA256, "route": "lfs"}
INLINE = {**ROW, "oid": "b" * 40, "route": "inline"}


def test_what_is_not_said_is_nothing() -> None:
    assert Receipt.from_json(ROW) == Receipt("a", 3, SHA256, "lfs")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        pytest.param(None, "JSON object", id="null"),
        pytest.param([], "JSON object", id="a list"),
        pytest.param({}, "route", id="empty"),
        pytest.param({**ROW, "route": "ftp"}, "route", id="unknown route"),
        pytest.param({**ROW, "route": ["lfs"]}, "route", id="route a list"),
        pytest.param({**ROW, "oid": "a" * 40}, "oid", id="sha1 for lfs"),
        pytest.param({**INLINE, "oid": SHA256}, "oid", id="sha256 for inline"),
        pytest.param({**ROW, "oid": "A" * 64}, "oid", id="oid in capitals"),
        pytest.param({**ROW, "oid": None}, "oid", id="oid null"),
        pytest.param({**ROW, "size": -1}, "size", id="size negative"),
        pytest.param({**ROW, "size": True}, "size", id="size true"),
        pytest.param({**ROW, "size": "3"}, "size", id="size text"),
        pytest.param({**ROW, "size": 1 << 60}, "size", id="size of an exbibyte"),
        pytest.param({**ROW, "path_in_repo": None}, "path_in_repo", id="path null"),
        pytest.param({**ROW, "bytes_sent": -1}, "bytes_sent", id="sent negative"),
        pytest.param({**ROW, "bytes_sent": 1.5}, "bytes_sent", id="sent a fraction"),
        pytest.param({**ROW, "bytes_deduplicated": -1}, "bytes_dedup", id="deduplicated negative"),
        pytest.param({**ROW, "unchanged": 1}, "unchanged", id="unchanged a number"),
        pytest.param({**ROW, "xet_hash": 1}, "xet_hash", id="xet hash a number"),
        pytest.param({**INLINE, "content": 1}, "content", id="content a number"),
        pytest.param({**INLINE, "content": "*"}, "content must be base64", id="not base64"),
        pytest.param({**INLINE, "content": "é"}, "content must be base64", id="not ASCII"),
        pytest.param({**INLINE, "content": "YQ=="}, "1 bytes, size says 3", id="content short"),
    ],
)
def test_a_hostile_receipt_is_refused_by_field(row: Any, field: str) -> None:
    with pytest.raises(SourceError, match=field) as caught:
        Receipt.from_json(row)
    assert "upload_files" in caught.value.suggestion


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"receipts": []}',
        b'{"version": 2, "receipts": []}',
        b'{"version": 1, "receipts": {}}',
        b'{"version": 1, "receipts": [1]}',
        b"\xff",
    ],
    ids=repr,
)
def test_what_is_not_a_receipts_file(text: bytes) -> None:
    with pytest.raises(SourceError, match="receipt") as caught:
        receipts_from_json(text)
    assert "upload_files" in caught.value.suggestion


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([*ROW, "content", "xet_hash", "bytes_sent", "unchanged"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    )
)
def test_any_row_is_a_receipt_or_a_source_error(changes: dict[str, Any]) -> None:
    try:
        receipt = Receipt.from_json(ROW | changes)
    except SourceError:
        return
    assert Receipt.from_json(orjson.loads(orjson.dumps(receipt.to_json()))) == receipt


@pytest.mark.parametrize(
    ("found", "complete", "exact"),
    [
        ({}, True, True),
        ({"extra": ("x",)}, True, False),
        ({"missing": ("x",)}, False, False),
        ({"different": ("x",)}, False, False),
    ],
    ids=["the same", "extra", "missing", "different"],
)
def test_an_audit_is_complete_or_exact(
    found: dict[str, tuple[str]], complete: bool, exact: bool
) -> None:
    report = AuditReport("https://h/me/m", "c" * 40, **found)

    assert (report.complete, report.exact) == (complete, exact)


def test_a_result_is_a_card_in_a_notebook() -> None:
    result = UploadResult("https://h/me/m", "c" * 40, "https://h/c", ("a",), 1, 0, True, 1.0)

    assert "https://h/me/m" in result._repr_html_()
