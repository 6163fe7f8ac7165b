"""Repos, branches and heads: requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from asyncpush.models import Repo
from asyncpush.options import PushOptions
from asyncpush.protocol.answers import (
    a_git_oid,
    a_list,
    a_text,
    a_text_or_none,
    an_object,
    json_list,
    json_object,
)
from asyncpush.protocol.http import HubRequest, HubResponse, get, post_json


def quoted(revision: str) -> str:
    """A revision within a URL: quoted whole, so that `refs/pr/1` stays one segment."""
    return quote(revision, safe="")


def whoami_request() -> HubRequest:
    return get("whoami", "/api/whoami-v2")


def create_request(repo: Repo, options: PushOptions) -> HubRequest:
    """`organization` names the namespace, a user's own included, as the official client does."""
    body: dict[str, Any] = {
        "type": repo.repo_type,
        "name": repo.name,
        "organization": repo.namespace,
    }
    if options.private is not None:
        body["visibility"] = "private" if options.private else "public"
    if repo.repo_type == "space":
        body["sdk"] = options.space_sdk or "static"
    return post_json("create", "/api/repos/create", body, repo_id=repo.repo_id)


def head_request(repo: Repo, revision: str) -> HubRequest:
    path = f"/api/{repo.api_path}/revision/{quoted(revision)}"
    return get("head", path, repo_id=repo.repo_id, revision=revision)


def parse_head(response: HubResponse) -> str:
    """The commit oid that the revision is at."""
    return a_git_oid(json_object(response).get("sha"), "sha")


def create_branch_request(repo: Repo, branch: str) -> HubRequest:
    return post_json(
        "branch",
        f"/api/{repo.api_path}/branch/{quoted(branch)}",
        {},
        repo_id=repo.repo_id,
        revision=branch,
    )


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit as the Hub lists it: `message` is what follows the title."""

    oid: str
    title: str
    message: str


def commits_request(repo: Repo, revision: str) -> HubRequest:
    """The newest commits of a revision, first page."""
    path = f"/api/{repo.api_path}/commits/{quoted(revision)}?limit=100"
    return get("commits", path, repo_id=repo.repo_id, revision=revision)


def parse_commits(response: HubResponse) -> list[LoggedCommit]:
    rows = [an_object(row, "commits[]") for row in json_list(response)]
    return [
        LoggedCommit(
            a_git_oid(row.get("id"), "commits[].id"),
            a_text(row.get("title"), "commits[].title"),
            a_text_or_none(row.get("message"), "commits[].message") or "",
        )
        for row in rows
    ]


def pull_requests_request(repo: Repo) -> HubRequest:
    path = f"/api/{repo.api_path}/discussions?type=pull_request&status=open"
    return get("discussions", path, repo_id=repo.repo_id)


def parse_pull_requests(response: HubResponse) -> Sequence[int]:
    """Numbers of the open pull requests, newest first."""
    rows = a_list(json_object(response).get("discussions"), "discussions")
    numbers = []
    for row in rows:
        fields = an_object(row, "discussions[]")
        number = fields.get("num")
        if fields.get("isPullRequest") is True and isinstance(number, int):
            numbers.append(number)
    return sorted(numbers, reverse=True)


def page_url(endpoint: str, repo: Repo) -> str:
    """Where a browser finds the repo."""
    return f"{endpoint}/{repo.git_path}"
