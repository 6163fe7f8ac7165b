"""Cancelling what runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from asyncpush import PushHandle

PROMPTLY = 10.0
"""Seconds. A cancellation takes some milliseconds, but on a busy machine a second may pass. What it
must not wait for, such as a stalled request, takes half a minute or more."""


async def cancel_promptly(running: PushHandle | asyncio.Task[Any]) -> None:
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < PROMPTLY
