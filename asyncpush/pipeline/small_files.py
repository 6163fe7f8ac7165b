"""Small files on their way to a transfer: hashed in groups, and announced in groups.

A hop into a thread, or a call to the Hub, costs more than the work on one small file. A group is
read once: its bytes are sent from memory, as far as there is memory for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from anyio.abc import TaskGroup

from asyncpush.concurrency.task_groups import SlotQueue, for_group
from asyncpush.concurrency.threads import each_in_thread
from asyncpush.errors import SourceChangedError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.hashing import Hashed, KeptMemory
from asyncpush.pipeline.routing import Candidate, Stored
from asyncpush.pipeline.selection import TransferSelector
from asyncpush.sources.byte_sources import check_unchanged_at_path
from asyncpush.transfers.interface import AnnouncedTransfer, TransferFailedError

GROUP = 64
"""The most files of one group."""

GROUP_BYTES = 2 << 20
"""The most bytes of one group."""

AHEAD = 256
"""The most small files of a push that are hashed but not stored yet."""


@dataclass(slots=True)
class SmallFile:
    """A file that is hashed, and that `transfer` has announced. Call `done` when its bytes are not
    needed any more."""

    candidate: Candidate
    hashed: Hashed
    there: str | None
    """The oid of the repo's file at this path."""
    transfer: AnnouncedTransfer
    done: Callable[[], None]


class SmallFiles:
    """Prepares the small files of one push and puts them into `queue`; if the transfer need not ask
    about objects, as they are. Tasks run in `group`, bytes are kept in `memory`."""

    def __init__(
        self,
        ctx: PushContext,
        selector: TransferSelector,
        stored: Stored,
        memory: KeptMemory,
        group: TaskGroup,
        queue: SlotQueue[Candidate | SmallFile],
    ) -> None:
        self._ctx = ctx
        self._selector = selector
        self._stored = stored
        self._memory = memory
        self._group = group
        self._queue = queue
        self._waiting: deque[Candidate] = deque()
        self._next: tuple[int, int] | None = None
        """The latest result of `_next_group`, while it holds."""
        self._ahead = 0

    def put(self, candidates: Iterable[Candidate]) -> None:
        self._waiting.extend(candidates)
        self._next = None
        self._advance()

    def _advance(self) -> None:
        while self._waiting:
            count, size = self._next = self._next or self._next_group()
            if self._ahead and self._ahead + count > AHEAD:
                return
            keep = self._memory.take(size)
            if self._ahead and not keep:
                return  # there will be memory when other files of this push are stored
            self._ahead += count
            group = [self._waiting.popleft() for _ in range(count)]
            self._next = None
            self._group.start_soon(for_group(self._prepare), group, keep)

    def _done(self, size: int) -> None:
        """A file is stored, or is not to be stored; `size` bytes were kept for it."""
        self._memory.give_back(size)
        self._ahead -= 1
        self._advance()

    def _next_group(self) -> tuple[int, int]:
        """How many of the waiting files make the next group, and their bytes."""
        count = size = 0
        for candidate in self._waiting:
            more = size + candidate.file.size
            if count == GROUP or (count and more > GROUP_BYTES):
                break
            count, size = count + 1, more
        return count, size

    async def _prepare(self, candidates: Sequence[Candidate], keep: bool) -> None:
        transfer = await self._selector.chosen()
        if not isinstance(transfer, AnnouncedTransfer):
            for candidate in candidates:
                self._queue.put(candidate)
                self._done(candidate.file.size if keep else 0)
            return
        ctx = self._ctx
        hashed = await ctx.hasher.sha256_of_small(
            [candidate.file for candidate in candidates], ctx.events, ctx.push_threads, keep=keep
        )
        ready: list[SmallFile] = []
        for candidate, each in zip(candidates, hashed, strict=True):
            kept = candidate.file.size if keep else 0
            if keep and each.kept is None:  # its hash was known, or it has changed
                self._memory.give_back(kept)
                kept = 0
            small = await self._small_file(candidate, each, transfer, partial(self._done, kept))
            if small is not None:
                ready.append(small)
        try:
            await transfer.announce([(each.hashed.oid, each.hashed.file.size) for each in ready])
        except TransferFailedError as exc:
            self._selector.give_up(transfer, exc.message)
        for small in ready:
            self._queue.put(small)

    async def _small_file(
        self,
        candidate: Candidate,
        hashed: Hashed,
        transfer: AnnouncedTransfer,
        done: Callable[[], None],
    ) -> SmallFile | None:
        """None if the file is not to be stored."""
        mode, file = await candidate.mode(), candidate.file
        if hashed.error is not None:
            self._stored.changed[file.path_in_repo] = hashed.error
        elif mode is not None and mode.oid == hashed.oid:
            receipt = Receipt(file.path_in_repo, file.size, hashed.oid, transfer.route)
            self._stored.settle(receipt, self._ctx.events, unchanged=True)
        elif mode is not None:
            return SmallFile(candidate, hashed, mode.oid, transfer, done)
        done()
        return None


async def check_unchanged(
    ctx: PushContext, files: Sequence[tuple[FileSource, str]]
) -> Mapping[str, SourceChangedError]:
    """Check files that were sent from memory, each with its sha256. Returns the followed files that
    have changed since they were read, by path in the repo. Raises `SourceChangedError` for
    another one."""

    def check(sent: tuple[FileSource, str]) -> SourceChangedError | None:
        file, oid = sent
        try:
            check_unchanged_at_path(file, oid)
        except SourceChangedError as exc:
            if not file.may_change:
                raise
            return exc
        return None

    errors = await each_in_thread(ctx.threads, files, check)
    pairs = zip(files, errors, strict=True)
    return {file.path_in_repo: error for (file, _), error in pairs if error is not None}
