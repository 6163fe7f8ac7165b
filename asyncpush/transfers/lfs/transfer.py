"""LFS as a transfer: makes the batch calls of a push, and stores each object once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from anyio.abc import TaskGroup

from asyncpush.concurrency.task_groups import Batcher
from asyncpush.errors import SourceChangedError
from asyncpush.events import Emitter, FileStored
from asyncpush.models import ComposedSource, FileSource, Receipt
from asyncpush.net.parts import PartSender
from asyncpush.options import TransferName
from asyncpush.protocol import lfs
from asyncpush.protocol.lfs import BasicUpload, LfsActions, LfsObject, MultipartUpload
from asyncpush.redaction import redact_url
from asyncpush.sources.byte_sources import changed
from asyncpush.transfers.interface import TransferContext
from asyncpush.transfers.lfs.objects import LfsUploader, StaleHashError

ANNOUNCED_FOR = 60.0
"""Seconds for which the answer to an announced object is used: its URLs expire."""


class LfsTransfer:
    """Stores the files of one push. Their batch requests are combined into few calls."""

    route: TransferName = "lfs"
    label = "LFS"
    reason = "every Hub offers it"
    needs_oid = True

    def __init__(self, ctx: TransferContext, group: TaskGroup, sender: PartSender) -> None:
        self._objects: dict[str, asyncio.Event] = {}
        self._announced: dict[LfsObject, tuple[LfsActions, float]] = {}
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

        self._batch = Batcher(
            group,
            ask_batch,
            limit=lfs.BATCH_LIMIT,
            weigh=lfs.parts_expected,
            heaviest=lfs.PARTS_A_BATCH,
        )
        self._uploader = LfsUploader(
            session=ctx.session,
            sender=sender,
            journal=ctx.journal,
            threads=ctx.push_threads,
            scope=ctx.scope,
            ask_actions=self._actions_of,
            hash_anew=partial(ctx.hasher.sha256_anew, threads=ctx.push_threads),
        )

    async def announce(self, objects: Sequence[tuple[str, int]]) -> None:
        """Raises `HubError`."""
        new = list(
            dict.fromkeys(LfsObject(oid, size) for oid, size in objects if oid not in self._objects)
        )
        answers = await self._batch.ask_all(new)
        now = asyncio.get_running_loop().time()
        self._announced.update((item, (each, now)) for item, each in zip(new, answers, strict=True))

    async def _actions_of(self, item: LfsObject) -> LfsActions:
        """The answer to the announcement, once, and a new one after that."""
        announced = self._announced.pop(item, None)
        if announced is not None:
            actions, since = announced
            if asyncio.get_running_loop().time() - since < ANNOUNCED_FOR:
                return actions
        return await self._batch.ask(item)

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> Receipt:
        """Raises `HubError`, `IntegrityError`, or `SourceChangedError`."""
        assert oid is not None
        try:
            return await self._store_once(file, oid, events)
        except StaleHashError as exc:
            # The remembered oid was out of date, as the store's refusal showed: store it under the
            # true one.
            if isinstance(file.content, ComposedSource):
                # Other parts of that file may have used remembered hashes too: drop them all.
                raise SourceChangedError(
                    f"{file.disk_path!r} has changed since an earlier push hashed it, though its"
                    " times have not; nothing was committed",
                    suggestion="try again: the whole file will be hashed again",
                ) from exc
            try:
                return await self._store_once(file, exc.oid, events)
            except StaleHashError as again:
                raise changed(file, "was written to") from again

    async def finish(self, changed: dict[str, SourceChangedError]) -> Sequence[Receipt]:
        """Nothing is left to do: `store` returns every receipt."""
        return ()

    async def abort(self) -> None:
        """Nothing is left to do: `store` ends with its file."""

    async def _store_once(self, file: FileSource, oid: str, events: Emitter) -> Receipt:
        """Store identical files once: the others wait for the first."""
        while (stored := self._objects.get(oid)) is not None:
            await stored.wait()
            if self._objects.get(oid) is not stored:
                continue  # the first file's bytes turned out to be different
            events.emit(FileStored(file.path_in_repo, file.size, "lfs", deduplicated=True))
            return Receipt(file.path_in_repo, file.size, oid, "lfs", bytes_deduplicated=file.size)
        stored = self._objects[oid] = asyncio.Event()
        try:
            receipt = await self._uploader.store(file, oid, events)
        except (StaleHashError, SourceChangedError):
            del self._objects[oid]
            stored.set()
            raise
        stored.set()
        return receipt


def _describe_actions(actions: Mapping[str, LfsActions]) -> dict[str, object]:
    """Describe for the event how many objects are stored already, and where the first of the others
    goes."""
    described: dict[str, object] = {
        "already_stored": sum(1 for a in actions.values() if a.upload is None)
    }
    match next((a.upload for a in actions.values() if a.upload is not None), None):
        case BasicUpload(url):
            described |= {"upload_url": redact_url(url), "parts": 1}
        case MultipartUpload(parts=parts):
            described |= {"upload_url": redact_url(parts[0].url), "parts": len(parts)}
    return described
