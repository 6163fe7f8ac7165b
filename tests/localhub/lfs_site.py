"""The LFS routes alone on a loopback port, and a client that says exactly what it is told to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from asyncpush.localhub.blobs import BlobStore
from asyncpush.localhub.lfs_server import LFS_JSON, Operation, add_routes
from tests.localhub.answers import Answer

BATCH = "/me/model.git/info/lfs/objects/batch"
VERIFY = "/me/model.git/info/lfs/objects/verify"
TOKEN = "hf_secret"


def oid_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Site:
    """A hub with `store` behind it, as a client sees it."""

    url: str
    session: aiohttp.ClientSession
    store: BlobStore
    asked: list[Operation] = field(default_factory=list)

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        if url.startswith("/"):
            url = self.url + url
        async with self.session.request(method, url, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def post(self, url: str, body: Any, *, token: str | None = TOKEN) -> Answer:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Content-Type": LFS_JSON}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await self.request("POST", url, data=io.BytesIO(data), headers=headers)

    async def put(self, url: str, data: Any, **headers: str) -> Answer:
        return await self.request("PUT", url, data=data, headers=headers)

    async def batch(self, *objects: tuple[str, int], **changes: Any) -> Any:
        body = {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid, "size": size} for oid, size in objects],
            "hash_algo": "sha256",
            "ref": {"name": "main"},
        }
        answer = await self.post(BATCH, {**body, **changes})
        assert answer.status == 200, answer.text
        assert answer.headers["Content-Type"] == LFS_JSON
        return answer.json

    async def actions(self, data: bytes, oid: str | None = None, **changes: Any) -> Any:
        batch = await self.batch((oid or oid_of(data), len(data)), **changes)
        return batch["objects"][0].get("actions")

    async def put_parts(
        self, header: Mapping[str, str], data: bytes, order: Iterable[int] | None = None
    ) -> list[dict[str, Any]]:
        """PUT the parts (in `order`), and answer the body of a completion's `parts`."""
        chunk_size = int(header["chunk_size"])
        numbers = sorted(int(key) for key in header if key.isdigit())
        parts = {}
        for number in order or numbers:
            part = data[(number - 1) * chunk_size : number * chunk_size]
            answer = await self.put(header[str(number)], part)
            assert answer.status == 200, answer.text
            assert answer.headers["ETag"] == f'"{hashlib.md5(part).hexdigest()}"'
            parts[number] = answer.headers["ETag"]
        return [{"partNumber": number, "etag": parts[number]} for number in numbers]

    async def complete(self, href: str, oid: str, parts: Any) -> Answer:
        return await self.post(href, {"oid": oid, "parts": parts}, token=None)

    async def upload(self, data: bytes, order: Iterable[int] | None = None) -> str:
        """Store an object as a client would, in one PUT or in parts; its oid."""
        oid = oid_of(data)
        actions = await self.actions(data)
        upload = actions["upload"]
        if "chunk_size" in upload["header"]:
            parts = await self.put_parts(upload["header"], data, order)
            assert (await self.complete(upload["href"], oid, parts)).status == 200
        else:
            assert (await self.put(upload["href"], data)).status == 200
        assert (await self.verify(data)).status == 200
        return oid

    async def verify(self, data: bytes) -> Answer:
        return await self.post(VERIFY, {"oid": oid_of(data), "size": len(data)})

    async def content(self, oid: str) -> bytes | None:
        size = await self.store.size(oid)
        if size is None:
            return None
        return b"".join([piece async for piece in self.store.read(oid, 0, size)])


@asynccontextmanager
async def open_site(store: BlobStore) -> AsyncIterator[Site]:
    """Serve `store` for the time of the block, to those who show the token."""
    await store.start()
    app = web.Application()
    asked: list[Operation] = []

    async def access(request: web.Request, operation: Operation) -> None:
        asked.append(operation)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized

    add_routes(app, store, access)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(f"http://127.0.0.1:{runner.addresses[0][1]}", session, store, asked)
    finally:
        await runner.cleanup()
        await store.close()
