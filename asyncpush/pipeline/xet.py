"""The files of a push that Xet stores: handed over one by one, stored when all of them are.

Xet hashes them itself. Should it fail, what it was handed is given back, for LFS to store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio

from asyncpush.events import FileRouted
from asyncpush.models import FileSource, Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.engine import EngineChoice
from asyncpush.pipeline.stored import Stored
from asyncpush.protocol.preupload import UploadMode
from asyncpush.threads import in_thread
from asyncpush.transfers.xet import XetAccess, XetFailedError, XetUpload


class XetStage:
    """Opens Xet's upload with the first file; `begin_uploading` is called with each."""

    def __init__(
        self,
        ctx: PushContext,
        engine: EngineChoice,
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
            self._stored.settle(receipt, self._ctx.emit, unchanged=True)
            return True
        self._there[path] = mode.oid
        if oid is not None:
            self._remembered[path] = oid
        try:
            upload = await self._opened(access)
            self._ctx.emit.emit(FileRouted(path, file.size, "xet"))
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
        try:
            receipts = await upload.finish()
        except XetFailedError as exc:
            self._engine.give_up(exc.message)
            return upload.files
        for receipt in receipts:
            self._take_receipt(receipt)
        found = zip(upload.files, (receipt.oid for receipt in receipts), strict=True)
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
                self._upload = await self._ctx.xet.open(access, self._ctx.emit)
            return self._upload

    def _take_receipt(self, receipt: Receipt) -> None:
        path = receipt.path_in_repo
        if self._remembered.get(path, receipt.oid) != receipt.oid:
            self._ctx.warn(
                f"{path} has other bytes than it had, though its time and size are the same; what"
                " it has now was sent"
            )
        unchanged = self._there[path] == receipt.oid
        self._stored.receipts[path] = replace(receipt, unchanged=unchanged)
