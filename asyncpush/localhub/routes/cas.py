"""Xet's store behind the Hub: the CAS API (https://huggingface.co/docs/xet/api), version 1.

    POST /_xet/{store}/v1/xorbs/default/{hash}    "xorb"            chunks
    POST /_xet/{store}/v1/shards                  "shard"           files
    GET  /_xet/{store}/v1/chunks/default/{hash}   "chunk"           something to build on?
    GET  /_xet/{store}/v1/reconstructions/{hash}  "reconstruction"  what a file is made of
    GET  /_xet/{store}/xorbs/{hash}?…             "xorb-bytes"      stretches of a xorb

`{store}` names the store: clients remember by URL which chunks are there, and another hub may come
to listen on this port. All but the last need a Xet token, not the Hub's; the last carries its
permission in the URL. What newer clients ask for besides (version 2, grants) they do without when
it is answered with a 404.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from asyncpush.localhub.blobs import BlobError
from asyncpush.localhub.errors import Refusal, bad_request, too_large
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.web import json_answer, read_body
from asyncpush.localhub.xet.shards import BadShardError
from asyncpush.localhub.xet.tokens import Scope, check_token
from asyncpush.localhub.xet.xorbs import MAX_XORB_BYTES, BadXorbError

CAS = "/_xet/{store:[0-9a-f]{16}}"
ROUTES = frozenset(
    {"xorb", "shard", "chunk", "reconstruction", "xorb-bytes", "telemetry", "newer-xet"}
)

MAX_SHARD_BYTES = 256 << 20
_HASH = "{hash:[0-9a-f]{64}}"
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})", re.ASCII)
_URL_LIFETIME = 3600

routes = web.RouteTableDef()


@routes.post(f"{CAS}/v1/xorbs/default/{_HASH}", name="xorb")
async def post_xorb(request: web.Request) -> web.Response:
    state = _allowed(request, "write")
    if (request.content_length or 0) > MAX_XORB_BYTES:
        raise too_large(f"A xorb is at most {MAX_XORB_BYTES} bytes")
    body = await state.run(state.xet.new_body)
    try:
        with open(body, "wb") as file:  # noqa: ASYNC230  # a small system call
            received = 0
            async for piece in request.content.iter_any():
                received += len(piece)
                if received > MAX_XORB_BYTES:
                    raise too_large(f"A xorb is at most {MAX_XORB_BYTES} bytes")
                await state.run(file.write, piece)
        added = await state.run(state.xet.add_xorb, request.match_info["hash"], body)
    except BadXorbError as exc:
        raise bad_request(str(exc)) from None
    finally:
        body.unlink(missing_ok=True)
    return json_answer({"was_inserted": added})


@routes.post(f"{CAS}/v1/shards", name="shard")
async def post_shard(request: web.Request) -> web.Response:
    state = _allowed(request, "write")
    data = await read_body(request, MAX_SHARD_BYTES)
    try:
        added = await state.run(state.xet.add_shard, data)
    except BadShardError as exc:
        raise bad_request(str(exc)) from None
    return json_answer({"result": int(added)})


@routes.get(f"{CAS}/v1/chunks/{{prefix}}/{_HASH}", name="chunk")
async def get_chunk(request: web.Request) -> web.Response:
    state = _allowed(request, "read")
    shard = await state.run(state.xet.shard_with_chunk, request.match_info["hash"])
    if shard is None:
        raise Refusal(404, "No shard is known for this chunk")
    return web.Response(body=shard)


@routes.get(f"{CAS}/v1/reconstructions/{_HASH}", name="reconstruction")
async def get_reconstruction(request: web.Request) -> web.Response:
    state = _allowed(request, "read")
    file = await state.run(state.xet.file, request.match_info["hash"])
    if file is None:
        raise Refusal(404, "No such file")
    start, stop = 0, file.size
    if match := _RANGE.fullmatch(request.headers.get("Range", "")):
        start, stop = int(match[1]), min(int(match[2]) + 1, file.size)
    if start >= stop:
        raise Refusal(416, f"The file has {file.size} bytes")
    answer: dict[str, Any] = await state.run(state.xet.reconstruction, file, start, stop)
    for fetches in answer["fetch_info"].values():
        for fetch in fetches:
            path = f"{_path(state)}/xorbs/{fetch['url']}"
            signed = state.xet_signer.sign("GET", path, {}, lifetime=_URL_LIFETIME)
            fetch["url"] = state.base_url(request) + signed
    return json_answer(answer)


@routes.get(f"{CAS}/xorbs/{_HASH}", name="xorb-bytes")
async def get_xorb_bytes(request: web.Request) -> web.StreamResponse:
    state = state_of(request)
    try:
        state.xet_signer.check("GET", request.path, request.query.items())
    except BlobError as exc:
        raise Refusal(exc.status, exc.message) from None
    path = await state.run(state.xet.xorb_path, request.match_info["hash"])
    if path is None:
        raise Refusal(404, "No such xorb")
    return web.FileResponse(path)


@routes.post(f"{CAS}/v1/telemetry", name="telemetry")
async def post_telemetry(request: web.Request) -> web.Response:
    """Clients report how they fared; nobody here keeps that."""
    return web.Response(status=204)


@routes.route("*", f"{CAS}/{{rest:.*}}", name="newer-xet")
async def newer(request: web.Request) -> web.Response:
    """A 404, not the 401 that a path nobody knows would get for its Xet token."""
    raise Refusal(404, "This hub does not speak that")


def cas_url(state: HubState, request: web.Request) -> str:
    """Where this hub's store is, for a token's answer."""
    return state.base_url(request) + _path(state)


def _path(state: HubState) -> str:
    return f"/_xet/{state.xet_signer.name}"


def _allowed(request: web.Request, scope: Scope) -> HubState:
    state = state_of(request)
    if request.match_info["store"] != state.xet_signer.name:
        raise Refusal(404, "That store is not here any more")
    check_token(state.xet_signer, request.headers.get("Authorization"), scope)
    return state
