"""Before any byte moves: what looks like a credential is warned of, or refused with `strict`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import anyio

from asyncpush.models import FileSource
from asyncpush.pipeline.context import PushContext
from asyncpush.sources.findings import Findings
from asyncpush.sources.leaks import Leak, find_leaks
from asyncpush.threads import in_thread

FILES_PER_HOP = 256
WORKERS = 4
"""Hops at once: on a network's file system each file that is opened takes its time."""

LEAKS_LIMIT = 1000
"""Leaks after which no further file is looked into: there is more to do than to read a list."""

_SUGGESTION = (
    "leave these files out with ignore_patterns (--exclude), or push without strict (--strict) if"
    " they are meant for all who can read the repo"
)


async def check_leaks(ctx: PushContext, files: Sequence[FileSource]) -> None:
    """Warn of what looks like a credential, naming file and line, never the secret. Raises
    `SourceError` instead, with all of it in `problems`, when the push is strict."""
    leaks = await _scan(ctx, files)
    findings = Findings()
    for leak in leaks:
        if ctx.options.strict:
            findings.problem(str(leak))
        else:
            findings.notice(f"files with {leak.kind}", f"{leak}: is it meant to be published?")
    if len(leaks) >= LEAKS_LIMIT:
        findings.notice("", "so much looks like credentials that not every file was looked into")
    findings.raise_problems(_SUGGESTION)
    for notice in findings.notices:
        ctx.warn(notice)


async def _scan(ctx: PushContext, files: Sequence[FileSource]) -> list[Leak]:
    """The leaks of all files, in their order, found a stretch of files a thread hop."""
    found: dict[int, list[Leak]] = {}
    starts = iter(range(0, len(files), FILES_PER_HOP))
    stop = threading.Event()

    async def worker() -> None:
        for start in starts:  # shared: whoever is free takes the next stretch
            stretch = files[start : start + FILES_PER_HOP]
            look = partial(find_leaks, stretch, stop.is_set)
            found[start] = await in_thread(ctx.threads, look, on_cancel=stop.set)
            if sum(map(len, found.values())) >= LEAKS_LIMIT:
                stop.set()

    async with anyio.create_task_group() as group:
        for _ in range(min(WORKERS, -(-len(files) // FILES_PER_HOP))):
            group.start_soon(worker)
    return [leak for start in sorted(found) for leak in found[start]]
