"""Looking at what a bucket of the embedded Hub holds, and making its batches fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub import LocalHub
from asyncpush.localhub.faults import with_body


async def rows_of(hub: LocalHub, bucket: str = "me/runs") -> dict[str, dict[str, Any]]:
    """What the tree shows of each file, by path."""
    headers = {"Authorization": f"Bearer {hub.token}"}
    url = f"{hub.url}/api/buckets/{bucket}/tree?recursive=true"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as answer,
    ):
        return {row["path"]: row for row in await answer.json()} if answer.status == 200 else {}


async def bytes_of(hub: LocalHub, bucket: str = "me/runs") -> dict[str, bytes]:
    """The bytes of each file, by path, with no code of ours on the way."""
    found = {}
    headers = {"Authorization": f"Bearer {hub.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in await rows_of(hub, bucket):
            url = f"{hub.url}/buckets/{bucket}/resolve/{quote(path)}"
            async with session.get(url) as answer:
                answer.raise_for_status()
                found[path] = await answer.read()
    return found


@dataclass
class BatchLog:
    """Keeps the operations of each batch; `refuse` says for each what the Hub then does not do."""

    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    refuse: Callable[[dict[str, Any]], str | None] = lambda operation: None
    before: list[Callable[[], Any]] = field(default_factory=list)
    """Called, one after the other, before a batch is done."""
    after: list[Callable[[], Any]] = field(default_factory=list)
    """Called, one after the other, once a batch without refused operations is done."""

    def written(self) -> list[tuple[str, str]]:
        """Type and path of all operations, in order."""
        return [(row["type"], row["path"]) for batch in self.batches for row in batch]

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.match_info.route.name != "bucket-batch":
                return await handler(request)
            rows = [json.loads(line) for line in (await request.read()).splitlines()]
            self.batches.append(rows)
            if self.before:
                await self.before.pop(0)()
            refused = {row["path"]: why for row in rows if (why := self.refuse(row))}
            kept = [row for row in rows if row["path"] not in refused]
            body = b"".join(json.dumps(row).encode() + b"\n" for row in kept)
            if not refused:
                response = await with_body(request, body, handler)
                if self.after:
                    await self.after.pop(0)()
                return response
            if kept:
                await with_body(request, body, handler)
            failed = [{"path": path, "error": why} for path, why in refused.items()]
            answer = {
                "success": False,
                "processed": len(rows),
                "succeeded": len(kept),
                "failed": failed,
            }
            return web.json_response(answer, status=200 if kept else 422)

        return log
