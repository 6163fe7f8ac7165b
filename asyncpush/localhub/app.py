"""The hub as an aiohttp application: every route by name, every failure as the Hub's JSON, and the
work it does while no requests come in.

Each commit leaves a few small files behind. git's own `gc` packs them beside readers and writers,
and a kill in the middle loses nothing: objects are removed only once a synced pack has them. Two
things are left alone: refs, which the hub writes without git's locks, and for two weeks objects
that no ref leads to, such as the files of a commit that is being made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from aiohttp import ClientError, web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub import lfs, pages
from asyncpush.localhub.auth import CHALLENGE, TOKENS, USERS, is_loopback, user_of
from asyncpush.localhub.routes import (
    buckets,
    commits,
    discussions,
    files,
    git,
    metadata,
    oauth,
    preupload,
    repos,
    storage,
    xet,
)
from asyncpush.localhub.state import STATE, HubState, state_of
from asyncpush.localhub.store.gitrepo import is_installed, start_gc
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.web import (
    MAX_JSON_BYTES,
    Refusal,
    is_request_id,
    new_request_id,
    not_logged_in,
    refusal_answer,
    repo_not_found,
)

logger = logging.getLogger("asyncpush.localhub")

_MODULES = (
    repos,
    preupload,
    commits,
    files,
    metadata,
    discussions,
    storage,
    xet,
    git,
    buckets,
    oauth,
)

ROUTE_NAMES = lfs.ROUTES | {
    str(route.kwargs["name"])
    for module in (*_MODULES, pages)
    for route in module.routes
    if isinstance(route, web.RouteDef)
}
"""The name of each route, as used in faults, logs and middlewares."""

# These carry their permission in the URL, or in a token that is not the Hub's.
SIGNED_ROUTES = frozenset({"part", "complete", "download"}) | xet.ROUTES
# Repos without a namespace, such as `gpt2`: the public Hub has some old ones, this one has none.
_OF_ONE_SEGMENT = re.compile(
    r"/api/(?:models|datasets|spaces|kernels)/[^/]+"
    r"(?:/(?:branch|commits?|discussions|lfs-files|paths-info|preupload|refs|revision|settings|super-squash|tag|tree|xet-(?:read|write)-token)(?:/.*)?)?$"
    r"|/(?:(?:datasets|spaces|kernels)/)?[^/]+"
    r"/(?:raw|resolve|info|git-(?:upload|receive)-pack)(?:/|$)"
)
# What git and git-lfs ask for: when told to, they look up a password.
GIT_ROUTES = frozenset({"batch", "verify"}) | git.ROUTES


def make_app(state: HubState, middlewares: Iterable[Middleware] = ()) -> web.Application:
    """`middlewares` see each request before the hub does, and each answer after it."""
    app = web.Application(
        middlewares=[*middlewares, _errors_as_json, _guard], client_max_size=MAX_JSON_BYTES
    )
    app[STATE] = state
    app[USERS] = state.users
    app[TOKENS] = state.tokens
    app.on_response_prepare.append(_stamp)
    for resource in _resources(*_MODULES):
        app.router.register_resource(resource)
    grant = xet.upload_action if state.grants_xet else None
    lfs.add_routes(app, state.blobs, _lfs_access, xet=grant)
    for resource in _resources(pages):
        app.router.register_resource(resource)
    return app


@cache
def _resources(*modules: ModuleType) -> tuple[web.AbstractResource, ...]:
    """Their routes, compiled. They hold nothing of an application, so that all hubs of a process
    share them: to compile them takes most of a hub's start."""
    router = web.UrlDispatcher()
    for module in modules:
        router.add_routes(module.routes)
    return tuple(router.resources())


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    given = request.headers.get("X-Request-Id", "")
    echoed = given if is_request_id(given) else new_request_id()
    response.headers.setdefault("X-Request-Id", echoed)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        with state_of(request).activity.request():
            return await handler(request)
    except Refusal as refusal:
        if refusal.status == 401 and request.match_info.route.name in GIT_ROUTES:
            refusal.headers |= CHALLENGE
        return refusal_answer(refusal)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        if error.status == 404 and _OF_ONE_SEGMENT.match(request.path):
            return refusal_answer(repo_not_found() if user_of(request) else not_logged_in())
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return refusal_answer(Refusal(error.status, error.reason, headers=allow))
    except (ConnectionError, ClientError, web.RequestPayloadError) as error:
        # The client went away, or sent what its own headers do not describe.
        logger.info("%s %s was cut short: %s", request.method, request.path, error)
        return refusal_answer(Refusal(400, "The request's body could not be read"))
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return refusal_answer(Refusal(500, "Internal Error - We're working hard to fix this"))


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    state = state_of(request)
    try:
        host = request.url.origin().host
    except ValueError:
        raise Refusal(400, "Invalid Host header") from None
    if state.users.is_open and not is_loopback(host or ""):
        # Without a token of its own the hub trusts this machine alone; a web page that points
        # its own name at 127.0.0.1 (DNS rebinding) is not this machine.
        raise Refusal(403, "This hub answers to loopback names only: start it with a token")
    if request.match_info.route.name not in SIGNED_ROUTES:
        user_of(request)  # A wrong token is refused even where none is needed.
    return await handler(request)


async def _lfs_access(request: web.Request, operation: lfs.Operation) -> None:
    state = state_of(request)
    if operation == "download":
        await state.open_to_read(request)
    else:
        await state.contributable(request)  # It may be a request to open a pull request.


MAX_LOOSE = 500
"""Loose objects that a repo may have: about as many as a hundred commits leave."""

QUIET = 5.0
"""Seconds without a request before anything is packed."""


async def keep_packed(state: HubState) -> None:
    """Runs beside the hub until it is cancelled; a `gc` that runs at that moment is ended and
    cleans up."""
    if not is_installed():
        return
    while True:
        await state.activity.changed.wait()
        while (rest := QUIET - state.activity.quiet_for()) > 0:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(rest)
        for repo in state.activity.take_changed():
            await _pack(state, repo)


async def _pack(state: HubState, repo: RepoId) -> None:
    path = state.repos.path(repo)
    if await state.run(count_loose, path) <= MAX_LOOSE:
        return
    began = time.monotonic()
    process = await start_gc(path)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    if process.returncode:
        logger.warning("git gc of %s failed (%s)", repo.full_name, process.returncode)
    else:
        logger.info("packed %s in %.1f s", repo.full_name, time.monotonic() - began)


def count_loose(path: Path) -> int:
    count = 0
    for digits in (f"{number:02x}" for number in range(256)):
        with contextlib.suppress(FileNotFoundError):
            count += len(os.listdir(path / "objects" / digits))
    return count
