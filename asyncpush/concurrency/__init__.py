"""Blocking work in threads, many items a few at a time, and fair scheduling of both.

Which library for what, in all of asyncpush but the embedded Hub: anyio for structure (task groups,
cancel scopes, the streams between stages, threads that read a source), asyncio for everything else
(locks, events, semaphores, queues, futures, sleeps, timeouts, tasks that outlive their caller).
"""
