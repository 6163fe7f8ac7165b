"""Reading one repo: revisions, files, folders, history. Blocking; nothing here changes the repo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import dropwhile, islice
from pathlib import Path
from typing import IO

import pygit2
from pygit2.enums import AttrCheck, ObjectType, SortMode

from asyncpush.localhub.store.names import is_ref_name
from asyncpush.localhub.web import Refusal, entry_not_found, revision_not_found

MAIN = "refs/heads/main"
_COMMIT_ID = re.compile(r"[0-9a-f]{7,40}")
_NEWEST_FIRST = SortMode.TOPOLOGICAL | SortMode.TIME
_ATTRIBUTES_OF_COMMIT = AttrCheck.INDEX_ONLY | AttrCheck.NO_SYSTEM | AttrCheck.INCLUDE_COMMIT

# By default libgit2 caches no tree above 4 KB, so each of a thousand path lookups would read the
# folder again (0.3 ms each, measured).
pygit2.settings.cache_object_limit(ObjectType.TREE, 4 << 20)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in a tree. `oid` is that of the git blob; `size` is the size of the file itself, also
    for a file in LFS."""

    path: str
    oid: str
    size: int
    lfs: LfsPointer | None = None
    pointer_size: int = 0


@dataclass(frozen=True, slots=True)
class FolderEntry:
    path: str
    oid: str


Entry = FileEntry | FolderEntry


@dataclass(frozen=True, slots=True)
class Commit:
    oid: str
    title: str
    message: str
    author: str
    date: datetime
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """`name` is short ("main"), `ref` full ("refs/heads/main"), `target` a commit oid."""

    name: str
    ref: str
    target: str


class GitRepo:
    """A bare repository, opened for one thread. `git` and `path` are for the modules that write."""

    def __init__(self, git: pygit2.Repository, path: Path) -> None:
        self.git = git
        self.path = path

    def resolve(self, revision: str) -> str:
        """The commit oid of a branch, a tag, a full ref, `HEAD`, an oid or an unambiguous prefix of
        one; otherwise 404 RevisionNotFound. Deliberately not git's rev-parse: no `main~1`, no
        `@{...}`, no search by message."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            commit = self.ref_target(ref)
            if commit is not None:
                return commit
        if revision == "HEAD" and (main := self.ref_target(MAIN)) is not None:
            return main
        if _COMMIT_ID.fullmatch(revision) and (commit := self._commit_id(revision)) is not None:
            return commit
        raise revision_not_found(revision)

    def _commit_id(self, digits: str) -> str | None:
        try:
            found = self.git.get(digits)
        except ValueError:  # more than one object matches
            return None
        return str(found.id) if isinstance(found, pygit2.Commit) else None

    def ref_target(self, ref: str) -> str | None:
        """The commit that a full ref points to (through an annotated tag), or None."""
        if not is_ref_name(ref):
            return None
        found = self.git.references.get(ref)
        return None if found is None else str(found.peel(pygit2.Commit).id)

    def refs(self, prefix: str) -> list[Ref]:
        """The refs below `prefix` ("refs/heads/"), by name."""
        names = sorted(name for name in self.git.references if name.startswith(prefix))
        targets = ((name, self.ref_target(name)) for name in names)
        return [Ref(name[len(prefix) :], name, oid) for name, oid in targets if oid]

    def commit(self, oid: str) -> Commit:
        return _read_commit(self.git[oid].peel(pygit2.Commit))

    def history(
        self, oid: str, *, skip: int = 0, limit: int | None = None, until: str | None = None
    ) -> list[Commit]:
        """Commits from `oid` backwards, newest first; `until` and the commits before it are left
        out."""
        walker = self.git.walk(pygit2.Oid(hex=oid), _NEWEST_FIRST)
        if until is not None:
            walker.hide(pygit2.Oid(hex=until))
        stop = None if limit is None else skip + limit
        return [_read_commit(commit) for commit in islice(walker, skip, stop)]

    def count_commits(self, oid: str) -> int:
        """The number of commits up to this one, including it."""
        return sum(1 for _ in self.git.walk(pygit2.Oid(hex=oid)))

    def tree(self, commit: str) -> pygit2.Tree:
        return self.git[commit].peel(pygit2.Tree)

    def entry(self, commit: str, path: str) -> Entry | None:
        """The file or folder at `path`, or None."""
        item = _item_at(self.tree(commit), path)
        return None if item is None else self._entry(path, item)

    def file(self, commit: str, path: str) -> FileEntry:
        """The file at `path`; 404 EntryNotFound when it is missing or a folder."""
        entry = self.entry(commit, path)
        if not isinstance(entry, FileEntry):
            raise entry_not_found(path, commit)
        return entry

    def content(self, oid: str) -> bytes:
        """The content of a git blob (for a file in LFS, the text of its pointer)."""
        return self.git[oid].peel(pygit2.Blob).data

    def walk(
        self, commit: str, path: str = "", *, recursive: bool = False, after: str | None = None
    ) -> Iterator[Entry]:
        """What is in a folder, in git's order; with `recursive`, a folder's content follows the
        folder. `after` continues behind that path without looking at what comes before. 404
        EntryNotFound when `path` is not a folder."""
        tree = self.tree(commit)
        if path:
            folder = _item_at(tree, path)
            if not isinstance(folder, pygit2.Tree):
                raise entry_not_found(path, commit)
            tree = folder
        prefix = f"{path}/" if path else ""
        marks = after[len(prefix) :].split("/") if after and after.startswith(prefix) else []
        yield from self._walk(tree, prefix, recursive, marks)

    def _walk(
        self, tree: pygit2.Tree, prefix: str, recursive: bool, marks: list[str]
    ) -> Iterator[Entry]:
        items = iter(tree)
        if marks:
            items = dropwhile(lambda item: _name(item) != marks[0], items)
            # The marked item was already listed; its content may not have been.
            mark = next(items, None)
            if recursive and isinstance(mark, pygit2.Tree):
                yield from self._walk(mark, f"{prefix}{marks[0]}/", True, marks[1:])
        for item in items:
            if isinstance(item, pygit2.Tree | pygit2.Blob):
                path = prefix + _name(item)
                yield self._entry(path, item)
                if recursive and isinstance(item, pygit2.Tree):
                    yield from self._walk(item, f"{path}/", True, [])

    def file_paths(self, commit: str) -> list[str]:
        """Every file's path, in git's order, without reading the files."""
        return list(_file_paths(self.tree(commit), ""))

    def changed_last(self, commit: str, paths: Iterable[str]) -> dict[str, Commit]:
        """For each path, the newest commit that changed it. One walk through the history finds all
        of them."""
        wanted = set(paths)
        found: dict[str, Commit] = {}
        for candidate in self.git.walk(pygit2.Oid(hex=commit), _NEWEST_FIRST):
            changed = {path for path in wanted if _changes(candidate, path)}
            found.update(dict.fromkeys(changed, _read_commit(candidate)))
            wanted -= changed
            if not wanted:
                break
        return found

    def is_lfs_path(self, commit: str, path: str) -> bool:
        """Whether the .gitattributes of that commit put `path` into LFS."""
        value = self.git.get_attr(path, "filter", _ATTRIBUTES_OF_COMMIT, pygit2.Oid(hex=commit))
        return value == "lfs"

    def _entry(self, path: str, item: pygit2.Tree | pygit2.Blob) -> Entry:
        if isinstance(item, pygit2.Tree):
            return FolderEntry(path, str(item.id))
        _, size = self.git.odb.read_header(item.id)
        pointer = parse_pointer(self.content(str(item.id))) if size <= MAX_POINTER_BYTES else None
        if pointer is None:
            return FileEntry(path, str(item.id), size)
        return FileEntry(path, str(item.id), pointer.size, pointer, size)


def _file_paths(tree: pygit2.Tree, prefix: str) -> Iterator[str]:
    for item in tree:
        if isinstance(item, pygit2.Tree):
            yield from _file_paths(item, f"{prefix}{_name(item)}/")
        elif isinstance(item, pygit2.Blob):
            yield prefix + _name(item)


def _name(item: pygit2.Object) -> str:
    return (item.raw_name or b"").decode(errors="replace")


def _changes(commit: pygit2.Commit, path: str) -> bool:
    """Whether `path` exists here and differs from every parent's."""
    here = _item_at(commit.tree, path)
    before = [_item_at(parent.tree, path) for parent in commit.parents]
    return here is not None and all(item is None or item.id != here.id for item in before)


def _item_at(tree: pygit2.Tree, path: str) -> pygit2.Tree | pygit2.Blob | None:
    """The file or folder at `path`. A submodule, which only `git push` can create, is neither."""
    try:
        item = tree[path]
    except (KeyError, ValueError):
        return None
    return item if isinstance(item, pygit2.Tree | pygit2.Blob) else None


def _read_commit(commit: pygit2.Commit) -> Commit:
    title, _, message = commit.raw_message.decode(errors="replace").partition("\n")
    return Commit(
        oid=str(commit.id),
        title=title,
        message=message.strip("\n"),
        author=commit.author.name,
        date=datetime.fromtimestamp(commit.commit_time, UTC),
        parents=tuple(str(parent) for parent in commit.parent_ids),
    )


SETTINGS = {
    "safe.directory": "*",  # The hub's folder is trusted, even if another user owns it.
    "core.fsync": "committed",
    "gc.auto": "0",
    "http.uploadpack": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.allowFilter": "true",
    "receive.fsckObjects": "true",
    "receive.autogc": "false",
    "receive.denyDeletes": "false",
    "receive.denyNonFastForwards": "false",
}
"""git's configuration, used instead of the machine's and the repo's."""


_GC_SETTINGS = {
    "core.bigFileThreshold": "2m",  # Larger files are seldom worth a delta.
    "gc.packRefs": "false",
    "gc.autoDetach": "false",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
}


def is_installed() -> bool:
    return shutil.which("git") is not None


def check_installed() -> None:
    if not is_installed():
        raise Refusal(
            501, "git is not installed on the hub's machine: install it to clone, fetch and push"
        )


def start_backend(
    variables: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    stdin: IO[bytes],
    stdout: IO[bytes],
    descriptors: Sequence[int],
) -> subprocess.Popen[bytes]:
    """`git http-backend` on files, for a thread that waits for it; it inherits `descriptors`."""
    return subprocess.Popen(
        ["git", "http-backend"],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        env=_environment({**SETTINGS, **settings}, variables),
    )


async def stream_backend(variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    """`git http-backend` on pipes, for the event loop."""
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *("git", "http-backend"),
        stdin=pipe,
        stdout=pipe,
        stderr=nowhere,
        env=_environment(SETTINGS, variables),
    )


async def start_gc(path: Path) -> asyncio.subprocess.Process:
    """`git gc` of a repo, at low priority."""
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *("git", "gc", "--quiet", "--prune=2.weeks.ago"),
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
        env=_environment({**SETTINGS, **_GC_SETTINGS}, {"GIT_DIR": str(path)}),
    )
    with contextlib.suppress(OSError):  # it may have ended already
        if sys.platform != "win32":
            os.setpriority(os.PRIO_PROCESS, process.pid, 10)
    return process


def _environment(settings: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    numbered = {}
    for number, (key, value) in enumerate(settings.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = key
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        **numbered,
        **variables,
    }


MAX_POINTER_BYTES = 1024  # From the LFS specification: a longer file is not a pointer.
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n"
    rb"(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,18})\n?"
)


@dataclass(frozen=True, slots=True)
class LfsPointer:
    """`oid` is the sha256 of the object, `size` its bytes."""

    oid: str
    size: int

    def encode(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n"
        ).encode()


def parse_pointer(data: bytes) -> LfsPointer | None:
    match = _POINTER.fullmatch(data) if len(data) <= MAX_POINTER_BYTES else None
    return LfsPointer(match[1].decode(), int(match[2])) if match else None
