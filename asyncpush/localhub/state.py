"""What every route is given: the repos, the objects, the rules, and a place for blocking work."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from asyncpush.localhub.auth import require_user, user_of
from asyncpush.localhub.blobs import BlobStore
from asyncpush.localhub.blobs.signing import Signer
from asyncpush.localhub.errors import Refusal, repo_not_found
from asyncpush.localhub.store.names import RepoId, RepoType, make_repo_id
from asyncpush.localhub.store.repos import Repos
from asyncpush.localhub.xet import XetStore

T = TypeVar("T")
_TYPES: dict[str, RepoType] = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class HubState:
    repos: Repos
    blobs: BlobStore
    xet: XetStore
    xet_signer: Signer = field(repr=False)
    xet_token_lifetime: int
    grants_xet: bool
    token: str | None = field(repr=False)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="localhub")
    )
    _locks: weakref.WeakValueDictionary[RepoId, asyncio.Lock] = field(
        default_factory=weakref.WeakValueDictionary
    )

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run blocking work (git, the disk) in a thread of the hub's own pool."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *args)

    async def run_exclusively(self, repo: RepoId, function: Callable[..., T], *args: object) -> T:
        """Run work that takes the repo's file lock. Callers queue here, not in the pool."""
        lock = self._locks.setdefault(repo, asyncio.Lock())
        async with lock:
            return await self.run(function, *args)

    def base_url(self, request: web.Request) -> str:
        """The hub's origin as this client sees it (a port may be forwarded)."""
        return str(request.url.origin())

    async def readable(self, request: web.Request) -> RepoId:
        """The repo of this URL, if it is there for this user to read."""
        repo = repo_of(request)
        info = await self.run(self.repos.info, repo)
        if info.private and user_of(request) is None:
            raise repo_not_found()
        return repo

    async def writable(self, request: web.Request) -> RepoId:
        """The repo of this URL, for a user who may write to it: all users may."""
        require_user(request)
        return await self.readable(request)


STATE = web.AppKey("state", HubState)


def state_of(request: web.Request) -> HubState:
    return request.app[STATE]


def repo_type_of(request: web.Request) -> RepoType:
    """`{kind}` in an API's URL, `{prefix}` in a page's."""
    match = request.match_info
    kind = match.get("kind") or match.get("prefix") or match.get("repo_type") or "models"
    return _TYPES[kind.rstrip("/")]


def repo_of(request: web.Request) -> RepoId:
    """The repo id in the URL. One that no repo can have is a repo that is not there."""
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    try:
        return make_repo_id(repo_type_of(request), namespace, name)
    except Refusal:
        raise repo_not_found() from None
