"""Small files of a push: each is read once, and kept in bounded memory until the commit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncpush import PushOptions, SourceChangedError, UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.models import FileIdentity, FileSource, PathSource
from asyncpush.pipeline import content_cache
from asyncpush.pipeline.content_cache import LARGEST_KEPT, OVERHEAD, CacheMemory, ContentCache
from asyncpush.protocol.commits import SAMPLE_SIZE, AddInline
from asyncpush.transfers.inline import git_blob_oid
from tests.changes import grow, replace, rewrite, shrink, vanish
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import download

Write = Callable[..., Path]
CONTENT = b"some text\n" * 100


def _file(path: Path, content: bytes = CONTENT) -> FileSource:
    path.write_bytes(content)
    status = path.stat()
    return FileSource(path.name, status.st_size, PathSource(str(path), FileIdentity.of(status)))


def _added(file: FileSource, content: bytes = CONTENT) -> AddInline:
    return AddInline(file.path_in_repo, file.size, git_blob_oid(content))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened for reading, by its name."""
    counts: Counter[str] = Counter()
    real = os.open

    def counting(path: str, *args: int, **named: int) -> int:
        counts[os.path.basename(path)] += 1
        return real(path, *args, **named)

    monkeypatch.setattr(os, "open", counting)
    return counts


def test_a_file_is_read_once(tmp_path: Path, opened: Counter[str]) -> None:
    cache, file = ContentCache(CacheMemory(1 << 20)), _file(tmp_path / "a")

    assert cache.read(file, 1 << 20) == CONTENT
    assert cache.start(file) == (CONTENT[:SAMPLE_SIZE], git_blob_oid(CONTENT))
    assert cache.for_commit(file, _added(file)) == CONTENT
    assert opened["a"] == 1


def test_without_memory_files_are_read_each_time(tmp_path: Path, opened: Counter[str]) -> None:
    memory = CacheMemory(OVERHEAD + len(CONTENT))
    cache = ContentCache(memory)
    first, second = _file(tmp_path / "a"), _file(tmp_path / "b")
    for file in (first, second):
        cache.start(file)
        assert cache.for_commit(file, _added(file)) == CONTENT
    assert (opened["a"], opened["b"]) == (1, 2)

    cache.drop(first)
    cache.start(second)
    assert cache.for_commit(second, _added(second)) == CONTENT
    assert opened["b"] == 3
    cache.clear()
    assert memory.left == OVERHEAD + len(CONTENT)


def test_long_files_and_other_sources_are_not_kept(tmp_path: Path) -> None:
    memory = CacheMemory(1 << 30)
    cache = ContentCache(memory)
    cache.read(_file(tmp_path / "long", b"x" * (LARGEST_KEPT + 1)), 1 << 20)
    cache.start(FileSource.of_bytes("bytes", CONTENT))
    assert memory.left == 1 << 30


@pytest.mark.parametrize("change", [grow, shrink, rewrite, replace, vanish])
def test_kept_bytes_of_a_changed_file_are_not_committed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    cache, file = ContentCache(CacheMemory(1 << 20)), _file(tmp_path / "a")
    cache.start(file)
    change(tmp_path / "a")

    with pytest.raises(SourceChangedError):
        cache.for_commit(file, _added(file))


def test_kept_bytes_of_another_hash_are_not_committed(tmp_path: Path) -> None:
    cache, file = ContentCache(CacheMemory(1 << 20)), _file(tmp_path / "a")
    cache.start(file)
    with pytest.raises(SourceChangedError):
        cache.for_commit(file, _added(file, b"other"))


def test_a_source_collected_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    memory = CacheMemory(1 << 20)
    cache, path = ContentCache(memory), tmp_path / "a"
    cache.start(_file(path))
    later = _file(path, b"later")

    assert cache.start(later) == (b"later", git_blob_oid(b"later"))
    assert cache.for_commit(later, _added(later, b"later")) == b"later"
    assert memory.left == (1 << 20) - OVERHEAD - 5


async def test_a_push_opens_each_small_file_once(
    uploader: Uploader, hub: LocalHub, write: Write, opened: Counter[str]
) -> None:
    files = {f"folder/{number}.txt": f"file {number}\n".encode() * 50 for number in range(20)}
    source = write(files)
    opened.clear()
    await uploader.push_to_hub("me/m", source)
    assert {opened[os.path.basename(name)] for name in files} == {1}
    assert await download(hub, "me/m") == files


@pytest.mark.parametrize("max_memory", [1 << 20, 64 << 20], ids=["little", "enough"])
async def test_the_memory_is_given_back_when_a_push_ends(
    hub: LocalHub,
    tmp_path: Path,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    faults: FaultLayer,
    max_memory: int,
) -> None:
    memories: list[CacheMemory] = []

    class Noted(CacheMemory):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            memories.append(self)

    monkeypatch.setattr("asyncpush.runtime.CacheMemory", Noted)
    files = {f"{number}.txt": bytes([48 + number]) * 100_000 for number in range(8)}
    source = write(files)
    config = UploadConfig(
        max_memory=max_memory, chunk_size=64 << 10, cache_dir=tmp_path / "cache", progress="none"
    )
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", source)
        assert await download(hub, "me/m") == files
        faults.hooks["preupload"] = lambda: rewrite(source / "3.txt")
        with pytest.raises(SourceChangedError):
            await uploader.push_to_hub("me/other", source, PushOptions(on_change="error"))
    (memory,) = memories
    assert memory.left == max_memory // content_cache.CACHE_SHARE
