"""Reading files, and noticing that they are not what they were."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import ComposedSource, FileIdentity, FileSource, PathSource
from asyncpush.sources import Reader, byte_sources, read_all, read_sample
from tests.changes import become_a_folder, grow, replace, rewrite, shrink, vanish

NO_DEADLINE = settings(deadline=None)  # the machine may be busy

CONTENT = bytes(range(256)) * 40
THEN = 1_700_000_000


def file_source(path: Path, content: bytes = CONTENT) -> FileSource:
    path.write_bytes(content)
    os.utime(path, (THEN, THEN))
    status = path.stat()
    return FileSource(path.name, status.st_size, PathSource(str(path), FileIdentity.of(status)))


@pytest.fixture(params=["preadv", "seek and readinto"])
def way_of_reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_sources, "_HAS_PREADV", request.param == "preadv")


@pytest.fixture(params=["file", "memory", "cut"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> FileSource:
    if request.param == "memory":
        return FileSource.of_bytes("m", CONTENT)
    if request.param == "cut":
        return shuffled(tmp_path / "f")
    return file_source(tmp_path / "f")


def shuffled(path: Path) -> FileSource:
    """`CONTENT`, put together of a head and three ranges of a file that has it out of order."""
    base = file_source(path, CONTENT[5000:] + b"gap" + CONTENT[100:5000])
    ranges = ((5243, 900), (6143, 4000), (0, 5240))
    return FileSource("c", len(CONTENT), ComposedSource(base, CONTENT[:100], ranges))


@pytest.mark.usefixtures("way_of_reading")
@pytest.mark.parametrize(
    ("offset", "size"),
    [
        pytest.param(0, len(CONTENT), id="all"),
        pytest.param(0, 0, id="nothing"),
        pytest.param(len(CONTENT), 0, id="nothing at the end"),
        pytest.param(255, 3, id="within"),
        pytest.param(len(CONTENT) - 1, 1, id="last byte"),
    ],
)
def test_a_read_fills_the_buffer(source: FileSource, offset: int, size: int) -> None:
    buffer = bytearray(size)
    with Reader(source) as reader:
        assert reader.readinto(offset, memoryview(buffer)) == size
        reader.check_unchanged()
    assert buffer == CONTENT[offset : offset + size]


@pytest.mark.usefixtures("way_of_reading")
@pytest.mark.parametrize("offset", [len(CONTENT) - 1, len(CONTENT) + 5])
def test_a_read_beyond_the_end_reports_a_change(source: FileSource, offset: int) -> None:
    with Reader(source) as reader, pytest.raises(SourceChangedError, match="ends at byte 10,2"):
        reader.readinto(offset, memoryview(bytearray(2)))


@pytest.mark.usefixtures("way_of_reading")
def test_many_threads_read_one_file_at_once(tmp_path: Path) -> None:
    def piece(offset: int) -> bytes:
        buffer = bytearray(64)
        reader.readinto(offset, memoryview(buffer))
        return bytes(buffer)

    with Reader(file_source(tmp_path / "f")) as reader, ThreadPoolExecutor(8) as threads:
        pieces = list(threads.map(piece, range(0, len(CONTENT), 64)))

    assert b"".join(pieces) == CONTENT


@pytest.mark.no_cover
@NO_DEADLINE
@given(st.data())
def test_short_reads_are_put_together(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "short-reads"
    source = file_source(path)
    offset = data.draw(st.integers(0, len(CONTENT)))
    buffer = bytearray(data.draw(st.integers(0, len(CONTENT) - offset)))
    preadv = os.preadv

    def short(descriptor: int, buffers: list[memoryview], at: int) -> int:
        size = data.draw(st.integers(1, len(buffers[0])))
        return preadv(descriptor, [buffers[0][:size]], at)

    with Reader(source) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", short)
        reader.readinto(offset, memoryview(buffer))

    assert buffer == CONTENT[offset : offset + len(buffer)]


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turn_parent_into_a_file(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"")


CHANGES = pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(grow, "grew from 10,240 to 10,241 bytes", id="grew"),
        pytest.param(shrink, "shrank from 10,240 to 10,239 bytes", id="shrank"),
        pytest.param(rewrite, "was written to", id="same size"),
        pytest.param(replace, "was replaced by another file", id="another file"),
        pytest.param(vanish, "was removed", id="deleted"),
        pytest.param(become_a_folder, "was replaced by", id="a folder now"),
        pytest.param(become_a_pipe, "was replaced by another file", id="a pipe now"),
        pytest.param(turn_parent_into_a_file, "was removed", id="its folder is a file now"),
    ],
)


@CHANGES
def test_a_file_changed_before_it_is_opened_is_not_read(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "f"
    source = file_source(path)
    change(path)

    for read in (Reader, read_all, read_sample):
        with pytest.raises(SourceChangedError, match=f"^'{path}' {message}") as caught:
            read(source)
        assert caught.value.problems == (caught.value.message,)


@CHANGES
def test_a_file_changed_while_it_is_open_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "f"
    source = file_source(path)
    with Reader(source) as reader:
        change(path)
        with pytest.raises(SourceChangedError, match=message):
            reader.check_unchanged()


def test_a_link_that_is_turned_round_is_noticed(tmp_path: Path) -> None:
    file_source(tmp_path / "good")
    (tmp_path / "secret").write_bytes(b"secret")
    link = tmp_path / "link"
    link.symlink_to("good")
    content = PathSource(str(link), FileIdentity.of(link.stat()))
    source = FileSource("link", len(CONTENT), content)
    assert read_all(source) == CONTENT

    with Reader(source) as reader:
        link.unlink()
        link.symlink_to("secret")
        with pytest.raises(SourceChangedError, match="replaced by another file"):
            reader.check_unchanged()
    with pytest.raises(SourceChangedError, match="replaced by another file"):
        Reader(source)


@pytest.mark.usefixtures("way_of_reading")
def test_a_disk_that_fails_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(tmp_path / "f")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with Reader(source) as reader:
        monkeypatch.setattr(os, "preadv", fail)
        assert isinstance(reader._origin, byte_sources._OnDisk)
        monkeypatch.setattr(reader._origin, "_file", FailingFile(reader._origin._file, fail))
        with pytest.raises(
            SourceError, match=r"(?m)f' cannot be read: Input/output error$"
        ) as caught:
            reader.readinto(0, memoryview(bytearray(5)))
        assert not isinstance(caught.value, SourceChangedError)


class FailingFile:
    """Stands for the open file, whose methods can't be patched."""

    def __init__(self, file: io.FileIO, fail: Callable[..., int]) -> None:
        self.close = file.close
        self.fileno = file.fileno
        self.seek = file.seek
        self.readinto = fail


def test_a_file_lost_by_its_server_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    with Reader(file_source(tmp_path / "f")) as reader:
        monkeypatch.setattr(os, "preadv", stale)
        with pytest.raises(SourceChangedError, match="was removed"):
            reader.readinto(0, memoryview(bytearray(5)))


def test_a_file_that_may_not_be_opened_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    source = file_source(tmp_path / "f")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        Reader(source)


def test_a_file_under_a_lease_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(tmp_path / "f")
    plain_open = os.open

    def leased(path: str, flags: int) -> int:
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EWOULDBLOCK, "lease")
        return plain_open(path, flags)

    monkeypatch.setattr(os, "open", leased)
    assert read_all(source) == CONTENT


def test_closing_twice_does_no_harm(source: FileSource) -> None:
    reader = Reader(source)
    reader.close()
    reader.close()


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_small_files_are_read_whole(tmp_path: Path, content: bytes) -> None:
    assert read_all(file_source(tmp_path / "f", content)) == content
    assert read_all(FileSource.of_bytes("m", content)) == content


def test_a_small_file_is_read_whole_despite_short_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 1000)))

    assert read_all(file_source(tmp_path / "f")) == CONTENT


@pytest.mark.parametrize("change", [grow, rewrite, shrink])
def test_a_small_file_changed_while_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    source, read = file_source(tmp_path / "f"), os.read

    def read_and_change(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        monkeypatch.setattr(os, "read", read)
        change(tmp_path / "f")
        return data

    monkeypatch.setattr(os, "read", read_and_change)

    with pytest.raises(SourceChangedError):
        read_all(source)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_a_sample_is_the_first_512_bytes(tmp_path: Path, size: int) -> None:
    content = CONTENT[:size]
    assert read_sample(file_source(tmp_path / "f", content)) == content[:512]
    assert read_sample(FileSource.of_bytes("m", content)) == content[:512]
    assert read_sample(file_source(tmp_path / "f", content), 5) == content[:5]


@NO_DEADLINE
@given(
    head=st.binary(max_size=20),
    cuts=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=6),
    data=st.data(),
)
def test_a_cut_reads_as_its_head_and_ranges_joined(
    head: bytes, cuts: list[tuple[int, int]], data: st.DataObject
) -> None:
    content = CONTENT[:340]
    cut = ComposedSource(FileSource.of_bytes("m", content), head, tuple(cuts))
    joined = head + b"".join(content[start : start + size] for start, size in cuts)
    assert cut.size == len(joined)

    begin = data.draw(st.integers(0, cut.size))
    buffer = bytearray(data.draw(st.integers(0, cut.size - begin)))
    with Reader(FileSource("c", cut.size, cut)) as reader:
        reader.readinto(begin, memoryview(buffer))

    assert buffer == joined[begin : begin + len(buffer)]


def test_a_cut_changes_with_the_file_it_is_of(tmp_path: Path) -> None:
    source = shuffled(tmp_path / "f")
    with Reader(source) as reader:
        grow(tmp_path / "f")
        with pytest.raises(SourceChangedError, match=r"f' grew from 10,143 "):
            reader.check_unchanged()
    with pytest.raises(SourceChangedError, match=r"f' "):
        Reader(source)


def test_hashes_of_slices_depend_on_file_and_range(tmp_path: Path) -> None:
    base = file_source(tmp_path / "f")
    cuts = [
        ComposedSource(base, b"a", ((0, 5),)),
        ComposedSource(base, b"b", ((0, 5),)),
        ComposedSource(base, b"a", ((1, 5),)),
        ComposedSource(file_source(tmp_path / "g"), b"a", ((0, 5),)),
    ]
    keys = {FileSource("c", cut.size, cut).hash_key for cut in cuts}
    assert len(keys) == 4
    assert None not in keys
    of_memory = ComposedSource(FileSource.of_bytes("m", b"12345"), b"a", ((0, 5),))
    assert FileSource("c", 6, of_memory).hash_key is None
