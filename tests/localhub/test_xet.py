"""The hub's own Xet store: what clients send is looked at, and believed only when read back."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import lz4.frame
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpush.localhub import LocalHub
from asyncpush.localhub.blobs import Signer
from asyncpush.localhub.routes import xet_cas
from asyncpush.localhub.web import Refusal
from asyncpush.localhub.xet.chunk_store import XetStore, check_token, new_token
from asyncpush.localhub.xet.shards import (
    BadShardError,
    BadXorbError,
    answer_shard,
    hex_of,
    open_xorb,
    parse_shard,
    read_chunks,
)

TOKEN = "hub-token"
TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
END = b"\xff" * 32 + bytes(16)


def chunk(data: bytes, scheme: int = 0) -> bytes:
    body = data
    if scheme == 2:
        body = b"".join(data[lane::4] for lane in range(4))
    if scheme:
        body = lz4.frame.compress(body)
    lengths = len(body).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little")
    return b"\0" + lengths + body


def raw(name: str) -> bytes:
    """A hash out of a word; `hex_of` shows it as clients write it."""
    return sha256(name.encode()).digest()


def shard_of(
    xorb: bytes, chunks: list[bytes], whole: bytes, *, oid: str | None = None, verified: bool = True
) -> bytes:
    """A shard of one file that is all of one xorb, as hf_xet sends it."""
    flags = (1 << 31 if verified else 0) | 1 << 30
    oid = oid or sha256(whole).hexdigest()
    claimed = bytes.fromhex(hex_of(bytes.fromhex(oid)))  # the same twice is where it was
    rows = raw("file" + oid) + struct.pack("<II8x", flags, 1)
    rows += xorb + struct.pack("<4xIII", len(whole), 0, len(chunks))
    rows += bytes(48) if verified else b""
    rows += claimed + bytes(16) + END
    rows += xorb + struct.pack("<4xI8x", len(chunks))
    for number, _ in enumerate(chunks):
        rows += raw(f"chunk {number}") + bytes(16)
    return TAG + struct.pack("<QQ", 2, 0) + rows + END


@pytest.fixture
def store(tmp_path: Path) -> XetStore:
    return XetStore(tmp_path / "xet")


PARTS = [b"abcd" * 1000 + b"xyz", os.urandom(500), bytes(100_000)]
WHOLE = b"".join(PARTS)
XORB = raw("xorb")


def add(store: XetStore, xorb: bytes, shard: bytes) -> None:
    body = store.new_body()
    body.write_bytes(xorb)
    store.add_xorb(hex_of(XORB), body)
    store.add_shard(shard)


@pytest.mark.parametrize("schemes", [(0, 0, 0), (1, 0, 1), (2, 2, 2)])
def test_an_object_is_put_together_from_its_chunks(
    schemes: tuple[int, ...], store: XetStore
) -> None:
    xorb = b"".join(chunk(part, scheme) for part, scheme in zip(PARTS, schemes, strict=True))
    add(store, xorb, shard_of(XORB, PARTS, WHOLE))
    oid = sha256(WHOLE).hexdigest()
    known = store.accept(oid)
    assert known is not None
    assert known.size == len(WHOLE)
    for start, stop in ((0, len(WHOLE)), (0, 1), (3990, 4600), (len(WHOLE) - 1, len(WHOLE))):
        assert b"".join(store.read(oid, start, stop)) == WHOLE[start:stop]
    again = XetStore(store.root)  # another process
    assert again.known(oid) == known
    assert b"".join(again.read(oid, 5, 10)) == WHOLE[5:10]


def test_only_what_reads_back_at_its_sha256_is_accepted(store: XetStore) -> None:
    good = b"".join(map(chunk, PARTS))
    other = sha256(b"other").hexdigest()
    add(store, good, shard_of(XORB, PARTS, WHOLE, oid=other))
    assert store.accept(other) is None
    assert store.accept(sha256(WHOLE).hexdigest()) is None  # nobody described it
    store.add_shard(shard_of(XORB, PARTS, WHOLE, verified=False))
    assert store.accept(sha256(WHOLE).hexdigest()) is not None
    with pytest.raises(FileNotFoundError):
        store.read(other, 0, 1)


@pytest.mark.parametrize("harm", ["gone", "cut", "garbled"])
def test_a_damaged_xorb_is_noticed(harm: str, store: XetStore) -> None:
    add(store, b"".join(chunk(part, 1) for part in PARTS), shard_of(XORB, PARTS, WHOLE))
    path = store.xorb_path(hex_of(XORB))
    assert path is not None
    path.chmod(0o600)
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "garbled":
        path.write_bytes(data[:40] + bytes(8) + data[48:])
    assert XetStore(store.root).accept(sha256(WHOLE).hexdigest()) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 5, id="part of a header"),
        pytest.param(b"\1" + chunk(b"abc")[1:], id="other version"),
        pytest.param(chunk(b"abc")[:-1], id="cut"),
        pytest.param(b"\0\xff\xff\xff\0\3\0\0", id="far too long"),
        pytest.param(chunk(b""), id="chunk of nothing"),
    ],
)
def test_what_is_no_xorb_is_not_kept(data: bytes, store: XetStore) -> None:
    body = store.new_body()
    body.write_bytes(data)
    with pytest.raises(BadXorbError):
        store.add_xorb(hex_of(XORB), body)
    assert store.xorb_path(hex_of(XORB)) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(chunk(b"abcd", 0)[:4] + b"\7" + chunk(b"abcd")[5:], id="unknown scheme"),
        pytest.param(b"\0\4\0\0\1\4\0\0abcd", id="not LZ4"),
        pytest.param(b"\0\4\0\0\0\5\0\0abcd", id="other length"),
    ],
)
def test_a_chunk_that_cannot_be_unpacked_is_reported(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "xorb"
    path.write_bytes(data)
    with pytest.raises(BadXorbError):
        read_chunks(open_xorb(path), 0, 1)


def test_a_shard_must_name_chunks_that_are_here(store: XetStore) -> None:
    with pytest.raises(BadShardError, match="never sent"):
        store.add_shard(shard_of(XORB, PARTS, WHOLE))
    add(store, b"".join(map(chunk, PARTS)), shard_of(XORB, PARTS, WHOLE))
    for chunks, whole in ((PARTS * 2, WHOLE), (PARTS[:2], WHOLE), ([], b""), (PARTS, WHOLE[1:])):
        with pytest.raises(BadShardError, match="no such chunks"):
            store.add_shard(shard_of(XORB, chunks, whole))


@given(st.data())
def test_any_bytes_are_a_shard_or_refused(data: st.DataObject) -> None:
    good = shard_of(XORB, PARTS, WHOLE)
    cut = data.draw(st.integers(0, len(good)))
    noise = data.draw(st.binary(max_size=200))
    try:
        parse_shard(good[:cut] + noise)
    except BadShardError:
        return
    assert cut >= len(good) - 16  # the last row's rest says nothing


def test_a_shard_for_others_names_chunks_and_no_files(store: XetStore) -> None:
    add(store, b"".join(map(chunk, PARTS)), shard_of(XORB, PARTS, WHOLE))
    first = hex_of(raw("chunk 0"))
    answer = store.shard_with_chunk(first)
    assert answer is not None
    shard = parse_shard(answer)
    assert shard.files == ()
    assert raw("chunk 2") in shard.xorbs
    assert sha256(WHOLE).digest() not in answer
    assert store.shard_with_chunk("0" * 64) is None
    assert len(answer_shard(shard, now=0, lifetime=1)) == len(answer)


def test_what_is_added_again_is_there_already(store: XetStore) -> None:
    xorb = b"".join(map(chunk, PARTS))
    add(store, xorb, shard_of(XORB, PARTS, WHOLE))
    body = store.new_body()
    body.write_bytes(xorb)
    assert store.add_xorb(hex_of(XORB), body) is False
    assert store.add_shard(shard_of(XORB, PARTS, WHOLE)) is False


def test_bodies_that_were_cut_off_are_swept_away_in_time(store: XetStore) -> None:
    old, new = store.new_body(), store.new_body()
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    os.utime(old, (0, 0))
    store.sweep()
    assert (old.exists(), new.exists()) == (False, True)


def test_tokens_say_what_they_allow_and_until_when() -> None:
    now = 0.0
    signer = Signer(b"secret", clock=lambda: now)
    write = "Bearer " + new_token(signer, "write", lifetime=10)
    read = "Bearer " + new_token(signer, "read", lifetime=10)
    check_token(signer, write, "write")
    check_token(signer, write, "read")
    check_token(signer, read, "read")
    other = "Bearer " + new_token(Signer(b"other", clock=lambda: now), "write", lifetime=10)
    for header in (read, other, None, "", "Bearer", "Bearer ä", "Bearer abcd", write[7:]):
        with pytest.raises(Refusal) as caught:
            check_token(signer, header, "write")
        assert caught.value.status == 401
    now = 10.0
    with pytest.raises(Refusal, match="expired"):
        check_token(signer, write, "write")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[LocalHub]:
    async with LocalHub(tmp_path / "hub", token=TOKEN, xet=True) as hub:
        yield hub


class Client:
    """Plain HTTP, with whatever token a test gives it."""

    def __init__(self, hub: LocalHub, session: aiohttp.ClientSession) -> None:
        self.hub, self.session = hub, session
        self.token = TOKEN

    async def ask(self, method: str, url: str, **more: Any) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        url = url if url.startswith("http") else self.hub.url + url
        async with self.session.request(method, url, headers=headers, **more) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def client(hub: LocalHub) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        client = Client(hub, session)
        body = orjson.dumps({"name": "m", "organization": "me", "type": "model"})
        assert (await client.ask("POST", "/api/repos/create", data=body))[0] == 200
        yield client


async def cas(client: Client, scope: str = "write") -> str:
    """The store's URL; its token is taken along from here on."""
    client.token = TOKEN
    status, body = await client.ask("GET", f"/api/models/me/m/xet-{scope}-token/main")
    assert status == 200
    grant = orjson.loads(body)
    client.token = grant["accessToken"]
    return str(grant["casUrl"])


async def test_tokens_are_granted_for_what_is_there(client: Client, tmp_path: Path) -> None:
    base = "/api/models/me/m/xet-write-token"
    assert (await client.ask("GET", f"{base}/main"))[0] == 200
    assert (await client.ask("GET", f"{base}/nowhere"))[0] == 404
    assert (await client.ask("GET", f"{base}/nowhere?create_pr=1"))[0] == 200
    assert (await client.ask("GET", "/api/models/me/none/xet-write-token/main"))[0] == 404
    client.token = "wrong"
    assert (await client.ask("GET", f"{base}/main"))[0] == 401


async def test_a_hub_without_xet_grants_reading_alone(client: Client, tmp_path: Path) -> None:
    async with LocalHub(client.hub.root, token=TOKEN, xet=False) as plain:
        other = Client(plain, client.session)
        assert (await other.ask("GET", "/api/models/me/m/xet-write-token/main"))[0] == 404
        assert (await other.ask("GET", "/api/models/me/m/xet-read-token/main"))[0] == 200


async def test_the_store_takes_its_own_tokens_alone(client: Client) -> None:
    url = await cas(client, "read")
    xorb = f"{url}/v1/xorbs/default/{'0' * 64}"
    assert (await client.ask("POST", xorb, data=chunk(b"a")))[0] == 401
    client.token = TOKEN
    assert (await client.ask("POST", xorb, data=chunk(b"a")))[0] == 401
    assert (await client.ask("GET", f"{url}/v1/reconstructions/{'0' * 64}"))[0] == 401
    await cas(client)
    assert (await client.ask("POST", xorb, data=chunk(b"a")))[0] == 200
    elsewhere = url.rpartition("/")[0] + "/" + "0" * 16
    assert (await client.ask("POST", f"{elsewhere}/v1/shards", data=b""))[0] == 404


async def test_what_makes_no_sense_is_refused(client: Client) -> None:
    url = await cas(client)
    xorb = f"{url}/v1/xorbs/default/{'1' * 64}"
    assert (await client.ask("POST", xorb, data=b"no xorb"))[0] == 400
    assert (await client.ask("POST", f"{url}/v1/shards", data=b"no shard"))[0] == 400
    assert (await client.ask("GET", f"{url}/v1/chunks/default/{'1' * 64}"))[0] == 404
    assert (await client.ask("GET", f"{url}/v1/reconstructions/{'1' * 64}"))[0] == 404
    assert (await client.ask("GET", f"{url}/v2/reconstructions/{'1' * 64}"))[0] == 404
    assert (await client.ask("POST", f"{url}/v1/telemetry", data=b"{}"))[0] == 204
    assert not list((client.hub.root / "xet/incoming").iterdir())


async def test_too_long_a_xorb_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet_cas, "MAX_XORB_BYTES", 10)
    url = await cas(client)
    xorb = f"{url}/v1/xorbs/default/{'1' * 64}"
    assert (await client.ask("POST", xorb, data=bytes(11)))[0] == 413

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(6)
        yield bytes(6)

    assert (await client.ask("POST", xorb, data=pieces()))[0] == 413


async def test_a_file_is_described_stretch_by_stretch(client: Client) -> None:
    url = await cas(client)
    xorb = b"".join(map(chunk, PARTS))
    name = hex_of(XORB)
    assert (await client.ask("POST", f"{url}/v1/xorbs/default/{name}", data=xorb))[0] == 200
    shard = shard_of(XORB, PARTS, WHOLE)
    assert (await client.ask("POST", f"{url}/v1/shards", data=shard))[0] == 200
    [file] = parse_shard(shard).files
    where = f"{url}/v1/reconstructions/{file.hash}"
    status, body = await client.ask("GET", where, headers={"Range": "bytes=5-99"})
    answer = orjson.loads(body)
    assert (status, answer["offset_into_first_range"]) == (200, 5)
    [fetch] = answer["fetch_info"][name]
    assert fetch["url_range"] == {"start": 0, "end": len(xorb) - 1}
    client.token = "none is needed"
    assert await client.ask("GET", fetch["url"]) == (200, xorb)
    assert (await client.ask("GET", fetch["url"] + "0"))[0] == 403
    await cas(client)
    far = {"Range": f"bytes={len(WHOLE)}-"}
    assert (await client.ask("GET", where, headers=far))[0] == 200  # no range that is understood
    far = {"Range": f"bytes={len(WHOLE)}-{len(WHOLE)}"}
    assert (await client.ask("GET", where, headers=far))[0] == 416
    path = client.hub.root / "xet/xorbs" / name[:2] / name[2:4] / name
    path.unlink()
    assert (await client.ask("GET", fetch["url"]))[0] == 404


async def test_an_lfs_client_reads_what_came_by_xet(client: Client) -> None:
    url = await cas(client)
    xorb = b"".join(map(chunk, PARTS))
    await client.ask("POST", f"{url}/v1/xorbs/default/{hex_of(XORB)}", data=xorb)
    await client.ask("POST", f"{url}/v1/shards", data=shard_of(XORB, PARTS, WHOLE))
    oid = sha256(WHOLE).hexdigest()
    client.token = TOKEN
    batch = {"operation": "download", "objects": [{"oid": oid, "size": len(WHOLE)}]}
    status, body = await client.ask(
        "POST", "/me/m.git/info/lfs/objects/batch", data=orjson.dumps(batch)
    )
    assert status == 200
    [item] = orjson.loads(body)["objects"]
    assert await client.ask("GET", item["actions"]["download"]["href"]) == (200, WHOLE)


async def test_a_batch_sends_to_xet_what_is_not_stored(client: Client) -> None:
    url = await cas(client)
    await client.ask(
        "POST", f"{url}/v1/xorbs/default/{hex_of(XORB)}", data=b"".join(map(chunk, PARTS))
    )
    await client.ask("POST", f"{url}/v1/shards", data=shard_of(XORB, PARTS, WHOLE))
    client.token = TOKEN
    batch = {
        "operation": "upload",
        "transfers": ["basic", "multipart", "xet"],
        "ref": {"name": "main"},
        "objects": [
            {"oid": sha256(WHOLE).hexdigest(), "size": len(WHOLE)},
            {"oid": sha256(b"new").hexdigest(), "size": 3},
            {"oid": "no oid", "size": 3},
        ],
    }

    _, body = await client.ask("POST", "/me/m.git/info/lfs/objects/batch", data=orjson.dumps(batch))

    answer = orjson.loads(body)
    stored, new, wrong = answer["objects"]
    assert answer["transfer"] == "xet"
    assert "actions" not in stored
    assert wrong["error"]["code"] == 422
    upload = new["actions"]["upload"]
    assert upload["href"] == f"{client.hub.url}/api/models/me/m/xet-write-token/main"
    assert (await client.ask("GET", upload["href"]))[0] == 200
    header = upload["header"]
    assert header["X-Xet-Cas-Url"] == url
    assert set(header) >= {"X-Xet-Token-Expiration", "X-Xet-Session-Id"}
    client.token = header["X-Xet-Access-Token"]
    where = f"{url}/v1/xorbs/default/{hex_of(XORB)}"
    assert (await client.ask("POST", where, data=b"".join(map(chunk, PARTS))))[0] == 200

    client.token = TOKEN
    del batch["ref"]  # for a pull request that is not there yet
    _, body = await client.ask("POST", "/me/m.git/info/lfs/objects/batch", data=orjson.dumps(batch))
    href = orjson.loads(body)["objects"][1]["actions"]["upload"]["href"]
    assert (await client.ask("GET", href))[0] == 200


async def test_a_commit_names_only_what_can_be_read_back(client: Client) -> None:
    url = await cas(client)
    xorb = b"".join(map(chunk, PARTS))
    lie = sha256(b"lie").hexdigest()
    await client.ask("POST", f"{url}/v1/xorbs/default/{hex_of(XORB)}", data=xorb)
    await client.ask("POST", f"{url}/v1/shards", data=shard_of(XORB, PARTS, WHOLE))
    await client.ask("POST", f"{url}/v1/shards", data=shard_of(XORB, PARTS, WHOLE, oid=lie))
    client.token = TOKEN

    async def commit(oid: str, size: int) -> int:
        lines = [
            {"key": "header", "value": {"summary": "s"}},
            {"key": "lfsFile", "value": {"path": "a.bin", "oid": oid, "size": size}},
        ]
        body = b"\n".join(map(orjson.dumps, lines))
        return (await client.ask("POST", "/api/models/me/m/commit/main", data=body))[0]

    assert await commit(lie, len(WHOLE)) == 404
    assert await commit(sha256(WHOLE).hexdigest(), len(WHOLE) + 1) == 400
    assert await commit(sha256(WHOLE).hexdigest(), len(WHOLE)) == 200
    assert await client.ask("GET", "/me/m/resolve/main/a.bin") == (200, WHOLE)
    _, body = await client.ask("GET", "/api/models/me/m/tree/main")
    [row] = [row for row in orjson.loads(body) if row["path"] == "a.bin"]
    assert len(row["xetHash"]) == 64
