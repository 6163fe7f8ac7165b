"""Bare aiohttp: the floor of whoever sends small objects through it.

Batch, PUT, verify and commit as the near-ideal sender does, on one event loop: no retries, no
journal, no progress, nothing looked at twice; files are read and hashed where they are wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals.ideal import BATCH
from benchmarks.rivals.measuring import TOKEN, Figures, Job

AT_ONCE = 32


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def push(job: Job) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(job.endpoint, connector=connector, headers=headers) as hub,
        aiohttp.ClientSession(connector=connector, skip_auto_headers=["Content-Type"]) as store,
    ):
        contents = _read(Path(job.folder))
        oids = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        names = list(contents)
        slots = asyncio.Semaphore(AT_ONCE)

        async def post(url: str, body: Any) -> Any:
            async with slots, hub.post(url, json=body) as answer:
                answer.raise_for_status()
                return await answer.json(content_type=None)

        async def send(name: str, actions: dict[str, Any]) -> None:
            async with slots, store.put(actions["upload"]["href"], data=contents[name]) as answer:
                answer.raise_for_status()
                await answer.read()
            size = len(contents[name])
            await post(actions["verify"]["href"], {"oid": oids[name], "size": size})

        async def chunk(some: Sequence[str]) -> None:
            body = {
                "operation": "upload",
                "transfers": ["basic"],
                "objects": [{"oid": oids[name], "size": len(contents[name])} for name in some],
                "hash_algo": "sha256",
            }
            answer = await post(f"/{job.repo}.git/info/lfs/objects/batch", body)
            by_oid = {entry["oid"]: entry["actions"] for entry in answer["objects"]}
            await asyncio.gather(*(send(name, by_oid[oids[name]]) for name in some))

        starts = range(0, len(names), BATCH)
        await asyncio.gather(*(chunk(names[start : start + BATCH]) for start in starts))
        lines: list[Any] = [{"key": "header", "value": {"summary": "benchmark"}}]
        for name in names:
            value = {"path": name, "algo": "sha256", "oid": oids[name], "size": len(contents[name])}
            lines.append({"key": "lfsFile", "value": value})
        data = b"\n".join(json.dumps(line).encode() for line in lines)
        kind = {"Content-Type": "application/x-ndjson"}
        url = f"/api/models/{job.repo}/commit/main"
        async with hub.post(url, data=data, headers=kind) as answer:
            answer.raise_for_status()


def main() -> None:
    job, figures = Job.given(), Figures()
    with figures.importing():
        import aiohttp  # noqa: F401
    with figures.measuring():
        asyncio.run(push(job))
    figures.print()


if __name__ == "__main__":
    main()
