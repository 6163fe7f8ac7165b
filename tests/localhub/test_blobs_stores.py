"""What every store does alike: the same facts over the disk and over a real S3 server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncpush.localhub.blobs import BlobError, BlobStore, PartSink
from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.blobs.s3 import S3Store
from tests.localhub.lfs_site import Site, oid_of, open_site
from tests.localhub.rclone import BUCKET, ENVIRONMENT, S3Server

PART_SIZE = 64_000


@pytest.fixture(scope="module")
def boto3_client(s3_server: S3Server) -> Iterator[Any]:
    """One client for all tests: boto3 takes half a second to make one."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ENVIRONMENT.items():
            environment.setenv(name, value)
        yield S3Store(s3_server.url, BUCKET)._connect()


@pytest.fixture(params=["disk", "s3"])
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    store: BlobStore
    if request.param == "disk":
        store = DiskStore(tmp_path, part_size=PART_SIZE)
    else:
        client = request.getfixturevalue("boto3_client")
        monkeypatch.setattr(S3Store, "_connect", lambda self: client)
        server: S3Server = request.getfixturevalue("s3_server")
        store = S3Store(server.url, BUCKET, part_size=PART_SIZE, prefix=f"{tmp_path.name}/")
    async with open_site(store) as site:
        yield site


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="empty"),
        pytest.param(1, id="one byte"),
        pytest.param(PART_SIZE - 1, id="one byte short of a part"),
        pytest.param(PART_SIZE, id="exactly one part"),
        pytest.param(PART_SIZE + 1, id="a last part of one byte"),
        pytest.param(3 * PART_SIZE, id="exactly three parts"),
        pytest.param(5 * PART_SIZE + 77, id="five parts and some"),
    ],
)
async def test_what_was_uploaded_is_what_is_stored(site: Site, size: int) -> None:
    data = os.urandom(size)

    oid = await site.upload(data)

    assert await site.store.size(oid) == size
    assert await site.content(oid) == data


async def test_parts_may_come_in_any_order(site: Site) -> None:
    data = os.urandom(4 * PART_SIZE + 5)

    oid = await site.upload(data, order=[5, 2, 4, 1, 3])

    assert await site.content(oid) == data


async def test_a_part_sent_again_replaces_the_first(site: Site) -> None:
    data = os.urandom(2 * PART_SIZE)
    upload = (await site.actions(data))["upload"]
    assert (await site.put(upload["header"]["1"], os.urandom(PART_SIZE))).status == 200

    parts = await site.put_parts(upload["header"], data)
    assert (await site.complete(upload["href"], oid_of(data), parts)).status == 200

    assert await site.content(oid_of(data)) == data


@pytest.mark.parametrize("size", [10, 3 * PART_SIZE], ids=["single PUT", "multipart"])
async def test_a_stored_object_needs_no_actions(site: Site, size: int) -> None:
    data = os.urandom(size)
    await site.upload(data)

    assert await site.actions(data) is None


async def test_a_client_without_multipart_is_given_a_single_put(site: Site) -> None:
    data = os.urandom(3 * PART_SIZE)
    batch = await site.batch((oid_of(data), len(data)), transfers=["basic"])
    assert batch["transfer"] == "basic"
    upload = batch["objects"][0]["actions"]["upload"]
    assert upload["header"] == {}

    assert (await site.put(upload["href"], data)).status == 200

    assert (await site.verify(data)).status == 200
    assert await site.content(oid_of(data)) == data


async def test_each_batch_opens_an_upload_of_its_own(site: Site) -> None:
    data = os.urandom(2 * PART_SIZE)
    first = (await site.actions(data))["upload"]
    second = (await site.actions(data))["upload"]
    assert first["header"]["upload_id"] != second["header"]["upload_id"]
    parts = await site.put_parts(first["header"], data)

    assert (await site.complete(second["href"], oid_of(data), parts)).status == 400
    assert (await site.complete(first["href"], oid_of(data), parts)).status == 200


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda parts: parts[:-1], id="the last is missing"),
        pytest.param(lambda parts: parts[1:], id="the first is missing"),
        pytest.param(lambda parts: [*parts, parts[0]], id="one is doubled"),
        pytest.param(lambda parts: [], id="none"),
        pytest.param(lambda parts: [*parts, {"partNumber": 4, "etag": '"00"'}], id="too many"),
        pytest.param(lambda parts: [{**parts[0], "partNumber": 0}, *parts[1:]], id="number 0"),
        pytest.param(lambda parts: [{**parts[0], "etag": '"00"'}, *parts[1:]], id="wrong ETag"),
        pytest.param(lambda parts: [{**parts[0], "etag": ""}, *parts[1:]], id="empty ETag"),
        pytest.param(
            lambda parts: [{**parts[0], "etag": parts[1]["etag"]}, *parts[1:]],
            id="another part's ETag",
        ),
    ],
)
async def test_a_wrong_part_list_is_refused_and_stores_nothing(site: Site, change: object) -> None:
    assert callable(change)
    data = os.urandom(3 * PART_SIZE)
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], data)

    answer = await site.complete(upload["href"], oid_of(data), change(parts))

    assert 400 <= answer.status < 500, answer.text
    assert answer.json["error"]
    assert await site.store.size(oid_of(data)) is None


async def test_a_part_that_never_came_is_missed(site: Site) -> None:
    data = bytes(3 * PART_SIZE)  # zeros, as the hole in a sparse file is
    upload = (await site.actions(data))["upload"]
    await site.put(upload["header"]["1"], data[:PART_SIZE])
    etag = (await site.put(upload["header"]["3"], data[:PART_SIZE])).headers["ETag"]

    listed = [{"partNumber": number, "etag": etag} for number in (1, 2, 3)]

    assert 400 <= (await site.complete(upload["href"], oid_of(data), listed)).status < 500
    assert await site.store.size(oid_of(data)) is None


async def test_bytes_of_another_oid_are_refused_on_completion(site: Site) -> None:
    data = os.urandom(3 * PART_SIZE)
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], wrong)

    answer = await site.complete(upload["href"], oid_of(data), parts)

    assert (answer.status, answer.json["code"]) == (422, "BadDigest")
    assert await site.store.size(oid_of(data)) is None
    assert await site.store.size(oid_of(wrong)) is None
    assert (await site.verify(data)).status == 404


async def test_a_single_put_of_other_bytes_is_not_stored(site: Site) -> None:
    data = os.urandom(100)
    upload = (await site.actions(data))["upload"]

    await site.put(upload["href"], os.urandom(100))

    assert (await site.verify(data)).status == 404
    assert await site.store.size(oid_of(data)) is None
    await site.upload(data)  # and nothing stands in the way of the right ones


async def test_a_second_completion_finds_the_upload_gone(site: Site) -> None:
    data = os.urandom(2 * PART_SIZE)
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], data)
    assert (await site.complete(upload["href"], oid_of(data), parts)).status == 200

    again = await site.complete(upload["href"], oid_of(data), parts)

    assert (again.status, again.json["code"]) == (404, "NoSuchUpload")
    assert await site.content(oid_of(data)) == data


async def test_a_finished_upload_takes_no_more_parts(site: Site) -> None:
    data = os.urandom(2 * PART_SIZE)
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], data)
    await site.complete(upload["href"], oid_of(data), parts)

    late = await site.put(upload["header"]["1"], os.urandom(PART_SIZE))

    assert late.status == 404
    assert "<Code>NoSuchUpload</Code>" in late.text
    assert await site.content(oid_of(data)) == data


async def test_a_range_is_read(site: Site) -> None:
    data = os.urandom(1000)
    oid = await site.upload(data)

    async def read(start: int, stop: int) -> bytes:
        return b"".join([piece async for piece in site.store.read(oid, start, stop)])

    assert await read(10, 20) == data[10:20]
    assert await read(990, 1000) == data[990:]
    assert await read(5, 5) == b""


async def test_reading_what_is_not_there_says_so(site: Site) -> None:
    with pytest.raises(BlobError) as refused:
        async for _ in site.store.read("0" * 64, 0, 10):
            pass

    assert refused.value.status == 404


async def test_a_download_action_leads_to_the_bytes(site: Site) -> None:
    data = os.urandom(1000)
    oid = await site.upload(data)
    batch = await site.batch((oid, len(data)), operation="download")
    href = batch["objects"][0]["actions"]["download"]["href"]

    whole = await site.request("GET", href)
    some = await site.request("GET", href, headers={"Range": "bytes=100-199"})

    assert (whole.status, whole.body) == (200, data)
    assert some.status in (206, 200)  # rclone sends the range under a 200
    assert some.body == data[100:200]


async def test_verify_compares_the_size(site: Site) -> None:
    data = os.urandom(10)
    oid = await site.upload(data)

    verify = "/me/model.git/info/lfs/objects/verify"
    assert (await site.post(verify, {"oid": oid, "size": 11})).status == 422
    batch = await site.batch((oid, 11))
    assert batch["objects"][0]["error"]["code"] == 422


async def test_a_url_is_valid_only_for_its_part(site: Site) -> None:
    data, other = os.urandom(2 * PART_SIZE), os.urandom(2 * PART_SIZE)
    url = (await site.actions(data))["upload"]["header"]["1"]
    await site.actions(other)
    part = data[:PART_SIZE]

    for changed in (
        url.replace(oid_of(data), oid_of(other)),
        url.replace("partNumber=1", "partNumber=2"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
    ):
        answer = await site.put(changed, part)
        assert answer.status == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
    for length in (PART_SIZE - 1, PART_SIZE + 1):
        answer = await site.put(url, bytes(length))
        assert answer.status in (400, 403)
    assert (await site.put(url, part)).status == 200


async def test_an_oid_is_checked_before_it_becomes_a_path(site: Site) -> None:
    for oid in ("../" * 20 + "etc", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", ""):
        with pytest.raises(BlobError):
            await site.store.size(oid)
        with pytest.raises(BlobError):
            await site.store.ticket(oid, 1, base_url=site.url)
        with pytest.raises(BlobError):
            await site.store.download_url(oid, base_url=site.url)


async def test_an_upload_id_is_checked_before_it_becomes_a_path(site: Site) -> None:
    for upload_id in ("../../objects", "", "0" * 32, "é" * 32, "x.y"):
        with pytest.raises(BlobError) as refused:
            await site.store.complete(upload_id, "0" * 64, 1, [(1, "etag")])
        assert refused.value.status < 500 or refused.value.status == 502


async def test_only_a_store_with_files_takes_parts_itself(site: Site) -> None:
    oid = await site.upload(b"text")

    path = site.store.path(oid)

    assert isinstance(site.store, PartSink) == (path is not None)
    assert path is None or path.read_bytes() == b"text"
