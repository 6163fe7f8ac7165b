"""The same large files in several syncs at once: the first sends them, the others wait for it and
find them in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager

from asyncpush.models import BytesSource, FileSource, PathSource
from asyncpush.options import MIB

LARGE = MIB
"""Smaller files take less time to send than to wait for."""


class SharedContent:
    """What the syncs of an `Uploader` are sending.

    A sync waits only for those that began before it, so no two ever wait for each other. It waits
    only if the files that both send are at least half of what each of them sends: otherwise it
    could wait for much longer than sending takes.
    """

    def __init__(self) -> None:
        self._sending: dict[asyncio.Event, dict[Hashable, int]] = {}

    @asynccontextmanager
    async def turn(self, files: Iterable[FileSource]) -> AsyncIterator[None]:
        """Send these files within the block, once those who send the same have ended."""
        own = {_identity(file): file.size for file in files}
        ended = asyncio.Event()
        earlier = [event for event, theirs in self._sending.items() if _is_shared(own, theirs)]
        self._sending[ended] = own
        try:
            for event in earlier:
                await event.wait()
            yield
        finally:
            del self._sending[ended]
            ended.set()


def _identity(file: FileSource) -> Hashable:
    """Equal for files with the same bytes, as far as this is known without reading them."""
    content = file.content
    if isinstance(content, PathSource):
        known = content.identity
        return known.device, known.inode, known.size, known.mtime_ns
    if isinstance(content, BytesSource):
        return id(content.data)  # which stays alive as long as it is being sent
    return id(content)


def _is_shared(own: dict[Hashable, int], theirs: dict[Hashable, int]) -> bool:
    shared = sum(own[key] for key in own.keys() & theirs.keys() if own[key] >= LARGE)
    return shared > 0 and 2 * shared >= max(sum(own.values()), sum(theirs.values()))
