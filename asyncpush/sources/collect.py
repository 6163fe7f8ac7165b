"""From the source that the user gave to a list of checked files, readable during the push."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard

import anyio
from anyio import to_thread

from asyncpush.concurrency.task_groups import descriptors_left, each_affordable, for_each
from asyncpush.errors import SourceError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import CARD_NAME, FileIdentity, FileSource, PathSource, Source
from asyncpush.options import PushOptions, parse_size
from asyncpush.own_files import OwnFiles
from asyncpush.sources.paths import (
    PATH_LIMIT,
    PatternFilter,
    check_path_in_repo,
    drive_names,
    file_folder_clashes,
    folder_prefix,
    folders_above,
    look_alikes,
    normalise_path,
)
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.single_files import (
    Copy,
    UnusableError,
    absolute_path,
    check_file_object,
    collect_again,
    is_async_file,
    path_of,
    regular_file,
    status_of,
)
from asyncpush.sources.spool import OpenStream, Spool
from asyncpush.sources.walk import Walk, is_never_pushed, notice_own

if TYPE_CHECKING:
    from asyncpush.sources.tensors import Tensors

SPOOL_SHARE = 4
"""The share of `max_memory` (one in this many) that streams may use before they are written to
disk."""

STREAMS_AT_ONCE = 256
"""How many streams are read at the same time, so that none waits for another to end: one
producer may write all of them in turn. Each uses up to 256 KiB and, once it is on disk, a file
descriptor."""

TENSORS_NAME = "model.safetensors"
"""The name of the file when tensors are pushed without one."""

UNREAD_TIMEOUT = 2.0
"""Seconds that a stream may be left unread while others have not ended or become long. After that
it is read on to disk, since the others may be waiting for its producer."""


@dataclass(frozen=True, slots=True)
class CollectedSources:
    """The files of a push, sorted by path in the repo, and notices for the user about them.

    `streams` have not been read to their ends yet. `skipped` has the other paths in the repo that
    were left out, except those excluded by the patterns; folders end with a slash.
    """

    files: tuple[FileSource, ...]
    notices: tuple[str, ...] = ()
    streams: tuple[OpenStream, ...] = ()
    spool: Spool | None = field(default=None, repr=False, compare=False)
    skipped: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    """Paths of followed files that were removed while the folder was collected."""
    one_file: bool = False
    """Whether the source is a file, bytes or tensors rather than a folder or mapping."""

    def holds(self, path: str) -> bool:
        """Whether this path in the repo is among the `skipped` ones."""
        if not self.skipped:
            return False
        return path in self.skipped or any(f"{f}/" in self.skipped for f in folders_above(path))

    async def again(self, file: FileSource) -> FileSource | None:
        """The source to push instead of a file that has changed; it stays readable for as long as
        the others. None when the file is to be left out. Raises as `collect_again` does."""
        found = await to_thread.run_sync(collect_again, file)
        if not isinstance(found, Copy):
            return found
        assert self.spool is not None
        return await self.spool.take(file.path_in_repo, io.BytesIO(found.content))


@asynccontextmanager
async def collect(
    source: Source,
    options: PushOptions,
    *,
    spool_dir: Path,
    max_memory: int,
    large: int | None = None,
) -> AsyncIterator[CollectedSources]:
    """Find the files that `source` and `options` name, and keep them readable within the block.

    All names and files are checked first; everything wrong is raised as one `SourceError` whose
    `problems` name each. Then streams are read to their ends, several at once, with at most a
    quarter of `max_memory` in memory and the rest in `spool_dir`. Leaving the block, also by an
    error or cancellation, removes the files created there.

    With `large`, streams longer than that many bytes are left open, as many as `max_memory` has
    room for their beginnings. Streams that would have to wait long for the others are written to
    disk instead.
    """
    heads = 0 if large is None else max_memory
    async with Spool(spool_dir, memory=max_memory // SPOOL_SHARE, heads=heads) as spool:
        gathered = await _gather(source, options)
        reading = _StreamReading(spool, len(gathered.streams), large)
        left = descriptors_left()
        width = STREAMS_AT_ONCE if left is None else min(STREAMS_AT_ONCE, each_affordable(left))
        await for_each(gathered.streams, reading.read, width=width)
        files = [*gathered.files, *reading.files]
        yield await to_thread.run_sync(_finished, files, options, gathered, reading.open, spool)


class _StreamReading:
    """Reads the streams of one push at the same time: to their ends, or until they are known to be
    long."""

    def __init__(self, spool: Spool, count: int, large: int | None) -> None:
        self.files: list[FileSource] = []
        self.open: list[OpenStream] = []
        self._spool = spool
        self._large = large
        self._unsettled = count
        self._settled = asyncio.Event()

    async def read(self, named: tuple[str, Stream]) -> None:
        path_in_repo, stream = named
        if self._large is None:
            self.files.append(await self._spool.take(path_in_repo, stream))
            return
        taken = await self._spool.begin(path_in_repo, stream, large=self._large)
        self._settle()
        if isinstance(taken, FileSource):
            self.files.append(taken)
            return
        with anyio.move_on_after(UNREAD_TIMEOUT):
            await self._settled.wait()
        if self._settled.is_set():
            self.open.append(taken)
            return
        self._unsettled += 1
        self.files.append(await taken.spooled())
        self._settle()

    def _settle(self) -> None:
        """Count one more stream that has ended or that waits to be read on."""
        self._unsettled -= 1
        if not self._unsettled:
            self._settled.set()


def _finished(
    files: list[FileSource],
    options: PushOptions,
    gathered: Gathered,
    streams: list[OpenStream],
    spool: Spool,
) -> CollectedSources:
    report = gathered.report
    if options.max_shard_size is not None:
        from asyncpush.sources.sharding import split_large  # few pushes are split

        files = split_large(files, parse_size(options.max_shard_size), report)
        report.raise_problems("fix these files, or leave out max_shard_size; nothing was uploaded")
    by_path = sorted(files, key=lambda file: file.path_in_repo)
    return CollectedSources(
        tuple(by_path),
        notices=report.notices,
        streams=tuple(streams),
        spool=spool,
        skipped=frozenset(gathered.skipped),
        gone=frozenset(gathered.gone),
        one_file=gathered.one_file,
    )


async def _gather(source: Source, options: PushOptions) -> Gathered:
    stop = threading.Event()
    try:
        # A walk may take minutes: on cancellation its thread is abandoned, and ends at the next
        # file.
        return await to_thread.run_sync(
            _gather_blocking, source, options, stop, abandon_on_cancel=True
        )
    finally:
        stop.set()


def _gather_blocking(source: Source, options: PushOptions, stop: threading.Event) -> Gathered:
    gathered = Gathered(options, stop.is_set)
    if options.model_card is not None:
        gathered.add_card(options.model_card)
    gathered.add(source)
    gathered.finish()
    return gathered


Stream: TypeAlias = AsyncIterable[bytes] | BinaryIO


_CONTENT = "a path, bytes, a binary file object, an async iterable of bytes or Tensors"


def _is_tensors(value: object) -> TypeGuard[Tensors]:
    """Whether it is a `Tensors`, without importing that class: few pushes have tensors."""
    module = sys.modules.get("asyncpush.sources.tensors")
    return module is not None and isinstance(value, module.Tensors)


class Gathered:
    """The files of one push. Each reserves its name in the repo when it is added.

    `files` can be pushed as they are; `streams`, by path in the repo, must be spooled first.
    """

    def __init__(self, options: PushOptions, stopped: Callable[[], bool] = lambda: False) -> None:
        self.files: list[FileSource] = []
        self.streams: list[tuple[str, Stream]] = []
        self.report = ProblemReport()
        self.skipped: list[str] = []
        self.gone: list[str] = []
        self.one_file = True
        self._options = options
        self._stopped = stopped
        self._own = OwnFiles()
        self._follow = options.on_change == "follow"
        self._left_out = 0
        self._origins: dict[str, str] = {}  # the origin of each path in the repo
        self._card_origin: str | None = None
        self._read_once: dict[int, str] = {}  # the path in the repo of each stream, by its id
        self._patterns_apply = False
        self._nothing = ""

    def add_card(self, card: object) -> None:
        """Add the model card, given as text or path. It is added before the source and replaces its
        README.md."""
        try:
            path, text = _card_of(card)
        except UnusableError as exc:
            self.report.problem(f"model_card {exc}")
            return
        self._card_origin = path or "its text"
        self._origins[CARD_NAME] = self._card_origin
        if path is None:
            self._add_data(CARD_NAME, text)
        else:
            self._add_file(CARD_NAME, path)

    def add(self, source: object) -> None:
        """Add what the user gave as source; problems with it are raised by `finish`."""
        match source:
            case bytes() | bytearray() | memoryview():
                target = self._options.path_in_repo
                if name := self._claim(target, target):
                    self._add_data(name, source)
            case str() | os.PathLike():
                self._add_named(source)
            case _ if _is_tensors(source):
                target = self._named_below_target(TENSORS_NAME)
                if name := self._claim(target, target):
                    self.files.append(source.file(name))
            case Mapping():
                self._add_mapping(source)
            case _:
                self.report.problem(
                    f"the source is of type {type(source).__name__}: give a folder, a file, bytes,"
                    f" or a mapping from paths in the repo to {_CONTENT}"
                )

    def finish(self) -> None:
        """Check the files as a set. Raises one `SourceError` with everything that is wrong."""
        for path, inside in file_folder_clashes(self._origins):
            self.report.problem(f"{path!r} is a file and also the folder of {inside!r}")
        if self._nothing and not self.report.problems:
            if self._card_origin is None and self._options.delete_patterns is None:
                self.report.problem("; ".join((self._nothing, *self.report.notices)))
                self.report.raise_problems("check the path, allow_patterns and ignore_patterns")
            self.report.notice("empty sources", self._nothing)
        hint = ", or leave files out with ignore_patterns" if self._patterns_apply else ""
        self.report.raise_problems(f"fix these problems{hint}; nothing was uploaded")
        for path in drive_names(self._origins):
            self.report.notice(
                "names that look like a Windows drive",
                f"{path!r} looks like a Windows drive: the official client cannot download it,"
                " nor a repo with it as a whole",
            )
        for first, second in look_alikes(self._origins):
            self.report.notice(
                "names that look alike",
                f"{first!r} and {second!r} differ only by case or Unicode form:"
                " many file systems cannot hold both",
            )

    def _add_named(self, source: str | os.PathLike[str]) -> None:
        if not os.fspath(source):
            self.report.problem("the source is an empty path")
            return
        path = absolute_path(source)
        try:
            is_folder = stat.S_ISDIR(status_of(path).st_mode)
        except UnusableError as exc:
            self.report.problem(f"{path!r} {exc}")
            return
        if is_folder:
            self._add_folder(path)
            return
        target = self._named_below_target(os.path.basename(path))
        if name := self._claim(target, path):
            self._add_file(name, path)
            if self._left_out:
                self._nothing = "there is nothing else"

    def _named_below_target(self, name: str) -> str:
        """The path in the repo of a source that has a name of its own, such as a file."""
        target = normalise_path(self._options.path_in_repo)
        if target == ".":
            target = ""
        return target + name if not target or target.endswith("/") else target

    def _add_folder(self, root: str) -> None:
        self.one_file = False
        prefix = self._prefix()
        walk = Walk(
            root,
            self._chosen(),
            self.report,
            follow_symlinks=self._options.follow_symlinks,
            stopped=self._stopped,
            own=self._own,
        )
        chosen = 0
        for relative, path in walk:
            chosen += 1
            if (name := self._claim(prefix + relative, path)) is None:
                continue
            self._add_file(name, path, optional=True)
            if "\\" in relative:
                self.report.notice(
                    "names with backslashes", f"{path!r} becomes {name!r} in the repo"
                )
        self.skipped += (prefix + name for name in walk.skipped if name)
        if chosen == self._left_out:
            self._nothing = f"folder {root!r} contains no files"
            if self._left_out:
                self._nothing += " except those that asyncpush itself writes"
            elif walk.seen:
                self._nothing = f"the patterns select none of the {walk.seen:,} files in {root!r}"
            elif never := [name for name in walk.skipped if is_never_pushed(name)]:
                names = ", ".join(repr(name) for name in sorted(never)[:5])
                self._nothing += f" besides {names}, which no push includes"

    def _add_mapping(self, source: Mapping[Any, Any]) -> None:
        self.one_file = False
        prefix, chosen = self._prefix(), self._chosen()
        count = 0
        for path_in_repo, content in source.items():
            if not isinstance(path_in_repo, str):
                kind = type(path_in_repo).__name__
                self.report.problem(f"key {path_in_repo!r} is of type {kind}, not a str")
            elif not chosen(key := normalise_path(path_in_repo)):
                continue
            elif problem := check_path_in_repo(key):  # by itself: a prefix could hide the problem
                self.report.problem(f"path_in_repo {path_in_repo!r} {problem}")
            elif name := self._claim(prefix + key, path_in_repo):
                self._add_content(name, content)
            count += 1
        if count == self._left_out:
            self._nothing = "the mapping is empty"
            if self._left_out:
                self._nothing = (
                    "the mapping contains no files except those that asyncpush itself writes"
                )
            elif source:
                self._nothing = f"the patterns select none of the mapping's {len(source):,} files"

    def _add_content(self, name: str, content: object) -> None:
        try:
            match content:
                case bytes() | bytearray() | memoryview():
                    self._add_data(name, content)
                case str() | os.PathLike():
                    if not os.fspath(content):
                        raise UnusableError("is given an empty path")
                    self._add_file(name, absolute_path(content))
                case io.BytesIO():
                    check_file_object(content)
                    self._add_data(name, content.getvalue())
                case _ if _is_tensors(content):
                    self.files.append(content.file(name))
                case AsyncIterable():
                    self._add_stream(name, content)
                case _ if is_async_file(content):
                    self._add_stream(name, content)  # type: ignore[arg-type]
                case _ if callable(getattr(content, "read", None)):
                    self._add_file_object(name, content)  # type: ignore[arg-type]
                case _:
                    kind = type(content).__name__
                    hint = ""
                    if hasattr(content, "__array__") or hasattr(content, "__dlpack__"):
                        hint = '; tensors go in as {"model.safetensors": Tensors(state_dict)}'
                    raise UnusableError(f"is given a value of type {kind}: give {_CONTENT}{hint}")
        except UnusableError as exc:
            self.report.problem(f"{name!r} {exc}")

    def _add_data(self, name: str, data: bytes | bytearray | memoryview) -> None:
        self.files.append(FileSource.of_bytes(name, bytes(data)))

    def _add_file(self, name: str, path: str, *, optional: bool = False) -> None:
        """`optional` is for a file found by a walk: it may have been removed since."""
        try:
            status = regular_file(path)
        except UnusableError as exc:
            if optional and self._follow and not os.path.lexists(path):
                self._left_out += 1
                del self._origins[name]
                self.gone.append(name)
                self.report.notice("removed files", f"{path!r} was removed after it was found")
                return
            self.report.problem(f"{path!r} {exc}")
            return
        if what := self._own.file(path, status):
            self._left_out += 1
            del self._origins[name]
            self.skipped.append(name)
            notice_own(self.report, path, what)
            return
        content = PathSource(
            path,
            FileIdentity.of(status),
            may_change=self._follow,
            optional=optional and self._follow,
        )
        self.files.append(FileSource(name, status.st_size, content))

    def _add_file_object(self, name: str, file: BinaryIO) -> None:
        check_file_object(file)
        path = path_of(file)
        if path is None:
            self._add_stream(name, file)
        else:
            self._add_file(name, path)

    def _add_stream(self, name: str, stream: Stream) -> None:
        if isinstance(stream, AsyncGeneratorType) and stream.ag_frame is None:
            raise UnusableError("is given a generator that has been read to its end already")
        if isinstance(stream, AsyncIterator) or not isinstance(stream, AsyncIterable):
            other = self._read_once.setdefault(id(stream), name)
            if other != name:
                raise UnusableError(
                    f"is given the stream of {other!r}, which can be read only once"
                )
        self.streams.append((name, stream))

    def _claim(self, path: str, origin: str) -> str | None:
        """Reserve the normalised `path` for one file. None when the path cannot be used."""
        name = normalise_path(path)
        if problem := check_path_in_repo(name):
            of = "" if origin == path else f" (of {origin!r})"
            self.report.problem(f"path_in_repo {path!r}{of} {problem}")
            return None
        if name == CARD_NAME and self._card_origin is not None:
            if origin != self._card_origin:
                self.report.notice("files replaced", f"model_card replaces {origin!r}")
            return None
        if name in self._origins:
            self.report.problem(
                f"path_in_repo {name!r} is named twice:"
                f" by {self._origins[name]!r} and by {origin!r}"
            )
            return None
        self._origins[name] = origin
        return name

    def _prefix(self) -> str:
        try:
            return folder_prefix(self._options.path_in_repo)
        except ValueError as exc:
            self.report.problem(str(exc))
            return ""

    def _chosen(self) -> PatternFilter:
        self._patterns_apply = True
        return PatternFilter(self._options.allow_patterns, self._options.ignore_patterns)


def _card_of(card: object) -> tuple[str | None, bytes]:
    """The card's path; or None and its text."""
    if isinstance(card, os.PathLike):
        return absolute_path(card), b""
    if not isinstance(card, str):
        raise UnusableError(f"is of type {type(card).__name__}: give text or a path")
    if not card.strip():
        raise UnusableError("is empty")
    if "\n" not in card and len(card) <= PATH_LIMIT:
        try:
            path = absolute_path(card)
        except SourceError:  # it is text, or a file that cannot be found
            path = card
        if os.path.isfile(path):
            return path, b""
        if os.path.isdir(path):
            raise UnusableError(f"names a folder, {path!r}: give a file or text")
        if card.lower().endswith(".md"):
            raise UnusableError(f"names a file, {path!r}, that does not exist")
    try:
        return None, card.encode()
    except UnicodeEncodeError as exc:
        raise UnusableError(f"cannot be written as UTF-8: {exc}") from exc
