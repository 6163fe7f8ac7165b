"""Pushes in a background thread, as other threads use them: query, wait, cancel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from asyncpush.listeners.format import format_share
from asyncpush.models import SyncResult, UploadProgress, UploadResult

T = TypeVar("T")

CANCEL_GRACE = 5.0
"""Seconds in which a cancelled push, and then the thread, must end; usually one is enough."""

_SIGNAL_POLL = 0.5  # Seconds between two checks for signals.


class Stoppable(Protocol):
    """Something that runs in the event loop: a `PushHandle` or a `CheckpointPusher`."""

    @property
    def progress(self) -> UploadProgress | None: ...

    def cancel(self) -> None: ...


class Job(Generic[T]):
    """Work in the background thread, as seen from any other thread.

    Args:
        repo_id: the destination.
        in_loop: calls a function in the background thread, unless the thread has ended.
        check_may_wait: raises `RuntimeError` for a caller that would wait for ever.
    """

    def __init__(
        self,
        repo_id: str,
        in_loop: Callable[[Callable[[], object]], None],
        check_may_wait: Callable[[], None],
    ) -> None:
        self.repo_id = repo_id
        self.future: Future[T] = Future()
        self.handle: Stoppable | None = None  # Set once it has started.
        self.ask_to_end: Callable[[], object] | None = None
        """Asks work that does not end by itself (a watch) to finish; called from any thread."""
        self._in_loop = in_loop
        self._check_may_wait = check_may_wait
        self._asked = False

    @property
    def progress(self) -> UploadProgress | None:
        return None if self.handle is None else self.handle.progress

    def done(self) -> bool:
        return self.future.done()

    def cancel(self) -> None:
        self._asked = True
        if not self.done():
            self._in_loop(self._cancel_handle)

    def wait(self, timeout: float | None) -> None:
        """Wait until it has ended. Raises `TimeoutError` when that takes longer. If the wait is
        interrupted (by Ctrl-C, for example), the job is cancelled."""
        if not self.done():
            self._check_may_wait()
            try:
                settle([self], timeout)
            except BaseException:
                self.cancel()
                settle([self], CANCEL_GRACE)
                raise
            if not self.done():
                raise TimeoutError(f"the push to {self.repo_id} still runs after {timeout} seconds")
        self._asked = True

    def unseen_failure(self) -> str | None:
        """Why it did not succeed, if nobody has asked for its result."""
        if self._asked or not self.done():
            return None
        if self.future.cancelled():
            return "it was interrupted"
        error = self.future.exception()
        return None if error is None else f"{type(error).__name__}: {error}"

    # The rest runs in the background thread.

    def _cancel_handle(self) -> None:
        if self.handle is not None:
            self.handle.cancel()

    async def follow(self, end: Awaitable[T]) -> None:
        try:
            self.future.set_result(await end)
        except asyncio.CancelledError:
            self.give_up()
        except Exception as exc:
            self.fail(exc)

    def fail(self, error: Exception) -> None:
        self.future.set_exception(error)

    def give_up(self) -> None:
        if not self.done():
            self.future.cancel()
            self.future.set_running_or_notify_cancel()


class Ticket(Generic[T]):
    """Work in the background. Any thread may use it."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job

    def __repr__(self) -> str:
        state = "running"
        if self.done():
            future = self._job.future
            failed = future.cancelled() or future.exception() is not None
            state = "failed" if failed else "done"
        return f"<{type(self).__name__} {self.repo_id} {state}>"

    @property
    def repo_id(self) -> str:
        """The repo or bucket that it writes to."""
        return self._job.repo_id

    @property
    def progress(self) -> UploadProgress | None:
        """The latest progress; None before it has started."""
        return self._job.progress

    def done(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self._job.done()

    def cancel(self) -> None:
        """Stop: nothing more is changed on the Hub. What is stored already is not sent again next
        time.

        Returns at once; `result()` waits for the end and raises. A push whose commit has just been
        accepted may still succeed.
        """
        self._job.cancel()

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end, at most `timeout` seconds, and return the result.

        Raises the error with which it failed; `concurrent.futures.CancelledError` if it was
        cancelled; `TimeoutError` if it has not ended by then, in which case it continues. Ctrl-C
        during the wait (or any exception from a signal handler) cancels it, and is raised again
        once it has ended.
        """
        self._job.wait(timeout)
        return self._job.future.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error with which it failed, or None. Waits and raises like `result`."""
        self._job.wait(timeout)
        return self._job.future.exception()


class PushTicket(Ticket[UploadResult]):
    """A push running in the background, as returned by `BackgroundUploader.push`.

    It may be used from any thread. See `BackgroundUploader` for an example.
    """


class SyncTicket(Ticket[SyncResult]):
    """A sync running in the background, as returned by `BackgroundUploader.sync`.

    It may be used from any thread.

    Example:
        >>> from asyncpush import BackgroundUploader, UploadConfig
        >>> with BackgroundUploader(endpoint="local", config=UploadConfig(progress="none")) as bg:
        ...     ticket = bg.sync({"step.txt": b"1000"}, "hf://buckets/me/background")
        ...     print(ticket.result().files_uploaded)
        ('step.txt',)
    """


def cancel_all(jobs: Iterable[Job[Any]]) -> None:
    for job in jobs:
        if not job.done():
            job.cancel()


def settle(jobs: Sequence[Job[Any]], timeout: float | None) -> list[Job[Any]]:
    """Wait at most `timeout` seconds. Returns the jobs that have not ended."""
    wait_for([job.future for job in jobs], timeout)
    return [job for job in jobs if not job.done()]


def wait_for(futures: Sequence[Future[Any]], timeout: float | None) -> None:
    """Wait until all have ended, at most `timeout` seconds."""
    deadline = inf if timeout is None else time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        # A signal that the system delivers to another thread does not wake this one from its lock.
        # Without a check now and then, Ctrl-C would take effect only when the push has ended.
        if not concurrent.futures.wait(futures, min(left, _SIGNAL_POLL)).not_done:
            break


def amount_of(job: Job[Any]) -> str:
    """Describe a push and its progress."""
    progress = job.progress
    if progress is None or not progress.total_bytes:
        return job.repo_id
    return f"{job.repo_id} ({format_share(progress.bytes_sent, progress.total_bytes)})"
