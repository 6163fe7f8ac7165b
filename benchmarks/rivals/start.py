"""A first push in a fresh process, as `program` runs it: by asyncpush, or by bare aiohttp.

Bare aiohttp shows the least that a start takes: the same calls for one small file of an existing
repo, no retries, no journal, no verification. With `anyio` it imports and uses the library that
asyncpush's tasks are built on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

TOKEN = "hf_benchmark"  # not imported from `measuring`: its imports would be measured


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def push_bare(endpoint: str, repo: str, folder: str) -> None:
    import base64
    import json
    from typing import Any

    import aiohttp

    [(name, data)] = _read(Path(folder)).items()
    api = f"/api/models/{repo}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(endpoint, headers=headers) as session:

        async def call(method: str, url: str, **arguments: Any) -> Any:
            async with session.request(method, url, **arguments) as answer:
                answer.raise_for_status()
                return await answer.json(content_type=None)

        sample = base64.b64encode(data[:512]).decode()
        files = [{"path": name, "size": len(data), "sample": sample}]
        await asyncio.gather(
            call("GET", f"{api}/revision/main"),
            call("POST", f"{api}/preupload/main", json={"files": files}),
        )
        content = base64.b64encode(data).decode()
        lines = [
            {"key": "header", "value": {"summary": "benchmark"}},
            {"key": "file", "value": {"path": name, "content": content, "encoding": "base64"}},
        ]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        kind = {"Content-Type": "application/x-ndjson"}
        commit = await call("POST", f"{api}/commit/main", data=body, headers=kind)
        await call("POST", f"{api}/paths-info/{commit['commitOid']}", json={"paths": [name]})


async def push_bare_in_task_group(endpoint: str, repo: str, folder: str) -> None:
    import anyio
    from anyio.streams import memory  # noqa: F401

    async with anyio.create_task_group() as group:
        group.start_soon(push_bare, endpoint, repo, folder)


async def push_ours(endpoint: str, repo: str, folder: str, scratch: str) -> None:
    import asyncpush

    config = asyncpush.UploadConfig(cache_dir=scratch, progress="none")
    await asyncpush.push_to_hub(repo, folder, token=TOKEN, endpoint=endpoint, config=config)


PUSHES: dict[str, Callable[..., Coroutine[None, None, None]]] = {
    "aiohttp": push_bare,
    "anyio": push_bare_in_task_group,
    "asyncpush": push_ours,
}


def main() -> None:
    who, *words = sys.argv[1:]
    asyncio.run(PUSHES[who](*words))


if __name__ == "__main__":
    main()
