"""A bucket in memory, with a Xet store beside it, each of whose calls may fail or be the last.

No socket and no thread of hf_xet: many syncs a second, so that random schedules can be tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import orjson

from asyncpush import PushOptions, SyncOptions, UploadConfig
from asyncpush.concurrency.task_groups import FairSlots, SharedSlots
from asyncpush.concurrency.threads import BatchedThreads, PushThreads
from asyncpush.errors import HubError
from asyncpush.events import Emitter
from asyncpush.journal import NullJournal
from asyncpush.models import CheckpointSet, FileSource, Receipt, Repo, SyncResult
from asyncpush.options import TransferName
from asyncpush.pipeline.checkpoint_sets import prune_sets
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.hashing import Hasher
from asyncpush.pipeline.sync import SyncRun
from asyncpush.protocol import buckets
from asyncpush.protocol.buckets import EMPTY_HASH
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.xet import parse_grant
from asyncpush.sources import CollectedSources, OpenStream, read_all
from asyncpush.transfers.interface import TransferContext, Transfers

T = TypeVar("T")

_THREADS = ThreadPoolExecutor(2)
_LANE = BatchedThreads(_THREADS, 2)
_PUSH_THREADS = PushThreads(_LANE, _THREADS, _LANE, _THREADS, _LANE)


class Killed(BaseException):
    """The process ends here: nothing of it runs any more but what Python does by itself."""


class FakeBucket:
    """`outcomes` says what becomes of each call, "done" when they have run out; `pauses`, for how
    many turns of the loop each call waits before it is done."""

    failure = HubError

    def __init__(self, outcomes: Iterator[str], pauses: Iterator[int] | None = None) -> None:
        self.files: dict[str, tuple[int, str]] = {}
        self.store: dict[str, bytes] = {EMPTY_HASH: b""}
        self.watch: Callable[[], None] = lambda: None
        self.outcomes = outcomes
        self.pauses = iter(()) if pauses is None else pauses
        self.dead: set[int] = set()

    async def outcome(self, process: int) -> str:
        for _ in range(next(self.pauses, 0)):
            await anyio.lowlevel.checkpoint()
        if process in self.dead:
            raise Killed
        outcome = next(self.outcomes, "done")
        if outcome == "killed":
            self.dead.add(process)
            raise Killed
        return outcome

    def marked(self, folder: str) -> dict[str, bytes] | None:
        """What stands below a folder with a marker; None where there is no marker."""
        found = {
            path.removeprefix(folder): self.store[xet_hash]
            for path, (_, xet_hash) in self.files.items()
            if path.startswith(folder)
        }
        return found if found.pop(".complete.json", None) is not None else None

    def answer(self, request: HubRequest) -> HubResponse:
        match request.call:
            case "bucket":
                value: Any = {"id": "me/runs"}
            case "xet_token":
                value = {"accessToken": "x", "exp": 1, "casUrl": "local://store"}
            case "bucket_paths_info":
                assert isinstance(request.body, bytes)
                paths = orjson.loads(request.body)["paths"]
                value = [self._row(path) for path in paths if path in self.files]
            case "bucket_tree":
                value = [self._row(path) for path in self.files]
            case "bucket_batch":
                assert isinstance(request.body, bytes)
                for line in request.body.splitlines():
                    self._do(orjson.loads(line))
                value = {"success": True, "failed": []}
            case _:
                raise AssertionError(request.call)
        return HubResponse(200, {}, orjson.dumps(value))

    def _do(self, row: dict[str, Any]) -> None:
        if row["type"] == "deleteFile":
            self.files.pop(row["path"], None)
        else:
            content = self.store[row["xetHash"]]
            self.files[row["path"]] = len(content), row["xetHash"]

    def _row(self, path: str) -> dict[str, Any]:
        size, xet_hash = self.files[path]
        return {"type": "file", "path": path, "size": size, "xetHash": xet_hash}


class _Session:
    """What a sync asks: twice at most, as the retry loop would."""

    endpoint = "http://127.0.0.1:1"

    def __init__(self, bucket: FakeBucket, process: int) -> None:
        self.config = UploadConfig(initial_backoff_ms=0.001)
        self.token = SimpleNamespace(find=self._token, known="", refreshable=False)
        self._bucket = bucket
        self._process = process

    async def _token(self) -> str:
        return "hf_x"

    async def ask(
        self,
        request: HubRequest,
        parse: Callable[[HubResponse], T],
        events: Emitter,
        *,
        reconcile: Callable[[HubError], Awaitable[T | None]] | None = None,
        **others: object,
    ) -> T:
        failure: HubError | None = None
        for _ in range(2):
            if failure is not None and reconcile is not None:
                done = await reconcile(failure)
                if done is not None:
                    return done
            outcome = await self._bucket.outcome(self._process)
            if outcome == "refused":
                raise HubError("not today", status=403)
            if outcome == "lost":
                failure = HubError("lost", status=504, retryable=True)
                continue
            response = self._bucket.answer(request)
            self._bucket.watch()
            if outcome == "done":
                return parse(response)
            if outcome == "done, killed":
                self._bucket.dead.add(self._process)
                raise Killed
            failure = HubError("lost", status=504, retryable=True)
        assert failure is not None
        raise failure


class _Upload:
    began = 0.0
    bytes_sent = 0

    def __init__(self, bucket: FakeBucket) -> None:
        self._bucket = bucket
        self.files: list[FileSource] = []

    async def add_all(self, files: Sequence[FileSource], changed: object = None) -> None:
        self.files += files

    async def finish(self, *, changed: object = None) -> list[Receipt]:
        receipts = []
        for file in self.files:
            content = read_all(file)
            xet_hash = hashlib.sha256(content).hexdigest()
            self._bucket.store[xet_hash] = content
            receipts.append(Receipt(file.path_in_repo, file.size, "", "xet", xet_hash=xet_hash))
        return receipts

    async def add_stream(self, stream: OpenStream) -> None:
        raise AssertionError("no test syncs streams to this bucket")

    async def abort(self) -> None: ...


class _Store:
    """The store of the bucket, and the factory that opens it."""

    route: TransferName = "xet"
    label = "Xet"

    def __init__(self, bucket: FakeBucket) -> None:
        self._bucket = bucket

    async def open_bucket(self, ctx: TransferContext, *, write: bool) -> _Store:
        request = buckets.xet_token_request(ctx.repo, write=write)
        await ctx.session.ask(request, parse_grant, ctx.events)
        return self

    async def open_upload(self, *, brief: bool = False) -> _Upload:
        return _Upload(self._bucket)

    async def hash_files(
        self, files: Sequence[FileSource], changed: object = None
    ) -> dict[str, str]:
        return {file.path_in_repo: hashlib.sha256(read_all(file)).hexdigest() for file in files}

    async def read(self, content_hash: str, size: int) -> bytes:
        return self._bucket.store[content_hash]


_processes = iter(range(1 << 60))


def _context(bucket: FakeBucket, options: PushOptions) -> PushContext:
    """That of one process, which lives until it is killed."""
    session: Any = _Session(bucket, next(_processes))
    journal = NullJournal()
    nothing: Any = None
    return PushContext(
        repo=Repo("me/runs", "bucket"),
        options=options,
        push_id="push-1",
        session=session,
        part_sender=nothing,
        hasher=Hasher(journal),
        transfers=Transfers(for_repos=(), for_buckets=_Store(bucket)),
        journal=journal,
        push_threads=_PUSH_THREADS,
        events=Emitter(),
        slots=FairSlots(SharedSlots(1), most=None),
    )


async def sync_to(
    bucket: FakeBucket, files: dict[str, bytes], folder: str, options: SyncOptions
) -> SyncResult:
    """One sync, as one process would do it."""
    sources = [FileSource.of_bytes(folder + name, data) for name, data in files.items()]
    run = SyncRun(_context(bucket, options.as_push(folder)), options)
    return await run.run(CollectedSources(tuple(sources)))


async def prune(bucket: FakeBucket, folder: str, keep: int) -> list[CheckpointSet]:
    """One removal of older sets, as one process would do it."""
    return await prune_sets(_context(bucket, PushOptions()), folder, keep)
