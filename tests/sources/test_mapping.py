"""Bytes and mappings: what may be given as the content of a file, and the model card."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import aiofiles
import pytest

from asyncpush.errors import SourceError
from asyncpush.models import FileSource
from asyncpush.sources import read_all
from tests.sources.conftest import Collect, pipe, stream

CONTENT = b"0123456789" * 50


async def pushed(collecting: Collect, source: Any, **options: Any) -> dict[str, bytes]:
    async with collecting(source, **options) as collected:
        return {file.path_in_repo: read_all(file) for file in collected.files}


async def problems(collecting: Collect, source: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SourceError) as caught:
        await pushed(collecting, source, **options)
    return caught.value.problems


@pytest.mark.parametrize("as_bytes", [bytes, bytearray, memoryview])
async def test_bytes_land_at_their_full_name(collecting: Collect, as_bytes: Any) -> None:
    async with collecting(as_bytes(CONTENT), path_in_repo=".\\w\\a.bin") as collected:
        (file,) = collected.files
    assert file == FileSource.of_bytes("w/a.bin", CONTENT)


@pytest.mark.parametrize(
    ("path_in_repo", "problem"),
    [
        pytest.param("", "path_in_repo '' must not be empty", id="none"),
        pytest.param(
            "w/", "path_in_repo 'w/' must name a file, not end with a separator", id="a folder"
        ),
    ],
)
async def test_bytes_need_a_full_name(collecting: Collect, path_in_repo: str, problem: str) -> None:
    assert await problems(collecting, CONTENT, path_in_repo=path_in_repo) == (problem,)


async def test_a_mapping_names_contents_of_every_kind(collecting: Collect, tmp_path: Path) -> None:
    path = tmp_path / "on-disk"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        source = {
            "str": str(path),
            "path": path,
            "bytes": CONTENT,
            "bytearray": bytearray(CONTENT),
            "memory file": io.BytesIO(CONTENT),
            "file": file,
            "async/generator": stream(CONTENT[:100], b"", CONTENT[100:]),
            "async\\async file": AsyncFile(CONTENT),
            "./z": b"",
        }
        got = await pushed(collecting, source)

    assert list(got) == sorted(got)
    assert got.pop("z") == b""
    assert set(got) == {
        "str", "path", "bytes", "bytearray", "memory file", "file",
        "async/generator", "async/async file",
    }  # fmt: skip
    assert set(got.values()) == {CONTENT}


class AsyncFile:
    """Like asyncio's streams: a `read` to be awaited, and iteration by lines that would fail."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self, size: int) -> bytes:
        return self._file.read(min(size, 7))

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("should not be asked")


async def test_a_memory_file_is_its_whole_value(collecting: Collect) -> None:
    file = io.BytesIO()
    file.write(CONTENT)  # and nobody seeks back, as after torch.save(model, file)
    assert await pushed(collecting, {"a": file}) == {"a": CONTENT}


async def test_keys_are_below_path_in_repo(
    collecting: Collect,
) -> None:
    source = {"a.bin": b"1", "logs/a.bin": b"2", "a.txt": b"3", ".git/x": b"4"}
    got = await pushed(
        collecting,
        source,
        path_in_repo="w",
        allow_patterns="*.bin",
        ignore_patterns=["logs/", ".git/"],
    )
    assert got == {"w/a.bin": b"1"}


async def test_streams_that_patterns_leave_out_are_not_touched(collecting: Collect) -> None:
    left_out = stream(CONTENT)
    assert await pushed(collecting, {"a": b"", "b": left_out}, ignore_patterns="b") == {"a": b""}
    assert [piece async for piece in left_out] == [CONTENT]


async def test_everything_wrong_with_a_mapping_is_said_at_once(
    collecting: Collect, tmp_path: Path
) -> None:
    text_file = tmp_path / "text"
    text_file.write_text("text")
    closed = text_file.open("rb")
    closed.close()
    shared = stream(CONTENT)
    read_already = stream(CONTENT)
    assert [piece async for piece in read_already] == [CONTENT]
    with (
        text_file.open() as text,
        (tmp_path / "out").open("wb") as write_only,
        tempfile.NamedTemporaryFile("w+") as temporary_text,
    ):
        closed_memory = io.BytesIO()
        closed_memory.close()
        source: dict[Any, Any] = {
            "missing": tmp_path / "nowhere",
            "folder": tmp_path,
            "no path": "",
            "None": None,
            "a generator": (piece for piece in [CONTENT]),
            "a list": [CONTENT],
            "text": text,
            "memory text": io.StringIO("x"),
            "temporary text": temporary_text,
            "closed": closed,
            "closed memory": closed_memory,
            "write only": write_only,
            "shared": shared,
            "shared/again": shared,
            "read already": read_already,
            "../up": b"",
            "": b"",
            "twice": b"",
            "./twice": b"",
            7: b"",
        }
        found = await problems(collecting, source)

    content = "a path, bytes, a binary file object, an async iterable of bytes or Tensors"
    text_mode = "is a file opened in text mode: open it in binary mode, 'rb'"
    assert found == (
        f"'{tmp_path}/nowhere' does not exist",
        f"'{tmp_path}' is a folder, not a file",
        "'no path' is given an empty path",
        f"'None' is given a value of type NoneType: give {content}",
        f"'a generator' is given a value of type generator: give {content}",
        f"'a list' is given a value of type list: give {content}",
        f"'text' {text_mode}",
        f"'memory text' {text_mode}",
        f"'temporary text' {text_mode}",
        "'closed' is a file that is closed already",
        "'closed memory' is a file that is closed already",
        "'write only' is a file that is not open for reading",
        "'shared/again' is given the stream of 'shared', which can be read only once",
        "'read already' is given a generator that has been read to its end already",
        "path_in_repo '../up' must not contain a '..' segment",
        "path_in_repo '' must not be empty",
        "path_in_repo 'twice' is named twice: by 'twice' and by './twice'",
        "key 7 is of type int, not a str",
        "'shared' is a file and also the folder of 'shared/again'",
    )


@pytest.mark.parametrize("key", ["/x", "C:/x", "", "..", "a/", "a//b"])
async def test_an_invalid_key_is_invalid_below_a_folder(collecting: Collect, key: str) -> None:
    (problem,) = await problems(collecting, {key: b""}, path_in_repo="w")
    assert problem.startswith(f"path_in_repo {key!r} must ")


async def test_suggestions_speak_of_patterns_where_there_are_any(collecting: Collect) -> None:
    for source, expected in ({"..": b""}, True), ("nowhere", False), (b"", False):
        with pytest.raises(SourceError) as caught:
            await pushed(collecting, source)
        assert ("ignore_patterns" in caught.value.suggestion) is expected


async def test_nothing_is_read_when_there_are_problems(collecting: Collect) -> None:
    untouched = stream(CONTENT)
    await problems(collecting, {"a": untouched, "..": b""})
    assert [piece async for piece in untouched] == [CONTENT]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(None, id="None"),
        pytest.param(7, id="int"),
        pytest.param(["a", "b"], id="list"),
        pytest.param(io.BytesIO(b""), id="file without a name"),
    ],
)
async def test_a_source_of_another_type_is_refused_by_name(
    collecting: Collect, source: Any
) -> None:
    (problem,) = await problems(collecting, source)
    assert problem.startswith(f"the source is of type {type(source).__name__}: give a folder")


async def test_an_empty_mapping_alone_is_a_problem(
    collecting: Collect,
) -> None:
    assert await problems(collecting, {}) == ("the mapping is empty",)
    assert await problems(collecting, {"a": b""}, ignore_patterns="*") == (
        "the patterns select none of the mapping's 1 files",
    )
    assert await pushed(collecting, {}, delete_patterns="*") == {}
    async with collecting({}, model_card="# Card") as collected:
        assert [file.path_in_repo for file in collected.files] == ["README.md"]
        assert collected.notices == ("the mapping is empty",)


# Which file objects are as good as their paths.


async def only_file(collecting: Collect, content: Any) -> tuple[str | None, bytes]:
    """The path that would be read (None: memory), and what is read."""
    async with collecting({"a": content}) as collected:
        (file,) = collected.files
        return file.disk_path, read_all(file)


async def test_a_plain_file_at_its_start_is_read_in_place(
    collecting: Collect, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    for opened in (path.open("rb"), path.open("rb", buffering=0), path.open("r+b")):
        with opened as file:
            assert await only_file(collecting, file) == (str(path), CONTENT)
            assert file.tell() == 0


async def test_a_named_temporary_file_is_read_in_place(collecting: Collect) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENT)
        file.seek(0)
        assert await only_file(collecting, file) == (file.name, CONTENT)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Left as it is after writing, nothing flushed."""
    with path.open("w+b") as file:
        file.write(CONTENT)
        yield file


@contextmanager
def nameless(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(CONTENT)
        yield file


@contextmanager
def partly_read(path: Path, opened: Callable[..., Any]) -> Iterator[IO[bytes]]:
    with opened(path) as file:
        file.read(4)
        yield file


@pytest.mark.parametrize(
    "opened",
    [
        written,
        nameless,
        partial(partly_read, opened=partial(open, mode="rb")),
        partial(partly_read, opened=partial(open, mode="rb", buffering=0)),
        partial(partly_read, opened=partial(open, mode="r+b")),
        partial(partly_read, opened=gzip.open),
    ],
    ids=["written", "nameless", "read", "unbuffered", "to be written", "compressed"],
)
async def test_a_file_object_is_read_from_its_start(
    collecting: Collect,
    tmp_path: Path,
    opened: Callable[[Path], AbstractContextManager[IO[bytes]]],
    request: pytest.FixtureRequest,
) -> None:
    """As with `BytesIO`, and as the official client has it."""
    path = tmp_path / "f"
    compressed = "compressed" in request.node.callspec.id
    path.write_bytes(gzip.compress(CONTENT) if compressed else CONTENT)
    with opened(path) as file:
        original_position = file.tell()
        assert original_position > 0
        _, content = await only_file(collecting, file)
        assert content == CONTENT
        assert file.tell() == original_position


async def test_an_async_file_is_read_from_its_start(collecting: Collect, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    async with aiofiles.open(path, "rb") as file:
        await file.read(4)
        assert (await only_file(collecting, file))[1] == CONTENT


async def test_a_pipe_is_read_from_where_it_stands(collecting: Collect) -> None:
    with pipe() as (reading, writing):
        writing.write(b"12345678")
        writing.close()
        reading.read(4)
        assert await only_file(collecting, reading) == (None, b"5678")


async def test_an_empty_file_object_is_an_empty_file(collecting: Collect) -> None:
    with tempfile.TemporaryFile() as file:
        assert await only_file(collecting, file) == (None, b"")


async def test_a_compressed_file_gives_what_it_holds(collecting: Collect, tmp_path: Path) -> None:
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(CONTENT))
    with gzip.open(path) as file:
        assert await only_file(collecting, file) == (None, CONTENT)
    with gzip.open(path) as file, io.BufferedReader(file) as buffered:
        assert await only_file(collecting, buffered) == (None, CONTENT)


async def test_a_renamed_open_file_is_read_by_its_descriptor(
    collecting: Collect, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        path.rename(tmp_path / "renamed")
        assert await only_file(collecting, file) == (None, CONTENT)
    (tmp_path / "renamed").rename(path)
    with path.open("rb") as file:
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "other").rename(path)
        assert await only_file(collecting, file) == (None, CONTENT)


async def test_a_pipe_is_read_to_its_end(collecting: Collect) -> None:
    with pipe() as (reading_end, writing_end):
        writing_end.write(CONTENT)
        writing_end.close()
        assert await only_file(collecting, reading_end) == (None, CONTENT)


async def test_a_named_pipe_held_open_is_read_to_its_end(
    collecting: Collect, tmp_path: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with path.open("r+b", buffering=0) as both_ends, path.open("rb") as reading_end:
        both_ends.write(CONTENT)
        both_ends.close()
        assert await only_file(collecting, reading_end) == (None, CONTENT)


async def test_anything_with_a_read_is_a_file(collecting: Collect) -> None:
    class Readable:
        def __init__(self) -> None:
            self.left = [CONTENT, bytearray(b"x"), b""]

        def read(self, size: int) -> Any:
            return self.left.pop(0)

    class Empty:
        def read(self, size: int) -> bytes:
            return b""

    assert await only_file(collecting, Readable()) == (None, CONTENT + b"x")
    assert await only_file(collecting, Empty()) == (None, b"")


async def test_a_read_to_be_awaited_is_enough(collecting: Collect) -> None:
    class Remote:
        def __init__(self) -> None:
            self.left = [CONTENT, b""]

        async def read(self, size: int) -> bytes:
            return self.left.pop(0)

    assert await only_file(collecting, Remote()) == (None, CONTENT)


async def test_files_of_aiofiles_and_streams_of_asyncio_are_read(
    collecting: Collect, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    async with aiofiles.open(path, "rb") as file:
        assert await only_file(collecting, file) == (None, CONTENT)
    reader = asyncio.StreamReader()
    reader.feed_data(CONTENT)
    reader.feed_eof()
    assert await only_file(collecting, reader) == (None, CONTENT)


# The model card.


async def test_a_card_is_text(collecting: Collect) -> None:
    text = "---\nlicense: mit\n---\n# Grüße"
    got = await pushed(collecting, {"a": b""}, model_card=text, path_in_repo="w")
    assert got == {"README.md": text.encode(), "w/a": b""}


async def test_a_one_line_card_is_text_unless_a_file_exists(
    collecting: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (await pushed(collecting, {}, model_card="My card"))["README.md"] == b"My card"
    (tmp_path / "My card").write_bytes(b"# From the file")
    assert (await pushed(collecting, {}, model_card="My card"))["README.md"] == b"# From the file"


async def test_a_card_is_a_path(collecting: Collect, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_bytes(b"# Card")
    for path in (card, str(card)):
        async with collecting({"a": b""}, model_card=path) as collected:
            assert [file.disk_path for file in collected.files] == [str(card), None]
            assert collected.notices == ()


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        pytest.param("nowhere.md", "model_card names a file, '{here}/nowhere.md', that does not"
                     " exist", id="missing, as text"),
        pytest.param(Path("nowhere"), "'{here}/nowhere' does not exist", id="missing, as path"),
        pytest.param(Path("."), "'{here}' is a folder, not a file", id="folder"),
        pytest.param(" \n", "model_card is empty", id="empty"),
        pytest.param(b"# Card", "model_card is of type bytes: give text or a path", id="bytes"),
        pytest.param("a\n\ud800", "model_card cannot be written as UTF-8: 'utf-8' codec can't"
                     " encode character '\\ud800' in position 2: surrogates not allowed",
                     id="not Unicode"),
    ],
)  # fmt: skip
async def test_an_unreadable_card_is_reported_with_other_problems(
    collecting: Collect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: Any,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert await problems(collecting, {"..": b""}, model_card=card) == (
        problem.format(here=tmp_path),
        "path_in_repo '..' must not contain a '..' segment",
    )


async def test_a_card_wins_over_the_readme_of_the_source(
    collecting: Collect, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(b"# Old")
    async with collecting(tmp_path, model_card="# New\n") as collected:
        assert [read_all(file) for file in collected.files] == [b"# New\n"]
        assert collected.notices == (f"model_card replaces '{tmp_path}/README.md'",)


async def test_a_card_that_is_the_sources_readme_gives_no_notice(
    collecting: Collect, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(b"# Card")
    async with collecting(tmp_path, model_card=tmp_path / "README.md") as collected:
        assert [file.path_in_repo for file in collected.files] == ["README.md"]
        assert collected.notices == ()


async def test_a_card_excuses_a_readme_that_cannot_be_read(
    collecting: Collect, tmp_path: Path
) -> None:
    (tmp_path / "README.md").symlink_to("nowhere")
    got = await pushed(collecting, tmp_path, model_card="# New\n")
    assert got == {"README.md": b"# New\n"}


async def test_a_card_replaces_only_the_root_readme(
    collecting: Collect,
) -> None:
    source = {"README.md": b"of the folder", "readme.md": b"other"}
    got = await pushed(collecting, source, path_in_repo="w", model_card="# Card")
    assert got == {"README.md": b"# Card", "w/README.md": b"of the folder", "w/readme.md": b"other"}


async def test_bytes_named_as_the_card_give_way_to_it(collecting: Collect) -> None:
    got = await pushed(collecting, b"# Old", path_in_repo="README.md", model_card="# New")
    assert got == {"README.md": b"# New"}
