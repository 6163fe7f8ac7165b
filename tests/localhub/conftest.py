"""An embedded Hub on a loopback port, and the clients that speak to it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

# The official client reads these once, when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import aiohttp
import orjson
import pytest

from asyncpush.localhub import LocalHub, serve_in_thread
from tests.localhub.answers import Answer
from tests.localhub.rclone import S3Server, serve_s3

PART_SIZE = 1_000_000


class HubClient:
    """A client without knowledge: each test says exactly what goes over the wire."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str = "any") -> None:
        self.url = url
        self.token = token
        self._session = session

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """`token` is shown instead of the client's own; None shows none."""
        headers = dict(options.pop("headers", {}))
        token = options.pop("token", self.token)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = path if path.startswith("http") else self.url + path
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])  # aiohttp warns of long bytes
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        return await self.call("POST", path, json={} if body is None else body, **options)

    async def create(self, name: str = "net", **body: Any) -> Answer:
        return await self.post("/api/repos/create", {"organization": "me", "name": name, **body})

    async def commit(
        self,
        *lines: dict[str, Any],
        repo: str = "models/me/net",
        revision: str = "main",
        query: str = "",
        **header: Any,
    ) -> Answer:
        """Commit these lines under a header that is filled in."""
        first = {"key": "header", "value": {"summary": "change", "description": "", **header}}
        body = b"\n".join(orjson.dumps(line) for line in (first, *lines))
        return await self.call("POST", f"/api/{repo}/commit/{revision}{query}", data=body)

    async def store(self, content: bytes) -> str:
        """Put an object into the store through LFS, in one PUT; its oid."""
        oid = hashlib.sha256(content).hexdigest()
        wanted = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
        batch = await self.post("/me/net.git/info/lfs/objects/batch", wanted)
        actions = batch.json["objects"][0].get("actions")
        if actions:
            put = await self.call("PUT", actions["upload"]["href"], token=None, data=content)
            assert put.status == 200
        return oid

    async def head(self, revision: str = "main", repo: str = "models/me/net") -> str:
        answer = await self.get(f"/api/{repo}/revision/{revision}")
        sha: str = answer.json["sha"]
        return sha


def add(path: str, content: bytes = b"text\n") -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}}


def add_lfs(path: str, oid: str, size: int | None = None) -> dict[str, Any]:
    value = {"path": path, "algo": "sha256", "oid": oid, "size": size}
    return {"key": "lfsFile", "value": {k: v for k, v in value.items() if v is not None}}


def delete(path: str) -> dict[str, Any]:
    return {"key": "deletedFile", "value": {"path": path}}


def delete_folder(path: str) -> dict[str, Any]:
    return {"key": "deletedFolder", "value": {"path": path}}


GIT_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_LFS_SKIP_SMUDGE": "1",
}


def git(*arguments: str | Path) -> str:
    """Run git as it is without anybody's settings; what it printed."""
    done = subprocess.run(
        ["git", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=GIT_ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[LocalHub]:
    async with LocalHub(tmp_path / "hub", part_size=PART_SIZE, xet=False) as hub:
        yield hub


@pytest.fixture
async def client(hub: LocalHub) -> AsyncIterator[HubClient]:
    """A client of a hub that has one model repo, me/net."""
    async with aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session)
        assert (await client.create()).status == 200
        yield client


@pytest.fixture
def hub_in_thread(tmp_path: Path) -> Iterator[LocalHub]:
    with serve_in_thread(tmp_path / "hub", part_size=PART_SIZE, xet=False) as hub:
        yield hub


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One for all tests of a module: it takes a moment to start."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server
