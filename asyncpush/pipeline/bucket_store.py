"""What a sync sends to the Xet store. Nothing of it shows in the bucket yet.

Files that change meanwhile are followed as in a push: collected again, and sent as they are then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import anyio

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import FileRouted, FilesPlanned, TransferChosen
from asyncpush.models import FileSource, Receipt
from asyncpush.pipeline.bucket import BucketXet
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import check_leaks
from asyncpush.sources import CollectedSources, OpenStream
from asyncpush.sources.changing import COLLECTED_AGAIN, changes_of
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.transfers.xet import XetFailedError, XetUpload

ADDED_TOGETHER = 64
"""Files that are handed to hf_xet, which queues them, in one hop to a thread."""

ADDED_AT_ONCE = 2


@dataclass(slots=True)
class BucketStore:
    """The Xet store of the bucket that a sync goes to."""

    ctx: PushContext
    gone: set[str] = field(default_factory=set)
    """Paths of files that were left out, since they are no longer in the source."""
    collected_again: dict[str, FileSource] = field(default_factory=dict)
    """What was sent instead of files that had changed, by path."""
    _notices: ProblemReport = field(default_factory=ProblemReport)

    async def send_all(
        self, collected: CollectedSources, files: Sequence[FileSource]
    ) -> list[Receipt]:
        """Send the source's streams, and these of its files. Raises `SourceChangedError` for files
        that changed and cannot be followed."""
        receipts = await self.send((), collected.streams) if collected.streams else []
        errors: dict[str, SourceChangedError] = {}
        for _ in range(1 + COLLECTED_AGAIN):
            if errors:
                files = await self._again(collected, files, errors)
            if not files:
                return receipts
            receipts += await self.send(files, changed=(errors := {}))
            files = [file for file in files if file.path_in_repo in errors]
        for error in errors.values():
            raise error
        return receipts

    async def send(
        self,
        files: Sequence[FileSource],
        streams: Sequence[OpenStream] = (),
        *,
        changed: dict[str, SourceChangedError] | None = None,
    ) -> list[Receipt]:
        """Receipts of all of them, once the Xet store has them. With `changed`, followed files
        that have changed are put there, by path, and have no receipt."""
        ctx = self.ctx
        upload: XetUpload | None = None

        async def add(together: Sequence[FileSource]) -> None:
            assert upload is not None
            for file in together:
                ctx.events.emit(FileRouted(file.path_in_repo, file.size, "xet"))
            await upload.add_all(together, changed)

        async def add_stream(stream: OpenStream) -> None:
            assert upload is not None
            ctx.events.emit(FileRouted(stream.path_in_repo, 0, "xet"))
            pieces = stream.pieces()
            async with aclosing(pieces):
                await upload.add_stream(stream.path_in_repo, pieces)

        try:
            access = await BucketXet(ctx).access()
            upload = await ctx.xet.open(access, ctx.events, with_sha256=False)
            ctx.events.emit(TransferChosen("xet", "a bucket is stored by Xet alone", True))
            ctx.enter("uploading")
            await for_each(batches(files, ADDED_TOGETHER), add, width=ADDED_AT_ONCE)
            # All at once: one producer may write them in turn.
            await for_each(streams, add_stream, width=len(streams))
            receipts = await upload.finish(changed=changed)
        except SourceChangedError as exc:
            if changed is None or not any(file.may_change for file in files):
                raise
            # It failed on one file, and it is not known what it has stored of the others.
            changed.update((file.path_in_repo, exc) for file in files)
            return []
        except XetFailedError as exc:
            raise AsyncPushError(
                f"Xet failed: {exc.message}",
                suggestion="sync again: what was sent is not sent again",
            ) from exc
        finally:
            if upload is not None:
                with anyio.CancelScope(shield=True):
                    await upload.abort()
        hashes = {receipt.path_in_repo: receipt.xet_hash or "" for receipt in receipts}
        found = [(f, hashes[f.path_in_repo]) for f in upload.files if f.path_in_repo in hashes]
        keep = partial(ctx.hasher.remember, found, upload.began, "xet")
        await in_thread(ctx.push_threads.journal, keep)
        return receipts

    async def tell_changes(self, files: Sequence[FileSource]) -> None:
        """Warn of followed files, among all of the source, that are not what they were when the
        sync began."""
        again = self.collected_again

        def look() -> ProblemReport:
            names = {file.path_in_repo: file for file in files if file.may_change}
            return changes_of({**names, **again})

        grown = await in_thread(self.ctx.threads, look)
        for notice in (*self._notices.notices, *grown.notices):
            self.ctx.warn(notice)

    async def _again(
        self,
        collected: CollectedSources,
        files: Sequence[FileSource],
        errors: dict[str, SourceChangedError],
    ) -> list[FileSource]:
        """What is to be sent instead of these files, whose `errors` say that they changed."""
        found: list[FileSource] = []
        for before in files:
            path = before.path_in_repo
            file = await collected.again(before) if before.may_change else before
            if file is None:
                self._notices.notice("files that are gone", f"{errors[path].message}: left out")
                self.gone.add(path)
                self.collected_again.pop(path, None)
                continue
            if file is not before:
                self._notices.notice("files that changed", f"{errors[path].message}: read again")
                self.collected_again[path] = file
            found.append(file)
        await self._plan(collected)
        await check_leaks(self.ctx, found)
        return found

    async def _plan(self, collected: CollectedSources) -> None:
        """Tell how much there is to send by now."""
        again, gone = self.collected_again, self.gone

        def sizes() -> list[int]:
            names = ((file.path_in_repo, file) for file in collected.files)
            return [again.get(path, file).size for path, file in names if path not in gone]

        found = await in_thread(self.ctx.threads, sizes)
        self.ctx.events.emit(FilesPlanned(len(found) + len(collected.streams), sum(found)))
