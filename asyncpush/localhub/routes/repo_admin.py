"""Repos as a whole: creating, describing, renaming, hiding and deleting them and their refs."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from asyncpush.localhub.auth import check_scope, require_user, signed_in
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store import repo_folders
from asyncpush.localhub.store.gitrepo import GitRepo
from asyncpush.localhub.store.names import RepoId, RepoType, make_repo_id, parse_repo_type
from asyncpush.localhub.store.repo_folders import RepoInfo, new_info
from asyncpush.localhub.web import (
    Refusal,
    bad_request,
    flag_in_query,
    forbidden,
    json_answer,
    read_json,
    repo_not_found,
    text_of,
)

SDKS = ("gradio", "streamlit", "docker", "static")
KIND = "/api/{kind:models|datasets|spaces|kernels}"
REPO = KIND + "/{namespace}/{name}"

routes = web.RouteTableDef()


@routes.post("/api/repos/create", name="create")
async def create(request: web.Request) -> web.Response:
    state, user = state_of(request), signed_in(request)
    body = await read_json(request)
    repo = _named_repo(body, user)
    check_scope(request, repo.url_path)
    _check_namespace(state, repo, user)
    private = _visibility(body) or False
    if body.get("visibility") == "protected" and repo.type != "space":
        raise bad_request("Only Spaces can be 'protected'")
    url = f"{state.base_url(request)}/{repo.url_path}"
    try:
        await state.run_exclusively(
            repo, state.repos.create, repo, new_info(user, private=private, sdk=_sdk(body, repo))
        )
    except Refusal as refusal:
        # A client that passed exist_ok reads the URL from here.
        refusal.extra["url"] = url
        raise
    return json_answer({"url": url, "name": repo.full_name, "id": repo.full_name})


@routes.delete("/api/repos/delete", name="delete")
async def delete(request: web.Request) -> web.Response:
    state, user = state_of(request), signed_in(request)
    repo = _named_repo(await read_json(request), user)
    check_scope(request, repo.url_path)
    await state.run(_check_owner, state, repo, user)
    await state.run_exclusively(repo, state.repos.delete, repo)
    return json_answer({"success": True})


async def move(request: web.Request, repo_type: RepoType, source: str, target: str) -> str:
    """Rename a repo. Returns the URL of its page. The old name redirects to it."""
    state, user = state_of(request), require_user(request)
    old, new = _full_name(repo_type, source), _full_name(repo_type, target)
    await state.run(_check_owner, state, old, user)
    _check_namespace(state, new, user)
    await state.run_exclusively(old, state.repos.move, old, new)
    return f"{state.base_url(request)}/{new.url_path}"


@routes.post(REPO + "/duplicate", name="duplicate")
async def duplicate(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    source = await state.open_to_read(request)
    body = await read_json(request)
    target = _full_name(source.type, text_of(body, "repository"))
    _check_namespace(state, target, user)
    about = await state.run(state.repos.info, source)
    private = _visibility(body)
    info = new_info(user, private=about.private if private is None else private, sdk=about.sdk)
    url = f"{state.base_url(request)}/{target.url_path}"
    try:
        await state.run_exclusively(target, state.repos.duplicate, source, target, info)
    except Refusal as refusal:
        refusal.extra["url"] = url
        raise
    return json_answer({"url": url, "name": target.full_name, "id": target.full_name})


@routes.put(REPO + "/settings", name="settings")
async def settings(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    body = await read_json(request)
    gated = body.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise bad_request("'gated' must be 'auto', 'manual' or false")
    info = await state.run_exclusively(repo, _update, state, repo, _visibility(body), gated)
    return json_answer({"private": info.private, "gated": info.gated})


@routes.get(REPO + "/auth-check", name="auth-check")
async def auth_check(request: web.Request) -> web.Response:
    await state_of(request).open_to_read(request)
    return json_answer({"success": True})


@routes.get(REPO + "/auth-check/write", name="auth-check-write")
async def auth_check_write(request: web.Request) -> web.Response:
    await state_of(request).writable(request)
    return json_answer({"success": True})


def _check_owner(state: HubState, repo: RepoId, user: str) -> None:
    """Raises unless the user owns the repo. Others are not told that a private repo exists."""
    info = state.repos.info(repo)
    if not state.owns(user, repo, info):
        raise repo_not_found() if info.private else forbidden(f"{repo.full_name} is not yours")


def _check_namespace(state: HubState, repo: RepoId, user: str) -> None:
    """A namespace that is not a user's name is an organisation, and all users are its members."""
    if repo.namespace in state.users.names - {user}:
        raise forbidden(
            f"You don't have the rights to create a {repo.type} under the namespace"
            f' "{repo.namespace}"'
        )


def _update(
    state: HubState, repo: RepoId, private: bool | None, gated: str | bool | None
) -> RepoInfo:
    return state.repos.update(repo, private=private, gated=gated)


def _named_repo(body: dict[str, Any], user: str) -> RepoId:
    """`organization` and `name`, or an older client's `name` that contains both."""
    repo_type = parse_repo_type(body.get("type") or "model")
    name = text_of(body, "name")
    namespace = text_of(body, "organization", default="")
    if not namespace and "/" in name:
        return _full_name(repo_type, name)
    return make_repo_id(repo_type, namespace or user, name)


def _full_name(repo_type: RepoType, full_name: str) -> RepoId:
    namespace, _, name = full_name.partition("/")
    return make_repo_id(repo_type, namespace, name)


def _visibility(body: dict[str, Any]) -> bool | None:
    """Whether the repo is to be private; None when the body does not say."""
    visibility, private = body.get("visibility"), body.get("private")
    if visibility not in (None, "public", "private", "protected"):
        raise bad_request("'visibility' must be 'public', 'private' or, of a Space, 'protected'")
    if not (private is None or isinstance(private, bool)):
        raise bad_request("'private' must be true or false")
    # A protected Space has a public app, which this hub does not run, and private files.
    return private if visibility is None else visibility != "public"


def _sdk(body: dict[str, Any], repo: RepoId) -> str | None:
    if repo.type != "space":
        return None
    sdk = body.get("sdk")
    if sdk not in SDKS:
        raise bad_request(f"'sdk' must be one of {', '.join(SDKS)}")
    return str(sdk)


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
        repo_folders.create_branch,
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
        repo, repo_folders.create_tag, state.repos, repo, name, revision, message, user
    )
    return json_answer({"success": True}, status=201)


@routes.delete(REPO + "/tag/{tag}", name="tag-delete")
async def delete_tag(request: web.Request) -> web.Response:
    return await _delete(request, "tags", request.match_info["tag"])


async def _delete(request: web.Request, kind: repo_folders.Kind, name: str) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    await state.run_exclusively(repo, repo_folders.delete, state.repos, repo, kind, name)
    return json_answer({"success": True})
