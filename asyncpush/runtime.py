"""What the pushes of one `Uploader` share: opened here, closed in reverse order.

Only this module imports what takes long to import. `asyncpush.uploader` imports it in a thread when
it is first used.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio

from asyncpush import transfers
from asyncpush.concurrency.task_groups import (
    ENOUGH_DESCRIPTORS,
    FairSlots,
    SharedSlots,
    descriptors_left,
    each_affordable,
    stray_cancellations_are_errors,
)
from asyncpush.concurrency.threads import (
    SessionThreads,
    in_thread,
    in_thread_anyway,
    wait_until_done,
)
from asyncpush.errors import AsyncPushError, HubError, os_reason
from asyncpush.events import Emitter, Listener, Operation, TracingListener
from asyncpush.journal import Journal, NullJournal
from asyncpush.listeners.logs import LogListener, configure_from_env
from asyncpush.listeners.observation import observe_push
from asyncpush.models import (
    AuditReport,
    CheckpointSet,
    Receipt,
    Repo,
    Source,
    SyncResult,
    UploadResult,
    show_results_as,
)
from asyncpush.net.credentials import RESOURCE, Token, TokenSource, token_from_environment
from asyncpush.net.session import API_CALLS_IN_FLIGHT, HubSession
from asyncpush.options import (
    CHUNKS_PER_PART,
    LOCAL,
    OFFLINE_VARIABLES,
    PIECES_PER_WRITE,
    EventSink,
    ProgressChoice,
    PushOptions,
    SyncOptions,
    UploadConfig,
    event_sinks,
    is_true,
    progress_is_shown,
)
from asyncpush.own_files import JOURNAL, SPOOL, Announcement, library_logger
from asyncpush.pipeline.changes import DEFAULT_BRANCH
from asyncpush.pipeline.content_cache import CACHE_SHARE, CacheMemory, ContentCache
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.hashing import KEPT_SHARE, Hasher
from asyncpush.pipeline.preflight import check_parent_early
from asyncpush.pipeline.push import PushRun
from asyncpush.pipeline.routing import SURELY_LFS
from asyncpush.pipeline.shared_content import SharedContent
from asyncpush.protocol import urls
from asyncpush.protocol.addresses import Address
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.sources import CollectedSources, collect, folder_prefix
from asyncpush.sources.collect import SPOOL_SHARE
from asyncpush.sources.spool import Spool
from asyncpush.transfers import (
    check_installed,
    open_transfers,
    transfer_libraries,
)

if TYPE_CHECKING:
    from asyncpush.doctor import Finding
    from asyncpush.listeners.publisher import ProgressPublisher
    from asyncpush.localhub import LocalHub
    from asyncpush.net.adaptive_limit import AdaptiveLimit
    from asyncpush.net.login import Login
    from asyncpush.net.parts import PartSender
    from asyncpush.pipeline.copy import CopySource


T = TypeVar("T")

NO_FILES = CollectedSources(())
"""The source of what is made without local files. A user's `None` is not this: it is refused, since
a push of nothing could delete what is there."""
Gather: TypeAlias = Callable[[Emitter], Awaitable[Iterable[Receipt]]]


COUNT_EVERY = 5.0
"""Seconds between two counts of the uploaders that push on this host. Uploaders often start at the
same time, so the first counts follow each other more quickly, beginning with `COUNT_FIRST`."""
COUNT_FIRST = 0.1

IMPORTED_LATE = (
    "aiofiles.threadpool",
    "asyncpush.listeners.log_messages",
    "asyncpush.listeners.publisher",
    "asyncpush.net.login",
    "asyncpush.pipeline.commit_series",
    "asyncpush.sources.sharding",
    "ctypes",
    "encodings.idna",
)
"""Modules that are imported when a push first needs them, and few do."""

EXPIRE_EVERY = 3600.0
EXPIRE_WITHIN = 1.0
"""The time limit for this, in seconds: the rest expires next time."""


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
        self._expires_next = time.monotonic() + EXPIRE_EVERY
        self._busy, self._idle = asyncio.Event(), asyncio.Event()
        self._threads = threads
        self._hasher = Hasher(
            journal,
            trust_mtime=config.trust_mtime,
            with_md5=config.verify_etag,
            memory=config.max_memory // KEPT_SHARE,
        )
        self._cache_memory = CacheMemory(config.max_memory // CACHE_SHARE)
        self._sending = SharedContent()
        self._transfers = open_transfers(config)
        self._sender: PartSender | None = None
        self._counting: asyncio.Task[None] | None = None
        self._slots = SharedSlots(config.max_concurrent_files - 1)
        self._commit_locks: dict[tuple[Repo, str], asyncio.Lock] = {}

    async def close(self) -> None:
        """Release what the pushes share. Every push has ended by now."""
        if self._counting is not None:
            self._counting.cancel()
            await wait_until_done(self._counting)
        await self._transfers.close()

    async def _part_sender(self) -> PartSender:
        """What sends the parts of all pushes. Its modules are imported with the first push that
        needs them, in a thread, since pushes of small files do not."""
        if self._sender is None:
            sender = await in_thread(self._threads.look_up.threads, self._new_part_sender)
            if self._sender is None:  # otherwise another push was faster
                self._sender = sender
                self._counting = asyncio.create_task(self._count_peers(sender.limit))
        return self._sender

    def _new_part_sender(self) -> PartSender:
        from asyncpush.net.adaptive_limit import AdaptiveLimit
        from asyncpush.net.bodies import BufferPool
        from asyncpush.net.parts import PartSender

        config = self._config
        pool = BufferPool(PIECES_PER_WRITE * config.chunk_size)
        affordable = max(1, config.max_memory // (CHUNKS_PER_PART * config.chunk_size))
        limit = AdaptiveLimit(min(config.max_concurrent_parts, affordable))
        return PartSender(self._session, limit, pool)

    async def _count_peers(self, limit: AdaptiveLimit) -> None:
        """Share the limit of parts with the other processes on this host that are pushing. They are
        counted repeatedly, since they start and end at any time."""
        peers = self._journal.peers()
        threads = self._threads.look_up.threads
        while True:
            await self._busy.wait()
            try:
                await in_thread(threads, peers.join)
                pause = COUNT_FIRST
                while self._pushes:
                    limit.share(await in_thread(threads, peers.count))
                    with anyio.move_on_after(pause):
                        await self._idle.wait()
                    pause = min(2 * pause, COUNT_EVERY)
            finally:
                await in_thread_anyway(threads, peers.leave)

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
        """From time to time, remove old entries from the journal, as when it was opened. Nothing
        waits for this."""
        if (now := time.monotonic()) >= self._expires_next:
            self._expires_next = now + EXPIRE_EVERY
            self._threads.journal.submit(self._journal.expire, EXPIRE_WITHIN)

    @property
    def endpoint(self) -> str:
        return self._session.endpoint

    def publisher(self) -> ProgressPublisher:
        """Publishes the progress of a push that is followed: most are awaited instead."""
        from asyncpush.listeners.publisher import ProgressPublisher

        return ProgressPublisher(self._config.progress_callback)

    async def push(
        self,
        repo: Repo,
        source: Source,
        options: PushOptions,
        publisher: ProgressPublisher | None = None,
    ) -> UploadResult:
        async def work(ctx: PushContext, collected: CollectedSources) -> UploadResult:
            return await self._run(ctx).push(collected)

        return await self._observed(repo, source, options, work, publisher, stores=True)

    async def store(self, repo: Repo, source: Source, options: PushOptions) -> list[Receipt]:
        async def work(ctx: PushContext, collected: CollectedSources) -> list[Receipt]:
            return await self._run(ctx).store(collected)

        return await self._observed(repo, source, options, work, operation="upload", stores=True)

    async def commit(
        self, repo: Repo, gather: Gather, options: PushOptions, operation: Operation
    ) -> UploadResult:
        async def work(ctx: PushContext, collected: CollectedSources) -> UploadResult:
            run = self._run(ctx)
            await check_parent_early(ctx)  # `gather` may store files for hours
            return await run.commit(await gather(ctx.events))

        return await self._observed(repo, NO_FILES, options, work, operation=operation)

    # Most processes only push, so what the following methods need is imported when they are called.

    async def audit(self, repo: Repo, source: Source, options: PushOptions) -> AuditReport:
        from asyncpush.pipeline.audit import audit

        return await self._observed(
            repo, source, options, audit, operation="audit", needs_token=False
        )

    async def copy(self, origin: Address, repo: Repo, options: PushOptions) -> UploadResult:
        from asyncpush.pipeline.copy import copy

        async def work(ctx: PushContext, collected: CollectedSources) -> UploadResult:
            async with self._copy_spool() as spool:
                return await copy(ctx, self._run(ctx), _source(origin), collected.files, spool)

        own: Source | CollectedSources = NO_FILES if options.model_card is None else {}
        return await self._observed(repo, own, options, work, operation="copy")

    async def copy_to_bucket(
        self, origin: Address, bucket: Repo, path: str, options: SyncOptions
    ) -> SyncResult:
        from asyncpush.pipeline.copy import copy_to_bucket

        async def work(ctx: PushContext, collected: CollectedSources) -> SyncResult:
            async with self._copy_spool() as spool:
                return await copy_to_bucket(ctx, options, _source(origin), spool)

        return await self._observed(bucket, NO_FILES, options.as_push(path), work, operation="copy")

    def _copy_spool(self) -> Spool:
        """A spool for the small files of a copy."""
        spool_dir = Path(self._config.cache_dir) / "spool"
        return Spool(spool_dir, memory=self._config.max_memory // SPOOL_SHARE)

    async def sync(
        self,
        bucket: Repo,
        path: str,
        source: Source,
        options: SyncOptions,
        publisher: ProgressPublisher | None = None,
    ) -> SyncResult:
        from asyncpush.pipeline.sync import SyncRun

        async def work(ctx: PushContext, collected: CollectedSources) -> SyncResult:
            return await SyncRun(ctx, options).run(collected)

        push = options.as_push(path)
        return await self._observed(
            bucket, source, push, work, publisher, operation="sync", stores=True
        )

    async def checkpoints_in(self, bucket: Repo, path: str) -> list[CheckpointSet]:
        from asyncpush.pipeline.checkpoint_sets import complete_sets

        with stray_cancellations_are_errors():
            return await complete_sets(self._quiet_context(bucket), folder_prefix(path))

    async def prune_checkpoints(self, bucket: Repo, path: str, keep: int) -> list[CheckpointSet]:
        from asyncpush.pipeline.checkpoint_sets import prune_sets

        with stray_cancellations_are_errors():
            await self._session.token.get()
            return await prune_sets(self._quiet_context(bucket), folder_prefix(path), keep)

    def _quiet_context(self, repo: Repo) -> PushContext:
        """A context for requests that are not pushes: logged, without progress bars or a result."""
        push_id = uuid.uuid4().hex
        events = Emitter([LogListener().on_event, *self._listeners], push_id=push_id)
        return self._context(repo, PushOptions(), push_id, events)

    async def doctor(
        self, repo: Repo | None, options: PushOptions, token_from: str | None
    ) -> list[Finding]:
        from asyncpush.doctor import Facts, Target, ask_hub, collect_local_facts, judge
        from asyncpush.protocol.accounts import kind_of_token

        target = None
        if repo is not None:
            target = Target(repo, options.revision, options.create_branch)
        listeners = [LogListener().on_event, *self._listeners]
        events = Emitter(listeners, push_id=uuid.uuid4().hex)
        with stray_cancellations_are_errors():
            hub = await ask_hub(self._session, target, events)
        local = await asyncio.to_thread(
            collect_local_facts, self.endpoint, self._config, token_from
        )
        token = self._session.token
        kind = kind_of_token(token.known)
        local = replace(
            local,
            token_expires_at=token.expires_at,
            token_kind=kind,
            publishes_to=os.environ.get(RESOURCE) if kind == "oidc" else None,
        )
        return judge(Facts(self.endpoint, hub, local, target))

    def _run(self, ctx: PushContext) -> PushRun:
        return PushRun(ctx, lambda: self._commit_lock(ctx.repo, ctx.options.revision))

    async def _observed(
        self,
        repo: Repo,
        source: Source | CollectedSources,
        options: PushOptions,
        work: Callable[[PushContext, CollectedSources], Awaitable[T]],
        publisher: ProgressPublisher | None = None,
        *,
        operation: Operation = "push",
        needs_token: bool = True,
        stores: bool = False,
    ) -> T:
        """Do some work on a source while its events are observed. With `stores`, long streams may
        be left open for a transfer that takes them."""
        if publisher is None and self._config.progress_callback is not None:
            publisher = self.publisher()
        progress = self._config.progress
        try:
            async with observe_push(
                repo,
                options,
                publisher,
                self._listeners,
                progress=progress,
                operation=operation,
            ) as observer:
                with self._pushing(stores), stray_cancellations_are_errors():
                    if needs_token:
                        await self._session.token.get()
                    ctx = self._context(repo, options, observer.push_id, observer.events)
                    observer.describe_failure = lambda error: ctx.describe_failure(error)
                    try:
                        async with self._collected(source, options, stores=stores) as collected:
                            outcome = await work(ctx, collected)
                    finally:
                        ctx.contents.clear()
                return observer.finished(outcome)
        except asyncio.CancelledError as exc:
            # The traceback is of no use to the caller, and a notebook would show all of it.
            raise exc.with_traceback(None)  # noqa: B904  (it is its own cause)

    def _collected(
        self, source: Source | CollectedSources, options: PushOptions, *, stores: bool
    ) -> AbstractAsyncContextManager[CollectedSources]:
        if isinstance(source, CollectedSources):
            return nullcontext(source)
        # A source that is split into shards is not read in order, so its streams cannot stay open.
        open_streams = stores and options.max_shard_size is None and self._transfers.take_streams
        return collect(
            source,
            options,
            spool_dir=Path(self._config.cache_dir) / "spool",
            max_memory=self._config.max_memory,
            large=SURELY_LFS if open_streams else None,
        )

    def _context(
        self, repo: Repo, options: PushOptions, push_id: str, events: Emitter
    ) -> PushContext:
        return PushContext(
            repo=repo,
            options=options,
            push_id=push_id,
            session=self._session,
            part_sender=self._part_sender,
            hasher=self._hasher,
            transfers=self._transfers,
            journal=self._journal,
            push_threads=self._threads.for_push(),
            events=events,
            slots=FairSlots(self._slots, most=_files_affordable()),
            contents=ContentCache(self._cache_memory),
            sending=self._sending,
        )

    def _commit_lock(self, repo: Repo, revision: str) -> asyncio.Lock:
        return self._commit_locks.setdefault((repo, revision), asyncio.Lock())


def _source(origin: Address) -> CopySource:
    from asyncpush.pipeline.copy import CopySource

    repo = Repo(origin.repo_id, origin.kind)
    return CopySource(repo, origin.revision or DEFAULT_BRANCH, origin.path)


def _files_affordable() -> int | None:
    """How many files a push may handle at the same time, if only few file descriptors are left."""
    left = descriptors_left()
    return None if left is None or left >= ENOUGH_DESCRIPTORS else each_affordable(left)


logger = library_logger("session")


def _result_card(result: UploadResult) -> str:
    from asyncpush.notebook import result_card  # the module that draws it takes a while to import

    return result_card(result)


show_results_as(_result_card)


@asynccontextmanager
async def open_runtime(
    config: UploadConfig, endpoint: str, token: Token | None
) -> AsyncIterator[Runtime]:
    """Open a runtime for one Hub and everything it needs. All of it is closed in reverse order."""
    configure_from_env()
    check_installed(config)
    left = descriptors_left()
    calls_in_flight = API_CALLS_IN_FLIGHT
    if left is not None and left < ENOUGH_DESCRIPTORS:
        config = sparing(config, left)
        calls_in_flight = min(calls_in_flight, each_affordable(left))
        _import_what_may_be_needed(config)
    async with AsyncExitStack() as stack:
        session_threads = SessionThreads(stack, hash_workers=config.hash_workers)
        threads = session_threads.journal
        if progress_is_shown(config.progress, sys.stderr):
            await in_thread(threads, partial(_import_display, config.progress))
        if endpoint != LOCAL:
            _check_online(endpoint)
        cache_dir = Path(config.cache_dir)
        stack.enter_context(Announcement(cache_dir / "journal", JOURNAL))
        stack.enter_context(Announcement(cache_dir / "spool", SPOOL))
        for library in transfer_libraries():
            if library.installed and library.folder is not None:
                whose = f"{library.module}'s cache and log"
                stack.enter_context(Announcement(library.folder, whose))
        local = endpoint == LOCAL
        if local:
            endpoint = await _start_local_hub(stack, cache_dir, threads)
            if token is None:  # the embedded Hub accepts any token, and renews none
                token = token_from_environment() or "local"
        endpoint = urls.check_endpoint(endpoint)
        listeners = _listeners(config, stack)
        tracing = next((each for each in listeners if isinstance(each, TracingListener)), None)
        tokens = TokenSource(token, endpoint=endpoint)
        session = HubSession(
            endpoint,
            tokens,
            config,
            direct=local,
            trace_headers=tracing.trace_headers if tracing is not None else None,
            calls_in_flight=calls_in_flight,
        )
        stack.push_async_callback(session.close)
        tokens.open_login = partial(_open_login, session, listeners)
        journal: Journal | NullJournal = NullJournal()
        if config.resume:
            # With few file descriptors left, opening the journal might fail later.
            few = left is not None and left < ENOUGH_DESCRIPTORS
            open_journal = partial(
                Journal.open,
                cache_dir,
                at_once=few,
                on_open=lambda journal: threads.submit(journal.expire, EXPIRE_WITHIN),
            )
            journal = await in_thread(threads, open_journal, discard=Journal.close)
        # Closing writes the last hashes and empties the write-ahead log, which may take a moment.
        stack.push_async_callback(in_thread_anyway, threads, journal.close)
        runtime = Runtime(
            session,
            config,
            journal,
            session_threads,
            listeners,
        )
        stack.push_async_callback(runtime.close)
        yield runtime


def sparing(config: UploadConfig, left: int) -> UploadConfig:
    """The settings with limits on files, parts and calls that fit the file descriptors left. Each
    of them needs one, and some are needed for the journal, for reading ahead and by the rest of the
    program."""
    each = each_affordable(left)
    fewer = replace(
        config,
        max_concurrent_files=min(config.max_concurrent_files, each),
        max_concurrent_parts=min(config.max_concurrent_parts, each),
        hash_workers=min(config.hash_workers, each),
    )
    if fewer != config:
        logger.warning(
            "only %s more files and sockets can be opened: this session uses"
            " max_concurrent_files=%s and max_concurrent_parts=%s; raise the limit (`ulimit -n`)"
            " for more",
            left,
            fewer.max_concurrent_files,
            fewer.max_concurrent_parts,
        )
    return fewer


def _import_display(progress: ProgressChoice) -> None:
    from asyncpush.listeners.bars import preload

    preload(progress)


def _import_what_may_be_needed(config: UploadConfig) -> None:
    """Import now, while the files of these modules can still be opened."""
    modules = [*IMPORTED_LATE, *transfers.IMPORTED_LATE]
    try:
        for module in modules:
            import_module(module)
        for library in transfer_libraries():
            wanted = config.transfer in ("auto", library.route) and not library.disabled
            if wanted and library.installed:
                library.load()
    except OSError as exc:
        raise AsyncPushError(f"the library cannot be loaded: {os_reason(exc)}") from exc


def _check_online(endpoint: str) -> None:
    """Raise `HubError` if the environment forbids requests, as the official client does for every
    URL; `ValueError` if it is not a URL."""
    urls.check_endpoint(endpoint)
    if is_true(*OFFLINE_VARIABLES):
        names = [name for name in OFFLINE_VARIABLES if is_true(name)]
        raise HubError(
            f"{names[0]} is set: no Hub can be reached",
            suggestion=f"unset {' and '.join(names)}, or use the embedded Hub"
            " (endpoint='local', --endpoint local)",
        )


def _open_login(session: HubSession, listeners: Sequence[Listener]) -> Login:
    """The object that renews a session's tokens, for those that need it. It belongs to no push,
    even if a push is the first to wait for it."""
    from asyncpush.net.login import Login

    events = Emitter([LogListener().on_event, *listeners], push_id=uuid.uuid4().hex)

    async def ask(
        request: HubRequest,
        parse: Callable[[HubResponse], T],
        *,
        retry: bool,
        accept: Callable[[HubResponse], bool],
    ) -> T:
        return await session.ask(request, parse, events, retry=retry, accept=accept)

    return Login(ask, session.endpoint)


async def _start_local_hub(stack: AsyncExitStack, cache_dir: Path, threads: Executor) -> str:
    """Start the embedded Hub in its own thread, so that git never blocks the caller's event loop.
    It uses the same port each time if that is free, since the journal's URLs of an interrupted push
    contain it."""
    from asyncpush.localhub import serve_in_thread

    root = cache_dir / "hub"

    def start() -> tuple[AbstractContextManager[LocalHub], LocalHub]:
        for port in (_usual_port(root), 0):
            server = serve_in_thread(root, port=port)
            try:
                return server, server.__enter__()
            except OSError:
                if port == 0:
                    raise
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    # Not in a thread of lowered priority: the threads started there would inherit it.
    with ThreadPoolExecutor(1, "asyncpush-start-hub") as starter:
        server, hub = await in_thread(starter, start)

    async def stop() -> None:
        await in_thread_anyway(threads, lambda: server.__exit__(None, None, None))

    stack.push_async_callback(stop)
    return hub.url


def _usual_port(root: Path) -> int:
    """A fixed port for each hub folder, outside the range of ephemeral ports."""
    return 20_000 + zlib.crc32(os.fsencode(root.absolute())) % 10_000


def _listeners(config: UploadConfig, stack: AsyncExitStack) -> list[Listener]:
    return [_listener(sink, stack) for sink in event_sinks(config.events)]


def _listener(sink: EventSink, stack: AsyncExitStack) -> Listener:
    if not isinstance(sink, str | os.PathLike):
        return sink
    from asyncpush.listeners.jsonl import JsonlWriter

    writer = JsonlWriter(sink)
    stack.callback(writer.close)
    return writer.on_event
