"""The S3 store's own promises, against a server that is not ours: `rclone serve s3`."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from huggingface_hub import HfApi

from asyncpush.localhub import serve_in_thread
from asyncpush.localhub.blobs import BlobError, Signer
from asyncpush.localhub.blobs import s3 as s3_module
from asyncpush.localhub.blobs.s3 import S3Store
from tests.fake_clock import NOW, FakeClock
from tests.localhub.lfs_site import Site, oid_of, open_site
from tests.localhub.rclone import BUCKET, ENVIRONMENT, SECRET_KEY, S3Server

PART = 64_000
DAY = 86_400


@pytest.fixture(scope="module")
def boto3_session() -> Any:
    """What boto3 knows of S3's API takes half a second to load: once for all tests."""
    return boto3.Session()


@pytest.fixture
def server(s3_server: S3Server, boto3_session: Any, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "Session", lambda: boto3_session)
    return s3_server


@pytest.fixture
def make_store(server: S3Server, tmp_path: Path) -> Callable[..., S3Store]:
    """Stores under this test's own prefix."""

    def make(kind: type[S3Store] = S3Store, **options: Any) -> S3Store:
        return kind(server.url, BUCKET, **{"prefix": f"{tmp_path.name}/", **options})

    return make


@pytest.fixture
def store(make_store: Callable[..., S3Store]) -> S3Store:
    return make_store(part_size=PART)


@pytest.fixture
async def site(store: S3Store) -> AsyncIterator[Site]:
    async with open_site(store) as site:
        yield site


def kept(server: S3Server, store: Any) -> list[str]:
    return [key for key in server.listing() if key.startswith(store.prefix)]


async def test_only_verified_objects_are_left_in_the_bucket(
    site: Site, store: S3Store, server: S3Server
) -> None:
    small, large, wrong = os.urandom(10), os.urandom(3 * PART), os.urandom(10)
    for data in (small, large):
        await site.upload(data)
    await site.put((await site.actions(wrong))["upload"]["href"], os.urandom(10))
    assert (await site.verify(wrong)).status == 404

    expected = [f"objects/{o[:2]}/{o[2:4]}/{o}" for o in (oid_of(small), oid_of(large))]
    assert kept(server, store) == sorted(f"{store.prefix}{key}" for key in expected)


async def test_the_first_question_after_a_single_put_stores_it(site: Site) -> None:
    """A commit may ask without a verify before it."""
    data = os.urandom(10)
    href = (await site.actions(data))["upload"]["href"]
    assert await site.store.size(oid_of(data)) is None

    assert (await site.put(href, data)).status == 200

    assert await site.store.size(oid_of(data)) == 10
    assert await site.content(oid_of(data)) == data


async def test_presigned_urls_are_plain_and_bound_to_their_length(site: Site) -> None:
    data = os.urandom(2 * PART + 1)
    header = (await site.actions(data))["upload"]["header"]

    for number in ("1", "2", "3"):
        query = parse_qs(urlsplit(header[number]).query)
        assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
        assert query["X-Amz-Expires"] == [str(DAY)]
        assert not [name for name in query if "checksum" in name.lower()]
        assert SECRET_KEY not in header[number]


async def test_a_presigned_url_lives_no_longer_than_s3_allows(
    make_store: Callable[..., S3Store],
) -> None:
    assert make_store(url_lifetime=30 * DAY).url_lifetime == 7 * DAY


async def test_a_hub_killed_before_verifying_continues(site: Site, store: S3Store) -> None:
    data = os.urandom(2 * PART)
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], data)
    name, _, upload_id = upload["header"]["upload_id"].partition(".")
    store._s3.complete_multipart_upload(
        Bucket=BUCKET,
        Key=store._staging(oid_of(data), name),
        UploadId=upload_id,
        MultipartUpload={
            "Parts": [{"PartNumber": p["partNumber"], "ETag": p["etag"]} for p in parts]
        },
    )

    assert (await site.complete(upload["href"], oid_of(data), parts)).status == 200
    assert await site.content(oid_of(data)) == data


async def test_hubs_with_one_secret_complete_each_others_uploads(
    make_store: Callable[..., S3Store],
) -> None:
    data = os.urandom(2 * PART)
    signer = Signer(b"shared")
    async with open_site(make_store(part_size=PART, signer=signer)) as first:
        upload = (await first.actions(data))["upload"]
        parts = await first.put_parts(upload["header"], data)
    async with open_site(make_store(part_size=5 * PART, signer=signer)) as second:
        href = upload["href"].replace(first.url, second.url)

        assert (await second.complete(href, oid_of(data), parts)).status == 200
        assert await second.content(oid_of(data)) == data


async def test_bytes_changed_while_they_are_verified_are_not_stored(
    make_store: Callable[..., S3Store], server: S3Server
) -> None:
    """A single PUT's URL stays good: it may be used again between our hashing and our copy."""

    class Raced(S3Store):
        def _copy(self, staged: str, key: str, etag: str) -> None:
            self._s3.put_object(Bucket=BUCKET, Key=staged, Body=b"evil")
            super()._copy(staged, key, etag)

    store = make_store(Raced)
    async with open_site(store) as site:
        href = (await site.actions(b"good"))["upload"]["href"]
        await site.put(href, b"good")

        assert (await site.verify(b"good")).status == 409

        objects = [key for key in kept(server, store) if "/objects/" in key]
        assert objects == []


@pytest.mark.parametrize("code", ["412", "PreconditionFailed"])
@pytest.mark.parametrize("operation", ["HeadObject", "CopyObject"])
async def test_a_server_refuses_a_copy_whose_condition_fails(
    site: Site, store: S3Store, operation: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 copies with the condition on a HEAD first, and then on the copy."""
    data = os.urandom(10)
    await site.put((await site.actions(data))["upload"]["href"], data)
    copy = store._copy

    def copy_refused(staged: str, key: str, etag: str) -> None:
        refusing(store._s3, operation, code)
        copy(staged, key, etag)

    monkeypatch.setattr(store, "_copy", copy_refused)

    assert (await site.verify(data)).status == 409


async def test_a_very_large_object_is_copied_in_parts(
    site: Site, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = emulate_upload_part_copy(store._s3)
    monkeypatch.setattr(s3_module, "_COPY_AT_ONCE", 5 << 20)
    monkeypatch.setattr(s3_module, "_COPY_PART", 5 << 20)
    data = os.urandom(11 << 20)
    oid = oid_of(data)
    href = (await site.actions(data, transfers=["basic"]))["upload"]["href"]

    assert (await site.put(href, io.BytesIO(data))).status == 200
    assert await store.size(oid) == len(data)

    assert sorted(copied) == [1, 2, 3]
    assert oid_of(await site.content(oid) or b"") == oid


async def test_a_large_copy_of_changed_bytes_is_refused(
    site: Site, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_COPY_AT_ONCE", 5 << 20)
    refusing(store._s3, "UploadPartCopy", "PreconditionFailed")
    data = os.urandom(6 << 20)
    href = (await site.actions(data, transfers=["basic"]))["upload"]["href"]
    await site.put(href, io.BytesIO(data))

    assert (await site.verify(data)).status == 409


def emulate_upload_part_copy(client: Any) -> list[int]:
    """rclone does not know UploadPartCopy: do it by its two halves. Part numbers as they come."""
    copied: list[int] = []

    def copy(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        source = unquote(params["headers"]["x-amz-copy-source"]).partition("/")[2]
        wanted = params["headers"]["x-amz-copy-source-range"]
        got = client.get_object(Bucket=BUCKET, Key=source, Range=wanted)["Body"].read()
        number = int(params["query_string"]["partNumber"])
        answer = client.upload_part(
            Bucket=BUCKET,
            Key=unquote(urlsplit(params["url"]).path).partition(f"/{BUCKET}/")[2],
            UploadId=params["query_string"]["uploadId"],
            PartNumber=number,
            Body=got,
        )
        copied.append(number)
        return SimpleNamespace(status_code=200), {"CopyPartResult": {"ETag": answer["ETag"]}}

    client.meta.events.register("before-call.s3.UploadPartCopy", copy)
    return copied


async def test_uploads_are_removed_once_their_urls_are_dead(
    make_store: Callable[..., S3Store], server: S3Server
) -> None:
    clock = FakeClock(NOW)
    data = os.urandom(2 * PART)
    store = make_store(part_size=PART, signer=Signer(b"shared"))
    async with open_site(store) as site:
        clock.now = store.clock()
        upload = (await site.actions(data))["upload"]
        parts = await site.put_parts(upload["header"], data)
        await site.put((await site.actions(b"staged"))["upload"]["href"], b"staged")
    assert len(kept(server, store)) >= 1

    young = make_store(part_size=PART, signer=Signer(b"shared"), clock=clock)
    await young.start()
    await young.close()
    assert [key for key in kept(server, store) if "single" in key]

    clock.now += DAY + 7200
    old = make_store(part_size=PART, signer=Signer(b"shared"), clock=clock)
    await old.start()
    assert [key for key in kept(server, store) if "single" in key] == []
    pairs = [(part["partNumber"], part["etag"]) for part in parts]
    with pytest.raises(BlobError) as refused:
        await old.complete(upload["header"]["upload_id"], oid_of(data), len(data), pairs)
    assert refused.value.code == "NoSuchUpload"
    await old.close()


async def test_a_key_that_may_not_list_can_still_be_used(
    make_store: Callable[..., S3Store],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = make_store()
    connect = store._connect
    monkeypatch.setattr(store, "_connect", lambda: refusing(connect(), "ListObjectsV2"))

    with caplog.at_level(logging.WARNING):
        await store.start()

    assert "AccessDenied" in caplog.text
    await store.close()


def refusing(client: Any, operation: str, code: str = "AccessDenied") -> Any:
    """A client to whom the server says no."""

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": code}}, operation)

    client.meta.events.register(f"before-call.s3.{operation}", refuse)
    return client


@pytest.mark.parametrize(
    "operation", ["HeadObject", "GetObject", "CreateMultipartUpload", "CompleteMultipartUpload"]
)
async def test_what_the_server_refuses_is_a_bad_gateway(
    site: Site, store: S3Store, operation: str
) -> None:
    data = os.urandom(2 * PART)
    upload = (await site.actions(data))["upload"]
    parts = await site.put_parts(upload["header"], data)
    refusing(store._s3, operation)

    batch = await site.batch((oid_of(b"new"), 2 * PART))
    completion = await site.complete(upload["href"], oid_of(data), parts)

    errors = [batch["objects"][0].get("error", {}).get("code"), completion.status]
    assert 502 in errors
    assert set(errors) <= {502, 200, None}


async def test_a_failure_while_verifying_is_not_taken_for_absence(
    site: Site, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(10)
    await site.put((await site.actions(data))["upload"]["href"], data)

    def race(key: str, oid: str) -> None:
        raise BlobError(409, "changed", "Changed")

    monkeypatch.setattr(store, "_promote", race)
    assert (await site.verify(data)).status == 409


async def test_a_server_that_is_away_is_a_bad_gateway(make_store: Callable[..., S3Store]) -> None:
    store = make_store()
    store.endpoint_url = "http://127.0.0.1:9"

    with pytest.raises(BlobError, match=r"127\.0\.0\.1:9") as refused:
        await store.start()

    assert refused.value.status == 502
    await store.close()


async def test_a_missing_bucket_is_reported_at_the_start(
    make_store: Callable[..., S3Store],
) -> None:
    store = make_store()
    store.bucket = "nowhere"

    with pytest.raises(BlobError, match="404"):
        await store.start()

    await store.close()


async def test_a_store_never_started_can_be_closed() -> None:
    await S3Store(None, BUCKET).close()


async def test_without_boto3_the_extra_is_named(
    make_store: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)

    with pytest.raises(ImportError, match=r"asyncpush\[s3\]"):
        await make_store().start()


@pytest.mark.usefixtures("official_lfs")
def test_the_official_client_works_with_a_hub_over_s3(
    make_store: Callable[..., S3Store], tmp_path: Path, server: S3Server
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    files = {"small.bin": os.urandom(100), "large.bin": os.urandom(3 * PART + 1)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    store = make_store(part_size=PART)

    with serve_in_thread(tmp_path / "hub", store=store) as hub:
        api = HfApi(endpoint=hub.url, token="hf_any")
        api.create_repo("me/model")
        api.upload_folder(repo_id="me/model", folder_path=folder)
        for name, data in files.items():
            got = api.hf_hub_download("me/model", name, local_dir=tmp_path / "got")
            assert Path(got).read_bytes() == data

    oids = sorted(oid_of(data) for data in files.values())
    assert sorted(key.rpartition("/")[2] for key in kept(server, store)) == oids
