"""Opens Xet transfers, one for each push, and the stores of buckets. All share one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from asyncpush.errors import AsyncPushError, HubError, SourceChangedError
from asyncpush.events import Emitter
from asyncpush.models import FileSource, Receipt
from asyncpush.options import TransferName, UploadConfig
from asyncpush.sources import OpenStream
from asyncpush.transfers.interface import TransferContext, TransferUnavailableError
from asyncpush.transfers.xet.installation import unavailable_reason

if TYPE_CHECKING:
    from asyncpush.transfers.xet.access import XetAccess
    from asyncpush.transfers.xet.engine import XetEngine, XetUpload


class XetFactory:
    """Xet can be used when hf_xet is installed, `HF_HUB_DISABLE_XET` is unset and the Hub grants a
    write token for the repo."""

    route: TransferName = "xet"
    label = "Xet"
    takes_streams = True

    def __init__(self, config: UploadConfig) -> None:
        self._config = config
        self._shared_engine: XetEngine | None = None

    def unavailable_reason(self) -> str | None:
        return unavailable_reason(self._config)

    async def open(self, ctx: TransferContext, group: TaskGroup) -> XetTransfer:
        if (reason := self.unavailable_reason()) is not None:
            raise TransferUnavailableError(reason)
        # Imported here, since most pushes of small files open no transfer.
        from asyncpush.protocol import xet
        from asyncpush.transfers.xet.access import XetTokens

        options = ctx.options
        request = xet.write_token_request(ctx.repo, options.revision, create_pr=options.create_pr)
        try:
            access = await XetTokens(ctx.session, ctx.events, request).access()
        except HubError as exc:
            raise TransferUnavailableError(f"no Xet token: {exc.message}") from exc
        return XetTransfer(await self._engine(), access, ctx.events)

    async def hash_files(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
    ) -> dict[str, str]:
        return await (await self._engine()).hash_files(files, changed)

    async def open_bucket(self, ctx: TransferContext, *, write: bool) -> XetBucket:
        if (reason := self.unavailable_reason()) is not None:
            raise AsyncPushError(
                f"buckets accept files only through Xet, but {reason}",
                suggestion="install hf_xet, use transfer='auto' or 'xet', and unset"
                " HF_HUB_DISABLE_XET",
            )
        from asyncpush.protocol import buckets
        from asyncpush.transfers.xet.access import XetTokens

        request = buckets.xet_token_request(ctx.repo, write=write)
        access = await XetTokens(ctx.session, ctx.events, request).access()
        return XetBucket(await self._engine(), access, ctx.events)

    async def close(self) -> None:
        if self._shared_engine is not None:
            await self._shared_engine.close()

    async def _engine(self) -> XetEngine:
        """The engine that all pushes share. Its modules are imported with the first push that needs
        them, in a thread, since most pushes of small files do not."""
        if self._shared_engine is None:
            engine_class = await asyncio.to_thread(_engine_class)
            if self._shared_engine is None:  # otherwise another push was faster
                self._shared_engine = engine_class(self._config)
        return self._shared_engine


def _engine_class() -> type[XetEngine]:
    from asyncpush.transfers.xet.engine import XetEngine

    return XetEngine


class XetTransfer:
    """Stores the files of one push. The upload commit is opened with the first file, and again with
    the first one after `finish`. hf_xet hashes files while it reads them."""

    route: TransferName = "xet"
    label = "Xet"
    reason = "the Hub grants a token for it"
    needs_oid = False

    def __init__(self, engine: XetEngine, access: XetAccess, events: Emitter) -> None:
        self._engine = engine
        self._access = access
        self._events = events
        self._opening = asyncio.Lock()
        self._upload: XetUpload | None = None

    async def connect(self) -> None:
        """Open the upload commit. Raises `XetFailedError`."""
        await self._opened()

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> None:
        """Start to send a file. Raises `XetFailedError`; `SourceError` and `SourceChangedError`
        when the file is the cause."""
        upload = await self._opened()
        await upload.add(file)

    async def store_stream(self, stream: OpenStream) -> None:
        """Send a stream. Raises `XetFailedError`, and what the stream raises."""
        upload = await self._opened()
        await upload.add_stream(stream)

    async def finish(self, changed: dict[str, SourceChangedError]) -> Sequence[Receipt]:
        """Wait for the store. Raises as `store` does."""
        if self._upload is None:
            return ()
        try:
            receipts = await self._upload.finish(changed=changed)
        except SourceChangedError:
            await self.abort()
            self._upload = None
            raise
        self._upload = None
        return receipts

    async def abort(self) -> None:
        """Stop. What was sent already is not sent again next time."""
        if self._upload is not None:
            await self._upload.abort()

    async def _opened(self) -> XetUpload:
        async with self._opening:
            if self._upload is None:
                self._upload = await self._engine.open(self._access, self._events)
            return self._upload


class XetBucket:
    """The Xet store of one bucket. Buckets do not offer LFS."""

    def __init__(self, engine: XetEngine, access: XetAccess, events: Emitter) -> None:
        self._engine = engine
        self._access = access
        self._events = events

    async def open_upload(self, *, brief: bool = False) -> XetUpload:
        """Raises `XetFailedError`."""
        return await self._engine.open(self._access, self._events, with_sha256=False, brief=brief)

    async def read(self, content_hash: str, size: int) -> bytes:
        """Raises `XetFailedError`."""
        return await self._engine.read(self._access, content_hash, size)
