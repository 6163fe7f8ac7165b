"""The repos on disk: creating, finding, renaming and deleting them, each by one rename."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson
import pygit2
from pygit2.enums import ObjectType

from asyncpush.localhub.cards import CARD_NAME
from asyncpush.localhub.store.gitrepo import MAIN, GitRepo
from asyncpush.localhub.store.lfs_rules import FILE as ATTRIBUTES
from asyncpush.localhub.store.lfs_rules import default_attributes
from asyncpush.localhub.store.names import RepoId, RepoType, check_branch, make_repo_id
from asyncpush.localhub.store.writing import (
    EMAIL_DOMAIN,
    commit_tree,
    delete_ref,
    file_lock,
    sync,
    sync_objects,
    write_atomically,
    write_ref,
)
from asyncpush.localhub.web import Refusal, conflict, repo_not_found, revision_not_found

# An incomplete repo, left by a server that was killed. No operation on a repo takes a day.
_STALE_SECONDS = 86_400
_MAX_MOVES = 20


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """What the hub knows about a repo besides its git history."""

    author: str
    created_at: str
    private: bool = False
    gated: str | bool = False
    sdk: str | None = None


class Repos:
    """All repos below `root`: `models/me/net.git` is a bare git repository.

    Data that does not belong to git is in the repository's folder `hub/`, so that a repo is
    created, renamed and deleted by one atomic rename of one folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workshop = root / "tmp"

    def prepare(self) -> None:
        """Create the root, and remove temporary files that killed servers left."""
        self.workshop.mkdir(parents=True, exist_ok=True)
        for leftover in self.workshop.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if leftover.stat().st_mtime >= time.time() - _STALE_SECONDS:
                    continue
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink()

    def path(self, repo: RepoId) -> Path:
        return self.root / f"{repo.type}s" / repo.namespace / f"{repo.name}.git"

    def lock(self, repo: RepoId) -> AbstractContextManager[None]:
        """Held while a repo is changed. The lock file is outside the repo, so that it remains when
        the repo is deleted. Names that differ only in case share one."""
        return file_lock(self.root / "locks" / f"{repo.type}s" / repo.full_name.lower())

    def create(self, repo: RepoId, info: RepoInfo) -> None:
        """Build the repo in a temporary folder, with its first commit, and move it into place. 409
        if it exists."""
        with self.lock(repo):
            self._check_free(repo)
            aside = self._aside()
            _initialise(aside, repo.type, repo.name, info)
            self._publish(aside, repo)

    def duplicate(self, source: RepoId, target: RepoId, info: RepoInfo) -> None:
        """A repo with the branches and tags of another, but without its discussions."""
        with self._locks(source, target):
            self._check_free(target)
            if not self.path(source).exists():
                raise repo_not_found()
            aside = self._aside()
            left_out = shutil.ignore_patterns("*.lock")
            shutil.copytree(self.path(source), aside, symlinks=True, ignore=left_out)
            shutil.rmtree(aside / "hub" / "discussions", ignore_errors=True)
            git = pygit2.Repository(str(aside))
            for name in [name for name in git.references if name.startswith("refs/pr/")]:
                git.references.delete(name)
            git.free()
            _write_info(aside, info)
            self._publish(aside, target)

    def delete(self, repo: RepoId) -> None:
        with self.lock(repo):
            aside = self._aside()
            try:
                self.path(repo).rename(aside)
            except FileNotFoundError:
                raise repo_not_found() from None
            sync(self.path(repo).parent)
        shutil.rmtree(aside, ignore_errors=True)

    def move(self, source: RepoId, target: RepoId) -> None:
        """Rename a repo. Its old name redirects to it until another repo takes that name."""
        if source == target:
            raise conflict(f"{target.full_name} already exists")
        with self._locks(source, target):
            if not self.path(source).exists():
                raise repo_not_found()
            if self._spelled(target) not in (None, source):
                raise conflict(f"{target.full_name} already exists")
            self._publish(self.path(source), target)
            sync(self.path(source).parent)
            write_atomically(self._forwarding(source), target.full_name.encode())

    @contextlib.contextmanager
    def _locks(self, *repos: RepoId) -> Iterator[None]:
        """Always in the same order; otherwise two opposite moves could deadlock."""
        names = {repo.full_name.lower(): repo for repo in repos}
        with contextlib.ExitStack() as stack:
            for _, repo in sorted(names.items()):
                stack.enter_context(self.lock(repo))
            yield

    def elsewhere(self, repo: RepoId) -> RepoId | None:
        """The repo meant by a name that no repo has: one with another spelling, or one that was
        moved."""
        for _ in range(_MAX_MOVES):
            if (found := self._spelled(repo)) is not None:
                return found
            try:
                name = self._forwarding(repo).read_text()
            except OSError:
                return None
            repo = make_repo_id(repo.type, *name.split("/"))
        return None

    def _spelled(self, repo: RepoId) -> RepoId | None:
        """The repo whose name differs only in case."""
        if self.path(repo).exists():
            return repo
        folder = self.root / f"{repo.type}s"
        for namespace in _spellings(folder, repo.namespace):
            for name in _spellings(folder / namespace, f"{repo.name}.git"):
                return make_repo_id(repo.type, namespace, name.removesuffix(".git"))
        return None

    def _forwarding(self, repo: RepoId) -> Path:
        """The current name of the repo that once had this name."""
        return self.root / "moved" / f"{repo.type}s" / repo.full_name.lower()

    def _check_free(self, repo: RepoId) -> None:
        if self._spelled(repo) is not None:
            raise conflict(f"You already created this {repo.type} repo: {repo.full_name}")

    def info(self, repo: RepoId) -> RepoInfo:
        try:
            data = (self.path(repo) / "hub" / "repo.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise repo_not_found() from None
        return RepoInfo(**orjson.loads(data))

    def update(
        self, repo: RepoId, *, private: bool | None = None, gated: str | bool | None = None
    ) -> RepoInfo:
        with self.lock(repo):
            info = self.info(repo)
            info = replace(
                info,
                private=info.private if private is None else private,
                gated=info.gated if gated is None else gated,
            )
            _write_info(self.path(repo), info)
            return info

    @contextlib.contextmanager
    def open(self, repo: RepoId) -> Iterator[GitRepo]:
        """The repo, for one call in one thread; to write, hold its lock as well."""
        path = self.path(repo)
        try:
            git = pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        except pygit2.GitError:
            raise repo_not_found() from None
        try:
            yield GitRepo(git, path)
        except (pygit2.GitError, KeyError, OSError):
            # Deleted or renamed while being read: a missing repo, not an internal error.
            if not path.exists():
                raise repo_not_found() from None
            raise
        finally:
            git.free()

    def list(self, repo_type: RepoType, namespace: str | None = None) -> list[RepoId]:
        """All repos of a type, by name. Private ones are included: check before showing one."""
        pattern = f"{namespace or '*'}/*.git"
        found = (self.root / f"{repo_type}s").glob(pattern)
        ids = []
        for path in found:
            with contextlib.suppress(
                Refusal
            ):  # A folder that no client could have created is not listed.
                ids.append(make_repo_id(repo_type, path.parent.name, path.stem))
        return sorted(ids, key=lambda repo: repo.full_name)

    def _aside(self) -> Path:
        self.workshop.mkdir(parents=True, exist_ok=True)
        return self.workshop / f"{secrets.token_hex(8)}.git"

    def _publish(self, built: Path, repo: RepoId) -> None:
        target = self.path(repo)
        target.parent.mkdir(parents=True, exist_ok=True)
        built.rename(target)
        sync(target.parent)
        self._forwarding(repo).unlink(missing_ok=True)


def _spellings(folder: Path, name: str) -> list[str]:
    """Names in a folder that differ from this one at most in case."""
    try:
        return [each for each in os.listdir(folder) if each.lower() == name.lower()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def new_info(author: str, *, private: bool, sdk: str | None) -> RepoInfo:
    return RepoInfo(author, datetime.now(UTC).isoformat(), private, sdk=sdk)


def _initialise(path: Path, repo_type: RepoType, name: str, info: RepoInfo) -> None:
    git = pygit2.init_repository(str(path), bare=True, initial_head="main")
    builder = git.TreeBuilder()
    blob = git.create_blob(default_attributes(repo_type))
    blobs = [blob]
    if repo_type == "space":
        card = git.create_blob(_space_card(name, info.sdk or "static").encode())
        builder.insert(CARD_NAME, card, pygit2.enums.FileMode.BLOB)
        blobs.append(card)
    builder.insert(ATTRIBUTES, blob, pygit2.enums.FileMode.BLOB)
    tree = builder.write()
    commit = commit_tree(git, tree, [], info.author, "initial commit")
    sync_objects(path, [*blobs, tree, commit])
    write_ref(path, MAIN, commit)
    _write_info(path, info)
    _link_objects(path)
    git.free()


def _space_card(name: str, sdk: str) -> str:
    """The card of a new Space: it says how the Space is run."""
    title = " ".join(re.findall(r"[A-Za-z0-9]+", name)).title()
    lines = ("---", f'title: "{title}"', "emoji: 🚀", "colorFrom: blue", "colorTo: green")
    return "\n".join((*lines, f"sdk: {sdk}", "pinned: false", "---", ""))


def _link_objects(path: Path) -> None:
    """Lets git-lfs find LFS objects when the folder itself is cloned: it looks for them in
    `lfs`."""
    with contextlib.suppress(FileExistsError):
        (path / "lfs").symlink_to(Path("../../../lfs"), target_is_directory=True)


def _write_info(path: Path, info: RepoInfo) -> None:
    write_atomically(path / "hub" / "repo.json", orjson.dumps(asdict(info)))


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
    """Point a new branch at `start` (main's head by default), or at a new history that begins with
    an empty commit; 409 when the branch exists and is not to be overwritten."""
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
    """404 when it does not exist; 403 for main, to which HEAD points."""
    ref = f"refs/{kind}/{name}"
    if ref == MAIN:
        raise Refusal(403, "Cannot delete the default branch")
    with repos.lock(repo), repos.open(repo) as opened:
        if opened.ref_target(ref) is None:
            raise revision_not_found(name)
        delete_ref(opened.git, opened.path, ref)


def _free_ref(repo: GitRepo, kind: Kind, name: str) -> str:
    """git cannot hold refs/heads/a beside refs/heads/a/b, whether loose or packed."""
    ref = f"refs/{kind}/{check_branch(name)}"
    for taken in repo.git.references:
        if taken == ref:
            raise conflict(f"Reference {ref} already exists")
        if taken.startswith(f"{ref}/") or ref.startswith(f"{taken}/"):
            raise conflict(f"Reference {ref} collides with {taken}")
    return ref


def _annotated_tag(repo: GitRepo, name: str, target: str, message: str, author: str) -> str:
    """Only the tag object: libgit2 would make the ref as well, with a lock file of its own."""
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
