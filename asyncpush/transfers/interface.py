"""The interface of a transfer, which stores the large files of a push, or those of a bucket.

To add a transfer, write a module with a `Transfer` and its `TransferFactory`, and register the
factory in `asyncpush.transfers`. Nothing outside `asyncpush.transfers` refers to a transfer's
module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from anyio.abc import TaskGroup

from asyncpush.concurrency.threads import PushThreads
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter
from asyncpush.journal import Journal, NullJournal
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, Receipt, Repo
from asyncpush.net.session import HubSession
from asyncpush.options import PushOptions, TransferName
from asyncpush.sources import OpenStream

if TYPE_CHECKING:
    from asyncpush.net.parts import PartSender


class TransferFailedError(AsyncPushError):
    """A transfer did not store its files, for a reason that does not concern other transfers: the
    next one is tried."""


class TransferUnavailableError(Exception):
    """A transfer cannot be used for this push; the text says why. It is always handled within the
    pipeline."""


class FileHasher(Protocol):
    """Computes the sha256 of files."""

    async def sha256_anew(self, file: FileSource, events: Emitter, threads: PushThreads) -> str:
        """The sha256 of the current bytes, regardless of what the journal has stored."""


class TransferContext(Protocol):
    """What a push provides to its transfers."""

    @property
    def repo(self) -> Repo: ...
    @property
    def options(self) -> PushOptions: ...
    @property
    def session(self) -> HubSession: ...
    @property
    def part_sender(self) -> Callable[[], Awaitable[PartSender]]: ...
    @property
    def hasher(self) -> FileHasher: ...
    @property
    def journal(self) -> Journal | NullJournal: ...
    @property
    def push_threads(self) -> PushThreads: ...
    @property
    def events(self) -> Emitter: ...
    @property
    def scope(self) -> str:
        """The repo and Hub that journal entries belong to."""


class Transfer(Protocol):
    """Stores files of one push. Many files are stored at the same time."""

    @property
    def route(self) -> TransferName:
        """Its name in receipts and events."""

    @property
    def label(self) -> str:
        """Its name in messages."""

    @property
    def reason(self) -> str:
        """Why it can be used, for the event `TransferChosen`."""

    @property
    def needs_oid(self) -> bool:
        """Whether `store` needs the file's sha256. If not, it is passed one only when the journal
        has it."""

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> Receipt | None:
        """Store one file.

        None means that the file is being stored and that `finish` returns its receipt. Raises
        `TransferFailedError` when another transfer should store the file, and any other error to
        fail the push.
        """

    async def finish(self, changed: dict[str, SourceChangedError]) -> Sequence[Receipt]:
        """Wait until the store has confirmed every file for which `store` returned None. Returns
        their receipts.

        Followed files that have changed get no receipt and are added to `changed`, by path in the
        repo. Raises as `store` does; then none of these files counts as stored.
        """

    async def abort(self) -> None:
        """Give up the files that are not finished. Does nothing when there are none."""


@runtime_checkable
class AnnouncedTransfer(Transfer, Protocol):
    """A transfer that has to ask the Hub about each object before it stores it. `store` returns
    every receipt."""

    async def announce(self, objects: Sequence[tuple[str, int]]) -> None:
        """Ask about objects, each its sha256 and its size, in as few calls as possible. They will
        soon be passed to `store`. Raises as `store` does."""

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> Receipt: ...


@runtime_checkable
class StreamTransfer(Transfer, Protocol):
    """A transfer that also stores streams of unknown size."""

    async def connect(self) -> None:
        """Make sure that the store can be reached before a stream is read, since a stream can be
        read only once. Raises `TransferFailedError`."""

    async def store_stream(self, stream: OpenStream) -> None:
        """Send a stream to its end; `finish` returns its receipt. Raises as `store` does, and
        whatever the stream raises."""


class TransferFactory(Protocol):
    """Opens a transfer for each push of one `Uploader`."""

    @property
    def route(self) -> TransferName:
        """The name of its transfers, as in `UploadConfig.transfer`."""

    @property
    def takes_streams(self) -> bool:
        """Whether its transfers are `StreamTransfer`s."""

    def unavailable_reason(self) -> str | None:
        """Why they cannot be used, as far as this is known without asking a Hub, or None."""

    async def open(self, ctx: TransferContext, group: TaskGroup) -> Transfer:
        """Open a transfer for one push; its background tasks run in `group`. Raises
        `TransferUnavailableError`."""

    async def close(self) -> None:
        """Release what the pushes share. Every push has ended by then."""


class BucketUpload(Protocol):
    """What one sync sends to the store of its bucket. It ends with `finish` or `abort`. Methods
    raise `TransferFailedError`; `SourceError` and `SourceChangedError` when a file is the cause."""

    @property
    def began(self) -> float:
        """When it began, in seconds since the epoch."""

    @property
    def files(self) -> Sequence[FileSource]:
        """The files added so far."""

    @property
    def bytes_sent(self) -> int:
        """What went over the network so far, also for files that have no receipt."""

    async def add_all(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
    ) -> None:
        """Send files. With `changed`, followed files that have changed are added there, by path in
        the repo, and not sent."""

    async def add_stream(self, stream: OpenStream) -> None:
        """Send a stream of unknown size as it arrives. Raises what the stream raises, too."""

    async def finish(
        self, *, changed: dict[str, SourceChangedError] | None = None
    ) -> Sequence[Receipt]:
        """Wait until the store has everything. Returns the receipts."""

    async def abort(self) -> None:
        """Stop. Does nothing after `finish`."""


class BucketTransfer(Protocol):
    """The store of one bucket, which finds content by its hash."""

    async def open_upload(self, *, brief: bool = False) -> BucketUpload:
        """Begin to send files. A `brief` upload is of few bytes, none of them from a stream. Raises
        `TransferFailedError`."""

    async def read(self, content_hash: str, size: int) -> bytes:
        """The content of a small file. Raises `TransferFailedError`."""


class BucketFactory(Protocol):
    """Opens the stores of buckets for one `Uploader`."""

    @property
    def route(self) -> TransferName:
        """Its name in receipts and events."""

    @property
    def label(self) -> str:
        """Its name in messages."""

    async def hash_files(
        self, files: Sequence[FileSource], changed: dict[str, SourceChangedError] | None = None
    ) -> dict[str, str]:
        """The hashes of files on disk by which a bucket finds their content, by path in the repo;
        nothing is sent. With `changed`, followed files that have changed are added there, and have
        no hash. Raises `TransferFailedError`."""

    async def open_bucket(self, ctx: TransferContext, *, write: bool) -> BucketTransfer:
        """Open the store of the bucket that `ctx.repo` names. There is no other store to fall back
        on: raises `AsyncPushError` when the settings exclude this one, `HubError` when the Hub does
        not grant access."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """The transfers of one `Uploader`."""

    for_repos: tuple[TransferFactory, ...]
    """The preferred one first. The last one works with every Hub: files go there when the others
    are unavailable or fail."""
    for_buckets: BucketFactory

    @property
    def take_streams(self) -> bool:
        """Whether streams of unknown size may be sent as they arrive, as far as is known."""
        return any(
            factory.takes_streams and factory.unavailable_reason() is None
            for factory in self.for_repos
        )

    async def close(self) -> None:
        """Release what the pushes share. Every push has ended by now."""
        for factory in self.for_repos:
            await factory.close()


@dataclass(frozen=True, slots=True)
class TransferLibrary:
    """A library that a transfer needs, and what is known of it on this machine.

    `distribution` is its name for pip, `module` its own, and `load` imports it. `switch` is the
    environment variable that disables the transfer. `missing_reason` says why it is not installed,
    and what to do. `folder` is where it keeps files of its own, if that is known.
    """

    route: TransferName
    label: str
    distribution: str
    module: str
    load: Callable[[], object]
    switch: str
    installed: bool
    disabled: bool
    missing_reason: str
    folder: Path | None = None
