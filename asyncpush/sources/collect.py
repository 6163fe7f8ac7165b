"""The way in: what the user names becomes files, checked, for as long as they are needed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from asyncpush.models import FileSource, Source
from asyncpush.options import PushOptions
from asyncpush.sizes import parse_size
from asyncpush.sources.findings import Findings
from asyncpush.sources.gather import Gathered, Stream
from asyncpush.sources.shards import split_large
from asyncpush.sources.spool import OpenStream, Spool
from asyncpush.workers import for_each

_SPOOL_SHARE = 4

STREAMS_AT_ONCE = 16
"""Streams that are read beside each other, so that a slow one does not hold up the others."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The files of a push, sorted by path in the repo, and what the user should hear of them.
    `streams` are still to be read on."""

    files: tuple[FileSource, ...]
    notices: tuple[str, ...] = ()
    streams: tuple[OpenStream, ...] = ()


@asynccontextmanager
async def collect(
    source: Source,
    options: PushOptions,
    *,
    spool_dir: Path,
    max_memory: int,
    large: int | None = None,
) -> AsyncIterator[Collected]:
    """Find the files that `source` and `options` name, and keep them readable within the block.

    Names and files are all checked first: whatever is wrong is raised as one `SourceError`, its
    `problems` naming each. Then streams are read to their ends, several at once, keeping at most a
    quarter of `max_memory` in memory and the rest in `spool_dir`; leaving the block, also
    by an error or cancellation, removes what was put there.

    With `large`, streams of more bytes than that are left open, as many as `max_memory` has room
    for their beginnings.
    """
    heads = 0 if large is None else max_memory
    async with Spool(spool_dir, memory=max_memory // _SPOOL_SHARE, heads=heads) as spool:
        gathered = await _gather(source, options)
        files = gathered.files
        streams: list[OpenStream] = []

        async def read(named: tuple[str, Stream]) -> None:
            path_in_repo, stream = named
            if large is None:
                files.append(await spool.take(path_in_repo, stream))
                return
            taken = await spool.begin(path_in_repo, stream, large=large)
            if isinstance(taken, OpenStream):
                streams.append(taken)
            else:
                files.append(taken)

        await for_each(gathered.streams, read, width=STREAMS_AT_ONCE)
        yield await to_thread.run_sync(_finished, files, options, gathered.findings, streams)


def _finished(
    files: list[FileSource],
    options: PushOptions,
    findings: Findings,
    streams: list[OpenStream],
) -> Collected:
    if options.max_shard_size is not None:
        files = split_large(files, parse_size(options.max_shard_size), findings)
        findings.raise_problems("mend this, or leave out max_shard_size; nothing was uploaded")
    by_path = sorted(files, key=lambda file: file.path_in_repo)
    return Collected(tuple(by_path), findings.notices, tuple(streams))


async def _gather(source: Source, options: PushOptions) -> Gathered:
    stop = threading.Event()
    try:
        # A walk may take minutes: cancellation leaves it behind, and it ends at the next file.
        return await to_thread.run_sync(
            _gather_blocking, source, options, stop, abandon_on_cancel=True
        )
    finally:
        stop.set()


def _gather_blocking(source: Source, options: PushOptions, stop: threading.Event) -> Gathered:
    gathered = Gathered(options, stop.is_set)
    if options.model_card is not None:
        gathered.add_card(options.model_card)
    gathered.add(source)
    gathered.finish()
    return gathered
