"""The body of a commit call, encoded as it is sent: few inline files are in memory at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice

from asyncpush.errors import SourceChangedError
from asyncpush.protocol import commits
from asyncpush.protocol.commits import AddInline, Change, CommitHeader
from asyncpush.protocol.http import StreamBody
from asyncpush.threads import each_in_thread, in_thread
from asyncpush.transfers.inline import git_blob_oid

LINES_PER_HOP = 64
"""Inline files whose lines are in memory at once while the body is streamed."""

HOP_BYTES = 1 << 20

LoadContent = Callable[[str], bytes]
"""Bytes of an inline file by its path in the repo; called in a thread."""


async def commit_payload(
    header: CommitHeader, changes: Sequence[Change], load: LoadContent, threads: Executor
) -> StreamBody:
    """Sending it raises `SourceChangedError` when a file is not what it was when it was hashed."""

    async def lines() -> AsyncIterator[bytes]:
        yield commits.header_line(header)
        remaining = iter(changes)
        while stretch := _stretch(remaining):
            yield b"".join(await each_in_thread(threads, stretch, partial(_encode, load=load)))

    size = await in_thread(threads, lambda: commits.payload_size(header, changes))
    return StreamBody(size, lines)


def _stretch(changes: Iterator[Change]) -> list[Change]:
    """The next changes: few enough for one hop, and small enough for memory."""
    stretch: list[Change] = []
    size = 0
    for change in islice(changes, LINES_PER_HOP):
        stretch.append(change)
        size += change.size if isinstance(change, AddInline) else 0
        if size >= HOP_BYTES:
            break
    return stretch


def _encode(change: Change, load: LoadContent) -> bytes:
    return commits.change_line(change, _content(change, load))


def _content(change: Change, load: LoadContent) -> bytes:
    if not isinstance(change, AddInline):
        return b""
    content = load(change.path)
    if git_blob_oid(content) != change.oid:
        raise SourceChangedError(
            f"{change.path!r} changed after it was hashed; nothing was committed",
            problems=[f"{change.path}: content changed"],
            suggestion="push again once nothing writes to it any more",
        )
    return content
