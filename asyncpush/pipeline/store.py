"""From files to receipts: routes, hashes and transfers, all at once.

While `Routing` asks for the modes of files, those that are for the store are hashed and sent, each
when it is its turn. Files so large that they can only be LFS do not wait for the Hub's word: they
are hashed while it is on its way. Where Xet is the engine it is handed the files; what it leaves
goes by LFS after all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from asyncpush.concurrency.scheduling import SlotQueue
from asyncpush.concurrency.task_groups import Batcher, batches, for_each, single_error
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import FileRouted, FileStored
from asyncpush.models import FileSource, Receipt, Route
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.routing import SURELY_LFS, Routing, Stored, ask_modes
from asyncpush.pipeline.selection import TransferSelector, XetStage
from asyncpush.protocol import lfs, preupload
from asyncpush.protocol.lfs import BasicUpload, LfsActions, LfsObject, MultipartUpload
from asyncpush.redaction import redact_url
from asyncpush.sources import OpenStream
from asyncpush.sources.byte_sources import changed
from asyncpush.transfers.lfs import LfsTransfer, StaleHashError
from asyncpush.transfers.xet import XetAccess, XetFailedError, XetUpload, files_at_once


class StoreStage:
    """Stores the files of one push; `store=False` (a dry run) only finds out what would happen.
    Without `engine` it is LFS that stores the large ones."""

    def __init__(
        self, ctx: PushContext, engine: TransferSelector | None, *, store: bool = True
    ) -> None:
        self._ctx = ctx
        self._store = store
        self._objects: dict[str, anyio.Event] = {}
        self._stored = Stored()
        self._uploading = False
        self._xet: XetStage | None = None
        if engine is not None:
            self._xet = XetStage(ctx, engine, self._stored, self._begin_uploading)

    async def run(self, files: Sequence[FileSource]) -> Stored:
        """Raises what stopped it; then no receipt counts. Followed files that changed meanwhile
        are in `changed`, without a receipt."""
        try:
            routing = await self._run(files)
            left = [] if self._xet is None else await self._xet.finish()
            if left:
                await self._run_lfs(left, routing)
        finally:
            if self._xet is not None:
                await self._xet.abort()
        return self._stored

    async def _run(self, files: Sequence[FileSource]) -> Routing:
        self._ctx.enter("hashing")
        with single_error():
            async with anyio.create_task_group() as group:
                transfer = self._transfer(group)

                async def store(file: FileSource) -> None:
                    with self._stored.following(file):
                        await self._store_one(file, routing, transfer)

                queue = SlotQueue(group, self._ctx.slots, store)
                routing = Routing(self._ctx, self._stored, queue.put)
                await routing.run(files)
        return routing

    async def _run_lfs(self, files: Sequence[FileSource], routing: Routing) -> None:
        """Once more, for files that Xet did not store."""
        with single_error():
            async with anyio.create_task_group() as group:
                transfer = self._transfer(group)

                async def store(file: FileSource) -> None:
                    with self._stored.following(file):
                        await self._store_lfs(file, routing, transfer)

                queue = SlotQueue(group, self._ctx.slots, store)
                for file in files:
                    queue.put(file)

    def _transfer(self, group: TaskGroup) -> LfsTransfer:
        ctx = self._ctx
        revision = None if ctx.options.create_pr else ctx.options.revision

        async def ask_batch(objects: list[LfsObject]) -> Mapping[LfsObject, LfsActions]:
            request = lfs.batch_request(ctx.repo, objects, revision=revision)
            actions = await ctx.session.ask(
                request,
                lambda response: lfs.parse_batch(response, objects),
                ctx.events,
                describe=_describe_actions,
            )
            return {item: actions[item.oid] for item in objects}

        batch = Batcher(
            group,
            ask_batch,
            limit=lfs.BATCH_LIMIT,
            weigh=lfs.parts_expected,
            heaviest=lfs.PARTS_A_BATCH,
        )
        return LfsTransfer(
            ctx.session,
            ctx.sender,
            ctx.journal,
            ctx.push_threads,
            ctx.scope,
            batch.ask,
            partial(ctx.hasher.sha256_anew, threads=ctx.push_threads),
        )

    async def _store_one(self, file: FileSource, routing: Routing, transfer: LfsTransfer) -> None:
        access = None if self._xet is None else await self._xet.access()
        if self._xet is None or access is None or not self._store:
            await self._store_lfs(file, routing, transfer, "lfs" if access is None else "xet")
            return
        mode = await routing.to_be_stored(file)
        if mode is not None and not await self._xet.take(file, mode, access):
            await self._store_lfs(file, routing, transfer)

    async def _store_lfs(
        self, file: FileSource, routing: Routing, transfer: LfsTransfer, route: Route = "lfs"
    ) -> None:
        events = self._ctx.events
        oid = await self._ctx.hasher.sha256(file, events, self._ctx.push_threads)
        mode = await routing.to_be_stored(file)
        if mode is None:
            return
        receipt = Receipt(file.path_in_repo, file.size, oid, route)
        if mode.oid == oid or not self._store:
            self._stored.settle(receipt, events, unchanged=mode.oid == oid)
            return
        events.emit(FileRouted(file.path_in_repo, file.size, "lfs"))
        self._begin_uploading()
        try:
            stored = await self._once(file, oid, transfer)
        except StaleHashError as exc:
            # The oid was a remembered one, and the store has found out: once more, under the true.
            if mode.oid == exc.oid:
                settled = Receipt(file.path_in_repo, file.size, exc.oid, route)
                self._stored.settle(settled, events, unchanged=True)
                return
            if file.cut is not None:
                # Other stretches of that file may have gone by remembered hashes, too. None is
                # remembered any more.
                raise SourceChangedError(
                    f"{file.disk_path!r} has changed since an earlier push hashed it, though its"
                    " times have not; nothing was committed",
                    suggestion="push again: the whole file will be hashed again",
                ) from exc
            try:
                stored = await self._once(file, exc.oid, transfer)
            except StaleHashError as again:
                raise changed(file, "was written to") from again
        self._stored.receipts[file.path_in_repo] = stored

    async def _once(self, file: FileSource, oid: str, transfer: LfsTransfer) -> Receipt:
        """Identical files are stored once: the others wait for the first."""
        while (stored := self._objects.get(oid)) is not None:
            await stored.wait()
            if self._objects.get(oid) is not stored:
                continue  # the first one's bytes turned out to be others
            self._ctx.events.emit(
                FileStored(file.path_in_repo, file.size, "lfs", deduplicated=True)
            )
            return Receipt(file.path_in_repo, file.size, oid, "lfs", bytes_deduplicated=file.size)
        stored = self._objects[oid] = anyio.Event()
        try:
            receipt = await transfer.store(file, oid, self._ctx.events)
        except (StaleHashError, SourceChangedError):
            del self._objects[oid]
            stored.set()
            raise
        stored.set()
        return receipt

    def _begin_uploading(self) -> None:
        if not self._uploading:
            self._uploading = True
            self._ctx.enter("uploading")


def _describe_actions(actions: Mapping[str, LfsActions]) -> dict[str, object]:
    """For the event: how many objects are there, and where the first of the others goes."""
    described: dict[str, object] = {
        "already_stored": sum(1 for a in actions.values() if a.upload is None)
    }
    match next((a.upload for a in actions.values() if a.upload is not None), None):
        case BasicUpload(url):
            described |= {"upload_url": redact_url(url), "parts": 1}
        case MultipartUpload(parts=parts):
            described |= {"upload_url": redact_url(parts[0].url), "parts": len(parts)}
    return described


class StreamStage:
    """Stores the streams of one push whose ends are not known. What is not for Xet comes back as
    files."""

    def __init__(self, ctx: PushContext, engine: TransferSelector) -> None:
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
            return await self._ctx.xet.open(access, self._ctx.events)
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
                    stored.ignore(FileSource(stream.path_in_repo, 0, data=b""), ctx.events)
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
        self._ctx.events.emit(FileRouted(stream.path_in_repo, 0, "xet"))
        pieces = stream.pieces()
        async with aclosing(pieces):
            await upload.add_stream(stream.path_in_repo, pieces)
