"""Cancelling what runs, and how long that takes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from asyncpush import PushHandle


async def seconds_to_cancel(running: PushHandle | asyncio.Task[Any]) -> float:
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return time.monotonic() - began
