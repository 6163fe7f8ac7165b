"""Streams: held in memory or on disk, and nothing left of them whatever happens."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import gc
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import SourceError
from asyncpush.models import BytesSource, FileSource
from asyncpush.sources import read_all, spool
from asyncpush.sources import spool as scratch
from asyncpush.sources.spool import READ_SIZE, ScratchFolder, Spool
from tests.disks import files_of_at_most
from tests.sources.conftest import Collect, names_in, pipe, stream

NO_DEADLINE = settings(deadline=None)  # the machine may be busy

KIB = 1 << 10
MIB = 1 << 20


@pytest.mark.no_cover
@NO_DEADLINE
@given(
    st.lists(st.lists(st.integers(0, 200), max_size=9), max_size=4),
    st.integers(0, 300),
    st.integers(1, 300),
)
def test_streams_of_any_shape_come_out_as_they_went_in(
    shapes: list[list[int]], memory: int, write_size: int
) -> None:
    contents = [[bytes([n]) * size for n, size in enumerate(shape)] for shape in shapes]

    async def main(folder: Path) -> None:
        async with Spool(folder, memory=memory) as held:
            files = [await held.take(str(n), stream(*c)) for n, c in enumerate(contents)]
            assert [read_all(file) for file in files] == [b"".join(c) for c in contents]
            assert [file.size for file in files] == [sum(shape) for shape in shapes]
            in_memory = [file for file in files if isinstance(file.content, BytesSource)]
            assert sum(file.size for file in in_memory) <= memory
        assert names_in(folder) == []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool, "READ_SIZE", write_size)
        anyio.run(main, Path(folder))


async def test_small_streams_stay_in_memory_larger_go_to_disk(
    collecting: Collect, spool_dir: Path
) -> None:
    ended = {name: anyio.Event() for name in "abcdef"}

    async def in_order(name: str, *pieces: bytes) -> AsyncIterator[bytes]:
        """Streams are read side by side; each of these begins when the one before it has ended."""
        if name > "a":
            await ended[chr(ord(name) - 1)].wait()
        for piece in pieces:
            yield piece
        ended[name].set()

    source = {
        "a": in_order("a", b"a" * (100 * KIB)),
        "b": in_order("b", b"b" * (100 * KIB), b"b" * (100 * KIB)),
        "c": in_order("c", b"c" * (156 * KIB)),
        "d": in_order("d", b"d"),
        "e": in_order("e", b"e" * (3 * MIB)),
        "f": in_order("f"),
    }
    # A quarter of the memory, 256 KiB, is for streams. That is filled by a and c.
    async with collecting(source, max_memory=MIB) as collected:
        on_disk = [file for file in collected.files if file.disk_path is not None]
        assert [file.path_in_repo for file in on_disk] == ["b", "d", "e"]
        assert [read_all(file)[-1:] for file in on_disk] == [b"b", b"d", b"e"]
        for file in on_disk:
            path = Path(file.disk_path or "")
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
            assert path.parent.parent == spool_dir
    assert names_in(spool_dir) == []


async def test_a_source_without_streams_makes_no_folder(
    collecting: Collect, spool_dir: Path
) -> None:
    async with collecting({"a": b"", "b": stream(b"x")}):
        assert names_in(spool_dir) == []


@pytest.mark.parametrize(
    ("piece", "content"),
    [
        pytest.param(b"abcd", b"abcd", id="bytes"),
        pytest.param(bytearray(b"abcd"), b"abcd", id="bytearray"),
        pytest.param(memoryview(b"abcd"), b"abcd", id="memoryview"),
        pytest.param(memoryview(b"a.b.c.d.")[::2], b"abcd", id="memoryview with gaps"),
        pytest.param(ctypes.c_char(b"a"), b"a", id="one byte without a length"),
        pytest.param(array("H", [0x6261, 0x6463]), b"abcd", id="array of numbers"),
    ],
)
@pytest.mark.parametrize("memory", [0, 100], ids=["disk", "memory"])
async def test_all_that_is_bytes_is_taken(
    spool_dir: Path, piece: Any, content: bytes, memory: int
) -> None:
    async with Spool(spool_dir, memory=memory) as held:
        assert read_all(await held.take("a", stream(piece, piece))) == content * 2


@pytest.mark.parametrize("memory", [0, 100], ids=["disk", "memory"])
async def test_a_stream_may_reuse_and_resize_its_buffer(spool_dir: Path, memory: int) -> None:
    async def reusing() -> AsyncIterator[Any]:
        buffer = bytearray()
        for piece in (b"one", b"three", b"two"):
            buffer.clear()
            buffer += piece
            yield buffer

    async with Spool(spool_dir, memory=memory) as held:
        assert read_all(await held.take("a", reusing())) == b"onethreetwo"


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        pytest.param("text", "str", id="text"),
        pytest.param("", "str", id="empty text"),
        pytest.param(None, "NoneType", id="None"),
        pytest.param(7, "int", id="number"),
        pytest.param([b""], "list", id="list"),
    ],
)
async def test_what_is_not_bytes_is_refused_by_type(
    collecting: Collect, piece: Any, kind: str
) -> None:
    class File:
        def read(self, size: int) -> Any:
            return piece

    for source in (stream(b"fine", piece), File()):
        with pytest.raises(SourceError, match=f"^'a' is a stream that gave {kind}, not bytes"):
            async with collecting({"a": source}):
                pytest.fail("unreachable")


async def test_a_failure_of_the_stream_is_reported_with_its_cause(collecting: Collect) -> None:
    failure = ConnectionResetError("peer went away")

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        raise failure

    with pytest.raises(SourceError) as caught:
        async with collecting({"a": failing()}):
            pytest.fail("unreachable")

    assert caught.value.__cause__ is failure
    assert caught.value.problems == (
        "'a' is a stream that failed: ConnectionResetError: peer went away",
    )


async def test_a_stream_that_cannot_even_start_is_reported(collecting: Collect) -> None:
    class Broken:
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise ValueError

    with pytest.raises(SourceError, match=r"(?m)'a' is a stream that failed: ValueError$"):
        async with collecting({"a": Broken()}):
            pytest.fail("unreachable")


class Once(io.RawIOBase):
    """A socket or a pipe: no way back."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self.content))
        buffer[:size], self.content = self.content[:size], self.content[size:]
        return size


class Iterator_:
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop(0)


class Restarting(Iterator_):
    def __aiter__(self) -> Self:
        self.pieces = [b"content"]
        return self


class Reader_:
    def __init__(self, content: bytes) -> None:
        self.content = content

    async def read(self, size: int) -> bytes:
        piece, self.content = self.content[:size], self.content[size:]
        return piece


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Once(b"content"), id="raw"),
        pytest.param(lambda: io.BufferedReader(Once(b"content")), id="buffered"),
        pytest.param(lambda: Iterator_(b"content"), id="iterator"),
        pytest.param(lambda: Reader_(b"content"), id="async reader"),
    ],
)
async def test_a_stream_already_read_is_refused(make: Callable[[], Any], spool_dir: Path) -> None:
    stream = make()
    async with Spool(spool_dir, memory=100) as held:
        assert read_all(await held.take("a", stream)) == b"content"
        with pytest.raises(SourceError, match="'b' is a stream that was read to its end before"):
            await held.take("b", stream)
    async with Spool(spool_dir, memory=100) as held:
        with pytest.raises(SourceError, match="was read to its end before"):
            await held.take("a", stream)


async def test_a_partly_read_stream_is_refused(
    spool_dir: Path,
) -> None:
    stream = Iterator_(b"one", "text", b"two")  # type: ignore[arg-type]
    async with Spool(spool_dir, memory=100) as held:
        with pytest.raises(SourceError, match="gave str"):
            await held.take("a", stream)
        with pytest.raises(SourceError, match="was read in part before"):
            await held.take("a", stream)
    assert stream.pieces == [b"two"]


async def test_what_can_be_read_again_is(spool_dir: Path) -> None:
    async with Spool(spool_dir, memory=100) as held:
        for source in (io.BytesIO(b"content"), Restarting()):
            for _ in range(2):
                assert read_all(await held.take("a", source)) == b"content"
        for _ in range(2):
            assert read_all(await held.take("a", Iterator_())) == b""


async def test_only_streams_that_exist_are_remembered(spool_dir: Path) -> None:
    gc.collect()  # those of other tests
    before = len(spool._earlier)
    stream = Iterator_(b"content")
    async with Spool(spool_dir, memory=100) as held:
        await held.take("a", stream)
    assert len(spool._earlier) == before + 1
    del stream
    gc.collect()
    assert len(spool._earlier) == before


async def test_a_stream_given_up_is_closed(collecting: Collect) -> None:
    cleaned_up: list[str] = []

    async def careful() -> AsyncIterator[Any]:
        try:
            yield "not bytes"
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned_up.append("careful")
            raise OSError("and its clean-up fails")

    with pytest.raises(SourceError, match="gave str"):
        async with collecting({"a": careful()}):
            pytest.fail("unreachable")
    assert cleaned_up == ["careful"]


async def test_a_stream_whose_clean_up_hangs_is_given_up(
    collecting: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_CLOSE_TIMEOUT", 0)
    cancelled: list[bool] = []

    async def hanging() -> AsyncIterator[Any]:
        try:
            yield "not bytes"
        finally:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(True)

    with pytest.raises(SourceError, match="gave str"):
        async with collecting({"a": hanging()}):
            pytest.fail("unreachable")
    assert cancelled == [True]


@pytest.mark.parametrize("last", [b"", b"x" * (64 * KIB)], ids=["in a write", "at the end"])
async def test_a_full_disk_suggests_another(
    collecting: Collect, spool_dir: Path, last: bytes
) -> None:
    pieces = [b"x" * (300 * KIB), b"x" * 10] if last else [b"x" * MIB]
    with files_of_at_most(300 * KIB), pytest.raises(SourceError) as caught:
        async with collecting({"a": stream(*pieces, last)}):
            pytest.fail("unreachable")

    assert caught.value.message == (
        f"'a' is a stream that cannot be spooled to '{spool_dir}': File too large"
    )
    assert "cache_dir" in caught.value.suggestion
    assert "more room" in caught.value.suggestion


async def test_a_spool_folder_that_cannot_be_made_suggests_another() -> None:
    async with Spool(Path("/dev/null/spools"), memory=0) as held:
        with pytest.raises(SourceError, match="cannot be spooled") as caught:
            await held.take("a", stream(b"x"))
    assert "can be written to" in caught.value.suggestion


async def test_an_error_in_the_block_leaves_nothing(collecting: Collect, spool_dir: Path) -> None:
    async def push() -> None:
        async with collecting({"a": stream(b"x" * MIB)}):
            assert len(names_in(spool_dir)) == 1
            raise RuntimeError("of the push")

    with pytest.raises(RuntimeError, match="of the push"):
        await push()
    assert names_in(spool_dir) == []


# Cancellation, of anyio's and of asyncio's kind.


class Waiting:
    """A stream that gives some bytes and then waits for ever."""

    def __init__(self) -> None:
        self.waits = anyio.Event()
        self.cleaned_up = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            yield b"x" * MIB
            self.waits.set()
            await anyio.sleep_forever()
        finally:
            self.cleaned_up = True


async def test_cancelling_while_a_stream_is_read_leaves_nothing(
    collecting: Collect, spool_dir: Path
) -> None:
    waiting = Waiting()

    async def push() -> None:
        async with collecting({"a": waiting}):
            pytest.fail("unreachable")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(push)
        await waiting.waits.wait()
        assert len(names_in(spool_dir)) == 1
        tasks.cancel_scope.cancel()
    assert waiting.cleaned_up
    assert names_in(spool_dir) == []

    waiting = Waiting()
    task = asyncio.create_task(push())
    await waiting.waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.cleaned_up
    assert names_in(spool_dir) == []


async def test_cancelling_the_block_leaves_nothing(collecting: Collect, spool_dir: Path) -> None:
    with anyio.move_on_after(5) as scope:
        async with collecting({"a": stream(b"x" * MIB)}) as collected:
            assert read_all(collected.files[0]) == b"x" * MIB
            scope.cancel()
            await anyio.sleep_forever()
    assert names_in(spool_dir) == []


async def test_cancelling_during_a_write_leaves_nothing(
    collecting: Collect, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream waits at its `yield`, so that it must be closed as well."""
    cleaned_up = []

    async def waiting_at_its_yield() -> AsyncIterator[bytes]:
        try:
            yield b"x" * MIB
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned_up.append(True)

    async def stuck(*_: object) -> None:
        writes.set()
        await anyio.sleep_forever()

    writes = anyio.Event()
    monkeypatch.setattr(spool, "_write", stuck)
    async with anyio.create_task_group() as tasks:

        async def push() -> None:
            async with collecting({"a": waiting_at_its_yield()}):
                pytest.fail("unreachable")

        tasks.start_soon(push)
        await writes.wait()
        tasks.cancel_scope.cancel()
    assert cleaned_up == [True]


async def test_a_silent_pipe_does_not_delay_cancellation(
    collecting: Collect,
) -> None:
    with pipe() as (reading_end, writing_end):
        reading = threading.Event()

        class Silent:
            def read(self, size: int) -> bytes:
                reading.set()
                return reading_end.read(size) or b""

        async with anyio.create_task_group() as tasks:

            async def push() -> None:
                async with collecting({"a": Silent()}):
                    pytest.fail("unreachable")

            tasks.start_soon(push)
            await anyio.to_thread.run_sync(reading.wait)
            tasks.cancel_scope.cancel()
        writing_end.write(b"end")  # lets the thread that was left behind go


async def test_cancelling_a_long_walk_is_not_held_up(collecting: Collect) -> None:
    walking, abandon = threading.Event(), threading.Event()

    class Endless(dict[str, bytes]):
        def items(self) -> Any:
            walking.set()
            abandon.wait()
            return ()

    async with anyio.create_task_group() as tasks:

        async def push() -> None:
            async with collecting(Endless()):
                pytest.fail("unreachable")

        tasks.start_soon(push)
        await anyio.to_thread.run_sync(walking.wait)
        tasks.cancel_scope.cancel()
    abandon.set()


async def test_a_file_that_comes_after_the_end_is_not_made(spool_dir: Path) -> None:
    async with Spool(spool_dir, memory=0) as held:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await held.take("a", stream(b"x"))


# Scratch folders.


@pytest.fixture
def _no_descriptor_stays() -> Iterator[None]:
    before = names_in(Path("/proc/self/fd"))
    yield
    assert names_in(Path("/proc/self/fd")) == before


HOLDER = """
import sys
from pathlib import Path
from asyncpush.sources.spool import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
folder.new_file().write(b"x" * 100_000)
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_files_of_a_killed_process_are_removed(spool_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(spool_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())

        first = ScratchFolder(spool_dir)
        assert len(list(left.iterdir())) == 1  # its process is alive
        process.send_signal(signal.SIGKILL)
        process.wait()
    second = ScratchFolder(spool_dir)

    assert set(spool_dir.iterdir()) == {Path(first.path), Path(second.path)}
    first.remove()
    second.remove()


@pytest.mark.usefixtures("_no_descriptor_stays")
def test_other_things_in_the_folder_are_left_alone(spool_dir: Path) -> None:
    theirs = spool_dir / "asyncpush-spool-another.machine-x"
    theirs.mkdir()
    link = spool_dir / f"{scratch._scratch_prefix()}link"
    link.symlink_to(theirs)
    ScratchFolder(spool_dir).remove()
    assert set(spool_dir.iterdir()) == {theirs, link}
    link.unlink()
    theirs.rmdir()


@pytest.mark.usefixtures("_no_descriptor_stays")
def test_a_folder_removed_as_an_orphan_is_recreated(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = scratch._lock
    made: list[str] = []

    def too_late(folder: str, *, wait: bool) -> int | None:
        made.append(folder)
        if len(made) == 1:
            os.rmdir(folder)
        return lock(folder, wait=wait)

    monkeypatch.setattr(scratch, "_lock", too_late)
    folder = ScratchFolder(spool_dir)
    assert [folder.path] == made[1:]
    folder.remove()


@pytest.mark.parametrize("locks", ["no module", "refused"])
@pytest.mark.usefixtures("_no_descriptor_stays")
def test_without_locks_nothing_but_ones_own_folder_is_removed(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks on this file system")

    if locks == "refused":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(scratch, "CAN_LOCK", False)
    one = ScratchFolder(spool_dir)
    two = ScratchFolder(spool_dir)
    assert len(list(spool_dir.iterdir())) == 2
    one.remove()
    two.remove()


def test_a_file_object_is_read_in_pieces(spool_dir: Path) -> None:
    asked: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    async def main() -> FileSource:
        async with Spool(spool_dir, memory=MIB) as held:
            return await held.take("a", File(b"x" * READ_SIZE))

    assert anyio.run(main).size == READ_SIZE
    assert asked == [READ_SIZE, READ_SIZE]


async def test_concurrent_streams_share_one_memory_limit(spool_dir: Path) -> None:
    """Each gives its pieces in turn with the others; two of three fit."""
    taken_slots = [anyio.Event() for _ in range(9)]

    async def in_turn(number: int) -> AsyncIterator[bytes]:
        for piece in range(3):
            if turn := 3 * piece + number:
                await taken_slots[turn - 1].wait()
            yield bytes([number]) * (100 * KIB)
            taken_slots[3 * piece + number].set()

    taken = {}
    async with Spool(spool_dir, memory=700 * KIB) as held:

        async def take(number: int) -> None:
            taken[number] = await held.take(str(number), in_turn(number))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(take, number)
        for number, file in taken.items():
            assert read_all(file) == bytes([number]) * (300 * KIB)
        in_memory = [file for file in taken.values() if isinstance(file.content, BytesSource)]
        assert sum(file.size for file in in_memory) <= 700 * KIB
        assert len(in_memory) == 2
