from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import HubError, ProtocolError
from asyncpush.models import Part
from asyncpush.net.session import ANSWER_LIMIT
from asyncpush.protocol.lfs import (
    PARTS_A_BATCH,
    BasicUpload,
    LfsActions,
    LfsObject,
    MultipartUpload,
    Upload,
    batch_request,
    complete_request,
    cut_into_parts,
    parse_batch,
    parts_expected,
    verify_request,
)
from tests.protocol.helpers import DATASET, OTHER_SHA256, REPO, SHA256, answer, said

ASKED = LfsObject(SHA256, 25)
HREF = "https://store.example/done"


def batch(upload: Any = None, **actions: Any) -> dict[str, Any]:
    if upload is not None:
        actions["upload"] = upload
    return {"objects": [{"oid": SHA256, "size": 25, "actions": actions}]}


def multipart(*keys: str, chunk_size: Any = "10", **more: Any) -> dict[str, Any]:
    header = {key: f"https://store.example/{int(key)}" for key in keys}
    return batch({"href": HREF, "header": {"chunk_size": chunk_size, **header}, **more})


def upload_of(value: Any, item: LfsObject = ASKED) -> Upload:
    upload = parse_batch(answer(value), [item])[item.oid].upload
    assert upload is not None
    return upload


def multipart_of(value: Any) -> MultipartUpload:
    upload = upload_of(value)
    assert isinstance(upload, MultipartUpload)
    return upload


def test_the_batch_call_names_every_object_and_the_branch() -> None:
    request = batch_request(DATASET, [ASKED], revision="main")

    assert request.target == "/datasets/me/d.git/info/lfs/objects/batch"
    assert request.headers["Accept"] == "application/vnd.git-lfs+json"
    assert isinstance(request.body, bytes)
    assert said(request.body) == {
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": [{"oid": SHA256, "size": 25}],
        "hash_algo": "sha256",
        "ref": {"name": "main"},
    }


def test_the_batch_call_of_a_pull_request_names_no_branch() -> None:
    request = batch_request(REPO, [ASKED], revision=None)

    assert isinstance(request.body, bytes)
    assert "ref" not in said(request.body)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(["1", "2", "3"], id="plain numbers"),
        pytest.param(["00001", "00002", "00003"], id="padded numbers"),
        pytest.param(["3", "1", "2"], id="out of order"),
    ],
)
def test_a_multipart_answer_becomes_parts_in_order(keys: list[str]) -> None:
    upload = multipart_of(multipart(*keys))

    assert upload.completion_url == HREF
    assert upload.chunk_size == 10
    assert upload.parts == (
        Part(1, 0, 10, "https://store.example/1"),
        Part(2, 10, 10, "https://store.example/2"),
        Part(3, 20, 5, "https://store.example/3"),
    )


@pytest.mark.parametrize("chunk_size", ["10", 10, 10.0])
def test_a_part_size_may_be_text_or_a_number(chunk_size: Any) -> None:
    assert multipart_of(multipart("1", "2", "3", chunk_size=chunk_size)).chunk_size == 10


def test_parts_ten_and_on_are_sorted_as_numbers() -> None:
    upload = multipart_of(multipart(*map(str, range(1, 26)), chunk_size=1))

    assert [part.number for part in upload.parts] == list(range(1, 26))
    assert upload.parts[9].url.endswith("/10")


def test_other_keys_of_the_header_are_not_parts() -> None:
    value = multipart("1", "2", "3")
    value["objects"][0]["actions"]["upload"]["header"] |= {"upload_id": "u", "123456789": "x"}

    assert len(multipart_of(value).parts) == 3


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param(multipart("1", "2"), "names 2 parts", id="one URL missing"),
        pytest.param(multipart("1", "3"), "1 to 3 were expected", id="gap"),
        pytest.param(multipart("1", "2", "3", "4"), "names 4 parts", id="one URL too many"),
        pytest.param(multipart("0", "1", "2"), "1 to 3", id="counted from zero"),
        pytest.param(multipart("1", "01", "2"), "1 to 3", id="one number twice"),
        pytest.param(multipart("1", chunk_size=0), "chunk_size is 0", id="chunk_size 0"),
        pytest.param(multipart("1", chunk_size=-5), "cannot be", id="chunk_size negative"),
        pytest.param(multipart("1", chunk_size="ten"), "a text", id="chunk_size words"),
        pytest.param(multipart("1", chunk_size="٣"), "a text", id="chunk_size Arabic digit"),
        pytest.param(multipart("1", chunk_size=True), "a boolean", id="chunk_size true"),
        pytest.param(multipart("1", chunk_size=2.5), "a number", id="chunk_size fraction"),
        pytest.param(multipart("1", chunk_size=1 << 61), "cannot be", id="chunk_size huge"),
        pytest.param(multipart("1", chunk_size="9" * 30), "a text", id="chunk_size endless"),
        pytest.param(batch({"href": None}), "href is missing", id="href missing"),
        pytest.param(batch({"href": 5}), "href is a number", id="href a number"),
        pytest.param(batch({"href": HREF, "header": []}) | {"objects": 1}, "objects", id="no list"),
        pytest.param(batch({"href": HREF, "header": [1]}), "header is a list", id="header a list"),
        pytest.param(
            batch({"href": HREF, "header": {"x": 1}}), "header.x is", id="header value a number"
        ),
        pytest.param(
            batch({"href": HREF, "header": {"chunk_size": 25, "1": None}}),
            "header.1 is missing",
            id="URL null",
        ),
        pytest.param(batch(verify="now"), "actions.verify is a text", id="verify a text"),
        pytest.param(batch(verify={}), "actions.verify.href is missing", id="verify without href"),
        pytest.param({"objects": [{"oid": OTHER_SHA256}]}, "not requested", id="unknown oid"),
        pytest.param({"objects": [{"oid": "A" * 64}]}, "not a sha256", id="oid in capitals"),
        pytest.param({"objects": []}, "has no entry for", id="object missing"),
        pytest.param({"objects": [None]}, "objects[] is missing", id="object null"),
        pytest.param({}, "objects is missing", id="objects missing"),
        pytest.param([], "an object was expected", id="a list"),
        pytest.param(b"<html>", "not JSON", id="HTML"),
        pytest.param(b'{"objects": [', "not JSON", id="cut short"),
        pytest.param(b"", "not JSON", id="empty"),
    ],
)
def test_an_impossible_batch_answer_is_refused_by_name(value: Any, fragment: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_batch(answer(value), [ASKED])

    assert fragment in caught.value.message
    assert caught.value.retryable


def test_more_parts_than_any_store_takes_are_not_believed() -> None:
    with pytest.raises(ProtocolError, match="would make 100001 parts"):
        upload_of(multipart("1", chunk_size=1), LfsObject(SHA256, 100_001))


def test_an_empty_object_in_parts_is_refused() -> None:
    with pytest.raises(ProtocolError, match="empty object in parts"):
        upload_of(multipart(), LfsObject(SHA256, 0))


def test_a_single_put_carries_the_hubs_headers() -> None:
    upload = upload_of(batch({"href": HREF, "header": {"X-Store": "1"}}))

    assert upload == BasicUpload(HREF, headers={"X-Store": "1"})


PLAIN_HEADER = {"X-Store": "1"}
SIZED_HEADER = {"chunk_size": "25"}
PART_HEADER = {"chunk_size": "25", "1": "https://store.example/1"}


@pytest.mark.parametrize(
    ("transfer", "header", "kind"),
    [
        pytest.param(None, PLAIN_HEADER, BasicUpload, id="left out, plain"),
        pytest.param(None, PART_HEADER, MultipartUpload, id="left out, parts"),
        pytest.param("basic", PLAIN_HEADER, BasicUpload, id="basic"),
        pytest.param("basic", SIZED_HEADER, BasicUpload, id="basic, a header named chunk_size"),
        pytest.param("basic", PART_HEADER, MultipartUpload, id="basic, but parts are listed"),
        pytest.param("multipart", PLAIN_HEADER, BasicUpload, id="multipart, a small object"),
        pytest.param("multipart", PART_HEADER, MultipartUpload, id="multipart"),
    ],
)
def test_the_transfer_that_the_batch_names_decides(
    transfer: str | None, header: dict[str, str], kind: type[Upload]
) -> None:
    value = batch({"href": HREF, "header": header}) | {"transfer": transfer}

    upload = upload_of(value)

    assert type(upload) is kind
    if isinstance(upload, BasicUpload):
        assert upload.headers == header


@pytest.mark.parametrize("transfer", ["xet", "ssh", 3])
def test_a_transfer_that_was_not_offered_is_refused(transfer: Any) -> None:
    value = batch({"href": HREF}) | {"transfer": transfer}

    with pytest.raises(ProtocolError, match="transfer"):
        upload_of(value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({}, LfsActions(SHA256), id="no actions"),
        pytest.param({"actions": None}, LfsActions(SHA256), id="actions null"),
        pytest.param({"actions": {}}, LfsActions(SHA256), id="actions empty"),
        pytest.param(
            {"actions": {"verify": {"href": HREF}}},
            LfsActions(SHA256, None, HREF),
            id="verify only",
        ),
        pytest.param(
            {"actions": {"upload": {"href": "u"}, "verify": {"href": HREF}}},
            LfsActions(SHA256, BasicUpload("u"), HREF),
            id="upload and verify",
        ),
    ],
)
def test_an_object_without_upload_is_stored_already(row: Any, expected: LfsActions) -> None:
    value = {"objects": [{"oid": SHA256, **row}]}

    assert parse_batch(answer(value), [ASKED]) == {SHA256: expected}


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(404, False), (408, True), (422, False), (429, True), (500, True), (501, False), (503, True)],
)
def test_an_object_that_the_hub_refuses_is_an_error(code: int, retryable: bool) -> None:
    row = {"oid": SHA256, "error": {"code": code, "message": "no room"}}

    with pytest.raises(HubError, match="no room") as caught:
        parse_batch(answer({"objects": [row]}), [ASKED])

    assert caught.value.status == code
    assert caught.value.retryable is retryable
    assert SHA256 in caught.value.message


@pytest.mark.parametrize("error", [{}, {"code": 500}, {"code": "x", "message": "m"}, "no"], ids=str)
def test_a_garbled_refusal_is_a_protocol_error(error: Any) -> None:
    with pytest.raises(ProtocolError):
        parse_batch(answer({"objects": [{"oid": SHA256, "error": error}]}), [ASKED])


@pytest.mark.parametrize(
    ("fields", "href", "lifetime"),
    [
        pytest.param({"expires_in": 900}, HREF, 900.0, id="expires_in"),
        pytest.param({"expires_in": 0.5}, HREF, 0.5, id="a fraction"),
        pytest.param({}, HREF, None, id="nothing said"),
        pytest.param({"expires_in": 0}, HREF, None, id="expires_in 0"),
        pytest.param({"expires_in": -1}, HREF, None, id="expires_in negative"),
        pytest.param({"expires_in": True}, HREF, None, id="expires_in true"),
        pytest.param({"expires_in": "900"}, HREF, None, id="expires_in text"),
        pytest.param({"expires_at": "2030-01-01T00:00:00Z"}, HREF, None, id="expires_at"),
        pytest.param({}, f"{HREF}?X-Amz-Expires=60", 60.0, id="signed, at the end"),
        pytest.param({}, f"{HREF}?a=b&X-Amz-Expires=60&c=d", 60.0, id="signed, in the middle"),
        pytest.param({}, f"{HREF}?X-Amz-Expires=6x", None, id="signed, not a number"),
        pytest.param({"expires_in": 5}, f"{HREF}?X-Amz-Expires=60", 5.0, id="both"),
    ],
)
def test_lifetimes_are_durations(fields: Any, href: str, lifetime: float | None) -> None:
    assert upload_of(batch({"href": href, **fields})).lifetime == lifetime


def test_the_lifetime_of_parts_is_that_of_their_urls() -> None:
    header = {"chunk_size": 25, "1": f"{HREF}?X-Amz-Expires=86400"}

    assert upload_of(batch({"href": HREF, "header": header})).lifetime == 86_400


def test_the_completion_lists_every_part_without_a_token() -> None:
    request = complete_request(HREF, SHA256, ["e1", "e2"])

    assert request.auth == "none"
    assert request.target == HREF
    assert isinstance(request.body, bytes)
    assert said(request.body) == {
        "oid": SHA256,
        "parts": [{"partNumber": 1, "etag": "e1"}, {"partNumber": 2, "etag": "e2"}],
    }


def test_verify_names_the_object_and_goes_with_the_token() -> None:
    request = verify_request(HREF, ASKED)

    assert request.auth == "token"
    assert isinstance(request.body, bytes)
    assert said(request.body) == {"oid": SHA256, "size": 25}


@settings(max_examples=50)
@given(size=st.integers(0, 5000), chunk_size=st.integers(1, 700))
def test_parts_cover_the_file_once_and_in_order(size: int, chunk_size: int) -> None:
    urls = [f"u{number}" for number in range(1, -(-size // chunk_size) + 1)]

    parts = cut_into_parts(urls, size, chunk_size)

    assert [part.url for part in parts] == urls
    assert sum(part.size for part in parts) == size
    end = 0
    for number, part in enumerate(parts, start=1):
        assert (part.number, part.offset) == (number, end)
        assert 1 <= part.size <= chunk_size
        end += part.size


def test_the_answer_for_the_largest_files_is_within_limits() -> None:
    """5 GB a file, the Hub's usual part size, a presigned URL of 600 bytes for each part."""
    large = LfsObject("a" * 64, 5_000_000_000)
    assert parts_expected(large) == 313
    assert parts_expected(LfsObject("a" * 64, 16_000_000)) == 1
    together = PARTS_A_BATCH + parts_expected(LfsObject("a" * 64, 200_000_000_000))
    assert together * 1000 < ANSWER_LIMIT
