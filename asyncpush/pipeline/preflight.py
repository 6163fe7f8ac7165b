"""Checks before any bytes are sent: the head to build on, and everything that would stop the push.

The repo and the branch are created if the options allow it. The model card, the Hub's limits and
possible credentials are checked. Limits are from the Hub's documentation ("Storage limits", "Tips
for uploading large files").
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field
from functools import partial
from typing import TypeVar

import anyio

from asyncpush.concurrency.task_groups import batches, for_each, for_group, single_error
from asyncpush.concurrency.threads import in_thread, in_thread_if_many
from asyncpush.errors import (
    CommitConflictError,
    HubError,
    PullRequestClosedError,
    RepoNotFoundError,
    SourceChangedError,
    SourceError,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import CARD_NAME, FileSource, Receipt
from asyncpush.net.credentials import every_token, token_files
from asyncpush.options import PushOptions
from asyncpush.pipeline.changes import DEFAULT_BRANCH, LFS_FILES_A_COMMIT, deletions
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.routing import SURELY_LFS, EarlyModes, is_missing
from asyncpush.pipeline.verification import all_remote_files, path_kinds, remote_files
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import AddLfs, Change, same_commit
from asyncpush.protocol.failures import is_unsupported
from asyncpush.protocol.http import HubRequest, HubResponse
from asyncpush.sources import read_all, read_sample
from asyncpush.sources.leaks import LFS_POINTER, HubTokens, Leak, ReadSome, find_leaks
from asyncpush.sources.paths import folders_above
from asyncpush.sources.problem_report import ProblemReport

T = TypeVar("T")

REPO_NOT_FOUND = "RepoNotFound"
REVISION_NOT_FOUND = "RevisionNotFound"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known about the branch before anything is stored."""

    head: str | None
    """The commit of its head; None in a dry run when the repo or branch is missing."""
    skip_path_check: bool
    """Whether `check_paths` can be skipped, because the paths were checked together with the
    head."""


async def prepare(
    ctx: PushContext,
    files: tuple[FileSource, ...],
    early: EarlyModes,
    *,
    search_leaks: bool = False,
) -> Prepared:
    """The branch's head. The repo and branch are created if the options allow it.

    Raises `SourceError` when the Hub rejects the card's metadata, and with `search_leaks` what
    `check_leaks` raises, before anything is created. The head, the paths, and the modes of a small
    push are requested at the same time, which saves most pushes two round trips. Many files are
    searched at the same time too. Of few, `early` needs the bytes that the search keeps.
    """
    ahead = _EarlyAnswers(early)
    if search_leaks and not early.paths_only:
        await check_leaks(ctx, files, keep=True)
    with single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(for_group(check_card), ctx, files)
            if search_leaks and early.paths_only:
                group.start_soon(for_group(partial(check_leaks, keep=True)), ctx, files)
            answer = await _ask_head(ctx, ahead)
    head = await ensure_head(ctx, answer, ahead)
    if head is not None:
        check_branch(ctx, head, ahead.branch)
    return Prepared(head, ahead.skip_path_check)


@dataclass(slots=True)
class _EarlyAnswers:
    """The results of requests made at the same time as the one for the head."""

    modes: EarlyModes
    skip_path_check: bool = False
    branch: Target = field(default_factory=lambda: Target())

    async def ask_target(self, ctx: PushContext) -> None:
        self.branch = await target_of_commits(ctx)

    async def ask_paths(self, ctx: PushContext) -> None:
        """Ask for path conflicts. One that is found is not an error yet, since the answer may be
        older than the head."""
        paths = await self.modes.paths()
        if not paths or ctx.repo_created:
            return
        revision = ctx.options.revision
        try:
            found = await _conflicts(ctx, paths, revision, expected=is_missing)
        except HubError:
            self.skip_path_check = (
                True  # it only saves an upload, and is made again if the commit is refused
            )
        else:
            self.skip_path_check = not any(found)

    def discard(self) -> None:
        self.modes.discard()
        self.skip_path_check = False


async def _ask_head(ctx: PushContext, ahead: _EarlyAnswers) -> str | HubError:
    """The head, or the error for a repo or branch that does not exist yet. The other answers count
    only once the head is known."""
    answer: str | HubError
    with single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(for_group(ahead.modes.ask))
            group.start_soon(for_group(ahead.ask_paths), ctx)
            group.start_soon(for_group(ahead.ask_target), ctx)
            try:
                answer = await observed_head(ctx, ctx.options.revision)
            except HubError as exc:
                if not isinstance(exc, RepoNotFoundError) and exc.error_code != REVISION_NOT_FOUND:
                    raise
                answer = exc
                group.cancel_scope.cancel()
    if isinstance(answer, HubError):
        ahead.discard()
    ahead.modes.check()
    return answer


async def ensure_head(ctx: PushContext, answer: str | HubError, ahead: _EarlyAnswers) -> str | None:
    """The head is requested first: most pushes go to an existing repo, and so need no create
    call."""
    try:
        return await _head_or_new_branch(ctx, answer)
    except RepoNotFoundError as exc:
        if not ctx.options.create_repo:
            raise
        _check_new_repo(ctx.options, exc)
        if ctx.options.dry_run:
            return None
    conflict = await _create(ctx)
    try:
        return await _head_or_new_branch(ctx, await _ask_head(ctx, ahead))
    except RepoNotFoundError:
        if conflict is not None:
            raise conflict from None  # the name is taken by a repo that this user cannot see
        raise


async def observed_head(ctx: PushContext, revision: str) -> str:
    return await ctx.session.ask(
        repos.head_request(ctx.repo, revision),
        repos.parse_head,
        ctx.events,
        describe=lambda oid: {"commit_sha": oid},
        expected=lambda error: error.error_code in (REPO_NOT_FOUND, REVISION_NOT_FOUND),
    )


async def head_of_branch(ctx: PushContext) -> str | None:
    """The head of the branch, which is created if the options allow it; None if a dry run would
    create it. The repo must exist."""
    looked: str | HubError
    try:
        looked = await observed_head(ctx, ctx.options.revision)
    except HubError as exc:
        looked = exc
    return await _head_or_new_branch(ctx, looked)


@dataclass(frozen=True, slots=True)
class Target:
    """What is known about the revision to commit to, besides its head."""

    tags: frozenset[str] = frozenset()
    """The repo's tags."""
    pull_request: repos.PullRequest | None = None


async def target_of_commits(ctx: PushContext) -> Target:
    """Ask what the revision is. Most pushes go to main and need not ask; what the Hub does not say
    is left out."""
    revision = ctx.options.revision

    async def ask(request: HubRequest, parse: Callable[[HubResponse], T]) -> T | None:
        try:
            return await ctx.session.ask(
                request, parse, ctx.events, expected=lambda error: True, retry=False
            )
        except HubError:
            return None

    if revision == DEFAULT_BRANCH:
        return Target()
    if (found := re.fullmatch(_PULL_REQUEST, revision)) is not None:
        request = repos.pull_request_request(ctx.repo, int(found[1]))
        return Target(pull_request=await ask(request, repos.parse_pull_request))
    if revision.startswith("refs/"):
        return Target()
    return Target(await ask(repos.refs_request(ctx.repo), repos.parse_tags) or frozenset())


_PULL_REQUEST = r"refs/pr/([1-9][0-9]{0,8})"


def check_branch(ctx: PushContext, head: str, target: Target) -> None:
    """Raise `HubError` if the revision, whose commit is `head`, cannot be committed to: the Hub
    would refuse the commit after all bytes were sent. A pull request that was closed or merged
    would take it, and nobody would see it."""
    pull = target.pull_request
    if pull is not None and pull.status in ("closed", "merged"):
        reopen = "" if pull.status == "merged" else "reopen it, or "
        raise PullRequestClosedError(
            f"pull request #{pull.number} has been {pull.status}: nothing was sent",
            merged=pull.status == "merged",
            url=ctx.pull_request_url(pull.number),
            suggestion=f"{reopen}open another one with create_pr=True (--create-pr)",
        )
    revision = ctx.options.revision
    is_hex = len(revision) >= SHORT_OID and set(revision) <= set("0123456789abcdef")
    if revision in target.tags or revision.startswith("refs/tags/"):
        kind = "a tag"
    elif is_hex and same_commit(head, revision):
        kind = "a commit"
    elif revision == "HEAD":
        kind = "the head of the default branch"
    else:
        return
    raise HubError(
        f"revision {revision!r} is {kind}, not a branch: nothing was sent",
        url=ctx.repo_url,
        suggestion="name a branch with revision (--revision); create_branch=True"
        " (--create-branch) creates a missing one",
    )


def _check_new_branch(name: str, missing: HubError) -> None:
    """Raise the error for a branch that is missing and that the Hub would not create."""
    if name.startswith("refs/") or (len(name) == 40 and set(name) <= set("0123456789abcdef")):
        raise missing.with_(
            suggestion=f"no branch can be created with the name {name!r}: choose another revision"
        ) from missing.__cause__


def _check_new_repo(options: PushOptions, missing: RepoNotFoundError) -> None:
    """Raise an error for options that no new repo can meet, before one is created: a parent
    commit, and a branch other than main, unless it is to be created too."""
    if options.parent_commit is not None:
        raise missing.with_(
            suggestion="check the spelling; a repo that is created has no commit to pin:"
            " leave out parent_commit"
        )
    if options.revision != DEFAULT_BRANCH and not options.create_branch:
        raise missing.with_(
            suggestion=f"check the spelling; a repo that is created has no branch"
            f" {options.revision!r}: create_branch=True (--create-branch) creates it too"
        )


SHORT_OID = 7
"""How many digits of a commit's oid the Hub takes for it."""

PARENT_WAITS = (0.5, 1.0, 2.0)
"""Seconds between checks of a head that does not follow the pinned parent: a Hub may know of a new
commit for a while before it shows it."""


async def head_at_parent(ctx: PushContext, head: str) -> str:
    """The head, which is the pinned parent if there is one. Raises `CommitConflictError` before
    anything is sent if it is another commit.

    The Hub checks the parent again when it makes the commit. A push that opens a pull request and
    was interrupted before is left to it: what that push has committed is not lost by a conflict.
    """
    pinned = ctx.options.parent_commit
    if pinned is None or same_commit(head, pinned):
        return head
    if ctx.options.create_pr and not ctx.options.dry_run:
        has_pending = partial(ctx.journal.has_pending_commits, ctx.scope)
        if await in_thread(ctx.push_threads.journal, has_pending):
            return head
    if not await _has_in_history(ctx, head, pinned):
        for wait in PARENT_WAITS:
            await asyncio.sleep(wait)
            head = await observed_head(ctx, ctx.options.revision)
            if same_commit(head, pinned):
                break
    check_parent(ctx, head)
    return head


async def check_parent_early(ctx: PushContext) -> None:
    """Raise `CommitConflictError` if the parent is pinned and the branch is known to be at another
    commit. Nothing is created, and a head that cannot be read is no error yet."""
    if ctx.options.parent_commit is None:
        return
    try:
        head = await observed_head(ctx, ctx.options.revision)
        await head_at_parent(ctx, head)
    except CommitConflictError:
        raise
    except HubError:
        return  # the commit reports what is wrong


async def _has_in_history(ctx: PushContext, head: str, commit: str) -> bool:
    """Whether the commit is among the latest before this head; False if the Hub does not say."""
    try:
        logged = await ctx.session.ask(
            repos.commits_request(ctx.repo, head), repos.parse_commits, ctx.events
        )
    except HubError:
        return False
    return any(same_commit(each.oid, commit) for each in logged)


def check_parent(ctx: PushContext, head: str) -> None:
    """Raise `CommitConflictError` when the parent was pinned and differs from this head."""
    pinned = ctx.options.parent_commit
    if pinned is not None and not same_commit(head, pinned):
        raise CommitConflictError(
            f"the branch is at {head}, not at the pinned parent {pinned}; nothing was committed",
            url=ctx.repo_url,
            suggestion="someone else's commit came first, or parent_commit is of another branch:"
            " look at the branch, then try again without parent_commit, which puts these files on"
            " top of it, or with the new head as parent_commit",
        )


async def _head_or_new_branch(ctx: PushContext, answer: str | HubError) -> str | None:
    revision = ctx.options.revision
    if isinstance(answer, str):
        return answer
    if answer.error_code != REVISION_NOT_FOUND or not ctx.options.create_branch:
        raise answer
    _check_new_branch(revision, answer)
    if ctx.options.dry_run:
        return None
    try:
        await ctx.session.ask(
            repos.create_branch_request(ctx.repo, revision),
            lambda response: None,
            ctx.events,
            expected=_is_conflict,
        )
    except HubError as exc:
        if exc.status != 409:  # 409: another push has just created it
            raise
    ctx.session.created.note(ctx.repo, revision)
    return await observed_head(ctx, revision)


async def _create(ctx: PushContext) -> HubError | None:
    """Create the repo. Returns the conflict, if any. It may still be usable: another push may have
    just created it, or a call of ours whose answer was lost. Requesting its head shows whether we
    can see it."""
    conflict = None
    try:
        await ctx.session.ask(
            repos.create_request(ctx.repo, ctx.options),
            repos.check_created,
            ctx.events,
            expected=_is_conflict,
        )
    except HubError as exc:
        if exc.status != 409:
            raise
        conflict = exc
    ctx.session.created.note(ctx.repo)
    ctx.repo_created = conflict is None
    return conflict


def _is_conflict(error: HubError) -> bool:
    return error.status == 409 and not error.retryable


CARD_LIMIT = 1 << 20
"""How many bytes of a README are checked; its metadata is at the top."""


async def check_card(ctx: PushContext, files: Sequence[FileSource]) -> None:
    """Raise `SourceError` when the Hub rejects the card; pass on the Hub's warnings."""
    card = next((file for file in files if file.path_in_repo == CARD_NAME), None)
    if card is None or card.size > CARD_LIMIT:
        return
    try:
        content = await in_thread(ctx.threads, lambda: read_all(card))
    except SourceChangedError:
        if not card.may_change:
            raise
        return  # it will be collected again; the Hub refuses a commit with a wrong card
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{CARD_NAME} is not UTF-8 text: {exc}") from exc
    try:
        verdict = await ctx.session.ask(
            commits.validate_request(ctx.repo, text),
            commits.parse_verdict,
            ctx.events,
            expected=is_unsupported,
            accept=lambda response: response.status < 300 or commits.is_verdict(response),
        )
    except HubError as exc:
        if not is_unsupported(exc):
            raise
        ctx.warn(f"{CARD_NAME}: this Hub does not check metadata before a push (HTTP {exc.status})")
        return
    for warning in verdict.warnings:
        ctx.warn(f"{CARD_NAME}: {warning}")
    if verdict.errors:
        raise SourceError(
            f"the Hub rejects the metadata of {CARD_NAME}: " + "; ".join(verdict.errors),
            problems=verdict.errors,
            suggestion="fix the YAML between the --- lines at the top of the card, then try again",
        )


FILES_PER_HOP = 256
WORKERS = 4
"""Thread hops at once: on a network file system, opening each file takes time."""

LEAKS_LIMIT = 1000
"""After this many leaks no further file is searched: a longer list would not help."""

_SUGGESTION = (
    "leave these files out with ignore_patterns (--exclude), or leave out strict (--strict) if"
    " they are meant for all who can read the repo"
)

_IN_USE_SUGGESTION = (
    "move it out of the source, or leave it out with ignore_patterns (--exclude); if it has ever"
    " been published, revoke that token"
)

_POINTER_SUGGESTION = (
    "download the files with `git lfs pull` in their clone, or leave them out with ignore_patterns"
    " (--exclude); nothing was uploaded"
)


def check_whole(options: PushOptions, lost: Iterable[str]) -> None:
    """Raise `SourceChangedError` if the options want the source whole, and these files of it are
    lost: they were removed since the push began."""
    names = sorted(lost)
    if names and options.whole:
        raise SourceChangedError(
            f"{len(names):,} file(s) were removed while the source was collected and sent: it is"
            f" not whole without {', '.join(names[:10])}",
            problems=[f"{name!r} was removed" for name in names],
            suggestion="try again once nothing is removed from the source",
        )


async def check_leaks(ctx: PushContext, files: Sequence[FileSource], *, keep: bool = False) -> None:
    """Warn about possible credentials, naming file and line but never the secret. With `keep`, the
    bytes of small files are kept in `ctx.contents`.

    Raises `SourceError` instead when the push is strict, and always for a file that contains a Hub
    token in use, and for a Git LFS pointer; its `problems` name each place. A bucket has no Git and
    may hold pointers.
    """
    known = ctx.session.token.known
    report = ProblemReport()
    for leak in await in_thread(ctx.threads, lambda: _kept_tokens(known, files)):
        report.problem(str(leak))
    report.raise_problems(_IN_USE_SUGGESTION)
    leaks = await _scan(ctx, files, ctx.contents.read if keep else read_sample)
    if ctx.repo.repo_type != "bucket":
        for leak in leaks:
            if leak.kind == LFS_POINTER:
                report.problem(str(leak))
        report.raise_problems(_POINTER_SUGGESTION)
    for leak in leaks:
        if ctx.options.strict:
            report.problem(str(leak))
        else:
            report.notice(f"files with {leak.kind}", f"{leak}: is it meant to be published?")
    if len(leaks) >= LEAKS_LIMIT:
        report.notice("", "too many possible credentials: the remaining files were not checked")
    report.raise_problems(_SUGGESTION)
    for notice in report.notices:
        ctx.warn(notice)


def _kept_tokens(known: str, files: Sequence[FileSource]) -> list[Leak]:
    return HubTokens.of([known, *every_token()], token_files()).kept_in(files)


async def _scan(ctx: PushContext, files: Sequence[FileSource], read: ReadSome) -> list[Leak]:
    """The leaks in all files, in the order of the files. Each thread hop searches a batch of
    files."""
    found: dict[int, list[Leak]] = {}
    stop = threading.Event()

    async def check(numbered: tuple[int, Sequence[FileSource]]) -> None:
        number, batch = numbered
        scan = partial(find_leaks, batch, stop.is_set, read)
        found[number] = await in_thread(ctx.threads, scan, on_cancel=stop.set)
        if sum(map(len, found.values())) >= LEAKS_LIMIT:
            stop.set()

    await for_each(enumerate(batches(files, FILES_PER_HOP)), check, width=WORKERS)
    return [leak for number in sorted(found) for leak in found[number]]


LARGEST_FILE = 500 * 10**9
FILES_IN_A_FOLDER = 10_000
FILES_IN_A_REPO = 100_000
LFS_FILES_A_MINUTE = 100
"""About as many LFS files as one commit call can contain before its gateway times out."""


def check_limits(files: Sequence[FileSource | Receipt]) -> list[str]:
    """Warnings about what the Hub advises against. Raises `SourceError` for files that no Hub
    accepts."""
    too_large = [file for file in files if file.size > LARGEST_FILE]
    if too_large:
        problems = [f"{file.path_in_repo!r}: {file.size:,} bytes" for file in too_large]
        raise SourceError(
            f"the Hub accepts no file over {LARGEST_FILE:,} bytes: {'; '.join(problems[:20])}",
            problems=problems,
            suggestion="split the file; max_shard_size does that for safetensors",
        )
    warnings = []
    if len(files) > FILES_IN_A_REPO:
        warnings.append(
            f"{len(files):,} files: the Hub advises at most {FILES_IN_A_REPO:,} in a repo"
        )
    folders = Counter(file.path_in_repo.rpartition("/")[0] for file in files)
    for folder, count in folders.items():
        if count > FILES_IN_A_FOLDER:
            warnings.append(
                f"{folder or 'the top folder'} has {count:,} files: the Hub advises at most"
                f" {FILES_IN_A_FOLDER:,} in a folder"
            )
    return warnings


async def check_one_commit(
    ctx: PushContext, files: Sequence[FileSource | Receipt], head: str
) -> None:
    """Check, before bytes are sent, that the LFS files fit into one commit, or can appear at once.

    More LFS files than one commit call can handle become a series of commits that appears at once.
    On a branch that the Hub cannot merge into, that is impossible, and the user has to choose.
    Raises `SourceError`. Files that the branch has with the same size may be unchanged, and do not
    count.
    """
    options = ctx.options
    if options.revision == DEFAULT_BRANCH or options.max_files_per_commit is not None:
        return
    large = {file.path_in_repo: file.size for file in files if file.size > SURELY_LFS}
    if len(large) <= LFS_FILES_A_COMMIT:
        return
    there = await remote_files(ctx, head, list(large))
    count = sum(path not in there or there[path].size != size for path, size in large.items())
    if count > LFS_FILES_A_COMMIT:
        raise SourceError(
            f"{count:,} LFS files are too many for one commit, and the Hub can show several commits"
            f" at once only on {DEFAULT_BRANCH}, not on {options.revision}",
            problems=[f"{count:,} LFS files for one commit on {options.revision}"],
            suggestion=f"commit to {DEFAULT_BRANCH}, or set max_files_per_commit (for example"
            f" {LFS_FILES_A_COMMIT}): the commits then show one by one",
        )


PATHS_ASKED = 5_000
"""The most files for which the repo is asked whether any of them is a folder there."""


async def _conflicts(
    ctx: PushContext,
    paths: Collection[str],
    revision: str,
    *,
    expected: Callable[[HubError], bool] = lambda error: False,
) -> tuple[list[str], list[str]]:
    """Files of the repo where a folder is needed, and folders where a file is needed. Raises
    `HubError`; an `expected` one is not reported."""

    def to_ask() -> tuple[list[str], list[str]]:
        above = {folder for path in paths for folder in folders_above(path)}
        return sorted(above), sorted(paths) if len(paths) <= PATHS_ASKED else []

    above, files = await in_thread_if_many(ctx.threads, paths, to_ask)
    kinds = await path_kinds(ctx, revision, [*above, *files], expected=expected)
    ctx.files_there = any(kinds.get(path) == "file" for path in files)
    in_the_way = [path for path in above if kinds.get(path) == "file"]
    return in_the_way, [path for path in files if kinds.get(path) == "directory"]


async def check_paths(
    ctx: PushContext, paths: Collection[str], head: str, *, done: str = "nothing was uploaded"
) -> None:
    """Raise `SourceError` when a path to push is a folder in the repo, or is below a file there,
    unless the same push deletes what is in the way. The Hub would refuse such a commit only
    after all bytes were sent. For more than `PATHS_ASKED` files, only the folders above them are
    checked."""
    if ctx.repo_created:
        return  # a new repo has nothing that could be in the way

    try:
        in_the_way, folders = await _conflicts(ctx, paths, head)
    except HubError:
        return  # this check only saves an upload; the next call reports what is wrong
    if not in_the_way and not folders:
        return
    deleted = {change.path for change in await deletions(ctx, paths, head)}
    if folders and deleted:
        there = await all_remote_files(ctx, head)
        kept = {above for f in there if f.path not in deleted for above in folders_above(f.path)}
        folders = [path for path in folders if path in kept]
    report = ProblemReport()
    for path in in_the_way:
        if path not in deleted:
            below = min(file for file in paths if file.startswith(path + "/"))
            report.problem(f"{below!r} cannot be added: {path!r} is a file in the repo")
    for path in folders:
        report.problem(f"{path!r} cannot be added: it is a folder in the repo")
    report.raise_problems(
        "choose another path_in_repo, or delete what is in the way in the same commit, with"
        f" delete_patterns (--delete); {done}"
    )


def warning_of_slow_commit(changes: Sequence[Change]) -> str | None:
    """The warning about a commit of this many LFS files, or None."""
    count = sum(isinstance(change, AddLfs) for change in changes)
    if count <= LFS_FILES_A_MINUTE:
        return None
    return (
        f"{count} LFS files in one commit may take the Hub longer than a minute: it is waited"
        " for, or set max_files_per_commit"
    )
