"""What a repo stores, and how to reduce it: LFS files, squashed branches, storage by repo."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from aiohttp import web

from asyncpush.localhub.auth import check_scope, require_user, signed_in
from asyncpush.localhub.blobs import is_oid
from asyncpush.localhub.routes.repo_admin import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store import rewriting
from asyncpush.localhub.store.gitrepo import MAIN
from asyncpush.localhub.store.names import REPO_TYPES, RepoId, make_repo_id, parse_repo_type
from asyncpush.localhub.store.repo_folders import RepoInfo
from asyncpush.localhub.web import (
    Refusal,
    bad_request,
    json_answer,
    next_link,
    number_in_query,
    read_json,
    repo_not_found,
    strings_of,
    text_of,
    wire_time,
)

PAGE = 1000
MAX_DELETIONS = 1000
MAX_DUPLICATES = 500

routes = web.RouteTableDef()


@routes.post(REPO + "/super-squash/{branch}", name="super-squash")
async def super_squash(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    repo = await state.writable(request)
    body, branch = await read_json(request), request.match_info["branch"]
    message = text_of(body, "message", default="").strip() or f"Super-squash branch '{branch}'"
    oid = await state.run_exclusively(
        repo, rewriting.squash, state.repos, repo, branch, message, user
    )
    return json_answer({"success": True, "commitOid": oid})


@routes.get(REPO + "/lfs-files", name="lfs-files")
async def lfs_files(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    limit = number_in_query(request, "limit", PAGE, low=1, high=PAGE)
    start = number_in_query(request, "cursor", 0, high=100_000_000)
    found = await state.run(rewriting.lfs_files, state.repos, repo)
    headers = None
    if len(found) > start + limit:
        url = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/lfs-files"
        headers = next_link(url, request.query, cursor=str(start + limit))
    shown = [
        {
            "fileOid": file.oid,
            "oid": file.oid,
            "filename": file.path,
            "size": file.size,
            "pushedAt": wire_time(file.date),
            "ref": file.ref,
        }
        for file in found[start : start + limit]
    ]
    return json_answer(shown, headers=headers)


@routes.post(REPO + "/lfs-files/batch", name="lfs-files-delete")
async def delete_lfs_files(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.writable(request)
    deletions = (await read_json(request)).get("deletions")
    if not isinstance(deletions, dict):
        raise bad_request("'deletions' must be an object with 'sha'")
    oids = strings_of(deletions.get("sha"), "sha", MAX_DELETIONS)
    if not all(map(is_oid, oids)):
        raise bad_request("'sha' must be a list of sha256 oids")
    if deletions.get("rewriteHistory", True) is not True:
        raise Refusal(
            501,
            "The repos of this hub share one store, so an object that a commit refers to cannot be"
            " deleted: use rewriteHistory",
        )
    await state.run_exclusively(repo, rewriting.remove_lfs_files, state.repos, repo, oids)
    return json_answer({"success": True})


@routes.post(REPO + "/lfs-files/duplicate", name="lfs-files-duplicate")
async def duplicate_lfs_files(request: web.Request) -> web.Response:
    """All repos share one store, so an object in this repo's history can be used by the target at
    once."""
    state = state_of(request)
    own_repo = await state.open_to_read(request)
    user, body = signed_in(request), await read_json(request)
    target, files = body.get("target"), body.get("files")
    if not isinstance(target, dict) or not isinstance(files, list) or len(files) > MAX_DUPLICATES:
        raise bad_request(f"There must be a 'target' and at most {MAX_DUPLICATES} 'files'")
    repo = _target(target)
    check_scope(request, repo.url_path)
    await state.run(_check_target, state, repo, user)
    own = {file.oid for file in await state.run(rewriting.lfs_files, state.repos, own_repo)}
    failed = []
    for file in files:
        if (problem := await _not_duplicated(state, own, file)) is not None:
            oid = file.get("sha256") if isinstance(file, dict) else None
            failed.append({"sha256": oid, "error": problem})
    return json_answer({"success": not failed, "failed": failed})


async def _not_duplicated(state: HubState, own: Collection[str], file: object) -> str | None:
    """Why a repo with the objects `own` cannot provide this object."""
    oid = file.get("sha256") if isinstance(file, dict) else None
    if not isinstance(file, dict) or not is_oid(oid):
        return "Not a sha256"
    if oid not in own or await state.blobs.size(str(oid)) is None:
        return "File not found"
    known = await state.run(state.xet.known, str(oid)) if state.xet.exists else None
    if known is not None and known.hash != file.get("xetHash"):
        return "This is not the Xet hash of the file"
    return None


def _target(named: dict[str, Any]) -> RepoId:
    namespace, _, name = text_of(named, "name").partition("/")
    return make_repo_id(parse_repo_type(named.get("type") or "model"), namespace, name)


def _check_target(state: HubState, repo: RepoId, user: str) -> None:
    info = state.repos.info(repo)
    if info.private and not state.owns(user, repo, info):
        raise repo_not_found()


@routes.get("/api/settings/repositories", name="storage")
async def storage(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    return json_answer(await state.run(_storage, state, user, None))


@routes.get("/api/organizations/{namespace}/settings/repositories", name="storage-organization")
async def storage_of_organization(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    return json_answer(await state.run(_storage, state, user, request.match_info["namespace"]))


def _updated(state: HubState, repo: RepoId) -> datetime | None:
    with state.repos.open(repo) as opened:
        head = opened.ref_target(MAIN)
        return opened.commit(head).date if head else None


def _storage(state: HubState, user: str, namespace: str | None) -> list[dict[str, Any]]:
    """The repos that this user owns, with the size of the LFS files in each."""
    owned: list[tuple[RepoId, int, RepoInfo]] = []
    for repo_type in REPO_TYPES:
        for repo in state.repos.list(repo_type, namespace):
            info = state.repos.info(repo)
            if state.owns(user, repo, info):
                files = rewriting.lfs_files(state.repos, repo)
                owned.append((repo, sum(file.size for file in files), info))
    total = sum(size for _, size, _ in owned) or 1
    return [
        {
            "id": repo.full_name,
            "type": repo.type,
            "visibility": "private" if info.private else "public",
            "updatedAt": wire_time(_updated(state, repo) or info.created_at),
            "storage": size,
            "storagePercent": round(100 * size / total, 2),
        }
        for repo, size, info in owned
    ]
