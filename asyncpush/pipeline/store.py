"""From files to receipts: preupload, hashes, routes and transfers, all at once.

Three kinds of task run side by side. Preupload workers ask for the modes of 256 files a call and
settle the inline ones on the spot. File workers hash LFS files and store them. Files so large that
they can only be LFS do not wait for the answer: they are hashed while it is on its way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskGroup

from asyncpush.events import FileRouted, FileSkipped, FileStored, PhaseChanged
from asyncpush.groups import single_error
from asyncpush.models import FileSource, Receipt
from asyncpush.net.redaction import redact_url
from asyncpush.pipeline.batching import Batcher
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol import lfs, preupload
from asyncpush.protocol.lfs import LfsActions, LfsObject
from asyncpush.protocol.preupload import UploadMode
from asyncpush.sources import read_all, read_sample
from asyncpush.threads import in_thread
from asyncpush.transfers.inline import inline_receipt
from asyncpush.transfers.lfs import LfsTransfer

SURELY_LFS = 10 << 20
"""Bytes above which the Hub takes no regular file, so that hashing need not wait for its word."""

PREUPLOAD_WORKERS = 4


@dataclass(slots=True)
class Stored:
    """What came of the files: receipts by path, and the paths that the Hub ignores."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    ignored: list[FileSource] = field(default_factory=list)


class StoreStage:
    """Stores the files of one push; `store=False` (a dry run) only finds out what would happen."""

    def __init__(self, ctx: PushContext, *, store: bool = True) -> None:
        self._ctx = ctx
        self._store = store
        self._modes: dict[str, UploadMode] = {}
        self._mode_known: dict[str, anyio.Event] = {}
        self._objects: dict[str, anyio.Event] = {}
        self._stored = Stored()
        self._uploading = False

    async def run(self, files: Sequence[FileSource]) -> Stored:
        """Raises what stopped it; then no receipt counts."""
        self._ctx.emit.emit(PhaseChanged("hashing"))
        large = [file for file in files if file.size > SURELY_LFS]
        self._mode_known = {file.path_in_repo: anyio.Event() for file in large}
        gitignore = await self._gitignore(files)
        send, receive = anyio.create_memory_object_stream[FileSource](math.inf)
        with single_error():
            async with anyio.create_task_group() as group:
                transfer = self._transfer(group)
                async with send:
                    for file in large:
                        send.send_nowait(file)
                    chunks = _chunks(files, preupload.BATCH_LIMIT)
                    for _ in range(PREUPLOAD_WORKERS):
                        group.start_soon(self._ask_modes, chunks, send.clone(), gitignore)
                async with receive:
                    workers = min(self._ctx.config.max_concurrent_files, max(len(files), 1))
                    for _ in range(workers):
                        group.start_soon(self._work, receive.clone(), transfer)
        return self._stored

    def _transfer(self, group: TaskGroup) -> LfsTransfer:
        ctx = self._ctx
        revision = None if ctx.options.create_pr else ctx.options.revision

        async def ask_batch(objects: list[LfsObject]) -> Mapping[LfsObject, LfsActions]:
            request = lfs.batch_request(ctx.repo, objects, revision=revision)
            actions = await ctx.session.ask(
                request,
                lambda response: lfs.parse_batch(response, objects),
                ctx.emit,
                describe=_describe_actions,
            )
            return {item: actions[item.oid] for item in objects}

        batch = Batcher(group, ask_batch, limit=lfs.BATCH_LIMIT)
        return LfsTransfer(ctx.session, ctx.sender, ctx.journal, ctx.threads, ctx.scope, batch.ask)

    async def _gitignore(self, files: Sequence[FileSource]) -> str | None:
        """The folder's own .gitignore counts at once, not only from the next push on."""
        found = next((file for file in files if file.path_in_repo == ".gitignore"), None)
        if found is None:
            return None
        content = await in_thread(self._ctx.threads, lambda: read_all(found))
        return content.decode("utf-8", "replace")

    async def _ask_modes(
        self,
        chunks: Iterator[list[FileSource]],
        outbox: ObjectSendStream[FileSource],
        gitignore: str | None,
    ) -> None:
        ctx = self._ctx
        async with outbox:
            for chunk in chunks:  # shared by the preupload workers
                samples = await in_thread(
                    ctx.threads,
                    lambda files=chunk: [  # type: ignore[misc]
                        read_sample(file, preupload.SAMPLE_SIZE) for file in files
                    ],
                )
                modes = await ctx.session.ask(
                    preupload.preupload_request(
                        ctx.repo,
                        ctx.options.revision,
                        list(zip(chunk, samples, strict=True)),
                        create_pr=ctx.options.create_pr,
                        gitignore=gitignore,
                    ),
                    lambda response, files=chunk: preupload.parse_preupload(response, files),  # type: ignore[misc]
                    ctx.emit,
                    describe=lambda modes, files=chunk: _describe_modes(modes, files),  # type: ignore[misc]
                )
                await self._settle(chunk, modes, outbox)

    async def _settle(
        self,
        chunk: Sequence[FileSource],
        modes: Mapping[str, UploadMode],
        outbox: ObjectSendStream[FileSource],
    ) -> None:
        """Give each file of a chunk its way: ignored, inline, or to the file workers."""
        inline: list[FileSource] = []
        for file in chunk:
            mode = modes[file.path_in_repo]
            self._modes[file.path_in_repo] = mode
            waited_for = self._mode_known.get(file.path_in_repo)
            if mode.ignored:
                self._stored.ignored.append(file)
                self._ctx.emit.emit(FileSkipped(file.path_in_repo, file.size, "ignored"))
            elif mode.mode == "regular":
                inline.append(file)
            elif waited_for is None:
                await outbox.send(file)
            if waited_for is not None:
                waited_for.set()
        if inline:
            await self._settle_inline(inline, modes)

    async def _settle_inline(
        self, files: Sequence[FileSource], modes: Mapping[str, UploadMode]
    ) -> None:
        """Hash a chunk's small files in one thread hop; their bytes are read again for the commit,
        so that a hundred thousand of them need no memory."""

        def read_and_hash() -> list[Receipt]:
            receipts = []
            for file in files:
                receipt = inline_receipt(file.path_in_repo, read_all(file), unchanged=False)
                there = modes[file.path_in_repo].oid
                receipts.append(_marked(receipt, unchanged=there == receipt.oid))
            return receipts

        for receipt in await in_thread(self._ctx.threads, read_and_hash):
            self._add(receipt)

    async def _work(self, inbox: ObjectReceiveStream[FileSource], transfer: LfsTransfer) -> None:
        async with inbox:
            async for file in inbox:
                await self._store_lfs(file, transfer)

    async def _store_lfs(self, file: FileSource, transfer: LfsTransfer) -> None:
        emit = self._ctx.emit
        oid = await self._ctx.hasher.sha256(file, emit)
        if (known := self._mode_known.get(file.path_in_repo)) is not None:
            await known.wait()
        mode = self._modes[file.path_in_repo]
        if mode.ignored or mode.mode == "regular":
            return  # settled by the preupload worker
        receipt = Receipt(file.path_in_repo, file.size, oid, "lfs")
        if mode.oid == oid:
            self._add(_marked(receipt, unchanged=True))
        elif not self._store:
            self._add(receipt)
        else:
            emit.emit(FileRouted(file.path_in_repo, file.size, "lfs"))
            self._begin_uploading()
            self._stored.receipts[file.path_in_repo] = await self._once(file, oid, transfer)

    async def _once(self, file: FileSource, oid: str, transfer: LfsTransfer) -> Receipt:
        """Identical files are stored once: the others wait for the first."""
        if (stored := self._objects.get(oid)) is not None:
            await stored.wait()
            self._ctx.emit.emit(FileStored(file.path_in_repo, file.size, "lfs", deduplicated=True))
            return Receipt(file.path_in_repo, file.size, oid, "lfs", bytes_deduplicated=file.size)
        stored = self._objects[oid] = anyio.Event()
        receipt = await transfer.store(file, oid, self._ctx.emit)
        stored.set()
        return receipt

    def _add(self, receipt: Receipt) -> None:
        emit = self._ctx.emit
        self._stored.receipts[receipt.path_in_repo] = receipt
        if receipt.unchanged:
            emit.emit(FileSkipped(receipt.path_in_repo, receipt.size, "unchanged"))
        else:
            emit.emit(FileRouted(receipt.path_in_repo, receipt.size, receipt.route))

    def _begin_uploading(self) -> None:
        if not self._uploading:
            self._uploading = True
            self._ctx.emit.emit(PhaseChanged("uploading"))


def _marked(receipt: Receipt, *, unchanged: bool) -> Receipt:
    return replace(
        receipt, unchanged=unchanged, bytes_deduplicated=receipt.size if unchanged else 0
    )


def _chunks(files: Iterable[FileSource], size: int) -> Iterator[list[FileSource]]:
    remaining = iter(files)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _describe_modes(
    modes: Mapping[str, UploadMode], files: Sequence[FileSource]
) -> dict[str, object]:
    return {
        "files": [
            {
                "file": file.path_in_repo,
                "size": file.size,
                "route": _route_name(modes[file.path_in_repo]),
            }
            for file in files
        ]
    }


def _route_name(mode: UploadMode) -> str:
    if mode.ignored:
        return "ignored"
    return "inline" if mode.mode == "regular" else "lfs"


def _describe_actions(actions: Mapping[str, LfsActions]) -> dict[str, object]:
    first = next((a.upload for a in actions.values() if a.upload is not None), None)
    described: dict[str, object] = {
        "already_stored": sum(1 for a in actions.values() if a.upload is None)
    }
    if first is not None:
        target = first.parts[0].url if first.parts else first.href
        described["upload_url"] = redact_url(target)
        described["parts"] = len(first.parts) or 1
    return described
