"""Opening a runtime: threads, session, journal, and the embedded Hub where that is asked for.

Everything that takes long to import hangs on this module alone: the front door imports it in a
thread when it is first used.
"""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from asyncpush.errors import AsyncPushError, HubError, os_reason
from asyncpush.events import Emitter, Listener, TracingListener
from asyncpush.journal import Journal, NullJournal
from asyncpush.listeners.bars import preload
from asyncpush.listeners.jsonl import JsonlWriter
from asyncpush.listeners.logs import LogListener, configure_from_env
from asyncpush.net.credentials import Token, TokenSource, token_from_environment
from asyncpush.net.login import Login
from asyncpush.net.session import API_CALLS_IN_FLIGHT, HubSession
from asyncpush.options import LOCAL, EventSink, UploadConfig, event_sinks, is_true
from asyncpush.outputs import JOURNAL, SPOOL, XET, Announcement, library_logger
from asyncpush.protocol import urls
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.runtime import Runtime
from asyncpush.threads import SessionThreads, in_thread, in_thread_anyway
from asyncpush.transfers.xet import MISSING, cache_folder, is_installed, why_not
from asyncpush.workers import ENOUGH_DESCRIPTORS, descriptors_left, each_affordable

if TYPE_CHECKING:
    from asyncpush.localhub import LocalHub

T = TypeVar("T")


logger = library_logger("session")

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@asynccontextmanager
async def open_runtime(
    config: UploadConfig, endpoint: str, token: Token | None
) -> AsyncIterator[Runtime]:
    """A runtime for one Hub, with all that it opens; closed in reverse order."""
    configure_from_env()
    if config.transfer == "xet" and not is_installed():
        raise ImportError(f"transfer='xet': {MISSING}", name="hf_xet")
    left = descriptors_left()
    calls_in_flight = API_CALLS_IN_FLIGHT
    if left is not None and left < ENOUGH_DESCRIPTORS:
        config = sparing(config, left)
        calls_in_flight = min(calls_in_flight, each_affordable(left))
        _import_what_may_be_needed(config)
    async with AsyncExitStack() as stack:
        session_threads = SessionThreads(stack, hash_workers=config.hash_workers)
        threads = session_threads.journal
        await in_thread(threads, lambda: preload(config.progress))
        if endpoint != LOCAL:
            _check_online(endpoint)
        cache_dir = Path(config.cache_dir)
        stack.enter_context(Announcement(cache_dir / "journal", JOURNAL))
        stack.enter_context(Announcement(cache_dir / "spool", SPOOL))
        if is_installed() and (folder := cache_folder()) is not None:
            stack.enter_context(Announcement(folder, XET))
        local = endpoint == LOCAL
        if local:
            xet = config.transfer == "xet"
            endpoint = await _start_local_hub(stack, cache_dir, threads, xet=xet)
            if token is None:  # the embedded Hub takes any, and renews none
                token = token_from_environment() or "local"
        endpoint = urls.check_endpoint(endpoint)
        listeners = _listeners(config, stack)
        tracing = next((each for each in listeners if isinstance(each, TracingListener)), None)
        tokens = TokenSource(token, endpoint=endpoint)
        session = HubSession(
            endpoint,
            tokens,
            config,
            direct=local,
            trace_headers=tracing.trace_headers if tracing is not None else None,
            calls_in_flight=calls_in_flight,
        )
        stack.push_async_callback(session.close)
        tokens.login = _login(session, [LogListener().on_event, *listeners])
        journal: Journal | NullJournal = NullJournal()
        if config.resume:
            journal = await in_thread(
                threads, lambda: Journal.open(cache_dir), discard=Journal.close
            )
        # The last hashes are written, and the log is emptied: that may take a moment.
        stack.push_async_callback(in_thread_anyway, threads, journal.close)
        runtime = Runtime(
            session,
            config,
            journal,
            session_threads,
            listeners,
        )
        stack.push_async_callback(runtime.xet.close)
        await stack.enter_async_context(runtime.sharing_the_host())
        yield runtime


def sparing(config: UploadConfig, left: int) -> UploadConfig:
    """The settings with so few files, parts and calls at once as there are descriptors for: each
    needs one, and some are for the journal, for reading ahead and for the rest of the program."""
    each = each_affordable(left)
    fewer = replace(
        config,
        max_concurrent_files=min(config.max_concurrent_files, each),
        max_concurrent_parts=min(config.max_concurrent_parts, each),
        hash_workers=min(config.hash_workers, each),
    )
    if fewer != config:
        logger.warning(
            "only %s more files and sockets can be opened: %s files and %s parts at once; raise the"
            " limit (`ulimit -n`) for more",
            left,
            fewer.max_concurrent_files,
            fewer.max_concurrent_parts,
        )
    return fewer


def _import_what_may_be_needed(config: UploadConfig) -> None:
    """Now, while its files can still be opened."""
    modules = ["tenacity", "encodings.idna"]
    if why_not(config) is None:
        modules.append("hf_xet")
    try:
        for module in modules:
            import_module(module)
    except OSError as exc:
        raise AsyncPushError(f"the library cannot be loaded: {os_reason(exc)}") from exc


def _check_online(endpoint: str) -> None:
    """Nothing is sent to other machines where the environment forbids it."""
    where = urls.check_endpoint(endpoint)
    if is_true(*_OFFLINE) and not urls.is_loopback(urls.origin(where)[1]):
        names = [name for name in _OFFLINE if is_true(name)]
        raise HubError(
            f"{names[0]} is set: nothing can be pushed",
            url=where,
            suggestion=f"unset {' and '.join(names)}, or push to a Hub on this machine"
            " (endpoint='local', --endpoint local)",
        )


def _login(session: HubSession, listeners: Sequence[Listener]) -> Login:
    """What renews the tokens of a session: not for one push, though it is the first that waits."""
    emit = Emitter(listeners, push_id=uuid.uuid4().hex)

    async def ask(
        request: HubRequest,
        parse: Callable[[HubResponse], T],
        *,
        retry: bool,
        accept: Callable[[HubResponse], bool],
    ) -> T:
        return await session.ask(request, parse, emit, retry=retry, accept=accept)

    return Login(ask, session.endpoint)


async def _start_local_hub(
    stack: AsyncExitStack, cache_dir: Path, threads: Executor, *, xet: bool
) -> str:
    """The embedded Hub in a thread of its own, so that git never holds up the caller's loop. Its
    store is next door, where cutting files into chunks costs more than sending them: it offers Xet
    to those alone who ask for it."""
    from asyncpush.localhub import serve_in_thread

    root = cache_dir / "hub"

    def start() -> tuple[AbstractContextManager[LocalHub], LocalHub]:
        # The same port each time, if it is free: the journal's URLs of an interrupted push name it.
        for port in (_usual_port(root), 0):
            server = serve_in_thread(root, port=port, xet=xet)
            try:
                return server, server.__enter__()
            except OSError:
                if port == 0:
                    raise
        raise AssertionError("one of two ports is tried last")  # pragma: no cover

    # Not in a thread that has stepped back: those that it starts would inherit that.
    with ThreadPoolExecutor(1, "asyncpush-start-hub") as starter:
        server, hub = await in_thread(starter, start)

    async def stop() -> None:
        await in_thread_anyway(threads, lambda: server.__exit__(None, None, None))

    stack.push_async_callback(stop)
    return hub.url


def _usual_port(root: Path) -> int:
    """A port of its own for each folder that a hub keeps, outside the range of passing ports."""
    return 20_000 + zlib.crc32(os.fsencode(root.absolute())) % 10_000


def _listeners(config: UploadConfig, stack: AsyncExitStack) -> list[Listener]:
    return [_listener(sink, stack) for sink in event_sinks(config.events)]


def _listener(sink: EventSink, stack: AsyncExitStack) -> Listener:
    if not isinstance(sink, str | os.PathLike):
        return sink
    writer = JsonlWriter(sink)
    stack.callback(writer.close)
    return writer.on_event
