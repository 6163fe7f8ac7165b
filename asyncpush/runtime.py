"""What the pushes of one `Uploader` share, and what each of them is given of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio

from asyncpush.events import Emitter, Listener
from asyncpush.groups import stray_cancellations_are_errors
from asyncpush.journal import Journal, NullJournal
from asyncpush.listeners.logs import LogListener
from asyncpush.listeners.publisher import ProgressPublisher
from asyncpush.models import AuditReport, Receipt, Repo, Source, UploadResult
from asyncpush.net.bodies import PIECES_PER_WRITE
from asyncpush.net.buffers import BufferPool
from asyncpush.net.limits import PartLimit
from asyncpush.net.parts import PartSender
from asyncpush.net.session import HubSession
from asyncpush.options import CHUNKS_PER_PART, PushOptions, UploadConfig
from asyncpush.pipeline.audit import audit
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.hashing import Hasher
from asyncpush.pipeline.push import PushRun
from asyncpush.pipeline.routing import SURELY_LFS
from asyncpush.pipeline.turns import SharedTurns, Turns
from asyncpush.sources import Collected, collect
from asyncpush.threads import SessionThreads, in_thread, in_thread_anyway, settled
from asyncpush.transfers.xet import XetEngine, why_not
from asyncpush.watching import watched
from asyncpush.workers import ENOUGH_DESCRIPTORS, descriptors_left, each_affordable

if TYPE_CHECKING:
    from asyncpush.doctor import Finding

T = TypeVar("T")
Gather: TypeAlias = Callable[[Emitter], Awaitable[Sequence[Receipt]]]


COUNT_EVERY = 5.0
"""Seconds between two counts of the uploaders that push on this host; they begin together, often,
and so are counted again after `COUNT_FIRST` to begin with."""
COUNT_FIRST = 0.1

EXPIRE_EVERY = 3600.0
EXPIRE_WITHIN = 1.0
"""Seconds that this may take: what is left is forgotten next time."""


class Runtime:
    """What the pushes of one `Uploader` share while it is open."""

    def __init__(
        self,
        session: HubSession,
        config: UploadConfig,
        journal: Journal | NullJournal,
        threads: SessionThreads,
        listeners: Sequence[Listener],
    ) -> None:
        self._session = session
        self._config = config
        self._listeners = listeners
        self._journal = journal
        self._pushes = 0
        self._expires_next = 0.0
        self._busy, self._idle = asyncio.Event(), asyncio.Event()
        self._threads = threads
        self._hasher = Hasher(journal, trust_mtime=config.trust_mtime)
        self.xet: XetEngine = XetEngine(config)
        pool = BufferPool(PIECES_PER_WRITE * config.chunk_size)
        affordable = max(1, config.max_memory // (CHUNKS_PER_PART * config.chunk_size))
        limit = PartLimit(min(config.max_concurrent_parts, affordable))
        self._sender = PartSender(session, limit, pool)
        self._turns = SharedTurns(config.max_concurrent_files - 1)
        self._commit_locks: dict[tuple[Repo, str], asyncio.Lock] = {}

    @asynccontextmanager
    async def sharing_the_host(self) -> AsyncIterator[None]:
        """While the block runs, the limit of parts is shared with the other processes of this host
        that push at the same time. They come and go: they are counted again and again."""
        counting = asyncio.create_task(self._count_neighbours())
        try:
            yield
        finally:
            counting.cancel()
            await settled(counting)

    async def _count_neighbours(self) -> None:
        neighbours = self._journal.neighbours()
        threads = self._threads.look_up.threads
        while True:
            await self._busy.wait()
            try:
                await in_thread(threads, neighbours.join)
                pause = COUNT_FIRST
                while self._pushes:
                    self._sender.limit.share(await in_thread(threads, neighbours.count))
                    with anyio.move_on_after(pause):
                        await self._idle.wait()
                    pause = min(2 * pause, COUNT_EVERY)
            finally:
                await in_thread_anyway(threads, neighbours.leave)

    @contextmanager
    def _pushing(self, stores: bool) -> Iterator[None]:
        if not stores:
            yield
            return
        self._expire()
        self._pushes += 1
        self._idle.clear()
        self._busy.set()
        try:
            yield
        finally:
            self._pushes -= 1
            if not self._pushes:
                self._busy.clear()
                self._idle.set()

    def _expire(self) -> None:
        """Now and then: forget what the journal holds of long ago. Nobody waits for it."""
        if (now := time.monotonic()) >= self._expires_next:
            self._expires_next = now + EXPIRE_EVERY
            self._threads.journal.submit(self._journal.expire, EXPIRE_WITHIN)

    @property
    def endpoint(self) -> str:
        return self._session.endpoint

    def publisher(self) -> ProgressPublisher:
        return ProgressPublisher(self._config.progress_callback)

    async def push(
        self, repo: Repo, source: Source, options: PushOptions, publisher: ProgressPublisher
    ) -> UploadResult:
        async def work(ctx: PushContext, collected: Collected) -> UploadResult:
            return await self._run(ctx).push(collected)

        return await self._watched(repo, source, options, work, publisher, stores=True)

    async def store(self, repo: Repo, source: Source, options: PushOptions) -> list[Receipt]:
        async def work(ctx: PushContext, collected: Collected) -> list[Receipt]:
            return await self._run(ctx).store(collected)

        return await self._watched(repo, source, options, work, stores=True)

    async def commit(self, repo: Repo, gather: Gather, options: PushOptions) -> UploadResult:
        async def work(ctx: PushContext, collected: Collected) -> UploadResult:
            return await self._run(ctx).commit(await gather(ctx.emit))

        return await self._watched(repo, None, options, work)

    async def audit(self, repo: Repo, source: Source, options: PushOptions) -> AuditReport:
        return await self._watched(repo, source, options, audit, needs_token=False)

    async def doctor(
        self, repo: Repo | None, options: PushOptions, token_from: str | None
    ) -> list[Finding]:
        # Few pushes are preceded by a diagnosis: its imports need not cost the others.
        from asyncpush.doctor import Facts, Target, ask_hub, judge, look_around

        target = None
        if repo is not None:
            target = Target(repo, options.revision, options.create_branch)
        listeners = [LogListener().on_event, *self._listeners]
        emit = Emitter(listeners, push_id=uuid.uuid4().hex)
        with stray_cancellations_are_errors():
            hub = await ask_hub(self._session, target, emit)
        local = await asyncio.to_thread(look_around, self.endpoint, self._config, token_from)
        local = replace(local, token_expires_at=self._session.token.expires_at)
        return judge(Facts(self.endpoint, hub, local, target))

    def _run(self, ctx: PushContext) -> PushRun:
        return PushRun(ctx, lambda: self._commit_lock(ctx.repo, ctx.options.revision))

    async def _watched(
        self,
        repo: Repo,
        source: Source | None,
        options: PushOptions,
        work: Callable[[PushContext, Collected], Awaitable[T]],
        publisher: ProgressPublisher | None = None,
        *,
        needs_token: bool = True,
        stores: bool = False,
    ) -> T:
        """Do some work on a source while it is watched. With `stores` long streams may be left open
        for Xet, where that can be had."""
        publisher = publisher or self.publisher()
        progress = self._config.progress
        try:
            async with watched(
                repo, options, publisher, self._listeners, progress=progress
            ) as watch:
                with self._pushing(stores), stray_cancellations_are_errors():
                    if needs_token:
                        await self._session.token.get()
                    ctx = self._context(repo, options, watch.push_id, watch.emit)
                    async with self._collected(source, options, stores=stores) as collected:
                        outcome = await work(ctx, collected)
                return watch.finished(outcome)
        except asyncio.CancelledError as exc:
            # Where it was just then is nobody's concern, and a notebook would show all of it.
            raise exc.with_traceback(None)  # noqa: B904  (it is its own cause)

    def _collected(
        self, source: Source | None, options: PushOptions, *, stores: bool
    ) -> AbstractAsyncContextManager[Collected]:
        if source is None:
            return nullcontext(Collected(()))
        # Those that are split are read at other places than the next.
        open_streams = stores and options.max_shard_size is None and why_not(self._config) is None
        return collect(
            source,
            options,
            spool_dir=Path(self._config.cache_dir) / "spool",
            max_memory=self._config.max_memory,
            large=SURELY_LFS if open_streams else None,
        )

    def _context(
        self, repo: Repo, options: PushOptions, push_id: str, emit: Emitter
    ) -> PushContext:
        return PushContext(
            repo,
            options,
            push_id,
            self._session,
            self._sender,
            self._hasher,
            self.xet,
            self._journal,
            self._threads.for_push(),
            emit,
            Turns(self._turns, most=_files_affordable()),
        )

    def _commit_lock(self, repo: Repo, revision: str) -> asyncio.Lock:
        return self._commit_locks.setdefault((repo, revision), asyncio.Lock())


def _files_affordable() -> int | None:
    """How many files a push may have under way, where descriptors are scarce by now."""
    left = descriptors_left()
    return None if left is None or left >= ENOUGH_DESCRIPTORS else each_affordable(left)
