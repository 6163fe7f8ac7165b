"""Metadata of repos: lists of repos, and one repo's head, files, card and commits."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from aiohttp import web

from asyncpush.localhub.auth import user_of
from asyncpush.localhub.cards import CARD_NAME, MAX_CARD_BYTES, check_card
from asyncpush.localhub.routes.repo_admin import KIND, REPO
from asyncpush.localhub.state import HubState, repo_type_of, state_of
from asyncpush.localhub.store.gitrepo import MAIN, Commit, FileEntry, GitRepo
from asyncpush.localhub.store.names import RepoId, RepoType
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.web import (
    Refusal,
    flag_in_query,
    json_answer,
    next_link,
    number_in_query,
    wire_time,
)

COMMITS_PAGE = 50
REPOS_PAGE = 1000
_MAX_CURSOR = 100_000_000
_MAX_PAGE = 100_000

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
    return json_answer(_expanded(answer, request))


def _expanded(about: dict[str, Any], request: web.Request) -> dict[str, Any]:
    """Only the requested fields, if any were requested."""
    expand = _values(request, "expand")
    return {key: about[key] for key in ("_id", "id", *expand) if key in about} if expand else about


def _values(request: web.Request, name: str) -> list[str]:
    """`?name=a&name=b`, `?name[]=a` or, as some clients send lists, `?name=a,b`."""
    given = [*request.query.getall(name, ()), *request.query.getall(f"{name}[]", ())]
    return [value for text in given for value in text.split(",") if value]


_SHORT = (
    *("_id", "id", "modelId", "author", "private", "gated", "createdAt", "lastModified"),
    *("downloads", "likes", "trendingScore", "tags", "pipeline_tag", "library_name", "sdk"),
)
"""The fields of a repo in a list; `full` adds the rest."""
_SORTED_BY = {
    "lastModified": "lastModified",
    "last_modified": "lastModified",
    "modified": "lastModified",
    "createdAt": "createdAt",
    "created_at": "createdAt",
    "created": "createdAt",
}


@routes.get(KIND, name="repos")
async def list_repos(request: web.Request) -> web.Response:
    state = state_of(request)
    limit = number_in_query(request, "limit", REPOS_PAGE, low=1, high=REPOS_PAGE)
    start = number_in_query(request, "cursor", 0, high=_MAX_CURSOR)
    repo_type = repo_type_of(request)
    found = await state.run(_page_of_repos, state, request, repo_type, start, start + limit + 1)
    headers = None
    if len(found) > limit:
        url = f"{state.base_url(request)}/api/{repo_type}s"
        headers = next_link(url, request.query, cursor=str(start + limit))
    full = flag_in_query(request, "full")
    with_card = flag_in_query(request, "cardData")
    shown = []
    for about in found[:limit]:
        keys = [key for key in about if full or key in _SHORT or (key == "cardData" and with_card)]
        is_expanded = bool(_values(request, "expand"))
        shown.append(_expanded(about if is_expanded else {k: about[k] for k in keys}, request))
    return json_answer(shown, headers=headers)


def _page_of_repos(
    state: HubState, request: web.Request, repo_type: RepoType, start: int, stop: int
) -> list[dict[str, Any]]:
    """In the order that the query names, by default by name. Only the repos of the page are
    read."""
    found: Iterable[dict[str, Any]] = _matching_repos(state, request, repo_type)
    key = _SORTED_BY.get(request.query.get("sort", ""))
    if key is not None:
        descending = request.query.get("direction") != "1"
        found = sorted(found, key=lambda about: str(about[key]), reverse=descending)
    return list(islice(found, start, stop))


def _matching_repos(
    state: HubState, request: web.Request, repo_type: RepoType
) -> Iterator[dict[str, Any]]:
    user, author = user_of(request), request.query.get("author")
    words = [word.lower() for word in _values(request, "search")]
    tags = {*_values(request, "filter"), *_values(request, "pipeline_tag")}
    with_files = flag_in_query(request, "full") or "siblings" in _values(request, "expand")
    gated = flag_in_query(request, "gated") if "gated" in request.query else None
    for repo in state.repos.list(repo_type):
        name = repo.full_name.lower()
        if author not in (None, repo.namespace) or not all(word in name for word in words):
            continue
        try:
            info = state.repos.info(repo)
            if info.private and not state.owns(user, repo, info):
                continue
            if gated not in (None, bool(info.gated)):
                continue
            about = describe(state.repos, repo, MAIN, False, with_files)
        except Refusal:  # Deleted since, or without a main branch.
            continue
        if tags <= {*about["tags"], *map(str.lower, about["tags"])}:
            yield about


def describe(
    repos: Repos, repo: RepoId, revision: str, with_blobs: bool, with_files: bool = True
) -> dict[str, Any]:
    """Everything that the Hub says about a repo at a revision."""
    about = repos.info(repo)
    with repos.open(repo) as opened:
        commit = opened.commit(opened.resolve(revision))
        card = _card(opened, commit.oid, repo.type)
        siblings = _siblings(opened, commit.oid, with_blobs) if with_files else []
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
        "trendingScore": 0,
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
    readme = repo.entry(commit, CARD_NAME)
    if not isinstance(readme, FileEntry) or readme.lfs or readme.size > MAX_CARD_BYTES:
        return {}
    return check_card(repo.content(readme.oid).decode(errors="replace"), repo_type).data


def _tags(card: dict[str, Any]) -> list[str]:
    """The tags that the Hub derives from a card, for its filters."""
    found: list[str] = [card["library_name"]] if card.get("library_name") else []
    found += [card["pipeline_tag"]] if card.get("pipeline_tag") else []
    found += _listed(card.get("tags"))
    found += _listed(card.get("language"))
    for name, prefix in (("datasets", "dataset"), ("base_model", "base_model")):
        found += [f"{prefix}:{value}" for value in _listed(card.get(name))]
    found += [f"license:{value}" for value in _listed(card.get("license"))]
    return list(dict.fromkeys(found))


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _siblings(repo: GitRepo, commit: str, with_blobs: bool) -> list[dict[str, Any]]:
    """Clients often request a revision only for its sha, so sizes are looked up only when
    requested."""
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
    head, total, found = await state.run(_history, state, repo, revision, page * limit, limit + 1)
    headers = {"X-Total-Count": str(total)}
    if len(found) > limit:
        url = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/commits/{head}"
        headers |= next_link(url, request.query, p=str(page + 1))
    formatted = "formatted" in _values(request, "expand")
    rows = [_commit_json(commit, formatted=formatted) for commit in found[:limit]]
    return json_answer(rows, headers=headers)


def _history(
    state: HubState, repo: RepoId, revision: str, skip: int, limit: int
) -> tuple[str, int, list[Commit]]:
    with state.repos.open(repo) as opened:
        head = opened.resolve(revision)
        return head, opened.count_commits(head), opened.history(head, skip=skip, limit=limit)


def _commit_json(commit: Commit, *, formatted: bool) -> dict[str, Any]:
    """`formatted` adds title and message as HTML."""
    answer: dict[str, Any] = {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": wire_time(commit.date),
    }
    if formatted:
        paragraphs = [html.escape(text) for text in commit.message.split("\n\n") if text.strip()]
        message = "".join(f"<p>{text}</p>" for text in paragraphs)
        answer["formatted"] = {"title": html.escape(commit.title), "message": message}
    return answer
