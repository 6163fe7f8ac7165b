"""The Hub and its store in a process of their own, told what to do on stdin, a JSON line a time.

The embedded Hub answers the API (real git behind it); parts go to `store.SinkServer`, to an S3
server, or to the Hub's own disk, as the scenario says. Nothing of it runs on the client's core.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import ssl
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub import LocalHub
from asyncpush.localhub.blobs import BlobStore
from benchmarks.networks import Network
from benchmarks.rivals.measuring import RECEIVED
from benchmarks.store import SinkServer
from benchmarks.tickets import S3Tickets, SinkTickets

BODIES = frozenset({"xorb", "shard", "part"})
"""Routes of the Hub's own stores that take what files are made of."""


async def serve(settings: dict[str, Any]) -> None:
    network = Network(**settings["network"])
    sink = SinkServer(network, _tls(settings["certificate"]) if network.tls else None)
    sink.start()
    store = _store(settings, sink)
    calls: list[str] = []
    bodies: list[int] = []
    async with AsyncExitStack() as stack:

        async def new_hub() -> str:
            # The hub keeps what was sent with Xet: only a new hub does not have it.
            await stack.aclose()
            shutil.rmtree(settings["root"], ignore_errors=True)
            hub = LocalHub(
                settings["root"],
                part_size=settings["part_size"],
                store=store,
                xet=settings["store"] == "xet",
                middlewares=[_reported(sink), _counted(calls, bodies, network.latency)],
            )
            return (await stack.enter_async_context(hub)).url

        endpoint = await new_hub()
        _say({"endpoint": endpoint})
        while command := await _next_line():
            if command["do"] == "reset":
                sink.reset(command["etags"], command["expected"])
                if isinstance(store, S3Tickets):
                    store.forget()
                elif settings["store"] == "xet":
                    endpoint = await new_hub()
                elif store is None:
                    shutil.rmtree(Path(settings["root"], "lfs", "objects"), ignore_errors=True)
                calls.clear()
                bodies.clear()
                _say({"endpoint": endpoint})
            elif command["do"] == "stats":
                output = {"calls": _tally(calls), "bytes_sent": sum(bodies), "cpu": _cpu()}
                _say({**sink.traffic.output(), **output})


def _store(settings: dict[str, Any], sink: SinkServer) -> BlobStore | None:
    """None is the embedded Hub's own, on the disk."""
    match settings["store"]:
        case "sink":
            return SinkTickets(sink, settings["part_size"])
        case "s3":
            return S3Tickets(settings["s3"], settings["bucket"], settings["part_size"])
        case _:
            return None


def _reported(sink: SinkServer) -> Middleware:
    """Tell those who ask how many bytes the sink has received."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == RECEIVED:
            return web.json_response(sink.traffic.received)
        return await handler(request)

    return middleware


def _counted(calls: list[str], bodies: list[int], latency: float) -> Middleware:
    """`bodies` are the last push's: each begins by asking how its files are to be stored, and of
    two in a row it is the second that is measured."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = request.match_info.route.name
        calls.append(route or request.method)
        if route == "preupload":
            bodies.clear()
        elif route in BODIES:
            bodies.append(request.content_length or 0)
        if latency:
            await asyncio.sleep(latency)
        return await handler(request)

    return middleware


def _tls(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _tally(calls: Sequence[str]) -> dict[str, int]:
    return {name: calls.count(name) for name in sorted(set(calls))}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _next_line() -> dict[str, Any] | None:
    """From a thread of its own: the end of stdin ends the server."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        line = sys.stdin.readline()
        loop.call_soon_threadsafe(future.set_result, line)

    threading.Thread(target=read, daemon=True).start()
    line = await future
    return json.loads(line) if line else None


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
