"""Small LFS objects: each file is read once, and sent from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import HubError, SourceChangedError, UploadConfig, Uploader
from asyncpush.concurrency.threads import SessionThreads
from asyncpush.events import Emitter
from asyncpush.journal import NullJournal
from asyncpush.localhub import LocalHub
from asyncpush.models import BytesSource, FileIdentity, FileSource, PathSource
from asyncpush.net.bodies import PartFeed
from asyncpush.options import PushOptions
from asyncpush.pipeline.hashing import KEPT_SHARE, SHORT, Hasher
from asyncpush.sources import Reader
from asyncpush.transfers.lfs import objects
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import download

Write = Callable[..., Path]


def _file(path: Path) -> FileSource:
    content = PathSource(str(path), FileIdentity.of(path.stat()))
    return FileSource(path.name, path.stat().st_size, content)


@pytest.fixture
def threads() -> Iterator[SessionThreads]:
    with ExitStack() as stack:
        yield SessionThreads(stack, hash_workers=1)


async def test_hashing_keeps_the_bytes_and_their_md5(
    tmp_path: Path, threads: SessionThreads
) -> None:
    data = b"a" * 1000
    (tmp_path / "a.bin").write_bytes(data)
    file = _file(tmp_path / "a.bin")
    hasher = Hasher(NullJournal(), memory=SHORT)
    for keep in (True, False):
        (hashed,) = await hasher.sha256_of_small([file], Emitter(), threads.for_push(), keep=keep)
        assert hashed.oid == hashlib.sha256(data).hexdigest()
        kept = BytesSource(data, hashlib.md5(data).hexdigest())
        assert hashed.kept == (FileSource("a.bin", 1000, kept) if keep else None)


def test_kept_bytes_are_bounded() -> None:
    hasher = Hasher(NullJournal(), memory=1000)
    with hasher.memory() as first, hasher.memory() as second:
        assert first.take(600)
        assert not second.take(600)
        first.give_back(600)
        assert second.take(600)
    assert hasher.memory_left == 1000


@pytest.mark.parametrize("verify_etag", [True, False])
async def test_small_objects_are_sent_from_memory(
    verify_etag: bool,
    hub: LocalHub,
    tmp_path: Path,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources: list[FileSource] = []

    def reader(source: FileSource, *, grown: bool = False) -> Reader:
        sources.append(source)
        return Reader(source, grown=grown)

    def count_read(self: PartFeed) -> None:
        reads.append(self)

    reads: list[PartFeed] = []
    monkeypatch.setattr(PartFeed, "read_if_short", count_read)
    monkeypatch.setattr(objects, "Reader", reader)
    files = {f"{number}.bin": bytes([number]) * 10_000 for number in range(20)}
    config = UploadConfig(
        cache_dir=tmp_path / "cache", transfer="lfs", verify_etag=verify_etag, progress="none"
    )
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", write(files))
    in_memory = {
        source.path_in_repo: source.content.data
        for source in sources
        if isinstance(source.content, BytesSource)
    }
    assert len(sources) == len(files)
    assert in_memory == files
    assert not reads  # nor is the memory read and hashed again
    assert await download(hub, "me/m", files) == files


@pytest.mark.no_cover
async def test_many_small_objects_are_asked_about_in_few_calls(
    hub: LocalHub, tmp_path: Path, write: Write, faults: FaultLayer
) -> None:
    files = {f"{number}.bin": number.to_bytes(2) * 10_000 for number in range(300)}
    source = write(files)
    memory = 2 << 20  # KiB for a few of them: the next ones wait until these are stored
    for max_memory, most in ((UploadConfig().max_memory, 6), (memory, 30)):
        config = UploadConfig(
            cache_dir=tmp_path / f"cache-{max_memory}",
            transfer="lfs",
            chunk_size=memory // 8,
            max_memory=max_memory,
            progress="none",
        )
        async with Uploader(TOKEN, hub.url, config) as uploader:
            before = faults.seen["batch"]
            await uploader.push_to_hub(f"me/{max_memory}", source)
            assert faults.seen["batch"] - before <= most
            hasher = uploader._runtime._hasher  # type: ignore[union-attr]
            assert hasher.memory_left == max_memory // KEPT_SHARE
        assert await download(hub, f"me/{max_memory}") == files


async def test_memory_is_given_back_when_a_push_fails(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "403", times=1000)
    with pytest.raises(HubError):
        await uploader.push_to_hub("me/m", write({f"{n}.bin": bytes([n]) * 999 for n in range(99)}))
    hasher = uploader._runtime._hasher  # type: ignore[union-attr]
    assert hasher.memory_left == UploadConfig().max_memory // KEPT_SHARE


async def test_a_small_object_replaced_while_sent_is_reported(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"model.bin": b"\0" * 10_000})

    def replace() -> None:
        (source / "model.bin").write_bytes(b"\1" * 10_000)

    faults.hooks["part"] = replace
    with pytest.raises(SourceChangedError, match=r"model\.bin"):
        await uploader.push_to_hub("me/m", source, PushOptions(on_change="error"))


def test_an_identity_is_recognised_without_making_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    status = (tmp_path / "a").stat()
    identity = FileIdentity.of(status)
    assert identity.is_of(status)
    assert not identity.is_of((tmp_path / "b").stat())
    assert replace(identity, ctime_ns=0).is_of(status)
    for name in ("device", "inode", "size", "mtime_ns"):
        other = replace(identity, **{name: getattr(identity, name) + 1})
        assert not other.is_of(status)
