"""A repo's description: its head, its files, its card; its commits; and cards to be."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

from asyncpush.localhub.cards import check_card
from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import MAIN, Commit, FileEntry, GitRepo
from asyncpush.localhub.store.names import RepoId, RepoType, parse_repo_type
from asyncpush.localhub.store.repos import Repos
from asyncpush.localhub.web import (
    flag_in_query,
    json_answer,
    next_link,
    number_in_query,
    read_json,
    text_of,
    wire_time,
)

COMMITS_PAGE = 50
_MAX_PAGE = 100_000
_MAX_CARD = 8 << 20

routes = web.RouteTableDef()


@routes.get(REPO, name="info")
async def info(request: web.Request) -> web.Response:
    return await _info(request, MAIN)


@routes.get(REPO + "/revision/{revision}", name="revision")
async def revision_info(request: web.Request) -> web.Response:
    return await _info(request, request.match_info["revision"])


async def _info(request: web.Request, revision: str) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    with_blobs = flag_in_query(request, "blobs")
    answer = await state.run(describe, state.repos, repo, revision, with_blobs)
    expand = [*request.query.getall("expand", ()), *request.query.getall("expand[]", ())]
    if expand:
        answer = {key: answer[key] for key in ("_id", "id", *expand) if key in answer}
    return json_answer(answer)


def describe(repos: Repos, repo: RepoId, revision: str, with_blobs: bool) -> dict[str, Any]:
    """All that the Hub tells of a repo at a revision."""
    about = repos.info(repo)
    with repos.open(repo) as opened:
        commit = opened.commit(opened.resolve(revision))
        card = _card(opened, commit.oid, repo.type)
        siblings = _siblings(opened, commit.oid, with_blobs)
    answer: dict[str, Any] = {
        "_id": hashlib.sha256(repo.url_path.encode()).hexdigest()[:24],
        "id": repo.full_name,
        "author": repo.namespace,
        "sha": commit.oid,
        "createdAt": wire_time(about.created_at),
        "lastModified": wire_time(commit.date),
        "private": about.private,
        "gated": about.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(card),
        "siblings": siblings,
    }
    if card:
        answer["cardData"] = card
    if repo.type == "model":
        answer["modelId"] = repo.full_name
        answer.update((key, card[key]) for key in ("pipeline_tag", "library_name") if key in card)
    if about.sdk:
        answer["sdk"] = about.sdk
    return answer


def _card(repo: GitRepo, commit: str, repo_type: RepoType) -> dict[str, Any]:
    readme = repo.entry(commit, "README.md")
    if not isinstance(readme, FileEntry) or readme.lfs or readme.size > _MAX_CARD:
        return {}
    return check_card(repo.content(readme.oid).decode(errors="replace"), repo_type).data


def _tags(card: dict[str, Any]) -> list[str]:
    tags = list(card.get("tags") or [])
    return [*tags, f"license:{card['license']}"] if card.get("license") else tags


def _siblings(repo: GitRepo, commit: str, with_blobs: bool) -> list[dict[str, Any]]:
    """Clients ask for a revision often, for its sha alone: sizes are looked up on demand."""
    if not with_blobs:
        return [{"rfilename": path} for path in repo.file_paths(commit)]
    walk = repo.walk(commit, recursive=True)
    return [_sibling(entry) for entry in walk if isinstance(entry, FileEntry)]


def _sibling(file: FileEntry) -> dict[str, Any]:
    answer: dict[str, Any] = {"rfilename": file.path, "size": file.size, "blobId": file.oid}
    if file.lfs:
        answer["lfs"] = {
            "sha256": file.lfs.oid,
            "size": file.lfs.size,
            "pointerSize": file.pointer_size,
        }
    return answer


@routes.get(REPO + "/commits/{revision}", name="commits")
async def commits(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    limit = number_in_query(request, "limit", COMMITS_PAGE, low=1, high=1000)
    page = number_in_query(request, "p", 0, high=_MAX_PAGE)
    revision = request.match_info["revision"]
    head, found = await state.run(_history, state, repo, revision, page * limit, limit + 1)
    headers = None
    if len(found) > limit:
        url = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/commits/{head}"
        headers = next_link(url, request.query, p=str(page + 1))
    return json_answer([_commit_json(commit) for commit in found[:limit]], headers=headers)


def _history(
    state: HubState, repo: RepoId, revision: str, skip: int, limit: int
) -> tuple[str, list[Commit]]:
    with state.repos.open(repo) as opened:
        head = opened.resolve(revision)
        return head, opened.history(head, skip=skip, limit=limit)


def _commit_json(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": wire_time(commit.date),
    }


@routes.post("/api/validate-yaml", name="validate-yaml")
async def validate_yaml(request: web.Request) -> web.Response:
    body = await read_json(request)
    content = text_of(body, "content", limit=_MAX_CARD)
    repo_type = parse_repo_type(body.get("repoType") or "model")
    check = await state_of(request).run(check_card, content, repo_type)
    answer = {
        "errors": [{"message": message} for message in check.errors],
        "warnings": [{"message": message} for message in check.warnings],
    }
    return json_answer(answer, status=400 if check.errors else 200)
