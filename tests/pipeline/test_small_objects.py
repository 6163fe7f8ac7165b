"""Small LFS objects: each file is read once, and sent from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from asyncpush import SourceChangedError, UploadConfig, Uploader
from asyncpush.concurrency.threads import BatchedThreads, SessionThreads
from asyncpush.events import Emitter
from asyncpush.journal import NullJournal
from asyncpush.localhub import LocalHub
from asyncpush.models import BytesSource, FileIdentity, FileSource, Part, PathSource
from asyncpush.net.bodies import BufferPool, PartContent, PartFeed
from asyncpush.options import PushOptions
from asyncpush.pipeline.hashing import SHORT, Hasher
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
    (tmp_path / "a.bin").write_bytes(b"a" * 1000)
    file = _file(tmp_path / "a.bin")
    hasher = Hasher(NullJournal(), memory=SHORT)
    with hasher.keeping(file) as kept:
        assert kept is not None
        oid = await hasher.sha256(file, Emitter(), threads.for_push(), kept)
        assert kept.source is not None
        data = b"a" * 1000
        assert kept.source.content == BytesSource(data, hashlib.md5(data).hexdigest())
    assert oid == hashlib.sha256(b"a" * 1000).hexdigest()


def test_kept_bytes_are_bounded(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * 600)
    (tmp_path / "long").write_bytes(b"x" * (SHORT + 1))
    first, second, long = (_file(tmp_path / name) for name in ("a", "b", "long"))
    hasher = Hasher(NullJournal(), memory=1000)
    with hasher.keeping(first) as kept, hasher.keeping(second) as other:
        assert kept is not None
        assert other is None
    with hasher.keeping(second) as other:
        assert other is not None
    with Hasher(NullJournal(), memory=1 << 30).keeping(long) as kept:
        assert kept is None


async def test_a_part_in_memory_is_neither_read_nor_hashed_again() -> None:
    class Unread:
        def readinto(self, offset: int, buffer: memoryview) -> int:
            raise AssertionError("read again")

        def descriptor(self) -> None:
            raise AssertionError("opened again")

    class NoThreads(BatchedThreads):
        def __init__(self) -> None:
            pass

    for with_md5, md5 in ((True, "the md5"), (False, None)):
        feed = PartFeed(
            Unread(),
            Part(1, 0, 4, "https://store/1"),
            BufferPool(16),
            NoThreads(),
            with_md5=with_md5,
            piece_size=8,
            content=PartContent(b"abcd", "the md5"),
        )
        await feed.read_if_short()
        assert feed.left == 4
        assert bytes(await feed.fill()) == b"abcd"
        assert feed.left == 0
        assert feed.md5 == md5


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
    assert await download(hub, "me/m", files) == files


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
