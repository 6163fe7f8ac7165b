"""Walking a folder: which files lie below it, by their names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncpush.errors import os_reason
from asyncpush.own_files import UNFINISHED, OwnFiles
from asyncpush.sources.byte_sources import when_descriptors_are_free
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import ProblemReport

SCRATCH_PREFIX = "asyncpush-spool-"
"""How the folders of passing files begin; those of killed processes may lie anywhere."""

SNAPSHOTS = ".asyncpush-snapshots"
"""Where snapshots of what lies beside it are kept while they are pushed."""

_Trail = frozenset[tuple[int, int]]

_NO_LINK: int | None = None
"""Opens a folder, and no link that took its place; None where systems cannot (Windows)."""

if sys.platform != "win32" and os.scandir in os.supports_fd:
    _NO_LINK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class _Entry(NamedTuple):
    name: str  # within the root; of a folder, ends with "/", by which names sort as paths do
    path: str
    is_link: bool
    above: _Trail  # the folders that lead here, by device and inode


@dataclass(slots=True)
class Walk:
    """The chosen files below the folder `root`, sorted: each its path within it and on disk.

    `.git`, `.cache/huggingface/`, `__pycache__/`, `.DS_Store` and our own
    `.asyncpush-snapshots/` are left out wherever they lie, and so, with a notice, are the folders
    that asyncpush writes to. Links to files count as files, links to folders are entered with
    `follow_symlinks` alone, unless that would go round in circles. Whether a file can be read, and
    whether it is one that asyncpush writes, is for others to find out.
    """

    root: str
    chosen: PatternFilter
    report: ProblemReport
    follow_symlinks: bool = False
    stopped: Callable[[], bool] = lambda: False
    own: OwnFiles = field(default_factory=OwnFiles)
    seen: int = 0
    """Files met so far, chosen or not."""
    skipped: list[str] = field(default_factory=list)
    """What was left out so far, but not by the patterns: names within the root, those of folders
    with a slash at the end."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        # A list of what is left, not recursion: folders may be nested deeper than Python's stack.
        left = self._list(self.root, "", frozenset())
        while left and not self.stopped():
            entry = left.pop()
            if entry.name.endswith("/"):
                left += self._enter(entry)
                continue
            self.seen += 1
            if self.chosen(entry.name):
                yield entry.name, entry.path

    def _enter(self, folder: _Entry) -> list[_Entry]:
        if self.chosen.ignores_all_below(folder.name):
            return []
        if folder.is_link and not self.follow_symlinks:
            self.report.notice(
                "links to folders, skipped",
                f"{folder.path!r} is a link to a folder: skipped (follow_symlinks=True enters it)",
            )
            self.skipped.append(folder.name)
            return []
        return self._list(folder.path, folder.name, folder.above)

    def _list(self, path: str, prefix: str, above: _Trail) -> list[_Entry]:
        """What lies in a folder, last first."""
        found = []
        if what := self.own.folder(path):
            notice_own(self.report, path, what)
            self.skipped.append(prefix)
            return []
        try:
            trail = above | self._step(path)
            if self.follow_symlinks and trail == above:
                self.report.notice(
                    "links that lead in circles, skipped",
                    f"{path!r} leads back to a folder above it: skipped",
                )
                self.skipped.append(prefix)
                return []
            # What was a folder when its parent was listed may be a link by now: only the folder
            # that the user named, or any when that was asked for, is entered through one.
            through_links = self.follow_symlinks or not prefix
            with _entries(path, through_links=through_links) as entries:
                for entry in entries:
                    is_folder = _is_folder(entry)
                    name = f"{prefix}{entry.name}/" if is_folder else prefix + entry.name
                    if _always_skipped(entry.name, name):
                        self.skipped.append(name)
                        continue
                    own_path = os.path.join(path, entry.name)
                    found.append(_Entry(name, own_path, _is_link(entry), trail))
        except OSError as exc:
            self.report.problem(f"folder {path!r} cannot be listed: {os_reason(exc)}")
        found.sort(reverse=True)
        return found

    def _step(self, path: str) -> _Trail:
        if not self.follow_symlinks:  # no circles then, and a call less for each folder
            return frozenset()
        status = os.stat(path)
        return frozenset([(status.st_dev, status.st_ino)])


def notice_own(report: ProblemReport, path: str, what: str) -> None:
    """Say that something is no source, since asyncpush writes to it."""
    report.notice("what asyncpush writes itself, left out", f"{path!r} is {what}: left out")


@contextmanager
def _entries(path: str, *, through_links: bool) -> Iterator[Iterator[os.DirEntry[str]]]:
    if through_links or _NO_LINK is None:
        with when_descriptors_are_free(lambda: os.scandir(path)) as entries:
            yield entries
        return
    flags = _NO_LINK
    descriptor = when_descriptors_are_free(lambda: os.open(path, flags))
    try:
        with when_descriptors_are_free(lambda: os.scandir(descriptor)) as entries:
            yield entries
    finally:
        os.close(descriptor)


def _always_skipped(own_name: str, name: str) -> bool:
    if own_name.startswith(SCRATCH_PREFIX):
        return name.endswith("/")
    if own_name.endswith(UNFINISHED):
        return True
    match own_name:
        case ".DS_Store":
            return True
        case "__pycache__" | ".asyncpush-snapshots":
            return name.endswith("/")
        case "huggingface":
            return f"/{name}".rstrip("/").endswith("/.cache/huggingface")
    # A file in worktrees and submodules; and some file systems ignore case.
    return own_name.lower() == ".git"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in circles, say; opening it as a file will tell
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or (hasattr(entry, "is_junction") and entry.is_junction())
