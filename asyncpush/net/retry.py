"""Whether and when to try again (pure decisions), and the one loop that does so."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

from asyncpush.errors import (
    AsyncPushError,
    HubError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
)
from asyncpush.events import Emitter
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo
from asyncpush.net.network_errors import completed, report_failure
from asyncpush.options import UploadConfig
from asyncpush.protocol import routes
from asyncpush.protocol.http import HubRequest

GARBLED_RETRIES = 2
"""An invalid answer that comes three times in a row will not become valid the sixth time."""

OUTAGE_BACKOFF = 5.0
"""Longest wait in seconds between attempts while the network is down: nothing announces its
return."""


CREATION_GRACE = 30.0
"""Seconds for which some servers of the Hub may not know a repo or branch that was just created."""

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again. Times are in seconds."""

    max_retries: int
    initial_backoff: float
    max_backoff: float
    outage_timeout: float
    max_retry_after: float

    @classmethod
    def of(cls, config: UploadConfig) -> RetryPolicy:
        return cls(
            config.max_retries,
            config.initial_backoff_ms / 1000,
            config.max_backoff_ms / 1000,
            config.outage_timeout,
            config.max_retry_after,
        )

    def delay(self, failures: int, error: HubError, *, draw: float) -> float | None:
        """Seconds before the next attempt, or None to give up.

        `failures` counts the failures of this request, including this one. `draw`, in [0, 1), is
        the jitter ("full jitter": waits are spread over the whole interval).
        """
        if not error.retryable:
            return None
        if failures > self.max_retries:
            return None
        if isinstance(error, ProtocolError) and failures > GARBLED_RETRIES:
            return None
        if error.retry_after is not None:
            if error.retry_after > self.max_retry_after:
                return None
            return error.retry_after + draw * self.initial_backoff
        if error.status == 404:  # just created, and not known everywhere yet: never retry at once
            return self._backoff(failures) * (0.5 + draw / 2)
        return self._backoff(failures) * draw

    def outage_delay(self, attempt: int, *, draw: float) -> float:
        """Seconds to wait before attempt number `attempt` to reach the network while it is down."""
        return min(OUTAGE_BACKOFF, self._backoff(attempt)) * (0.5 + draw / 2)

    def _backoff(self, failures: int) -> float:
        return min(self.max_backoff, self.initial_backoff * 2.0 ** min(failures - 1, 30))


class Creations:
    """Repos and branches that this session has just created.

    Some servers of the Hub may not know them yet, so for `CREATION_GRACE` seconds a 404 for one of
    them counts as transient.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made: dict[tuple[Repo, str], float] = {}

    def note(self, repo: Repo, branch: str = "main") -> None:
        """Record that this branch of a repo, and with it the repo, was just created."""
        self._made[repo, branch] = self._clock()

    def may_lag(self, request: HubRequest, error: HubError) -> bool:
        """Whether the only reason for the error may be that this server does not know the repo
        yet."""
        if error.status != 404 or not self._made:
            return False
        if request.optional:
            return False
        since = self._clock() - CREATION_GRACE
        for (repo, branch), made in self._made.items():
            if made < since or not _is_about(request, repo):
                continue
            if isinstance(error, RepoNotFoundError):
                return True
            # A branch that we did not create may never exist.
            if error.error_code == "RevisionNotFound" and _names(request, branch):
                return True
        return False


def _is_about(request: HubRequest, repo: Repo) -> bool:
    return routes.is_about(repo, request.target)


def _names(request: HubRequest, branch: str) -> bool:
    """Whether the request may be about this branch. LFS batches name it only in their body."""
    return (
        request.target.endswith("/objects/batch") or f"/{quote(branch, safe='')}" in request.target
    )


class RetryBudget:
    """How many retries a session may make at full speed. When most requests fail, retrying each of
    them at once makes the overload worse.

    A retry costs one, a success gives back a tenth. When nothing is left, waits are as long as the
    policy allows, so that few requests are sent until some succeed.
    """

    CAPACITY = 100.0
    REFUND = 0.1

    def __init__(self) -> None:
        self._left = self.CAPACITY

    def succeeded(self) -> None:
        self._left = min(self.CAPACITY, self._left + self.REFUND)

    def spend(self) -> bool:
        """Whether a retry may use the normal delay."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a request: its number, from 1, and the span that its events belong to."""

    number: int
    events: Emitter


class TryAgainError(HubError):
    """Raised by an attempt that has to be repeated although its requests did not fail: the bytes
    arrived damaged, or the upload has to be started again. It is retried like other transient
    failures. When no attempt is left, the loop raises `final`; this error never leaves it."""

    def __init__(self, message: str, *, final: AsyncPushError, **details: Any) -> None:
        super().__init__(message, retryable=True, **details)
        self.final = final


@dataclass(slots=True)
class _Failures:
    """How often one request has failed."""

    counted: int = 0
    outage_attempts: int = 0
    offline_since: float | None = None


class RetryLoop:
    """Retries requests. No other code reports failed attempts as events.

    `reached` returns whether any server has answered in this session: an endpoint that has never
    answered is probably wrong, not down. `secret` returns the token in use, which is removed from
    every error. The other arguments replace the clock and the random numbers in tests.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        budget: RetryBudget | None = None,
        reached: Callable[[], bool] = lambda: False,
        secret: Callable[[], str] = lambda: "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._budget = budget or RetryBudget()
        self._reached = reached
        self._secret = secret
        self._sleep = sleep
        self._clock = clock
        self._draw = draw

    async def run(
        self,
        attempt: Callable[[Attempt], Awaitable[T]],
        events: Emitter,
        call: str,
        *,
        fields: Mapping[str, Any] = NO_FIELDS,
        method: str = "",
        url: str = "",
        retry: bool = True,
        first: int = 1,
        follow_up: Callable[[HubError], float | None] = lambda error: None,
        reconcile: Callable[[HubError], Awaitable[T | None]] | None = None,
        reported: Callable[[HubError], bool] = lambda error: True,
    ) -> T:
        """Call `attempt` until it succeeds or the policy gives up.

        Each attempt has its own span, a child of the span of `events`. A failed attempt is reported
        on it: as `RequestFailed` with `call` and `fields`, followed by `RetryScheduled` when it is
        retried. Failures for which `reported` returns False are not. `method` and `url` complete
        errors that do not name theirs.

        With `retry=False` there is one attempt. `reconcile` is for requests that could take effect
        twice if they were repeated: before every further attempt it is called with the latest
        failure, and what it returns, unless that is None, is the result. `first` is the number of
        the first attempt, if the caller has made others before. `follow_up` is called when the loop
        gives up on a failure, and returns the seconds after which the caller itself makes the next
        attempt.

        Raises the last error, as `RetriesExhaustedError` when it was a transient one.
        """
        began = self._clock()
        number = first
        latest: HubError | None = None
        failures: _Failures | None = None
        while True:
            this = Attempt(number, events.child())
            asking = latest is not None and reconcile is not None
            try:
                if latest is not None and reconcile is not None:
                    done = await reconcile(latest)
                    if done is not None:
                        self._budget.succeeded()
                        return done
                    asking = False
                result = await attempt(this)
            except HubError as exc:
                error = exc
            else:
                self._budget.succeeded()
                return result
            # Outside of the handler: the original may hold secrets, so it must not become the
            # context of the redacted copy.
            if not asking:  # its requests have already reported their failures
                error = latest = completed(
                    error,
                    attempt=number,
                    elapsed_seconds=self._clock() - began,
                    method=method,
                    url=url,
                    secret=self._secret(),
                )
            failures = failures or _Failures()
            wait = self._decide(error, failures) if retry else None
            if not asking and reported(error):
                next_wait = follow_up(error) if wait is None else wait
                report_failure(this.events, call, error, next_wait, fields)
            if wait is None:
                raise self._final(error) if retry else error
            await self._sleep(wait)
            number += 1

    def _decide(self, error: HubError, failures: _Failures) -> float | None:
        draw = self._draw()
        if self._is_outage(error, failures):
            failures.outage_attempts += 1
            return self._policy.outage_delay(failures.outage_attempts, draw=draw)
        failures.counted += 1
        delay = self._policy.delay(failures.counted, error, draw=draw)
        if delay is not None and not self._budget.spend():
            return max(delay, self._policy.max_backoff * (0.5 + draw / 2))
        return delay

    def _is_outage(self, error: HubError, failures: _Failures) -> bool:
        """Whether to wait because the network has been down for less than `outage_timeout`. Such
        attempts do not count against `max_retries`."""
        if not (error.unreachable and error.retryable and self._reached()):
            failures.offline_since = None
            failures.outage_attempts = 0
            return False
        now = self._clock()
        if failures.offline_since is None:
            failures.offline_since = now
        return now - failures.offline_since < self._policy.outage_timeout

    def _final(self, error: HubError) -> AsyncPushError:
        """The error that leaves the loop. It is no longer retryable, so that no caller retries it
        too."""
        if isinstance(error, TryAgainError):
            return error.final
        if not error.retryable:
            return error
        limit = self._policy.max_retry_after
        if error.retry_after is not None and error.retry_after > limit:
            return error.as_(
                RateLimitedError,
                message=f"{error.message}; the server asks to wait {error.retry_after:.0f} s,"
                f" longer than max_retry_after={limit:.0f}",
                retryable=False,
            )
        if isinstance(error, RateLimitedError | ProtocolError) or error.status == 404:
            return error.with_(retryable=False)
        times = "once" if error.attempt == 1 else f"{error.attempt} times"
        return error.as_(
            RetriesExhaustedError,
            message=f"{error.message}; tried {times}",
            retryable=False,
        )
