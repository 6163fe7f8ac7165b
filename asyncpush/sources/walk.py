"""Walks a folder and lists the files below it. Decides by names only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import NamedTuple

from asyncpush.errors import os_reason
from asyncpush.lazy_dataclass import dataclass
from asyncpush.own_files import UNFINISHED, OwnFiles
from asyncpush.sources.byte_sources import when_descriptors_are_free
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import ProblemReport

SCRATCH_PREFIX = "asyncpush-spool-"
"""The prefix of the names of temporary folders; those of killed processes may be anywhere."""

SNAPSHOTS = ".asyncpush-snapshots"
"""The folder where snapshots of its sibling files are kept while they are pushed."""

_Trail = frozenset[tuple[int, int]]

_NO_LINK: int | None = None
"""Open a folder, but not a link that replaced it. None where the system has no such flag
(Windows)."""

if sys.platform != "win32" and os.scandir in os.supports_fd:
    _NO_LINK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class _Entry(NamedTuple):
    name: str  # within the root; a folder's name ends with "/", so that names sort like paths
    path: str
    is_link: bool
    above: _Trail  # the folders above this entry, by device and inode


@dataclass(slots=True)
class Walk:
    """The selected files below the folder `root`, sorted: the path within it and the path on disk.

    `.git`, `.cache/huggingface/`, `__pycache__/`, `.DS_Store` and our own `.asyncpush-snapshots/`
    are left out at any depth. Folders that asyncpush writes to are left out with a notice. Links to
    files count as files. Links to folders are entered only with `follow_symlinks`, and never in a
    cycle. Whether a file can be read, and whether asyncpush itself writes it, is checked elsewhere.
    """

    root: str
    chosen: PatternFilter
    report: ProblemReport
    follow_symlinks: bool = False
    stopped: Callable[[], bool] = lambda: False
    own: OwnFiles = field(default_factory=OwnFiles)
    seen: int = 0
    """Files found so far, selected or not."""
    skipped: list[str] = field(default_factory=list)
    """What was left out so far, except by the patterns: names within the root; folders end with a
    slash."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        # An explicit stack instead of recursion: folders may be nested deeper than Python's
        # recursion limit.
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
        """The entries of a folder, last first."""
        found = []
        if what := self.own.folder(path):
            notice_own(self.report, path, what)
            self.skipped.append(prefix)
            return []
        try:
            trail = above | self._step(path) if self.follow_symlinks else above
            if self.follow_symlinks and trail == above:
                self.report.notice(
                    "links that form a cycle, skipped",
                    f"{path!r} leads back to a folder above it: skipped",
                )
                self.skipped.append(prefix)
                return []
            # A folder may have been replaced by a link since its parent was listed. A link is
            # followed only for the folder that the user named, or when the user asked for it.
            through_links = self.follow_symlinks or not prefix
            base = os.path.join(path, "")
            with _entries(path, through_links=through_links) as entries:
                for entry in entries:
                    is_folder = _is_folder(entry)
                    name = f"{prefix}{entry.name}/" if is_folder else prefix + entry.name
                    if _always_skipped(entry.name, name):
                        self.skipped.append(name)
                        continue
                    found.append(_Entry(name, base + entry.name, _is_link(entry), trail))
        except OSError as exc:
            self.report.problem(f"folder {path!r} cannot be listed: {os_reason(exc)}")
        found.sort(reverse=True)
        return found

    def _step(self, path: str) -> _Trail:
        status = os.stat(path)
        return frozenset([(status.st_dev, status.st_ino)])


def notice_own(report: ProblemReport, path: str, what: str) -> None:
    """Add a notice that something was left out because asyncpush writes to it."""
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


def is_never_pushed(name: str) -> bool:
    """Whether a file or folder of this name within the root is left out of every push."""
    return _always_skipped(name.rstrip("/").rpartition("/")[2], name)


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
    # In worktrees and submodules this is a file; and some file systems ignore case.
    return own_name.lower() == ".git"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a cycle, for example; opening it as a file will report the error
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return True
    return sys.version_info >= (3, 12) and entry.is_junction()
