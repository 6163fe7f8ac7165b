"""Repos, branches, heads and the files of a repo (paths-info for named paths, the tree page by
page): requests and answers."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus

from asyncpush.errors import printable
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo, Route
from asyncpush.options import PushOptions
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    FORM_HEADERS,
    HubRequest,
    HubResponse,
    a_git_oid,
    a_list,
    a_size,
    a_text,
    a_text_or_none,
    an_object,
    get,
    is_hex,
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


def refs_request(repo: Repo) -> HubRequest:
    """The repo's branches and tags."""
    return get("refs", routes.refs(repo), repo_id=repo.repo_id)


def parse_tags(response: HubResponse) -> frozenset[str]:
    """The names of the tags that are not names of branches as well."""
    fields = json_object(response)
    names = {
        kind: {
            a_text(an_object(row, f"{kind}[]").get("name"), f"{kind}[].name")
            for row in a_list(fields.get(kind) or [], kind)
        }
        for kind in ("tags", "branches")
    }
    return frozenset(names["tags"] - names["branches"])


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


PATHS_LIMIT = 500
"""Paths in one request. The Hub accepts 1,000; half of that keeps its answers quick."""

OID_LIMIT = 100
"""Characters of an oid that are kept: enough for a sha256 with its algorithm as a prefix."""

_PLAIN_LETTERS = f"{string.ascii_letters}{string.digits}_.-~/"
_NEXT = r'<([^<>]+)>\s*;[^<>,]*rel="?next"?'


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub: `oid` is the sha256 of an LFS object, else the git blob sha1. `xet_hash`
    is the Xet hash of an object that is stored with Xet, if the Hub gives it."""

    path: str
    size: int
    oid: str
    lfs: bool
    xet_hash: str | None = None

    @property
    def route(self) -> Route:
        """The route by which the same content would be stored again."""
        if not self.lfs:
            return "inline"
        return "lfs" if self.xet_hash is None else "xet"

    def holds(self, size: int, oid: str) -> bool:
        """Whether the file has this content."""
        return (self.size, self.oid) == (size, oid)


def _quoted(path: str) -> str:
    """A path as the value of a form. `quote_plus` is slow, and few paths need it for more than
    their slashes."""
    plain = quote_plus(path, safe="/") if path.strip(_PLAIN_LETTERS) else path
    return plain.replace("/", "%2F")


def paths_info_request(repo: Repo, revision: str, paths: Sequence[str]) -> HubRequest:
    """Sent as a form, like the official client does: other Hubs (KohakuHub) refuse the JSON that
    huggingface.co also accepts."""
    form = "&".join([*(f"paths={_quoted(path)}" for path in paths), "expand=false"])
    return HubRequest(
        "verify_commit",
        "POST",
        target=routes.paths_info(repo, revision),
        body=form.encode(),
        headers=FORM_HEADERS,
        fields={"repo_id": repo.repo_id, "revision": revision, "paths": len(paths)},
    )


def parse_paths_info(response: HubResponse) -> Mapping[str, RemoteFile]:
    """The files among the requested paths; a path that does not exist is not in the answer."""
    return {file.path: file for file in _files(json_list(response))}


def parse_path_kinds(response: HubResponse) -> Mapping[str, str]:
    """For each of the requested paths, whether it is a "file" or a "directory"."""
    kinds = {}
    for row in json_list(response):
        fields = an_object(row, "[]")
        kinds[a_text(fields.get("path"), "[].path")] = a_text(fields.get("type"), "[].type")
    return kinds


def tree_request(repo: Repo, revision: str, folder: str = "") -> HubRequest:
    """The first page of all files below `folder`, or of the whole repo if it is empty."""
    return get(
        "tree",
        f"{routes.tree(repo, revision, folder.strip('/'))}?recursive=true&expand=false",
        repo_id=repo.repo_id,
        revision=revision,
    )


def next_tree_request(request: HubRequest, url: str) -> HubRequest:
    return HubRequest(request.call, request.method, url, fields=request.fields)


def parse_tree(response: HubResponse) -> tuple[list[RemoteFile], str | None]:
    """The files of one page, and the URL of the next page if there is one."""
    return list(_files(json_list(response))), next_page(response)


def next_page(response: HubResponse) -> str | None:
    """The URL of the page that follows this one; None after the last."""
    following = re.search(_NEXT, response.headers.get("link", ""))
    return following[1] if following else None


def _files(rows: list[Any]) -> list[RemoteFile]:
    files = []
    for row in rows:
        fields = an_object(row, "[]")
        if a_text(fields.get("type"), "[].type") != "file":
            continue
        path = a_text(fields.get("path"), "[].path")
        if fields.get("lfs") is None:
            size = a_size(fields.get("size"), "[].size")
            files.append(RemoteFile(path, size, _oid(fields.get("oid"), "[].oid"), lfs=False))
        else:
            lfs = an_object(fields["lfs"], "[].lfs")
            size = a_size(lfs.get("size"), "[].lfs.size")
            oid = _oid(lfs.get("oid"), "[].lfs.oid").removeprefix("sha256:")
            files.append(RemoteFile(path, size, oid, lfs=True, xet_hash=_xet_hash(fields)))
    return files


def _xet_hash(fields: Mapping[str, Any]) -> str | None:
    value = a_text_or_none(fields.get("xetHash"), "[].xetHash")
    return value if value is not None and is_hex(value, 64) else None


def _oid(value: Any, name: str) -> str:
    """Some Hubs list their own checksums for files that were uploaded in another way (KohakuHub:
    S3's MD5). These never equal an oid, but that is no reason to refuse the whole listing."""
    return printable(a_text(value, name)[:OID_LIMIT])
