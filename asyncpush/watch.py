"""Pushes a folder whenever it has stopped changing, for as long as a block lasts.

Changes are found by comparing names, sizes, times and inodes of the files that would be pushed.
Where `watchfiles` is installed, the system reports when to check; otherwise, and on file systems
without such reports (network mounts), the folder is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import anyio
from anyio import to_thread

from asyncpush.errors import (
    AsyncPushError,
    AuthError,
    InvalidRepoIdError,
    MissingTokenError,
    PullRequestClosedError,
    RepoNotFoundError,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Source, SyncResult, UploadResult
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.own_files import OwnFiles, library_logger
from asyncpush.protocol.addresses import is_address, names_bucket, target_of
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.single_files import absolute_path
from asyncpush.sources.walk import Walk

logger = library_logger("watch")

SCANS_PER_QUIET = 5
"""Checks of the folder within `quiet_for`."""

SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
"""Seconds between two checks."""

SCAN_SHARE = 0.1
"""The largest share of time that is spent on checks. A check of 100,000 files takes a second."""

PAUSE_WHEN_NOTIFIED = 60.0
"""Seconds between checks of a folder whose changes the system reports."""

NOTIFIED_AFTER = 5_000
"""Milliseconds after which `watchfiles` returns even if nothing has changed."""

FAILURES_KEPT = 100

FATAL = (
    AuthError,
    InvalidRepoIdError,
    MissingTokenError,
    PullRequestClosedError,
    RepoNotFoundError,
)
"""Errors that the next push would raise as well."""

FolderState: TypeAlias = dict[str, tuple[int, int, int]]
"""Size, mtime and inode of each file, by path within the folder."""


class Pusher(Protocol):
    """The methods of an `Uploader` that a watch uses."""

    @property
    def endpoint(self) -> str: ...

    async def push_to_hub(
        self, repo_id: str, source: Source, options: PushOptions | None = None
    ) -> UploadResult: ...

    async def sync(
        self, source: Source, address: str, options: SyncOptions | None = None
    ) -> SyncResult: ...


@dataclass(frozen=True, slots=True)
class WatchOutcome:
    """The outcome of one push of a watched folder: its `result`, or the `error` with which it
    failed. The other one is None.

    Example:
        >>> WatchOutcome(error=AsyncPushError("the Hub is unreachable")).result is None
        True
    """

    result: UploadResult | SyncResult | None = None
    error: Exception | None = None


class FolderWatch:
    """Pushes a folder whenever it has stopped changing; made by `Uploader.watch`.

    Each push is one verified commit of everything new (or a sync, for a bucket), as if
    `push_to_hub` had been called. With `create_pr`, the first push opens a pull request, and the
    others go to the same one; once that is merged, the next push opens another one. Files that grow
    during a push are handled as `on_change` says, and what was added to them is included in the
    next push. Nothing is committed twice, since files that the repo has already are left out.

    A push that fails is logged, added to `failures`, passed to `on_outcome`, and tried again after
    `every` seconds. An error that every push would raise (`AuthError`, `MissingTokenError`,
    `InvalidRepoIdError`, `RepoNotFoundError`, `PullRequestClosedError`) ends the watch: `wait`
    raises it, and so does leaving the block.

    Leaving the block pushes the remaining changes, also after an error or a cancellation (Ctrl-C).
    If that push fails, its error is raised, or added as a note to the error that left the block. A
    second cancellation stops that push.

    Attributes:
        failures: the errors of the last 100 pushes that failed.
        pushes: how many pushes have succeeded.
        last_result: the result of the last one that succeeded.
        last_error: the error of the latest push, if it failed.
        finished: whether the block has been left, and the last push has succeeded or failed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from asyncpush import UploadConfig, Uploader
        >>> def show(outcome):
        ...     print(outcome.error or outcome.result.files_uploaded)
        >>> async def main():
        ...     quiet = UploadConfig(progress="none")
        ...     with tempfile.TemporaryDirectory() as folder:
        ...         async with Uploader(endpoint="local", config=quiet) as up:
        ...             watch: FolderWatch = up.watch(folder, "me/seen", on_outcome=show)
        ...             async with watch:
        ...                 Path(folder, "metrics.json").write_text("{}")
        ...     return len(watch.failures)
        >>> asyncio.run(main())
        ('metrics.json',)
        0
    """

    def __init__(
        self,
        uploader: Pusher,
        folder: str | os.PathLike[str],
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        every: float = 60.0,
        quiet_for: float = 5.0,
        on_outcome: Callable[[WatchOutcome], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        use_watchfiles: bool = True,
    ) -> None:
        """`clock`, `sleep` and `use_watchfiles` are for tests. Raises `ValueError`."""
        for name, value in (("every", every), ("quiet_for", quiet_for)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
        if on_outcome is not None and not callable(on_outcome):
            raise ValueError(f"on_outcome must be callable, or None, not {on_outcome!r}")
        if not isinstance(folder, str | os.PathLike):
            raise ValueError(f"the folder must be a path, not {folder!r}")
        self._in_bucket = names_bucket(repo_id)
        if options is None:
            options = SyncOptions() if self._in_bucket else PushOptions()
        if not isinstance(options, SyncOptions if self._in_bucket else PushOptions):
            wanted = "SyncOptions" if self._in_bucket else "PushOptions"
            raise ValueError(f"{repo_id} takes {wanted}, not {type(options).__name__}")
        if options.dry_run:
            raise ValueError("dry_run cannot be used with watch: nothing would ever be pushed")
        if isinstance(options, PushOptions) and options.parent_commit is not None:
            raise ValueError(
                "parent_commit cannot be used with watch: only the first push could build on it"
            )
        if is_address(folder) and not os.path.exists(folder):
            raise ValueError(
                f"{folder!r} is an address: give a local folder first, then the repo or bucket"
            )
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise ValueError(f"{os.fspath(folder)!r} is a file: name the folder that it is in")
        self.failures: deque[Exception] = deque(maxlen=FAILURES_KEPT)
        self.pushes: int = 0
        self.last_result: UploadResult | SyncResult | None = None
        self.last_error: Exception | None = None
        self.finished: bool = False
        self._uploader = uploader
        self._folder = absolute_path(folder)
        self._repo_id = repo_id
        self._options = options
        self._before_pull_request: tuple[str, PushOptions | SyncOptions] | None = None
        """The repo and options with which a push opens a pull request, once one is open."""
        self._every = every
        self._quiet_for = quiet_for
        self._on_outcome = on_outcome
        self._clock = clock
        self._sleep = sleep
        self._use_watchfiles = use_watchfiles
        self._notified = asyncio.Event()
        self._is_notified = False
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._fatal: Exception | None = None
        """The error of a push that every further push would raise as well."""
        self._broken: Exception | None = None
        """Any other error that ended the watch, not raised by a push."""
        self._pushed: FolderState = {}
        self._not_before = clock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this watch was entered already: create a new one")
        if not self._is_there():  # it may be about to be created, or misspelt
            logger.warning("%r does not exist yet: nothing is pushed until it does", self._folder)
        self._task = asyncio.create_task(self._run(), name=f"watch {self._folder}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._stop.set()
        try:
            with anyio.CancelScope(shield=True):
                await self._task
                error = self._fatal or await self._push_the_rest()
                self.finished = True
        finally:
            self._task.cancel()
        raised = exc or self._broken or error
        if raised is None:
            return
        if self._broken not in (None, raised):
            raised.add_note(f"the watch of {self._folder!r} failed: {self._broken}")
        if error not in (None, raised):
            raised.add_note(f"the last push of {self._folder!r} failed: {error}")
        if exc is None:
            raise raised

    async def wait(self) -> None:
        """Wait until the watch ends by an error that every push would raise, and raise it.
        Otherwise this never returns, so cancel it, as Ctrl-C does."""
        await self._ended.wait()
        error = self._fatal or self._broken
        if error is not None:
            raise error

    async def _run(self) -> None:
        try:
            async with self._notifications():
                while (state := await self._next_quiet_state()) is not None:
                    await self._push(state)
                    if self._fatal is not None:
                        return
        except Exception as exc:  # from `on_outcome`, or from the folder's file system
            self._broken = exc
        finally:
            if not self._stop.is_set():
                self._ended.set()

    async def _next_quiet_state(self) -> FolderState | None:
        """Wait until a push is due. Returns the state of the folder, or None when the block is
        being left.

        A push is due when `every` seconds have passed since the last one and nothing has changed
        for `quiet_for` seconds. If the folder never stops changing, it is due after another `every`
        seconds.
        """
        seen: FolderState | None = None
        changed_at = waiting_since = self._clock()
        while not self._stop.is_set():
            self._notified.clear()
            began = self._clock()
            state = await self._scan()
            now = self._clock()
            if state != seen:
                seen, changed_at = state, now
            is_new = bool(state) and state != self._pushed
            if not is_new:
                waiting_since = now
            elif now >= self._not_before and (
                now - changed_at >= self._quiet_for
                or now - max(waiting_since, self._not_before) >= self._every
            ):
                return state
            pause = min(max(self._quiet_for / SCANS_PER_QUIET, SHORTEST_PAUSE), LONGEST_PAUSE)
            pause = max(pause, (now - began) / SCAN_SHARE)
            if is_new:
                await self._pause(max(pause, min(self._not_before - now, self._every)))
            else:
                await self._pause(
                    PAUSE_WHEN_NOTIFIED if self._is_notified else pause, may_be_notified=True
                )
        return None

    async def _pause(self, seconds: float, *, may_be_notified: bool = False) -> None:
        """Sleep until the time has passed, the block is left, or a change is reported."""
        waits = [asyncio.ensure_future(self._sleep(seconds))]
        waits.append(asyncio.ensure_future(self._stop.wait()))
        if may_be_notified:
            waits.append(asyncio.ensure_future(self._notified.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _push(self, state: FolderState) -> Exception | None:
        """Push the current folder; `state` is its state just before. Returns the error, if it
        failed."""
        error: Exception | None = None
        result: UploadResult | SyncResult | None = None
        try:
            try:
                result = await self._send()
            except PullRequestClosedError as exc:
                if not self._leave_pull_request(exc):
                    raise
                result = await self._send()
        except (AsyncPushError, TimeoutError, ValueError, OSError) as exc:
            error = exc
        self.last_error = error
        # What changed during the push differs from `state`, so it is included in the next push.
        if error is None:
            self._pushed = state
            self.pushes += 1
            self.last_result = result
            self._stay_in_pull_request(result)
        else:
            self.failures.append(error)
            logger.error("the push of %r failed: %s", self._folder, error)
            is_bad_option = isinstance(error, ValueError) and not isinstance(error, AsyncPushError)
            if isinstance(error, FATAL) or is_bad_option:
                self._fatal = error
        self._not_before = self._clock() + self._every
        if self._on_outcome is not None and self._broken is None:
            self._on_outcome(WatchOutcome(result, error))
        return error

    async def _send(self) -> UploadResult | SyncResult:
        if isinstance(self._options, SyncOptions):
            return await self._uploader.sync(self._folder, self._repo_id, self._options)
        return await self._uploader.push_to_hub(self._repo_id, self._folder, self._options)

    def _leave_pull_request(self, error: PullRequestClosedError) -> bool:
        """If this watch has opened the pull request and it was merged, let the next push open
        another one. One that was closed was not wanted: that ends the watch."""
        if not error.merged or self._before_pull_request is None:
            return False
        logger.warning("%s; later changes are pushed to a new one", error.message)
        self._repo_id, self._options = self._before_pull_request
        self._before_pull_request = None
        return True

    def _stay_in_pull_request(self, result: UploadResult | SyncResult | None) -> None:
        """With `create_pr`, let all further pushes go to the pull request that was opened."""
        options = self._options
        if not isinstance(options, PushOptions) or not isinstance(result, UploadResult):
            return
        if not options.create_pr or result.pr_url is None:
            return
        # An address may name a branch: that of the pull request replaces it.
        repo, options = target_of(self._repo_id, options, self._uploader.endpoint)
        self._before_pull_request = self._repo_id, self._options
        number = result.pr_url.rpartition("/")[2]
        self._repo_id = repo.repo_id
        self._options = replace(
            options, create_pr=False, create_branch=False, revision=f"refs/pr/{number}"
        )

    async def _push_the_rest(self) -> Exception | None:
        """Push what is new when the block is left. Returns the error, if that failed."""
        state = await self._scan()
        if not state and not self._is_there():
            logger.warning("%r does not exist: nothing more was pushed", self._folder)
        return await self._push(state) if state and state != self._pushed else None

    def _is_there(self) -> bool:
        return os.path.isdir(self._folder)

    async def _scan(self) -> FolderState:
        return await to_thread.run_sync(self._scan_blocking)

    def _scan_blocking(self) -> FolderState:
        if not self._is_there():
            return {}
        options, own, state = self._options, OwnFiles(), FolderState()
        chosen = PatternFilter(options.allow_patterns, options.ignore_patterns)
        report = ProblemReport()
        walk = Walk(self._folder, chosen, report, options.follow_symlinks, own=own)
        for name, path in walk:
            with contextlib.suppress(OSError):  # removed in the meantime, or a broken link
                status = os.stat(path)
                if own.file(path, status) is None:
                    state[name] = status.st_size, status.st_mtime_ns, status.st_ino
        if self._is_there():  # otherwise it was removed in the meantime
            # The push reports what cannot be read.
            state |= dict.fromkeys(report.problems, (0, 0, 0))
        return state

    @contextlib.asynccontextmanager
    async def _notifications(self) -> AsyncIterator[None]:
        """Within the block the system reports changes, if `watchfiles` is installed."""
        task = asyncio.create_task(self._listen()) if self._use_watchfiles else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            from watchfiles import awatch
        except ImportError:
            return
        try:
            # It also returns when nothing has changed for a while; from its first return on, it is
            # known to be listening.
            async for _ in awatch(
                self._folder, watch_filter=None, yield_on_timeout=True, rust_timeout=NOTIFIED_AFTER
            ):
                self._is_notified = True
                self._notified.set()
        except (OSError, RuntimeError) as exc:  # no folder yet, too many watches, an unusual mount
            logger.debug("polling %r: %s", self._folder, exc)
        finally:
            self._is_notified = False
            self._notified.set()
