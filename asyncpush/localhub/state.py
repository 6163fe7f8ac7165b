"""What every route needs: the repos, the objects, access rules, and threads for blocking work."""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from asyncpush.localhub.auth import TokenIssuer, Users, require_user, user_of
from asyncpush.localhub.blobs import BlobStore, Signer
from asyncpush.localhub.packing import Activity, despite_packing
from asyncpush.localhub.store.names import REPO_TYPES, RepoId, RepoType, make_repo_id
from asyncpush.localhub.store.repo_folders import RepoInfo, Repos
from asyncpush.localhub.web import Refusal, forbidden, gated, not_logged_in, repo_not_found
from asyncpush.localhub.xet import XetStore

T = TypeVar("T")
_TYPES: dict[str, RepoType] = {f"{repo_type}s": repo_type for repo_type in REPO_TYPES}


@dataclass
class HubState:
    repos: Repos
    blobs: BlobStore
    xet: XetStore
    xet_signer: Signer = field(repr=False)
    xet_token_lifetime: int
    grants_xet: bool
    users: Users
    tokens: TokenIssuer = field(repr=False)
    trusted_publishers: Mapping[str, Callable[[str], bool]] | None = None
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="localhub")
    )
    activity: Activity = field(default_factory=Activity)
    _locks: weakref.WeakValueDictionary[RepoId, asyncio.Lock] = field(
        default_factory=weakref.WeakValueDictionary
    )

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run blocking work (git, the disk) in a thread of the hub's own pool."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *args)

    async def run_exclusively(self, repo: RepoId, function: Callable[..., T], *args: object) -> T:
        """Run work that takes the repo's file lock. Callers queue here rather than in the pool."""
        lock = self._locks.setdefault(repo, asyncio.Lock())
        async with lock:
            done = await self.run(lambda: despite_packing(function, *args))
        self.activity.note_change(repo)
        return done

    def base_url(self, request: web.Request) -> str:
        """The hub's origin as this client sees it (a port may be forwarded)."""
        return str(request.url.origin())

    def owns(self, user: str | None, repo: RepoId, info: RepoInfo) -> bool:
        """Whether the user owns the repo: the only user of a hub owns everything, one of several
        what is under their name and what they created."""
        if user is None:
            return False
        return self.users.is_single or user in (repo.namespace, info.author)

    async def readable(self, request: web.Request) -> RepoId:
        """The repo of this URL, if it exists and this user may see it."""
        return (await self._seen(request))[0]

    async def open_to_read(self, request: web.Request) -> RepoId:
        """The repo of this URL, for a user who may read its files: gated repos are checked as
        well."""
        repo, info, user = await self._seen(request)
        if info.gated and not self.owns(user, repo, info):
            url = f"{self.base_url(request)}/{repo.url_path}"
            raise gated(repo.type, repo.full_name, url, known=user is not None)
        return repo

    async def contributable(self, request: web.Request) -> RepoId:
        """The repo of this URL, for a user who may propose changes to it: whoever may read it."""
        require_user(request)
        return await self.open_to_read(request)

    async def writable(self, request: web.Request) -> RepoId:
        """The repo of this URL, for a user who may change it."""
        require_user(request)
        repo, info, user = await self._seen(request)
        if not self.owns(user, repo, info):
            raise forbidden(
                f"{user} may not write to {repo.full_name}: pass `create_pr=1` as a query parameter"
                " to create a Pull Request"
            )
        return repo

    async def _seen(self, request: web.Request) -> tuple[RepoId, RepoInfo, str | None]:
        user = user_of(request)
        try:
            repo = repo_of(request)
            info = await self.run(self.repos.info, repo)
            if info.private and not self.owns(user, repo, info):
                raise repo_not_found()
        except Refusal as refusal:
            if refusal.code == "RepoNotFound":
                await self._redirect(request, user)
                if user is None:
                    raise not_logged_in() from None
            raise
        return repo, info, user

    async def _redirect(self, request: web.Request, user: str | None) -> None:
        """Redirects to the repo that once had this name, or has it in another spelling, unless it
        is hidden. The location is a path: clients follow it on this same hub."""
        try:
            repo = repo_of(request)
            found = await self.run(self.repos.elsewhere, repo)
            info = None if found is None else await self.run(self.repos.info, found)
        except Refusal:
            return
        if found is None or info is None or found == repo:
            return
        if info.private and not self.owns(user, found, info):
            return
        name = f"(?<=/){re.escape(repo.namespace)}/{re.escape(repo.name)}(?=/|\\.git|$)"
        path, count = re.subn(name, found.full_name, request.rel_url.raw_path, count=1)
        query = request.rel_url.raw_query_string
        if count:
            raise web.HTTPTemporaryRedirect(f"{path}?{query}" if query else path)


STATE = web.AppKey("state", HubState)


def state_of(request: web.Request) -> HubState:
    return request.app[STATE]


def repo_type_of(request: web.Request) -> RepoType:
    """From `{kind}` in an API's URL or `{prefix}` in a page's."""
    match = request.match_info
    kind = match.get("kind") or match.get("prefix") or match.get("repo_type") or "models"
    return _TYPES[kind.rstrip("/")]


def repo_of(request: web.Request) -> RepoId:
    """The repo id in the URL. An invalid one is a repo that does not exist."""
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    try:
        return make_repo_id(repo_type_of(request), namespace, name)
    except Refusal:
        raise repo_not_found() from None
