"""The LFS routes: what they accept, what they refuse and with which words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.localhub.blobs import MAX_OBJECT_SIZE, BlobError, UploadTicket
from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.lfs_server import parse_batch, parse_completion, parse_object, upload_action
from tests.fake_clock import NOW, FakeClock
from tests.localhub.lfs_site import BATCH, TOKEN, VERIFY, Site, oid_of, open_site

PART = 1000
OID = "0" * 64


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
async def site(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Site]:
    async with open_site(DiskStore(tmp_path / "store", part_size=PART, clock=clock)) as site:
        yield site


def files_of(site: Site) -> list[str]:
    """Every object and body under way that the store keeps."""
    root = site.store.path(OID).parents[3]  # type: ignore[union-attr]
    folders = [root / "objects", root / "incoming"]
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


# Batch


async def test_a_small_object_is_one_put(site: Site) -> None:
    batch = await site.batch((OID, PART))

    assert batch["transfer"] == "basic"
    assert batch["hash_algo"] == "sha256"
    (answer,) = batch["objects"]
    assert (answer["oid"], answer["size"], answer["authenticated"]) == (OID, PART, True)
    upload, verify = answer["actions"]["upload"], answer["actions"]["verify"]
    assert upload["href"].startswith(f"{site.url}/_lfs/{OID}?size={PART}&")
    assert upload["header"] == {}
    assert upload["expires_in"] == 86_400
    assert verify["href"] == site.url + VERIFY


async def test_a_large_object_is_parts_in_the_header(site: Site) -> None:
    batch = await site.batch((OID, 2 * PART + 1))

    assert batch["transfer"] == "multipart"
    upload = batch["objects"][0]["actions"]["upload"]
    header = upload["header"]
    assert sorted(header) == ["1", "2", "3", "chunk_size", "upload_id"]
    assert header["chunk_size"] == str(PART)
    assert urlsplit(upload["href"]).path == f"/_lfs/{OID}/complete"
    assert "partNumber=3&size=1&" in header["3"]


async def test_one_batch_may_hold_both(site: Site) -> None:
    batch = await site.batch((OID, 1), ("1" * 64, 2 * PART))

    assert batch["transfer"] == "multipart"
    assert [answer["oid"] for answer in batch["objects"]] == [OID, "1" * 64]
    assert "chunk_size" not in batch["objects"][0]["actions"]["upload"]["header"]


@pytest.mark.parametrize("prefix", ["", "/datasets", "/spaces"])
async def test_every_kind_of_repo_has_the_routes(site: Site, prefix: str) -> None:
    body = {"operation": "upload", "objects": [{"oid": OID, "size": 1}]}

    answer = await site.post(f"{prefix}/me/my.model-1.git/info/lfs/objects/batch", body)

    assert answer.status == 200
    verify = answer.json["objects"][0]["actions"]["verify"]["href"]
    assert verify == f"{site.url}{prefix}/me/my.model-1.git/info/lfs/objects/verify"
    assert (await site.post(verify, {"oid": OID, "size": 1})).status == 404


async def test_only_repo_routes_need_the_token(site: Site) -> None:
    data = os.urandom(10)
    body = {"operation": "download", "objects": [{"oid": OID, "size": 1}]}
    assert (await site.post(BATCH, body, token=None)).status == 401
    assert (await site.post(VERIFY, {"oid": OID, "size": 1}, token="wrong")).status == 401
    assert site.asked == ["download", "verify"]

    upload = (await site.actions(data))["upload"]

    assert (await site.put(upload["href"], data)).status == 200
    assert TOKEN not in upload["href"]


async def test_a_download_of_what_is_not_there_says_so(site: Site) -> None:
    batch = await site.batch((OID, 10), operation="download")

    assert batch["objects"][0]["error"]["code"] == 404
    assert "actions" not in batch["objects"][0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"{", 400, id="not JSON"),
        pytest.param(b"\xff", 400, id="not UTF-8"),
        pytest.param(b"[" * 100_000, 400, id="deep JSON"),
        pytest.param(b'"' + b"x" * (3 << 20) + b'"', 413, id="3 MB"),
        pytest.param([], 422, id="a list"),
        pytest.param({}, 422, id="empty"),
        pytest.param({"operation": "delete"}, 422, id="another operation"),
        pytest.param({"operation": ["upload"]}, 422, id="operation a list"),
        pytest.param({"operation": "upload"}, 422, id="no objects"),
        pytest.param({"operation": "upload", "objects": {}}, 422, id="objects not a list"),
        pytest.param({"operation": "upload", "objects": []}, 422, id="no object"),
        pytest.param({"operation": "upload", "objects": [{}] * 257}, 422, id="257 objects"),
        pytest.param(
            {"operation": "upload", "objects": [{}], "hash_algo": "sha1"}, 409, id="another hash"
        ),
        pytest.param(
            {"operation": "upload", "objects": [{}], "transfers": "basic"}, 422, id="transfers"
        ),
        pytest.param(
            {"operation": "upload", "objects": [{}], "transfers": [1]}, 422, id="transfer a number"
        ),
    ],
)
async def test_a_bad_batch_is_refused(site: Site, body: Any, status: int) -> None:
    answer = await site.post(BATCH, body)

    assert answer.status == status
    assert answer.json["message"] == answer.json["error"] != ""


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param({"size": 1}, id="no oid"),
        pytest.param({"oid": 7, "size": 1}, id="oid a number"),
        pytest.param({"oid": "../" * 21 + "x", "size": 1}, id="oid a path"),
        pytest.param({"oid": "A" * 64, "size": 1}, id="oid in capitals"),
        pytest.param({"oid": "0" * 63, "size": 1}, id="oid too short"),
        pytest.param({"oid": OID}, id="no size"),
        pytest.param({"oid": OID, "size": -1}, id="negative size"),
        pytest.param({"oid": OID, "size": 1.5}, id="half a byte"),
        pytest.param({"oid": OID, "size": True}, id="size true"),
        pytest.param({"oid": OID, "size": "1"}, id="size a string"),
        pytest.param({"oid": OID, "size": MAX_OBJECT_SIZE + 1}, id="too large"),
        pytest.param({"oid": OID, "size": 1e300}, id="size a huge float"),
    ],
)
async def test_a_bad_object_does_not_fail_its_neighbours(site: Site, item: Any) -> None:
    good = {"oid": "1" * 64, "size": 1}

    answer = await site.post(BATCH, {"operation": "upload", "objects": [item, good]})

    assert answer.status == 200
    first, second = answer.json["objects"]
    assert first["error"]["code"] == 422
    assert "actions" not in first
    assert "actions" in second


# Parts: the security table


async def part_url(site: Site, data: bytes, number: int = 1) -> str:
    url: str = (await site.actions(data))["upload"]["header"][str(number)]
    return url


async def test_an_expired_url_is_refused(site: Site, clock: FakeClock) -> None:
    data = os.urandom(2 * PART)
    actions = await site.actions(data)
    header, href = actions["upload"]["header"], actions["upload"]["href"]
    clock.now += 86_399
    parts = await site.put_parts(header, data)

    clock.now += 1
    part = await site.put(header["1"], data[:PART])
    completion = await site.complete(href, oid_of(data), parts)

    assert part.status == completion.status == 403
    assert "<Code>AccessDenied</Code><Message>Request has expired</Message>" in part.text
    assert part.headers["Content-Type"].startswith("application/xml")
    assert completion.json["code"] == "AccessDenied"
    assert await site.store.size(oid_of(data)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("X-Amz-Signature=", "X-Amz-Signature=0", id="forged signature"),
        pytest.param("X-Amz-Signature=", "X-Amz-Signature=%FF", id="signature not text"),
        pytest.param("X-Amz-Signature=", "X-Amz-Signature=%ED%A0%80", id="a lone surrogate"),
        pytest.param("X-Amz-Signature=", "Signature=", id="no signature"),
        pytest.param("X-Amz-Expires=86400", "X-Amz-Expires=864000", id="longer life"),
        pytest.param("X-Amz-Expires=86400", "X-Amz-Expires=x", id="life not a number"),
        pytest.param("partNumber=1", "partNumber=2", id="another part number"),
        pytest.param("partNumber=1", "partNumber=1&partNumber=2", id="two part numbers"),
        pytest.param("partNumber=1", "partNumber=-1", id="negative part number"),
        pytest.param("partNumber=1&", "", id="no part number"),
        pytest.param("size=1000", "size=2000", id="another length"),
        pytest.param("uploadId=", "uploadId=..%2F..%2F", id="upload id a path"),
        pytest.param("/_lfs/", "/_lfs/../_lfs/1", id="oid too long"),
        pytest.param("PUT", "GET", id="another method"),
        pytest.param("PUT", "POST", id="completion with a part's signature"),
    ],
)
async def test_a_url_that_was_not_signed_so_is_refused(site: Site, old: str, new: str) -> None:
    data = os.urandom(2 * PART)
    url = await part_url(site, data)
    method = "PUT"
    if old == "PUT":
        method = new
        url = url.replace("?", "/complete?") if new == "POST" else url
    else:
        assert old in url
        url = url.replace(old, new)

    answer = await site.request(method, url, data=data[:PART])

    assert answer.status in (403, 404)
    assert files_of(site) == []


@pytest.mark.parametrize(
    "path",
    [
        "/_lfs/" + "%2e%2e%2f" * 3 + "secret",
        "/_lfs/..%2fsecret",
        "/_lfs/" + "0" * 63,
        "/_lfs/" + "A" * 64,
        "/_lfs/" + "0" * 64 + "%0a",
        "/_lfs/" + "0" * 64 + "%00",
        "/_lfs//" + "0" * 64,
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_only_an_oid_is_a_path(site: Site, method: str, path: str) -> None:
    answer = await raw_request(site, f"{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n")

    assert answer.startswith("HTTP/1.1 404"), answer


@pytest.mark.parametrize(("length", "code"), [(999, "IncompleteBody"), (1001, "EntityTooLarge")])
async def test_a_part_has_exactly_its_length(site: Site, length: int, code: str) -> None:
    url = await part_url(site, os.urandom(2 * PART))

    answer = await site.put(url, bytes(length))

    assert answer.status == 400
    assert f"<Code>{code}</Code>" in answer.text


async def test_a_chunked_body_is_refused_as_s3_does(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(PART)

    url = await part_url(site, os.urandom(2 * PART))

    answer = await site.put(url, pieces())

    assert answer.status == 411
    assert "<Code>MissingContentLength</Code>" in answer.text


async def test_a_body_cut_off_is_no_part(site: Site) -> None:
    data = bytes(2 * PART)
    actions = await site.actions(data)
    header = actions["upload"]["header"]
    parts = await site.put_parts(header, data, order=[2, 1])
    target = urlsplit(header["1"])
    other = (await site.actions(data))["upload"]
    target = urlsplit(other["header"]["1"])

    request = f"PUT {target.path}?{target.query} HTTP/1.1\r\nContent-Length: {PART}\r\n"
    await raw_request(site, request, body=bytes(PART - 1), cut=True)
    await site.put(other["header"]["2"], data[PART:])

    assert (await site.complete(other["href"], oid_of(data), parts)).status == 400
    assert (await site.complete(actions["upload"]["href"], oid_of(data), parts)).status == 200


async def test_a_put_url_is_valid_only_for_its_object(site: Site) -> None:
    data, other = os.urandom(100), os.urandom(100)
    href = (await site.actions(data))["upload"]["href"]

    moved = await site.put(href.replace(oid_of(data), oid_of(other)), other)
    wrong = await site.put(href, other)

    assert moved.status == 403
    assert wrong.status == 422
    assert "<Code>BadDigest</Code>" in wrong.text
    assert files_of(site) == []


async def test_a_forged_download_shows_nothing(site: Site) -> None:
    data = os.urandom(10)
    oid = await site.upload(data)
    href = await site.store.download_url(oid, base_url=site.url)

    assert (await site.request("GET", href)).body == data
    assert (await site.request("GET", href.partition("?")[0])).status == 403
    assert (await site.request("GET", href.replace(oid, OID))).status == 403


async def test_a_signed_download_of_what_is_gone_says_so(site: Site) -> None:
    href = await site.store.download_url(OID, base_url=site.url)

    answer = await site.request("GET", href)

    assert answer.status == 404
    assert "<Code>NoSuchKey</Code>" in answer.text


# Completion and verify


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="not JSON"),
        pytest.param([], id="a list"),
        pytest.param({"parts": []}, id="no oid"),
        pytest.param({"oid": "1" * 64, "parts": []}, id="another oid"),
        pytest.param({"oid": OID}, id="no parts"),
        pytest.param({"oid": OID, "parts": {}}, id="parts not a list"),
        pytest.param({"oid": OID, "parts": [1]}, id="a part not an object"),
        pytest.param({"oid": OID, "parts": [{}]}, id="an empty part"),
        pytest.param(
            {"oid": OID, "parts": [{"partNumber": "1", "etag": ""}]}, id="number a string"
        ),
        pytest.param({"oid": OID, "parts": [{"partNumber": True, "etag": ""}]}, id="number true"),
        pytest.param({"oid": OID, "parts": [{"partNumber": 1}]}, id="no ETag"),
        pytest.param({"oid": OID, "parts": [{"partNumber": 1, "etag": 1}]}, id="ETag a number"),
        pytest.param({"oid": OID, "parts": [{"partNumber": 10**18, "etag": ""}]}, id="huge number"),
    ],
)
async def test_a_bad_completion_is_refused(site: Site, body: Any) -> None:
    upload = (await site.batch((OID, 2 * PART)))["objects"][0]["actions"]["upload"]

    answer = await site.post(upload["href"], body, token=None)

    assert answer.status == 400
    assert answer.json["error"]


async def test_a_verify_of_nonsense_is_refused(site: Site) -> None:
    assert (await site.post(VERIFY, {"oid": "x", "size": 1})).status == 422
    assert (await site.post(VERIFY, b"nonsense")).status == 400


# Whatever comes in

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=5,
)
near_objects = st.fixed_dictionaries(
    {},
    optional={
        "oid": st.just(OID) | json_values,
        "size": st.integers(-1, 10) | json_values,
        "etag": json_values,
        "partNumber": json_values,
    },
)
near_bodies = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.just("upload") | json_values,
        "objects": st.lists(near_objects | json_values, max_size=3),
        "parts": st.lists(near_objects | json_values, max_size=3),
        "oid": st.just(OID),
        "transfers": json_values,
        "hash_algo": st.just("sha256") | json_values,
    },
)


@given(near_bodies | json_values)
@settings(max_examples=60, deadline=None)
def test_no_body_is_more_than_refused(body: Any) -> None:
    for parse in (parse_batch, parse_object, lambda body: parse_completion(body, OID)):
        with suppress(BlobError):
            parse(body)


def test_a_ticket_without_upload_id_sends_none() -> None:
    ticket = UploadTicket("http://hub/complete", 60, ["http://hub/1"], 10, headers={"x": "y"})

    assert upload_action(ticket) == {
        "href": "http://hub/complete",
        "header": {"x": "y", "chunk_size": "10", "1": "http://hub/1"},
        "expires_in": 60,
    }


async def raw_request(site: Site, head: str, *, body: bytes = b"", cut: bool = False) -> str:
    """Send what a client library would not let us; with `cut` say no more and hear the end."""
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"{head}Host: hub\r\nConnection: close\r\n\r\n".encode() + body)
        if cut:
            writer.write_eof()
        await writer.drain()
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
