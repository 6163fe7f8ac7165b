"""Streams too long for memory: read on as they are sent, by Xet, or else put on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio

from asyncpush.errors import AsyncPushError
from asyncpush.events import FileRouted
from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.engine import EngineChoice
from asyncpush.pipeline.routing import SURELY_LFS, ask_modes
from asyncpush.pipeline.stored import Stored
from asyncpush.protocol import preupload
from asyncpush.sources import OpenStream
from asyncpush.transfers.xet import XetAccess, XetFailedError, XetUpload, files_at_once
from asyncpush.workers import batches, for_each


class StreamStage:
    """Stores the streams of one push whose ends are not known. What is not for Xet comes back as
    files."""

    def __init__(self, ctx: PushContext, engine: EngineChoice) -> None:
        self._ctx = ctx
        self._engine = engine

    async def run(
        self, streams: Sequence[OpenStream], *, store: bool = True
    ) -> tuple[Stored, list[FileSource]]:
        """What came of the streams that Xet has taken, and files for the rest. Raises what stopped
        it: a stream can be read once only, so nothing takes Xet's place in the middle of one."""
        if not streams:
            return Stored(), []
        access = await self._engine.xet() if store else None
        upload = None if access is None else await self._open(access)
        if upload is None:
            return Stored(), await self._spool(streams)
        try:
            return await self._send(upload, streams), []
        except XetFailedError as exc:
            raise AsyncPushError(
                f"Xet failed: {exc.message}",
                suggestion="a stream cannot be read twice: push again, or with transfer='lfs'",
            ) from None
        finally:
            with anyio.CancelScope(shield=True):
                await upload.abort()

    async def _spool(self, streams: Sequence[OpenStream]) -> list[FileSource]:
        files: list[FileSource] = []

        async def spool(stream: OpenStream) -> None:
            files.append(await stream.spooled())

        await for_each(streams, spool, width=len(streams))
        return files

    async def _open(self, access: XetAccess) -> XetUpload | None:
        try:
            return await self._ctx.xet.open(access, self._ctx.emit)
        except XetFailedError as exc:
            self._engine.give_up(exc.message)
            return None

    async def _send(self, upload: XetUpload, streams: Sequence[OpenStream]) -> Stored:
        ctx = self._ctx
        # As large as they are known to be; of what they begin with, the Hub sees a sample.
        size = SURELY_LFS + 1
        there: dict[str, str | None] = {}
        stored = Stored()
        chosen: list[OpenStream] = []
        ctx.enter("uploading")
        for batch in batches(streams, preupload.BATCH_LIMIT):
            files = [FileSource(stream.path_in_repo, size, data=stream.head) for stream in batch]
            samples = [stream.head[: preupload.SAMPLE_SIZE] for stream in batch]
            modes = await ask_modes(ctx, files, samples)
            for stream in batch:
                mode = modes[stream.path_in_repo]
                if mode.ignored:
                    stored.ignore(FileSource(stream.path_in_repo, 0, data=b""), ctx.emit)
                    continue
                there[stream.path_in_repo] = mode.oid
                chosen.append(stream)
        send = partial(self._send_one, upload)
        await for_each(chosen, send, width=files_at_once(ctx.config))
        for receipt in await upload.finish():
            same = there[receipt.path_in_repo] == receipt.oid
            stored.receipts[receipt.path_in_repo] = replace(receipt, unchanged=same)
        return stored

    async def _send_one(self, upload: XetUpload, stream: OpenStream) -> None:
        self._ctx.emit.emit(FileRouted(stream.path_in_repo, 0, "xet"))
        pieces = stream.pieces()
        async with aclosing(pieces):
            await upload.add_stream(stream.path_in_repo, pieces)
