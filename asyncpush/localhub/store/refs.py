"""Branches and tags: made and deleted under the repo's lock."""

from __future__ import annotations

from typing import Literal

import pygit2
from pygit2.enums import ObjectType

from asyncpush.localhub.errors import Refusal, conflict, revision_not_found
from asyncpush.localhub.store.gitrepo import MAIN, GitRepo
from asyncpush.localhub.store.names import RepoId, check_branch
from asyncpush.localhub.store.repos import Repos
from asyncpush.localhub.store.writing import (
    EMAIL_DOMAIN,
    commit_tree,
    delete_ref,
    sync_objects,
    write_ref,
)

Kind = Literal["heads", "tags"]


def create_branch(
    repos: Repos,
    repo: RepoId,
    name: str,
    start: str | None,
    author: str,
    *,
    empty: bool = False,
    overwrite: bool = False,
) -> str:
    """Point a new branch at `start`, main's head by default, or at a history of its own that begins
    with an empty commit; 409 when the branch is there and is not to be overwritten."""
    with repos.lock(repo), repos.open(repo) as opened:
        moved = overwrite and opened.ref_target(f"refs/heads/{name}") is not None
        ref = f"refs/heads/{name}" if moved else _free_ref(opened, "heads", name)
        if empty:
            target = _empty_commit(opened, author)
        else:
            target = opened.resolve(MAIN if start is None else start)
        write_ref(opened.path, ref, target)
        return target


def _empty_commit(repo: GitRepo, author: str) -> str:
    tree = repo.git.TreeBuilder().write()
    commit = commit_tree(repo.git, tree, [], author, "initial commit")
    sync_objects(repo.path, [tree, commit])
    return str(commit)


def create_tag(
    repos: Repos, repo: RepoId, name: str, revision: str, message: str | None, author: str
) -> str:
    """Tag a revision, with an annotated tag when there is a message."""
    with repos.lock(repo), repos.open(repo) as opened:
        target = opened.resolve(revision)
        ref = _free_ref(opened, "tags", name)
        if message:
            target = _annotated_tag(opened, name, target, message, author)
        write_ref(opened.path, ref, target)
        return target


def delete(repos: Repos, repo: RepoId, kind: Kind, name: str) -> None:
    """404 when there is none; 403 for main, which HEAD names."""
    ref = f"refs/{kind}/{name}"
    if ref == MAIN:
        raise Refusal(403, "Cannot delete the default branch")
    with repos.lock(repo), repos.open(repo) as opened:
        if opened.ref_target(ref) is None:
            raise revision_not_found(name)
        delete_ref(opened.git, opened.path, ref)


def _free_ref(repo: GitRepo, kind: Kind, name: str) -> str:
    """git cannot hold refs/heads/a beside refs/heads/a/b, be they loose or packed."""
    ref = f"refs/{kind}/{check_branch(name)}"
    for taken in repo.git.references:
        if taken == ref:
            raise conflict(f"Reference {ref} already exists")
        if taken.startswith(f"{ref}/") or ref.startswith(f"{taken}/"):
            raise conflict(f"Reference {ref} collides with {taken}")
    return ref


def _annotated_tag(repo: GitRepo, name: str, target: str, message: str, author: str) -> str:
    """The tag object alone: libgit2 would make the ref as well, with a lock file of its own."""
    signature = pygit2.Signature(author, f"{author}@{EMAIL_DOMAIN}")
    lines = (
        f"object {target}",
        "type commit",
        f"tag {name}",
        f"tagger {signature.name} <{signature.email}> {signature.time} +0000",
        "",
        message.replace("\0", "").rstrip(),
    )
    oid = repo.git.odb.write(ObjectType.TAG, "\n".join((*lines, "")).encode())
    sync_objects(repo.path, [oid])
    return str(oid)
