"""Sending parts: each in its turn, a second time where it crawls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import anyio

from asyncpush.errors import OUT_OF_DESCRIPTORS, HubError
from asyncpush.events import Emitter
from asyncpush.groups import for_group
from asyncpush.models import Part
from asyncpush.net.bandwidth import Bandwidth
from asyncpush.net.bodies import PartFeed, Slices
from asyncpush.net.buffers import BufferPool
from asyncpush.net.faults import StalledError
from asyncpush.net.limits import PartLimit
from asyncpush.net.puts import Put, Putter, SentPart
from asyncpush.net.races import Race
from asyncpush.net.session import HubSession
from asyncpush.net.stragglers import LEAST, Lookout
from asyncpush.net.telling import complete_error
from asyncpush.protocol import urls
from asyncpush.protocol.http import HubRequest
from asyncpush.threads import Hops

TIMEOUTS = (StalledError, TimeoutError)


class PartSender:
    """PUTs parts of many files under one limit. Knows nothing of LFS: bytes to a URL."""

    def __init__(self, session: HubSession, limit: PartLimit, pool: BufferPool) -> None:
        self._session = session
        self._config = session.config
        bandwidth = Bandwidth(session.config.max_bandwidth)
        lookout = Lookout(idle=lambda: limit.idle and not bandwidth.limited)
        self._putter = Putter(session, pool, bandwidth, lookout)
        self._stores_with_md5: set[str] = set()
        """Origins of the stores whose latest ETag was an MD5."""
        self.limit = limit

    async def send(
        self,
        source: Slices,
        part: Part,
        emit: Emitter,
        threads: Hops,
        *,
        attempt: int,
        headers: Mapping[str, str],
        on_sent: Callable[[int], None],
        on_wire: Callable[[int], None] = lambda count: None,
        fields: Mapping[str, Any],
    ) -> SentPart:
        """One attempt. Raises `HubError`; the Hub token is never on it.

        `on_sent` hears how far the part is; `on_wire` how many bytes went, in vain or not. A part
        that crawls is sent a second time beside the first, and the first good answer counts: the
        store keeps whole bodies alone, and the same bytes whichever comes last.
        """
        url = urls.resolve(part.url, self._session.endpoint)
        urls.check_target(url, self._session.endpoint, self._config.allowed_hosts or ())
        request = HubRequest("part", "PUT", url, fields=fields)
        put = Put(request, source, part, emit, threads, headers, on_sent, on_wire, attempt)
        if part.size <= LEAST:
            feed = self._putter.feed(put)
            # A source that is slow, or hangs, is not to hold a slot.
            await feed.read_if_short()
            return await self._in_slot(put, None, feed)
        return await self._in_race(put)

    async def _in_race(self, put: Put) -> SentPart:
        race = Race(put.on_sent)
        put = replace(put, on_sent=race.moved)
        async with anyio.create_task_group() as group:

            async def run(put: Put, again: Callable[[], None] | None) -> None:
                if await race.run(self._in_slot(put, again)):
                    group.cancel_scope.cancel()

            def send_again() -> None:
                if _origin(put) in self._stores_with_md5:
                    fields = {**put.request.fields, "again": True}
                    twin = replace(put, request=replace(put.request, fields=fields))
                    group.start_soon(for_group(run), twin, None)

            await run(put, send_again)
        return race.result()

    async def _in_slot(
        self, put: Put, again: Callable[[], None] | None, feed: PartFeed | None = None
    ) -> SentPart:
        size, began = put.part.size, time.monotonic()
        async with self.limit.slot(id(put.source), id(put.threads)) as turn:
            queued = time.monotonic() - began
            try:
                sent = await self._putter.send(
                    put,
                    feed or self._putter.feed(put),
                    queued=queued,
                    again=again,
                    moving=lambda arrived: self.limit.moving(turn, arrived, size),
                )
            except HubError as exc:
                scarce = getattr(exc.__cause__, "errno", None) in OUT_OF_DESCRIPTORS
                if scarce or exc.status in (429, 503) or isinstance(exc.__cause__, TIMEOUTS):
                    self.limit.overloaded(turn)
                token = self._session.token.known
                complete_error(exc, put.attempt, began, put.request.target, token)
                raise
            self.limit.succeeded(turn, size)
            # What an ETag of another form stands for, only the store knows: with two bodies on
            # their way, nobody could tell which one's it will ask for in the end.
            if sent.stored_md5 is not None:
                self._stores_with_md5.add(_origin(put))
            else:
                self._stores_with_md5.discard(_origin(put))
            return sent


def _origin(put: Put) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(put.request.target))
