"""Downloads: whole, in ranges, by HEAD; from git and from the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from asyncpush.localhub import LocalHub
from asyncpush.localhub.blobs import BlobStore
from asyncpush.localhub.blobs.disk import DiskStore
from tests.localhub.conftest import HubClient, add, add_lfs

CONTENT = bytes(range(256)) * 20
TEXT = b"0123456789"


@pytest.fixture
async def filled(client: HubClient) -> HubClient:
    oid = await client.store(CONTENT)
    await client.commit(
        add_lfs("model.bin", oid),
        add("text.txt", TEXT),
        add("page.html", b"<script>alert(1)</script>"),
        add("pixel.png", b"\x89PNG"),
        add("empty.txt", b""),
        add('deep/odd "name".txt', b"odd"),
    )
    return client


async def test_the_headers_tell_what_the_file_is(filled: HubClient) -> None:
    head = await filled.head()

    large = await filled.call("HEAD", "/me/net/resolve/main/model.bin")
    text = await filled.call("HEAD", "/me/net/resolve/main/text.txt")

    oid = hashlib.sha256(CONTENT).hexdigest()
    assert large.headers["ETag"] == large.headers["X-Linked-Etag"] == f'"{oid}"'
    assert large.headers["X-Linked-Size"] == large.headers["Content-Length"] == "5120"
    assert large.headers["X-Repo-Commit"] == text.headers["X-Repo-Commit"] == head
    assert text.headers["ETag"] == f'"{hashlib.sha1(b"blob 10" + bytes(1) + TEXT).hexdigest()}"'
    assert "X-Linked-Size" not in text.headers
    assert text.headers["Accept-Ranges"] == "bytes"
    assert (large.body, text.body) == (b"", b"")


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        pytest.param("bytes=0-0", slice(0, 1), id="first byte"),
        pytest.param("bytes=3-6", slice(3, 7), id="middle"),
        pytest.param("bytes=7-", slice(7, None), id="to the end"),
        pytest.param("bytes=-3", slice(-3, None), id="last three"),
        pytest.param("bytes=-99999", slice(0, None), id="more than all"),
        pytest.param("bytes=8-99999", slice(8, None), id="beyond the end"),
    ],
)
@pytest.mark.parametrize(("path", "content"), [("text.txt", TEXT), ("model.bin", CONTENT)])
async def test_a_range_is_206(
    filled: HubClient, path: str, content: bytes, wanted: str, part: slice[int | None, int | None]
) -> None:
    answer = await filled.get(f"/me/net/resolve/main/{path}", headers={"Range": wanted})

    assert answer.status == 206
    assert answer.body == content[part]
    start, stop, _ = part.indices(len(content))
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param("bytes=0-1,3-4", id="two ranges"),
        pytest.param("bytes=6-3", id="backwards"),
        pytest.param("bytes=-", id="nothing"),
        pytest.param("lines=0-1", id="lines"),
        pytest.param("bytes=a-b", id="words"),
    ],
)
async def test_a_range_that_is_not_understood_is_the_whole(filled: HubClient, wanted: str) -> None:
    answer = await filled.get("/me/net/resolve/main/text.txt", headers={"Range": wanted})

    assert (answer.status, answer.body) == (200, TEXT)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("text.txt", "bytes=10-"), ("text.txt", "bytes=-0"), ("empty.txt", "bytes=0-")],
)
async def test_a_range_behind_the_end_is_416(filled: HubClient, path: str, wanted: str) -> None:
    answer = await filled.get(f"/me/net/resolve/main/{path}", headers={"Range": wanted})

    assert answer.status == 416
    assert answer.headers["Content-Range"] in ("bytes */10", "bytes */0")


async def test_raw_is_what_git_has(filled: HubClient) -> None:
    oid = await filled.store(b"in LFS")
    await filled.commit(add_lfs("raw.bin", oid), add("raw.txt", b"text"))

    pointer = await filled.get("/me/net/raw/main/raw.bin")
    text = await filled.get("/me/net/raw/main/raw.txt")

    assert pointer.text == f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 6\n"
    assert text.text == "text"
    assert (await filled.call("HEAD", "/me/net/raw/main/nowhere")).status == 404


async def test_a_range_of_another_version_is_the_whole(filled: HubClient) -> None:
    path = "/me/net/resolve/main/text.txt"
    etag = (await filled.call("HEAD", path)).headers["ETag"]

    same = await filled.get(path, headers={"Range": "bytes=0-3", "If-Range": etag})
    other = await filled.get(path, headers={"Range": "bytes=0-3", "If-Range": '"old"'})

    assert (same.status, other.status) == (206, 200)


async def test_a_known_version_is_304(filled: HubClient) -> None:
    path = "/me/net/resolve/main/text.txt"
    etag = (await filled.call("HEAD", path)).headers["ETag"]

    answer = await filled.get(path, headers={"If-None-Match": f'W/"x", {etag}'})

    assert (answer.status, answer.body) == (304, b"")


async def test_an_empty_file_is_empty(filled: HubClient) -> None:
    answer = await filled.get("/me/net/resolve/main/empty.txt")

    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("text.txt", "text/plain"),
        ("page.html", "text/plain"),
        ("pixel.png", "image/png"),
        ("model.bin", "application/octet-stream"),
        (".gitattributes", "application/octet-stream"),
    ],
)
async def test_nothing_runs_in_a_browser(filled: HubClient, path: str, content_type: str) -> None:
    answer = await filled.get(f"/me/net/resolve/main/{path}")

    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_a_download_keeps_its_name(filled: HubClient) -> None:
    answer = await filled.get("/me/net/resolve/main/deep/odd%20%22name%22.txt?download=true")

    assert answer.headers["Content-Disposition"] == (
        "attachment; filename*=UTF-8''odd%20%22name%22.txt; filename=\"odd _name_.txt\";"
    )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/me/other/resolve/main/a", 404, "RepoNotFound", id="repo"),
        pytest.param("/datasets/me/net/resolve/main/a", 404, "RepoNotFound", id="type"),
        pytest.param("/me/net/resolve/nowhere/a", 404, "RevisionNotFound", id="revision"),
        pytest.param("/me/net/resolve/main/nowhere", 404, "EntryNotFound", id="file"),
        pytest.param("/me/net/resolve/main/deep", 404, "EntryNotFound", id="folder"),
        pytest.param("/me/net/resolve/main/..%2f..%2fHEAD", 400, None, id="outside"),
    ],
)
async def test_what_is_not_there_is_distinguished(
    filled: HubClient, path: str, status: int, code: str | None
) -> None:
    answer = await filled.get(path)

    assert (answer.status, answer.error_code) == (status, code)
    assert answer.headers["X-Error-Message"] == answer.json["error"]


async def test_a_client_may_leave_in_the_middle(
    client: HubClient, hub: LocalHub, caplog: pytest.LogCaptureFixture
) -> None:
    oid = await client.store(b"x" * (16 << 20))
    await client.commit(add_lfs("large.bin", oid))
    reader, writer = await asyncio.open_connection(hub.host, hub.port)
    writer.write(b"GET /me/net/resolve/main/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readexactly(1000)
    writer.transport.abort()

    assert (await client.get("/api/models/me/net")).status == 200
    assert caplog.records == []


class BrokenStore:
    """The store of a hub, whose reads fail after the first bytes."""

    def __init__(self, whole: object) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)

    async def read(self, oid: str, start: int, stop: int) -> AsyncIterator[bytes]:
        yield b"first bytes"
        raise OSError("the disk is gone")


async def test_a_download_that_breaks_off_is_never_whole(tmp_path: Path) -> None:
    store = cast(BlobStore, BrokenStore(DiskStore(tmp_path / "lfs")))
    async with (
        LocalHub(tmp_path, store=store, xet=False) as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        await client.create()
        whole = DiskStore(tmp_path / "lfs")
        oid = hashlib.sha256(CONTENT).hexdigest()
        whole.path(oid).parent.mkdir(parents=True)
        whole.path(oid).write_bytes(CONTENT)
        assert (await client.commit(add_lfs("model.bin", oid))).status == 200

        with pytest.raises(aiohttp.ClientError):
            await client.get("/me/net/resolve/main/model.bin")
