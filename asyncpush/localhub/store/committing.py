"""The commit: all changes or none, on the head that the client has seen or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pygit2

from asyncpush.localhub.cards import CARD_NAME
from asyncpush.localhub.store.gitrepo import MAIN, FolderEntry, GitRepo, LfsPointer
from asyncpush.localhub.store.lfs_rules import FILE as ATTRIBUTES
from asyncpush.localhub.store.lfs_rules import check_card_of_commit, with_rules
from asyncpush.localhub.store.names import RepoId, RepoType
from asyncpush.localhub.store.pulls import Discussions
from asyncpush.localhub.store.repo_folders import Repos
from asyncpush.localhub.store.writing import (
    TreeDraft,
    commit_message,
    commit_tree,
    new_objects,
    sync_objects,
    write_ref,
)
from asyncpush.localhub.web import Refusal, bad_request, entry_not_found, revision_not_found


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file whose blob is already in the repository. It becomes visible with the commit."""

    path: str
    blob: str


@dataclass(frozen=True, slots=True)
class PutLfs:
    path: str
    pointer: LfsPointer


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Also deletes a folder: the Hub does not distinguish the two."""

    path: str


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    path: str


Change = PutFile | PutLfs | DeleteFile | DeleteFolder


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """`parent_commit` pins the head: its oid, or the first digits of it."""

    summary: str
    description: str
    changes: Sequence[Change]
    author: str
    parent_commit: str | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    oid: str
    pull_request: int | None = None


def add_blob(repos: Repos, repo: RepoId, contents: Sequence[bytes]) -> list[str]:
    """Store the content of regular files before their commit. Needs no lock: objects are only ever
    added."""
    with repos.open(repo) as opened:
        return [str(opened.git.create_blob(content)) for content in contents]


def commit(repos: Repos, repo: RepoId, revision: str, request: CommitRequest) -> Committed:
    """Commit to a branch or to an open pull request's ref; 412 when its head is not the parent. An
    unchanged tree makes an empty commit, as on the Hub: avoiding those is up to the client."""
    with repos.lock(repo), repos.open(repo) as opened:
        ref, head = _target(opened, revision)
        if request.parent_commit is not None and not head.startswith(request.parent_commit):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        oid = _make_commit(opened, repo.type, head, request)
        write_ref(opened.path, ref, oid)
        return Committed(oid)


def commit_as_pull_request(
    repos: Repos, repo: RepoId, revision: str, request: CommitRequest
) -> Committed:
    """Commit on the parent (or else the revision's head), in a new pull request."""
    with repos.lock(repo), repos.open(repo) as opened:
        base = _parent_of_pull_request(opened, revision, request.parent_commit)
        oid = _make_commit(opened, repo.type, base, request)
        number = Discussions(opened.path).open_pull_request(
            request.summary, request.description, request.author, base=base, head=oid
        )
        return Committed(oid, number)


def check_parent(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{7,40}", value):
        raise bad_request("parentCommit must be a commit oid: 7 to 40 hexadecimal digits")
    return value


def _target(repo: GitRepo, revision: str) -> tuple[str, str]:
    """The ref that a commit to `revision` moves, and the commit it points to."""
    for ref in (f"refs/heads/{revision}", revision):
        head = repo.ref_target(ref)
        if head is not None and ref.startswith(("refs/heads/", "refs/pr/")):
            return ref, head
    repo.resolve(revision)  # a 404 if there is no such revision
    raise bad_request(f"{revision!r} is not a branch: commits go to branches and pull requests")


def _parent_of_pull_request(repo: GitRepo, revision: str, parent: str | None) -> str:
    """A pull request targets a branch. An oid or a tag is not a branch, whatever it points to."""
    branch = MAIN if revision == "HEAD" else f"refs/heads/{revision.removeprefix('refs/heads/')}"
    head = repo.ref_target(branch)
    if head is None:
        raise revision_not_found(revision)
    if parent is None or head.startswith(parent):
        return head
    found = repo.git.get(parent)
    if not isinstance(found, pygit2.Commit):
        raise revision_not_found(parent)
    return str(found.id)


def _make_commit(repo: GitRepo, repo_type: RepoType, parent: str, request: CommitRequest) -> str:
    """Make the commit object; it and everything it needs is synced to disk."""
    before = repo.tree(parent)
    for change in request.changes:
        if isinstance(change, PutFile) and change.path == CARD_NAME:
            check_card_of_commit(repo.content(change.blob), repo_type)
    changes = [*request.changes, *_lfs_rules(repo, parent, request.changes)]
    tree, blobs = _changed_tree(repo, before, changes)
    message = commit_message(request.summary, request.description)
    oid = commit_tree(repo.git, tree, [parent], request.author, message)
    sync_objects(repo.path, [*blobs, *new_objects(repo.git, tree, before.id), oid])
    return str(oid)


def _lfs_rules(repo: GitRepo, parent: str, changes: Sequence[Change]) -> list[Change]:
    """The rules that LFS files still need. A commit with its own .gitattributes keeps it
    unchanged."""
    if any(change.path == ATTRIBUTES for change in changes):
        return []
    there = repo.entry(parent, ATTRIBUTES)
    if isinstance(there, FolderEntry):
        return []
    before = repo.content(there.oid) if there else b""
    paths = [change.path for change in changes if isinstance(change, PutLfs)]
    content = with_rules(before, paths, lambda path: repo.is_lfs_path(parent, path))
    if content == before:
        return []
    return [PutFile(ATTRIBUTES, str(repo.git.create_blob(content)))]


def _changed_tree(
    repo: GitRepo, tree: pygit2.Tree, changes: Sequence[Change]
) -> tuple[pygit2.Oid, list[str]]:
    """Deletions are applied first, whatever their position: a file may replace a folder."""
    draft = TreeDraft(repo.git, tree)
    for change in changes:
        match change:
            case DeleteFile(path) if not (draft.remove_file(path) or draft.remove_folder(path)):
                raise entry_not_found(path)
            case DeleteFolder(path) if not draft.remove_folder(path):
                raise entry_not_found(path)
    blobs = []
    for change in changes:
        match change:
            case PutFile(path, blob):
                draft.put(path, pygit2.Oid(hex=blob))
                blobs.append(blob)
            case PutLfs(path, pointer):
                oid = repo.git.create_blob(pointer.encode())
                draft.put(path, oid)
                blobs.append(str(oid))
    return draft.write(), blobs
