"""Stores one object with LFS: actions, parts, completion, verify, and then the receipt.

The smallest unit is retried: a part before its object, an object before the push. An upload whose
URLs no longer work (expired, refused, or completed by a call whose answer was lost) is replaced by
a new one. The batch call for it also reports whether the object is stored already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import PushThreads, in_thread, in_thread_anyway
from asyncpush.errors import AsyncPushError, HubError, IntegrityError, RetriesExhaustedError
from asyncpush.events import (
    Emitter,
    FileStored,
    Notice,
    PartProgress,
    PartStored,
    TransferStarted,
    Waiting,
)
from asyncpush.journal import Claim, Journal, NullJournal, OpenUpload
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import BytesSource, FileSource, Part, Receipt
from asyncpush.net.bodies import PartContent
from asyncpush.net.parts import PartSender, SentPart
from asyncpush.net.retry import Attempt, TryAgainError
from asyncpush.net.session import HubSession
from asyncpush.protocol import lfs
from asyncpush.protocol.failures import check_done, is_upload_void
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.protocol.lfs import (
    BasicUpload,
    LfsActions,
    LfsObject,
    MultipartUpload,
    strong,
)
from asyncpush.sources import Reader

EVENTS_AT_ONCE = 100
"""How many parts of a resumed upload to report in one step of the event loop: there may be
10,000."""

CLAIM_POLL = 0.2
"""Seconds between checks of an object that another process has claimed."""

CLAIM_TIMEOUT = 300.0
"""Seconds to wait for a process that has claimed an object but stores no further part of it. It may
be stopped (SIGSTOP, a debugger, a frozen container)."""

SHORTEST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds that one `Waiting` event announces of the wait for another process."""

PROGRESS_POLL = 5.0
"""Seconds between checks of the progress that the process holding a claim makes."""


SYNC_TIMEOUT = 0.1
"""Seconds that a stored part waits for the journal to be synced to disk, which usually takes
milliseconds. After that the next part is sent anyway; if the process is then killed, this part is
sent again."""


@dataclass(slots=True)
class Sending:
    """An object being sent: the file, its name in events, and the bytes sent for it so far."""

    file: FileSource
    item: LfsObject
    reader: Reader
    events: Emitter
    begun: OpenUpload | None
    """An upload that an earlier push left unfinished."""
    journal: Journal | NullJournal
    """Where stored parts are recorded; a `NullJournal` when another process has claimed the
    object."""
    bytes_sent: int = 0
    refused_by: str | None = None
    """The URL of the LFS verify call that did not find the object as it was sent."""
    contradicted: bool = False
    """The store has refused these bytes under this oid, and the file has not been hashed again
    since."""

    def count(self, sent: int) -> None:
        """Count bytes that were sent, useful or not."""
        self.bytes_sent += sent


class StaleHashError(Exception):
    """The hash of the file's bytes is `oid`, not the one it was to be stored under: the remembered
    hash is out of date. Always handled within the pipeline."""

    def __init__(self, oid: str) -> None:
        super().__init__(oid)
        self.oid = oid


class LfsUploader:
    """Stores files of one repo.

    `ask_actions` calls the batch, with many objects in one call; `hash_anew` hashes a file again
    when the store contradicts its hash.
    """

    def __init__(
        self,
        session: HubSession,
        sender: PartSender,
        journal: Journal | NullJournal,
        threads: PushThreads,
        scope: str,
        ask_actions: Callable[[LfsObject], Awaitable[LfsActions]],
        hash_anew: Callable[[FileSource, Emitter], Awaitable[str]],
    ) -> None:
        self._session = session
        self._sender = sender
        self._journal = journal
        self._threads = threads
        self._scope = scope
        self._ask_actions = ask_actions
        self._hash_anew = hash_anew

    async def store(self, file: FileSource, oid: str, events: Emitter) -> Receipt:
        """Store one file. Raises `HubError`, `IntegrityError`, `SourceChangedError`, or
        `StaleHashError`."""
        if file.size <= lfs.SURELY_ONE_PUT:
            sent = await self._send(file, oid, events, None, self._journal)
        else:
            async with self._claimed(file, oid, events) as (begun, journal):
                sent = await self._send(file, oid, events, begun, journal)
        deduplicated = 0 if sent else file.size
        events.emit(
            FileStored(
                file.path_in_repo,
                file.size,
                "lfs",
                deduplicated=bool(deduplicated),
                bytes_sent=sent,
            )
        )
        return Receipt(
            file.path_in_repo,
            file.size,
            oid,
            "lfs",
            bytes_sent=sent,
            bytes_deduplicated=deduplicated,
        )

    async def _send(
        self,
        file: FileSource,
        oid: str,
        events: Emitter,
        begun: OpenUpload | None,
        journal: Journal | NullJournal,
    ) -> int:
        """Send the file unless it is stored. Returns the number of bytes that were sent."""
        in_memory = isinstance(file.content, BytesSource)
        reader = (
            Reader(file)
            if in_memory
            else await self._threads.read.run(
                lambda: Reader(file, grown=True), discard=Reader.close
            )
        )
        sending = Sending(
            file=file,
            item=LfsObject(oid, file.size),
            reader=reader,
            events=events.child(),
            begun=begun,
            journal=journal,
        )
        try:
            await self._in_rounds(sending)
            if not in_memory:
                await self._threads.read.run(lambda: reader.check_unchanged(oid))
        finally:
            reader.close()
        return sending.bytes_sent

    @asynccontextmanager
    async def _claimed(
        self, file: FileSource, oid: str, events: Emitter
    ) -> AsyncIterator[tuple[OpenUpload | None, Journal | NullJournal]]:
        """Only one process on this host sends an object; the others wait, and then find it stored.

        When the holder of the claim dies, the claim becomes free, and the process that gets it next
        continues the upload that this yields. A holder without progress for `CLAIM_TIMEOUT` is not
        waited for any longer: the object is sent in parallel, and the holder's journal entries are
        left alone. Small objects cost less to send than to claim: they are claimed only when the
        Hub wants them in parts.
        """
        item = LfsObject(oid, file.size)
        claim = await self._claim(oid)
        if claim is None:
            reason = f"{file.path_in_repo} is being sent by another push on this machine"
            claim = await self._awaited_claim(
                item, lambda seconds: events.emit(Waiting(seconds, reason))
            )
        if claim is None:
            events.emit(
                Notice(
                    f"{file.path_in_repo}: another push on this machine is sending this file but"
                    f" made no progress for {CLAIM_TIMEOUT:.0f} s; sending it from here as well"
                )
            )
            yield None, NullJournal()
            return
        try:
            yield await self._find_upload(item, self._journal), self._journal
        finally:
            await in_thread_anyway(self._threads.look_up.threads, claim.release)

    async def _awaited_claim(self, item: LfsObject, tell: Callable[[float], None]) -> Claim | None:
        """The claim, once its holder frees it; None when the holder makes no more progress. `tell`
        is called with the seconds to wait for, again and again, less and less often."""
        loop = asyncio.get_running_loop()
        seen: tuple[float, int] | None = None
        moved_at = checked_at = tell_at = loop.time()
        pause = SHORTEST_WAIT
        while loop.time() - moved_at < CLAIM_TIMEOUT:
            if loop.time() >= tell_at:
                tell(pause)
                tell_at, pause = loop.time() + pause, min(2 * pause, LONGEST_WAIT)
            await asyncio.sleep(CLAIM_POLL)
            if (claim := await self._claim(item.oid)) is not None:
                return claim
            if loop.time() - checked_at >= PROGRESS_POLL:
                checked_at = loop.time()
                now = await self._threads.look_up.run(
                    lambda: self._journal.watch_upload(self._scope, item.oid)
                )
                if now != seen:
                    seen, moved_at = now, checked_at
        return None

    async def _claim(self, oid: str) -> Claim | None:
        def discard(claim: Claim | None) -> None:
            if claim is not None:
                claim.release()

        return await self._threads.look_up.run(
            lambda: self._journal.claim(self._scope, oid), discard=discard
        )

    async def _find_upload(
        self, item: LfsObject, journal: Journal | NullJournal
    ) -> OpenUpload | None:
        if journal.disabled_reason is not None:
            return None
        found = await self._threads.look_up.run(lambda: journal.find_upload(self._scope, item.oid))
        return found if found is not None and found.size == item.size else None

    async def _in_rounds(self, sending: Sending) -> None:
        """Retry until an upload succeeds. An attempt ends early when its upload is no longer
        valid."""
        await self._session.retry_loop.run(
            partial(self._round, sending),
            sending.events,
            "upload",
            fields={"file": sending.file.path_in_repo, "size": sending.file.size},
            reported=lambda error: isinstance(error, TryAgainError),
        )

    async def _round(self, sending: Sending, attempt: Attempt) -> None:
        resumed = sending.begun
        if sending.contradicted:
            await self._check_hash(sending)
        if attempt.number > 1:
            resumed = await self._find_upload(sending.item, sending.journal)
        if resumed is not None:
            await self._multipart(sending, resumed, resumed=True)
            return
        actions = await self._ask_actions(sending.item)
        match actions.upload:
            case None:
                if sending.refused_by is not None:
                    # "Already stored" contradicts the refusal: only a verify that succeeds settles
                    # this.
                    await self._verify(sending, actions.verify_url or sending.refused_by)
            case BasicUpload() as upload:
                await self._basic(sending, upload)
                await self._verify(sending, actions.verify_url)
            case MultipartUpload() as upload:
                await self._new_multipart(sending, actions.verify_url, upload)

    async def _new_multipart(
        self, sending: Sending, verify_url: str | None, upload: MultipartUpload
    ) -> None:
        if sending.item.size > lfs.SURELY_ONE_PUT:  # claimed already
            opened = await self._open_upload(sending, verify_url, upload)
            await self._multipart(sending, opened)
            return
        claimed = self._claimed(sending.file, sending.item.oid, sending.events)
        async with claimed as (begun, sending.journal):
            opened = begun or await self._open_upload(sending, verify_url, upload)
            await self._multipart(sending, opened, resumed=begun is not None)

    async def _check_hash(self, sending: Sending) -> None:
        """Hash the file again before it is sent again under an oid that the store has refused."""
        sending.contradicted = False
        if (path := sending.file.disk_path) is None:
            return
        await self._in_journal(lambda: self._journal.forget_hash(path))
        oid = await self._hash_anew(sending.file, sending.events)
        if oid != sending.item.oid:
            raise StaleHashError(oid)

    async def _open_upload(
        self, sending: Sending, verify_url: str | None, upload: MultipartUpload
    ) -> OpenUpload:
        now = time.time()
        opened = OpenUpload(
            oid=sending.item.oid,
            size=sending.item.size,
            chunk_size=upload.chunk_size,
            completion_url=upload.completion_url,
            part_urls=tuple(part.url for part in upload.parts),
            verify_url=verify_url,
            expires_at=now + (upload.lifetime or 3600),
            etags={},
            started_at=now,
        )
        await self._in_journal(lambda: sending.journal.begin_upload(self._scope, opened))
        return opened

    async def _basic(self, sending: Sending, upload: BasicUpload) -> None:
        whole = Part(1, 0, sending.item.size, upload.url)
        sending.events.emit(TransferStarted(sending.file.path_in_repo, sending.item.size, 1))
        try:
            await self._store_part(sending, whole, upload.headers)
        except HubError as exc:
            if not is_upload_void(exc):
                raise
            raise _void(exc, sending) from exc

    async def _multipart(
        self, sending: Sending, upload: OpenUpload, *, resumed: bool = False
    ) -> None:
        parts = lfs.cut_into_parts(upload.part_urls, upload.size, upload.chunk_size)
        etags = dict(upload.etags)
        done = sum(part.size for part in parts if part.number in etags)
        path = sending.file.path_in_repo
        sending.events.emit(TransferStarted(path, sending.item.size, len(parts), done))
        for batch in batches((part for part in parts if part.number in etags), EVENTS_AT_ONCE):
            for part in batch:
                sending.events.emit(PartStored(path, part.number, part.size, resumed=True))
            await anyio.lowlevel.checkpoint()
        try:
            remaining = [part for part in parts if part.number not in etags]
            await self._send_parts(sending, remaining, etags)
            await self._complete(sending, upload, [etags[part.number] for part in parts])
        except HubError as exc:
            if not is_upload_void(exc) and not (resumed and _always_fails(exc)):
                raise
            oid = sending.item.oid
            await self._in_journal(lambda: sending.journal.end_upload(self._scope, oid))
            raise _void(exc, sending) from exc
        await self._synced(sending.journal.drop_upload(self._scope, upload.oid))
        await self._verify(sending, upload.verify_url)

    async def _send_parts(
        self, sending: Sending, remaining: Sequence[Part], etags: dict[int, str]
    ) -> None:
        async def send(part: Part) -> None:
            etag = await self._store_part(sending, part, {})
            etags[part.number] = etag
            await self._remember_part(sending, part.number, etag)

        await for_each(remaining, send, width=self._session.config.max_concurrent_parts)

    async def _remember_part(self, sending: Sending, number: int, etag: str) -> None:
        await self._synced(sending.journal.store_part(self._scope, sending.item.oid, number, etag))

    async def _synced(self, written: Future[None]) -> None:
        """Wait briefly for the journal's disk: the entry is written in any case."""
        await asyncio.wait([asyncio.wrap_future(written)], timeout=SYNC_TIMEOUT)

    async def _in_journal(self, work: Callable[[], None]) -> None:
        await in_thread(self._threads.journal, work)

    async def _store_part(self, sending: Sending, part: Part, headers: Mapping[str, str]) -> str:
        """PUT one part until its ETag is right. Returns the ETag exactly as the store wrote it."""
        path = sending.file.path_in_repo
        fields = {
            "file": path,
            "size": part.size,
            "oid": sending.item.oid,
            "part_number": part.number,
        }

        def on_sent(position: int) -> None:
            # A part in memory is sent in a moment: `PartStored` says all about it.
            if content is None and sending.events.active:
                sending.events.emit(PartProgress(path, part.number, position, part.size))

        source, content = sending.file.content, None
        if isinstance(source, BytesSource) and part.size == sending.item.size:
            hashed = source.md5 is not None or not self._session.config.verify_etag
            content = PartContent(source.data, source.md5) if hashed else None

        async def send(attempt: Attempt) -> str:
            sent = await self._sender.send(
                sending.reader,
                part,
                attempt,
                self._threads.send,
                headers=headers,
                on_sent=on_sent,
                on_wire=sending.count,
                fields=fields,
                content=content,
            )
            return checked_etag(sent, part, path)

        etag = await self._session.retry_loop.run(
            send, sending.events, "part", fields=fields, method="PUT", url=part.url
        )
        sending.events.emit(PartStored(path, part.number, part.size))
        return etag

    async def _complete(self, sending: Sending, upload: OpenUpload, etags: list[str]) -> None:
        # The parts must not be joined under an oid that the file no longer has.
        oid = sending.item.oid
        await self._threads.read.run(lambda: sending.reader.check_unchanged(oid))
        request = lfs.complete_request(upload.completion_url, sending.item.oid, etags)
        unclear = False

        async def stored(failure: HubError) -> bool | None:
            # A completion without an answer may still be joining the parts, or have joined them. A
            # second one is then refused (S3: NoSuchUpload), which says nothing about the first.
            nonlocal unclear
            unclear = True
            actions = await self._ask_actions(sending.item)
            return True if actions.upload is None else None

        try:
            await self._session.ask(
                _about(request, sending), _is_completed, sending.events, reconcile=stored
            )
        except HubError as exc:
            if not (unclear and is_upload_void(exc)):
                raise
            if not await self._joined(sending):
                raise

    async def _joined(self, sending: Sending) -> bool:
        """Ask the batch, with growing waits, whether the object is stored, for as long as a
        completion may take."""
        limit = self._session.config.response_timeout
        wait = min(self._session.config.initial_backoff_ms / 1000, limit)
        waited = 0.0
        while True:
            if (await self._ask_actions(sending.item)).upload is None:
                return True
            if waited >= limit:
                return False
            await asyncio.sleep(wait)
            waited += wait
            wait = min(2 * wait, limit / 4) or limit / 4

    async def _verify(self, sending: Sending, url: str | None) -> None:
        if url is None:
            sending.events.emit(
                Notice(f"the Hub offers no LFS verify for {sending.file.path_in_repo}")
            )
            return
        request = lfs.verify_request(
            url, sending.item, file=sending.file.path_in_repo, size=sending.file.size
        )
        try:
            await self._session.ask(request, check_done, sending.events)
        except HubError as exc:
            if exc.retryable or exc.status not in (400, 404, 409, 422):
                raise
            wrong = IntegrityError(
                f"the Hub does not confirm that {sending.file.path_in_repo!r} is stored as sent:"
                f" {exc.message}",
                suggestion="try again; if it happens again, the store behind this Hub loses data",
            )
            sending.refused_by = url
            raise _void(exc, sending, wrong) from wrong


def _is_completed(response: HubResponse) -> bool:
    check_done(response)
    return True


def _about(request: HubRequest, sending: Sending) -> HubRequest:
    """The request, with the file added to its events."""
    about = {"file": sending.file.path_in_repo, "size": sending.file.size}
    return replace(request, fields={**request.fields, **about})


def _always_fails(error: HubError) -> bool:
    """The server failed at every attempt.

    An unfinished upload that was aborted by a lifecycle rule, or completed by a call whose answer
    was lost, can be answered this way. It would fail every push until its URLs expire.
    """
    return isinstance(error, RetriesExhaustedError) and (error.status or 0) >= 500


def _void(error: HubError, sending: Sending, final: AsyncPushError | None = None) -> TryAgainError:
    """The upload can no longer be used. When no attempt is left, `final` is raised, or else the
    error that made it unusable."""
    sending.contradicted |= error.status in (400, 409, 422) or final is not None
    return TryAgainError(
        f"the upload has expired, failed or was aborted; starting a new one: {error.message}",
        final=error if final is None else final,
        status=error.status,
        body=error.body,
        method=error.method,
        url=error.url,
        request_id=error.request_id,
        error_code=error.error_code,
        headers=error.headers,
        suggestion=error.suggestion,
    )


def checked_etag(sent: SentPart, part: Part, path: str) -> str:
    """The ETag, checked against the bytes sent: it must be present, and one in the form of an MD5
    must be their MD5. Other forms depend on the store; completion and verify decide then.

    A weak ETag (`W/"…"`) is returned as a strong one: proxies weaken ETags on the way, and a store
    accepts only the ones it gave in the completion. Raises `TryAgainError`: the part is sent again,
    and after the last attempt an `IntegrityError` names `path`.
    """
    etag = strong(sent.etag or "")
    if not etag or not etag.strip('" '):
        raise _bad_etag(f"part {part.number} was answered without an ETag", part, path)
    stored = sent.stored_md5
    if sent.md5 is not None and stored is not None and stored != sent.md5:
        raise _bad_etag(
            f"ETag {stored} of part {part.number} is not the MD5 of the bytes sent, {sent.md5}",
            part,
            path,
        )
    return etag


def _bad_etag(message: str, part: Part, path: str) -> TryAgainError:
    damaged = IntegrityError(
        f"part {part.number} of {path!r} did not arrive as it was sent: {message}",
        suggestion="try again; if it happens again, a proxy or the store changes bytes:"
        " verify_etag=False leaves the check to the Hub",
    )
    return TryAgainError(message, final=damaged, status=200)
