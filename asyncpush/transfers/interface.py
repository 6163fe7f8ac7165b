"""The interface of a transfer, which stores the large files of a push.

To add a transfer, write a module with a `Transfer` and its `TransferFactory`, and register the
factory in `asyncpush.transfers`. Nothing in the pipeline refers to a transfer by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from anyio.abc import TaskGroup

from asyncpush.concurrency.threads import PushThreads
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter
from asyncpush.journal import Journal, NullJournal
from asyncpush.models import FileSource, Receipt, Repo
from asyncpush.net.parts import PartSender
from asyncpush.net.session import HubSession
from asyncpush.options import PushOptions, TransferName
from asyncpush.sources import OpenStream


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
    def sender(self) -> PartSender: ...
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

    async def open(self, ctx: TransferContext, group: TaskGroup) -> Transfer:
        """Open a transfer for one push; its background tasks run in `group`. Raises
        `TransferUnavailableError`."""

    async def close(self) -> None:
        """Release what the pushes share. Every push has ended by then."""
