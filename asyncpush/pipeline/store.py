"""From files to receipts: preupload, hashes, routes and transfers, all at once.

Three kinds of task run side by side. Preupload workers ask for the modes of 256 files a call and
settle the inline ones on the spot. File workers hash LFS files and store them. Files so large that
they can only be LFS do not wait for the answer: they are hashed while it is on its way. Where Xet
is the engine, file workers hand it the files, which it hashes itself; all of them are stored when
its upload is finished, or, should Xet fail, by LFS after all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncpush.events import FileRouted, FileSkipped, FileStored, PhaseChanged
from asyncpush.groups import single_error
from asyncpush.models import FileSource, Receipt, Route
from asyncpush.net.redaction import redact_url
from asyncpush.pipeline.batching import Batcher
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.engine import EngineChoice
from asyncpush.protocol import lfs, preupload
from asyncpush.protocol.lfs import LfsActions, LfsObject
from asyncpush.protocol.preupload import UploadMode
from asyncpush.sources import read_all, read_sample
from asyncpush.threads import in_thread
from asyncpush.transfers.inline import git_blob_oid, inline_receipt
from asyncpush.transfers.lfs import LfsTransfer
from asyncpush.transfers.xet import XetAccess, XetFailedError, XetUpload

SURELY_LFS = 10 << 20
"""Bytes above which the Hub takes no regular file, so that hashing need not wait for its word."""

SURELY_CHEAP = 32 << 10
"""Bytes up to which a file is hashed before the Hub has said whether that hash is wanted."""

PREUPLOAD_WORKERS = 4


@dataclass(slots=True)
class Stored:
    """What came of the files: receipts by path, and the paths that the Hub ignores."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    ignored: list[FileSource] = field(default_factory=list)


class StoreStage:
    """Stores the files of one push; `store=False` (a dry run) only finds out what would happen.
    Without `engine` it is LFS that stores the large ones."""

    def __init__(
        self, ctx: PushContext, engine: EngineChoice | None, *, store: bool = True
    ) -> None:
        self._ctx = ctx
        self._store = store
        self._modes: dict[str, UploadMode] = {}
        self._mode_known: dict[str, anyio.Event] = {}
        self._objects: dict[str, anyio.Event] = {}
        self._stored = Stored()
        self._uploading = False
        self._engine = engine
        self._xet_opening = anyio.Lock()
        self._xet: XetUpload | None = None
        self._remembered: dict[str, str] = {}

    async def run(self, files: Sequence[FileSource]) -> Stored:
        """Raises what stopped it; then no receipt counts."""
        try:
            await self._run(files)
            left = await self._finish_xet()
            if left:
                await self._run_lfs(left)
        finally:
            with anyio.CancelScope(shield=True):
                if self._xet is not None:
                    await self._xet.abort()
        return self._stored

    async def _run(self, files: Sequence[FileSource]) -> None:
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
                    self._start_workers(group, workers, receive, transfer)

    async def _run_lfs(self, files: Sequence[FileSource]) -> None:
        """Once more, for files that Xet did not store: their modes are known."""
        send, receive = anyio.create_memory_object_stream[FileSource](math.inf)
        with single_error():
            async with anyio.create_task_group() as group:
                transfer = self._transfer(group)
                async with send, receive:
                    for file in files:
                        send.send_nowait(file)
                    workers = min(self._ctx.config.max_concurrent_files, len(files))
                    self._start_workers(group, workers, receive, transfer)

    def _start_workers(
        self,
        group: TaskGroup,
        count: int,
        inbox: MemoryObjectReceiveStream[FileSource],
        transfer: LfsTransfer,
    ) -> None:
        for number in range(count):
            turns = self._ctx.file_turns if number else nullcontext()
            group.start_soon(self._work, inbox.clone(), transfer, turns)

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

        batch = Batcher(
            group,
            ask_batch,
            limit=lfs.BATCH_LIMIT,
            weigh=lfs.parts_expected,
            heaviest=lfs.PARTS_A_BATCH,
        )
        return LfsTransfer(ctx.session, ctx.sender, ctx.journal, ctx.hops, ctx.scope, batch.ask)

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
                samples, oids = await in_thread(ctx.threads, partial(_look_at, chunk))
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
                await self._settle(chunk, modes, oids, outbox)

    async def _settle(
        self,
        chunk: Sequence[FileSource],
        modes: Mapping[str, UploadMode],
        oids: Mapping[str, str],
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
            await self._settle_inline(inline, modes, oids)

    async def _settle_inline(
        self,
        files: Sequence[FileSource],
        modes: Mapping[str, UploadMode],
        oids: Mapping[str, str],
    ) -> None:
        """Receipts for a chunk's regular files. Their bytes are read again for the commit: of a
        hundred thousand of them none stay in memory."""

        def read_and_hash() -> list[Receipt]:
            receipts = []
            for file in files:
                path = file.path_in_repo
                oid = oids.get(path) or git_blob_oid(read_all(file))
                receipts.append(inline_receipt(path, file.size, oid, there=modes[path].oid))
            return receipts

        for receipt in await in_thread(self._ctx.threads, read_and_hash):
            self._add(receipt)

    async def _work(
        self,
        inbox: ObjectReceiveStream[FileSource],
        transfer: LfsTransfer,
        turns: AbstractAsyncContextManager[object],
    ) -> None:
        async with inbox:
            async for file in inbox:
                async with turns:
                    await self._store_one(file, transfer)

    async def _store_one(self, file: FileSource, transfer: LfsTransfer) -> None:
        access = None if self._engine is None else await self._engine.xet()
        if access is None or not self._store:
            await self._store_lfs(file, transfer, "lfs" if access is None else "xet")
        elif not await self._hand_to_xet(file, access):
            await self._store_lfs(file, transfer)

    async def _hand_to_xet(self, file: FileSource, access: XetAccess) -> bool:
        """False when Xet has failed, and it is for LFS to store the file."""
        if (known := self._mode_known.get(file.path_in_repo)) is not None:
            await known.wait()
        mode = self._modes[file.path_in_repo]
        if mode.ignored or mode.mode == "regular":
            return True  # settled by the preupload worker
        oid = self._ctx.hasher.remembered(file)
        if oid is not None and oid == mode.oid:
            self._add(_marked(Receipt(file.path_in_repo, file.size, oid, "xet"), unchanged=True))
            return True
        if oid is not None:
            self._remembered[file.path_in_repo] = oid
        try:
            upload = await self._xet_upload(access)
            self._ctx.emit.emit(FileRouted(file.path_in_repo, file.size, "xet"))
            self._begin_uploading()
            await upload.add(file)
        except XetFailedError as exc:
            assert self._engine is not None
            self._engine.give_up(exc.message)
            return False
        return True

    async def _xet_upload(self, access: XetAccess) -> XetUpload:
        async with self._xet_opening:
            if self._xet is None:
                self._xet = await self._ctx.xet.open(access, self._ctx.emit)
            return self._xet

    async def _finish_xet(self) -> list[FileSource]:
        """Take Xet's receipts; the files that it did not store, if it failed."""
        upload = self._xet
        if upload is None or self._engine is None:
            return []
        if await self._engine.xet() is None:
            return upload.files
        try:
            receipts = await upload.finish()
        except XetFailedError as exc:
            self._engine.give_up(exc.message)
            return upload.files
        for receipt in receipts:
            same = self._modes[receipt.path_in_repo].oid == receipt.oid
            if self._remembered.get(receipt.path_in_repo, receipt.oid) != receipt.oid:
                self._ctx.warn(
                    f"{receipt.path_in_repo} has other bytes than it had, though its time and size"
                    " are the same; what it has now was sent"
                )
            self._stored.receipts[receipt.path_in_repo] = replace(receipt, unchanged=same)
        found = zip(upload.files, (receipt.oid for receipt in receipts), strict=True)
        # Not among the hashing threads: other pushes' files may queue there for long.
        remember = partial(self._ctx.hasher.remember, found, upload.began)
        await in_thread(self._ctx.threads, remember)
        return []

    async def _store_lfs(
        self, file: FileSource, transfer: LfsTransfer, route: Route = "lfs"
    ) -> None:
        emit = self._ctx.emit
        oid = await self._ctx.hasher.sha256(file, emit)
        if (known := self._mode_known.get(file.path_in_repo)) is not None:
            await known.wait()
        mode = self._modes[file.path_in_repo]
        if mode.ignored or mode.mode == "regular":
            return  # settled by the preupload worker
        receipt = Receipt(file.path_in_repo, file.size, oid, route)
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


def _look_at(files: Sequence[FileSource]) -> tuple[list[bytes], dict[str, str]]:
    """The first bytes of each file, for preupload, and the git blob hashes of small ones: most of
    them are regular files, and to open a file once more costs 15 µs of CPU (measured)."""
    samples, oids = [], {}
    for file in files:
        if file.size <= SURELY_CHEAP:
            content = read_all(file)
            oids[file.path_in_repo] = git_blob_oid(content)
            samples.append(content[: preupload.SAMPLE_SIZE])
        else:
            samples.append(read_sample(file, preupload.SAMPLE_SIZE))
    return samples, oids


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
