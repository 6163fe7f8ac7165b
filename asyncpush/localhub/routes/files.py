"""What a revision holds: the tree, page by page, and single paths."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from asyncpush.localhub.errors import bad_request
from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import Commit, Entry, FileEntry
from asyncpush.localhub.store.names import RepoId, check_path
from asyncpush.localhub.web import (
    flag_in_query,
    json_answer,
    next_link,
    number_in_query,
    parse_object,
    read_body,
    strings_of,
    wire_time,
)
from asyncpush.localhub.xet import XetStore

MAX_PATHS = 1000
PAGE = 1000
# Who changed each file last is a walk through the history.
EXPANDED_PAGE = 50

routes = web.RouteTableDef()


@routes.post(REPO + "/paths-info/{revision}", name="paths-info")
async def paths_info(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    paths, expand = await _wanted_paths(request)
    revision = request.match_info["revision"]
    return json_answer(await state.run(_paths_info, state, repo, revision, paths, expand))


async def _wanted_paths(request: web.Request) -> tuple[Sequence[str], bool]:
    """JSON, or the form that the official client sends."""
    body = await read_body(request)
    if request.content_type == "application/json":
        value = parse_object(body)
        return strings_of(value.get("paths"), "paths", MAX_PATHS), value.get("expand") is True
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PATHS + 8)
    except ValueError:
        raise bad_request(f"Invalid form: at most {MAX_PATHS} paths, in UTF-8") from None
    paths = [value for key, value in pairs if key in ("paths", "paths[]")]
    expand = any(key == "expand" and value.lower() in ("true", "1") for key, value in pairs)
    return strings_of(paths, "paths", MAX_PATHS), expand


def _paths_info(
    state: HubState, repo: RepoId, revision: str, paths: Sequence[str], expand: bool
) -> list[dict[str, Any]]:
    """Paths that are not there are left out."""
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        found = (opened.entry(commit, path.rstrip("/")) for path in dict.fromkeys(paths) if path)
        entries = [entry for entry in found if entry is not None]
        last = opened.changed_last(commit, [entry.path for entry in entries]) if expand else {}
        return [entry_json(entry, last, state.xet) for entry in entries]


@routes.get(REPO + "/tree/{revision}{path:(?:/.*)?}", name="tree")
async def tree(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    path = request.match_info["path"].strip("/")
    path = check_path(path) if path else ""
    expand = flag_in_query(request, "expand")
    most = EXPANDED_PAGE if expand else PAGE
    limit = number_in_query(request, "limit", most, low=1, high=most)
    recursive = flag_in_query(request, "recursive")
    after = _parse_cursor(request.query.get("cursor"))
    revision = request.match_info["revision"]
    commit, entries = await state.run(
        _page, state, repo, revision, path, recursive, after, limit + 1, expand
    )
    headers = None
    if len(entries) > limit:
        entries.pop()
        # The next page is of the same commit, wherever the branch is by then.
        base = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/tree/{commit}"
        folder = request.rel_url.raw_path.split("/tree/", 1)[1].partition("/")[2]
        url = f"{base}/{folder}" if folder else base
        headers = next_link(url, request.query, cursor=_cursor(entries[-1]["path"]))
    return json_answer(entries, headers=headers)


def _page(
    state: HubState,
    repo: RepoId,
    revision: str,
    path: str,
    recursive: bool,
    after: str | None,
    count: int,
    expand: bool,
) -> tuple[str, list[dict[str, Any]]]:
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        walk = opened.walk(commit, path, recursive=recursive, after=after)
        entries = list(islice(walk, count))
        last = opened.changed_last(commit, [entry.path for entry in entries]) if expand else {}
        return commit, [entry_json(entry, last, state.xet) for entry in entries]


def entry_json(
    entry: Entry, last: Mapping[str, Commit], xet: XetStore | None = None
) -> dict[str, Any]:
    """A file or a folder as the Hub tells of it."""
    answer: dict[str, Any] = {"path": entry.path, "oid": entry.oid}
    if isinstance(entry, FileEntry):
        answer |= {"type": "file", "size": entry.size}
        if entry.lfs:
            answer["lfs"] = {
                "oid": entry.lfs.oid,
                "size": entry.lfs.size,
                "pointerSize": entry.pointer_size,
            }
            if xet is not None and xet.exists and (known := xet.known(entry.lfs.oid)):
                answer["xetHash"] = known.hash
    else:
        answer |= {"type": "directory", "size": 0}
    if entry.path in last:
        commit = last[entry.path]
        date = wire_time(commit.date)
        answer["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": date}
    return answer


def _cursor(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode()


def _parse_cursor(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise bad_request("Invalid cursor") from None
