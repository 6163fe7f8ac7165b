"""The main entry point: a session for many pushes, and functions for a single one.

Importing it is cheap. The runtime behind it (aiohttp, SQLite, the pipeline) is imported in a thread
when an `Uploader` is entered, so that it delays neither the program's start nor its event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, cast, overload

import anyio
import anyio.lowlevel

from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import AsyncPushError, os_reason
from asyncpush.models import (
    AuditReport,
    CheckpointSet,
    Receipt,
    Repo,
    Source,
    SyncResult,
    UploadProgress,
    UploadResult,
)
from asyncpush.options import LOCAL, Push, PushOptions, SyncOptions, UploadConfig, endpoint_in_use
from asyncpush.protocol.addresses import (
    any_target_of,
    bucket_of,
    check_copy,
    names_bucket,
    source_of,
    target_of,
)

if TYPE_CHECKING:
    from asyncpush.doctor import Finding
    from asyncpush.events import Emitter, Operation
    from asyncpush.listeners.publisher import ProgressPublisher
    from asyncpush.net.credentials import Token
    from asyncpush.runtime import Runtime
    from asyncpush.watch import FolderWatch, WatchOutcome


T = TypeVar("T")
H = TypeVar("H", bound="Handle[Any]")
OpenRuntime: TypeAlias = (
    "Callable[[UploadConfig, str, Token | None], AbstractAsyncContextManager[Runtime]]"
)

PUSHES_AT_ONCE = 16
"""How many pushes of `push_many` run at the same time; their files share the session's limits."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Uploader:
    """A session with a Hub: connections, limits, hash cache and journal shared by its pushes.

    Use it as `async with Uploader() as up:`. `token` is a string, or a plain or async callable that
    returns one (called again after a 401). None means the first of these that exists: trusted
    publishing if `HF_OIDC_RESOURCE` is set, `HF_TOKEN`, the file written by `hf auth login` (whose
    logins are renewed before they expire), Colab's secrets. `endpoint` is a Hub's URL, or "local"
    for the embedded Hub; None means `HF_ENDPOINT`, or else the public Hub.

    Leaving the block waits for everything still running (pushes, `push_many`, `upload_files`,
    `commit`, `audit`, `doctor`), and raises the failure of a push that nobody awaited. When an
    error leaves the block, everything still running is cancelled.

    Raises `RuntimeError` when it is used outside the block, while the block is being left, or in
    another event loop than the one in which it was opened (another thread, a forked process);
    `ValueError` for an endpoint that is not an http(s) URL, `ImportError` for a missing extra, and
    `HubError` when `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is set and the endpoint is not
    "local".

    Example:
        >>> async def main():
        ...     files = {"a.txt": b"one", "b.txt": b"two"}
        ...     async with Uploader(endpoint="local", config=UploadConfig(progress="none")) as up:
        ...         push = up.start_push("me/session", files)  # returns at once
        ...         async for progress in push:
        ...             last = progress
        ...         result = await push
        ...         report = await up.audit("me/session", files)
        ...     return last.phase, result.files_uploaded, report.complete
        >>> asyncio.run(main())
        ('done', ('a.txt', 'b.txt'), True)
    """

    def __init__(
        self,
        token: Token | None = None,
        endpoint: str | None = None,
        config: UploadConfig | None = None,
    ) -> None:
        if not isinstance(config, UploadConfig | None):
            raise TypeError(f"config must be an UploadConfig, not {type(config).__name__}")
        self._config = config or UploadConfig()
        self._token = token
        self._endpoint = endpoint_in_use(endpoint)
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None
        self._handles: set[Handle[Any]] = set()
        self._work: set[asyncio.Task[Any]] = set()
        self._leaving = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        if self._runtime is not None:
            raise RuntimeError("this Uploader is already open: enter it once, and share it")
        self._loop = _running_loop()
        if self._loop is None:
            raise RuntimeError(
                "no asyncio event loop is running here: in other frameworks (trio) and in blocking"
                " code use BackgroundUploader"
            )
        open_runtime = await _runtime()
        stack = AsyncExitStack()
        try:
            self._runtime = await stack.enter_async_context(
                open_runtime(self._config, self._endpoint, self._token)
            )
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        self._leaving = False
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = True
        handles = list(self._handles)
        try:
            if exc is not None:
                self._cancel_all(handles)
            await self._settle()
        finally:
            with anyio.CancelScope(shield=True):
                self._cancel_all(handles)
                await self._settle()
                self._runtime = None
                await self._stack.aclose()
        if exc is None:
            _raise_unobserved(handles)

    @property
    def endpoint(self) -> str:
        """The Hub's URL; for the embedded Hub, the URL of its running server."""
        return self._opened().endpoint

    async def push_to_hub(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> UploadResult:
        """Upload a folder, file, bytes or mapping, and commit it. Returns only after the Hub has
        shown every file with its size and checksum in the commit.

        Args:
            repo_id: `namespace/name`, or an address; created when missing.
            source: a folder, a file, `bytes`, or a mapping of paths in the repo to contents.
            options: the options of this push; see `PushOptions`.

        Raises `InvalidRepoIdError`, `SourceError`, `HubError`, `IntegrityError`,
        `VerificationError` or `TimeoutError`: see `help(asyncpush.push_to_hub)` for when, and for
        all kinds of sources and addresses.
        """
        return await self._push(self._running(), repo_id, source, options)

    def start_push(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> PushHandle:
        """Start a push and return at once. Takes the same as `push_to_hub`.

        Raises `InvalidRepoIdError` for an invalid `repo_id`, and `ValueError` for `options` that
        contradict each other. All other errors, such as of the `source`, are raised by awaiting the
        handle.
        """
        runtime = self._running()
        repo, options = target_of(repo_id, options or PushOptions(), runtime.endpoint)
        publisher = runtime.publisher()
        task = self._begin(runtime.push(repo, source, options, publisher), f"push {repo.repo_id}")
        return self._keep(PushHandle(task, publisher, repo.repo_id))

    async def _push(
        self, runtime: Runtime, repo_id: str, source: Source, options: PushOptions | None
    ) -> UploadResult:
        """Without a handle nobody can follow the push, so that its progress need not be known."""
        repo, options = target_of(repo_id, options or PushOptions(), runtime.endpoint)
        return await self._begin(runtime.push(repo, source, options), f"push {repo.repo_id}")

    def _keep(self, handle: H) -> H:
        """Keep a handle until its push has succeeded or was awaited, so that other failures are
        raised when the block is left."""
        self._handles.add(handle)
        handle.on_done(lambda: self._forget(handle))
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
        """Make many pushes and return their results in order. A failed push does not stop the
        others. At most 16 run at the same time, and all share the session's limits.

        Raises an `ExceptionGroup` of the failures, each with a note that names its repo. With
        `return_exceptions=True` each failure is returned in place of the result instead.

        Example:
            >>> quiet = UploadConfig(progress="none")
            >>> async def main():
            ...     pushes = [Push("me/a", {"a": b"1"}), Push("me/b", {"b": b"2"})]
            ...     async with Uploader(endpoint="local", config=quiet) as up:
            ...         return [result.files_uploaded for result in await up.push_many(pushes)]
            >>> asyncio.run(main())
            [('a',), ('b',)]
        """
        runtime = self._running()
        at_once = asyncio.Semaphore(PUSHES_AT_ONCE)

        async def one(push: Push) -> UploadResult:
            async with at_once:
                return await self._push(runtime, push.repo_id, push.source, push.options)

        async def all_of_them() -> list[UploadResult | BaseException]:
            return await asyncio.gather(*(one(push) for push in pushes), return_exceptions=True)

        pushes = list(pushes)
        for push in pushes:
            if not isinstance(push, Push):
                raise TypeError(f"push_many takes Push objects, not {type(push).__name__}")
        results = await self._begin(all_of_them(), f"{len(pushes)} pushes")
        failures: list[BaseException] = []
        for push, result in zip(pushes, results, strict=True):
            if isinstance(result, BaseException):
                result.add_note(f"in the push to {push.repo_id}")
                failures.append(result)
        if return_exceptions:
            return results
        if failures:
            names = [p.repo_id for p, r in zip(pushes, results, strict=True) if r in failures]
            # Python makes this an `ExceptionGroup` if each failure is an `Exception`.
            raise BaseExceptionGroup(
                f"{len(failures)} of {len(pushes)} pushes failed: {', '.join(names[:10])}", failures
            )
        return cast("list[UploadResult]", results)

    async def upload_files(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> list[Receipt]:
        """Store files without committing them. Takes and raises the same as `push_to_hub`.

        The receipts can be pickled or written as JSON, and committed later, also by another process
        or machine. See `commit` for an example.
        """
        runtime = self._running()
        repo, options = target_of(repo_id, options or PushOptions(), runtime.endpoint)
        work = runtime.store(repo, source, options)
        return await self._begin(work, f"upload_files {repo.repo_id}")

    async def commit(
        self, repo_id: str, receipts: Iterable[Receipt], options: PushOptions | None = None
    ) -> UploadResult:
        """Make one commit of receipts from any process or machine, and verify it.

        Args:
            repo_id: the repo that `upload_files` stored the files for.
            receipts: what `upload_files` or `receipts_from_json` returned.
            options: as for a push. `delete_patterns` apply here; with `dry_run` the plan is
                returned and nothing is committed.

        Raises the same as `push_to_hub`, also when the Hub has lost objects since they were stored.

        Example:
            >>> quiet = UploadConfig(progress="none")
            >>> async def main():
            ...     async with Uploader(endpoint="local", config=quiet) as up:
            ...         receipts = await up.upload_files("me/shards", {"shard-1": b"one"})
            ...         receipts += await up.upload_files("me/shards", {"shard-2": b"two"})
            ...         return (await up.commit("me/shards", receipts)).files_uploaded
            >>> asyncio.run(main())
            ('shard-1', 'shard-2')
        """

        async def gathered(events: Emitter) -> Iterable[Receipt]:
            return receipts

        return await self._commit(repo_id, gathered, options, "commit")

    async def commit_gathered(
        self,
        repo_id: str,
        gather: Callable[[Emitter], Awaitable[Iterable[Receipt]]],
        options: PushOptions | None = None,
    ) -> UploadResult:
        """Make one commit of the receipts that `gather` returns, as one push with one progress.
        Takes and raises the same as `commit`.

        Events that `gather` emits, such as those of uploads on other machines, are shown, logged
        and counted as events of this push. The option `timeout` covers all of it.
        """
        return await self._commit(repo_id, gather, options, "push")

    async def _commit(
        self,
        repo_id: str,
        gather: Callable[[Emitter], Awaitable[Iterable[Receipt]]],
        options: PushOptions | None,
        operation: Operation,
    ) -> UploadResult:
        runtime = self._running()
        repo, options = target_of(repo_id, options or PushOptions(), runtime.endpoint)
        work = runtime.commit(repo, gather, options, operation)
        return await self._begin(work, f"commit {repo.repo_id}")

    @overload
    async def copy(self, source: str, destination: str, options: PushOptions) -> UploadResult: ...

    @overload
    async def copy(self, source: str, destination: str, options: SyncOptions) -> SyncResult: ...

    @overload
    async def copy(
        self, source: str, destination: str, options: None = None
    ) -> UploadResult | SyncResult: ...

    async def copy(
        self, source: str, destination: str, options: PushOptions | SyncOptions | None = None
    ) -> UploadResult | SyncResult:
        """Copy files from one place on the Hub to another. Large files are copied there, without
        passing through this machine.

        Args:
            source: a repo id or an address, with a revision and a path if wanted.
            destination: the repo, branch and path, or the bucket and path, to copy to.
            options: `PushOptions`, or `SyncOptions` when the destination is a bucket.

        Raises `InvalidRepoIdError`, `ValueError`, `SourceError`, `HubError`, `VerificationError`,
        `SyncError` or `TimeoutError`: see `help(asyncpush.copy)` for when, and for all forms of an
        address.
        """
        runtime = self._running()
        if names_bucket(destination):
            options = options or SyncOptions()
            if not isinstance(options, SyncOptions):
                raise ValueError(f"{destination} is a bucket: pass SyncOptions, not PushOptions")
            origin = source_of(source, "model", runtime.endpoint)
            check_copy(origin, options)
            bucket, path = bucket_of(destination, runtime.endpoint)
            to_bucket = runtime.copy_to_bucket(origin, bucket, path, options)
            return await self._begin(to_bucket, f"copy {bucket.repo_id}")
        options = options or PushOptions()
        if not isinstance(options, PushOptions):
            raise ValueError(f"{destination} is a repo: pass PushOptions, not SyncOptions")
        origin = source_of(source, options.repo_type, runtime.endpoint)
        repo, options = target_of(destination, options, runtime.endpoint)
        check_copy(origin, options)
        work = runtime.copy(origin, repo, options)
        return await self._begin(work, f"copy {repo.repo_id}")

    async def audit(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> AuditReport:
        """Compare local files with the repo, or with a bucket given by its address, by size and
        checksum. Changes nothing.

        Args:
            repo_id: a repo id or an address, also of a bucket.
            source: the local files, as for `push_to_hub`.
            options: which files to compare (`path_in_repo`, patterns), and with which `revision`.

        Raises `RepoNotFoundError` when the repo or bucket does not exist, `SourceError` for files
        that cannot be read, `InvalidRepoIdError` for options that contradict the address, and
        `HubError` when the Hub or the network fails.
        """
        runtime = self._running()
        repo, options = any_target_of(repo_id, options or PushOptions(), runtime.endpoint)
        work = runtime.audit(repo, source, options)
        return await self._begin(work, f"audit {repo.repo_id}")

    async def sync(
        self, source: Source, address: str, options: SyncOptions | None = None
    ) -> SyncResult:
        """Sync a folder, file, bytes or mapping to a bucket, and verify it.

        Args:
            source: as for `push_to_hub`.
            address: `hf://buckets/namespace/name[/path]`, or the URL of the bucket's page.
            options: the options of this sync; see `SyncOptions`.

        Raises `InvalidRepoIdError`, `SourceError`, `HubError`, `SyncError` or `TimeoutError`: see
        `help(asyncpush.sync)` for when, and for what an address with a path means.
        """
        runtime, bucket, path, options = self._sync_target(address, options)
        work = runtime.sync(bucket, path, source, options)
        return await self._begin(work, f"sync {bucket.repo_id}")

    def start_sync(
        self, source: Source, address: str, options: SyncOptions | None = None
    ) -> SyncHandle:
        """Start a sync to a bucket and return at once. Takes the same as `sync`.

        Raises `InvalidRepoIdError` when `address` is not the address of a bucket. All other errors,
        such as of the `source`, are raised by awaiting the handle.
        """
        runtime, bucket, path, options = self._sync_target(address, options)
        publisher = runtime.publisher()
        work = runtime.sync(bucket, path, source, options, publisher)
        task = self._begin(work, f"sync {bucket.repo_id}")
        return self._keep(SyncHandle(task, publisher, bucket.repo_id))

    def _sync_target(
        self, address: str, options: SyncOptions | None
    ) -> tuple[Runtime, Repo, str, SyncOptions]:
        runtime, options = self._running(), options or SyncOptions()
        if not isinstance(options, SyncOptions):
            raise TypeError(f"options must be SyncOptions, not {type(options).__name__}")
        return runtime, *bucket_of(address, runtime.endpoint), options

    def watch(
        self,
        folder: str | os.PathLike[str],
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        every: float = 60.0,
        quiet_for: float = 5.0,
        on_outcome: Callable[[WatchOutcome], object] | None = None,
    ) -> FolderWatch:
        """Push a folder whenever it has stopped changing, for as long as the block lasts.

        Args:
            folder: the folder to push; it need not exist yet.
            repo_id: the destination: a repo id or an address, or the address of a bucket.
            options: the options of each push; for a bucket, `SyncOptions`.
            every: the shortest time from one push to the next, in seconds. If something changes all
                the time (a log), the folder is pushed anyway after twice this time.
            quiet_for: seconds without a change before the folder is pushed.
            on_outcome: called in the event loop with the `WatchOutcome` of each push.

        See `FolderWatch` for failures and for what leaving the block does. With the extra `watch`
        (watchfiles) changes are noticed at once; without it the folder is polled. Raises
        `ValueError` for invalid options.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> async def main():
            ...     quiet = UploadConfig(progress="none")
            ...     with tempfile.TemporaryDirectory() as folder:
            ...         async with Uploader(endpoint="local", config=quiet) as up:
            ...             async with up.watch(folder, "me/watched") as watch:
            ...                 Path(folder, "train.log").write_text("step 1")
            ...         return watch.last_result.files_uploaded
            >>> asyncio.run(main())
            ('train.log',)
        """
        from asyncpush.watch import FolderWatch

        self._running()
        return FolderWatch(
            self,
            folder,
            repo_id,
            options,
            every=every,
            quiet_for=quiet_for,
            on_outcome=on_outcome,
        )

    async def checkpoints_in(self, address: str) -> list[CheckpointSet]:
        """The complete checkpoint sets directly below a bucket address, ordered by when they were
        completed.

        A set is complete when the bucket shows every file as its marker lists it; see
        `SyncOptions.complete_marker`. Raises `InvalidRepoIdError` when `address` is not the address
        of a bucket, `RepoNotFoundError` when the bucket does not exist.

        Example:
            >>> quiet = UploadConfig(progress="none")
            >>> whole = SyncOptions(complete_marker=True)
            >>> async def main():
            ...     async with Uploader(endpoint="local", config=quiet) as up:
            ...         for step in (100, 200):
            ...             files = {"model.bin": str(step).encode()}
            ...             await up.sync(files, f"hf://buckets/me/sets/run/step-{step}", whole)
            ...         return await up.checkpoints_in("hf://buckets/me/sets/run")
            >>> [found.name for found in asyncio.run(main())]
            ['step-100', 'step-200']
        """
        runtime = self._running()
        bucket, path = bucket_of(address, runtime.endpoint)
        work = runtime.checkpoints_in(bucket, path)
        return await self._begin(work, f"checkpoints_in {bucket.repo_id}")

    async def prune_checkpoints(self, address: str, *, keep: int) -> list[CheckpointSet]:
        """Remove the complete checkpoint sets directly below a bucket address, except the newest
        `keep` (1 or more). Returns the removed sets.

        The newest are those that were completed last, by the Hub's clock, whoever wrote them. A set
        that is not complete stays, since it may still be being written, and so does one that is
        written again meanwhile. What an interrupted removal has left is removed as well. Raises
        `ValueError` for an invalid `keep`, `SyncError` when not all could be removed, and otherwise
        as `checkpoints_in` does.
        """
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise ValueError(f"keep must be a whole number of at least 1, not {keep!r}")
        runtime = self._running()
        bucket, path = bucket_of(address, runtime.endpoint)
        work = runtime.prune_checkpoints(bucket, path, keep)
        return await self._begin(work, f"prune_checkpoints {bucket.repo_id}")

    async def doctor(
        self, repo_id: str | None = None, options: PushOptions | None = None
    ) -> list[Finding]:
        """Find what could stop a push before it is made, and how to fix it. Changes nothing on the
        Hub.

        Asks the Hub who the token belongs to and, given a `repo_id`, whether the token may write
        there and whether the branch of `options` exists. Checks clock, proxy, certificates, disk
        and limits. A request to the Hub that fails becomes a finding, and is not raised. Raises
        `InvalidRepoIdError` for an invalid id or address.
        """
        runtime, options = self._running(), options or PushOptions()
        repo: Repo | None = None
        if repo_id is not None:
            repo, options = any_target_of(repo_id, options, runtime.endpoint)
        work = runtime.doctor(repo, options, self._token_from())
        return await self._begin(work, "doctor")

    def _token_from(self) -> str | None:
        from asyncpush.net.credentials import RESOURCE, find_token

        if self._token is not None:
            return "that was given"
        if self._endpoint != LOCAL and (resource := os.environ.get(RESOURCE)):
            return f"from trusted publishing for {resource} ({RESOURCE})"
        found = find_token()
        if found is None and self._endpoint == LOCAL:
            return "of the embedded Hub, which accepts any"
        return f"from {found[1]}" if found is not None else None

    def _opened(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("use the Uploader inside `async with Uploader(...) as up:`")
        if self._leaving:
            raise RuntimeError(
                "the Uploader is being closed: start this before its `async with` block ends"
            )
        return self._runtime

    def _running(self) -> Runtime:
        runtime = self._opened()
        if _running_loop() is not self._loop:
            raise RuntimeError(
                "this Uploader was opened in another event loop: open one in each loop, thread and"
                " forked process that uses it, or use BackgroundUploader from blocking code"
            )
        return runtime

    def _begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that leaving the block waits for, or cancels. (Cancelling the caller that
        awaits a task cancels the task.)"""
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _cancel_all(self, handles: Iterable[Handle[Any]]) -> None:
        for handle in handles:
            if not handle.done():
                handle.cancel()
        for task in self._work:
            task.cancel()

    async def _settle(self) -> None:
        while self._work:  # `push_many` starts its pushes one after another
            await asyncio.wait(set(self._work))

    def _forget(self, handle: Handle[Any]) -> None:
        if handle.unobserved_failure() is None:
            self._handles.discard(handle)


async def _runtime() -> OpenRuntime:
    """The function that opens the runtime. Its first import takes a third of a second."""
    with ThreadPoolExecutor(1, "asyncpush-import") as thread:
        return await in_thread(thread, _import_runtime)


def _import_runtime() -> OpenRuntime:
    try:
        # First of all aiohttp. CPython maps and unmaps memory for each call that crosses a boundary
        # of its stack: imported from further down, its modules did so 2,000 times.
        import asyncpush.net.connections  # noqa: F401
        from asyncpush.runtime import open_runtime

        _import_anyio_backend()
    except OSError as exc:
        raise AsyncPushError(f"the library cannot be loaded: {os_reason(exc)}") from exc
    return open_runtime


@cache
def _import_anyio_backend() -> None:
    """Import anyio's backend for asyncio, which takes 25 ms. anyio does so when an event loop first
    needs it: here one of this thread, so that the caller's is not blocked."""
    asyncio.run(anyio.lowlevel.checkpoint())


def _raise_unobserved(handles: Sequence[Handle[Any]]) -> None:
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

    Returns only after the Hub has shown every file with its size and checksum in the returned
    commit (unless `PushOptions(verify=False)`).

    Args:
        repo_id: `namespace/name`; created when missing. Or an address, such as
            `hf://datasets/me/data@dev/train` or the URL of a page of the endpoint in use. Its type,
            revision and path set the options that have their default values.
        source: a folder, a file, `bytes` (with `path_in_repo`), or a mapping of paths in the repo
            to paths, bytes, binary files or async iterators of bytes. A file object is pushed with
            its whole content, whatever its position, if it is seekable.
        options: the options of this push; see `PushOptions`.
        token: a write token, or a callable returning one. Default: the environment's.
        endpoint: the Hub's URL, or "local" for the embedded Hub.
        config: limits, retries, progress; see `UploadConfig`.

    Raises:
        MissingTokenError, InvalidRepoIdError: before anything is sent.
        SourceError: before anything is sent; names all files that cannot be uploaded.
        SourceChangedError: a file changed while it was uploaded; nothing was committed.
        HubError: the Hub or the network failed; the subclass says how.
        IntegrityError: the store has other content than was sent; nothing was committed.
        VerificationError: the commit was made, but the Hub does not show every file as it was sent.
        TimeoutError: the time of `PushOptions(timeout=...)` is over.
        ValueError, ImportError: an invalid endpoint; an extra is missing for "local".

    Example:
        >>> push = push_to_hub(
        ...     "me/one-call",
        ...     {"README.md": b"# A card"},
        ...     PushOptions(commit_message="step 1000"),
        ...     endpoint="local",
        ...     config=UploadConfig(progress="none"),
        ... )
        >>> result = asyncio.run(push)
        >>> result.files_uploaded, result.verified
        (('README.md',), True)
    """
    async with Uploader(token, endpoint, config) as uploader:
        return await uploader.push_to_hub(repo_id, source, options)


@overload
async def copy(
    source: str,
    destination: str,
    options: PushOptions,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> UploadResult: ...


@overload
async def copy(
    source: str,
    destination: str,
    options: SyncOptions,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> SyncResult: ...


@overload
async def copy(
    source: str,
    destination: str,
    options: None = None,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> UploadResult | SyncResult: ...


async def copy(
    source: str,
    destination: str,
    options: PushOptions | SyncOptions | None = None,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> UploadResult | SyncResult:
    """Copy files from one place on the Hub to another: to a repo as one verified commit, to a
    bucket as a verified sync.

    Files in the Hub's store (LFS, Xet) are copied there, whatever their size; regular files, which
    are small, are read and sent. All files of a repo are read from the same commit. A destination
    repo keeps its own `.gitattributes`, unless that is the only file to copy; buckets get none.
    Nothing can be copied from a bucket to a repo.

    Args:
        source: a repo, or a file or folder of it, at a revision: `namespace/name`,
            `hf://datasets/me/data@v1/train/`, or the URL of a page. The revision defaults to
            `main`. Or a bucket: `hf://buckets/me/runs/run-7/`.
        destination: the repo, branch and path to copy to, or the bucket and path, in the same
            forms; created when missing. A folder's contents go below the path; a file goes to the
            path, or below it when that ends in a slash.
        options: as for a push, or for a sync when the destination is a bucket. Patterns select
            paths below the source; `delete_patterns` (`delete`) remove what the source does not
            have. `repo_type` is the type of a source or destination that is not an address.
        token: a token that may read the source and write to the destination, or a callable
            returning one. Default: the environment's.
        endpoint: the Hub's URL, or "local" for the embedded Hub.
        config: limits, retries, progress; see `UploadConfig`.

    Raises:
        InvalidRepoIdError, ValueError: the addresses or options do not describe a copy.
        SourceError: the source has no such files.
        HubError: the Hub or the network failed, or the Hub does not copy between these two, for
            example because they are in different storage regions.
        VerificationError: the commit does not contain what was copied.
        SyncError: the bucket was changed, but not all files are as expected.
        TimeoutError: the time of the option `timeout` is over.

    Example:
        >>> quiet = UploadConfig(progress="none")
        >>> async def main():
        ...     async with Uploader(endpoint="local", config=quiet) as up:
        ...         tried = await up.push_to_hub("me/staging", {"model.txt": b"weights"})
        ...         source = f"hf://me/staging@{tried.commit_sha}"
        ...         options = PushOptions(commit_message="v1.2")
        ...         return (await up.copy(source, "hf://me/released", options)).files_uploaded
        >>> asyncio.run(main())
        ('model.txt',)
    """
    async with Uploader(token, endpoint, config) as uploader:
        return await uploader.copy(source, destination, options)


async def sync(
    source: Source,
    address: str,
    options: SyncOptions | None = None,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
) -> SyncResult:
    """Sync a folder, file, bytes or mapping to a bucket, and verify it.

    Returns only after the Hub has shown every file with its size and Xet hash (unless
    `SyncOptions(verify=False)`). Files that the bucket has already are not sent. A bucket has no
    commits: files appear one batch after the other. With `SyncOptions(complete_marker=True)`
    readers can tell when all of them are there.

    Args:
        source: as for `push_to_hub`.
        address: `hf://buckets/namespace/name[/path]`, or the URL of the bucket's page. A folder's
            contents go below the path; a file goes to the path, or below it when that ends in a
            slash.
        options: the options of this sync; see `SyncOptions`.
        token, endpoint, config: as for `push_to_hub`. Buckets accept files only through Xet.

    Raises:
        MissingTokenError, InvalidRepoIdError, SourceError: before anything is sent.
        SourceChangedError: a file changed while it was sent; it does not appear in the bucket.
        HubError: the Hub or the network failed, and the bucket was not changed.
        SyncError: the bucket was changed, but not all files are as expected; its `failures` name
            each of them, and its `result` describes what succeeded.
        TimeoutError: the time of `SyncOptions(timeout=...)` is over.

    Example:
        >>> files = {"model.bin": b"weights", "state.json": b"{}"}
        >>> done = sync(
        ...     files,
        ...     "hf://buckets/me/runs/run-7/step-1000",
        ...     endpoint="local",
        ...     config=UploadConfig(progress="none"),
        ... )
        >>> result = asyncio.run(done)
        >>> result.files_uploaded, result.verified
        (('run-7/step-1000/model.bin', 'run-7/step-1000/state.json'), True)
    """
    async with Uploader(token, endpoint, config) as uploader:
        return await uploader.sync(source, address, options)


class Handle(Generic[T]):
    """Work running in the background, which can be awaited, observed and cancelled."""

    def __init__(self, task: asyncio.Task[T], publisher: ProgressPublisher, repo_id: str) -> None:
        self._task = task
        self._publisher = publisher
        self.repo_id = repo_id
        self._observed = False

    def __repr__(self) -> str:
        state = "running"
        if self._task.done():
            failed = self._task.cancelled() or self._task.exception() is not None
            state = "failed" if failed else "done"
        return f"<{type(self).__name__} {self.repo_id} {state}>"

    def __await__(self) -> Generator[Any, None, T]:
        self._observed = True
        return self._task.__await__()

    def __aiter__(self) -> AsyncIterator[UploadProgress]:
        return self._publisher.subscribe()

    @property
    def progress(self) -> UploadProgress:
        """The latest progress."""
        return self._publisher.latest

    def done(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self._task.done()

    def on_done(self, call: Callable[[], object]) -> None:
        """Call the function `call`, without arguments, in the event loop when this has ended."""
        self._task.add_done_callback(lambda _: call())

    def cancel(self) -> None:
        """Stop: nothing more is changed on the Hub. What is stored already is not sent again next
        time.

        Awaiting the handle then raises `asyncio.CancelledError`. A commit or a batch that the Hub
        has just accepted may still take effect.
        """
        self._observed = True
        self._task.cancel()

    def unobserved_failure(self) -> BaseException | None:
        """The error with which this failed, unless somebody has awaited or cancelled it."""
        if self._observed or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()


class PushHandle(Handle[UploadResult]):
    """A running push, as returned by `Uploader.start_push`.

    `await handle` returns the `UploadResult` or raises. As with an `asyncio.Task`, cancelling the
    caller that awaits it cancels the push (use `asyncio.shield` to keep it running). `async for
    progress in handle` yields the progress until the push has ended in any way; when the loop is
    slow, only the latest. See `Uploader` for an example.
    """


class SyncHandle(Handle[SyncResult]):
    """A running sync, as returned by `Uploader.start_sync`. It works like a `PushHandle`, but
    awaiting it returns the `SyncResult`.

    Example:
        >>> async def main():
        ...     async with Uploader(endpoint="local", config=UploadConfig(progress="none")) as up:
        ...         handle = up.start_sync({"a.txt": b"one"}, "hf://buckets/me/handles")
        ...         phases = {progress.phase async for progress in handle}
        ...         return "done" in phases, (await handle).files_uploaded
        >>> asyncio.run(main())
        (True, ('a.txt',))
    """
