"""How late the event loop is: a task that asks to be woken each few milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 0.005


class LagMeter:
    def __init__(self) -> None:
        self._lags: list[float] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    def output(self) -> dict[str, float]:
        """Seconds: median, 99th percentile and worst."""
        lags = sorted(self._lags) or [0.0]
        return {
            "lag_p50": lags[len(lags) // 2],
            "lag_p99": lags[min(len(lags) - 1, int(len(lags) * 0.99))],
            "lag_worst": lags[-1],
        }

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(INTERVAL)
            self._lags.append(max(0.0, time.perf_counter() - began - INTERVAL))
