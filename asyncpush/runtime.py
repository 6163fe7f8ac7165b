"""What the pushes of one `Uploader` share, and what each of them is given of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from asyncpush.events import Emitter, Listener
from asyncpush.groups import stray_cancellations_are_errors
from asyncpush.journal import Journal, Neighbours, NullJournal
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
from asyncpush.threads import Hops
from asyncpush.transfers.xet import XetEngine, why_not
from asyncpush.watching import watched
from asyncpush.workers import ENOUGH_DESCRIPTORS, descriptors_left, each_affordable

if TYPE_CHECKING:
    from asyncpush.doctor import Finding

T = TypeVar("T")
Gather: TypeAlias = Callable[[Emitter], Awaitable[Sequence[Receipt]]]

READERS = 4
"""Threads that read parts, take their MD5, and write them to plain sockets."""


class Runtime:
    """What the pushes of one `Uploader` share while it is open."""

    def __init__(
        self,
        session: HubSession,
        config: UploadConfig,
        journal: Journal | NullJournal,
        neighbours: Neighbours,
        threads: ThreadPoolExecutor,
        hash_threads: ThreadPoolExecutor,
        listeners: Sequence[Listener],
    ) -> None:
        self._session = session
        self._config = config
        self._listeners = listeners
        self._journal = journal
        self._neighbours = neighbours
        self._hops = Hops(threads, READERS)
        self._hasher = Hasher(hash_threads, self._hops, journal, trust_mtime=config.trust_mtime)
        self.xet: XetEngine = XetEngine(config)
        pool = BufferPool(PIECES_PER_WRITE * config.chunk_size)
        affordable = max(1, config.max_memory // (CHUNKS_PER_PART * config.chunk_size))
        limit = PartLimit(min(config.max_concurrent_parts, affordable))
        self._sender = PartSender(session, limit, pool, self._hops)
        self._turns = SharedTurns(config.max_concurrent_files - 1)
        self._commit_locks: dict[tuple[Repo, str], asyncio.Lock] = {}

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
                with stray_cancellations_are_errors():
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
        self._sender.limit.share(self._neighbours.count())
        return PushContext(
            repo,
            options,
            push_id,
            self._session,
            self._sender,
            self._hasher,
            self.xet,
            self._journal,
            self._hops,
            emit,
            Turns(self._turns, most=_files_affordable()),
        )

    def _commit_lock(self, repo: Repo, revision: str) -> asyncio.Lock:
        return self._commit_locks.setdefault((repo, revision), asyncio.Lock())


def _files_affordable() -> int | None:
    """How many files a push may have under way, where descriptors are scarce by now."""
    left = descriptors_left()
    return None if left is None or left >= ENOUGH_DESCRIPTORS else each_affordable(left)
