"""From files to receipts: routing, hashing and transfers run at the same time.

While `Routing` asks for the modes of files, those that are to be stored are hashed and sent as soon
as slots are free. Files so large that they can only be LFS are hashed before the Hub has answered.
A file whose transfer fails goes to the next transfer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import field, replace
from functools import partial

import anyio

from asyncpush.concurrency.task_groups import SlotQueue, batches, for_each, for_group, single_error
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import FileRouted
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import BytesSource, FileSource, Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.routing import SURELY_LFS, Candidate, EarlyModes, Routing, Stored, ask_modes
from asyncpush.pipeline.selection import TransferSelector
from asyncpush.pipeline.small_files import SmallFile, SmallFiles, check_unchanged
from asyncpush.protocol import commits
from asyncpush.sources import OpenStream
from asyncpush.transfers.interface import StreamTransfer, Transfer, TransferFailedError


@dataclass(slots=True)
class _Sent:
    """A file given to a transfer; its receipt follows when the transfer finishes."""

    candidate: Candidate
    remote_oid: str | None
    """The oid of the repo's file at this path."""
    known_oid: str | None
    """The file's oid from an earlier hash."""


@dataclass(slots=True)
class _Unfinished:
    """The files that one transfer has not finished, by path."""

    files: dict[str, _Sent] = field(default_factory=dict)
    began: float = field(default_factory=time.time)


class StoreStage:
    """Stores the files of one push. With `store=False` (a dry run) it only finds out what would
    happen."""

    def __init__(
        self,
        ctx: PushContext,
        selector: TransferSelector,
        *,
        store: bool = True,
        early: EarlyModes | None = None,
    ) -> None:
        self._ctx = ctx
        self._selector = selector
        self._storing = store
        self._early = early
        self._stored = Stored()
        self._unfinished: dict[Transfer, _Unfinished] = {}
        self._sent_from_memory: list[tuple[FileSource, str]] = []
        """Small files and their oids, to be checked."""

    async def run(self, files: Sequence[FileSource]) -> Stored:
        """Store the files. Raises the error that stopped it; then no receipt counts. Followed files
        that changed in the meantime are in `changed`, and have no receipt."""
        ctx = self._ctx
        ctx.enter("hashing")
        outbox, inbox = anyio.create_memory_object_stream[list[Candidate]]()
        with outbox, inbox, single_error(), ctx.hasher.memory() as memory:
            async with anyio.create_task_group() as group:
                queue = SlotQueue(group, ctx.slots, self._store_one)
                small = SmallFiles(ctx, self._selector, self._stored, memory, group, queue)
                routing = Routing(ctx, self._stored, self._early)
                group.start_soon(for_group(routing.run), files, outbox)
                async for candidates in inbox:
                    for candidate in candidates:
                        if not (self._storing and ctx.hasher.is_small(candidate.file)):
                            queue.put(candidate)
                    if self._storing:
                        small.put(each for each in candidates if ctx.hasher.is_small(each.file))
        changed = await check_unchanged(ctx, self._sent_from_memory)
        self._stored.changed.update(changed)
        for path in changed:
            del self._stored.receipts[path]
        while self._unfinished:
            transfer, unfinished = self._unfinished.popitem()
            await self._store_all(await self._finish(transfer, unfinished))
        return self._stored

    async def _store_all(self, candidates: Sequence[Candidate]) -> None:
        with single_error():
            async with anyio.create_task_group() as group:
                queue = SlotQueue(group, self._ctx.slots, self._store_one)
                for candidate in candidates:
                    queue.put(candidate)

    async def _store_one(self, item: Candidate | SmallFile) -> None:
        if isinstance(item, Candidate):
            with self._stored.following(item.file):
                await self._store(item)
            return
        with self._stored.following(item.candidate.file):
            try:
                stored = await self._store_small(item)
            finally:
                item.done()
            if not stored:
                await self._store(item.candidate)

    async def _store(self, candidate: Candidate) -> None:
        transfer = await self._selector.chosen()
        try:
            await self._store_by(transfer, candidate)
        except TransferFailedError as exc:
            self._selector.give_up(transfer, exc.message)
            await self._store(candidate)

    async def _store_by(self, transfer: Transfer, candidate: Candidate) -> None:
        ctx, file = self._ctx, candidate.file
        if transfer.needs_oid or not self._storing:
            oid: str | None = await ctx.hasher.sha256(file, ctx.events, ctx.push_threads)
        else:
            oid = await ctx.hasher.remembered(file, ctx.push_threads)
        mode = await candidate.mode()
        if mode is None:
            return
        unchanged = oid is not None and mode.oid == oid
        if unchanged or not self._storing:
            receipt = Receipt(file.path_in_repo, file.size, oid or "", transfer.route)
            self._stored.settle(receipt, ctx.events, unchanged=unchanged)
            return
        self._begin(file, transfer)
        stored = await transfer.store(file, oid, ctx.events)
        sent = _Sent(candidate, mode.oid, oid)
        if stored is None:
            unfinished = self._unfinished.setdefault(transfer, _Unfinished())
            unfinished.files[file.path_in_repo] = sent
        else:
            self._take(stored, sent.remote_oid)

    async def _store_small(self, small: SmallFile) -> bool:
        """Returns whether it is stored; otherwise its transfer has failed."""
        transfer, hashed, file = small.transfer, small.hashed, small.candidate.file
        if await self._selector.chosen() is not transfer:
            return False
        self._begin(file, transfer)
        try:
            receipt = await transfer.store(hashed.kept or file, hashed.oid, self._ctx.events)
        except TransferFailedError as exc:
            self._selector.give_up(transfer, exc.message)
            return False
        if hashed.kept is not None:
            self._sent_from_memory.append((file, hashed.oid))
        self._take(receipt, small.there)
        return True

    def _begin(self, file: FileSource, transfer: Transfer) -> None:
        ctx = self._ctx
        ctx.events.emit(FileRouted(file.path_in_repo, file.size, transfer.route))
        ctx.enter("uploading")

    async def _finish(self, transfer: Transfer, unfinished: _Unfinished) -> list[Candidate]:
        """Collect the receipts. Returns the files that another transfer must store if this one
        failed."""
        left = [sent.candidate for sent in unfinished.files.values()]
        if await self._selector.chosen() is not transfer:
            return left  # it has failed already
        changed = self._stored.changed
        try:
            receipts = await transfer.finish(changed)
        except TransferFailedError as exc:
            self._selector.give_up(transfer, exc.message)
            return left
        except SourceChangedError as exc:
            if not any(candidate.file.may_change for candidate in left):
                raise
            # It failed on one file, and which of the others it has stored is not known.
            changed.update((candidate.file.path_in_repo, exc) for candidate in left)
            return []
        found: list[tuple[FileSource, str]] = []
        for receipt in receipts:
            sent = unfinished.files[receipt.path_in_repo]
            if sent.known_oid is not None and sent.known_oid != receipt.oid:
                self._ctx.warn(
                    f"{receipt.path_in_repo} changed although its time and size did not;"
                    " the current content was uploaded"
                )
            self._take(receipt, sent.remote_oid)
            found.append((sent.candidate.file, receipt.oid))
        remember = partial(self._ctx.hasher.remember, found, unfinished.began)
        await in_thread(self._ctx.push_threads.journal, remember)
        return []

    def _take(self, receipt: Receipt, there: str | None) -> None:
        if receipt.oid == there:
            receipt = replace(receipt, unchanged=True)
        self._stored.receipts[receipt.path_in_repo] = receipt


class StreamStage:
    """Stores the streams of one push whose sizes are not known. When the transfer does not accept
    streams, they are returned as files."""

    def __init__(self, ctx: PushContext, selector: TransferSelector) -> None:
        self._ctx = ctx
        self._selector = selector

    async def run(
        self, streams: Sequence[OpenStream], *, store: bool = True
    ) -> tuple[Stored, list[FileSource]]:
        """Returns what was stored, and files for the remaining streams. Raises the error that
        stopped it: a stream can be read only once, so no other transfer can take over in the middle
        of one."""
        if not streams:
            return Stored(), []
        transfer = await self._connected() if store else None
        if transfer is None:
            return Stored(), await self._spool(streams)
        try:
            return await self._send(transfer, streams), []
        except TransferFailedError as exc:
            raise AsyncPushError(
                f"{transfer.label} failed: {exc.message}",
                suggestion="a stream cannot be read twice: try again, or with transfer='lfs'",
            ) from None

    async def _connected(self) -> StreamTransfer | None:
        """A transfer that accepts streams and whose store can be reached, or None."""
        while isinstance(transfer := await self._selector.chosen(), StreamTransfer):
            try:
                await transfer.connect()
            except TransferFailedError as exc:
                self._selector.give_up(transfer, exc.message)
            else:
                return transfer
        return None

    async def _spool(self, streams: Sequence[OpenStream]) -> list[FileSource]:
        files: list[FileSource] = []

        async def spool(stream: OpenStream) -> None:
            files.append(await stream.spooled())

        await for_each(streams, spool, width=len(streams))
        return files

    async def _send(self, transfer: StreamTransfer, streams: Sequence[OpenStream]) -> Stored:
        ctx = self._ctx
        # The Hub gets the size known so far, and a sample of the beginning.
        size = SURELY_LFS + 1
        there: dict[str, str | None] = {}
        stored = Stored()
        chosen: list[OpenStream] = []
        ctx.enter("uploading")
        for batch in batches(streams, commits.PREUPLOAD_LIMIT):
            files = [
                FileSource(stream.path_in_repo, size, BytesSource(stream.head)) for stream in batch
            ]
            samples = [stream.head[: commits.SAMPLE_SIZE] for stream in batch]
            modes = await ask_modes(ctx, files, samples)
            for stream in batch:
                mode = modes[stream.path_in_repo]
                if mode.ignored:
                    stored.ignore(FileSource.of_bytes(stream.path_in_repo, b""), ctx.events)
                    continue
                there[stream.path_in_repo] = mode.oid
                chosen.append(stream)

        async def send(stream: OpenStream) -> None:
            if stream not in chosen:
                await stream.discarded()
                return
            ctx.events.emit(FileRouted(stream.path_in_repo, 0, transfer.route))
            await transfer.store_stream(stream)

        # Handle all at the same time, including those that the Hub ignores: one producer may write
        # them in turn. There are only as many as there is memory for their beginnings.
        await for_each(streams, send, width=len(streams))
        for receipt in await transfer.finish({}):
            same = there[receipt.path_in_repo] == receipt.oid
            stored.receipts[receipt.path_in_repo] = replace(receipt, unchanged=same)
        return stored
