"""The Hub's part of Xet: tokens, saying where chunks are sent to or read from, and how long.

    GET /api/{kind}/{repo}/xet-write-token/{revision}?create_pr=1
    GET /api/{kind}/{repo}/xet-read-token/{revision}

The answer stands in the body for hf_xet, and in headers for the official client.
"""

from __future__ import annotations

import time
from urllib.parse import quote

from aiohttp import web

from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.routes.cas import cas_url
from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import flag_in_query, json_answer
from asyncpush.localhub.xet.tokens import Scope, new_token

routes = web.RouteTableDef()


@routes.get(REPO + "/xet-write-token/{revision}", name="xet-write-token")
async def write_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    if not state.grants_xet:
        raise Refusal(404, "Xet is not enabled on this hub")
    if not flag_in_query(request, "create_pr"):  # the pull request's ref is not there yet
        await state.run(_check_revision, state, repo, request.match_info["revision"])
    return _granted(request, state, "write")


@routes.get(REPO + "/xet-read-token/{revision}", name="xet-read-token")
async def read_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    await state.run(_check_revision, state, repo, request.match_info["revision"])
    return _granted(request, state, "read")


def read_token_url(state: HubState, request: web.Request, repo: RepoId, revision: str) -> str:
    """Where a client that has found a Xet file asks for the token to read it."""
    base = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}"
    return f"{base}/xet-read-token/{quote(revision, safe='')}"


def _check_revision(state: HubState, repo: RepoId, revision: str) -> None:
    with state.repos.open(repo) as opened:
        opened.resolve(revision)


def _granted(request: web.Request, state: HubState, scope: Scope) -> web.Response:
    url = cas_url(state, request)
    token = new_token(state.xet_signer, scope, lifetime=state.xet_token_lifetime)
    expires = int(time.time()) + state.xet_token_lifetime
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
        "Cache-Control": "no-store",
    }
    answer = {"accessToken": token, "exp": expires, "casUrl": url}
    return json_answer(answer, headers=headers)
