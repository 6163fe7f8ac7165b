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
To remove a set, its marker is first copied to `.pruned`, so that the next removal knows what an
interrupted one was to remove.
"""

from __future__ import annotations

import time
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
from asyncpush.pipeline.bucket import Bucket, in_words
from asyncpush.pipeline.context import PushContext
from asyncpush.protocol.buckets import (
    AddFile,
    BucketFile,
    DeleteFile,
    Operation,
    address_of,
)
from asyncpush.transfers.interface import BucketTransfer, TransferFailedError

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
    async def read(cls, store: BucketTransfer, file: BucketFile) -> Self | None:
        """Read the marker of a set from the store of its bucket. None when it is not a marker of a
        known kind. Raises `AsyncPushError` when it cannot be read."""
        if file.xet_hash is None or not 0 < file.size <= LARGEST_MARKER:
            return None
        try:
            return cls.from_json(await store.read(file.xet_hash, file.size))
        except TransferFailedError as exc:
            raise AsyncPushError(
                f"the marker {file.path} cannot be read: {exc.message}",
                suggestion="try again; if it fails again, push the set again",
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


@dataclass(frozen=True, slots=True)
class _CompleteSet:
    """A complete set, its folder and its marker."""

    found: CheckpointSet
    folder: str
    marker: SetMarker
    file: BucketFile
    """The marker as a file in the bucket."""


async def complete_sets(ctx: PushContext, folder: str) -> list[CheckpointSet]:
    """The complete sets directly below a folder, ordered by when they were completed. Each marker
    is compared with the listing that it was found in."""
    shown = await Bucket(ctx).files_below(folder)
    return [each.found for each in await _complete(ctx, shown, folder)]


async def _complete(
    ctx: PushContext, shown: Mapping[str, BucketFile], folder: str
) -> list[_CompleteSet]:
    sets = []
    for below, (file, marker) in (await _read_all(ctx, shown, folder, MARKER)).items():
        if marker is None or not marker.agrees_with(shown, below):
            continue
        size = sum(size for size, _ in marker.files.values())
        name = below.removeprefix(folder).rstrip("/")
        address = f"{address_of(ctx.repo)}/{below.rstrip('/')}"
        files = tuple(sorted(marker.files))
        found = CheckpointSet(address, name, files, size, file.uploaded_at)
        sets.append(_CompleteSet(found, below, marker, file))
    sets.sort(key=lambda each: (each.found.completed_at, _natural(each.found.name)))
    return sets


async def _read_all(
    ctx: PushContext, shown: Mapping[str, BucketFile], folder: str, name: str
) -> dict[str, tuple[BucketFile, SetMarker | None]]:
    """The files called `name` in the folders directly below this one, and what they contain, by
    folder."""
    files = {
        path.removesuffix(name): file
        for path, file in shown.items()
        if path.endswith(f"/{name}") and path.removeprefix(folder).count("/") == 1
    }
    if not files:
        return {}
    store = await ctx.transfers.for_buckets.open_bucket(ctx, write=False)
    found: dict[str, tuple[BucketFile, SetMarker | None]] = {}

    async def read(below: str) -> None:
        found[below] = files[below], await SetMarker.read(store, files[below])

    await for_each(list(files), read, width=READS_AT_ONCE)
    return found


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


LISTINGS = 3
"""How often the sets are listed again because another writer has changed one of them."""


async def prune_sets(ctx: PushContext, folder: str, keep: int) -> list[CheckpointSet]:
    """Remove the complete sets directly below a folder except the newest `keep`, and what
    interrupted removals have left. Raises `SyncError`.

    Other processes may write and remove sets at the same time. The sets of all of them count, and
    their age is that of their markers by the Hub's clock. A set without a marker stays, since it
    may be in progress. Nothing is removed once the markers of that set and of the `keep` to be kept
    are not as they were listed: the set may just have been written again, and a newer one may have
    become incomplete. Then the sets are listed again, or else left for the next removal.
    """
    bucket = Bucket(ctx)
    removed: list[CheckpointSet] = []
    for _ in range(LISTINGS):
        shown = await bucket.files_below(folder)
        sets = await _complete(ctx, shown, folder)
        notes = await _read_all(ctx, shown, folder, PRUNED)
        old, kept = sets[:-keep], sets[-keep:]
        for each in old:
            if not await _as_listed(bucket, [each, *kept]):
                break
            files = _listed(each.folder, each.marker, shown)
            await _remove(ctx, bucket, each.folder, files, each.file)
            removed.append(each.found)
        else:
            break
    for below, (note, marker) in notes.items():
        if all(each.folder != below for each in sets):
            files = _listed(below, marker, shown) if note.size else _all_below(below, shown)
            await _remove(ctx, bucket, below, files, note)
    return removed


async def _as_listed(bucket: Bucket, sets: Sequence[_CompleteSet]) -> bool:
    """Whether the bucket still shows the markers of these sets as they were listed."""
    markers = {each.file.path: each.file for each in sets}
    return await bucket.files(list(markers)) == markers


def _listed(folder: str, marker: SetMarker | None, shown: Mapping[str, BucketFile]) -> list[str]:
    """The files that a marker lists and that are still what it says. Others are not of the set:
    they were written since."""
    listed = {} if marker is None else marker.files
    return [
        folder + path
        for path, content in listed.items()
        if (there := shown.get(folder + path)) is not None and there.holds(*content)
    ]


def _all_below(folder: str, shown: Mapping[str, BucketFile]) -> list[str]:
    """All files of the set, where version 0.2.0 was removing it: its notes were empty."""
    own = (folder + MARKER, folder + PRUNED)
    return [path for path in shown if path.startswith(folder) and path not in own]


async def _remove(
    ctx: PushContext, bucket: Bucket, folder: str, paths: Sequence[str], marker: BucketFile
) -> None:
    """Copy the marker to a note that says that a removal is in progress. Then remove the marker,
    and those of sets within this one; then the files, then the note."""
    note = AddFile(
        folder + PRUNED,
        marker.size,
        marker.xet_hash or "",
        int(time.time() * 1000),
        source=ctx.repo,
    )
    unmark: list[Operation] = [DeleteFile(folder + MARKER)]
    unmark += [DeleteFile(path) for path in paths if is_marker(path)]
    files = [DeleteFile(path) for path in paths if not is_marker(path)]
    try:
        if marker.path != note.path:
            # If the Hub rejects the note, files can only be left behind by an interrupted removal.
            await bucket.apply([note])
        failures = await bucket.apply(unmark)
        failures += await bucket.different({each.path: each for each in unmark})
        if not failures:
            # Another writer may complete the same set in the meantime.
            failures = await bucket.apply(files, first=[DeleteFile(folder + MARKER)])
            failures += await bucket.different({file.path: file for file in files})
        if not failures:
            failures = await bucket.apply([DeleteFile(note.path)])
    except HubError as exc:
        if not bucket.may_have_changed:
            raise
        failures = [SyncFailure(folder, exc.message)]
    if failures:
        raise SyncError(
            f"the checkpoint set {folder} was not removed completely: {in_words(failures)}",
            failures=failures,
            result=SyncResult(
                ctx.repo_url,
                files_uploaded=(),
                files_unchanged=(),
                files_deleted=tuple(bucket.applied),
                bytes_transferred=0,
                bytes_deduplicated=0,
                verified=False,
                elapsed_seconds=0.0,
            ),
            suggestion="the sets to keep are not affected; saving or pruning again continues this",
        )
