"""Commits, and what they changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice

import pygit2
from pygit2.enums import DeltaStatus

from asyncpush.localhub.pages.reading.folders import (
    Source,
    find_revision,
    page_within,
    pager,
    read_buckets,
)
from asyncpush.localhub.pages.rendering import Base, plural, to_html
from asyncpush.localhub.pages.views import (
    MAIN_BRANCH,
    Change,
    ChangedFile,
    Changes,
    Comment,
    CommitPage,
    CommitsPage,
    DiscussionPage,
    DiscussionRow,
    DiscussionsPage,
    Happening,
    IndexPage,
    Pager,
    Pull,
    RepoRow,
    Section,
)
from asyncpush.localhub.store import pulls
from asyncpush.localhub.store.bucket_index import Buckets
from asyncpush.localhub.store.gitrepo import MAIN, FileEntry, GitRepo
from asyncpush.localhub.store.names import REPO_TYPES, RepoId, RepoType
from asyncpush.localhub.store.pulls import Discussion, Event
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.web import Refusal

COMMITS = 50
CHANGED_FILES = 500

_CHANGES: Mapping[DeltaStatus, Change] = {
    DeltaStatus.ADDED: "added",
    DeltaStatus.DELETED: "deleted",
}


def read_commits(source: Source, revision: str, page: int) -> CommitsPage:
    """A page of the history, newest first. The length of the whole history is not counted."""
    with source.repos.open(source.id) as opened:
        found = find_revision(opened, revision)
        first = page * COMMITS
        commits = opened.history(found.oid, skip=first, limit=COMMITS + 1)
        shown = commits[:COMMITS]
        pager = Pager(
            f"Commits {first + 1:,}–{first + len(shown):,}"
            if shown
            else "No commits this far back",
            previous=source.links.commits(revision, page - 1) if page else None,
            next=source.links.commits(revision, page + 1) if len(commits) > COMMITS else None,
        )
        return CommitsPage(source.repo(), found, shown, pager)


def read_commit(source: Source, revision: str) -> CommitPage:
    """A commit, and its changes compared with its first parent."""
    with source.repos.open(source.id) as opened:
        commit = opened.commit(opened.resolve(revision))
        before = commit.parents[0] if commit.parents else None
        return CommitPage(source.repo(), commit, read_changes(opened, before, commit.oid))


def read_changes(opened: GitRepo, before: str | None, after: str) -> Changes:
    """The differences between two commits, or between nothing and a commit."""
    if before is None:
        diff = opened.tree(after).diff_to_tree(swap=True)
    else:
        diff = opened.tree(before).diff_to_tree(opened.tree(after))
    deltas = islice(diff.deltas, CHANGED_FILES)
    return Changes(
        tuple(_changed_file(opened, before, after, delta) for delta in deltas), len(diff)
    )


def _changed_file(
    opened: GitRepo, before: str | None, after: str, delta: pygit2.DiffDelta
) -> ChangedFile:
    path = delta.new_file.raw_path.decode(errors="replace")
    old = _file_at(opened, before, path)
    new = _file_at(opened, after, path)
    shown = new or old
    return ChangedFile(
        path,
        _CHANGES.get(delta.status, "changed"),
        old.size if old else None,
        new.size if new else None,
        lfs=shown is not None and shown.lfs is not None,
    )


def _file_at(opened: GitRepo, commit: str | None, path: str) -> FileEntry | None:
    """None if there is nothing at this path, or a submodule."""
    entry = opened.entry(commit, path) if commit else None
    return entry if isinstance(entry, FileEntry) else None


ROWS = 50


def read_discussions(source: Source, page: int) -> DiscussionsPage:
    """A page of discussions, newest first."""
    found = pulls.list_all(source.repos, source.id)
    page = page_within(page, ROWS, len(found))
    return DiscussionsPage(
        source.repo(),
        [_row(discussion) for discussion in found[page * ROWS :][:ROWS]],
        open_count=sum(discussion.status in ("open", "draft") for discussion in found),
        count=len(found),
        pager=pager(page, ROWS, len(found), "discussion", source.links.discussions),
    )


def read_discussion(source: Source, number: int) -> DiscussionPage:
    """The comments and, for a pull request, its changes; 404 EntryNotFound."""
    discussion, details = pulls.details(source.repos, source.id, number)
    pull = None
    if details and discussion.base:
        with source.repos.open(source.id) as opened:
            head = details.commits[-1].oid if details.commits else discussion.base
            changes = read_changes(opened, discussion.base, head)
        pull = Pull(discussion.ref, details.commits, changes, discussion.merge_commit)
    base = Base(source.links, pull.revision if pull else MAIN_BRANCH)
    return DiscussionPage(
        source.repo(),
        _row(discussion),
        [_event(event, base) for event in discussion.events],
        pull,
    )


def _row(discussion: Discussion) -> DiscussionRow:
    comments = sum(event.type == "comment" for event in discussion.events)
    return DiscussionRow(
        number=discussion.num,
        title=discussion.title,
        status=discussion.status,
        author=discussion.author,
        created=datetime.fromisoformat(discussion.created_at),
        is_pull_request=discussion.is_pull_request,
        comments=comments - 1,  # the first comment is the description
    )


def _event(event: Event, base: Base) -> Comment | Happening:
    at, data = datetime.fromisoformat(event.created_at), event.data
    match event.type:
        case "comment":
            return Comment(event.author, at, to_html(data["raw"], base).html)
        case "status-change":
            return Happening(event.author, at, _STATUS_WORDS.get(data["status"], data["status"]))
        case "title-change":
            return Happening(event.author, at, f"changed the title from “{data['from']}”")
        case other:
            return Happening(event.author, at, other)


_STATUS_WORDS = {"open": "opened this again", "closed": "closed this", "merged": "merged this"}


REPOS_ON_A_PAGE = 60
REPOS_OF_EACH_TYPE = 12


BUCKETS_SHOWN = 100


def read_index(
    repos: Repos, endpoint: str, with_private: bool, repo_type: RepoType | None, page: int
) -> IndexPage:
    """The newest repos of each type and the newest buckets, or a page of the repos of one type."""
    if repo_type is not None:
        return IndexPage(endpoint, [_listing(repos, repo_type, with_private, page)])
    sections = [_overview(repos, each, with_private) for each in REPO_TYPES]
    shown, count = read_buckets(Buckets(repos.root), with_private, BUCKETS_SHOWN)
    return IndexPage(endpoint, sections, shown, count)


def _overview(repos: Repos, repo_type: RepoType, with_private: bool) -> Section:
    rows = _newest_first(repos, repo_type, with_private)
    more = f"/?type={repo_type}" if len(rows) > REPOS_OF_EACH_TYPE else None
    shown = rows[:REPOS_OF_EACH_TYPE]
    return Section(repo_type, len(rows), shown, Pager(plural(len(rows), "repo"), next=more))


def _listing(repos: Repos, repo_type: RepoType, with_private: bool, page: int) -> Section:
    rows = _newest_first(repos, repo_type, with_private)
    page = page_within(page, REPOS_ON_A_PAGE, len(rows))
    shown = rows[page * REPOS_ON_A_PAGE :][:REPOS_ON_A_PAGE]
    url = f"/?type={repo_type}&p={{}}".format
    return Section(
        repo_type, len(rows), shown, pager(page, REPOS_ON_A_PAGE, len(rows), "repo", url)
    )


def _newest_first(repos: Repos, repo_type: RepoType, with_private: bool) -> list[RepoRow]:
    rows = (_repo_row(repos, repo) for repo in repos.list(repo_type))
    shown = [row for row in rows if row is not None and (with_private or not row.private)]
    return sorted(shown, key=lambda row: row.updated, reverse=True)


def _repo_row(repos: Repos, repo: RepoId) -> RepoRow | None:
    """None for a repo that was deleted after it was listed."""
    try:
        info = repos.info(repo)
        with repos.open(repo) as opened:
            oid = opened.ref_target(MAIN)
            head = opened.commit(oid) if oid else None
    except Refusal:
        return None
    return RepoRow(repo, datetime.fromisoformat(info.created_at), head, info.private, info.sdk)
