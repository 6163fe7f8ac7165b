"""Bare aiohttp: the least that a client needs to send small objects through it.

Batch, PUT, verify and commit as the near-ideal sender does, on one event loop: no retries, no
journal, no progress, no verification; files are read and hashed in the event loop.

With the option `checked`, the least that a verified push needs: the branch's head and
the upload modes are asked for, files are read and hashed in a thread (sha256 and MD5), each ETag is
compared, the commit names its parent, and its files are looked up afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rivals.ideal import BATCH
from benchmarks.rivals.measuring import TOKEN, Figures, Job

if TYPE_CHECKING:
    import aiohttp

AT_ONCE = 32
LOOKED_UP = 500
"""Paths in one call that looks files up."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    data: bytes
    oid: str
    etag: str | None


def _read(folder: Path, names: Sequence[str], *, md5: bool) -> list[File]:
    files = []
    for name in names:
        data = Path(folder, name).read_bytes()
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"' if md5 else None
        files.append(File(name, data, hashlib.sha256(data).hexdigest(), etag))
    return files


class Push:
    def __init__(self, job: Job, hub: aiohttp.ClientSession, store: aiohttp.ClientSession) -> None:
        self._folder = Path(job.folder)
        self._checked = bool(job.options.get("checked"))
        self._hub = hub
        self._store = store
        self._lfs = f"/{job.repo}.git/info/lfs/objects/batch"
        self._api = f"/api/models/{job.repo}"
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        paths = self._folder.rglob("*")
        names = [path.relative_to(self._folder).as_posix() for path in paths if path.is_file()]
        chunks = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
        head = await self._head() if self._checked else None
        stored = await asyncio.gather(*(self._chunk(chunk) for chunk in chunks))
        files = [file for chunk in stored for file in chunk]
        commit = await self._commit(files, head)
        if self._checked:
            await self._look_up(files, commit)

    async def _chunk(self, names: Sequence[str]) -> list[File]:
        if self._checked:
            files = await asyncio.to_thread(_read, self._folder, names, md5=True)
            await self._ask_modes(files)
        else:
            files = _read(self._folder, names, md5=False)
        body = {
            "operation": "upload",
            "transfers": ["basic"],
            "objects": [{"oid": file.oid, "size": len(file.data)} for file in files],
            "hash_algo": "sha256",
        }
        answer = await self._post(self._lfs, body)
        by_oid = {entry["oid"]: entry["actions"] for entry in answer["objects"]}
        await asyncio.gather(*(self._send(file, by_oid[file.oid]) for file in files))
        return files

    async def _send(self, file: File, actions: Mapping[str, Any]) -> None:
        url = actions["upload"]["href"]
        async with self._slots, self._store.put(url, data=file.data) as answer:
            answer.raise_for_status()
            await answer.read()
        if file.etag is not None and answer.headers["ETag"] != file.etag:
            raise RuntimeError(f"wrong ETag of {file.name}")
        body = {"oid": file.oid, "size": len(file.data)}
        await self._post(actions["verify"]["href"], body)

    async def _post(self, url: str, body: Any) -> Any:
        async with self._slots, self._hub.post(url, json=body) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    async def _head(self) -> str:
        async with self._hub.get(f"{self._api}/revision/main") as answer:
            answer.raise_for_status()
            return str((await answer.json())["sha"])

    async def _ask_modes(self, files: Sequence[File]) -> None:
        body = [
            {
                "path": file.name,
                "size": len(file.data),
                "sample": base64.b64encode(file.data[:512]).decode(),
            }
            for file in files
        ]
        answer = await self._post(f"{self._api}/preupload/main", {"files": body})
        if any(entry["uploadMode"] != "lfs" for entry in answer["files"]):
            raise RuntimeError("not every file is for LFS")

    async def _commit(self, files: Sequence[File], head: str | None) -> str:
        header = {"summary": "benchmark"} | ({} if head is None else {"parentCommit": head})
        lines: list[Any] = [{"key": "header", "value": header}]
        for file in files:
            value = {"path": file.name, "algo": "sha256", "oid": file.oid, "size": len(file.data)}
            lines.append({"key": "lfsFile", "value": value})
        data = b"\n".join(json.dumps(line).encode() for line in lines)
        kind = {"Content-Type": "application/x-ndjson"}
        url = f"{self._api}/commit/main"
        async with self._hub.post(url, data=data, headers=kind) as answer:
            answer.raise_for_status()
            return str((await answer.json())["commitOid"])

    async def _look_up(self, files: Sequence[File], commit: str) -> None:
        oids = {file.name: file.oid for file in files}
        for start in range(0, len(files), LOOKED_UP):
            paths = [file.name for file in files[start : start + LOOKED_UP]]
            answer = await self._post(f"{self._api}/paths-info/{commit}", {"paths": paths})
            found = {entry["path"]: entry["lfs"]["oid"] for entry in answer}
            if found != {path: oids[path] for path in paths}:
                raise RuntimeError("the commit does not show the files")


async def push(job: Job) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(job.endpoint, connector=connector, headers=headers) as hub,
        aiohttp.ClientSession(connector=connector, skip_auto_headers=["Content-Type"]) as store,
    ):
        await Push(job, hub, store).run()


def main() -> None:
    job, figures = Job.given(), Figures()
    with figures.importing():
        import aiohttp  # noqa: F401
    with figures.measuring():
        asyncio.run(push(job))
    figures.print()


if __name__ == "__main__":
    main()
