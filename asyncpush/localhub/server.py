"""The hub as a server: its routes, errors as the Hub's JSON, and a port, in the caller's event loop
or in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from aiohttp import ClientError, web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub import lfs_server, pages
from asyncpush.localhub.auth import (
    CHALLENGE,
    OAUTH_LIFETIME,
    TOKENS,
    USER,
    USERS,
    BrowserLogin,
    TokenIssuer,
    Users,
    is_loopback,
    user_of,
)
from asyncpush.localhub.blobs import DEFAULT_PART_SIZE, BlobStore, Signer
from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.faults import Fault, Faults
from asyncpush.localhub.packing import keep_packed
from asyncpush.localhub.routes import (
    bucket_api,
    commit_request,
    content,
    discussions,
    git,
    metadata,
    moving,
    repo_admin,
    storage,
    tokens,
    xet_cas,
)
from asyncpush.localhub.routes.tokens import TrustedPublishers
from asyncpush.localhub.state import STATE, HubState, state_of
from asyncpush.localhub.store.names import is_name
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.web import (
    LOGGER,
    MAX_JSON_BYTES,
    Refusal,
    RequestLog,
    is_request_id,
    new_request_id,
    not_logged_in,
    refusal_answer,
    repo_not_found,
)
from asyncpush.localhub.xet import XetStore, with_xet
from asyncpush.localhub.xet.chunk_store import LIFETIME

logger = logging.getLogger("asyncpush.localhub")

_MODULES = (
    repo_admin,
    commit_request,
    content,
    metadata,
    discussions,
    storage,
    tokens,
    xet_cas,
    git,
    bucket_api,
    moving,
)

ROUTE_NAMES = lfs_server.ROUTES | {
    str(route.kwargs["name"])
    for module in (*_MODULES, pages)
    for route in module.routes
    if isinstance(route, web.RouteDef)
}
"""The name of each route, as used in faults, logs and middlewares."""

# These carry their permission in the URL, or in a token that is not the Hub's.
SIGNED_ROUTES = frozenset({"part", "complete", "download"}) | xet_cas.ROUTES
# Repos without a namespace, such as `gpt2`: the public Hub has some old ones, this one has none.
_OF_ONE_SEGMENT = re.compile(
    r"/api/(?:models|datasets|spaces|kernels)/[^/]+"
    r"(?:/(?:branch|commits?|discussions|lfs-files|paths-info|preupload|refs|revision|settings|super-squash|tag|tree|xet-(?:read|write)-token)(?:/.*)?)?$"
    r"|/(?:(?:datasets|spaces|kernels)/)?[^/]+"
    r"/(?:raw|resolve|info|git-(?:upload|receive)-pack)(?:/|$)"
)
# What git and git-lfs ask for: after a 401 they look up a password.
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
    grant = xet_cas.upload_action if state.grants_xet else None
    lfs_server.add_routes(app, state.blobs, _lfs_access, xet=grant)
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


async def _lfs_access(request: web.Request, operation: lfs_server.Operation) -> None:
    state = state_of(request)
    if operation == "download":
        await state.open_to_read(request)
    else:
        await state.contributable(request)  # It may be a request to open a pull request.


# A commit in progress may finish; a download in progress is cut.
SHUTDOWN_SECONDS = 5.0
# Room for a path of 2,048 bytes, percent-quoted, in the request line.
_MAX_LINE = 16_384


# Parts arrive in pieces of this size: fewer turns of the event loop for the same bytes.
_READ_SIZE = 512 << 10


class LocalHub:
    """A small but real Hub: git repositories and LFS objects in a folder, served over HTTP.

        async with LocalHub(tmp_path) as hub:
            await asyncpush.push_to_hub("me/model", "out/", endpoint=hub.url, token="any")

    Several hubs, in one process or in many, may serve one `root` at once. With `token=None` any
    token is accepted, and only this machine is served; `users`, tokens by name, adds users who own
    what is under their name and what they created. Xet write tokens, valid for `xet_token_lifetime`
    seconds, are granted unless objects are kept in a `store` of yours; `xet=False` grants none.
    What was uploaded with Xet is served in any case.

    `log_in` gives out tokens that expire, after `token_lifetime` seconds, as `hf auth login` stores
    them. For trusted publishing, `trusted_publishers` maps a resource (`me/m`, `datasets/me/d`) to
    a function that says whether an id token is accepted for it; by default a hub that accepts any
    token accepts any id token, and others accept none.

    `faults`, such as `"commit=504-after:3"`, make requests fail (see `asyncpush.localhub.faults`).
    `middlewares` see each request before the hub and each answer after it;
    `request.match_info.route.name` names the route. Requests are logged to
    `asyncpush.localhub.requests`, at INFO.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        users: Mapping[str, str] | None = None,
        part_size: int = DEFAULT_PART_SIZE,
        store: BlobStore | None = None,
        xet: bool | None = None,
        xet_token_lifetime: int = LIFETIME,
        token_lifetime: int = OAUTH_LIFETIME,
        trusted_publishers: TrustedPublishers | None = None,
        faults: Iterable[Fault | str] = (),
        middlewares: Iterable[Middleware] = (),
    ) -> None:
        tokens = dict(users or {}) if token is None else {USER: token, **(users or {})}
        if not tokens and not is_loopback(host):
            raise ValueError(f"host={host!r} is reachable from other machines: set a token")
        if not all(value.strip() for value in tokens.values()):
            raise ValueError("token must not be empty")
        if bad := [name for name in tokens if not is_name(name)]:
            raise ValueError(f"users: {bad[0]!r} cannot be the name of a user")
        if len(set(tokens.values())) < len(tokens):
            raise ValueError("users: each must have a token of their own")
        self.root: Path = Path(root)
        self.host = host
        self.port: int = port
        self.token = token
        self._users = Users({value: name for name, value in tokens.items()})
        self._part_size = part_size
        self._store = store
        self._xet = store is None if xet is None else xet
        self._xet_token_lifetime = xet_token_lifetime
        self._token_lifetime = token_lifetime
        self._trusted_publishers = trusted_publishers
        self._tokens: TokenIssuer | None = None
        self.faults: Faults = Faults.of(faults, ROUTE_NAMES)
        self._middlewares = (*middlewares, self.faults.middleware)
        self._running = AsyncExitStack()

    @property
    def url(self) -> str:
        """The endpoint to give to clients, without a trailing slash."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_open(self) -> bool:
        """Whether any token is accepted."""
        return self._users.is_open

    def log_in(self, user: str = USER) -> BrowserLogin:
        """A token and a refresh token for `user`, like those from the browser login of `hf auth
        login`. The hub must be running."""
        return self._issuer().log_in(user)

    def revoke_tokens(self) -> None:
        """Refuse the tokens that `log_in`, renewals of these logins, and trusted publishing have
        issued so far. Refresh tokens stay valid. The hub must be running."""
        self._issuer().revoke()

    def _issuer(self) -> TokenIssuer:
        if self._tokens is None:
            raise RuntimeError("the hub is not running: use it in `async with`")
        return self._tokens

    async def __aenter__(self) -> LocalHub:
        self.root.mkdir(parents=True, exist_ok=True)
        blobs = self._store or DiskStore(self.root / "lfs", part_size=self._part_size)
        xet = XetStore(self.root / "xet")
        state = HubState(
            repos=Repos(self.root),
            blobs=with_xet(blobs, xet),
            xet=xet,
            xet_signer=Signer.load(self.root / "xet" / "secret"),
            xet_token_lifetime=self._xet_token_lifetime,
            grants_xet=self._xet,
            users=self._users,
            tokens=TokenIssuer(self.root / "oauth", lifetime=self._token_lifetime),
            trusted_publishers=self._trusted_publishers,
        )
        self._tokens = state.tokens
        async with AsyncExitStack() as stack:
            # Git work that outlived its request still finishes: a thread cannot be cancelled.
            stack.push_async_callback(asyncio.to_thread, state.executor.shutdown)
            await state.run(state.repos.prepare)
            await state.blobs.start()
            stack.push_async_callback(state.blobs.close)
            packing = asyncio.create_task(keep_packed(state.activity, state.repos, state.run))
            stack.push_async_callback(_cancelled, packing)
            await self._listen(state, stack)
            stack.push_async_callback(self.faults.release)
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._running.aclose()

    async def _listen(self, state: HubState, stack: AsyncExitStack) -> None:
        runner = web.AppRunner(
            make_app(state, self._middlewares),
            access_log_class=RequestLog,
            access_log=LOGGER,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
            max_line_size=_MAX_LINE,
            read_bufsize=_READ_SIZE,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self.host, self.port).start()
        self.port = runner.addresses[0][1]


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@contextmanager
def serve_in_thread(root: Path | str, **options: Any) -> Iterator[LocalHub]:
    """A `LocalHub` for blocking callers, and for event loops that must not wait for git.

    with serve_in_thread("hub/") as hub:
        print(hub.url)
    """
    hub = LocalHub(root, **options)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(hub, started)), name="asyncpush-localhub", daemon=True
    )
    thread.start()
    loop, stop = started.result()
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _serve(
    hub: LocalHub, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(hub)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
