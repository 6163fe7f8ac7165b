"""Makes exactly one commit, even when the answer to it is lost.

The POST names the head that it follows as its parent, so the Hub accepts it at most once. When no
answer arrives, the branch is checked before anything is sent again: a commit with this push's id is
ours, and the work is done. Commits with an unknown outcome are recorded in the journal, so that the
next push finds them too."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Generic, TypeVar

from asyncpush.concurrency.threads import (
    each_in_thread,
    in_thread,
    in_thread_anyway,
    in_thread_if_many,
)
from asyncpush.errors import (
    AsyncPushError,
    CommitConflictError,
    HubError,
    ProtocolError,
    SourceChangedError,
)
from asyncpush.events import CommitStarted, Committed, FileStored
from asyncpush.journal import Claim, PendingCommit
from asyncpush.lazy_dataclass import dataclass
from asyncpush.pipeline.changes import remaining_changes, title
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import observed_head
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import (
    AddInline,
    Change,
    CommitAnswer,
    CommitHeader,
    Delete,
)
from asyncpush.protocol.failures import is_unsupported, may_be_done, may_still_land
from asyncpush.protocol.http import StreamBody

REBASES = 30
"""How often a commit is rebuilt when someone else has moved the head. Two clients that push without
a pause lose about every other race; ten losses in a row happened once in a thousand pushes."""

HEAD_WAITS = (0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0)
"""Seconds between checks of a head that was refused as a parent but is still shown: a Hub may know
of a new commit for a while before it shows it."""

UNCLEAR_HEAD_WAITS = (*HEAD_WAITS, *(10.0,) * 9)
"""The same when an answer to us was lost: two minutes, since the new commit is probably ours."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The commit that contains the changes. `ours` is False when the head had all of them already.
    `added` has the paths of the files that the commit added, if known."""

    commit_sha: str
    commit_url: str
    pr_url: str | None = None
    ours: bool = True
    added: frozenset[str] | None = None


class Committer:
    """Makes one commit on one ref.

    `load` returns inline files' bytes. With `create_pr` the commit opens a pull request against
    `revision`. `pinned` is the only parent it may have. `pr_url` is the page of the pull request
    that `revision` is the ref of. `final` is False when more commits of the same push follow.
    """

    def __init__(
        self,
        ctx: PushContext,
        load: LoadContent,
        revision: str,
        *,
        create_pr: bool = False,
        pinned: str | None = None,
        pr_url: str | None = None,
        final: bool = True,
    ) -> None:
        self._ctx = ctx
        self._load = load
        self._revision = revision
        self._create_pr = create_pr
        self._pinned = pinned
        self._pr_url = pr_url
        self._final = final
        self._lost: HubError | None = None
        """The latest failed attempt that the Hub may still have been working on."""
        self.rebased = False
        """Whether someone else's commit came first, so that more changes may be needed."""
        self._push_id = ctx.push_id
        self._summary = ""
        self._wanted: Sequence[Change] = ()
        self._sent = False

    async def commit(
        self,
        changes: Sequence[Change],
        head: str,
        *,
        wanted: Sequence[Change] | None = None,
        summary: str | None = None,
    ) -> Outcome:
        """Commit on `head`, or on the pinned parent.

        When someone else's commit comes first, the rest of `wanted` is committed on top of it.
        `wanted` includes what `head` had already; it defaults to `changes`. Raises
        `CommitConflictError` when the parent was pinned, when the Hub refuses a head that does not
        move, or after `REBASES` races.
        """
        self._wanted = changes if wanted is None else wanted
        self._summary = summary or title(self._ctx, changes)
        if not self._create_pr:
            return await self._rebasing(changes, head)
        # On a branch, the next preupload shows what was committed. It does not show what is in a
        # pull request, so the journal records for a later process that one may be open already.
        async with remembered(self._ctx, changes) as pending:
            self._push_id, self._sent = pending.push_id, pending.push_id != self._ctx.push_id
            return await self._rebasing(changes, head)

    async def _rebasing(self, changes: Sequence[Change], head: str) -> Outcome:
        ctx = self._ctx
        ctx.enter("committing")
        first = parent = self._pinned or head
        latest: CommitConflictError | None = None
        refused_on: str | None = None
        attempt = 1
        for rebase in range(1, REBASES + 1):
            base = parent
            # A random pause: with equal pauses the same one of two clients would always lose.
            pause = random.random() * ctx.config.initial_backoff_ms / 1000
            again = self._pinned is None and refused_on != parent and rebase < REBASES
            try:
                answer = await self._commit_on(parent, changes, attempt, pause if again else None)
            except CommitConflictError as exc:
                if self._pinned is not None:
                    raise
                if refused_on == parent and self._lost:
                    raise _outcome_unknown(exc, parent) from exc
                if refused_on == parent:
                    in_pull_request = self._create_pr or self._pr_url is not None
                    raise _refused_without_reason(exc, parent, in_pull_request) from exc
                latest, refused_on, attempt = exc, parent, exc.attempt + 1
                self.rebased = True
                await asyncio.sleep(pause)
                parent = await self._moved_head(parent)
                changes = await remaining_changes(ctx, self._wanted, parent)
                if changes:
                    continue
                landed = await self._landed_as_far_as_known(first, self._wanted)
                if landed is None and self._lost:
                    # The answer was lost, and the branch has everything that was sent: this is our
                    # commit, on a Hub that does not show descriptions.
                    landed = CommitAnswer(parent, ctx.commit_url(parent))
                if landed is None:
                    url = ctx.commit_url(parent)
                    return Outcome(parent, url, ours=False, added=frozenset())
                answer, changes = landed, self._wanted
            if commits.same_commit(answer.oid, base):
                return await self._nothing_committed(base, answer)
            pr_url = answer.pr_url or self._pr_url
            ctx.events.emit(Committed(answer.oid, answer.url, pr_url, self._final))
            if not self._final:
                self._report_inline_stored(changes)
            added = await in_thread_if_many(ctx.threads, changes, partial(paths_added, changes))
            return Outcome(answer.oid, answer.url, pr_url, added=added)
        assert latest is not None  # every round that ends here has set it
        raise latest.with_(
            message=f"the branch moved {REBASES} times while the commit was made",
            suggestion="other commits to this branch keep coming first: try again, or use"
            " create_pr=True (--create-pr)",
        ) from latest.__cause__

    async def _nothing_committed(self, head: str, answer: CommitAnswer) -> Outcome:
        """Handle an answer that names the previous head. It is right when the head has all of the
        changes, as with a Hub that does not report unchanged files."""
        if await remaining_changes(self._ctx, self._wanted, head):
            raise ProtocolError(
                f"the Hub answered the commit with the previous head, {head}:"
                " nothing was committed",
                url=answer.url,
                suggestion="try again; if it happens again, report it to this Hub's operators",
            )
        self._ctx.warn("no commit was made: the branch already has all of these files")
        return Outcome(head, self._ctx.commit_url(head), ours=False, added=frozenset())

    async def _moved_head(self, refused: str) -> str:
        """The branch's head, as soon as it differs from the refused parent; the same head when the
        waits are over."""
        head = await observed_head(self._ctx, self._revision)
        for wait in UNCLEAR_HEAD_WAITS if self._lost else HEAD_WAITS:
            if head != refused:
                break
            await asyncio.sleep(wait)
            head = await observed_head(self._ctx, self._revision)
        return head

    def _report_inline_stored(self, changes: Sequence[Change]) -> None:
        """Report the inline files of a commit that is not the push's last one: the last commit's
        event reports all the others."""
        for change in changes:
            if isinstance(change, AddInline):
                self._ctx.events.emit(FileStored(change.path, change.size, "inline"))

    async def _commit_on(
        self, parent: str, changes: Sequence[Change], attempt: int, pause: float | None
    ) -> CommitAnswer:
        """Commit on this parent. `attempt` is the number of the first attempt here. `pause` is
        the wait after a conflict, before the next attempt on another parent; None when there is
        none."""
        ctx = self._ctx
        deletions = await in_thread_if_many(
            ctx.threads, changes, lambda: sum(isinstance(change, Delete) for change in changes)
        )
        ctx.events.emit(CommitStarted(len(changes) - deletions, deletions, parent))

        if self._sent:
            landed = await self._landed_as_far_as_known(parent, changes)
            if landed is not None:
                return landed
        self._sent = True
        try:
            return await self._post(parent, changes, attempt, pause)
        except CommitConflictError as exc:
            # With a pinned parent, nothing is looked at after this.
            if self._pinned is not None and self._lost is not None:
                landed = await self._find(parent, changes, exc)
            else:
                landed = await self._landed_as_far_as_known(parent, changes)
            if landed is not None:
                return landed
            raise
        except (HubError, SourceChangedError) as exc:
            # Never report a failure when the commit was made: the last answer may be lost too, an
            # earlier attempt may have landed, and a proxy or a hook of the Hub may have failed
            # after the commit.
            if isinstance(exc, HubError) and may_still_land(exc):
                self._lost = exc
            if self._lost is None and not (isinstance(exc, HubError) and may_be_done(exc)):
                raise
            landed = await self._find(parent, changes, exc)
            if landed is None:
                raise
            if isinstance(exc, HubError) and self._lost is None and not _is_unanswered(exc):
                ctx.warn(f"the Hub made the commit, but answered {exc.status}: {exc.message}")
            return landed

    async def _find(
        self, parent: str, changes: Sequence[Change], failure: AsyncPushError
    ) -> CommitAnswer | None:
        """The commit, although it ended in `failure`. Raises the failure when this cannot be
        seen."""

        unclear = self._lost is not None or _is_unanswered(failure)

        async def find() -> CommitAnswer | None:
            landed = await self._landed_or_shown(parent, changes)
            if landed is None and unclear:
                landed = await self._shown_on_branch(parent, changes)
            return landed

        try:
            return await poll_for(find, self._lost)
        except HubError as looking:
            if unclear:
                note = f"(could not check whether the commit was made: {looking.message})"
                failure.add_note(note)
                raise failure from looking
            raise failure from failure.__cause__

    async def _landed_as_far_as_known(
        self, parent: str, changes: Sequence[Change]
    ) -> CommitAnswer | None:
        """The commit, if it was made. It was not when the Hub has refused every attempt, although
        this cannot be seen."""
        try:
            return await self._landed_or_shown(parent, changes)
        except HubError:
            if self._lost is not None:
                raise
            return None

    async def _landed_or_shown(self, parent: str, changes: Sequence[Change]) -> CommitAnswer | None:
        """As `_landed`. Where commits cannot be listed, the branch's files count."""
        try:
            return await self._landed(parent)
        except HubError:
            if (shown := await self._shown_on_branch(parent, changes)) is not None:
                return shown
            raise

    async def _shown_on_branch(self, parent: str, changes: Sequence[Change]) -> CommitAnswer | None:
        """The head, if it has moved and has all of these changes. This finds our commit on a Hub
        that hides descriptions, and so the push's id, and that refuses to make it twice."""
        if self._create_pr:
            return None
        try:
            head = await observed_head(self._ctx, self._revision)
            if head == parent or await remaining_changes(self._ctx, changes, head):
                return None
        except HubError:
            return None  # the user needs the commit's own failure
        return CommitAnswer(head, self._ctx.commit_url(head))

    async def _post(
        self, parent: str, changes: Sequence[Change], attempt: int, pause: float | None
    ) -> CommitAnswer:
        ctx = self._ctx
        header = CommitHeader(
            self._summary,
            commits.with_trailer(ctx.options.commit_description, self._push_id),
            parent,
        )
        body = await commit_payload(header, changes, self._load, ctx.threads)
        request = commits.commit_request(
            ctx.repo, self._revision, body, create_pr=self._create_pr, file_count=len(changes)
        )
        return await ctx.session.ask(
            request,
            partial(commits.parse_commit, endpoint=ctx.session.endpoint),
            ctx.events,
            describe=lambda answer: {"commit_sha": answer.oid, "commit_url": answer.url},
            reconcile=lambda failure: self._landed_before(parent, changes, failure),
            first=attempt,
            follow_up=lambda error: pause if isinstance(error, CommitConflictError) else None,
        )

    async def _landed_before(
        self, parent: str, changes: Sequence[Change], failure: HubError
    ) -> CommitAnswer | None:
        """Look for the commit before it is sent again."""
        if may_still_land(failure):
            self._lost = failure
        try:
            return await self._landed(parent, failure)
        except HubError as exc:
            if self._create_pr or not is_unsupported(exc):
                raise
            # The parent prevents a second commit on a branch.
            return await self._shown_on_branch(parent, changes)

    async def _landed(self, parent: str, failure: HubError | None = None) -> CommitAnswer | None:
        """This push's commit, if the Hub made it although its answer was lost.

        When the Hub may still be opening a pull request after `failure`, this waits for it: a
        second commit would open a second one. On a branch the pinned parent prevents that.
        """
        if self._create_pr:
            ctx, push_id = self._ctx, self._push_id
            return await poll_for(lambda: landed_in_pull_request(ctx, push_id), failure)
        return await landed_commit(self._ctx, self._revision, self._push_id, since=parent)


def _is_unanswered(error: AsyncPushError) -> bool:
    """Whether the answer was lost, came from a gateway, or makes no sense."""
    if isinstance(error, ProtocolError):
        return True
    return isinstance(error, HubError) and (error.status is None or error.status >= 500)


def paths_added(changes: Iterable[Change]) -> frozenset[str]:
    return frozenset(change.path for change in changes if not isinstance(change, Delete))


def _refused_without_reason(
    error: CommitConflictError, head: str, in_pull_request: bool
) -> CommitConflictError:
    """The error for a second 412 although the branch has not moved."""
    suggestion = (
        "the token may only be allowed to open pull requests: use create_pr=True (--create-pr), or"
        " a token that may write to this branch"
    )
    if in_pull_request:
        suggestion = "try again later; if it happens again, report it to the operators of this Hub"
    message = f"the Hub refuses a commit on {head}, although the branch has not moved"
    return error.with_(message=f"{message}: {error.message}", suggestion=suggestion)


def _outcome_unknown(error: CommitConflictError, head: str) -> CommitConflictError:
    """The error for a 412 on an unmoved head after an answer to us was lost."""
    return error.with_(
        message="the answer to the commit was lost, and the Hub refuses another commit on"
        f" {head}, which it still reports as the branch's head; the commit may have been made:"
        f" {error.message}",
        suggestion="check the branch, then try again: files that are already there are not"
        " committed twice",
    )


LINES_PER_HOP = 64
"""How many inline files' lines are in memory at once while the body is streamed."""

HOP_BYTES = 1 << 20

LoadContent = Callable[[AddInline], bytes]
"""Returns the bytes of an inline file; called in a thread. Raises `SourceChangedError` when they do
not have the hash that the commit names."""


async def commit_payload(
    header: CommitHeader, changes: Sequence[Change], load: LoadContent, threads: Executor
) -> StreamBody:
    """The commit's body. Sending it raises `SourceChangedError` when a file has changed since it
    was hashed."""

    async def lines() -> AsyncIterator[bytes]:
        yield commits.header_line(header)
        remaining = iter(changes)
        while batch := _next_batch(remaining):
            encoded = await each_in_thread(threads, batch, partial(_encode, load=load))
            yield b"".join(chain.from_iterable(encoded))

    size = await in_thread_if_many(threads, changes, lambda: commits.payload_size(header, changes))
    return StreamBody(size, lines)


def _next_batch(changes: Iterator[Change]) -> list[Change]:
    """The next changes: few enough for one thread hop, and small enough for memory."""
    batch: list[Change] = []
    size = 0
    for change in islice(changes, LINES_PER_HOP):
        batch.append(change)
        size += change.size if isinstance(change, AddInline) else 0
        if size >= HOP_BYTES:
            break
    return batch


def _encode(change: Change, load: LoadContent) -> tuple[bytes, ...]:
    content = load(change) if isinstance(change, AddInline) else b""
    return commits.change_pieces(change, content)


PULL_REQUESTS_CHECKED = 20

LATE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0)
"""Seconds between checks for a commit that the Hub may still be making after its gateway has timed
out. The Hub's gateway times out after a minute; another gateway may do so at once."""

ANSWERED_WAITS = LATE_WAITS[:3]
"""The same after a 500: that is usually the Hub's own answer, so its work has ended by then."""

T = TypeVar("T")


async def poll_for(find: Callable[[], Awaitable[T | None]], failure: HubError | None) -> T | None:
    """The result of `find`, which is called repeatedly while the Hub may still be working on the
    call that ended in `failure`."""
    found = await find()
    if failure is None or not may_still_land(failure):
        return found
    for wait in ANSWERED_WAITS if failure.status == 500 else LATE_WAITS:
        if found is not None:
            break
        await asyncio.sleep(wait)
        found = await find()
    return found


class LostAnswers(Generic[T]):
    """Finds out, by `find`, what a request has done although answers to it were lost."""

    def __init__(self, find: Callable[[], Awaitable[T | None]]) -> None:
        self._find = find
        self.latest: HubError | None = None
        """The latest failure after which the Hub may still be working."""

    async def before_retry(self, failure: HubError) -> T | None:
        """For requests that may be repeated at once."""
        self._note(failure)
        return await self._find()

    async def before_second(self, failure: HubError) -> T | None:
        """For requests that take effect twice when they are repeated: waits for the Hub's work."""
        self._note(failure)
        return await poll_for(self._find, failure)

    async def at_last(self, failure: HubError) -> T | None:
        """When no attempt follows: waits for whichever attempt the Hub may still be working on."""
        self._note(failure)
        return await poll_for(self._find, self.latest)

    def _note(self, failure: HubError) -> None:
        if may_still_land(failure):
            self.latest = failure


async def landed_commit(
    ctx: PushContext, revision: str, push_id: str, *, since: str | None
) -> CommitAnswer | None:
    """The commit whose description contains the push's id, among those made after the commit
    `since`."""
    logged = await ctx.session.ask(
        repos.commits_request(ctx.repo, revision), repos.parse_commits, ctx.events
    )
    for commit in logged:
        if since is not None and commits.same_commit(commit.oid, since):
            return None
        if commits.has_trailer(f"{commit.title}\n{commit.message}", push_id):
            return CommitAnswer(commit.oid, ctx.commit_url(commit.oid))
    return None


async def landed_in_pull_request(ctx: PushContext, push_id: str) -> CommitAnswer | None:
    """The push's commit, if it opened a pull request."""
    for number in await _open_pull_requests(ctx):
        found = await landed_commit(ctx, f"refs/pr/{number}", push_id, since=None)
        if found is not None:
            return replace(found, pr_url=ctx.pull_request_url(number))
    return None


async def opened_pull_request(
    ctx: PushContext, push_id: str, *, other_than: int | None = None
) -> int | None:
    """The number of the pull request whose own description contains the push's id."""
    for number in await _open_pull_requests(ctx):
        if number == other_than:
            continue
        if commits.has_trailer((await pull_request(ctx, number)).description, push_id):
            return number
    return None


async def pull_request(ctx: PushContext, number: int) -> repos.PullRequest:
    return await ctx.session.ask(
        repos.pull_request_request(ctx.repo, number), repos.parse_pull_request, ctx.events
    )


async def _open_pull_requests(ctx: PushContext) -> Sequence[int]:
    """The latest open pull requests. Ours, if there is one, is among them."""
    numbers = await ctx.session.ask(
        repos.pull_requests_request(ctx.repo), repos.parse_pull_requests, ctx.events
    )
    return numbers[:PULL_REQUESTS_CHECKED]


@asynccontextmanager
async def remembered(ctx: PushContext, changes: Sequence[Change]) -> AsyncIterator[PendingCommit]:
    """Record in the journal, while the block runs, that these changes are being committed. Yields
    the record of an earlier push that did not learn the outcome of the same commit, if any.
    Another push of the same changes at the same time has a record of its own.

    The record is removed once the outcome is known: the commit was made, or will not be made.
    """
    threads = ctx.push_threads.journal

    def begin() -> tuple[PendingCommit, Claim | None]:
        commit = PendingCommit(ctx.push_id, _fingerprint(ctx, changes), time.time())
        return ctx.journal.take_commit(ctx.scope, commit)

    def discard(begun: tuple[PendingCommit, Claim | None]) -> None:
        if begun[1] is not None:
            begun[1].release()

    pending, claim = await in_thread(threads, begin, discard=discard)

    async def end() -> None:
        await in_thread_anyway(threads, lambda: ctx.journal.end_commit(ctx.scope, pending))

    try:
        try:
            yield pending
        except AsyncPushError as exc:
            if is_final(exc):
                await end()
            raise
        await end()
    finally:
        if claim is not None:
            await in_thread_anyway(threads, claim.release)


def is_final(error: AsyncPushError) -> bool:
    """Whether nothing was committed and the same commit will not be tried again: the Hub refused it
    (rather than asking to try later or with another token), or a file has changed."""
    if isinstance(error, CommitConflictError) or not isinstance(error, HubError):
        return True
    status = error.status
    return status is not None and 400 <= status < 500 and status not in (401, 408, 409, 425, 429)


def _fingerprint(ctx: PushContext, changes: Sequence[Change]) -> str:
    """Identifies a set of changes to one ref, independent of their order."""
    digest = hashlib.sha256(f"{ctx.options.revision}\0{ctx.options.create_pr}".encode())
    for line in sorted(commits.change_line(change) + str(change).encode() for change in changes):
        digest.update(line)
    return digest.hexdigest()
