"""A copy of a folder's files that no other program writes to, for trainers that overwrite theirs.

`snapshot=True` makes a reflink of each file where the file system supports them (Btrfs, XFS,
bcachefs, ZFS; `FICLONE` of `ioctl_ficlone(2)`: immediate, and uses no space), else a copy. Hard
links, made only on request, take no time or space on any file system. But they are other *names* of
the same files: a file that is replaced (`os.replace`, or removed and written again) keeps its
content in the snapshot, while one that is opened and written in place changes under both names. The
push then does what it would have done without a snapshot (see `PushOptions.on_change`); a mixture
is never committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import Content, FileIdentity, FileSource, PathSource, Source
from asyncpush.options import PushOptions
from asyncpush.own_files import OwnFiles, library_logger
from asyncpush.sources.byte_sources import Reader, open_for_reading
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.single_files import (
    Copy,
    UnusableError,
    absolute_path,
    collect_again,
    regular_file,
    status_of,
)
from asyncpush.sources.spool import ScratchFolder, opened_privately
from asyncpush.sources.tensors import Tensors
from asyncpush.sources.walk import SNAPSHOTS, Walk, notice_own

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows has no reflinks of this kind
    fcntl = None  # type: ignore[assignment]

logger = library_logger("snapshot")

SnapshotChoice = bool | Literal["hardlink"]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_COPIED_AT_ONCE = 8 << 20


def copy_in_memory(source: bytes | Tensors | Mapping[str, Content]) -> Source:
    """The same source, with everything in memory copied that can still change. Raises `SourceError`
    for other values that can change, such as files in a mapping. Blocks."""
    if not isinstance(source, Mapping):
        whole: bytes | Tensors = _copied(source, source)
        return whole
    copies: dict[str, Content] = {}
    for path, content in source.items():
        copy = _copied(content)
        if copy is None:
            raise SourceError(
                f"a snapshot cannot be taken of {path!r} in a mapping: give bytes or Tensors"
                " there, or a folder as the source"
            )
        copies[path] = copy
    return copies


def _copied(content: Any, other: Any = None) -> Any:
    """Bytes or tensors that nobody else can change; `other` for what is neither."""
    match content:
        case Tensors():
            return content.copied()
        case bytes():
            return content
        case bytearray() | memoryview():
            return bytes(content)
        case io.BytesIO() if not content.closed:
            return content.getvalue()
        case _:
            return other


class SnapshotStoppedError(Exception):
    """The snapshot was cancelled while it was being made."""


class Snapshot:
    """The selected files of `source`, in a new folder next to it, until `remove` is called.

    It is next to the source because reflinks and hard links work only within one file system.
    Folders left by killed processes are removed when the next snapshot is made. All of this blocks.

    A file that changes while it is copied is taken as it is at one moment, according to
    `PushOptions.on_change`. Raises `SourceError` for files that cannot be read or written, and
    `SourceChangedError` for a change that is not followed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        options: PushOptions,
        how: SnapshotChoice,
        stopped: threading.Event,
    ) -> None:
        self._link = how == "hardlink"
        self._follow = options.on_change == "follow"
        self._stopped = stopped
        self._own = OwnFiles()
        self._report = ProblemReport()
        if not os.fspath(source):
            raise SourceError(
                "the source is an empty path", problems=["the source is an empty path"]
            )
        origin = absolute_path(source)
        parent = Path(origin).parent / SNAPSHOTS
        try:
            self._scratch = ScratchFolder(parent)
            try:
                self.path = os.path.join(self._scratch.path, os.path.basename(origin))
                self._fill(origin, options)
            except BaseException:
                self.remove()
                raise
        except OSError as exc:
            raise SourceError(
                f"no snapshot of {origin!r} can be made in {str(parent)!r}: {exc.strerror}"
            ) from exc
        except UnusableError as exc:
            raise SourceError(f"no snapshot of {origin!r}: {exc}") from exc

    def remove(self) -> None:
        """Remove the snapshot's files."""
        self._scratch.remove()
        # Other snapshots may be there, or the folder was removed already.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self._scratch.path))

    def _fill(self, origin: str, options: PushOptions) -> None:
        if not stat.S_ISDIR(status_of(origin).st_mode):
            self._take(origin, self.path)
            return
        os.mkdir(self.path)
        chosen = PatternFilter(options.allow_patterns, options.ignore_patterns)
        walk = Walk(
            origin,
            chosen=chosen,
            report=self._report,
            follow_symlinks=options.follow_symlinks,
            stopped=self._stopped.is_set,
            own=self._own,
        )
        for name, path in walk:
            target = os.path.join(self.path, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            self._take(path, target)
        self._check_wanted()
        self._report.raise_problems("fix these problems, then try again; nothing was uploaded")
        for notice in self._report.notices:
            logger.warning("snapshot of %r: %s", origin, notice)

    def _take(self, path: str, target: str) -> None:
        try:
            before = regular_file(path)
        except UnusableError as exc:
            raise UnusableError(f"{path!r} {exc}") from exc
        if what := self._own.file(path, before):
            notice_own(self._report, path, what)
            return
        if self._link and _linked(path, target):
            return
        with (
            open(open_for_reading(path), "rb") as source,
            open(target, "xb", opener=opened_privately) as copy,
        ):
            if not _reflinked(source, copy):
                self._copy(source, copy)
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        if FileIdentity.of(os.stat(path)) == FileIdentity.of(before):
            return
        if not self._follow:
            raise SourceChangedError(f"{path!r} changed while a snapshot of it was taken")
        self._take_again(path, target, before)

    def _take_again(self, path: str, target: str, before: os.stat_result) -> None:
        """Copy a file that changed during the first attempt as it is at one moment."""
        content = PathSource(path, FileIdentity.of(before), may_change=True)
        found = collect_again(FileSource(path, before.st_size, content))
        if isinstance(found, Copy):
            with open(target, "wb") as copy:
                copy.write(found.content)
            return
        assert found is not None  # only optional files give None
        digest = hashlib.sha256()
        with Reader(found, grown=True) as reader, open(target, "wb") as copy:
            for offset in range(0, found.size, _COPIED_AT_ONCE):
                self._check_wanted()
                piece = bytearray(min(_COPIED_AT_ONCE, found.size - offset))
                reader.readinto(offset, memoryview(piece))
                digest.update(piece)
                copy.write(piece)
            if found.sha256 is None:
                reader.check_unchanged()
        if found.sha256 not in (None, digest.hexdigest()):
            raise SourceChangedError(f"{path!r} was written to while a snapshot of it was taken")

    def _copy(self, source: BinaryIO, copy: BinaryIO) -> None:
        while piece := source.read(_COPIED_AT_ONCE):
            self._check_wanted()
            copy.write(piece)

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise SnapshotStoppedError


def _linked(path: str, target: str) -> bool:
    try:
        # Link to the target of a symbolic link: a relative link would not work from here.
        os.link(os.path.realpath(path), target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


def _reflinked(source: BinaryIO, copy: BinaryIO) -> bool:
    if sys.platform == "win32" or fcntl is None:
        return False
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError:  # another file system, or one without reflinks
        return False
    return True
