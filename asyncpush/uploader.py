"""The front door: one session for many pushes, and the one call most people need."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar, overload

import anyio

from asyncpush.errors import AsyncPushError, HubError
from asyncpush.events import (
    Emitter,
    Listener,
    PushFailed,
    PushFinished,
    PushStarted,
    TracingListener,
)
from asyncpush.handle import PushHandle
from asyncpush.journal import Journal, Neighbours, NullJournal
from asyncpush.listeners.bars import BarDisplay
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.logs import LogListener, configure_from_env
from asyncpush.listeners.progress import ProgressPublisher
from asyncpush.listeners.tally import ActivityTally, RetryTally
from asyncpush.models import AuditReport, Receipt, Repo, Source, UploadResult
from asyncpush.net.credentials import Token, TokenSource, find_token, token_from_environment
from asyncpush.net.limits import BufferPool, PartLimit
from asyncpush.net.parts import PIECES_PER_HOP, PartSender
from asyncpush.net.session import HubSession
from asyncpush.options import EventSink, Push, PushOptions, UploadConfig, event_sinks
from asyncpush.pipeline.audit import audit
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.hashing import Hasher
from asyncpush.pipeline.push import PushRun
from asyncpush.pipeline.streams import LARGE as STREAM_LARGE
from asyncpush.protocol.urls import PUBLIC_ENDPOINT
from asyncpush.sources import Collected, collect
from asyncpush.threads import in_thread
from asyncpush.transfers.xet import MISSING, XetEngine, is_installed, why_not

if TYPE_CHECKING:
    from asyncpush.doctor import Finding
    from asyncpush.localhub import LocalHub

T = TypeVar("T")

LOCAL = "local"
"""The endpoint that means the embedded Hub, kept under the cache directory."""

PUSHES_AT_ONCE = 16
"""Pushes of `push_many` under way at once; their files share the session's limits."""

READERS = 4
"""Threads that read parts and take their MD5."""


class Uploader:
    """A session with a Hub: connections, limits, hash cache and journal shared by its pushes.

    Use it as `async with Uploader() as up:`. `token` is a string, or a plain or async callable
    returning one (asked again after a 401); None means `HF_TOKEN` or the file that `hf auth login`
    wrote. `endpoint` is a Hub's URL, or "local" for the embedded Hub; None means `HF_ENDPOINT`,
    else the public Hub. Leaving the block waits for pushes that still run, or cancels them when
    it is left by an error; the failure of a push that nobody awaited is raised there.
    """

    def __init__(
        self,
        token: Token | None = None,
        endpoint: str | None = None,
        config: UploadConfig | None = None,
    ) -> None:
        self._config = config or UploadConfig()
        self._token = token
        self._endpoint = endpoint or os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT
        self._stack = AsyncExitStack()
        self._shared: _Shared | None = None
        self._handles: set[PushHandle] = set()

    async def __aenter__(self) -> Self:
        configure_from_env()
        stack = AsyncExitStack()
        try:
            self._shared = await stack.enter_async_context(
                _shared(self._config, self._endpoint, self._token)
            )
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        handles = list(self._handles)
        try:
            if exc is not None:
                for handle in handles:
                    handle.cancel()
            await _settle(handles)
        finally:
            with anyio.CancelScope(shield=True):
                await _cancel_and_settle(handles)
                self._shared = None
                await self._stack.aclose()
        if exc is None:
            _raise_unobserved(handles)

    @property
    def endpoint(self) -> str:
        """The Hub's URL; that of the running server for the embedded Hub."""
        return self._running().session.endpoint

    async def push_to_hub(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> UploadResult:
        """Upload a source and commit it; see the function `push_to_hub`."""
        return await self.start_push(repo_id, source, options)

    def start_push(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> PushHandle:
        """Begin a push and return at once. Raises `InvalidRepoIdError` for an impossible id."""
        options = options or PushOptions()
        repo = Repo(repo_id, options.repo_type)
        shared = self._running()
        publisher = ProgressPublisher(self._config.progress_callback)

        async def work(ctx: PushContext, collected: Collected) -> UploadResult:
            run = PushRun(ctx, lambda: shared.commit_lock(repo, options.revision))
            return await run.push(collected)

        task = asyncio.create_task(
            self._watched(repo, source, options, work, publisher, stores=True),
            name=f"push {repo_id}",
        )
        handle = PushHandle(task, publisher, repo_id)
        self._handles.add(handle)
        # A failure that nobody awaits stays until the block is left, to be raised there.
        task.add_done_callback(lambda _: self._forget(handle))
        return handle

    @overload
    async def push_many(
        self, pushes: Iterable[Push], *, return_exceptions: Literal[False] = False
    ) -> list[UploadResult]: ...

    @overload
    async def push_many(
        self, pushes: Iterable[Push], *, return_exceptions: Literal[True]
    ) -> list[UploadResult | BaseException]: ...

    async def push_many(
        self, pushes: Iterable[Push], *, return_exceptions: bool = False
    ) -> list[UploadResult] | list[UploadResult | BaseException]:
        """Do many pushes, each to its end whatever becomes of the others; results in order.

        Raises an `ExceptionGroup` of the failures, each with a note that names its repo; with
        `return_exceptions=True` each failure stands in its result's place instead.
        """
        at_once = asyncio.Semaphore(PUSHES_AT_ONCE)

        async def one(push: Push) -> UploadResult:
            async with at_once:
                return await self.push_to_hub(push.repo_id, push.source, push.options)

        pushes = list(pushes)
        results = await asyncio.gather(*(one(push) for push in pushes), return_exceptions=True)
        failures = []
        for push, result in zip(pushes, results, strict=True):
            if isinstance(result, Exception):
                result.add_note(f"in the push to {push.repo_id}")
                failures.append(result)
        if return_exceptions:
            return results
        if failures:
            names = [p.repo_id for p, r in zip(pushes, results, strict=True) if r in failures]
            raise ExceptionGroup(
                f"{len(failures)} of {len(pushes)} pushes failed: {', '.join(names[:10])}", failures
            )
        return [result for result in results if isinstance(result, UploadResult)]

    async def upload_files(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> list[Receipt]:
        """Store files without committing them. The receipts can be pickled, written as JSON, and
        committed later, also by another process or machine."""
        options = options or PushOptions()
        repo = Repo(repo_id, options.repo_type)
        shared = self._running()

        async def work(ctx: PushContext, collected: Collected) -> list[Receipt]:
            run = PushRun(ctx, lambda: shared.commit_lock(repo, options.revision))
            return await run.store(collected)

        return await self._watched(repo, source, options, work, stores=True)

    async def commit(
        self, repo_id: str, receipts: Sequence[Receipt], options: PushOptions | None = None
    ) -> UploadResult:
        """Make one commit of receipts, wherever they come from, and verify it.

        `delete_patterns` apply here; with `dry_run` the plan is returned and nothing is committed.
        """

        async def gathered(emit: Emitter) -> Sequence[Receipt]:
            return receipts

        return await self.commit_gathered(repo_id, gathered, options)

    async def commit_gathered(
        self,
        repo_id: str,
        gather: Callable[[Emitter], Awaitable[Sequence[Receipt]]],
        options: PushOptions | None = None,
    ) -> UploadResult:
        """Make one commit of the receipts that `gather` brings in, as one push with one progress.

        What `gather` emits, such as the events of uploads on other machines, is shown, logged and
        counted as this push's. The option `timeout` is for all of it.
        """
        options = options or PushOptions()
        repo = Repo(repo_id, options.repo_type)
        shared = self._running()

        async def work(ctx: PushContext, collected: Collected) -> UploadResult:
            run = PushRun(ctx, lambda: shared.commit_lock(repo, options.revision))
            return await run.commit(await gather(ctx.emit))

        return await self._watched(repo, None, options, work)

    async def audit(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> AuditReport:
        """Compare local files with the repo, by size and checksum; changes nothing."""
        options = options or PushOptions()
        repo = Repo(repo_id, options.repo_type)
        return await self._watched(repo, source, options, audit, needs_token=False)

    async def doctor(
        self, repo_id: str | None = None, options: PushOptions | None = None
    ) -> list[Finding]:
        """Look for what could stop a push before it is made, and how to mend it.

        Asks the Hub who the token belongs to and, given a repo id, whether it may write there and
        whether the branch exists; looks at clock, proxy, certificates, disk and limits. Changes
        nothing on the Hub. A question that fails is a finding: of the Hub nothing is raised.
        """
        # Few pushes are preceded by a diagnosis: its imports need not cost the others.
        from asyncpush.doctor import Facts, Target, ask_hub, judge, look_around

        shared, options = self._running(), options or PushOptions()
        target = None
        if repo_id is not None:
            repo = Repo(repo_id, options.repo_type)
            target = Target(repo, options.revision, options.create_branch)
        listeners = [LogListener().on_event, *shared.listeners]
        emit = Emitter(listeners, push_id=uuid.uuid4().hex)
        hub = await ask_hub(shared.session, target, emit)
        where = self._token_from()
        local = await asyncio.to_thread(look_around, self.endpoint, self._config, where)
        return judge(Facts(self.endpoint, hub, local, target))

    def _token_from(self) -> str | None:
        if self._token is not None:
            return "that was given"
        found = find_token()
        if found is None and self._endpoint == LOCAL:
            return "of the embedded Hub, which takes any"
        return f"from {found[1]}" if found is not None else None

    def _running(self) -> _Shared:
        if self._shared is None:
            raise RuntimeError("use the Uploader within `async with Uploader(...) as up:`")
        return self._shared

    def _forget(self, handle: PushHandle) -> None:
        if handle.unobserved_failure() is None:
            self._handles.discard(handle)

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
        """Do some work on a source with its listeners, its time limit, and its end told. With
        `stores` long streams may be left open for Xet, where that can be had."""
        # Those that are split are read at other places than the next.
        open_streams = stores and options.max_shard_size is None and why_not(self._config) is None
        shared = self._running()
        publisher = publisher or ProgressPublisher(self._config.progress_callback)
        display = BarDisplay(self._config.progress, repo.repo_id)
        tally = RetryTally()
        activity = ActivityTally()
        began = time.monotonic()
        push_id = uuid.uuid4().hex
        listeners: list[Listener] = [
            publisher.on_event,
            display.on_event,
            tally.on_event,
            activity.on_event,
            LogListener().on_event,
            *shared.listeners,
        ]
        emit = Emitter(listeners, push_id=push_id)
        try:
            emit.emit(PushStarted(repo.repo_id, repo.repo_type, options.revision))
            async with _time_limit(options.timeout):
                if needs_token:
                    await shared.session.token.get()
                ctx = shared.context(repo, options, push_id, emit)
                if source is None:
                    result = await work(ctx, Collected(()))
                else:
                    async with collect(
                        source,
                        options,
                        spool_dir=shared.cache_dir / "spool",
                        max_memory=self._config.max_memory,
                        large=STREAM_LARGE if open_streams else None,
                    ) as collected:
                        result = await work(ctx, collected)
            if isinstance(result, UploadResult):
                result = replace(
                    result,
                    retries=tally.retries,
                    waited_seconds=tally.waited_seconds,
                    activity=activity.activity(),
                )
            emit.emit(_finished(result, options, time.monotonic() - began))
            return result
        except asyncio.CancelledError as exc:
            emit.emit(_failed(exc))
            # Where it was just then is nobody's concern, and a notebook would show all of it.
            raise exc.with_traceback(None)  # noqa: B904  (it is its own cause)
        except BaseException as exc:
            emit.emit(_failed(exc))
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await publisher.aclose()
            display.close()


class _Shared:
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
        self.session = session
        self.listeners = listeners
        self.cache_dir = Path(config.cache_dir)
        self._journal = journal
        self._neighbours = neighbours
        self._threads = threads
        self._hasher = Hasher(hash_threads, journal)
        self.xet = XetEngine(config)
        pool = BufferPool(PIECES_PER_HOP * config.chunk_size)
        # Each part in flight holds two buffers: one being sent, one being filled.
        affordable = max(1, config.max_memory // (2 * pool.size))
        limit = PartLimit(min(config.max_concurrent_parts, affordable))
        self._sender = PartSender(session, limit, pool, threads)
        self._commit_locks: dict[tuple[Repo, str], asyncio.Lock] = {}

    def commit_lock(self, repo: Repo, revision: str) -> asyncio.Lock:
        return self._commit_locks.setdefault((repo, revision), asyncio.Lock())

    def context(self, repo: Repo, options: PushOptions, push_id: str, emit: Emitter) -> PushContext:
        self._sender.limit.share(self._neighbours.count())
        return PushContext(
            repo,
            options,
            push_id,
            self.session,
            self._sender,
            self._hasher,
            self.xet,
            self._journal,
            self._threads,
            emit,
        )


@asynccontextmanager
async def _shared(
    config: UploadConfig, endpoint: str, token: Token | None
) -> AsyncIterator[_Shared]:
    if config.transfer == "xet" and not is_installed():
        raise ImportError(f"transfer='xet': {MISSING}", name="hf_xet")
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(READERS, "asyncpush-read"))
        hash_threads = stack.enter_context(
            ThreadPoolExecutor(config.hash_workers, "asyncpush-hash")
        )
        cache_dir = Path(config.cache_dir)
        local = endpoint == LOCAL
        if local:
            xet = config.transfer == "xet"
            endpoint = await _start_local_hub(stack, cache_dir, threads, xet=xet)
            if token is None and token_from_environment() is None:
                token = "local"  # the embedded Hub takes any
        listeners = _listeners(config, stack)
        tracing = next((each for each in listeners if isinstance(each, TracingListener)), None)
        session = HubSession(
            endpoint,
            TokenSource(token),
            config,
            direct=local,
            trace_headers=tracing.trace_headers if tracing is not None else None,
        )
        stack.push_async_callback(session.close)
        journal: Journal | NullJournal = NullJournal()
        if config.resume:
            journal = await in_thread(
                threads, lambda: Journal.open(cache_dir / "journal"), discard=Journal.close
            )
        stack.callback(journal.close)
        neighbours = Neighbours(journal)
        stack.callback(neighbours.leave)
        shared = _Shared(
            session,
            config,
            journal,
            neighbours,
            threads,
            hash_threads,
            listeners,
        )
        stack.push_async_callback(shared.xet.close)
        yield shared


async def _start_local_hub(
    stack: AsyncExitStack, cache_dir: Path, threads: ThreadPoolExecutor, *, xet: bool
) -> str:
    """The embedded Hub in a thread of its own, so that git never holds up the caller's loop. Its
    store is next door, where cutting files into chunks costs more than sending them: it offers Xet
    to those alone who ask for it."""
    from asyncpush.localhub import serve_in_thread

    root = cache_dir / "hub"

    def start() -> tuple[AbstractContextManager[LocalHub], LocalHub]:
        # The same port each time, if it is free: the journal's URLs of an interrupted push name it.
        for port in (_usual_port(root), 0):
            server = serve_in_thread(root, port=port, xet=xet)
            try:
                return server, server.__enter__()
            except OSError:
                if port == 0:
                    raise
        raise AssertionError("one of two ports is tried last")  # pragma: no cover

    server, hub = await in_thread(threads, start)

    async def stop() -> None:
        await in_thread(threads, lambda: server.__exit__(None, None, None))

    stack.push_async_callback(stop)
    return hub.url


def _usual_port(root: Path) -> int:
    """A port of its own for each folder that a hub keeps, outside the range of passing ports."""
    return 20_000 + zlib.crc32(os.fsencode(root.absolute())) % 10_000


def _listeners(config: UploadConfig, stack: AsyncExitStack) -> list[Listener]:
    return [_listener(sink, stack) for sink in event_sinks(config.events)]


def _listener(sink: EventSink, stack: AsyncExitStack) -> Listener:
    if not isinstance(sink, str | os.PathLike):
        return sink
    writer = JsonlWriter(sink)
    stack.callback(writer.close)
    return writer.on_event


def _finished(outcome: object, options: PushOptions, seconds: float) -> PushFinished:
    match outcome:
        case UploadResult() if options.dry_run:
            return PushFinished(outcome.commit_sha, len(outcome.plan), 0, seconds, "plan")
        case UploadResult():
            files = len(outcome.files_uploaded)
            return PushFinished(outcome.commit_sha, files, outcome.bytes_transferred, seconds)
        case AuditReport():
            files = len(outcome.matching) + len(outcome.missing) + len(outcome.different)
            return PushFinished(outcome.commit_sha, files, 0, seconds, "audit")
        case list() as receipts:
            sent = sum(receipt.bytes_sent for receipt in receipts)
            return PushFinished("", len(receipts), sent, seconds, "store")
        case _:
            raise AssertionError(f"not an outcome: {outcome!r}")


def _failed(error: BaseException) -> PushFailed:
    details: dict[str, object] = {}
    if isinstance(error, AsyncPushError):
        details["suggestion"] = error.suggestion
    if problems := getattr(error, "problems", ()):
        details["problems"] = list(problems)
    answer = error if isinstance(error, HubError) else error.__cause__
    if isinstance(answer, HubError):
        details |= {
            "status": answer.status,
            "body": answer.body,
            "method": answer.method,
            "url": answer.url,
            "headers": answer.headers,
            "attempt": answer.attempt,
            "elapsed_seconds": answer.elapsed_seconds,
            "request_id": answer.request_id,
            "error_code": answer.error_code,
        }
    cancelled = isinstance(error, asyncio.CancelledError)
    text = error.message if isinstance(error, AsyncPushError) else str(error)
    return PushFailed(text, type(error).__name__, cancelled, details)


@asynccontextmanager
async def _time_limit(seconds: float | None) -> AsyncIterator[None]:
    """`PushOptions(timeout=...)`: the error that ends a push says that it was this."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TimeoutError(
            f"the push took longer than its timeout of {seconds:g} s: push again, what is stored is"
            " not sent twice"
        ) from exc


async def _settle(handles: Sequence[PushHandle]) -> None:
    running = [handle._task for handle in handles if not handle.done()]
    if running:
        await asyncio.wait(running)


async def _cancel_and_settle(handles: Sequence[PushHandle]) -> None:
    for handle in handles:
        if not handle.done():
            handle.cancel()
    await _settle(handles)


def _raise_unobserved(handles: Sequence[PushHandle]) -> None:
    failures = [failure for handle in handles if (failure := handle.unobserved_failure())]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} pushes that nobody awaited failed", failures)


async def push_to_hub(
    repo_id: str,
    source: Source,
    options: PushOptions | None = None,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> UploadResult:
    """Upload a folder, file, bytes or mapping to the Hub, as one verified commit.

    Returns only after the Hub has shown every file at its size and checksum at the returned
    commit (unless `PushOptions(verify=False)`).

    Args:
        repo_id: `namespace/name`; created when missing.
        source: a folder, a file, `bytes` (with `path_in_repo`), or a mapping of paths in the repo
            to paths, bytes, binary files or async iterators of bytes.
        options: how this push is to be done; see `PushOptions`.
        token: a write token, or a callable returning one. Default: the environment's.
        endpoint: the Hub's URL, or "local" for the embedded Hub.
        config: limits, retries, progress; see `UploadConfig`.

    Raises:
        MissingTokenError, InvalidRepoIdError: before anything is sent.
        SourceError: files that cannot be uploaded, all named, before anything is sent.
        SourceChangedError: a file changed while it was uploaded; nothing was committed.
        HubError: the Hub or the network failed; its kinds say how.
        IntegrityError, VerificationError: what the Hub holds is not what was sent.
        TimeoutError: `PushOptions(timeout=...)` ran out.

    Example:
        >>> result = await push_to_hub("me/model", "out/")  # doctest: +SKIP
        >>> result.commit_sha  # doctest: +SKIP
    """
    async with Uploader(token, endpoint, config) as uploader:
        return await uploader.push_to_hub(repo_id, source, options)
