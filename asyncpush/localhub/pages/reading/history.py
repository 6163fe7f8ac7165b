"""Commits, and what they changed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import pygit2
from pygit2.enums import DeltaStatus

from asyncpush.localhub.pages.reading.source import Source, find_revision
from asyncpush.localhub.pages.views import (
    Change,
    ChangedFile,
    Changes,
    CommitPage,
    CommitsPage,
    Pager,
)
from asyncpush.localhub.store.gitrepo import FileEntry, GitRepo

COMMITS = 50
CHANGED_FILES = 500

_CHANGES: Mapping[DeltaStatus, Change] = {
    DeltaStatus.ADDED: "added",
    DeltaStatus.DELETED: "deleted",
}


def read_commits(source: Source, revision: str, page: int) -> CommitsPage:
    """A page of the history, newest first. How long it is in all, nobody counts."""
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
    """A commit, and what it changed in its first parent."""
    with source.repos.open(source.id) as opened:
        commit = opened.commit(opened.resolve(revision))
        before = commit.parents[0] if commit.parents else None
        return CommitPage(source.repo(), commit, read_changes(opened, before, commit.oid))


def read_changes(opened: GitRepo, before: str | None, after: str) -> Changes:
    """What lies between two commits, or between nothing and a commit."""
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
    """None for what is not there, and for a submodule."""
    entry = opened.entry(commit, path) if commit else None
    return entry if isinstance(entry, FileEntry) else None
