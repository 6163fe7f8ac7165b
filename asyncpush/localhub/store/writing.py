"""Changing a repo: trees, commits and refs, durable before the client gets an answer.

libgit2 makes the objects; each is synced before the ref that needs it moves, and the ref moves by
rename. libgit2's own `*.lock` files are not used for that: a killed server would leave them behind
and block all further writes. Writers hold `Repos.lock` instead, which the kernel releases.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from asyncpush.localhub.web import Refusal

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

EMAIL_DOMAIN = "users.noreply.localhub"
_SYNC_THREADS = 16


def commit_tree(
    git: pygit2.Repository,
    tree: pygit2.Oid,
    parents: Sequence[str],
    author: str,
    message: str,
) -> pygit2.Oid:
    """Make a commit object; no ref points to it yet."""
    signature = pygit2.Signature(author, f"{author}@{EMAIL_DOMAIN}")
    return git.create_commit(None, signature, signature, message, tree, list(parents))


def sync_objects(repo_path: Path, oids: Iterable[pygit2.Oid | str]) -> None:
    """Sync loose objects to disk. One that is not loose has been packed and synced by git."""
    folder = repo_path / "objects"
    paths = [folder / oid[:2] / oid[2:] for oid in {str(oid) for oid in oids}]
    # Syncs that wait together share one write of the file system's journal.
    with ThreadPoolExecutor(min(_SYNC_THREADS, len(paths))) as pool:
        loose = [path for path, done in zip(paths, pool.map(_sync, paths), strict=True) if done]
        list(pool.map(_sync, {path.parent for path in loose}))


def _sync(path: Path) -> bool:
    """Whether it existed and was synced."""
    try:
        sync(path)
    except FileNotFoundError:
        return False
    return True


def new_objects(
    git: pygit2.Repository, tree: pygit2.Oid | str, old: pygit2.Oid | str | None
) -> Iterator[str]:
    """Oids of the trees and blobs of `tree` that are not at the same place in `old`."""
    if old is not None and str(tree) == str(old):
        return
    yield str(tree)
    before = {item.name: item for item in git[old].peel(pygit2.Tree)} if old is not None else {}
    for item in git[tree].peel(pygit2.Tree):
        there = before.get(item.name)
        if isinstance(item, pygit2.Tree):
            yield from new_objects(
                git, item.id, there.id if isinstance(there, pygit2.Tree) else None
            )
        elif there is None or there.id != item.id:
            yield str(item.id)


def write_ref(repo_path: Path, ref: str, target: pygit2.Oid | str) -> None:
    """Point a ref at a commit whose objects are synced. The caller holds the repo's lock."""
    path = repo_path / ref
    # A server killed between making refs/heads/a and writing refs/heads/a/b leaves a folder.
    for folder in sorted((path, *path.rglob("*")), reverse=True) if path.is_dir() else ():
        folder.rmdir()
    # git reads every name below refs/ as a ref: no temporary file may be there.
    scratch = repo_path / "hub"
    scratch.mkdir(exist_ok=True)
    write_atomically(path, f"{target}\n".encode(), scratch=scratch)


def delete_ref(git: pygit2.Repository, repo_path: Path, ref: str) -> None:
    """Remove a ref, packed or loose. The caller holds the repo's lock."""
    # Only this hub writes here, under the lock: such a file is left from a server that was killed.
    for stale in (repo_path / f"{ref}.lock", repo_path / "packed-refs.lock"):
        stale.unlink(missing_ok=True)
    git.references.delete(ref)


class TreeDraft:
    """A folder being changed: `put` and `remove` files, then `write` the tree. Folders without
    changes are never read."""

    def __init__(self, git: pygit2.Repository, tree: pygit2.Tree | None) -> None:
        self._git = git
        self._files: dict[str, pygit2.Oid] = {}
        self._modes: dict[str, int] = {}
        self._folders: dict[str, TreeDraft | pygit2.Oid] = {}
        for item in tree or ():
            name = item.name or ""
            if isinstance(item, pygit2.Tree):
                self._folders[name] = item.id
            else:
                self._files[name] = item.id
                self._modes[name] = item.filemode

    def put(self, path: str, oid: pygit2.Oid) -> None:
        """Place a blob; 400 when a file is in the way of a folder or the reverse."""
        *folders, name = path.split("/")
        draft = self
        for folder in folders:
            if folder in draft._files:
                raise Refusal(400, f"Invalid path {path!r}: {folder!r} is a file in this repo")
            draft = draft._folder(folder)
        if name in draft._folders and not draft._folder(name).is_empty():
            raise Refusal(400, f"Invalid path {path!r}: it is a folder in this repo")
        draft._folders.pop(name, None)
        draft._files[name] = oid
        draft._modes.setdefault(name, FileMode.BLOB)

    def remove_file(self, path: str) -> bool:
        """Returns whether there was such a file."""
        draft, name = self._parent(path)
        if draft is None or name not in draft._files:
            return False
        del draft._files[name], draft._modes[name]
        return True

    def remove_folder(self, path: str) -> bool:
        """Returns whether there was such a folder."""
        draft, name = self._parent(path)
        return draft is not None and draft._folders.pop(name, None) is not None

    def is_empty(self) -> bool:
        """git has no empty folders, nor folders that contain only empty folders."""
        return not self._files and all(
            isinstance(folder, TreeDraft) and folder.is_empty() for folder in self._folders.values()
        )

    def write(self) -> pygit2.Oid:
        """Make the tree objects for what has changed."""
        builder = self._git.TreeBuilder()
        for name, folder in self._folders.items():
            if isinstance(folder, pygit2.Oid):
                builder.insert(name, folder, FileMode.TREE)
            elif not folder.is_empty():
                builder.insert(name, folder.write(), FileMode.TREE)
        for name, oid in self._files.items():
            builder.insert(name, oid, self._modes[name])
        return builder.write()

    def _parent(self, path: str) -> tuple[TreeDraft | None, str]:
        *folders, name = path.split("/")
        draft = self
        for folder in folders:
            if folder not in draft._folders:
                return None, name
            draft = draft._folder(folder)
        return draft, name

    def _folder(self, name: str) -> TreeDraft:
        """The folder of that name, read if necessary, new if it does not exist."""
        folder = self._folders.get(name)
        if not isinstance(folder, TreeDraft):
            tree = self._git[folder].peel(pygit2.Tree) if folder is not None else None
            folder = self._folders[name] = TreeDraft(self._git, tree)
        return folder


def commit_message(summary: str, description: str) -> str:
    """In git's form: a title line, an empty line, the rest."""
    title = " ".join(summary.replace("\0", "").split())
    body = description.replace("\0", "").strip()
    return f"{title}\n\n{body}\n" if body else title


def write_atomically(path: Path, data: bytes, *, scratch: Path | None = None) -> None:
    """Readers see the old bytes or the new ones, never a mixture, also after a crash.

    `scratch` is a folder of the same file system where a crash may leave a temporary file; the
    file's own folder by default.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=scratch or path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Hold a lock on an open file. Raises `BlockingIOError` when another holds it and `wait` is
    off."""
    if sys.platform != "win32" and fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    if sys.platform != "win32" and fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold `path` against every other process. The kernel lets go when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)
