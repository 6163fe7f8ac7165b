"""One commit from a Ray cluster: tasks upload the files of their nodes, the driver commits and
shows the events of all of them.

Needs the extra `ray` on every node: `pip install 'asyncpush[ray]'`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from asyncpush.concurrency.task_groups import for_group, single_error
from asyncpush.errors import AsyncPushError, SourceError, WorkerLostError
from asyncpush.events import (
    Emitter,
    Event,
    FilesPlanned,
    HashProgress,
    Notice,
    PartProgress,
    PhaseChanged,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import (
    CARD_NAME,
    Receipt,
    Source,
    UploadResult,
    receipts_from_json,
    receipts_to_json,
)
from asyncpush.net.credentials import RESOURCE, Token, token_from_environment
from asyncpush.options import LOCAL, PushOptions, UploadConfig, default_cache_dir, endpoint_in_use
from asyncpush.protocol.addresses import target_of
from asyncpush.sources import collect, read_all
from asyncpush.uploader import Uploader

TASKS_PER_NODE = 2
"""Sources uploaded at once on one node: each keeps many parts in flight."""

CANCEL_GRACE = 5.0
"""Seconds that a cancelled task has to clean up before its process is ended."""

LAST_EVENTS_TIMEOUT = 5.0
"""Seconds for the last events of an upload to arrive."""

_STOP = -1

MakeSource: TypeAlias = Callable[[], "Source | Awaitable[Source]"]
SendEvents: TypeAlias = Callable[[int, Sequence[Event]], Any]


@dataclass(frozen=True, slots=True)
class NodeSource:
    """What one task uploads.

    Attributes:
        source: as for `push_to_hub`, with paths on the node; or a plain or async callable that
            returns such a source, called on the node.
        node_id: the node that has the files, as `ray.get_runtime_context().get_node_id()` says
            there; None lets Ray choose (for files that all nodes see, or callables).
        path_in_repo: where in the repo, instead of the options' `path_in_repo`.
    """

    source: Source | MakeSource
    node_id: str | None = None
    path_in_repo: str | None = None


async def push_distributed(
    repo_id: str,
    sources: Iterable[NodeSource | Source | MakeSource],
    options: PushOptions | None = None,
    *,
    token: Token | None = None,
    endpoint: str | None = None,
    config: UploadConfig | None = None,
    num_cpus: float = 0,
    max_retries: int = 3,
) -> UploadResult:
    """Upload files from the nodes of a Ray cluster that have them, and commit them once.

    Each source is uploaded by a Ray task, which returns receipts; the one commit is made and
    verified here. Ray starts a lost worker again, up to `max_retries` times; on the same node it
    continues where it stopped. Nothing is committed unless all sources are stored: the first
    failure cancels the rest. Progress of all is shown on this machine, as one bar and one stream of
    events. Several nodes may upload the same file, if its bytes are equal.

    Call it after `ray.init()`. The token, this machine's when none is given, travels to the workers
    through Ray. `num_cpus` is what each task reserves: 0 by default, so that uploads also begin
    while training holds every CPU.

    Args:
        repo_id: `namespace/name` (created when missing), or an address, as for `push_to_hub`.
        sources: what to upload, from which node: see `NodeSource`. A source or callable alone may
            be uploaded by any node. `on_every_node` makes one `NodeSource` for each node.
        options: as for `push_to_hub`. `timeout` limits the whole call, and a `model_card` is read
            on this machine.
        token, endpoint, config: as for `push_to_hub`; limits are for each task.

    Raises:
        ImportError: Ray is not installed. RuntimeError: `ray.init()` was not called.
        WorkerLostError: a worker was lost more than `max_retries` times, or its node is gone.
        AsyncPushError: what an upload or the commit failed with, as `push_to_hub` does; whatever
            a callable raised comes as Ray's `RayTaskError` of that kind.

    Example:
        >>> sources = on_every_node("/data/checkpoint")  # doctest: +SKIP
        >>> result = await push_distributed("me/model", sources)  # doctest: +SKIP
    """
    options, config = options or PushOptions(), config or UploadConfig()
    placed = [s if isinstance(s, NodeSource) else NodeSource(s) for s in sources]
    if not placed:
        raise SourceError(
            "no sources were given",
            suggestion="give at least one source: what each node has to upload",
        )
    tasks = _Tasks(num_cpus=num_cpus, max_retries=max_retries)
    async with Uploader(token, endpoint, config) as up:
        repo, options = target_of(repo_id, options, up.endpoint)
        there = _JobSettings(
            repo_id=repo.repo_id,
            options=replace(options, model_card=None, timeout=None),
            config=replace(config, progress="none", progress_callback=None, events=None),
            endpoint=up.endpoint,
            token=_token_for_workers(token, endpoint),
        )
        jobs = [there.job(number, source) for number, source in enumerate(placed)]
        if options.model_card is not None:
            jobs.append(there.card_job(len(jobs), await _read_card(options, config)))

        async def gather(events: Emitter) -> list[Receipt]:
            receipts = await tasks.run(jobs, events)
            return _without_duplicates(receipts, options)

        return await up.commit_gathered(repo.repo_id, gather, options)


def on_every_node(source: Source | MakeSource) -> list[NodeSource]:
    """One source for each node that is alive, such as the same folder on each of them."""
    return [NodeSource(source, node_id) for node_id in _nodes()]


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that a task needs to know. It travels through Ray, pickled."""

    number: int
    repo_id: str
    node_id: str | None
    source: Source | MakeSource
    options: PushOptions
    config: UploadConfig
    endpoint: str
    token: Token | None = field(repr=False)
    own_cache: bool
    """Whether the cache directory is the node's own default, rather than one that the driver
    named."""


@dataclass(frozen=True, slots=True)
class _JobSettings:
    """What the jobs of one push have in common."""

    repo_id: str
    options: PushOptions
    config: UploadConfig
    endpoint: str
    token: Token | None = field(repr=False)

    def job(self, number: int, source: NodeSource) -> _Job:
        options = self.options
        if source.path_in_repo is not None:
            options = replace(options, path_in_repo=source.path_in_repo)
        return self._job(number, source.node_id, source.source, options)

    def card_job(self, number: int, card: bytes) -> _Job:
        options = replace(self.options, path_in_repo="", allow_patterns=None, ignore_patterns=None)
        return self._job(number, None, {CARD_NAME: card}, options)

    def _job(
        self, number: int, node_id: str | None, source: Source | MakeSource, options: PushOptions
    ) -> _Job:
        return _Job(
            number=number,
            repo_id=self.repo_id,
            node_id=node_id,
            source=source,
            options=options,
            config=self.config,
            endpoint=self.endpoint,
            token=self.token,
            own_cache=Path(self.config.cache_dir) == default_cache_dir(),
        )


class _Tasks:
    """Runs jobs as Ray tasks. The first failure cancels the others."""

    def __init__(self, *, num_cpus: float, max_retries: int) -> None:
        self._ray = _running_ray()
        self._upload = self._ray.remote(num_cpus=num_cpus, max_retries=max_retries)(upload_on_node)
        self._on_any = asyncio.Semaphore(TASKS_PER_NODE * len(_nodes()))
        self._on_node: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(TASKS_PER_NODE)
        )

    async def run(self, jobs: Sequence[_Job], events: Emitter) -> list[Receipt]:
        """Returns their receipts, in the order of the jobs; raises the first failure."""
        receipts: dict[int, list[Receipt]] = {}
        relay = self._start_relay()

        async def one(job: _Job) -> None:
            slots = self._on_any if job.node_id is None else self._on_node[job.node_id]
            async with slots:
                receipts[job.number] = await self._run_one(job, relay)

        try:
            with single_error():
                async with anyio.create_task_group() as group:
                    group.start_soon(for_group(self._listen), relay, events)
                    async with anyio.create_task_group() as uploads:
                        for job in jobs:
                            uploads.start_soon(for_group(one), job)
                    relay.send.remote(_STOP, ())
        finally:
            self._ray.kill(relay)
        return [receipt for number in sorted(receipts) for receipt in receipts[number]]

    async def _run_one(self, job: _Job, relay: Any) -> list[Receipt]:
        place = "SPREAD" if job.node_id is None else _on(job.node_id)
        task = self._upload.options(scheduling_strategy=place).remote(job, relay)
        try:
            outcome = await task
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._stop(task)
            raise
        except self._ray.exceptions.RayTaskError:
            raise  # What a callable raised belongs to the user.
        except self._ray.exceptions.RayError as exc:
            raise _lost(job, exc) from exc
        if isinstance(outcome, AsyncPushError):
            raise outcome
        return receipts_from_json(outcome)

    async def _stop(self, task: Any) -> None:
        """Interrupt a task, which lets it clean up; if that does not help, end its process."""
        ended = asyncio.wrap_future(task.future())
        for force in (False, True):
            self._ray.cancel(task, force=force)
            await asyncio.wait([ended], timeout=CANCEL_GRACE)
            if ended.done():
                ended.exception()  # Retrieved: the failure that matters is raised already.
                return
        ended.cancel()

    def _start_relay(self) -> Any:
        here = self._ray.get_runtime_context().get_node_id()
        relay = self._ray.remote(Relay).options(
            num_cpus=0, scheduling_strategy=_on(here, soft=True), max_concurrency=100
        )
        return relay.remote()

    async def _listen(self, relay: Any, events: Emitter) -> None:
        merger = Merger(events)
        try:
            while True:
                for report in await relay.take.remote():
                    if report[0] == _STOP:
                        return
                    merger.on_report(report)
        except self._ray.exceptions.RayError as exc:
            # The uploads do not depend on it.
            events.emit(Notice(f"there is no more progress from the workers: {_first_line(exc)}"))


def upload_on_node(job: _Job, relay: Any) -> bytes | AsyncPushError:
    """The Ray task. Returns receipts as JSON, which is checked when it is read, or an error of this
    library: if it were raised, Ray would wrap it in an error of its own."""
    try:
        return receipts_to_json(asyncio.run(_upload(job, relay.send.remote)))
    except AsyncPushError as error:
        return error


async def _upload(job: _Job, send: SendEvents) -> list[Receipt]:
    outbox = Outbox(lambda events: send(job.number, events))
    config = replace(job.config, events=outbox.on_event)
    if job.own_cache:
        config = replace(config, cache_dir=default_cache_dir())
    reporting = asyncio.create_task(outbox.run())
    try:
        source: Any = job.source
        if callable(source):
            source = source()
            source = await source if inspect.isawaitable(source) else source
        async with Uploader(job.token, job.endpoint, config) as up:
            return await up.upload_files(job.repo_id, source, job.options)
    finally:
        reporting.cancel()
        if (last_events := outbox.flush()) is not None:
            with contextlib.suppress(Exception):  # The driver may have gone.
                await asyncio.wait_for(last_events, LAST_EVENTS_TIMEOUT)


async def _read_card(options: PushOptions, config: UploadConfig) -> bytes:
    async with collect(
        {},
        PushOptions(model_card=options.model_card),
        spool_dir=Path(config.cache_dir) / "spool",
        max_memory=config.max_memory,
    ) as collected:
        return await asyncio.to_thread(read_all, collected.files[0])


def _without_duplicates(receipts: Iterable[Receipt], options: PushOptions) -> list[Receipt]:
    """One receipt for each file that several nodes have with equal bytes (such as a configuration
    that every rank writes); for a model card, the one that was given. Files that differ are refused
    by the commit."""
    kept: dict[tuple[str, str], Receipt] = {}
    for receipt in receipts:
        if receipt.path_in_repo == CARD_NAME and options.model_card is not None:
            key = (CARD_NAME, "")  # The card's own job is the last.
        else:
            key = (receipt.path_in_repo, receipt.oid)
        kept[key] = receipt
    return list(kept.values())


def _token_for_workers(token: Token | None, endpoint: str | None) -> Token | None:
    if token is None and os.environ.get(RESOURCE):
        return None  # Trusted publishing: each worker gets a token of its own.
    found = token or token_from_environment()
    if found is None and endpoint_in_use(endpoint) == LOCAL:
        return "local"  # The embedded Hub accepts any token.
    return found


def _lost(job: _Job, exc: Exception) -> WorkerLostError:
    where = f"node {job.node_id}" if job.node_id is not None else "a node"
    return WorkerLostError(
        f"the upload of source {job.number} on {where} was lost: {_first_line(exc)}",
        suggestion="push again: what is stored is not sent again; nothing was committed",
    )


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0]


def _on(node_id: str, *, soft: bool = False) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=soft)


def _nodes() -> list[str]:
    return [node["NodeID"] for node in _running_ray().nodes() if node["Alive"]]


def _running_ray() -> Any:
    try:
        import ray
    except ImportError as exc:
        raise ImportError(
            "push_distributed needs Ray: pip install 'asyncpush[ray]'", name="ray"
        ) from exc
    if not ray.is_initialized():
        raise RuntimeError("there is no Ray cluster: call ray.init() first")
    return ray


Report: TypeAlias = tuple[int, Sequence[Event]]
"""The source that the events belong to, and the events."""

FLUSH_INTERVAL = 0.25
"""Seconds between two messages of one upload."""
WAITING_MOST = 10_000
"""Messages kept for a driver that does not fetch them; older ones are dropped. Only the display of
progress suffers."""
LONG_POLL = 1.0
"""Seconds for which a request waits for events."""

_OWN = (PushStarted, PushFinished, PushFailed)
"""Events that mark the start and end of one machine's upload, not of the push."""


class Outbox:
    """Collects the events of one upload. Progress events come hundreds of times a second: only the
    newest of each part is kept; all other events are sent as they came."""

    def __init__(self, send: Callable[[list[Event]], Any]) -> None:
        self._send = send
        self._events: list[Event] = []
        self._positions: dict[tuple[str, int], int] = {}  # Of a part: its position in the list.

    def on_event(self, record: Record) -> None:
        event = record.event
        match event:
            case PartProgress():
                self._newest((event.path, event.part_number), event)
            case HashProgress():
                self._newest((event.path, 0), event)
            case _ if not isinstance(event, _OWN):
                self._events.append(event)

    def _newest(self, key: tuple[str, int], event: Event) -> None:
        place = self._positions.setdefault(key, len(self._events))
        if place == len(self._events):
            self._events.append(event)
        else:
            self._events[place] = event

    def flush(self) -> Any:
        """Send what has been collected; returns what sending returned, or None when there was
        nothing."""
        events, self._events = self._events, []
        self._positions.clear()
        return self._send(events) if events else None

    async def run(self) -> None:
        """Flush from time to time, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL)
            self.flush()


class Relay:
    """Between the uploads, which send events, and the driver, which fetches them: a Ray actor."""

    def __init__(self) -> None:
        self._reports: deque[Report] = deque(maxlen=WAITING_MOST)
        self._news = asyncio.Event()

    async def send(self, number: int, events: Sequence[Event]) -> None:
        self._reports.append((number, events))
        self._news.set()

    async def take(self, timeout: float = LONG_POLL) -> list[Report]:
        """The events since the last call; waits a moment when there are none."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return []
        reports = list(self._reports)
        self._reports.clear()
        self._news.clear()
        return reports


class Merger:
    """Many uploads as one: plans are added up, the phase changes once, everything else passes
    unchanged."""

    def __init__(self, events: Emitter) -> None:
        self._events = events
        self._plans: dict[int, FilesPlanned] = {}
        self._uploading = False

    def on_report(self, report: Report) -> None:
        number, events = report
        for event in events:
            match event:
                case FilesPlanned():
                    self._plans[number] = event  # A restarted upload announces its plan again.
                    self._events.emit(self._total())
                case PhaseChanged():
                    self._on_phase(event)
                case _:
                    self._events.emit(event)

    def _on_phase(self, event: PhaseChanged) -> None:
        if event.phase == "uploading" and not self._uploading:
            self._uploading = True
            self._events.emit(event)

    def _total(self) -> FilesPlanned:
        plans = self._plans.values()
        return FilesPlanned(
            sum(plan.total_files for plan in plans), sum(plan.total_bytes for plan in plans)
        )
