"""Renaming repos and buckets: POST /api/repos/move."""

from __future__ import annotations

from aiohttp import web

from asyncpush.localhub.auth import require_user
from asyncpush.localhub.routes import bucket_api, repo_admin
from asyncpush.localhub.store.names import parse_repo_type
from asyncpush.localhub.web import json_answer, read_json, text_of

routes = web.RouteTableDef()


@routes.post("/api/repos/move", name="move")
async def move(request: web.Request) -> web.Response:
    require_user(request)
    body = await read_json(request)
    source, target = text_of(body, "fromRepo"), text_of(body, "toRepo")
    kind = body.get("type") or "model"
    if kind == "bucket":
        url = await bucket_api.move(request, source, target)
    else:
        url = await repo_admin.move(request, parse_repo_type(kind), source, target)
    return json_answer({"success": True, "url": url})
