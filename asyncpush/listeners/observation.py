"""Runs a push with its listeners, limits its time, and reports how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from asyncpush.errors import AsyncPushError, HubError, VerificationError
from asyncpush.events import (
    CommitStarted,
    Committed,
    Emitter,
    Listener,
    Operation,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
)
from asyncpush.listeners.logs import LogListener
from asyncpush.listeners.result_stats import ActivityTally, RetryTally
from asyncpush.models import AuditReport, Repo, SyncResult, UploadResult
from asyncpush.options import ProgressChoice, PushOptions, progress_is_shown

if TYPE_CHECKING:
    from asyncpush.listeners.bars import BarDisplay
    from asyncpush.listeners.publisher import ProgressPublisher

T = TypeVar("T")

UNCONFIRMED = "the commit was started and not confirmed: it may have been made"
"""The note on a cancellation that came after the commit was sent and before the Hub answered."""

MADE = "the commit "
"""The beginning of the note on a cancellation that came after the Hub's answer."""


class PushObserver:
    """Observes one push, or another operation on a repo, while it runs."""

    wants_headers = False
    wants_events = frozenset({PushStarted, CommitStarted, Committed})

    def __init__(
        self,
        options: PushOptions,
        publisher: ProgressPublisher | None,
        listeners: Sequence[Listener],
        operation: Operation = "push",
    ) -> None:
        self._options = options
        self.operation = operation
        self._began = time.monotonic()
        self._retries = RetryTally()
        self._activity = ActivityTally()
        self.push_id: str = uuid.uuid4().hex
        self._commit_started = False
        self._in_bucket = False
        self.describe_failure: Callable[[BaseException], BaseException] = lambda error: error
        """See `PushContext.describe_failure`."""
        self._landed: Committed | None = None
        all_listeners = [
            self._on_event,
            *([publisher.on_event] if publisher is not None else []),
            self._retries.on_event,
            self._activity.on_event,
            *listeners,
        ]
        self.events: Emitter = Emitter(all_listeners, push_id=self.push_id)

    def _on_event(self, record: Record) -> None:
        if isinstance(record.event, PushStarted):
            self._in_bucket = record.event.repo_type == "bucket"
        elif isinstance(record.event, CommitStarted):
            self._commit_started = not self._in_bucket
        elif isinstance(record.event, Committed) and record.event.final:
            self._landed = record.event

    @property
    def commit_is_unconfirmed(self) -> bool:
        """Whether a commit was started and the Hub has not confirmed it."""
        return self._commit_started and self._landed is None

    def failure(self, error: BaseException) -> BaseException:
        """The error to raise for `error`.

        Once the commit has landed, this is an error that says so, whatever failed afterwards. A
        cancellation stays a cancellation, with a note that the commit was made, or that it may have
        been made if the Hub had not answered yet.
        """
        error = self.describe_failure(error)
        landed = self._landed
        if self.commit_is_unconfirmed and not isinstance(error, Exception):
            error.add_note(UNCONFIRMED)
        if landed is None or isinstance(error, VerificationError):
            return error
        made = f"{MADE}{landed.commit_sha} was made ({landed.commit_url})"
        if not isinstance(error, Exception):
            error.add_note(made)
            return error
        reason = error.message if isinstance(error, AsyncPushError) else str(error) or repr(error)
        failure = VerificationError(
            f"{made}, but it could not be verified: {reason}",
            commit_sha=landed.commit_sha,
            commit_url=landed.commit_url,
            suggestion="nothing needs to be sent again: look at the commit, or compare the files"
            " with `audit` (`asyncpush audit`) once the Hub answers",
        )
        failure.__cause__ = error
        return failure

    def finished(self, outcome: T) -> T:
        """Report success. Returns the outcome, completed with what was counted from the events."""
        if isinstance(outcome, UploadResult | SyncResult):
            outcome = replace(
                outcome,
                retries=self._retries.retries,
                waited_seconds=self._retries.waited_seconds,
                activity=self._activity.activity(),
            )
        finished = _finished(outcome, self._options, time.monotonic() - self._began)
        self.events.emit(replace(finished, operation=self.operation))
        return outcome


@asynccontextmanager
async def observe_push(
    repo: Repo,
    options: PushOptions,
    publisher: ProgressPublisher | None,
    listeners: Sequence[Listener],
    *,
    progress: ProgressChoice,
    operation: Operation = "push",
) -> AsyncIterator[PushObserver]:
    """Observe a push within this block. Call `finished` of the observer at the end; a failure is
    reported automatically. Without a `publisher` nobody follows its progress; `progress` is that of
    `UploadConfig`. Raises `TimeoutError` when the options' time limit is reached."""
    display = _display(progress, repo.repo_id)
    listeners = [LogListener().on_event, *listeners]
    if display is not None:
        listeners.insert(0, display.on_event)
    observer = PushObserver(options, publisher, listeners, operation)
    try:
        revision = "" if repo.repo_type == "bucket" else options.revision
        observer.events.emit(PushStarted(repo.repo_id, repo.repo_type, revision, operation))
        async with _time_limit(options.timeout, observer):
            yield observer
    except BaseException as exc:
        failure = observer.failure(exc)
        observer.events.emit(replace(_failed(failure), operation=operation))
        if failure is exc:
            raise
        raise failure from exc
    finally:
        if publisher is not None:
            with anyio.CancelScope(shield=True):
                await publisher.aclose()
        if display is not None:
            display.close()


def _display(progress: ProgressChoice, title: str) -> BarDisplay | None:
    if not progress_is_shown(progress, sys.stderr):
        return None
    from asyncpush.listeners.bars import BarDisplay  # imported already, when the session was opened

    return BarDisplay(progress, title)


@asynccontextmanager
async def _time_limit(seconds: float | None, observer: PushObserver) -> AsyncIterator[None]:
    """`PushOptions(timeout=...)`: the error that ends the push names this timeout as the reason.

    It also says if a commit may have been made before that.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        unclear = f"; {UNCONFIRMED}" if observer.commit_is_unconfirmed else ""
        raise TimeoutError(
            f"the {observer.operation} took longer than its timeout of {seconds:g} s{unclear}: try"
            " again; what is already stored is not sent again"
        ) from exc


def _finished(outcome: object, options: PushOptions, seconds: float) -> PushFinished:
    match outcome:
        case UploadResult() if options.dry_run:
            return PushFinished(outcome.commit_sha, len(outcome.plan), 0, seconds, "plan")
        case UploadResult():
            files = len(outcome.files_uploaded)
            return PushFinished(outcome.commit_sha, files, outcome.bytes_transferred, seconds)
        case SyncResult() if options.dry_run:
            return PushFinished("", len(outcome.plan), 0, seconds, "plan")
        case SyncResult():
            files = len(outcome.files_uploaded)
            return PushFinished("", files, outcome.bytes_transferred, seconds, "sync")
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
    if isinstance(error, VerificationError):
        details["commit_sha"] = error.commit_sha
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
