"""Pushes the checkpoints of a training run, one after another, while the training continues."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from types import TracebackType
from typing import Literal, Self, get_args

import anyio

from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import AsyncPushError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Source, SyncResult, UploadProgress, UploadResult
from asyncpush.options import PushOptions, SyncOptions
from asyncpush.own_files import library_logger
from asyncpush.protocol.addresses import bucket_of, names_bucket
from asyncpush.sources.paths import check_path_in_repo, folder_prefix
from asyncpush.sources.snapshot import Snapshot, SnapshotChoice, copy_in_memory
from asyncpush.uploader import PushHandle, SyncHandle, Uploader

logger = library_logger("checkpoints")

Policy = Literal["latest", "all"]
OnError = Literal["wait", "cancel"]
Status = Literal["pushed", "skipped", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class CheckpointOutcome:
    """The outcome of one checkpoint.

    Attributes:
        name: its commit message, or else the name of the source.
        status: "pushed", "skipped" (replaced by a newer one), "failed" or "cancelled".
        result: the result of a push to a repo.
        error: the error, if it failed.
        synced: the result of a push to a bucket.
        pruned: names of the older checkpoints that were then removed from the bucket.

    Example:
        >>> outcome = CheckpointOutcome("step 100", "skipped")
        >>> outcome.name, outcome.status, outcome.error
        ('step 100', 'skipped', None)
    """

    name: str
    status: Status
    result: UploadResult | None = None
    error: Exception | None = None
    synced: SyncResult | None = None
    pruned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """The outcomes of all checkpoints so far, in the order in which they ended.

    Example:
        >>> ends = CheckpointOutcome("1", "skipped"), CheckpointOutcome("2", "pushed")
        >>> report = CheckpointReport(ends)
        >>> print(report)
        1 pushed, 1 skipped
        >>> [outcome.name for outcome in report.having("skipped")]
        ['1']
    """

    outcomes: tuple[CheckpointOutcome, ...] = ()

    def __str__(self) -> str:
        counts = [(status, len(self.having(status))) for status in get_args(Status)]
        return ", ".join(f"{count} {status}" for status, count in counts if count) or "none"

    def having(self, status: Status) -> tuple[CheckpointOutcome, ...]:
        """The outcomes with this status."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


@dataclass(eq=False, slots=True)
class _Checkpoint:
    name: str
    source: Source
    options: PushOptions | SyncOptions
    named: bool = False
    """Whether the user has given the name."""
    snapshot: Snapshot | None = None
    handle: PushHandle | SyncHandle | None = field(default=None, repr=False)


class CheckpointPusher:
    """Pushes checkpoints to one repo or bucket in the background of a training loop, one at a time.

        async with Uploader() as up, CheckpointPusher(up, "me/model") as pusher:
            for step in range(1000):
                await train_one_step()
                if step % 100 == 0:
                    await pusher.push(f"ckpt-{step}/")  # returns while it uploads

    Nothing is lost silently: each checkpoint has an outcome in `report` and is passed to
    `on_outcome`. It is logged as a warning when it is skipped, and as an error when it fails.
    Leaving the block waits for the remaining checkpoints, and raises failures that were neither
    passed to `on_outcome` nor returned by `flush`.

    In a bucket, `CheckpointPusher(up, "hf://buckets/me/runs/run-7", keep=3)`, each checkpoint gets
    its own folder below the address. Readers can tell whether it is complete: its marker,
    `.complete.json`, is written after everything else has been verified, and
    `Uploader.checkpoints_in` lists the complete sets. A checkpoint replaces an earlier one of the
    same name completely. Until the new one is complete, readers see none of that name, and then it
    counts as the newest. So a folder that is pushed again and again, such as "out/", needs a new
    `name` each time; if it has none, the push has a warning.

    Args:
        uploader: an open `Uploader`; the pushes share its session.
        repo_id: the destination: a repo id, or an address as for `push_to_hub` or `sync`.
        options: the default options of each push: `PushOptions` (where `whole` is always on), or
            `SyncOptions` for a bucket (where `complete_marker`, `renew_marker` and `delete` are).
        keep: in a bucket, how many complete checkpoints to keep, 1 or more. Older ones are removed
            after each push; incomplete ones are never removed. None keeps all. A removal that
            fails becomes a warning of the push. All complete checkpoints below the address count,
            by when they were completed, whoever pushed them: of two runs that share an address,
            one may remove the other's. Give each run an address of its own, or a larger `keep`.
        policy: "latest": while one is being pushed, only the newest of the waiting ones is kept.
            "all": each one is pushed, in order.
        max_waiting: with "all", how many may wait; beyond that, `push` waits for room.
        snapshot: push a copy of the files as they are when `push` returns, so that a trainer may
            overwrite or delete them. True makes reflinks where the file system supports them, else
            copies. "hardlink" makes hard links, which protect from replacing files but not from
            writing into them (such a push fails; it never commits wrong bytes). They are in
            `.asyncpush-snapshots`, next to the source, until they are pushed. `Tensors`, alone or
            in a mapping, are copied in host memory, unless they are a copy already.
        on_outcome: called in the event loop with each `CheckpointOutcome`.
        on_error: what to do with the remaining checkpoints when an error leaves the block: "wait"
            pushes them (a checkpoint is most valuable after a crash), "cancel" does not.
            Cancellation always cancels them.

    Example:
        >>> from asyncpush import UploadConfig
        >>> async def main():
        ...     quiet = UploadConfig(progress="none")
        ...     async with (
        ...         Uploader(endpoint="local", config=quiet) as up,
        ...         CheckpointPusher(up, "me/run", policy="all") as pusher,
        ...     ):
        ...         for step in (100, 200):
        ...             await pusher.push({"step.txt": str(step).encode()})
        ...         return await pusher.flush()
        >>> print(asyncio.run(main()))
        2 pushed
    """

    def __init__(
        self,
        uploader: Uploader,
        repo_id: str,
        options: PushOptions | SyncOptions | None = None,
        *,
        keep: int | None = None,
        policy: Policy = "latest",
        max_waiting: int = 4,
        snapshot: SnapshotChoice = False,
        on_outcome: Callable[[CheckpointOutcome], object] | None = None,
        on_error: OnError = "wait",
    ) -> None:
        for name, value, choices in (
            ("policy", policy, get_args(Policy)),
            ("snapshot", snapshot, (False, True, "hardlink")),
            ("on_error", on_error, get_args(OnError)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {value!r}")
        if not isinstance(max_waiting, int) or isinstance(max_waiting, bool) or max_waiting < 1:
            raise ValueError(f"max_waiting must be a whole number, 1 or more, not {max_waiting!r}")
        if on_outcome is not None and not callable(on_outcome):
            raise ValueError(f"on_outcome must be callable, or None, not {on_outcome!r}")
        self.repo_id = repo_id
        self._uploader = uploader
        self._in_bucket = names_bucket(repo_id)
        if keep is not None and not self._in_bucket:
            raise ValueError("keep is only for buckets: a repo keeps all of its commits")
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise ValueError(f"keep must be a whole number of at least 1, or None, not {keep!r}")
        self._keep_sets = keep
        self._options = self._checked(options)
        self._policy = policy
        self._max_waiting = max_waiting
        self._snapshot = snapshot
        self._on_outcome = on_outcome
        self._on_error = on_error
        self._waiting: deque[_Checkpoint] = deque()
        self._room = asyncio.Event()
        self._current: _Checkpoint | None = None
        self._busy: set[asyncio.Future[None]] = set()  # the running push, and removals of snapshots
        self._outcomes: list[CheckpointOutcome] = []
        self._unreported: list[Exception] = []
        self._folders: set[str] = set()  # those that this pusher has filled in the bucket

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wait = exc is None or (self._on_error == "wait" and isinstance(exc, Exception))
        try:
            if wait:
                await self.drained()
        finally:
            self.cancel()
            with anyio.CancelScope(shield=True):
                await self.drained()
        if exc is None:
            self.raise_unreported()

    @property
    def report(self) -> CheckpointReport:
        """The outcomes of the checkpoints so far."""
        return CheckpointReport(tuple(self._outcomes))

    @property
    def progress(self) -> UploadProgress | None:
        """The latest progress of the running push, if there is one."""
        handle = self._current.handle if self._current else None
        return None if handle is None else handle.progress

    def _checked(self, options: PushOptions | SyncOptions | None) -> PushOptions | SyncOptions:
        if options is None:
            options = SyncOptions() if self._in_bucket else PushOptions()
        if not isinstance(options, SyncOptions if self._in_bucket else PushOptions):
            wanted = "SyncOptions" if self._in_bucket else "PushOptions"
            raise ValueError(f"{self.repo_id} takes {wanted}, not {type(options).__name__}")
        if options.dry_run:
            raise ValueError(
                "dry_run cannot be used for checkpoints: none would be pushed, but older ones"
                " removed"
            )
        if isinstance(options, SyncOptions):
            return replace(options, complete_marker=True, renew_marker=True, delete=True)
        return replace(options, whole=True)

    async def push(
        self,
        source: Source,
        options: PushOptions | SyncOptions | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Queue a checkpoint to be pushed.

        Reports call it `name`, which defaults to the commit message, or else the name of the
        source. In a bucket, `name` is the name of the checkpoint's folder; a source that is not a
        file or folder must be given one. Raises `ValueError` for a name that no folder can have,
        and for options of the wrong type.

        Returns at once, except that it waits for the snapshot if one is taken, and for room in the
        queue with the policy "all". Any problem with the source becomes the checkpoint's outcome.
        """
        item = _Checkpoint("", source, self._options if options is None else self._checked(options))
        item.name, item.named = self._name(item, name), name is not None
        while self._policy == "all" and len(self._waiting) >= self._max_waiting:
            self._room.clear()
            await self._room.wait()
        if self._snapshot:
            try:
                await self._take_snapshot(item)
            except Exception as exc:
                self._end(item, "failed", error=exc)
                return
        if self._policy == "latest":
            self._drop_waiting("skipped")
        self._waiting.append(item)
        self._next()

    async def flush(self) -> CheckpointReport:
        """Wait until all checkpoints have been pushed. Cancelling this does not cancel the
        pushes."""
        await self.drained()
        self.discard_unreported()
        return self.report

    def discard_unreported(self) -> None:
        """Called when the user has received the report: failures so far are not raised any more."""
        self._unreported.clear()

    def cancel(self) -> None:
        """Stop the running push and drop the waiting ones. Returns at once; see `flush`."""
        self._drop_waiting("cancelled")
        if self._current is not None and self._current.handle is not None:
            self._current.handle.cancel()

    def raise_unreported(self) -> None:
        """Raise the failures that were neither passed to `on_outcome` nor returned by `flush`."""
        failures, self._unreported = self._unreported, []
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"{len(failures)} checkpoints were not pushed", failures)

    async def drained(self) -> None:
        """Wait until nothing is waiting, running, or to be removed."""
        while self._busy:
            await asyncio.wait(self._busy)

    def _next(self) -> None:
        while self._current is None and self._waiting:
            item = self._waiting.popleft()
            self._room.set()
            try:
                item.handle = self._begin(item)
            except Exception as exc:  # for example an invalid id, or a closed uploader
                self._end(item, "failed", error=exc)
            else:
                self._current = item
                name = f"checkpoint {item.name}"
                self._keep(asyncio.create_task(self._follow(item, item.handle), name=name))

    def _begin(self, item: _Checkpoint) -> PushHandle | SyncHandle:
        if isinstance(item.options, PushOptions):
            return self._uploader.start_push(self.repo_id, item.source, item.options)
        bucket, path = bucket_of(self.repo_id, self._uploader.endpoint)
        address = f"hf://{bucket.git_path}/{folder_prefix(path)}{item.name}/"
        return self._uploader.start_sync(item.source, address, item.options)

    def _name(self, item: _Checkpoint, name: str | None) -> str:
        if isinstance(item.options, PushOptions):
            return name or item.options.commit_message or _name_of(item.source)
        if name is None and not isinstance(item.source, str | os.PathLike):
            raise ValueError("give the checkpoint a name, such as push(source, name='step-1000')")
        name = _name_of(item.source) if name is None else name
        why = check_path_in_repo(name) if isinstance(name, str) and name else ""
        if why == "" or any(slash in name for slash in "/\\"):
            why = "must be the name of one folder"
        if why is not None:
            raise ValueError(f"the checkpoint's name {name!r} {why}")
        return name

    async def _prune(self, result: SyncResult) -> tuple[SyncResult, tuple[str, ...]]:
        """Remove older checkpoints. Returns the result, with a warning if that failed, and the
        names of those that were removed."""
        if self._keep_sets is None:
            return result, ()
        try:
            gone = await self._uploader.prune_checkpoints(self.repo_id, keep=self._keep_sets)
        except (AsyncPushError, RuntimeError) as exc:
            warning = f"older checkpoints were not removed: {exc}"
            logger.warning("%s", warning)
            return replace(result, warnings=(*result.warnings, warning)), ()
        return result, tuple(each.name for each in gone)

    def _noting_replaced(self, item: _Checkpoint, result: SyncResult) -> SyncResult:
        """The result, with a warning if the checkpoint has replaced an earlier one because it was
        given no name of its own."""
        replaced = item.name in self._folders and bool(result.files_uploaded)
        self._folders.add(item.name)
        if not replaced or item.named:
            return result
        warning = (
            f"this checkpoint replaced the earlier one named {item.name!r}, after its folder: give"
            " each one a name to keep both, such as push(source, name='step-1000')"
        )
        logger.warning("%s", warning)
        return replace(result, warnings=(*result.warnings, warning))

    async def _follow(self, item: _Checkpoint, handle: PushHandle | SyncHandle) -> None:
        try:
            result = await handle
        except asyncio.CancelledError:
            self._end(item, "cancelled")
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the loop is ending, not only this push
                self._drop_waiting("cancelled")
                raise
        except Exception as exc:
            self._end(item, "failed", error=exc)
        else:
            if isinstance(result, SyncResult):
                try:
                    synced, pruned = await self._prune(result)
                except asyncio.CancelledError:
                    self._end(item, "pushed", synced=result)
                    raise
                synced = self._noting_replaced(item, synced)
                self._folders.difference_update(pruned)
                self._end(item, "pushed", synced=synced, pruned=pruned)
            else:
                self._end(item, "pushed", result=result)
        finally:
            self._current = None
            self._next()

    def _keep(self, job: asyncio.Future[None]) -> None:
        self._busy.add(job)
        job.add_done_callback(self._busy.discard)

    def _drop_waiting(self, status: Status) -> None:
        while self._waiting:
            self._end(self._waiting.popleft(), status)
        self._room.set()

    async def _take_snapshot(self, item: _Checkpoint) -> None:
        source, stopped, options = item.source, threading.Event(), item.options
        choice = options.as_push("") if isinstance(options, SyncOptions) else options
        with ThreadPoolExecutor(1, "asyncpush-snapshot") as thread:
            if not isinstance(source, str | os.PathLike):
                item.source = await in_thread(thread, lambda: copy_in_memory(source))
                return
            item.snapshot = await in_thread(
                thread,
                lambda: Snapshot(source, choice, self._snapshot, stopped),
                on_cancel=stopped.set,
                discard=Snapshot.remove,
            )
        item.source = item.snapshot.path

    def _end(
        self,
        item: _Checkpoint,
        status: Status,
        *,
        result: UploadResult | None = None,
        error: Exception | None = None,
        synced: SyncResult | None = None,
        pruned: tuple[str, ...] = (),
    ) -> None:
        if item.snapshot is not None:  # in a thread: removing many gigabytes takes time
            self._keep(asyncio.get_running_loop().run_in_executor(None, item.snapshot.remove))
        outcome = CheckpointOutcome(
            item.name, status=status, result=result, error=error, synced=synced, pruned=pruned
        )
        # The receipts of a long run would use more and more memory.
        kept = None if result is None else replace(result, receipts=())
        self._outcomes.append(replace(outcome, result=kept))
        if error is not None:
            logger.error("checkpoint %r was not pushed: %s", item.name, error)
            if self._on_outcome is None:
                self._unreported.append(error)
        elif status != "pushed":
            why = ": a newer one replaced it" if status == "skipped" else ""
            logger.warning("checkpoint %r was %s%s", item.name, status, why)
        if self._on_outcome is not None:
            try:
                self._on_outcome(outcome)
            except Exception:
                logger.exception("on_outcome failed for checkpoint %r", item.name)


def _name_of(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.path.basename(os.fspath(source).rstrip("/\\")) or os.fspath(source)
    return type(source).__name__
