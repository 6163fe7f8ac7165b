"""Discussions and pull requests: listing, opening, commenting and merging."""

from __future__ import annotations

import html
from functools import partial
from typing import Any, Literal

from aiohttp import web

from asyncpush.localhub.auth import require_user
from asyncpush.localhub.routes.repo_admin import REPO
from asyncpush.localhub.state import state_of
from asyncpush.localhub.store import pulls
from asyncpush.localhub.store.gitrepo import Commit
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.pulls import Discussion, Event
from asyncpush.localhub.web import (
    bad_request,
    flag_in_query,
    json_answer,
    number_in_query,
    read_json,
    text_of,
    wire_time,
)

PAGE = 10
MAX_TITLE = 200
_LIST = REPO + "/discussions"
_ONE = _LIST + r"/{num:[1-9]\d{0,8}}"
# The meaning of the Hub's two filters.
_STATUSES = {"open": ("open", "draft"), "closed": ("closed", "merged")}

routes = web.RouteTableDef()


@routes.get(_LIST, name="discussions")
async def list_discussions(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    page = number_in_query(request, "p", 0, high=1_000_000)
    found = [
        discussion
        for discussion in await state.run(pulls.list_all, state.repos, repo)
        if _is_wanted(discussion, request)
    ]
    start = page * PAGE
    shown = [_summary_json(repo, discussion) for discussion in found[start : start + PAGE]]
    open_count = sum(discussion.status in _STATUSES["open"] for discussion in found)
    return json_answer(
        {
            "discussions": shown,
            "count": len(found),
            "start": start,
            "numClosedDiscussions": len(found) - open_count,
        }
    )


def _is_wanted(discussion: Discussion, request: web.Request) -> bool:
    kind, status = request.query.get("type", "all"), request.query.get("status", "all")
    wants_pull = {"pull_request": True, "discussion": False}.get(kind, discussion.is_pull_request)
    return (
        discussion.is_pull_request == wants_pull
        and discussion.status in _STATUSES.get(status, (discussion.status,))
        and request.query.get("author", discussion.author) == discussion.author
    )


@routes.post(_LIST, name="discussion-create")
async def create_discussion(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    repo = await state.contributable(request)
    body = await read_json(request)
    title, description = _title(body), text_of(body, "description", default="")
    is_pull = body.get("pullRequest") is True
    made = await state.run_exclusively(
        repo, pulls.create, state.repos, repo, title, description, user, is_pull
    )
    url = f"{state.base_url(request)}/{repo.url_path}/discussions/{made.num}"
    return json_answer({"num": made.num, "url": url, "pullRequest": is_pull}, status=201)


@routes.get(_ONE, name="discussion")
async def get_discussion(request: web.Request) -> web.Response:
    state = state_of(request)
    with_diff = flag_in_query(request, "diff")
    repo = await (state.open_to_read if with_diff else state.readable)(request)
    number = int(request.match_info["num"])
    details = partial(pulls.details, with_diff=with_diff)
    discussion, pull = await state.run(details, state.repos, repo, number)
    first, *others = [event_json(event) for event in discussion.events]
    commits = [_commit_event(commit) for commit in pull.commits] if pull else []
    answer = _summary_json(repo, discussion) | {"events": [first, *commits, *others]}
    if pull:
        answer["changes"] = {"base": "refs/heads/main"}
        answer["filesWithConflicts"] = []
        if discussion.merge_commit:
            answer["changes"]["mergeCommitId"] = discussion.merge_commit
        if with_diff:
            answer["diff"] = pull.diff
    return json_answer(answer)


@routes.post(_ONE + "/comment", name="discussion-comment")
async def comment(request: web.Request) -> web.Response:
    repo, number, user, body = await _change(request, by="anyone")
    text = text_of(body, "comment")
    if not text.strip():
        raise bad_request("'comment' must not be empty")
    event = await _exclusively(request, repo, pulls.comment, number, user, text)
    return json_answer({"newMessage": event_json(event)})


@routes.post(_ONE + "/title", name="discussion-title")
async def rename(request: web.Request) -> web.Response:
    repo, number, user, body = await _change(request)
    event = await _exclusively(request, repo, pulls.rename, number, user, _title(body))
    return json_answer({"newTitle": event_json(event)})


@routes.post(_ONE + "/status", name="discussion-status")
async def set_status(request: web.Request) -> web.Response:
    repo, number, user, body = await _change(request)
    status = body.get("status")
    if status not in ("open", "closed"):
        raise bad_request("'status' must be 'open' or 'closed'")
    text = text_of(body, "comment", default="")
    event = await _exclusively(request, repo, pulls.set_status, number, user, status, text)
    return json_answer({"newStatus": event_json(event)})


@routes.post(_ONE + "/merge", name="discussion-merge")
async def merge(request: web.Request) -> web.Response:
    repo, number, user, body = await _change(request, by="owner")
    text = text_of(body, "comment", default="")
    oid = await _exclusively(request, repo, pulls.merge, number, user, text)
    return json_answer({"success": True, "mergeCommitId": oid})


async def _change(
    request: web.Request, *, by: Literal["anyone", "author", "owner"] = "author"
) -> tuple[RepoId, int, str, dict[str, Any]]:
    """The discussion and the body. `by` says who may make the request: anyone, the discussion's
    author or the repo's owner, or only the owner."""
    state, user = state_of(request), require_user(request)
    number = int(request.match_info["num"])
    repo = await state.contributable(request)
    if by != "anyone":
        mine = by == "author" and user == await state.run(pulls.author, state.repos, repo, number)
        if not mine:
            await state.writable(request)
    return repo, number, user, await read_json(request)


async def _exclusively(
    request: web.Request, repo: RepoId, function: Any, number: int, *args: Any
) -> Any:
    state = state_of(request)
    return await state.run_exclusively(repo, function, state.repos, repo, number, *args)


def _title(body: dict[str, Any]) -> str:
    title = text_of(body, "title", limit=MAX_TITLE).strip()
    if len(title) < 3:
        raise bad_request("'title' must have at least 3 characters")
    return title


def _summary_json(repo: RepoId, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "status": discussion.status,
        "isPullRequest": discussion.is_pull_request,
        "author": _author(discussion.author),
        "createdAt": wire_time(discussion.created_at),
        "repo": {"name": repo.full_name, "type": repo.type},
        "numComments": sum(event.type == "comment" for event in discussion.events),
        "pinned": False,
        "repoOwner": {"name": repo.namespace, "type": "user"},
    }


def event_json(event: Event) -> dict[str, Any]:
    """An event in the API's form; a comment is markdown, shown here as escaped text."""
    data = event.data
    if event.type == "comment":
        raw = data["raw"]
        latest = {
            "raw": raw,
            "html": f"<p>{html.escape(raw)}</p>",
            "updatedAt": wire_time(event.created_at),
            "author": _author(event.author),
        }
        data = {"edited": False, "hidden": False, "latest": latest, "history": [], "numEdits": 0}
    return {
        "id": event.id,
        "type": event.type,
        "author": _author(event.author),
        "createdAt": wire_time(event.created_at),
        "data": data,
    }


def _commit_event(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.oid[:24],
        "type": "commit",
        "author": _author(commit.author),
        "createdAt": wire_time(commit.date),
        "data": {"subject": commit.title, "oid": commit.oid},
    }


def _author(name: str) -> dict[str, str]:
    return {"name": name, "fullname": name, "type": "user"}
