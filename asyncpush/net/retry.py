"""Whether to try again, and after how long: pure decisions, without a clock."""

from __future__ import annotations

from dataclasses import dataclass

from asyncpush.errors import HubError, ProtocolError
from asyncpush.options import UploadConfig

GARBLED_RETRIES = 2
"""An answer that makes no sense three times in a row will not make sense the sixth time."""

OUTAGE_BACKOFF = 5.0
"""A network comes back without saying so: it is looked for this often at least."""


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
        return self._backoff(failures) * draw

    def outage_delay(self, looks: int, *, draw: float) -> float:
        """Seconds before the next look, the `looks`-th, whether the network is back."""
        return min(OUTAGE_BACKOFF, self._backoff(looks)) * (0.5 + draw / 2)

    def _backoff(self, failures: int) -> float:
        return min(self.max_backoff, self.initial_backoff * 2.0 ** min(failures - 1, 30))


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
