"""Rewriting history: squashing a branch into one commit, and removing LFS files from every
commit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pygit2
from pygit2.enums import SortMode

from asyncpush.localhub.store.gitrepo import MAX_POINTER_BYTES, GitRepo, parse_pointer
from asyncpush.localhub.store.lfs_rules import new_files
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.pulls import Discussions
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.store.writing import (
    commit_message,
    commit_tree,
    new_objects,
    sync_objects,
    write_ref,
)
from asyncpush.localhub.web import revision_not_found


@dataclass(frozen=True, slots=True)
class LfsFile:
    """An object that a commit names; `path`, `ref` and `date` come from the first such commit."""

    oid: str
    size: int
    path: str
    ref: str
    date: datetime


def squash(repos: Repos, repo: RepoId, branch: str, message: str, author: str) -> str:
    """Replace a branch by one commit without parents that has its current files."""
    ref = f"refs/heads/{branch.removeprefix('refs/heads/')}"
    with repos.lock(repo), repos.open(repo) as opened:
        head = opened.ref_target(ref)
        if head is None:
            raise revision_not_found(branch)
        text = commit_message(message, "")
        oid = commit_tree(opened.git, opened.tree(head).id, [], author, text)
        sync_objects(opened.path, [oid])
        write_ref(opened.path, ref, oid)
        return str(oid)


def lfs_files(repos: Repos, repo: RepoId) -> list[LfsFile]:
    """Every LFS object in the repo's history, each once, newest first."""
    found: dict[str, LfsFile] = {}
    with repos.open(repo) as opened:
        for ref, commit in _commits(opened):
            before = commit.parents[0].tree if commit.parents else None
            date = datetime.fromtimestamp(commit.commit_time, UTC)
            for file in new_files(opened.git, commit.tree, before):
                if file.pointer is not None and file.pointer.oid not in found:
                    oid, size = file.pointer.oid, file.pointer.size
                    found[oid] = LfsFile(oid, size, file.path, ref, date)
    return sorted(found.values(), key=lambda file: file.date, reverse=True)


def remove_lfs_files(repos: Repos, repo: RepoId, oids: Collection[str]) -> None:
    """Rewrite all branches, tags and pull requests as if these objects had never been committed.

    The objects themselves stay in the store, which other repos share.
    """
    with repos.lock(repo), repos.open(repo) as opened:
        rewriting = _Rewriting(opened, frozenset(oids))
        for _, commit in _commits(opened):
            rewriting.add(commit)
        rewriting.move_refs()


def _commits(repo: GitRepo) -> Iterator[tuple[str, pygit2.Commit]]:
    """The commits of every ref, each once and parents first, main's before others."""
    seen: set[pygit2.Oid] = set()
    refs = sorted(repo.git.references, key=lambda ref: (ref != "refs/heads/main", ref))
    for ref in refs:
        target = repo.ref_target(ref)
        if target is None:
            continue
        walk = repo.git.walk(pygit2.Oid(hex=target), SortMode.TOPOLOGICAL | SortMode.REVERSE)
        for commit in walk:
            if commit.id not in seen:
                seen.add(commit.id)
                yield ref, commit


class _Rewriting:
    """`add` commits, parents first; then `move_refs`."""

    def __init__(self, repo: GitRepo, oids: frozenset[str]) -> None:
        self._repo = repo
        self._oids = oids
        self._trees: dict[pygit2.Oid, pygit2.Oid | None] = {}
        self._commits: dict[str, str] = {}
        self._made: list[str] = []

    def add(self, commit: pygit2.Commit) -> None:
        parents = [self._commits[str(parent)] for parent in commit.parent_ids]
        tree = self._tree(commit.tree) or self._repo.git.TreeBuilder().write()
        if tree == commit.tree_id and parents == [str(parent) for parent in commit.parent_ids]:
            self._commits[str(commit.id)] = str(commit.id)
            return
        oid = self._repo.git.create_commit(
            None, commit.author, commit.committer, commit.message, tree, list(parents)
        )
        self._commits[str(commit.id)] = str(oid)
        self._made += [str(oid), *new_objects(self._repo.git, tree, commit.tree_id)]

    def move_refs(self) -> None:
        """Objects are synced before the ref moves: a branch is either old or new."""
        if not self._made:
            return
        sync_objects(self._repo.path, self._made)
        for ref in list(self._repo.git.references):
            old = self._repo.ref_target(ref)
            if old is not None and self._commits.get(old, old) != old:
                write_ref(self._repo.path, ref, self._commits[old])
        discussions = Discussions(self._repo.path)
        for each in discussions.all():
            base, merged = self._moved(each.base), self._moved(each.merge_commit)
            if (base, merged) != (each.base, each.merge_commit):
                discussions.save(replace(each, base=base, merge_commit=merged))

    def _moved(self, oid: str | None) -> str | None:
        return None if oid is None else self._commits.get(oid, oid)

    def _tree(self, tree: pygit2.Tree) -> pygit2.Oid | None:
        """The tree without the files; None when it would be empty."""
        if tree.id not in self._trees:
            builder = self._repo.git.TreeBuilder(tree)
            for item in tree:
                name = item.name or ""
                if isinstance(item, pygit2.Tree):
                    inner = self._tree(item)
                    if inner is None:
                        builder.remove(name)
                    elif inner != item.id:
                        builder.insert(name, inner, item.filemode)
                elif isinstance(item, pygit2.Blob) and self._is_removed(item):
                    builder.remove(name)
            self._trees[tree.id] = builder.write() if len(builder) else None
        return self._trees[tree.id]

    def _is_removed(self, blob: pygit2.Blob) -> bool:
        pointer = parse_pointer(blob.data) if blob.size <= MAX_POINTER_BYTES else None
        return pointer is not None and pointer.oid in self._oids
