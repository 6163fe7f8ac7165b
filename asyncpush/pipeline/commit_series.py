"""Commits to a pull request, and series of commits that appear at once.

When there are more files than one commit call can handle, they are committed one part after another
to a pull request, where the branch's readers do not see them. Merging it makes all of them visible
at once. A push that should stay a pull request works the same way: the pull request is opened
empty, and the commit to its ref names its parent, so that the Hub accepts it at most once. (A
commit call that opens a pull request could open a second one when it is repeated.) A push that was
interrupted continues with the pull request it had opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from asyncpush.errors import AsyncPushError, HubError
from asyncpush.events import Committed
from asyncpush.pipeline.changes import DEFAULT_BRANCH, CommitLimits, remaining_changes, split, title
from asyncpush.pipeline.commit import (
    Committer,
    LoadContent,
    LostAnswers,
    Outcome,
    is_final,
    opened_pull_request,
    paths_added,
    pull_request,
    remembered,
)
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.preflight import check_parent, observed_head
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import Change
from asyncpush.protocol.failures import is_lfs_pointer_missing

_ALREADY_ON = "of the files are already on"

COMPLETIONS = 3
"""How often a series is followed by further commits because others changed files during it."""


async def commit_in_pull_request(
    ctx: PushContext,
    changes: Sequence[Change],
    wanted: Sequence[Change],
    head: str,
    load: LoadContent,
    *,
    size: CommitLimits,
) -> Outcome:
    """Commit `changes` to a pull request against the default branch, within `size` for each commit,
    and merge it unless the user wants the pull request. `wanted` is the end state: the changes, and
    the files that the branch's `head` has already."""
    create_pr = ctx.options.create_pr
    async with remembered(ctx, changes) as pending:
        begun_before = pending.push_id != ctx.push_id
        again = ctx.pull_request is not None
        answer_lost = begun_before
        number = ctx.pull_request
        if number is None:
            number, lost = await _open_pull_request(ctx, pending.push_id, changes)
            answer_lost = answer_lost or lost
        ctx.pull_request = number
        ref, url = f"refs/pr/{number}", ctx.pull_request_url(number)
        try:
            ref_head = await observed_head(ctx, ref)
            remaining = await remaining_changes(ctx, wanted, ref_head)
            page = ctx.commit_url(ref_head)
            if not begun_before and not remaining:  # someone else has committed everything
                await _close(ctx, number)
                return Outcome(ref_head, page, ours=False, added=frozenset())
            if not remaining:  # everything was committed before
                outcome = Outcome(ref_head, page, url, added=paths_added(changes))
                if create_pr:
                    ctx.events.emit(Committed(ref_head, page, url))
            else:
                if not begun_before:
                    check_parent(ctx, ref_head)
                outcome = await commit_series(
                    ctx,
                    changes=remaining,
                    wanted=wanted,
                    head=ref_head,
                    revision=ref,
                    load=load,
                    size=size,
                    pr_url=url,
                    final=create_pr,
                )
                if begun_before:
                    outcome = replace(outcome, ours=True, added=paths_added(changes))
        except AsyncPushError as exc:
            # Objects that the Hub has lost are stored and committed once more.
            last = again or not (isinstance(exc, HubError) and is_lfs_pointer_missing(exc))
            if is_final(exc) and last and not begun_before:
                await _close(ctx, number)
            raise
        if create_pr:
            await _make_ready(ctx, number)
        else:
            merged = await _merge(ctx, number, url, outcome)
            page = ctx.commit_url(merged)
            outcome = replace(outcome, commit_sha=merged, commit_url=page, ours=True)
        if answer_lost:
            await _close_duplicates(ctx, pending.push_id, number)
        return replace(outcome, pr_url=url)


async def commit_series(
    ctx: PushContext,
    changes: Sequence[Change],
    wanted: Sequence[Change],
    head: str,
    revision: str,
    load: LoadContent,
    size: CommitLimits,
    *,
    pr_url: str | None = None,
    final: bool = True,
) -> Outcome:
    """Commit to `revision`, within `size` for each commit; each one is visible as soon as it is
    made. With `final`, the push is complete after the last one.

    With a pinned parent no other commit may come in between: each one is pinned to the previous
    one.
    """
    message = title(ctx, changes)
    outcome = Outcome(head, ctx.commit_url(head), pr_url, ours=False)
    ours, added, announced = False, frozenset[str](), False
    pinned = ctx.options.parent_commit is not None
    for completion in range(1 + COMPLETIONS):
        rebased = False
        groups = split(changes, size)
        for number, group in enumerate(groups, start=1):
            announced = final and number == len(groups)
            if rebased:  # others may have made some of these changes; a file is deleted only once
                group = await remaining_changes(ctx, group, outcome.commit_sha)
                if not group:
                    announced = False
                    continue
            committer = Committer(
                ctx,
                load,
                revision,
                pinned=outcome.commit_sha if pinned else None,
                pr_url=pr_url,
                final=announced,
            )
            part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
            try:
                outcome = await committer.commit(group, outcome.commit_sha, summary=message + part)
            except HubError as exc:
                if ours and pr_url is None:
                    raise exc.with_(
                        suggestion=f"{len(added):,} {_ALREADY_ON} {revision}: try again to"
                        f" continue from there. {exc.suggestion}"
                    ) from exc.__cause__
                raise
            announced = announced and outcome.ours
            ours, added = ours or outcome.ours, added | (outcome.added or frozenset())
            rebased = rebased or committer.rebased
        if not rebased or completion == COMPLETIONS:
            break
        # Others have committed in between, and may have changed files that were unchanged before.
        changes = await remaining_changes(ctx, wanted, outcome.commit_sha)
        if not changes:
            break
    if final and ours and not announced:  # the last commit turned out to be someone else's
        ctx.events.emit(Committed(outcome.commit_sha, outcome.commit_url, pr_url))
    return replace(outcome, ours=ours, added=added)


def committed_before(error: HubError) -> str:
    """What an error of a series says about the commits that were made before it; may be empty."""
    said = error.suggestion.partition(": ")[0]
    return said if _ALREADY_ON in said else ""


async def _open_pull_request(
    ctx: PushContext, push_id: str, changes: Sequence[Change]
) -> tuple[int, bool]:
    """The pull request of this push, and whether an answer was lost while it was opened. It is the
    one that the push opened before, or a new one. Opening is not simply repeated: after a lost
    answer the open ones are searched for the push's id."""
    begun_before = push_id != ctx.push_id
    if begun_before and (found := await opened_pull_request(ctx, push_id)) is not None:
        return found, False
    description = commits.with_trailer(ctx.options.commit_description, push_id)
    lost = LostAnswers(lambda: opened_pull_request(ctx, push_id))
    try:
        number = await ctx.session.ask(
            repos.open_pull_request_request(ctx.repo, title(ctx, changes), description),
            repos.parse_pull_request_number,
            ctx.events,
            reconcile=lost.before_second,
        )
        ctx.session.created.note(ctx.repo, f"refs/pr/{number}")
    except HubError as exc:
        found = await lost.at_last(exc)
        if found is None:
            raise
        number = found
    return number, lost.latest is not None


async def _close_duplicates(ctx: PushContext, push_id: str, number: int) -> None:
    """Close the pull requests that earlier attempts opened after all, too late to be found before
    pull request `number` was chosen. Nothing was committed to them."""
    page = ""
    try:
        for _ in range(ctx.config.max_retries):
            other = await opened_pull_request(ctx, push_id, other_than=number)
            if other is None:
                break
            page = f" at {ctx.pull_request_url(other)}"
            request = repos.close_request(ctx.repo, other)
            await ctx.session.ask(request, lambda response: None, ctx.events)
    except HubError as exc:
        ctx.warn(
            f"an empty pull request may be left{page}, since an answer was lost: {exc.message}"
        )


async def _close(ctx: PushContext, number: int) -> None:
    """Close a pull request that this push opened and did not need; the push may open another.
    Failures are ignored: they leave an empty draft."""
    ctx.pull_request = None
    with suppress(HubError):
        request = repos.close_request(ctx.repo, number)
        await ctx.session.ask(request, lambda response: None, ctx.events, retry=False)


async def _make_ready(ctx: PushContext, number: int) -> None:
    """Turn the draft into an open pull request. The commit exists already, so a failure is only a
    warning."""
    try:
        await _opened(ctx, number)
    except HubError as exc:
        page = ctx.pull_request_url(number)
        ctx.warn(f"the pull request is still a draft, open it at {page}: {exc.message}")


async def _opened(ctx: PushContext, number: int) -> repos.PullRequest:
    """The pull request, no longer a draft: drafts cannot be merged."""
    pull = await pull_request(ctx, number)
    if pull.status != "draft":
        return pull

    async def find() -> repos.PullRequest | None:
        pull = await pull_request(ctx, number)
        return None if pull.status == "draft" else pull

    lost = LostAnswers(find)
    request = repos.ready_request(ctx.repo, number)
    try:
        return await ctx.session.ask(
            request, lambda response: pull, ctx.events, reconcile=lost.before_retry
        )
    except HubError as exc:
        with suppress(HubError):  # the user needs the failure of the request itself
            if (opened := await lost.at_last(exc)) is not None:
                return opened
        raise


async def _merge(ctx: PushContext, number: int, url: str, outcome: Outcome) -> str:
    """Merge the pull request and return the merge commit, read from the pull request itself rather
    than from the answer of the call."""
    pull = await _opened(ctx, number)

    async def find() -> repos.PullRequest | None:
        pull = await pull_request(ctx, number)
        return pull if pull.status == "merged" else None

    lost = LostAnswers(find)
    try:
        if pull.status != "merged":
            request = repos.merge_request(ctx.repo, number)
            await ctx.session.ask(
                request, lambda response: pull, ctx.events, reconcile=lost.before_retry
            )
    except HubError as exc:
        try:
            landed = await lost.at_last(exc)
        except HubError:
            raise exc.with_(
                suggestion=f"it is not known whether {url} was merged: check that page, then try"
                " again"
            ) from exc.__cause__
        if landed is None:
            raise exc.with_(
                suggestion=f"all files are in {url}: merge it there, or try again"
            ) from exc.__cause__
    # From here on every failure happens after the commit is on the branch.
    shown, page = outcome.commit_sha, outcome.commit_url
    try:
        merged = (await pull_request(ctx, number)).merge_commit
        shown = merged or await observed_head(ctx, DEFAULT_BRANCH)
        page = ctx.commit_url(shown)
    finally:
        ctx.events.emit(Committed(shown, page, url))
    return shown
