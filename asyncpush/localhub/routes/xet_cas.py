"""The Hub's part of Xet: tokens, with the URL to send chunks to or read them from.

    GET /api/{kind}/{repo}/xet-write-token/{revision}?create_pr=1
    GET /api/{kind}/{repo}/xet-read-token/{revision}

The answer is in the body for hf_xet, and in headers for the official client. The LFS batch
gives the same headers to clients that offer Xet there, as npm's `@huggingface/hub` does.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any
from urllib.parse import quote

from aiohttp import web

from asyncpush.localhub.blobs import BlobError
from asyncpush.localhub.routes.repo_admin import REPO
from asyncpush.localhub.state import HubState, repo_of, state_of
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import (
    Refusal,
    bad_request,
    flag_in_query,
    json_answer,
    read_body,
    too_large,
)
from asyncpush.localhub.xet.chunk_store import Scope, check_token, new_token
from asyncpush.localhub.xet.shards import MAX_XORB_BYTES, BadShardError, BadXorbError

routes = web.RouteTableDef()


@routes.get(REPO + "/xet-write-token/{revision}", name="xet-write-token")
async def write_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.contributable(request)
    if not state.grants_xet:
        raise Refusal(404, "Xet is not enabled on this hub")
    if not flag_in_query(request, "create_pr"):  # The pull request's ref does not exist yet.
        await state.run(_check_revision, state, repo, request.match_info["revision"])
    return granted(request, state, "write")


@routes.get(REPO + "/xet-read-token/{revision}", name="xet-read-token")
async def read_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.open_to_read(request)
    await state.run(_check_revision, state, repo, request.match_info["revision"])
    return granted(request, state, "read")


def read_token_url(state: HubState, request: web.Request, repo: RepoId, revision: str) -> str:
    """The URL from which a client gets a token to read a Xet file."""
    base = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}"
    return f"{base}/xet-read-token/{quote(revision, safe='')}"


def upload_action(request: web.Request, revision: str | None) -> dict[str, Any]:
    """How the LFS batch sends an object through Xet: where to get tokens, and the first one.
    Without a revision it is for a pull request that is not open yet."""
    state, repo = state_of(request), repo_of(request)
    url = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/xet-write-token/"
    url += "main?create_pr=1" if revision is None else quote(revision, safe="")
    _, headers = _new_token(request, state, "write")
    return {"href": url, "header": {**headers, "X-Xet-Session-Id": secrets.token_hex(16)}}


def _check_revision(state: HubState, repo: RepoId, revision: str) -> None:
    with state.repos.open(repo) as opened:
        opened.resolve(revision)


def granted(request: web.Request, state: HubState, scope: Scope) -> web.Response:
    answer, headers = _new_token(request, state, scope)
    return json_answer(answer, headers={**headers, "Cache-Control": "no-store"})


def _new_token(
    request: web.Request, state: HubState, scope: Scope
) -> tuple[dict[str, Any], dict[str, str]]:
    """A token in the form of the body, and in the form of the headers."""
    url = cas_url(state, request)
    token = new_token(state.xet_signer, scope, lifetime=state.xet_token_lifetime)
    expires = int(time.time()) + state.xet_token_lifetime
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return {"accessToken": token, "exp": expires, "casUrl": url}, headers


CAS = "/_xet/{store:[0-9a-f]{16}}"
ROUTES = frozenset(
    {"xorb", "shard", "chunk", "reconstruction", "xorb-bytes", "telemetry", "newer-xet"}
)

MAX_SHARD_BYTES = 256 << 20
_HASH = "{hash:[0-9a-f]{64}}"
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})", re.ASCII)
_URL_LIFETIME = 3600


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
    """Clients report how their transfers went; this hub does not keep it."""
    return web.Response(status=204)


@routes.route("*", f"{CAS}/{{rest:.*}}", name="newer-xet")
async def newer(request: web.Request) -> web.Response:
    """A 404 for a version of the API that this hub does not have. An unknown path would give a 401
    for its Xet token."""
    raise Refusal(404, "This hub does not support this version of the API")


def cas_url(state: HubState, request: web.Request) -> str:
    """The URL of this hub's store, for the answer with a token."""
    return state.base_url(request) + _path(state)


def _path(state: HubState) -> str:
    return f"/_xet/{state.xet_signer.name}"


def _allowed(request: web.Request, scope: Scope) -> HubState:
    state = state_of(request)
    if request.match_info["store"] != state.xet_signer.name:
        raise Refusal(404, "This Xet store no longer exists")
    check_token(state.xet_signer, request.headers.get("Authorization"), scope)
    return state
