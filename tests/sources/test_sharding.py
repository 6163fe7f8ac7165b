"""Splitting safetensors files, with the format's library and the official client as witnesses."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import ComposedSource, FileIdentity, FileSource, PathSource
from asyncpush.sources import read_all
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.sharding import split_large
from tests.sources.conftest import Collect
from tests.sources.test_safetensors import library_file, rows_of, tensors


def flat(sizes: dict[str, int], metadata: dict[str, str] | None = None) -> bytes:
    """A file of byte tensors, in the order of their names."""
    return library_file({name: ("uint8", [size]) for name, size in sizes.items()}, metadata)


def in_memory(content: bytes, name: str = "model.safetensors") -> FileSource:
    return FileSource.of_bytes(name, content)


def on_disk(path: Path, content: bytes) -> FileSource:
    path.write_bytes(content)
    status = path.stat()
    return FileSource(path.name, status.st_size, PathSource(str(path), FileIdentity.of(status)))


def split(file: FileSource, limit: int) -> tuple[dict[str, FileSource], ProblemReport]:
    report = ProblemReport()
    return {made.path_in_repo: made for made in split_large([file], limit, report)}, report


@settings(max_examples=40, deadline=None)
@given(
    entries=tensors,
    metadata=st.none() | st.just({"format": "pt"}),
    limit=st.integers(1, 400),
    from_disk=st.booleans(),
)
def test_every_tensor_is_in_the_shard_that_the_index_names(
    tmp_path_factory: pytest.TempPathFactory,
    entries: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str] | None,
    limit: int,
    from_disk: bool,
) -> None:
    content = library_file(entries, metadata)
    path = tmp_path_factory.getbasetemp() / "model.safetensors"
    file = on_disk(path, content) if from_disk else in_memory(content)
    made, report = split(file, limit)
    assert not report.problems

    before = rows_of(content)
    sizes = {name: len(row["data"]) for name, row in before.items()}
    if list(made) == ["model.safetensors"]:
        assert made["model.safetensors"] is file
        assert (
            len(content) <= limit
            or len(sizes) < 2
            or sum(sizes.values()) <= limit
            or (sum(size > 0 for size in sizes.values()) == 1)
        )
        return
    index = json.loads(read_all(made.pop("model.safetensors.index.json")))
    assert index["metadata"] == {"total_size": sum(sizes.values())}
    after: dict[str, Any] = {}
    for number, (name, shard) in enumerate(made.items(), 1):
        assert name == f"model-{number:05}-of-{len(made):05}.safetensors"
        written = read_all(shard)
        assert shard.size == len(written)
        rows = rows_of(written)
        assert sum(sizes[key] for key in rows) <= limit or len(rows) == 1
        length = int.from_bytes(written[:8], "little")
        assert length % 8 == 0
        assert json.loads(written[8 : 8 + length]).get("__metadata__") == metadata
        assert {index["weight_map"][key] for key in rows} == {name}
        after |= rows
    assert after == before
    assert set(index["weight_map"]) == set(before)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_the_official_client_would_cut_at_the_same_places(sizes: list[int], limit: int) -> None:
    content = flat({f"t{number:02}": size for number, size in enumerate(sizes)})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    theirs = split_state_dict_into_shards_factory(
        {name: entry["shape"][0] for name, entry in order},
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    made, _ = split(in_memory(content), limit)

    assert set(made) - {"model.safetensors.index.json"} == set(theirs.filename_to_tensors)
    if theirs.is_sharded:
        index = json.loads(read_all(made["model.safetensors.index.json"]))
        assert index == {
            "metadata": theirs.metadata,
            "weight_map": theirs.tensor_to_filename,
        }


def test_small_files_and_other_files_are_left_alone() -> None:
    files = [in_memory(flat({"a": 9, "b": 9}), name) for name in ("x.bin", "y.SAFETENSORS")]
    small = in_memory(flat({"a": 9, "b": 9}))
    assert split_large(files, 10, ProblemReport()) == files
    assert split_large([small], small.size, ProblemReport()) == [small]


def test_a_file_too_large_only_by_its_header_stays_whole() -> None:
    shard = in_memory(flat({"a": 9, "b": 9}), "model-00001-of-00002.safetensors")
    assert split_large([shard], 18, ProblemReport()) == [shard]


def test_a_tensor_above_the_limit_gets_its_own_shard() -> None:
    made, report = split(in_memory(flat({"a": 5, "b": 50, "c": 5}), "d/m.safetensors"), 10)
    shards = {name: sorted(rows_of(read_all(made[name]))) for name in list(made)[:2]}
    assert shards == {
        "d/m-00001-of-00002.safetensors": ["b"],
        "d/m-00002-of-00002.safetensors": ["a", "c"],
    }
    index = json.loads(read_all(made["d/m.safetensors.index.json"]))
    assert index["weight_map"]["b"] == "m-00001-of-00002.safetensors"
    assert report.notices == (
        "tensor 'b' of 'd/m.safetensors' has 50 bytes, more than max_shard_size: its shard will be"
        " larger",
    )


def test_neighbouring_tensors_are_read_as_one_range() -> None:
    made, _ = split(in_memory(flat({"a": 5, "b": 5, "c": 50, "d": 5, "e": 5})), 20)
    contents = [made[name].content for name in list(made)[:2]]
    assert [len(c.ranges) for c in contents if isinstance(c, ComposedSource)] == [1, 2]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        pytest.param(
            {"model-00001-of-00002.safetensors": flat({"a": 9, "b": 9})},
            "'model-00001-of-00002.safetensors' is named like a shard and is larger",
            id="a shard already",
        ),
        pytest.param(
            {"d/m.safetensors": flat({"a": 9, "b": 9}), "d/m.safetensors.index.json": b"{}"},
            "'d/m.safetensors.index.json' would be created by max_shard_size",
            id="an index is there",
        ),
        pytest.param(
            {
                "m.safetensors": flat({"a": 9, "b": 9}),
                "m-00002-of-00002.safetensors": flat({"a": 1}),
            },
            "'m-00002-of-00002.safetensors' would be created by max_shard_size, but",
            id="a shard is there",
        ),
        pytest.param(
            {
                "m.safetensors": flat({"a": 9, "b": 9}),
                "m-00001-of-00002.safetensors/x": b"",
            },
            "'m-00001-of-00002.safetensors', a shard's name, is also the folder of",
            id="a folder is there",
        ),
        pytest.param(
            {"x" * 240 + ".safetensors": flat({"a": 9, "b": 9})},
            "a shard's name, must not contain a segment longer",
            id="a name too long",
        ),
        pytest.param(
            {"m.safetensors": b"\xff" * 100},
            "'m.safetensors' announces a header of 18,446,744,073,709,551,615 bytes",
            id="a huge header",
        ),
        pytest.param({"m.safetensors": flat({"a": 99})[:-1]}, "is truncated", id="cut short"),
        pytest.param({"m.safetensors": b"\0" * 12}, "not valid JSON", id="no header"),
    ],
)
async def test_what_cannot_be_split_is_told_before_anything_moves(
    collecting: Collect, files: dict[str, bytes], problem: str
) -> None:
    with pytest.raises(SourceError, match=problem) as caught:
        async with collecting(files, max_shard_size=10):
            pass
    assert "leave out max_shard_size" in caught.value.suggestion


async def test_a_bad_file_is_named_by_where_it_lies(collecting: Collect, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(SourceError, match=rf"^'{path}' announces a header"):
        async with collecting(path, max_shard_size=10):
            pass
    with pytest.raises(SourceError, match=rf"^'m\.safetensors' \(of '{path}'\) announces a header"):
        async with collecting({"m.safetensors": path}, max_shard_size=10):
            pass


async def test_a_stream_is_split_as_well(collecting: Collect) -> None:
    content = flat({"a": 2 << 20, "b": 1 << 20})

    async def pieces() -> Any:
        yield content

    async with collecting({"m.safetensors": pieces()}, max_shard_size="2.5MB") as collected:
        names = [file.path_in_repo for file in collected.files]
        loaded: dict[str, Any] = {}
        for file in collected.files[:2]:
            loaded |= rows_of(read_all(file))
    assert names == [
        "m-00001-of-00002.safetensors",
        "m-00002-of-00002.safetensors",
        "m.safetensors.index.json",
    ]
    assert loaded == rows_of(content)


def test_a_file_that_changes_before_it_is_split_is_noticed(tmp_path: Path) -> None:
    file = on_disk(tmp_path / "m.safetensors", flat({"a": 9, "b": 9}))
    os.utime(tmp_path / "m.safetensors", (1, 1))
    with pytest.raises(SourceChangedError, match="was written to"):
        split(file, 10)


def test_splitting_reads_the_header_alone(tmp_path: Path) -> None:
    """A terabyte takes no more memory than a megabyte: the file here is a hole of 1 TiB."""
    size = 1 << 40
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [size // 2], "data_offsets": [0, size // 2]},
            "b": {"dtype": "U8", "shape": [size // 2], "data_offsets": [size // 2, size]},
        }
    ).encode()
    path = tmp_path / "m.safetensors"
    file = on_disk(path, len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    status = path.stat()
    file = FileSource(
        "m.safetensors", status.st_size, PathSource(str(path), FileIdentity.of(status))
    )
    tracemalloc.start()
    try:
        made, _ = split(file, size // 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made) == 3
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.fp16.safetensors", "model.safetensors.index.fp16.json"),
        (
            "unet/diffusion_pytorch_model.bf16.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.bf16.json",
        ),
        ("my.model.safetensors", "my.model.safetensors.index.json"),
    ],
)
def test_a_variant_has_its_index_where_loaders_look(name: str, index: str) -> None:
    """As `save_pretrained(variant="fp16")` names it; shards keep the variant before the number."""
    made, _ = split(in_memory(flat({"a": 30, "b": 30}), name), 40)
    stem = name.removesuffix(".safetensors")
    shards = {f"{stem}-{number:05}-of-00002.safetensors" for number in (1, 2)}
    assert set(made) == {index, *shards}
