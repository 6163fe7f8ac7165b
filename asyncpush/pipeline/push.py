"""One push from its files to its result: the order of the stages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from asyncpush.concurrency.threads import in_thread, in_thread_if_many
from asyncpush.errors import HubError, RepoNotFoundError, SourceChangedError, SourceError
from asyncpush.events import FilesPlanned
from asyncpush.models import FileSource, PlannedFile, Receipt, Route, UploadResult
from asyncpush.options import PushOptions
from asyncpush.pipeline.changes import (
    DEFAULT_BRANCH,
    WRITTEN_BY_THE_HUB,
    additions,
    check_receipts,
    commit_limits,
    deletions,
    in_order,
    packed,
    remaining_changes,
    split,
)
from asyncpush.pipeline.commit import Committer, LoadContent, Outcome, paths_added
from asyncpush.pipeline.commit_series import commit_in_pull_request, commit_series, committed_before
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import (
    check_branch,
    check_leaks,
    check_limits,
    check_one_commit,
    check_parent,
    check_paths,
    check_whole,
    head_at_parent,
    head_of_branch,
    observed_head,
    prepare,
    target_of_commits,
    warning_of_slow_commit,
)
from asyncpush.pipeline.routing import SURELY_LFS, EarlyModes, Stored
from asyncpush.pipeline.selection import TransferSelector, open_selector
from asyncpush.pipeline.store import StoreStage, StreamStage
from asyncpush.pipeline.verification import remote_files, same, verify_commit
from asyncpush.protocol.commits import AddInline, Change, Delete
from asyncpush.protocol.failures import is_lfs_pointer_missing
from asyncpush.protocol.repos import RemoteFile
from asyncpush.sources import CollectedSources, OpenStream, read_again
from asyncpush.sources.byte_sources import changed as changed_source
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.single_files import COLLECTED_AGAIN, changes_of, looks_changed
from asyncpush.transfers.inline import checked_content, git_blob_oid

T = TypeVar("T")

CommitLock = Callable[[], AbstractAsyncContextManager[object]]
"""A lock for commits to one repo and revision, which are made one after another."""


_WHERE_STORED = (
    "commit to the repo that upload_files (`asyncpush upload`) stored the files for, which this"
    " does not create"
)
_NOT_STORED = (
    "the store does not have these files for this repo: commit to the one that upload_files"
    " (`asyncpush upload`) stored them for, or upload them again"
)


class PushRun:
    """The stages of one push. Each public method is a request that a user can make."""

    def __init__(self, ctx: PushContext, lock: CommitLock) -> None:
        self._ctx = ctx
        self._lock = lock
        self._started = time.monotonic()
        self._notices = ProblemReport()

    async def push(self, collected: CollectedSources) -> UploadResult:
        """Store, commit, verify."""
        ctx = self._ctx
        files = await self._planned(collected)
        early = self._early(collected)
        prepared = await prepare(ctx, files, early, search_leaks=True)
        head = prepared.head
        if head is not None:
            head = await head_at_parent(ctx, head)
            if not prepared.skip_path_check:
                await check_paths(ctx, [*_paths_of(files), *_paths_of(collected.streams)], head)
            await check_one_commit(ctx, files, head)
        if ctx.options.dry_run:
            async with open_selector(ctx) as selector:
                _, streamed = await StreamStage(ctx, selector).run(collected.streams, store=False)
                return await self._dry_run(collected, [*files, *streamed], head, selector)
        assert head is not None  # only a dry run continues without one
        by_path, stored = await self._stored(collected, early)
        deleted = await deletions(ctx, chain(by_path, stored.receipts), head, collected.holds)

        def load(change: AddInline) -> bytes:
            return ctx.contents.for_commit(by_path[change.path], change)

        async def commit_once() -> Outcome:
            changes, wanted = await self._changes(stored, deleted)
            if changes and ctx.files_there and not ctx.oids_reported:
                # This Hub does not say what is unchanged, and may commit it again.
                changes = await remaining_changes(ctx, changes, head)
                if not changes:
                    check_parent(ctx, head)
                    return Outcome(head, ctx.commit_url(head), ours=False, added=frozenset())
            return await self._commit(changes, wanted, head, load)

        async def commit() -> Outcome:
            return await self._following(collected, by_path, stored, commit_once)

        try:
            outcome = await commit()
        except HubError as exc:
            if not is_lfs_pointer_missing(exc):
                raise
            # The repo was deleted and created again, or the store lost objects that the Hub had
            # reported as stored: store them again and commit once more.
            ctx.warn("the Hub has lost LFS objects it had accepted; uploading them again")
            await self._store_again(stored, by_path)
            outcome = await commit()
        await in_thread_if_many(ctx.threads, by_path, ctx.contents.clear)
        await self._warn_of_changes(by_path)
        return await self._finish(stored, deleted, outcome)

    async def _check_paths_again(self, paths: Collection[str], refused: HubError) -> None:
        """Raise `SourceError` if the head now shows a path conflict that appeared after the first
        check: it is why the commit was refused."""
        ctx = self._ctx
        try:
            ctx.repo_created = False
            head = await observed_head(ctx, ctx.options.revision)
            done = committed_before(refused) or "nothing was committed"
            await check_paths(ctx, paths, head, done=done)
        except HubError:
            pass  # the refusal is reported instead
        except SourceError as exc:
            raise exc from refused

    async def _store_again(self, stored: Stored, files: Mapping[str, FileSource]) -> None:
        """Upload again the objects that a commit needs.

        The last transfer does it: a client that deduplicates remembers what the store accepted, and
        would not send it. The files are hashed again too, because an outdated stored hash may name
        an object that does not exist.
        """
        ctx = self._ctx
        lost = [
            files[receipt.path_in_repo]
            for receipt in stored.receipts.values()
            if receipt.route != "inline" and not receipt.unchanged and receipt.path_in_repo in files
        ]  # streams cannot be read again

        def forget() -> None:
            for path in {file.disk_path for file in lost}:
                if path is not None:
                    ctx.journal.forget_hash(path)

        await in_thread(ctx.threads, forget)
        async with open_selector(ctx, last_only=True) as selector:
            again = await StoreStage(ctx, selector).run(lost)
        for error in again.changed.values():
            raise error
        for path, receipt in again.receipts.items():
            sent = stored.receipts[path].bytes_sent + receipt.bytes_sent
            stored.receipts[path] = replace(receipt, bytes_sent=sent)

    async def store(self, collected: CollectedSources) -> list[Receipt]:
        """Store without a commit; the receipts of inline files carry their bytes."""
        if self._ctx.options.dry_run:
            raise ValueError("upload_files takes no dry_run: use push_to_hub or commit with it")
        files = await self._planned(collected)
        early = self._early(collected)
        prepared = await prepare(self._ctx, files, early, search_leaks=True)
        assert prepared.head is not None
        if not prepared.skip_path_check:
            paths = [*_paths_of(files), *_paths_of(collected.streams)]
            await check_paths(self._ctx, paths, prepared.head)
        by_path, stored = await self._stored(collected, early)
        receipts = await self._following(
            collected,
            by_path,
            stored,
            lambda: packed(list(stored.receipts.values()), by_path, self._ctx.threads),
        )
        await self._warn_of_changes(by_path)
        return receipts

    async def commit(self, receipts: Iterable[Receipt]) -> UploadResult:
        """Commit what was stored before, in this process or another one."""
        ctx = self._ctx
        if not isinstance(receipts, Iterable):
            raise TypeError(f"receipts must be a list, not of type {type(receipts).__name__}")
        receipts = list(receipts)
        await in_thread(ctx.threads, lambda: check_receipts(receipts))
        total = sum(receipt.size for receipt in receipts)
        ctx.events.emit(FilesPlanned(len(receipts), total))
        try:
            head = await head_of_branch(ctx)
        except RepoNotFoundError as exc:
            raise exc.with_(suggestion=_WHERE_STORED) from exc
        if head is None:
            return self.plan_of(receipts)
        check_branch(ctx, head, await target_of_commits(ctx))
        head = await head_at_parent(ctx, head)
        content = {receipt.path_in_repo: receipt.content or b"" for receipt in receipts}

        def load(change: AddInline) -> bytes:
            return checked_content(change.path, change.oid, content[change.path])

        try:
            return await self.commit_receipts(receipts, head, load)
        except HubError as exc:
            if not is_lfs_pointer_missing(exc):
                raise
            raise exc.with_(suggestion=_NOT_STORED) from exc

    async def commit_receipts(
        self,
        receipts: Sequence[Receipt],
        head: str,
        load: LoadContent,
        *,
        bring: Callable[[Stored], Awaitable[None]] | None = None,
    ) -> UploadResult:
        """Commit on `head` what it does not have yet; `load` returns the bytes of inline files.
        `bring` makes sure that the store has the objects to commit. It is called once more if the
        Hub then reports that some are missing."""
        ctx = self._ctx
        shown = await remote_files(ctx, head, [receipt.path_in_repo for receipt in receipts])
        stored = await in_thread(ctx.threads, lambda: _compared(receipts, shown))
        deleted = await deletions(ctx, stored.receipts, head)
        if ctx.options.dry_run:
            await check_paths(ctx, list(stored.receipts), head)
            return self._plan(stored, deleted, head)
        if bring is not None:
            await bring(stored)

        async def commit() -> Outcome:
            changes, wanted = await self._changes(stored, deleted)
            return await self._commit(changes, wanted, head, load)

        try:
            outcome = await commit()
        except HubError as exc:
            if bring is None or not is_lfs_pointer_missing(exc):
                raise
            ctx.warn("the Hub has lost LFS objects that it had accepted; copying them again")
            await bring(stored)
            outcome = await commit()
        return await self._finish(stored, deleted, outcome)

    def plan_of(self, receipts: Sequence[Receipt]) -> UploadResult:
        """The plan of a dry run for files whose repo or branch does not exist yet."""
        return self._plan(_compared(receipts, {}), [], None)

    def _early(self, collected: CollectedSources) -> EarlyModes:
        """Streams change the list of files, and a dry run compares it with the head."""
        alone = not collected.streams and not self._ctx.options.dry_run
        return EarlyModes(self._ctx, collected.files if alone else ())

    async def _stored(
        self, collected: CollectedSources, early: EarlyModes
    ) -> tuple[dict[str, FileSource], Stored]:
        """The files by path, including streams that had to be spooled, and what was stored."""
        ctx, files = self._ctx, collected.files
        async with open_selector(ctx) as selector:
            streamed, spooled = await StreamStage(ctx, selector).run(collected.streams)
            if collected.streams:  # now their sizes are known
                files = tuple(sorted((*files, *spooled), key=lambda file: file.path_in_repo))
                sizes = [file.size for file in files]
                sizes += [receipt.size for receipt in streamed.receipts.values()]
                ctx.events.emit(FilesPlanned(len(sizes), sum(sizes)))
            by_path = await in_thread_if_many(
                ctx.threads, files, lambda: {file.path_in_repo: file for file in files}
            )
            stored = await StoreStage(ctx, selector, early=early).run(files)
        stored.receipts.update(streamed.receipts)
        stored.ignored += streamed.ignored
        await self._store_changed(collected, by_path, stored)
        self._warn_if_all_ignored(stored)
        return by_path, stored

    async def _store_changed(
        self,
        collected: CollectedSources,
        files: dict[str, FileSource],
        stored: Stored,
        *,
        store: bool = True,
    ) -> None:
        """Collect the files again that changed while they were stored, and store their current
        content. Both mappings are updated. Raises `SourceChangedError` for changes that cannot be
        followed."""
        ctx = self._ctx
        for _ in range(COLLECTED_AGAIN):
            if not stored.changed:
                return
            again: list[FileSource] = []
            for path, error in stored.changed.items():
                before = files[path]
                file = await collected.again(before) if before.may_change else before
                if file is None:
                    check_whole(ctx.options, [path])
                    self._notices.notice("removed files", f"{error.message}: left out")
                    del files[path]
                    stored.receipts.pop(path, None)
                    continue
                if file is not before:
                    self._notices.notice("files that changed", f"{error.message}: read again")
                files[path] = file
                again.append(file)
            total = await in_thread_if_many(
                ctx.threads, files, lambda: sum(file.size for file in files.values())
            )
            ctx.events.emit(FilesPlanned(len(files), total))
            await check_leaks(ctx, again, keep=True)
            async with open_selector(ctx) as selector:
                stored.merge(await StoreStage(ctx, selector, store=store).run(again))
        for error in stored.changed.values():
            raise error

    async def _following(
        self,
        collected: CollectedSources,
        files: dict[str, FileSource],
        stored: Stored,
        commit: Callable[[], Awaitable[T]],
    ) -> T:
        """Run `commit`, which reads inline files again. Files that have changed since they were
        hashed are collected again first."""
        for attempt in range(1 + COLLECTED_AGAIN):
            stored.changed = await in_thread(
                self._ctx.threads, lambda: _changed_inline(files, stored)
            )
            await self._store_changed(collected, files, stored)
            try:
                return await commit()
            except SourceChangedError:
                if attempt == COLLECTED_AGAIN or not any(f.may_change for f in files.values()):
                    raise
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    async def _warn_of_changes(self, files: Mapping[str, FileSource]) -> None:
        """Warn about followed files that have changed since the push began."""
        grown = await in_thread(self._ctx.threads, lambda: changes_of(files))
        for notice in (*self._notices.notices, *grown.notices):
            self._ctx.warn(notice)

    def _warn_if_all_ignored(self, stored: Stored) -> None:
        count = len(stored.ignored)
        if count and not stored.receipts:
            files = "the only file is" if count == 1 else f"all {count:,} files are"
            self._ctx.warn(
                f"nothing to upload: {files} ignored by a .gitignore, the repo's or the source's"
                " own; edit that file, or exclude the source's with ignore_patterns=['.gitignore']"
            )

    async def _planned(self, collected: CollectedSources) -> tuple[FileSource, ...]:
        """The files, after the checks that need neither their bytes nor the Hub."""
        for notice in collected.notices:
            self._ctx.warn(notice)
        ctx, files = self._ctx, collected.files
        check_whole(ctx.options, collected.gone)
        total = await in_thread_if_many(
            ctx.threads, files, lambda: sum(file.size for file in files)
        )
        ctx.events.emit(FilesPlanned(len(files), total))
        for warning in await in_thread_if_many(ctx.threads, files, lambda: check_limits(files)):
            ctx.warn(warning)
        return files

    async def _changes(
        self, stored: Stored, deleted: Sequence[Delete]
    ) -> tuple[list[Change], list[Change]]:
        """The changes to make, and the wanted end state of all files. Here and below, work that
        grows with the number of files runs outside the event loop."""

        def changes() -> tuple[list[Change], list[Change]]:
            receipts = stored.receipts.values()
            changes = in_order(additions(receipts), deleted)
            if not any(receipt.unchanged for receipt in receipts):
                return changes, changes
            return changes, in_order(additions(receipts, unchanged=True), deleted)

        return await in_thread_if_many(self._ctx.threads, stored.receipts, changes)

    async def _commit(
        self,
        changes: list[Change],
        wanted: list[Change],
        head: str,
        load: LoadContent,
    ) -> Outcome:
        """Make one commit, or a series when there are many changes, or none when nothing changed.
        `wanted` is the end state: the changes, and the files that `head` had already."""
        ctx = self._ctx
        in_series, warning = await in_thread_if_many(
            ctx.threads, changes, lambda: _needs_series(ctx.options, changes)
        )
        if not changes or in_series:
            check_parent(ctx, head)
        if not changes:
            return Outcome(head, ctx.commit_url(head), ours=False)
        if warning is not None:
            ctx.warn(warning)
        async with self._lock():
            try:
                return await self._commit_now(changes, wanted, head, load, in_series=in_series)
            except HubError as exc:
                if exc.status == 400:
                    await self._check_paths_again(paths_added(changes), exc)
                raise

    async def _commit_now(
        self,
        changes: list[Change],
        wanted: list[Change],
        head: str,
        load: LoadContent,
        *,
        in_series: bool,
    ) -> Outcome:
        ctx, options = self._ctx, self._ctx.options
        if options.revision == DEFAULT_BRANCH and (in_series or options.create_pr):
            return await commit_in_pull_request(
                ctx, changes, wanted, head, load, size=commit_limits(options)
            )
        if in_series:
            ctx.warn(f"the commits appear on {options.revision} one by one")
            return await commit_series(
                ctx,
                changes=changes,
                wanted=wanted,
                head=head,
                revision=options.revision,
                load=load,
                size=commit_limits(options),
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
            ctx.warn(f"an interruption could not have been resumed: {ctx.journal.disabled_reason}")
        ctx.enter("done")
        return await in_thread_if_many(
            ctx.threads, receipts, lambda: self._result(stored, receipts, gone, outcome)
        )

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
        # The commit may have included it unchanged: see `additions`.
        added -= {r.path_in_repo for r in receipts if r.unchanged} & {WRITTEN_BY_THE_HUB}
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
        self,
        collected: CollectedSources,
        files: Sequence[FileSource],
        head: str | None,
        selector: TransferSelector,
    ) -> UploadResult:
        ctx = self._ctx
        if head is None:
            ctx.warn(
                f"{ctx.repo.repo_id} (or its branch) does not exist and would be created;"
                " which files go inline is a guess by size"
            )
            return self._plan(guessed(files), [], None)
        stored = await StoreStage(ctx, selector, store=False).run(files)
        by_path = {file.path_in_repo: file for file in files}
        await self._store_changed(collected, by_path, stored, store=False)
        self._warn_if_all_ignored(stored)
        deleted = await deletions(ctx, by_path, head, collected.holds)
        return self._plan(stored, deleted, head)

    def _plan(self, stored: Stored, deleted: Sequence[Delete], head: str | None) -> UploadResult:
        elapsed = time.monotonic() - self._started
        return planned(self._ctx, stored, deleted, head, elapsed_seconds=elapsed)


def _paths_of(files: Iterable[FileSource | OpenStream]) -> list[str]:
    return [file.path_in_repo for file in files]


def _needs_series(options: PushOptions, changes: Sequence[Change]) -> tuple[bool, str | None]:
    """Whether these changes need several commits; if not, the warning for a single one, if any."""
    in_series = len(split(changes, commit_limits(options))) > 1
    if in_series or options.max_files_per_commit is not None:
        return in_series, None
    return False, warning_of_slow_commit(changes)


def _changed_inline(
    files: Mapping[str, FileSource], stored: Stored
) -> dict[str, SourceChangedError]:
    """The followed files in the commit whose bytes no longer match their hash. Only files whose
    size or times differ are read."""
    changed: dict[str, SourceChangedError] = {}
    for path, receipt in stored.receipts.items():
        file = files.get(path)
        if (
            receipt.route != "inline"
            or receipt.unchanged
            or file is None
            or not looks_changed(file)
        ):
            continue
        try:
            if git_blob_oid(read_again(file)) != receipt.oid:
                changed[path] = changed_source(file, "was written to")
        except SourceChangedError as exc:
            changed[path] = exc
    return changed


def _compared(receipts: Sequence[Receipt], shown: Mapping[str, RemoteFile]) -> Stored:
    """The receipts, each marked as unchanged if the Hub shows exactly this file already."""
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
    """The plan of a dry run. Without a `head`, the repo or its branch would be created."""
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
    """Routes guessed from sizes: a repo that does not exist yet cannot be asked."""
    stored = Stored()
    for file in files:
        route: Route = "lfs" if file.size > SURELY_LFS else "inline"
        stored.receipts[file.path_in_repo] = Receipt(file.path_in_repo, file.size, "", route)
    return stored


def _planned_file(receipt: Receipt) -> PlannedFile:
    action = "unchanged" if receipt.unchanged else receipt.route
    return PlannedFile(receipt.path_in_repo, receipt.size, action)
