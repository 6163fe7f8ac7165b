"""Sets of files in a bucket that are either complete or do not count.

A bucket has no commits, so a reader could see half of a checkpoint. A set is therefore complete
only with a marker, `.complete.json` in its folder, which lists every file with its size and Xet
hash:

    {"schema": 1, "created_at": "2026-11-28T10:00:00+00:00", "written_by": "asyncpush/1.0",
     "exact": true, "files": [{"path": "model.safetensors", "size": 5, "xet_hash": "..."}]}

An `exact` set has no other files in its folder. Paths are relative to that folder, so that a copy
of the whole folder is complete as well. The marker is removed before anything in the folder changes
and written last. Two writers can still use the same folder, and other tools do not know about
markers: a reader compares the listing with the marker, and the set is complete only if they agree.
To remove a set, its marker is replaced by `.pruned`, so that an interrupted removal is finished by
the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from asyncpush._version import __version__
from asyncpush.concurrency.task_groups import for_each
from asyncpush.errors import AsyncPushError, HubError, SyncError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import CheckpointSet, SyncFailure, SyncResult
from asyncpush.options import MIB
from asyncpush.pipeline.bucket import Bucket, BucketXet, in_words
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol.buckets import (
    EMPTY_HASH,
    AddFile,
    BucketFile,
    DeleteFile,
    Operation,
    address_of,
)
from asyncpush.transfers.xet import XetAccess, XetFailedError

MARKER = ".complete.json"
PRUNED = ".pruned"
SCHEMA = 1

LARGEST_MARKER = 256 * MIB
READS_AT_ONCE = 4


def is_marker(path: str) -> bool:
    return path.rpartition("/")[2] in (MARKER, PRUNED)


@dataclass(frozen=True, slots=True)
class SetMarker:
    """The content of a marker. `files` has size in bytes and Xet hash by path within the set."""

    files: Mapping[str, tuple[int, str]]
    created_at: str = ""
    written_by: str = ""
    exact: bool = False

    @classmethod
    def new(cls, files: Mapping[str, tuple[int, str]], *, exact: bool = False) -> Self:
        return cls(files, datetime.now(UTC).isoformat(), f"asyncpush/{__version__}", exact)

    @classmethod
    async def read(cls, ctx: PushContext, file: BucketFile, access: XetAccess) -> Self | None:
        """Read the marker of a set in a bucket, with this `access` to its Xet store. None when it
        is not a marker of a known kind. Raises `AsyncPushError` when it cannot be read."""
        if file.xet_hash is None or not 0 < file.size <= LARGEST_MARKER:
            return None
        try:
            return cls.from_json(await ctx.xet.read(access, file.xet_hash, file.size))
        except XetFailedError as exc:
            raise AsyncPushError(
                f"the marker {file.path} cannot be read: {exc.message}",
                suggestion="try again; if it stays so, write the set again",
            ) from exc

    @classmethod
    def from_json(cls, text: bytes) -> Self | None:
        """None for anything but a marker of this schema."""
        try:
            row = orjson.loads(text)
            if row["schema"] != SCHEMA:
                return None
            files = {
                _text(each["path"]): (_number(each["size"]), _text(each["xet_hash"]))
                for each in row["files"]
            }
            exact = row["exact"] is True
            return cls(files, _text(row["created_at"]), _text(row["written_by"]), exact)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "schema": SCHEMA,
                "created_at": self.created_at,
                "written_by": self.written_by,
                "exact": self.exact,
                "files": [
                    {"path": path, "size": size, "xet_hash": xet_hash}
                    for path, (size, xet_hash) in sorted(self.files.items())
                ],
            },
            option=orjson.OPT_INDENT_2,
        )

    def agrees_with(self, shown: Mapping[str, BucketFile], folder: str) -> bool:
        """Whether the bucket shows every file of the set as the marker lists it, and no other file
        if the set is exact."""
        below = (path.removeprefix(folder) for path in shown if path.startswith(folder))
        if self.exact and any(path not in self.files and not is_marker(path) for path in below):
            return False
        return bool(self.files) and all(
            (there := shown.get(folder + path)) is not None and there.holds(size, xet_hash)
            for path, (size, xet_hash) in self.files.items()
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


async def complete_sets(ctx: PushContext, folder: str) -> list[CheckpointSet]:
    """The complete sets directly below a folder, ordered by when they were completed. Each one is
    compared with the bucket's listing after its marker has been read."""
    found = await _complete(ctx, Bucket(ctx), folder)
    return [found[name] for name in found]


async def _complete(ctx: PushContext, bucket: Bucket, folder: str) -> dict[str, CheckpointSet]:
    shown = await bucket.files_below(folder)
    marked = {
        path.rpartition("/")[0] + "/": file
        for path, file in shown.items()
        if path.endswith(f"/{MARKER}") and path.removeprefix(folder).count("/") == 1
    }
    markers: dict[str, SetMarker] = {}
    if not marked:
        return {}
    access = await BucketXet(ctx, write=False).access()

    async def read(below: str) -> None:
        marker = await SetMarker.read(ctx, marked[below], access)
        if marker is not None and marker.agrees_with(shown, below):
            markers[below] = marker

    await for_each(list(marked), read, width=READS_AT_ONCE)
    sets = []
    for below, marker in markers.items():
        size = sum(size for size, _ in marker.files.values())
        name = below.removeprefix(folder).rstrip("/")
        address = f"{address_of(ctx.repo)}/{below.rstrip('/')}"
        files = tuple(sorted(marker.files))
        sets.append(CheckpointSet(address, name, files, size, marked[below].uploaded_at))
    sets.sort(key=lambda each: (each.completed_at, _natural(each.name)))
    return {each.name: each for each in sets}


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers by value, so that step-9 comes before step-10."""
    parts: list[tuple[int, str]] = []
    text = ""
    digits = ""
    for character in f"{name}\0":
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((int(digits), text))
            text = digits = ""
        text += character
    return [*parts, (-1, text)]


async def prune_sets(ctx: PushContext, folder: str, keep: int) -> list[CheckpointSet]:
    """Remove the complete sets directly below a folder except the newest `keep`, and what
    interrupted removals have left. A set without a marker stays, since it may be in progress.
    Raises `SyncError`."""
    bucket = Bucket(ctx)
    sets = list((await _complete(ctx, bucket, folder)).values())
    old = sets[:-keep]
    shown = await bucket.files_below(folder)
    names = {each.name for each in old} | {
        path.removeprefix(folder).partition("/")[0]
        for path in shown
        if path.endswith(f"/{PRUNED}") and path.removeprefix(folder).count("/") == 1
    }
    listed = {each.name: each.files for each in old}
    for name in sorted(names - {each.name for each in sets[-keep:]}):
        below = f"{folder}{name}/"
        own = (below + MARKER, below + PRUNED)
        paths = [path for path in shown if path.startswith(below) and path not in own]
        of_set = {below + path for path in listed[name]} if name in listed else set(paths)
        # Other writers' files stay. Then no note is written, since the next removal would delete
        # them too.
        await _remove(
            ctx,
            bucket,
            below,
            [path for path in paths if path in of_set],
            resumable=of_set.issuperset(paths),
        )
    return old


async def _remove(
    ctx: PushContext, bucket: Bucket, folder: str, paths: Sequence[str], *, resumable: bool
) -> None:
    """Remove the marker first, and those of sets within this one; then the files, then the note
    that says that a removal is in progress."""
    note = AddFile(folder + PRUNED, 0, EMPTY_HASH, 0)
    begin: list[Operation] = [DeleteFile(folder + MARKER)]
    begin += [DeleteFile(path) for path in paths if is_marker(path)]
    if resumable:
        begin.append(note)
    try:
        # If the Hub rejects the note, files can only be left behind by an interrupted removal.
        failures = [each for each in await bucket.apply(begin) if each.path != note.path]
        failures += await bucket.different({each.path: each for each in begin if each is not note})
        if not failures:
            files = [DeleteFile(path) for path in paths if not is_marker(path)]
            failures = await bucket.apply(files)
            failures += await bucket.different({file.path: file for file in files})
        if not failures and resumable:
            failures = await bucket.apply([DeleteFile(note.path)])
    except HubError as exc:
        if not bucket.may_have_changed:
            raise
        failures = [SyncFailure(folder, exc.message)]
    if failures:
        raise SyncError(
            f"the checkpoint set {folder} was not removed completely: {in_words(failures)}",
            failures=failures,
            result=SyncResult(ctx.repo_url, (), (), tuple(bucket.applied), 0, 0, False, 0.0),
            suggestion="the sets to keep are not affected; the next push or prune continues this",
        )
