"""Buffers that are used again."""

from __future__ import annotations

from asyncpush.net.bodies import BufferPool


def test_buffers_are_used_again() -> None:
    pool = BufferPool(10)
    first, second = pool.take(), pool.take()
    assert first is not second
    assert len(first) == 10
    pool.give_back(first)
    assert pool.take() is first
    pool.give_back(second)
    assert pool.take() is second
