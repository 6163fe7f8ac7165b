"""Looking at what the embedded Hub holds, with plain HTTP and none of our client's code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import aiohttp

from asyncpush.localhub import LocalHub

_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


async def _json(hub: LocalHub, path: str) -> Any:
    headers = {"Authorization": f"Bearer {hub.token or 'any'}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{hub.url}{path}") as answer,
    ):
        answer.raise_for_status()
        return await answer.json()


async def head_of(hub: LocalHub, repo_id: str, revision: str = "main") -> str:
    quoted = quote(revision, safe="")
    return str((await _json(hub, f"/api/models/{repo_id}/revision/{quoted}"))["sha"])


async def exists(hub: LocalHub, repo_id: str) -> bool:
    try:
        await head_of(hub, repo_id)
    except aiohttp.ClientResponseError:
        return False
    return True


async def commits_of(
    hub: LocalHub, repo_id: str, revision: str = "main", repo_type: str = "model"
) -> list[dict[str, Any]]:
    quoted = quote(revision, safe="")
    rows = await _json(hub, f"/api/{repo_type}s/{repo_id}/commits/{quoted}?limit=1000")
    assert isinstance(rows, list)
    return rows


async def files_of(
    hub: LocalHub, repo_id: str, repo_type: str = "model", revision: str = "main"
) -> set[str]:
    at = quote(revision, safe="")
    rows = await _json(hub, f"/api/{repo_type}s/{repo_id}/tree/{at}?recursive=true&limit=1000")
    return {row["path"] for row in rows if row["type"] == "file"}


async def pull_requests_of(hub: LocalHub, repo_id: str) -> dict[int, str]:
    """The status of each by its number."""
    answer = await _json(hub, f"/api/models/{repo_id}/discussions?type=pull_request")
    return {row["num"]: row["status"] for row in answer["discussions"]}


async def change_pull_request(hub: LocalHub, repo_id: str, number: int, action: str) -> None:
    """Merge or close it, as someone does on its page."""
    url = f"{hub.url}/api/models/{repo_id}/discussions/{number}"
    url += "/merge" if action == "merge" else "/status"
    value = {} if action == "merge" else {"status": "closed"}
    headers = {"Authorization": f"Bearer {hub.token or 'any'}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=value) as answer,
    ):
        answer.raise_for_status()


async def download(
    hub: LocalHub,
    repo_id: str,
    paths: Iterable[str] | None = None,
    repo_type: str = "model",
    revision: str = "main",
) -> dict[str, bytes]:
    """Bytes of these files, or of all but .gitattributes."""
    if paths is None:
        paths = await files_of(hub, repo_id, repo_type, revision) - {".gitattributes"}
    at = quote(revision, safe="")
    found = {}
    headers = {"Authorization": f"Bearer {hub.token or 'any'}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in paths:
            url = f"{hub.url}/{_PREFIX[repo_type]}{repo_id}/resolve/{at}/{quote(path)}"
            async with session.get(url) as answer:
                answer.raise_for_status()
                found[path] = await answer.read()
    return found
