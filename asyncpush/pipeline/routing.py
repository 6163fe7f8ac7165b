"""Decides which route each file takes, from the Hub's answer to preupload.

Workers ask for the modes of 256 files per call. Ignored and inline files are finished here; the
others are passed on to be stored.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import field, replace
from functools import partial

from anyio.streams.memory import MemoryObjectSendStream

from asyncpush.concurrency.task_groups import batches, for_each
from asyncpush.concurrency.threads import each_in_thread, in_thread, in_thread_if_many
from asyncpush.errors import HubError, SourceChangedError, SourceError
from asyncpush.events import Emitter, FileRouted, FileSkipped
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, Receipt
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.verification import remote_files
from asyncpush.protocol import commits
from asyncpush.protocol.commits import UploadMode
from asyncpush.protocol.repos import RemoteFile
from asyncpush.sources import read_all
from asyncpush.transfers.inline import git_blob_oid, inline_receipt

SURELY_LFS = 10 << 20
"""The Hub accepts no regular file larger than this, so hashing such a file need not wait for its
answer."""

WORKERS = 4


@dataclass(slots=True, eq=False)
class Candidate:
    """A file that a transfer will store, unless the Hub says otherwise."""

    file: FileSource
    _mode: UploadMode | None = None
    _is_answered: bool = False
    _answered: asyncio.Event | None = None
    """Created only to wait for the answer, which is already known for most files."""

    async def mode(self) -> UploadMode | None:
        """Wait for the Hub's answer. None when the file is not to be stored: it is ignored, goes
        into the commit, or has changed."""
        if not self._is_answered:
            self._answered = self._answered or asyncio.Event()
            await self._answered.wait()
        mode = self._mode
        return None if mode is None or mode.ignored or mode.mode == "regular" else mode

    def answer(self, mode: UploadMode | None) -> None:
        """Set the answer; None for a file that has changed."""
        self._mode = mode
        self._is_answered = True
        if self._answered is not None:
            self._answered.set()


class EarlyModes:
    """The modes of the files of a small push, requested at the same time as its head, which saves a
    round trip.

    They may be older than the head. They are therefore used only when each file is new in the repo,
    or known to differ from the repo's: they never make a file count as unchanged. Of a larger push
    only the paths are needed early.
    """

    def __init__(self, ctx: PushContext, files: Sequence[FileSource] = ()) -> None:
        self._ctx = ctx
        self._all_files = files
        self._files = files if len(files) <= commits.PREUPLOAD_LIMIT else ()
        self._starts: list[tuple[bytes, str | None]] | None = None
        self._modes: Mapping[str, UploadMode] | None = None
        self._failure: HubError | None = None

    @property
    def paths_only(self) -> bool:
        """Whether the push is so large that `ask` does nothing."""
        return bool(self._all_files) and not self._files

    async def paths(self) -> list[str]:
        """The paths of all files of the push."""
        files = self._all_files
        return await in_thread_if_many(
            self._ctx.threads, files, lambda: [file.path_in_repo for file in files]
        )

    async def ask(self) -> None:
        """Ask for the modes. A refusal is raised by `check`, once it is known that the repo
        exists."""
        if not self._files:
            return
        ctx, files = self._ctx, self._files
        try:
            if self._starts is None:
                self._starts = await each_in_thread(ctx.threads, files, ctx.contents.start)
            gitignore = await own_gitignore(ctx, files)
        except SourceError:
            return  # a file has changed or cannot be read: `Routing` handles it
        samples = [sample for sample, _ in self._starts]
        try:
            self._modes = await ask_modes(
                ctx, files, samples, gitignore=gitignore, expected=is_missing
            )
        except HubError as exc:
            self._failure = exc

    def discard(self) -> None:
        """Forget the answer: the repo or branch did not exist."""
        self._modes = self._failure = None

    def check(self) -> None:
        """Raise the Hub's refusal, if any. An answer that the repo does not exist (yet) does not
        count: the Hub's servers may learn about a new repo one after another."""
        if self._failure is not None and not is_missing(self._failure):
            raise self._failure

    def starts_of(self, files: Sequence[FileSource]) -> Sequence[tuple[bytes, str | None]] | None:
        """The results of `ContentCache.start` for each of these files, if they have been read."""
        return self._starts if self._are_mine(files) else None

    def modes_of(self, files: Sequence[FileSource]) -> Mapping[str, UploadMode] | None:
        """The modes, if they can be used for these files."""
        if self._modes is None or self._starts is None or not self._are_mine(files):
            return None
        for file, (_, oid) in zip(files, self._starts, strict=True):
            mode = self._modes[file.path_in_repo]
            # An LFS object's oid cannot be compared: the file has not been hashed that way yet.
            differs = oid is not None and not is_sha256(mode.oid) and oid != mode.oid
            if mode.ignored or not (mode.oid is None or differs):
                return None
        return self._modes

    def _are_mine(self, files: Sequence[FileSource]) -> bool:
        mine = self._files
        return len(files) == len(mine) and all(a is b for a, b in zip(files, mine, strict=True))


class Routing:
    """Finds the modes of the files of one push."""

    def __init__(self, ctx: PushContext, stored: Stored, early: EarlyModes | None = None) -> None:
        self._ctx = ctx
        self._stored = stored
        self._early = early or EarlyModes(ctx)

    async def run(
        self, files: Sequence[FileSource], outbox: MemoryObjectSendStream[list[Candidate]]
    ) -> None:
        """Send the files that are to be stored to `outbox`. Files that are certainly LFS are sent
        before the Hub has answered, so that they are hashed in the meantime. Raises `HubError`,
        `SourceError`, or `SourceChangedError`."""
        async with outbox:
            large = await in_thread_if_many(
                self._ctx.threads, files, lambda: [file for file in files if file.size > SURELY_LFS]
            )
            early = {file.path_in_repo: Candidate(file) for file in large}
            await outbox.send(list(early.values()))
            gitignore = await own_gitignore(self._ctx, files, self._stored)
            route = partial(self._route, gitignore=gitignore, early=early, outbox=outbox)
            await for_each(batches(files, commits.PREUPLOAD_LIMIT), route, width=WORKERS)

    async def _route(
        self,
        files: Sequence[FileSource],
        gitignore: str | None,
        early: Mapping[str, Candidate],
        outbox: MemoryObjectSendStream[list[Candidate]],
    ) -> None:
        def read_start(file: FileSource) -> tuple[bytes, str | None] | None:
            with self._stored.following(file):
                return self._ctx.contents.start(file)
            return None

        starts: Sequence[tuple[bytes, str | None] | None] | None = self._early.starts_of(files)
        if starts is None:
            starts = await each_in_thread(self._ctx.threads, files, read_start)
        seen: list[tuple[FileSource, bytes, str | None]] = []
        for file, found in zip(files, starts, strict=True):
            if found is not None:
                seen.append((file, *found))
            elif (candidate := early.get(file.path_in_repo)) is not None:
                candidate.answer(None)
        if not seen:
            return
        files = [file for file, _, _ in seen]
        samples = [sample for _, sample, _ in seen]
        oids = {file.path_in_repo: oid for file, _, oid in seen if oid}
        modes = self._early.modes_of(files)
        if modes is None:
            modes = await ask_modes(self._ctx, files, samples, gitignore=gitignore)
        inline: list[FileSource] = []
        ignored: list[FileSource] = []
        candidates: list[Candidate] = []
        for file in files:
            mode = modes[file.path_in_repo]
            candidate = early.get(file.path_in_repo)
            if mode.ignored:
                ignored.append(file)
            elif mode.mode == "regular" or _may_be_regular_there(file, mode):
                inline.append(file)
            elif candidate is None:
                candidates.append(candidate := Candidate(file))
            if candidate is not None:
                candidate.answer(mode)
            if candidate is not None or mode.ignored:
                self._ctx.contents.drop(file)
        await outbox.send(candidates)
        if inline:
            await outbox.send(await self._settle_inline(inline, modes, oids))
        if ignored:
            await self._settle_ignored(ignored)

    async def _settle_inline(
        self,
        files: Sequence[FileSource],
        modes: Mapping[str, UploadMode],
        oids: Mapping[str, str],
    ) -> list[Candidate]:
        """Make receipts for a batch of regular files. Their bytes are read again for the commit, so
        that those of many thousand files are not kept in memory.

        The repo may have a file of the other kind at a path, when a `.gitattributes` was added
        after the file. If the bytes are the same, it is unchanged anyway. Files for LFS that are
        not the same are returned.
        """

        contents = self._ctx.contents

        def read_and_hash(file: FileSource) -> Receipt | None:
            path, mode = file.path_in_repo, modes[file.path_in_repo]
            with self._stored.following(file):
                if mode.mode == "regular" and is_sha256(mode.oid):
                    content, blob_oid = contents.hashed(file)
                    oid = hashlib.sha256(content).hexdigest()
                    if oid == mode.oid:
                        return replace(
                            Receipt(path, file.size, oid, "lfs"),
                            unchanged=True,
                            bytes_deduplicated=file.size,
                        )
                    return inline_receipt(path, file.size, blob_oid, there=None)
                oid = oids.get(path) or contents.hashed(file)[1]
                return inline_receipt(path, file.size, oid, there=mode.oid)
            return None

        receipts = await each_in_thread(self._ctx.threads, files, read_and_hash)
        changed: list[Candidate] = []
        for file, receipt in zip(files, receipts, strict=True):
            if receipt is None:
                continue
            to_store = modes[file.path_in_repo].mode == "lfs" and not receipt.unchanged
            if to_store or receipt.unchanged:
                contents.drop(file)
            if to_store:
                changed.append(Candidate(file))
                changed[-1].answer(modes[file.path_in_repo])
            else:
                self._stored.add(receipt, self._ctx.events)
        return changed

    async def _settle_ignored(self, files: Sequence[FileSource]) -> None:
        """Handle files that the Hub ignores. Some Hubs (KohakuHub) report files as ignored that
        they have already: those are unchanged instead. Where this cannot be checked, the Hub's
        answer counts."""
        ctx = self._ctx
        paths = [file.path_in_repo for file in files]
        shown: Mapping[str, RemoteFile] = {}
        with suppress(HubError):
            shown = await remote_files(ctx, ctx.options.revision, paths)
        for file in files:
            receipt = None
            with self._stored.following(file):
                receipt = await self._receipt_of(file, shown.get(file.path_in_repo))
            if file.path_in_repo in self._stored.changed:
                continue
            if receipt is not None:
                self._stored.settle(receipt, ctx.events, unchanged=True)
            else:
                self._stored.ignore(file, ctx.events)

    async def _receipt_of(self, file: FileSource, remote: RemoteFile | None) -> Receipt | None:
        """A receipt for the file, if the Hub has exactly its bytes."""
        if remote is None or remote.size != file.size:
            return None
        if remote.lfs:
            oid = await self._ctx.hasher.sha256(file, self._ctx.events, self._ctx.push_threads)
        else:
            oid = await in_thread(self._ctx.threads, lambda: git_blob_oid(read_all(file)))
        if oid != remote.oid:
            return None
        return Receipt(file.path_in_repo, file.size, oid, "lfs" if remote.lfs else "inline")


def is_missing(error: HubError) -> bool:
    """Whether the Hub says that the repo or branch does not exist (yet)."""
    return error.error_code in ("RepoNotFound", "RevisionNotFound")


def is_sha256(oid: str | None) -> bool:
    """Whether this is the oid of an LFS object rather than of a git blob."""
    return oid is not None and len(oid) == 64


def _may_be_regular_there(file: FileSource, mode: UploadMode) -> bool:
    """Whether a file for LFS can be the same as a regular file in the repo."""
    return mode.oid is not None and not is_sha256(mode.oid) and file.size <= SURELY_LFS


async def own_gitignore(
    ctx: PushContext, files: Sequence[FileSource], stored: Stored | None = None
) -> str | None:
    """The content of the source's own .gitignore, which applies to this push already. If it is
    followed and has changed, that is noted in `stored`."""
    found = next((file for file in files if file.path_in_repo == ".gitignore"), None)
    if found is not None:
        with nullcontext() if stored is None else stored.following(found):
            content = await in_thread(ctx.threads, lambda: read_all(found))
            return content.decode("utf-8", "replace")
    return None


async def ask_modes(
    ctx: PushContext,
    files: Sequence[FileSource],
    samples: Sequence[bytes],
    *,
    gitignore: str | None = None,
    create_pr: bool | None = None,
    expected: Callable[[HubError], bool] = lambda error: False,
) -> Mapping[str, UploadMode]:
    """Make one preupload call. Returns a mode for each path. Raises `HubError`; an `expected` one
    is not reported. `create_pr` defaults to the option of that name."""
    request = commits.preupload_request(
        ctx.repo,
        ctx.options.revision,
        list(zip(files, samples, strict=True)),
        create_pr=ctx.options.create_pr if create_pr is None else create_pr,
        gitignore=gitignore,
    )
    modes = await ctx.session.ask(
        request,
        lambda response: commits.parse_preupload(response, files),
        ctx.events,
        describe=lambda modes: _describe(modes, files),
        expected=expected,
    )
    ctx.oids_reported = ctx.oids_reported or any(mode.oid for mode in modes.values())
    return modes


def _describe(modes: Mapping[str, UploadMode], files: Sequence[FileSource]) -> dict[str, object]:
    return {
        "files": [
            {
                "file": file.path_in_repo,
                "size": file.size,
                "route": _route_name(modes[file.path_in_repo]),
            }
            for file in files
        ]
    }


def _route_name(mode: UploadMode) -> str:
    if mode.ignored:
        return "ignored"
    return "inline" if mode.mode == "regular" else "lfs"


class _Following:
    """The block of `Stored.following`. A class, as a generator costs three times as much, and each
    file is read in such a block."""

    __slots__ = ("_changed", "_file")

    def __init__(self, changed: dict[str, SourceChangedError], file: FileSource) -> None:
        self._changed = changed
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, SourceChangedError) or not self._file.may_change:
            return False
        self._changed[self._file.path_in_repo] = error
        return True


@dataclass(slots=True)
class Stored:
    """Receipts by path, the files that the Hub ignores, and the files that have changed and are to
    be collected again."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    ignored: list[FileSource] = field(default_factory=list)
    changed: dict[str, SourceChangedError] = field(default_factory=dict)

    def following(self, file: FileSource) -> _Following:
        """For a block that reads a file: note that a followed file has changed, instead of raising
        the error."""
        return _Following(self.changed, file)

    def merge(self, later: Stored) -> None:
        """Add the results for files that were collected again."""
        for path, receipt in later.receipts.items():
            before = self.receipts.get(path)
            sent = receipt.bytes_sent + (before.bytes_sent if before is not None else 0)
            self.receipts[path] = replace(receipt, bytes_sent=sent)
        self.ignored += later.ignored
        self.changed = later.changed

    def add(self, receipt: Receipt, events: Emitter) -> None:
        """Add a file that sends no bytes now: it goes into the commit, or is in the repo
        already."""
        self.receipts[receipt.path_in_repo] = receipt
        if receipt.unchanged:
            events.emit(FileSkipped(receipt.path_in_repo, receipt.size, "unchanged"))
        else:
            events.emit(FileRouted(receipt.path_in_repo, receipt.size, receipt.route))

    def settle(self, receipt: Receipt, events: Emitter, *, unchanged: bool) -> None:
        """`add` the receipt. If `unchanged`, all of its bytes are in the repo already."""
        kept = receipt.size if unchanged else 0
        self.add(replace(receipt, unchanged=unchanged, bytes_deduplicated=kept), events)

    def ignore(self, file: FileSource, events: Emitter) -> None:
        """Add a file that the Hub ignores, usually because of the repo's .gitignore."""
        self.ignored.append(file)
        events.emit(FileSkipped(file.path_in_repo, file.size, "ignored"))
