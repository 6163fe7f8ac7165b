"""One push from its files to its result: the order of the stages, and nothing of how they work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import chain

from asyncpush.concurrency.threads import in_thread
from asyncpush.errors import HubError
from asyncpush.events import FilesPlanned
from asyncpush.models import FileSource, PlannedFile, Receipt, Route, UploadResult
from asyncpush.options import PushOptions
from asyncpush.pipeline.changes import (
    DEFAULT_BRANCH,
    additions,
    check_receipts,
    commit_limits,
    deletions,
    packed,
    split,
)
from asyncpush.pipeline.commit import Committer, Outcome
from asyncpush.pipeline.commit_series import commit_in_pull_request, commit_series
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import (
    check_leaks,
    check_limits,
    check_one_commit,
    check_parent,
    observed_head,
    prepare,
    warning_of_slow_commit,
)
from asyncpush.pipeline.routing import SURELY_LFS, Stored
from asyncpush.pipeline.selection import TransferSelector, open_selector
from asyncpush.pipeline.store import StoreStage, StreamStage
from asyncpush.pipeline.verification import remote_files, same, verify_commit
from asyncpush.protocol.commits import Change, Delete
from asyncpush.protocol.failures import is_lfs_pointer_missing
from asyncpush.protocol.tree import RemoteFile
from asyncpush.sources import CollectedSources, read_all

CommitLock = Callable[[], AbstractAsyncContextManager[object]]
"""Commits to one repo and revision go one after another."""


class PushRun:
    """The stages of one push. Each public method is one thing a user can ask for."""

    def __init__(self, ctx: PushContext, lock: CommitLock) -> None:
        self._ctx = ctx
        self._lock = lock
        self._started = time.monotonic()

    async def push(self, collected: CollectedSources) -> UploadResult:
        """Store, commit, verify."""
        ctx = self._ctx
        files = await self._planned(collected)
        head = await prepare(ctx, files)
        if ctx.options.dry_run:
            async with open_selector(ctx) as selector:
                _, streamed = await StreamStage(ctx, selector).run(collected.streams, store=False)
                return await self._dry_run([*files, *streamed], head, selector)
        assert head is not None  # only a dry run goes on without one
        await check_one_commit(ctx, files, head)
        files, stored = await self._stored(collected)
        by_path = await in_thread(ctx.threads, lambda: {file.path_in_repo: file for file in files})
        deleted = await deletions(ctx, chain(by_path, stored.receipts), head)

        async def commit() -> Outcome:
            changes, wanted = await self._changes(stored, deleted)
            return await self._commit(changes, wanted, head, lambda path: read_all(by_path[path]))

        try:
            outcome = await commit()
        except HubError as exc:
            if not is_lfs_pointer_missing(exc):
                raise
            # The repo was deleted and made anew, or its store lost what the Hub had called
            # present: store those objects again, commit once more.
            ctx.warn("the Hub has lost LFS objects it had accepted; uploading them again")
            await self._store_again(stored, by_path)
            outcome = await commit()
        return await self._finish(stored, deleted, outcome)

    async def _store_again(self, stored: Stored, files: Mapping[str, FileSource]) -> None:
        """Upload again the objects that a commit was to bring. By the last transfer: a client that
        deduplicates remembers what the store took, and would not send it. And hashed again: a
        remembered hash that no longer holds may be what names an object that nobody has."""
        ctx = self._ctx
        lost = [
            files[receipt.path_in_repo]
            for receipt in stored.receipts.values()
            if receipt.route != "inline" and not receipt.unchanged and receipt.path_in_repo in files
        ]  # no streams

        def forget() -> None:
            for path in {file.disk_path for file in lost}:
                if path is not None:
                    ctx.journal.forget_hash(path)

        await in_thread(ctx.threads, forget)
        async with open_selector(ctx, last_only=True) as selector:
            again = await StoreStage(ctx, selector).run(lost)
        for path, receipt in again.receipts.items():
            sent = stored.receipts[path].bytes_sent + receipt.bytes_sent
            stored.receipts[path] = replace(receipt, bytes_sent=sent)

    async def store(self, collected: CollectedSources) -> list[Receipt]:
        """Store without a commit; inline files' bytes ride in their receipts."""
        if self._ctx.options.dry_run:
            raise ValueError("dry_run goes with push_to_hub or commit: there is nothing to store")
        files = await self._planned(collected)
        await prepare(self._ctx, files)
        files, stored = await self._stored(collected)
        by_path = {file.path_in_repo: file for file in files}
        receipts = list(stored.receipts.values())
        return await packed(receipts, by_path, self._ctx.threads)

    async def commit(self, receipts: Sequence[Receipt]) -> UploadResult:
        """Commit what was stored before, here or elsewhere."""
        ctx = self._ctx
        await in_thread(ctx.threads, lambda: check_receipts(receipts))
        total = sum(receipt.size for receipt in receipts)
        ctx.events.emit(FilesPlanned(len(receipts), total))
        head = await observed_head(ctx, ctx.options.revision)
        shown = await remote_files(ctx, head, [receipt.path_in_repo for receipt in receipts])
        stored = await in_thread(ctx.threads, lambda: _compared(receipts, shown))
        deleted = await deletions(ctx, stored.receipts, head)
        if ctx.options.dry_run:
            return self._plan(stored, deleted, head)
        changes, wanted = await self._changes(stored, deleted)
        content = {receipt.path_in_repo: receipt.content or b"" for receipt in receipts}
        outcome = await self._commit(changes, wanted, head, lambda path: content[path])
        return await self._finish(stored, deleted, outcome)

    async def _stored(self, collected: CollectedSources) -> tuple[tuple[FileSource, ...], Stored]:
        """The files (streams among them that had to be spooled), and what became of them."""
        ctx, files = self._ctx, collected.files
        async with open_selector(ctx) as selector:
            streamed, spooled = await StreamStage(ctx, selector).run(collected.streams)
            if collected.streams:  # now their sizes are known
                files = tuple(sorted((*files, *spooled), key=lambda file: file.path_in_repo))
                sizes = [file.size for file in files]
                sizes += [receipt.size for receipt in streamed.receipts.values()]
                ctx.events.emit(FilesPlanned(len(sizes), sum(sizes)))
            stored = await StoreStage(ctx, selector).run(files)
        stored.receipts.update(streamed.receipts)
        stored.ignored += streamed.ignored
        self._warn_if_all_ignored(stored)
        return files, stored

    def _warn_if_all_ignored(self, stored: Stored) -> None:
        count = len(stored.ignored)
        if count and not stored.receipts:
            files = "the only file is" if count == 1 else f"all {count:,} files are"
            self._ctx.warn(
                f"nothing to push: {files} ignored by a .gitignore, the repo's or the source's own;"
                " edit that file, or exclude the source's with ignore_patterns=['.gitignore']"
            )

    async def _planned(self, collected: CollectedSources) -> tuple[FileSource, ...]:
        """The files, once nothing speaks against them that can be known without the Hub."""
        for notice in collected.notices:
            self._ctx.warn(notice)
        ctx, files = self._ctx, collected.files
        total = await in_thread(ctx.threads, lambda: sum(file.size for file in files))
        ctx.events.emit(FilesPlanned(len(files), total))
        for warning in await in_thread(ctx.threads, lambda: check_limits(files)):
            ctx.warn(warning)
        await check_leaks(self._ctx, collected.files)
        return collected.files

    async def _changes(
        self, stored: Stored, deleted: Sequence[Delete]
    ) -> tuple[list[Change], list[Change]]:
        """What is to change, and the end state that is wanted of all files. Here and below, work
        that grows with the number of files leaves the event loop."""

        def changes() -> tuple[list[Change], list[Change]]:
            receipts = stored.receipts.values()
            return (
                [*additions(receipts), *deleted],
                [*additions(receipts, unchanged=True), *deleted],
            )

        return await in_thread(self._ctx.threads, changes)

    async def _commit(
        self,
        changes: list[Change],
        wanted: list[Change],
        head: str,
        load: Callable[[str], bytes],
    ) -> Outcome:
        """One commit, or the chain that so many changes need, or none when nothing changed.
        `wanted` is the end state: the changes, and the files that `head` held already."""
        ctx = self._ctx
        chained, warning = await in_thread(ctx.threads, lambda: _looked_over(ctx.options, changes))
        if not changes or chained:
            check_parent(ctx, head)
        if not changes:
            return Outcome(head, ctx.commit_url(head), ours=False)
        if warning is not None:
            ctx.warn(warning)
        async with self._lock():
            return await self._commit_now(changes, wanted, head, load, chained=chained)

    async def _commit_now(
        self,
        changes: list[Change],
        wanted: list[Change],
        head: str,
        load: Callable[[str], bytes],
        *,
        chained: bool,
    ) -> Outcome:
        ctx, options = self._ctx, self._ctx.options
        if options.revision == DEFAULT_BRANCH and (chained or options.create_pr):
            return await commit_in_pull_request(
                ctx, changes, wanted, head, load, size=commit_limits(options)
            )
        if chained:
            ctx.warn(f"the commits of this push appear on {options.revision} one by one")
            return await commit_series(
                ctx, changes, wanted, head, options.revision, load, commit_limits(options)
            )
        committer = Committer(
            ctx,
            load,
            options.revision,
            create_pr=options.create_pr,
            pinned=options.parent_commit,
        )
        return await committer.commit(changes, head, wanted=wanted)

    async def _finish(
        self, stored: Stored, deleted: Sequence[Delete], outcome: Outcome
    ) -> UploadResult:
        ctx = self._ctx
        receipts = tuple(stored.receipts.values())
        gone = tuple(deletion.path for deletion in deleted)
        if ctx.options.verify:
            await verify_commit(ctx, outcome.commit_sha, receipts, gone)
        if ctx.config.resume and ctx.journal.disabled_reason is not None:
            ctx.warn(f"this push could not be resumed: {ctx.journal.disabled_reason}")
        ctx.enter("done")
        return await in_thread(ctx.threads, lambda: self._result(stored, receipts, gone, outcome))

    def _result(
        self,
        stored: Stored,
        receipts: tuple[Receipt, ...],
        gone: tuple[str, ...],
        outcome: Outcome,
    ) -> UploadResult:
        ctx = self._ctx
        added = outcome.added
        if added is None:
            added = frozenset(r.path_in_repo for r in receipts if outcome.ours and not r.unchanged)
        changed = [receipt for receipt in receipts if receipt.path_in_repo in added]
        inline_bytes = sum(receipt.size for receipt in changed if receipt.route == "inline")
        return UploadResult(
            repo_url=ctx.repo_url,
            commit_sha=outcome.commit_sha,
            commit_url=outcome.commit_url,
            files_uploaded=tuple(r.path_in_repo for r in changed),
            bytes_transferred=sum(receipt.bytes_sent for receipt in receipts) + inline_bytes,
            bytes_deduplicated=sum(receipt.bytes_deduplicated for receipt in receipts),
            verified=ctx.options.verify,
            elapsed_seconds=time.monotonic() - self._started,
            pr_url=outcome.pr_url,
            files_unchanged=tuple(r.path_in_repo for r in receipts if r.path_in_repo not in added),
            files_ignored=tuple(file.path_in_repo for file in stored.ignored),
            files_deleted=gone if outcome.ours else (),
            warnings=tuple(ctx.warnings),
            receipts=receipts,
        )

    async def _dry_run(
        self, files: Sequence[FileSource], head: str | None, selector: TransferSelector
    ) -> UploadResult:
        ctx = self._ctx
        if head is None:
            ctx.warn(
                f"{ctx.repo.repo_id} (or its branch) does not exist and would be created;"
                " which files go inline is a guess by size"
            )
            return self._plan(guessed(files), [], None)
        stored = await StoreStage(ctx, selector, store=False).run(files)
        self._warn_if_all_ignored(stored)
        deleted = await deletions(ctx, [file.path_in_repo for file in files], head)
        return self._plan(stored, deleted, head)

    def _plan(self, stored: Stored, deleted: Sequence[Delete], head: str | None) -> UploadResult:
        elapsed = time.monotonic() - self._started
        return planned(self._ctx, stored, deleted, head, elapsed_seconds=elapsed)


def _looked_over(options: PushOptions, changes: Sequence[Change]) -> tuple[bool, str | None]:
    """Whether these changes need several commits; else what to say of the one that they need."""
    chained = len(split(changes, commit_limits(options))) > 1
    if chained or options.max_files_per_commit is not None:
        return chained, None
    return False, warning_of_slow_commit(changes)


def _compared(receipts: Sequence[Receipt], shown: Mapping[str, RemoteFile]) -> Stored:
    """The receipts, each with whether the Hub shows just this file already."""
    stored = Stored()
    for receipt in receipts:
        unchanged = same(receipt, shown.get(receipt.path_in_repo))
        stored.receipts[receipt.path_in_repo] = replace(
            receipt,
            unchanged=unchanged,
            bytes_deduplicated=receipt.size if unchanged else receipt.bytes_deduplicated,
        )
    return stored


def planned(
    ctx: PushContext,
    stored: Stored,
    deletions: Iterable[Delete],
    head: str | None,
    *,
    elapsed_seconds: float,
) -> UploadResult:
    """Without a `head` the repo, or its branch, would be created."""
    receipts = stored.receipts.values()
    plan = [_planned_file(receipt) for receipt in receipts]
    plan += [PlannedFile(file.path_in_repo, file.size, "ignored") for file in stored.ignored]
    plan += [PlannedFile(deletion.path, 0, "delete") for deletion in deletions]
    return UploadResult(
        repo_url=ctx.repo_url,
        commit_sha=head or "",
        commit_url=ctx.commit_url(head) if head else "",
        files_uploaded=(),
        bytes_transferred=0,
        bytes_deduplicated=0,
        verified=False,
        elapsed_seconds=elapsed_seconds,
        files_unchanged=tuple(receipt.path_in_repo for receipt in receipts if receipt.unchanged),
        files_ignored=tuple(file.path_in_repo for file in stored.ignored),
        warnings=tuple(ctx.warnings),
        plan=tuple(sorted(plan, key=lambda file: file.path_in_repo)),
    )


def guessed(files: Sequence[FileSource]) -> Stored:
    """Routes by size: nobody can be asked about a repo that is not there yet."""
    stored = Stored()
    for file in files:
        route: Route = "lfs" if file.size > SURELY_LFS else "inline"
        stored.receipts[file.path_in_repo] = Receipt(file.path_in_repo, file.size, "", route)
    return stored


def _planned_file(receipt: Receipt) -> PlannedFile:
    action = "unchanged" if receipt.unchanged else receipt.route
    return PlannedFile(receipt.path_in_repo, receipt.size, action)
