"""Which engine stores a push's large files: Xet or LFS, asked once and told in an event."""

from __future__ import annotations

from functools import partial

import anyio

from asyncpush.errors import HubError, MissingTokenError
from asyncpush.events import TransferChosen
from asyncpush.net.session import USER_AGENT
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import urls, xet
from asyncpush.protocol.http import HubResponse
from asyncpush.protocol.xet import XetGrant
from asyncpush.transfers.xet import XetAccess, why_not

_REFUSALS = frozenset({401, 403, 404})


class EngineChoice:
    """The choice for one push. Small files make none, so it is made when the first large one comes.

    Xet it is when hf_xet is installed, `HF_HUB_DISABLE_XET` is unset and the Hub grants a token.
    """

    def __init__(self, ctx: PushContext) -> None:
        self._ctx = ctx
        self._choosing = anyio.Lock()
        self._chosen = ctx.config.transfer == "lfs"
        self._access: XetAccess | None = None

    async def xet(self) -> XetAccess | None:
        """What Xet is used with; None for LFS."""
        if not self._chosen:
            async with self._choosing:
                if not self._chosen:
                    await self._choose()
                    self._chosen = True
        return self._access

    def give_up(self, reason: str) -> None:
        """From now on it is LFS; said once, since the user should hear it."""
        if self._access is not None:
            self._access = None
            self._ctx.warn(f"Xet failed, LFS takes its place: {reason}")
            self._ctx.emit.emit(TransferChosen("lfs", reason))

    async def _choose(self) -> None:
        reason = why_not(self._ctx.config)
        if reason is None:
            try:
                self._access = await self._ask()
            except HubError as exc:
                reason = f"no Xet token: {exc.message}"
        if reason is None:
            self._ctx.emit.emit(TransferChosen("xet", "the Hub grants a token for it"))
            return
        if self._ctx.config.transfer == "xet":
            self._ctx.warn(f"LFS is used although transfer='xet' was asked: {reason}")
        self._ctx.emit.emit(TransferChosen("lfs", reason))

    async def _ask(self) -> XetAccess:
        ctx = self._ctx
        request = xet.write_token_request(
            ctx.repo, ctx.options.revision, create_pr=ctx.options.create_pr
        )
        grant = await ctx.session.ask(
            request, self._checked, ctx.emit, expected=lambda error: error.status in _REFUSALS
        )
        token = await ctx.session.token.get()
        return XetAccess(
            grant,
            urls.resolve(request.target, ctx.session.endpoint),
            {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT},
            partial(self._renewed, token),
        )

    async def _renewed(self, refused: str) -> XetAccess | None:
        """Access with another token than the one that was refused, if the user's callable has
        one: hf_xet itself knows only the one it was given."""
        tokens = self._ctx.session.token
        try:
            if not tokens.refreshable or await tokens.refresh(refused) == refused:
                return None
            self._access = await self._ask()
        except (HubError, MissingTokenError):
            return None
        self._ctx.emit.emit(TransferChosen("xet", "the Hub grants another token for it"))
        return self._access

    def _checked(self, response: HubResponse) -> XetGrant:
        """Chunks go where parts might go. A folder of this machine (`local://`, which hf_xet takes
        too) only a Hub on this machine may name."""
        grant = xet.parse_grant(response)
        endpoint = self._ctx.session.endpoint
        if grant.cas_url.startswith("local://") and urls.is_loopback(urls.origin(endpoint)[1]):
            return grant
        urls.check_target(grant.cas_url, endpoint, self._ctx.config.allowed_hosts or ())
        return grant
