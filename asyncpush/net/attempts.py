"""One request's attempts: made, waited between as `net.retry` decides, by tenacity's loop."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from asyncpush.errors import (
    HubError,
    ProtocolError,
    RateLimitedError,
    RetriesExhaustedError,
    os_reason,
)
from asyncpush.net.retry import RetryBudget, RetryPolicy

T = TypeVar("T")

IMPORT_LOOKS = 10

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
        self._next: float | None = None

    async def run(self, attempt: Callable[[int], Awaitable[T]], on_failure: OnRetry) -> T:
        """Call `attempt` (with its number, from 1) until it succeeds or the policy gives up.

        `on_failure` hears of each failure and of the wait that follows, None at the end. Raises
        the last error, as `RetriesExhaustedError` when it was one that usually passes.
        """

        # Nearly every first attempt succeeds, and most failures are final: the loop's machinery
        # (24 µs a request, 25 ms to import, measured) is for those that are tried again.
        try:
            result = await attempt(1)
        except HubError as exc:
            if not self._goes_on(exc, on_failure):
                raise self._final(exc) from exc.__cause__
            result = await self._again(attempt, on_failure)
        self._budget.succeeded()
        return result

    async def _again(self, attempt: Callable[[int], Awaitable[T]], on_failure: OnRetry) -> T:
        """Go on after the first attempt has failed."""
        for looks_left in reversed(range(IMPORT_LOOKS)):
            try:
                from tenacity import AsyncRetrying, retry_if_exception

                break
            except OSError as exc:  # no descriptor is left; transfers that end leave theirs
                if not looks_left:
                    raise HubError(
                        f"a request failed and cannot be tried again: {os_reason(exc)}"
                    ) from exc
                await self._sleep(1.0)

        def goes_on(error: BaseException) -> bool:
            return isinstance(error, HubError) and self._goes_on(error, on_failure)

        await self._sleep(self._next or 0.0)
        retrying = AsyncRetrying(
            retry=retry_if_exception(goes_on),
            wait=lambda state: self._next or 0.0,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            async for state in retrying:
                with state:
                    return await attempt(state.retry_state.attempt_number + 1)
        except HubError as exc:
            raise self._final(exc) from exc.__cause__
        raise AssertionError("tenacity always returns or raises")  # pragma: no cover

    def _goes_on(self, error: HubError, on_failure: OnRetry) -> bool:
        """Decide, and tell; `_next` is the wait that follows."""
        self._next = self._decide(error)
        on_failure(error, self._next)
        return self._next is not None

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
