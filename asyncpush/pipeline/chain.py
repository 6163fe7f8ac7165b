"""More files than one commit call survives: a chain of commits that shows in one step.

The changes go, link by link, to a pull request that nobody sees as the branch, and the merge makes
all of them visible at once. A push that is interrupted goes on with the pull request it had opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asyncpush.errors import HubError
from asyncpush.events import Committed
from asyncpush.pipeline.changes import still_to_change, title
from asyncpush.pipeline.commit import Committer, Outcome
from asyncpush.pipeline.context import PushContext
from asyncpush.pipeline.landed import looked_for, opened_pull_request, pull_request
from asyncpush.pipeline.links import DEFAULT_BRANCH, LinkSize, split
from asyncpush.pipeline.payload import LoadContent
from asyncpush.pipeline.pending import remembered
from asyncpush.pipeline.prepare import check_parent, observed_head
from asyncpush.protocol import commits, repos
from asyncpush.protocol.commits import Change


async def commit_chain(
    ctx: PushContext, changes: Sequence[Change], head: str, load: LoadContent, *, size: LinkSize
) -> Outcome:
    """Commit `changes` in links of at most `size`; `head` is what the branch is at.

    On the default branch they show at once, by the merge of a pull request; with `create_pr` they
    stay in it. The Hub merges into no other branch: there the links show one by one.
    """
    if ctx.options.revision != DEFAULT_BRANCH:
        ctx.warn(f"the commits of this chain show on {ctx.options.revision} one by one")
        return await _links(ctx, changes, head, ctx.options.revision, load, size)
    async with remembered(ctx, changes, head) as pending:
        number = await _open_pull_request(ctx, pending.push_id, changes)
        ref = f"refs/pr/{number}"
        url = ctx.pull_request_url(number)
        ref_head = await observed_head(ctx, ref)
        remaining = await still_to_change(ctx, changes, ref_head)
        if len(remaining) == len(changes):  # nothing of ours is in it yet
            check_parent(ctx, ref_head)
        create_pr = ctx.options.create_pr
        outcome = await _links(ctx, remaining, ref_head, ref, load, size, final=create_pr)
        if create_pr:
            return Outcome(outcome.commit_sha, outcome.commit_url, url)
        await _merge(ctx, number, url)
        # Whatever fails from here on does so over a commit that is on the branch.
        ctx.emit.emit(Committed(outcome.commit_sha, outcome.commit_url, url))
        merged = await observed_head(ctx, DEFAULT_BRANCH)
        return Outcome(merged, ctx.commit_url(merged), url)


async def _links(
    ctx: PushContext,
    changes: Sequence[Change],
    head: str,
    revision: str,
    load: LoadContent,
    size: LinkSize,
    *,
    final: bool = True,
) -> Outcome:
    """Commit to `revision`, link by link. `final`: with the last one the push is committed.

    With a pinned parent nobody else's commit may come between: each link is pinned to the last.
    """
    message = title(ctx, changes)
    links = split(changes, size)
    outcome = Outcome(head, ctx.commit_url(head), ours=False)
    ours, added = False, frozenset[str]()
    for number, link in enumerate(links, start=1):
        committer = Committer(
            ctx,
            load,
            revision,
            pinned=outcome.commit_sha if ctx.options.parent_commit is not None else None,
            final=final and number == len(links),
        )
        summary = f"{message} (part {number} of {len(links)})"
        outcome = await committer.commit(link, outcome.commit_sha, summary=summary)
        ours, added = ours or outcome.ours, added | (outcome.added or frozenset())
    return replace(outcome, ours=ours, added=added)


async def _open_pull_request(ctx: PushContext, push_id: str, changes: Sequence[Change]) -> int:
    """The pull request of this push: the one it opened before, or a new one.

    Opening is not repeated blindly: after a lost answer the open ones are looked through for the
    push's id, so that there are never two.
    """
    begun_before = push_id != ctx.push_id
    if begun_before and (found := await opened_pull_request(ctx, push_id)) is not None:
        return found
    description = commits.with_trailer(ctx.options.commit_description, push_id)
    return await ctx.session.ask(
        repos.open_pull_request_request(ctx.repo, title(ctx, changes), description),
        repos.parse_pull_request_number,
        ctx.emit,
        reconcile=lambda failure: looked_for(
            ctx, lambda: opened_pull_request(ctx, push_id), failure
        ),
    )


async def _merge(ctx: PushContext, number: int, url: str) -> None:
    """Merge, and believe what the pull request says of itself rather than the call's answer."""
    request = repos.merge_request(ctx.repo, number)
    pull = await pull_request(ctx, number)
    if pull.status == "draft":
        await ctx.session.ask(
            repos.ready_request(ctx.repo, number), lambda response: None, ctx.emit
        )
    try:
        if pull.status != "merged":
            await ctx.session.ask(request, lambda response: None, ctx.emit)
    except HubError as exc:
        pull = await pull_request(ctx, number)
        if pull.status != "merged":
            exc.suggestion = f"all files are in {url}: merge it there, or push again"
            raise
