"""Which transfer stores the files of a push, and the stage that hands files to Xet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio

from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import HubError, MissingTokenError, SourceChangedError
from asyncpush.events import FileRouted, TransferChosen
from asyncpush.models import FileSource, Receipt
from asyncpush.net.session import USER_AGENT
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.routing import Stored
from asyncpush.protocol import urls, xet
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.preupload import UploadMode
from asyncpush.protocol.xet import XetGrant
from asyncpush.transfers.xet import XetAccess, XetFailedError, XetUpload, unavailable_reason

_REFUSALS = frozenset({401, 403, 404})


class TransferSelector:
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
            self._ctx.warn(f"Xet failed, uploading with LFS instead: {reason}")
            self._ctx.events.emit(TransferChosen("lfs", reason))

    async def _choose(self) -> None:
        reason = unavailable_reason(self._ctx.config)
        if reason is None:
            try:
                self._access = await self._ask()
            except HubError as exc:
                reason = f"no Xet token: {exc.message}"
        if reason is None:
            self._ctx.events.emit(TransferChosen("xet", "the Hub grants a token for it"))
            return
        if self._ctx.config.transfer == "xet":
            self._ctx.warn(f"using LFS although transfer='xet' was requested: {reason}")
        self._ctx.events.emit(TransferChosen("lfs", reason))

    async def _ask(self) -> XetAccess:
        ctx = self._ctx
        request = self._token_request()
        grant = await ctx.session.ask(
            request, self._checked, ctx.events, expected=lambda error: error.status in _REFUSALS
        )
        token = await ctx.session.token.get()
        return XetAccess(
            grant,
            urls.resolve(request.target, ctx.session.endpoint),
            {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT},
            partial(self._renewed, token),
        )

    def _token_request(self) -> HubRequest:
        ctx = self._ctx
        return xet.write_token_request(
            ctx.repo, ctx.options.revision, create_pr=ctx.options.create_pr
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
        self._ctx.events.emit(TransferChosen("xet", "the Hub grants another token for it"))
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


class XetStage:
    """Opens Xet's upload with the first file; `begin_uploading` is called with each."""

    def __init__(
        self,
        ctx: PushContext,
        engine: TransferSelector,
        stored: Stored,
        begin_uploading: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._engine = engine
        self._stored = stored
        self._begin_uploading = begin_uploading
        self._opening = anyio.Lock()
        self._upload: XetUpload | None = None
        self._there: dict[str, str | None] = {}
        """By path, the oid of what the repo holds there."""
        self._remembered: dict[str, str] = {}
        """By path, the oid that the file had when it was hashed before."""

    async def access(self) -> XetAccess | None:
        """What Xet is used with; None when files are for LFS, or are by now."""
        return await self._engine.xet()

    async def take(self, file: FileSource, mode: UploadMode, access: XetAccess) -> bool:
        """False when Xet has failed, and it is for LFS to store the file."""
        path = file.path_in_repo
        oid = await self._ctx.hasher.remembered(file, self._ctx.push_threads)
        if oid is not None and oid == mode.oid:
            receipt = Receipt(path, file.size, oid, "xet")
            self._stored.settle(receipt, self._ctx.events, unchanged=True)
            return True
        self._there[path] = mode.oid
        if oid is not None:
            self._remembered[path] = oid
        try:
            upload = await self._opened(access)
            self._ctx.events.emit(FileRouted(path, file.size, "xet"))
            self._begin_uploading()
            await upload.add(file)
        except XetFailedError as exc:
            self._engine.give_up(exc.message)
            return False
        return True

    async def finish(self) -> list[FileSource]:
        """Take the receipts; the files that were not stored, if Xet failed."""
        upload = self._upload
        if upload is None:
            return []
        if await self._engine.xet() is None:
            return upload.files
        changed = self._stored.changed
        try:
            receipts = await upload.finish(changed=changed)
        except XetFailedError as exc:
            self._engine.give_up(exc.message)
            return upload.files
        except SourceChangedError as exc:
            if not any(file.may_change for file in upload.files):
                raise
            # hf_xet failed on one file, and it is not known what it has stored of the others.
            changed.update((file.path_in_repo, exc) for file in upload.files)
            return []
        oids = {receipt.path_in_repo: receipt.oid for receipt in receipts}
        for receipt in receipts:
            self._take_receipt(receipt)
        found = [(file, oids[path]) for file in upload.files if (path := file.path_in_repo) in oids]
        remember = partial(self._ctx.hasher.remember, found, upload.began)
        await in_thread(self._ctx.push_threads.journal, remember)
        return []

    async def abort(self) -> None:
        """Whatever has not been finished is given up; also while the push is cancelled."""
        if self._upload is not None:
            with anyio.CancelScope(shield=True):
                await self._upload.abort()

    async def _opened(self, access: XetAccess) -> XetUpload:
        async with self._opening:
            if self._upload is None:
                self._upload = await self._ctx.xet.open(access, self._ctx.events)
            return self._upload

    def _take_receipt(self, receipt: Receipt) -> None:
        path = receipt.path_in_repo
        if self._remembered.get(path, receipt.oid) != receipt.oid:
            self._ctx.warn(
                f"{path} changed although its time and size did not;"
                " the current content was uploaded"
            )
        unchanged = self._there[path] == receipt.oid
        self._stored.receipts[path] = replace(receipt, unchanged=unchanged)
