"""Before any byte moves: what looks like a credential is warned of, or refused with `strict`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from asyncpush.models import FileSource
from asyncpush.net.credentials import every_token, token_files
from asyncpush.pipeline.context import PushContext
from asyncpush.sources.findings import Findings
from asyncpush.sources.leaks import HubTokens, Leak, find_leaks
from asyncpush.threads import in_thread
from asyncpush.workers import batches, for_each

FILES_PER_HOP = 256
WORKERS = 4
"""Hops at once: on a network's file system each file that is opened takes its time."""

LEAKS_LIMIT = 1000
"""Leaks after which no further file is looked into: there is more to do than to read a list."""

_SUGGESTION = (
    "leave these files out with ignore_patterns (--exclude), or push without strict (--strict) if"
    " they are meant for all who can read the repo"
)

_IN_USE_SUGGESTION = (
    "move it out of the source, or leave it out with ignore_patterns (--exclude); if it has ever"
    " been published, revoke that token"
)


async def check_leaks(ctx: PushContext, files: Sequence[FileSource]) -> None:
    """Warn of what looks like a credential, naming file and line, never the secret. Raises
    `SourceError` instead, with all of it in `problems`, when the push is strict, and always for a
    file that is a Hub token in use."""
    known = ctx.session.token.known
    findings = Findings()
    for leak in await in_thread(ctx.threads, lambda: _kept_tokens(known, files)):
        findings.problem(str(leak))
    findings.raise_problems(_IN_USE_SUGGESTION)
    leaks = await _scan(ctx, files)
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


def _kept_tokens(known: str, files: Sequence[FileSource]) -> list[Leak]:
    return HubTokens.of([known, *every_token()], token_files()).kept_in(files)


async def _scan(ctx: PushContext, files: Sequence[FileSource]) -> list[Leak]:
    """The leaks of all files, in their order, found a batch of files a thread hop."""
    found: dict[int, list[Leak]] = {}
    stop = threading.Event()

    async def look(numbered: tuple[int, Sequence[FileSource]]) -> None:
        number, batch = numbered
        scan = partial(find_leaks, batch, stop.is_set)
        found[number] = await in_thread(ctx.threads, scan, on_cancel=stop.set)
        if sum(map(len, found.values())) >= LEAKS_LIMIT:
            stop.set()

    await for_each(list(enumerate(batches(files, FILES_PER_HOP))), look, width=WORKERS)
    return [leak for number in sorted(found) for leak in found[number]]
