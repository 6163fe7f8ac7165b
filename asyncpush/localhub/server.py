"""The hub on a port: in the caller's event loop, or in a thread with its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from asyncpush.localhub.app import ROUTE_NAMES, keep_packed, make_app
from asyncpush.localhub.auth import (
    LOGGER,
    OAUTH_LIFETIME,
    USER,
    BrowserLogin,
    RequestLog,
    TokenIssuer,
    Users,
    is_loopback,
)
from asyncpush.localhub.blobs import DEFAULT_PART_SIZE, BlobStore, Signer
from asyncpush.localhub.blobs.disk import DiskStore
from asyncpush.localhub.faults import Fault, Faults
from asyncpush.localhub.routes.oauth import TrustedPublishers
from asyncpush.localhub.state import HubState
from asyncpush.localhub.store.names import is_name
from asyncpush.localhub.store.repos import Repos
from asyncpush.localhub.xet import XetStore, with_xet
from asyncpush.localhub.xet.chunk_store import LIFETIME

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
    What was uploaded by Xet is served in any case.

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
            packing = asyncio.create_task(keep_packed(state))
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
