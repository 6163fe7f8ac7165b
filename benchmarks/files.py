"""The files that are pushed: made once, kept under `.work`, their hashes known beforehand."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

WORK = Path(__file__).parent / ".work"
MIB = 1 << 20
_STEP = 4 * MIB
_PROSE = b"The quick brown fox jumps over the lazy dog, and the dog does not mind at all.\n"


@dataclass(frozen=True, slots=True)
class FileSet:
    """`count` files of `smallest` to `largest` bytes: random binary, prose, or sparse zeros; or
    models: folders of five files, one binary of `largest` bytes and four texts of `smallest`."""

    count: int
    smallest: int
    largest: int = 0
    kind: str = "binary"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.count}x{self.smallest}-{self.largest or self.smallest}"

    def describe(self) -> str:
        size = _short_size(self.smallest)
        if self.kind == "models":
            return f"{self.count // 5:,} folders of 5 files"
        if self.largest:
            size += f" to {_short_size(self.largest)}"
        return f"{self.count:,} file{'s' if self.count > 1 else ''} of {size}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a store knows once it has a file: for ETags without hashing on the server's time."""

    path: str
    size: int
    oid: str
    md5s: list[str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A set on disk."""

    folder: Path
    files: list[StoredFile]

    @property
    def total(self) -> int:
        return sum(file.size for file in self.files)


def prepare(files: FileSet, part_size: int) -> Prepared:
    """Make the files unless they are there, and read them once: all rivals meet a warm cache."""
    folder = WORK / "data" / files.name
    listing = WORK / "data" / f"{files.name}.{part_size}.json"
    if not listing.exists():
        if not folder.exists():
            fresh = folder.with_name(f"{folder.name}.making")
            _make(files, fresh)
            fresh.rename(folder)
        known = [_stored(path, folder, part_size) for path in _paths(folder)]
        listing.write_text(json.dumps([asdict(file) for file in known]))
    prepared = Prepared(folder, [StoredFile(**entry) for entry in json.loads(listing.read_text())])
    if files.kind != "sparse":
        _warm(prepared)
    return prepared


def part_sizes(size: int, part_size: int) -> list[int]:
    whole, rest = divmod(size, part_size)
    return [part_size] * whole + ([rest] if rest else [])


def _make(files: FileSet, folder: Path) -> None:
    rng = random.Random(files.name)
    if files.kind == "models":
        _make_models(files, folder, rng)
        return
    for number in range(files.count):
        size = files.smallest
        if files.largest:
            size = rng.randint(files.smallest, files.largest)
        suffix = "txt" if files.kind == "prose" else "bin"
        # A thousand to a folder: the Hub takes at most 10,000.
        path = folder / f"{number // 1000:03}" / f"{number:06}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in _content(files.kind, size, rng):
                file.write(piece)
            file.truncate(size)


def _make_models(files: FileSet, folder: Path, rng: random.Random) -> None:
    for number in range(files.count // 5):
        model = folder / f"{number:04}"
        model.mkdir(parents=True)
        (model / "model.bin").write_bytes(rng.randbytes(files.largest))
        for name in ("config", "generation_config", "tokenizer", "tokenizer_config"):
            text = json.dumps({"number": number, "name": name, "pad": "x" * files.smallest})
            (model / f"{name}.json").write_text(text)


def _content(kind: str, size: int, rng: random.Random) -> Iterator[bytes]:
    if kind == "prose":
        # Words and lines as people write them: who looks into texts pays for what is in them.
        text = f"{rng.random()}\n".encode() + _PROSE * (size // len(_PROSE) + 1)
        yield text[:size]
    elif kind == "binary":
        for start in range(0, size, _STEP):
            yield rng.randbytes(min(_STEP, size - start))


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _stored(path: Path, folder: Path, part_size: int) -> StoredFile:
    sha256, md5s = hashlib.sha256(), []
    with path.open("rb") as file:
        for size in part_sizes(path.stat().st_size, part_size):
            md5 = hashlib.md5(usedforsecurity=False)
            while size:
                piece = file.read(min(size, _STEP))
                sha256.update(piece)
                md5.update(piece)
                size -= len(piece)
            md5s.append(md5.hexdigest())
    name = path.relative_to(folder).as_posix()
    return StoredFile(name, path.stat().st_size, sha256.hexdigest(), md5s)


def _warm(prepared: Prepared) -> None:
    for file in prepared.files:
        descriptor = os.open(prepared.folder / file.path, os.O_RDONLY)
        try:
            while os.read(descriptor, _STEP):
                pass
        finally:
            os.close(descriptor)


def _short_size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"
