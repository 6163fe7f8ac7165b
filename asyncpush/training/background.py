"""Pushes from blocking code: an `Uploader` in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

from asyncpush.listeners.format import format_duration
from asyncpush.models import Source, SyncResult, UploadProgress, UploadResult
from asyncpush.net.credentials import Token
from asyncpush.options import PushOptions, SyncOptions, UploadConfig
from asyncpush.own_files import library_logger
from asyncpush.protocol.addresses import bucket_of, names_bucket, target_of
from asyncpush.sources.snapshot import SnapshotChoice
from asyncpush.training.checkpoints import (
    CheckpointOutcome,
    CheckpointPusher,
    CheckpointReport,
    OnError,
    Policy,
)
from asyncpush.training.tickets import (
    CANCEL_GRACE,
    Job,
    PushTicket,
    SyncTicket,
    amount_of,
    cancel_all,
    settle,
    wait_for,
)
from asyncpush.uploader import Handle, Uploader
from asyncpush.watch import FolderWatch, WatchOutcome

logger = library_logger("background")

T = TypeVar("T")

EXIT_TIMEOUT = 600.0
"""Seconds that the end of the process waits for pushes, by default."""


class BackgroundUploader:
    """Pushes from ordinary blocking code, such as a training loop that never awaits.

        with BackgroundUploader() as bg:
            for step in range(1000):
                train_one_step()
                if step % 100 == 0:
                    ticket = bg.push("me/model", f"ckpt-{step}/")  # returns at once

    The first push (or the `with`) starts a daemon thread with an event loop and an `Uploader`.
    Leaving the block waits for the pushes that are still running; Ctrl-C cancels them. Without a
    block, call `close`, or let the process end, which waits too. Each of these logs failed pushes
    as errors, except those whose ticket was asked for the result. No signal handlers are
    installed. Callbacks of the configuration are called in the background thread. After a fork the
    child needs its own `BackgroundUploader`: using the parent's raises `RuntimeError`.

    Pushes lost at the end of the process do not change its exit status: a script that must fail in
    that case has to close the uploader itself. Python 3.12.0 to 3.12.2 cannot start threads at
    exit (gh-113964): a push that needs a new one then fails with an error.

    Args:
        token, endpoint, config: as for `Uploader`.
        exit_timeout: when the process ends, or an error leaves the block, seconds to wait for
            pushes before they are cancelled and logged as lost; None for no limit.
        on_error: what to do with the pushes when an error leaves the block: "wait" lets them finish
            (a checkpoint is most valuable after a crash), "cancel" stops them. Ctrl-C cancels.

    Example:
        >>> with BackgroundUploader(endpoint="local", config=UploadConfig(progress="none")) as bg:
        ...     ticket = bg.push("me/background", {"step.txt": b"1000"})  # returns at once
        >>> ticket.result().files_uploaded
        ('step.txt',)
    """

    def __init__(
        self,
        token: Token | None = None,
        endpoint: str | None = None,
        config: UploadConfig | None = None,
        *,
        exit_timeout: float | None = EXIT_TIMEOUT,
        on_error: OnError = "wait",
    ) -> None:
        if exit_timeout is not None and exit_timeout < 0:
            raise ValueError(f"exit_timeout must be 0 or more, or None, not {exit_timeout!r}")
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error must be 'wait' or 'cancel', not {on_error!r}")
        self._settings = (token, endpoint, config)
        self._exit_timeout = exit_timeout
        self._on_error = on_error
        self._lock = threading.Lock()
        self._jobs: list[Job[Any]] = []
        self._thread: threading.Thread | None = None
        self._taking: set[Future[None]] = set()
        """Checkpoints that are being taken, of which no job knows yet."""
        self._followers: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ended = False
        """Whether the thread has ended, or is about to and runs nothing any more."""
        # Set by the thread before the first push:
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._uploader: Uploader

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
            return
        orderly = isinstance(exc, Exception | SystemExit)
        cancel = self._on_error == "cancel" or not orderly
        self._leave(cancel=cancel, why=f"{type(exc).__name__} left the block")

    def push(self, repo_id: str, source: Source, options: PushOptions | None = None) -> PushTicket:
        """Start a push and return at once. Takes the same as `push_to_hub`.

        The source must not change until the push has ended. A file that changes anyway is handled
        as `PushOptions.on_change` says; a mixture of old and new bytes is never committed. Raises
        `InvalidRepoIdError` for an invalid id or address.
        """
        self._start()
        # Checked here, so that an invalid id is raised to the caller at once.
        given = options or PushOptions()
        repo, filled_in = target_of(repo_id, given, self._uploader.endpoint)
        job: Job[UploadResult] = self._new_job(repo.repo_id)
        self._begin(job, lambda: self._uploader.start_push(repo.repo_id, source, filled_in))
        return PushTicket(job)

    def sync(self, source: Source, address: str, options: SyncOptions | None = None) -> SyncTicket:
        """Start a sync to a bucket and return at once; see `asyncpush.sync`. The source must not
        change until the sync has ended. Raises `InvalidRepoIdError` when `address` is not the
        address of a bucket."""
        if not isinstance(options, SyncOptions | None):
            raise TypeError(f"options must be SyncOptions, not {type(options).__name__}")
        self._start()
        bucket, _ = bucket_of(address, self._uploader.endpoint)
        job: Job[SyncResult] = self._new_job(bucket.repo_id)
        self._begin(job, lambda: self._uploader.start_sync(source, address, options))
        return SyncTicket(job)

    def _begin(self, job: Job[T], start: Callable[[], Handle[T]]) -> None:
        def begin() -> None:
            try:
                handle = start()
            except Exception as exc:  # otherwise everyone who waits for it would wait for ever
                job.fail(exc)
                return
            job.handle = handle
            self._keep(asyncio.create_task(job.follow(handle)))

        with self._lock:
            self._check_open()
            self._loop.call_soon_threadsafe(begin)
            self._remember(job)

    def checkpoints(
        self,
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        keep: int | None = None,
        policy: Policy = "latest",
        max_waiting: int = 4,
        snapshot: SnapshotChoice = False,
        on_outcome: Callable[[CheckpointOutcome], object] | None = None,
    ) -> BackgroundCheckpoints:
        """A `CheckpointPusher` for blocking code; its arguments are explained there. `on_outcome`
        is called in the background thread. `close` also waits for its checkpoints. Raises
        `InvalidRepoIdError` for an invalid id or address."""
        self._start()
        self._check_address(repo_id, options)
        pusher = CheckpointPusher(
            self._uploader,
            repo_id,
            options,
            keep=keep,
            policy=policy,
            max_waiting=max_waiting,
            snapshot=snapshot,
            on_outcome=on_outcome,
        )
        return BackgroundCheckpoints(self, pusher)

    def watch(
        self,
        folder: str | os.PathLike[str],
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        every: float = 60.0,
        quiet_for: float = 5.0,
        on_outcome: Callable[[WatchOutcome], object] | None = None,
    ) -> BackgroundWatch:
        """Push a folder whenever it has stopped changing, until `stop`, the end of its block or the
        end of this uploader. Each of these pushes the remaining changes. See `Uploader.watch`.
        `on_outcome` is called in the background thread. Raises `ValueError` for invalid options,
        and `InvalidRepoIdError` for an invalid id or address."""
        self._start()
        self._check_address(repo_id, options)
        watch = FolderWatch(
            self._uploader,
            folder,
            repo_id,
            options,
            every=every,
            quiet_for=quiet_for,
            on_outcome=on_outcome,
        )
        job: Job[None] = self._new_job(repo_id)
        running = _RunningWatch(watch)
        job.ask_to_end = lambda: self._in_loop(running.stopping.set)

        def begin() -> None:
            job.handle = running
            self._keep(asyncio.create_task(job.follow(running.start())))

        with self._lock:
            self._check_open()
            self._loop.call_soon_threadsafe(begin)
            self._remember(job)
        return BackgroundWatch(watch, job)

    def _check_address(self, repo_id: str, options: PushOptions | SyncOptions | None) -> None:
        if names_bucket(repo_id):
            bucket_of(repo_id, self._uploader.endpoint)
        elif not isinstance(options, SyncOptions):
            target_of(repo_id, options or PushOptions(), self._uploader.endpoint)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        """Wait for the pushes, or cancel them, and end the thread. It is safe to call this again.

        When pushes have not ended after `timeout` seconds, they are cancelled, and `TimeoutError`
        names them. Ctrl-C cancels them too.
        """
        if lost := self._finish(cancel, timeout):
            raise TimeoutError(f"cancelled after {timeout} seconds: {', '.join(lost)}")

    # These run in the caller's thread.

    def _start(self) -> None:
        self._check_process()
        with self._lock:
            self._check_open()
            if self._thread is not None:
                return
            started: Future[None] = Future()
            self._pid = os.getpid()
            self._thread = threading.Thread(
                target=self._run, args=(started,), name="asyncpush-background", daemon=True
            )
            self._thread.start()
            try:
                started.result()
            except BaseException:
                started.cancel()
                self._thread = None
                raise
            _open.add(self)

    def _finish(self, cancel: bool, timeout: float | None) -> list[str]:
        """Close; returns a description of the pushes that were cancelled because time ran out."""
        if self._in_forked_child():
            return []  # A child leaving the block does not end the parent's pushes.
        self._check_may_wait()
        with self._lock:
            was_closed, self._closed = self._closed, True
            if was_closed or self._thread is None:
                return []
            taking = list(self._taking)
        began = time.monotonic()
        jobs = self._jobs
        lost: list[str] = []
        try:
            for taken in taking if cancel else ():
                taken.cancel()
            wait_for(taking, timeout)
            jobs = self._jobs  # with those of the checkpoints that were taken
            if cancel:
                cancel_all(jobs)
            for job in jobs:
                if job.ask_to_end is not None:
                    job.ask_to_end()
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            running = settle(jobs, left)
            lost = [amount_of(job) for job in running]
        finally:
            for taken in taking:
                taken.cancel()
            cancel_all(jobs)
            # A callback of the caller's may block, for example.
            for job in settle(jobs, CANCEL_GRACE):
                logger.error("the push to %s was cancelled but has not ended", job.repo_id)
            self._in_loop(self._stop.set)
            self._thread.join(CANCEL_GRACE)
            _open.discard(self)
            for job in self._jobs:
                if failure := job.unseen_failure():
                    logger.error("the push to %s failed, %s", job.repo_id, failure)
        return lost

    def _leave(self, *, cancel: bool, why: str) -> None:
        """Close within the time limit for leaving. Log which pushes are waited for, and which are
        lost."""
        if self._in_forked_child():
            return
        running = [job for job in self._jobs if not job.done()]
        limit = self._exit_timeout
        if running and not cancel and limit != 0:
            up_to = "" if limit is None else f" up to {format_duration(limit)}"
            names = ", ".join(amount_of(job) for job in running)
            logger.warning("%s: waiting%s for %s (Ctrl-C cancels)", why, up_to, names)
        for words in self._finish(cancel, limit):
            logger.error("%s: not uploaded in time, cancelled: %s", why, words)

    def _new_job(self, repo_id: str) -> Job[T]:
        return Job(repo_id, self._in_loop, self._check_may_wait)

    def _remember(self, job: Job[Any]) -> None:
        self._jobs = [other for other in self._jobs if not other.done() or other.unseen_failure()]
        self._jobs.append(job)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this BackgroundUploader is closed")
        if self._ended:
            raise RuntimeError("the thread of this BackgroundUploader has died: see the log")

    def _in_forked_child(self) -> bool:
        return self._thread is not None and os.getpid() != self._pid

    def _check_process(self) -> None:
        if self._in_forked_child():
            raise RuntimeError(
                f"this BackgroundUploader belongs to process {self._pid}: its thread does not"
                " survive a fork, make a new one in the child"
            )

    def _check_may_wait(self) -> None:
        self._check_process()
        if threading.current_thread() is self._thread:
            raise RuntimeError("the background thread cannot wait for itself")

    def _in_loop(self, call: Callable[[], object]) -> None:
        self._check_process()
        with contextlib.suppress(RuntimeError):  # The loop has ended, and all pushes with it.
            self._loop.call_soon_threadsafe(call)

    # These run in the background thread.

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as exc:
            if not started.done():
                started.set_exception(exc)
            else:  # For example, a stream or callback of the caller's raised SystemExit.
                logger.exception("the background thread has died")
        finally:
            with self._lock:  # no further job is accepted
                if self._thread is threading.current_thread():
                    self._ended = True
                jobs = self._jobs
            for job in jobs:
                job.give_up()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._followers.add(task)  # An event loop holds its tasks only by weak references.
        task.add_done_callback(self._followers.discard)

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Uploader(*self._settings) as self._uploader:
            if started.set_running_or_notify_cancel():
                started.set_result(None)
                await self._stop.wait()


class BackgroundCheckpoints:
    """Pushes checkpoints from blocking code; returned by `BackgroundUploader.checkpoints`.

        with BackgroundUploader() as bg, bg.checkpoints("me/model", snapshot=True) as pusher:
            for step in range(1000):
                train_one_step()
                if step % 100 == 0:
                    pusher.push("out/")  # returns while it uploads

    Leaving the block waits for the remaining checkpoints, as with `CheckpointPusher`.

    Example:
        >>> from asyncpush import UploadConfig
        >>> with BackgroundUploader(endpoint="local", config=UploadConfig(progress="none")) as bg:
        ...     pusher = bg.checkpoints("me/run", policy="all")
        ...     pusher.push({"step.txt": b"100"})
        ...     print(pusher.flush(timeout=60))
        1 pushed
    """

    def __init__(self, owner: BackgroundUploader, pusher: CheckpointPusher) -> None:
        self._owner = owner
        self._pusher = pusher
        self._job: Job[None] | None = None  # It ends when there are no more checkpoints to push.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:  # Otherwise the uploader decides when its own block is left.
            self._drain(None)
            self._pusher.raise_unreported()

    @property
    def report(self) -> CheckpointReport:
        """The outcomes of the checkpoints so far."""
        return self._pusher.report

    @property
    def progress(self) -> UploadProgress | None:
        """The latest progress of the running push, if there is one."""
        return self._pusher.progress

    def push(
        self,
        source: Source,
        options: PushOptions | SyncOptions | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Queue a checkpoint to be pushed. Takes and raises the same as `CheckpointPusher.push`."""
        self._owner._check_may_wait()
        with self._owner._lock:
            self._owner._check_open()
            taking = self._take(source, options, name)
            taken = asyncio.run_coroutine_threadsafe(taking, self._owner._loop)
            self._owner._taking.add(taken)
        try:
            wait_for([taken], None)
        except BaseException:
            taken.cancel()
            raise
        finally:
            self._owner._taking.discard(taken)
        taken.result()

    def flush(self, timeout: float | None = None) -> CheckpointReport:
        """Wait until all checkpoints have been pushed, at most `timeout` seconds.

        Raises `TimeoutError` when that takes longer; the pushes continue. Ctrl-C during the wait
        cancels them.
        """
        self._drain(timeout)
        self._pusher.discard_unreported()
        return self.report

    def cancel(self) -> None:
        """Stop the running push and drop the waiting ones. Returns at once; see `flush`."""
        if self._job is not None:
            self._job.cancel()

    def _drain(self, timeout: float | None) -> None:
        if self._job is not None:
            self._job.wait(timeout)

    async def _take(
        self, source: Source, options: PushOptions | SyncOptions | None, name: str | None
    ) -> None:
        await self._pusher.push(source, options, name=name)
        if self._job is None or self._job.done():
            job: Job[None] = self._owner._new_job(self._pusher.repo_id)
            self._job = job
            job.handle = self._pusher
            self._owner._keep(asyncio.create_task(job.follow(self._pusher.drained())))
            with self._owner._lock:
                self._owner._remember(job)


class BackgroundWatch:
    """Watches a folder from blocking code; returned by `BackgroundUploader.watch`.

        with BackgroundUploader() as bg, bg.watch("out/", "me/model", every=300):
            train()  # writes to out/

    Leaving the block pushes the remaining changes, and raises the error if that push fails.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from asyncpush import UploadConfig
        >>> with (
        ...     tempfile.TemporaryDirectory() as folder,
        ...     BackgroundUploader(endpoint="local", config=UploadConfig(progress="none")) as bg,
        ...     bg.watch(folder, "me/watched-from-a-loop") as watch,
        ... ):
        ...     _ = Path(folder, "train.log").write_text("step 1")
        >>> watch.last_result.files_uploaded
        ('train.log',)
    """

    def __init__(self, watch: FolderWatch, job: Job[None]) -> None:
        self._watch = watch
        self._job = job

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:  # Otherwise the uploader decides when its own block is left.
            self.stop()

    @property
    def failures(self) -> tuple[Exception, ...]:
        """The errors of the last 100 pushes that failed."""
        return tuple(self._watch.failures.copy())

    @property
    def pushes(self) -> int:
        """How many pushes have succeeded."""
        return self._watch.pushes

    @property
    def last_result(self) -> UploadResult | SyncResult | None:
        """The result of the last push that succeeded."""
        return self._watch.last_result

    @property
    def last_error(self) -> Exception | None:
        """The error of the latest push, if it failed."""
        return self._watch.last_error

    def stop(self, timeout: float | None = None) -> None:
        """Push the remaining changes, and end. It is safe to call this again.

        Raises the error of that push, or the one that ended the watch before, such as an
        `AuthError`. Raises `TimeoutError` when it takes longer than `timeout` seconds; the push
        continues. Ctrl-C during the wait cancels the push.
        """
        if self._job.ask_to_end is not None:
            self._job.ask_to_end()
        self._job.wait(timeout)
        self._job.future.result()

    def cancel(self) -> None:
        """End without pushing the remaining changes. Returns at once."""
        self._job.cancel()


class _RunningWatch:
    """A watch running in the background thread."""

    progress: UploadProgress | None = None

    def __init__(self, watch: FolderWatch) -> None:
        self.stopping = asyncio.Event()
        self._watch = watch
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._is_leaving = False

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        async with self._watch:
            failed = asyncio.ensure_future(self._watch.wait())
            stopped = asyncio.ensure_future(self.stopping.wait())
            failed.add_done_callback(lambda end: end.cancelled() or end.exception())
            try:
                await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._is_leaving = True  # Leaving the block raises the error that ended the watch.
                failed.cancel()
                stopped.cancel()

    def cancel(self) -> None:
        if self._task is None or self._is_cancelled:
            return
        self._is_cancelled = True
        self._task.cancel()
        if not self._is_leaving:
            # The first cancellation leaves the block, which would push the remaining changes.
            asyncio.get_running_loop().call_soon(self._task.cancel)


_open: set[BackgroundUploader] = set()
"""Uploaders whose thread is running: the end of the process waits for them."""


def _wait_at_exit() -> None:
    for uploader in list(_open):
        try:
            uploader._leave(cancel=False, why="the process ends")
        except KeyboardInterrupt:
            logger.error("interrupted: pushes that have not ended are cancelled")


# `atexit` would be too late: by then the thread pools that every event loop relies on accept no
# more work. They are closed by hooks of the same kind, which run in reverse order of registration,
# and theirs are registered before ours.
getattr(threading, "_register_atexit", atexit.register)(_wait_at_exit)
