"""Repos, branches and heads: requests and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncpush.models import Repo
from asyncpush.options import PushOptions
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    a_git_oid,
    a_list,
    a_text,
    a_text_or_none,
    an_object,
    get,
    json_list,
    json_object,
    post_json,
    protocol_error,
)


def whoami_request() -> HubRequest:
    return get("whoami", routes.WHOAMI)


def create_request(repo: Repo, options: PushOptions) -> HubRequest:
    """`organization` names the namespace, also a user's own, as in the official client."""
    body: dict[str, Any] = {
        "type": repo.repo_type,
        "name": repo.name,
        "organization": repo.namespace,
    }
    if options.visibility is not None:
        body["visibility"] = options.visibility
    elif options.private is not None:
        body["visibility"] = "private" if options.private else "public"
    if repo.repo_type == "space":
        body["sdk"] = options.space_sdk or "static"
    if options.resource_group is not None:
        body["resourceGroupId"] = options.resource_group
    if options.region is not None:
        body["region"] = options.region
    return post_json("create", routes.CREATE, body, repo_id=repo.repo_id)


def check_created(response: HubResponse) -> None:
    """Raise unless the repo was created: then the Hub answers with the new repo's `url`."""
    a_text(json_object(response).get("url"), "url")


def head_request(repo: Repo, revision: str) -> HubRequest:
    path = routes.head(repo, revision)
    return get("head", path, repo_id=repo.repo_id, revision=revision)


def parse_head(response: HubResponse) -> str:
    """The oid of the commit that the revision points to."""
    return a_git_oid(json_object(response).get("sha"), "sha")


def create_branch_request(repo: Repo, branch: str) -> HubRequest:
    return post_json(
        "branch",
        routes.branch(repo, branch),
        {},
        repo_id=repo.repo_id,
        revision=branch,
    )


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit in the Hub's list. `message` is the text after the title."""

    oid: str
    title: str
    message: str


def commits_request(repo: Repo, revision: str) -> HubRequest:
    """The newest commits of a revision, first page."""
    path = f"{routes.commits(repo, revision)}?limit=100"
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
    path = f"{routes.discussions(repo)}?type=pull_request&status=open&p=0"
    return get("discussions", path, repo_id=repo.repo_id)


def parse_pull_requests(response: HubResponse) -> Sequence[int]:
    """Numbers of the open pull requests, newest first."""
    rows = a_list(json_object(response).get("discussions"), "discussions")
    numbers = []
    for row in rows:
        fields = an_object(row, "discussions[]")
        if fields.get("isPullRequest") is True:
            numbers.append(_number(fields, response))
    return sorted(numbers, reverse=True)


def open_pull_request_request(repo: Repo, title: str, description: str) -> HubRequest:
    """An empty pull request, as a draft, to which commits can be pushed."""
    request = post_json(
        "pull_request",
        routes.discussions(repo),
        {"title": title, "description": description, "pullRequest": True},
        repo_id=repo.repo_id,
    )
    return replace(request, slow=True)


def parse_pull_request_number(response: HubResponse) -> int:
    return _number(json_object(response), response)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """`status` is draft, open, closed or merged; `description` its first comment."""

    number: int
    status: str
    description: str
    merge_commit: str | None


def pull_request_request(repo: Repo, number: int) -> HubRequest:
    return get("discussion", routes.discussion(repo, number), repo_id=repo.repo_id)


def parse_pull_request(response: HubResponse) -> PullRequest:
    answer = json_object(response)
    events = a_list(answer.get("events"), "events")
    first = an_object(events[0], "events[0]") if events else {}
    data = an_object(first.get("data") or {}, "events[0].data")
    latest = an_object(data.get("latest") or {}, "events[0].data.latest")
    changes = an_object(answer.get("changes") or {}, "changes")
    return PullRequest(
        _number(answer, response),
        a_text(answer.get("status"), "status"),
        a_text_or_none(latest.get("raw"), "events[0].data.latest.raw") or "",
        a_text_or_none(changes.get("mergeCommitId"), "changes.mergeCommitId"),
    )


def ready_request(repo: Repo, number: int) -> HubRequest:
    """Turn a draft into an open pull request: drafts cannot be merged."""
    path = f"{routes.discussion(repo, number)}/status"
    return post_json("discussion_status", path, {"status": "open"}, repo_id=repo.repo_id)


def close_request(repo: Repo, number: int) -> HubRequest:
    path = f"{routes.discussion(repo, number)}/status"
    return post_json("discussion_status", path, {"status": "closed"}, repo_id=repo.repo_id)


def merge_request(repo: Repo, number: int) -> HubRequest:
    path = f"{routes.discussion(repo, number)}/merge"
    return HubRequest("merge", "POST", path, fields={"repo_id": repo.repo_id}, slow=True)


def _number(fields: Mapping[str, Any], response: HubResponse) -> int:
    number = fields.get("num")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise protocol_error("num is not the number of a pull request", response)
    return number
