"""Branches, tags and the refs of pull requests."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from asyncpush.localhub.auth import require_user
from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store import refs
from asyncpush.localhub.store.gitrepo import GitRepo
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import flag_in_query, json_answer, read_json, text_of

routes = web.RouteTableDef()


@routes.get(REPO + "/refs", name="refs")
async def list_refs(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    with_pulls = flag_in_query(request, "include_prs", "include_pull_requests")
    return json_answer(await state.run(_all_refs, state, repo, with_pulls))


def _all_refs(state: HubState, repo: RepoId, with_pulls: bool) -> dict[str, Any]:
    with state.repos.open(repo) as opened:
        answer = {
            "branches": _refs_json(opened, "refs/heads/"),
            "converts": _refs_json(opened, "refs/convert/"),
            "tags": _refs_json(opened, "refs/tags/"),
        }
        if with_pulls:
            answer["pullRequests"] = _refs_json(opened, "refs/pr/")
        return answer


def _refs_json(repo: GitRepo, prefix: str) -> list[dict[str, str]]:
    return [
        {"name": ref.name, "ref": ref.ref, "targetCommit": ref.target} for ref in repo.refs(prefix)
    ]


@routes.post(REPO + "/branch/{branch}", name="branch-create")
async def create_branch(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    repo = await state.writable(request)
    body = await read_json(request)
    start = text_of(body, "startingPoint") if body.get("startingPoint") is not None else None
    name = request.match_info["branch"]
    make = partial(
        refs.create_branch,
        empty=body.get("emptyBranch") is True,
        overwrite=body.get("overwrite") is True,
    )
    await state.run_exclusively(repo, make, state.repos, repo, name, start, user)
    return json_answer({"success": True}, status=201)


@routes.delete(REPO + "/branch/{branch}", name="branch-delete")
async def delete_branch(request: web.Request) -> web.Response:
    return await _delete(request, "heads", request.match_info["branch"])


@routes.post(REPO + "/tag/{revision}", name="tag-create")
async def create_tag(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    repo = await state.writable(request)
    body = await read_json(request)
    name, message = text_of(body, "tag"), text_of(body, "message", default="")
    revision = request.match_info["revision"]
    await state.run_exclusively(
        repo, refs.create_tag, state.repos, repo, name, revision, message, user
    )
    return json_answer({"success": True}, status=201)


@routes.delete(REPO + "/tag/{tag}", name="tag-delete")
async def delete_tag(request: web.Request) -> web.Response:
    return await _delete(request, "tags", request.match_info["tag"])


async def _delete(request: web.Request, kind: refs.Kind, name: str) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    await state.run_exclusively(repo, refs.delete, state.repos, repo, kind, name)
    return json_answer({"success": True})
