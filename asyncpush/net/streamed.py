"""A request body that is made while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from asyncpush.errors import SourceChangedError
from asyncpush.net.watch import StallWatch
from asyncpush.protocol.http import StreamBody
from asyncpush.threads import settled


class BodyStream:
    """A body of the promised size or none at all. What its maker raises
    would come out of aiohttp as a network fault; it is kept here to be raised as what it is."""

    def __init__(self, body: StreamBody, watch: StallWatch) -> None:
        self._source = body.open()
        self._size = body.size
        self._watch = watch
        self._writing: asyncio.Task[Any] | None = None
        self.failure: Exception | None = None
        self.pieces = self._pieces()

    async def finish(self) -> None:
        """Called when the request is over, however it ended: the maker lets go of its files."""
        if self._writing is not None:
            self._writing.cancel()  # aiohttp's writer; it cancels it too, but does not wait
            await settled(self._writing)
        await self.pieces.aclose()
        if isinstance(self._source, AsyncGenerator):
            await self._source.aclose()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        self._writing = asyncio.current_task()
        left = self._size
        try:
            async for piece in self._source:
                left -= len(piece)
                if left < 0:
                    break
                yield piece
                self._watch.touch()
            if left:
                raise SourceChangedError(
                    f"a request body of {self._size} bytes turned out"
                    f" {'longer' if left < 0 else 'shorter'}; nothing was committed",
                    suggestion="push again once nothing writes to these files any more",
                )
        except Exception as exc:
            self.failure = exc
            raise
