"""One push's files by Xet: added one by one, stored together; begun again with another token, or
when nothing moves any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from typing import Any

from asyncpush.events import Emitter, FileStored, PartProgress, RetryScheduled
from asyncpush.models import FileSource, Receipt
from asyncpush.transfers.xet.access import XetAccess, XetFailedError
from asyncpush.transfers.xet.commits import XetCommit
from asyncpush.transfers.xet.progress import XetPositions
from asyncpush.transfers.xet.receipts import receipts_of
from asyncpush.transfers.xet.stalls import XetStalledError

FED_AT_ONCE = 2
"""Files that hf_xet cannot find by itself: each takes a thread and a piece of memory."""


class XetUpload:
    """After `finish` or `abort` it is spent. `renewals` bounds how often it is begun again."""

    def __init__(
        self,
        commit: XetCommit,
        open_commit: Callable[[XetAccess, int], Awaitable[XetCommit]],
        positions: XetPositions,
        emit: Emitter,
        *,
        renewals: int,
    ) -> None:
        self._commit = commit
        self._open_commit = open_commit
        self._positions = positions
        self._emit = emit
        self._renewals = renewals
        self._attempt = 1
        self._handles: list[tuple[FileSource, Any]] = []
        self._feeding = asyncio.Semaphore(FED_AT_ONCE)
        self._streamed = False
        self._sent_in_vain = 0
        self._spent = False
        self.began: float = time.time()

    @property
    def files(self) -> list[FileSource]:
        """What was added so far."""
        return [file for file, _ in self._handles]

    async def add(self, file: FileSource) -> None:
        """Begin to send a file; it goes on in the background.

        Raises `XetFailedError`; `SourceError` and `SourceChangedError` when it is the file's fault.
        """
        try:
            handle = await self._begin(file)
        except XetStalledError:
            handle = None  # `finish` hears of it as well, and begins again with all of the files
        self._handles.append((file, handle))

    async def _begin(self, file: FileSource) -> Any:
        if file.path is not None or file.data is not None:
            handle = await self._commit.start(file)
            self._positions.follow(handle.task_id(), file)
            return handle
        async with self._feeding:
            emit = self._positions.begin(file)
            on_read = partial(self._positions.on_read, file, emit)
            return await self._commit.feed(file, on_read)

    async def add_stream(self, path_in_repo: str, pieces: AsyncIterable[memoryview]) -> None:
        """Send bytes whose number nobody knows yet, as they come. Raises `XetFailedError`, and
        what `pieces` raises."""
        self._streamed = True
        emit = self._emit.child()
        size = 0

        def on_sent(sent: int) -> None:
            nonlocal size
            size = sent
            emit.emit(PartProgress(path_in_repo, 1, sent, sent))

        handle = await self._commit.stream(path_in_repo, pieces, on_sent)
        self._handles.append((FileSource(path_in_repo, size, data=b""), handle))

    async def finish(self) -> list[Receipt]:
        """Wait until the store has everything. Raises as `add` does."""
        report = await self._stored()
        self._spent = True
        self._positions.end()
        receipts = receipts_of(self._handles, report, self._sent_in_vain)
        for receipt in receipts:
            whole = receipt.bytes_deduplicated == receipt.size
            self._emit.emit(FileStored(receipt.path_in_repo, receipt.size, "xet", whole))
        return receipts

    async def abort(self) -> None:
        """Stop; what was sent already is not sent again next time."""
        if not self._spent:
            self._spent = True
            self._positions.end()
            await self._commit.abort()

    async def _stored(self) -> Any:
        """hf_xet's report. A token that is refused in the middle does not lose what was sent, nor
        does an upload that stalls: the next upload commit finds it."""
        while True:
            try:
                return await self._commit.finish(self.files)
            except XetFailedError as exc:
                if not await self._begin_again(exc):
                    raise

    async def _begin_again(self, error: XetFailedError) -> bool:
        """False when it would not help, or when nothing can be read once more."""
        if self._streamed or self._renewals <= 0:
            return False
        access: XetAccess | None = None
        if isinstance(error, XetStalledError):
            access = self._commit.access
        elif error.refused and self._commit.access.renew is not None:
            access = await self._commit.access.renew()
        if access is None:
            return False
        self._renewals -= 1
        self._attempt += 1
        self._emit.emit(RetryScheduled("xet", self._attempt, 0.0, error.message))
        self._sent_in_vain += await self._commit.let_go()
        again = self.files
        self._handles = [(file, None) for file in again]  # should it fail, LFS gets all of them
        self._commit = await self._open_commit(access, self._attempt)
        handles, self._handles = self._handles, []
        try:
            for file in again:
                await self.add(file)
        except XetFailedError:
            self._handles = handles
            raise
        return True
