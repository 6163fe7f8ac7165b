"""The Hub's part of Xet: tokens, saying where chunks are sent to or read from, and how long.

    GET /api/{kind}/{repo}/xet-write-token/{revision}?create_pr=1
    GET /api/{kind}/{repo}/xet-read-token/{revision}

The answer stands in the body for hf_xet, and in headers for the official client. The LFS batch
gives the same headers to clients that offer Xet there, as npm's `@huggingface/hub` does.
"""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import quote

from aiohttp import web

from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.routes.cas import cas_url
from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, repo_of, state_of
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import flag_in_query, json_answer
from asyncpush.localhub.xet.tokens import Scope, new_token

routes = web.RouteTableDef()


@routes.get(REPO + "/xet-write-token/{revision}", name="xet-write-token")
async def write_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.contributable(request)
    if not state.grants_xet:
        raise Refusal(404, "Xet is not enabled on this hub")
    if not flag_in_query(request, "create_pr"):  # the pull request's ref is not there yet
        await state.run(_check_revision, state, repo, request.match_info["revision"])
    return _granted(request, state, "write")


@routes.get(REPO + "/xet-read-token/{revision}", name="xet-read-token")
async def read_token(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.open_to_read(request)
    await state.run(_check_revision, state, repo, request.match_info["revision"])
    return _granted(request, state, "read")


def read_token_url(state: HubState, request: web.Request, repo: RepoId, revision: str) -> str:
    """Where a client that has found a Xet file asks for the token to read it."""
    base = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}"
    return f"{base}/xet-read-token/{quote(revision, safe='')}"


def upload_action(request: web.Request, revision: str | None) -> dict[str, Any]:
    """How the LFS batch sends an object through Xet: where tokens are had, and the first one.
    Without a revision it is for a pull request that is still to be opened."""
    state, repo = state_of(request), repo_of(request)
    url = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/xet-write-token/"
    url += "main?create_pr=1" if revision is None else quote(revision, safe="")
    _, headers = _new_token(request, state, "write")
    return {"href": url, "header": {**headers, "X-Xet-Session-Id": secrets.token_hex(16)}}


def _check_revision(state: HubState, repo: RepoId, revision: str) -> None:
    with state.repos.open(repo) as opened:
        opened.resolve(revision)


def _granted(request: web.Request, state: HubState, scope: Scope) -> web.Response:
    answer, headers = _new_token(request, state, scope)
    return json_answer(answer, headers={**headers, "Cache-Control": "no-store"})


def _new_token(
    request: web.Request, state: HubState, scope: Scope
) -> tuple[dict[str, Any], dict[str, str]]:
    """A token as the body tells it, and as headers do."""
    url = cas_url(state, request)
    token = new_token(state.xet_signer, scope, lifetime=state.xet_token_lifetime)
    expires = int(time.time()) + state.xet_token_lifetime
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return {"accessToken": token, "exp": expires, "casUrl": url}, headers
