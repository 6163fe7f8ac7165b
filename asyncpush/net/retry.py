"""Whether to try again and after how long (pure decisions), and the one loop that does so."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import anyio

from asyncpush.errors import (
    HubError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
)
from asyncpush.models import Repo
from asyncpush.options import UploadConfig
from asyncpush.protocol.http import HubRequest

GARBLED_RETRIES = 2
"""An answer that makes no sense three times in a row will not make sense the sixth time."""

OUTAGE_BACKOFF = 5.0
"""A network comes back without saying so: it is looked for this often at least."""


CREATION_GRACE = 30.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again. Times in seconds."""

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

        `failures` counts those of this request, this one included; `draw` in [0, 1) is the
        jitter ("full jitter": waits are spread over the whole interval).
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
        if error.status == 404:  # news that has not got around yet: it takes the time it takes
            return self._backoff(failures) * (0.5 + draw / 2)
        return self._backoff(failures) * draw

    def outage_delay(self, looks: int, *, draw: float) -> float:
        """Seconds before the next look, the `looks`-th, whether the network is back."""
        return min(OUTAGE_BACKOFF, self._backoff(looks)) * (0.5 + draw / 2)

    def _backoff(self, failures: int) -> float:
        return min(self.max_backoff, self.initial_backoff * 2.0 ** min(failures - 1, 30))


class Creations:
    """Repos and branches that this session has just made: not every server of the Hub may know
    them at once, so that a 404 for one of them passes, for `CREATION_GRACE` seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made: dict[tuple[Repo, str], float] = {}

    def note(self, repo: Repo, branch: str = "main") -> None:
        """This branch of a repo, and with it the repo, was made now."""
        self._made[repo, branch] = self._clock()

    def may_lag(self, request: HubRequest, error: HubError) -> bool:
        """Whether the error says merely that the news has not reached that server yet."""
        if error.status != 404 or not self._made:
            return False
        if request.call == "xet_token":  # a Hub without Xet says so in this way
            return False
        since = self._clock() - CREATION_GRACE
        for (repo, branch), made in self._made.items():
            if made < since or not _is_about(request, repo):
                continue
            if isinstance(error, RepoNotFoundError):
                return True
            # A branch that is not ours may be missing for good.
            if error.error_code == "RevisionNotFound" and _names(request, branch):
                return True
        return False


def _is_about(request: HubRequest, repo: Repo) -> bool:
    return f"/{repo.api_path}/" in request.target or f"/{repo.git_path}.git/" in request.target


def _names(request: HubRequest, branch: str) -> bool:
    """LFS batches name the branch in their body."""
    return (
        request.target.endswith("/objects/batch") or f"/{quote(branch, safe='')}" in request.target
    )


class RetryBudget:
    """The whole session's allowance of retries, against storms: when most requests fail, trying
    each of them again at once makes it worse.

    A retry spends one, a success gives back a tenth. Once it is spent, waits are as long as the
    policy allows, so that few requests go out until some succeed.
    """

    CAPACITY = 100.0
    REFUND = 0.1

    def __init__(self) -> None:
        self._left = self.CAPACITY

    def succeeded(self) -> None:
        self._left = min(self.CAPACITY, self._left + self.REFUND)

    def spend(self) -> bool:
        """Whether a retry may go at its own pace."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


T = TypeVar("T")

OnRetry = Callable[[HubError, float | None], None]


class RetryLoop:
    """For one request. `reached` tells whether the network has ever been there in this
    session: an endpoint that never answered is wrong rather than away."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        budget: RetryBudget | None = None,
        reached: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._budget = budget or RetryBudget()
        self._reached = reached
        self._sleep = sleep
        self._clock = clock
        self._draw = draw
        self._failures = 0
        self._looks = 0
        self._offline_since: float | None = None

    async def run(self, attempt: Callable[[int], Awaitable[T]], on_failure: OnRetry) -> T:
        """Call `attempt` (with its number, from 1) until it succeeds or the policy gives up.

        `on_failure` hears of each failure and of the wait that follows, None at the end. Raises
        the last error, as `RetriesExhaustedError` when it was one that usually passes.
        """
        number = 1
        while True:
            try:
                result = await attempt(number)
            except HubError as exc:
                wait = self._decide(exc)
                on_failure(exc, wait)
                if wait is None:
                    raise self._final(exc) from exc.__cause__
            else:
                self._budget.succeeded()
                return result
            await self._sleep(wait)
            number += 1

    def _decide(self, error: HubError) -> float | None:
        draw = self._draw()
        if self._waits_out(error):
            self._looks += 1
            return self._policy.outage_delay(self._looks, draw=draw)
        self._failures += 1
        delay = self._policy.delay(self._failures, error, draw=draw)
        if delay is not None and not self._budget.spend():
            return max(delay, self._policy.max_backoff * (0.5 + draw / 2))
        return delay

    def _waits_out(self, error: HubError) -> bool:
        """Whether the network is away altogether, and not for too long: attempts do not count."""
        if not (error.unreachable and error.retryable and self._reached()):
            self._offline_since = None
            self._looks = 0
            return False
        now = self._clock()
        if self._offline_since is None:
            self._offline_since = now
        return now - self._offline_since < self._policy.outage_timeout

    def _final(self, error: HubError) -> HubError:
        """The error that leaves the loop: whoever catches it must not try the same again."""
        if not error.retryable:
            return error
        limit = self._policy.max_retry_after
        if error.retry_after is not None and error.retry_after > limit:
            final = _as(
                RateLimitedError,
                error,
                f"{error.message}; the server asks to wait {error.retry_after:.0f} s, longer than"
                f" max_retry_after={limit:.0f}",
            )
        elif isinstance(error, RateLimitedError | ProtocolError) or error.status == 404:
            final = error
        else:
            final = _as(
                RetriesExhaustedError, error, f"{error.message}; tried {error.attempt} times"
            )
        final.retryable = False
        return final


def _as(kind: type[HubError], error: HubError, message: str) -> HubError:
    """The same failure under another class."""
    other = kind(message)
    for name, value in vars(error).items():
        if name != "message":
            setattr(other, name, value)
    return other
