"""A push under way: await it, iterate over its progress, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

from asyncpush.models import UploadProgress, UploadResult

if TYPE_CHECKING:
    from asyncpush.listeners.publisher import ProgressPublisher


class PushHandle:
    """What `Uploader.start_push` returns.

    `await handle` gives the `UploadResult` or raises; as with an `asyncio.Task`, cancelling whoever
    awaits it cancels the push (wrap it in `asyncio.shield` to keep it going). `async for progress
    in handle` gives snapshots, the newest only when the loop is slow, and ends with the push,
    however that ends. See `Uploader` for an example.
    """

    def __init__(
        self, task: asyncio.Task[UploadResult], publisher: ProgressPublisher, repo_id: str
    ) -> None:
        self._task = task
        self._publisher = publisher
        self.repo_id = repo_id
        self._observed = False

    def __repr__(self) -> str:
        state = "running"
        if self._task.done():
            failed = self._task.cancelled() or self._task.exception() is not None
            state = "failed" if failed else "done"
        return f"<PushHandle {self.repo_id} {state}>"

    def __await__(self) -> Generator[Any, None, UploadResult]:
        self._observed = True
        return self._task.__await__()

    def __aiter__(self) -> AsyncIterator[UploadProgress]:
        return self._publisher.subscribe()

    @property
    def progress(self) -> UploadProgress:
        """The newest snapshot."""
        return self._publisher.latest

    def done(self) -> bool:
        """Whether the push has ended, well or not."""
        return self._task.done()

    def cancel(self) -> None:
        """Stop the push: nothing is committed, and what is stored is not sent again next time.

        Awaiting the handle then raises `asyncio.CancelledError`. A push whose commit has just been
        accepted may still be found committed.
        """
        self._observed = True
        self._task.cancel()

    def unobserved_failure(self) -> BaseException | None:
        """The error of a push that nobody has awaited or cancelled."""
        if self._observed or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()
