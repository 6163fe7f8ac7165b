"""A blocker in a Hub that runs in a thread: requests of a route are held until the test says so."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware


class RequestBlocker:
    """Counts requests and bytes by route; holds those of one route beyond the first few."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self._route = ""
        self._open_for = 0
        self._then: Callable[[], object] = lambda: None
        self._reached = threading.Event()
        self._released = threading.Event()

    def hold(
        self, route: str, *, open_for: int = 0, then: Callable[[], object] = lambda: None
    ) -> None:
        """Hold requests of `route` after the first `open_for`; `then` is called with the first."""
        self._reached.clear()
        self._released.clear()
        self._route, self._open_for, self._then = route, open_for, then

    def wait(self) -> None:
        """Until a request is held."""
        assert self._reached.wait(30), f"no {self._route} came"

    def release(self) -> None:
        self._route = ""
        self._released.set()

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
            route = request.match_info.route.name or ""
            self.seen[route] += 1
            self.bytes_in[route] += request.content_length or 0
            if route == self._route:
                if self._open_for:
                    self._open_for -= 1
                else:
                    if not self._reached.is_set():
                        self._reached.set()
                        self._then()
                    await asyncio.to_thread(self._released.wait)
            return await handler(request)

        return hold
