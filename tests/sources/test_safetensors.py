"""The safetensors format, with its own library as witness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from asyncpush.sources.safetensors import (
    HEADER_LIMIT,
    BadSafetensorsError,
    Layout,
    build_header,
    header_length,
    parse_header,
)

CHEAP = settings(max_examples=30, deadline=None)

GOOD = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def entry(begin: Any, end: Any, **other: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [0], "data_offsets": [begin, end], **other}


def parsed(header: object, data: int = 4) -> Layout:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return parse_header(text, 8 + len(text) + data)


@pytest.mark.parametrize(
    ("beginning", "size", "problem"),
    [
        pytest.param(b"", 0, "has 0 bytes", id="empty"),
        pytest.param(b"\0" * 7, 7, "has 7 bytes", id="no length"),
        pytest.param(b"\xff" * 8, 1 << 40, "announces a header of 18,446,744", id="huge"),
        pytest.param(
            (HEADER_LIMIT + 1).to_bytes(8, "little"), 1 << 40, "the limit is", id="too long"
        ),
        pytest.param((93).to_bytes(8, "little"), 100, "truncated: its header has 93", id="cut"),
    ],
)
def test_an_impossible_header_length_is_refused(beginning: bytes, size: int, problem: str) -> None:
    with pytest.raises(BadSafetensorsError, match=problem):
        header_length(beginning, size)


def test_the_longest_header_is_read() -> None:
    beginning = HEADER_LIMIT.to_bytes(8, "little")
    assert header_length(beginning, HEADER_LIMIT + 8) == HEADER_LIMIT


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        pytest.param(b"", "not valid JSON", id="nothing"),
        pytest.param(b"\xff{}", "not valid JSON", id="not UTF-8"),
        pytest.param('{"a": 1}'.encode("utf-16"), "not valid JSON", id="UTF-16"),
        pytest.param(b"[" * 100_000, "not valid JSON", id="too deep"),
        pytest.param(b"9" * 5000, "not valid JSON", id="too many digits"),
        pytest.param(b'{"a": NaN}', "nan is not a number|NaN is not a number", id="NaN"),
        pytest.param(b'{"a": 1e999}', "1e999 is not a number", id="infinite"),
        pytest.param(b'{"\\ud800": 1}', "not valid JSON", id="half a character"),
        pytest.param(b"[]", "not a JSON object", id="a list"),
        pytest.param(b'{"a": 1, "b": 2, "a": 3}', "'a' appears twice", id="a name twice"),
        pytest.param(
            b'{"a": {"dtype": "U8", "dtype": "I8"}}', "'dtype' appears twice", id="a key twice"
        ),
        pytest.param({"a": 1}, "a tensor, 'a', whose", id="no entry"),
        pytest.param({"a": {"dtype": "U8", "shape": []}}, "'a', whose", id="no offsets"),
        pytest.param({"a": GOOD | {"dtype": 8}}, "'a', whose", id="dtype no text"),
        pytest.param({"a": GOOD | {"shape": [-1]}}, "'a', whose", id="negative shape"),
        pytest.param({"a": entry(0, 4.0)}, "'a', whose", id="offset no whole number"),
        pytest.param({"a": entry(False, 4)}, "'a', whose", id="offset a truth"),
        pytest.param({"a": entry(4, 0)}, "'a', whose", id="end before beginning"),
        pytest.param({"a": entry(-4, 0)}, "'a', whose", id="before the file"),
        pytest.param({"a": entry(0, 3), "b": entry(2, 4)}, "'b', that overlaps", id="overlap"),
        pytest.param({"a": entry(0, 4), "b": entry(0, 4)}, "'b', that overlaps", id="the same"),
        pytest.param({"a": entry(0, 1), "b": entry(2, 4)}, "'b', that follows a gap", id="gap"),
        pytest.param({"a": entry(1, 4)}, "'a', that follows a gap", id="gap at first"),
        pytest.param({"a": entry(0, 5)}, "is truncated or has bytes", id="out of the file"),
        pytest.param({"a": entry(0, 3)}, "is truncated or has bytes", id="bytes of no tensor"),
        pytest.param({"a": GOOD, "__metadata__": []}, "__metadata__ that", id="metadata a list"),
        pytest.param({"a": GOOD, "__metadata__": {"n": 1}}, "__metadata__ that", id="no text"),
    ],
)
def test_a_bad_header_is_refused(header: object, problem: str) -> None:
    with pytest.raises(BadSafetensorsError, match=problem):
        parsed(header)


def test_names_may_be_escaped_or_not() -> None:
    layout = parsed({"größe/日本 😀": GOOD})
    assert [tensor.name for tensor in layout.tensors] == ["größe/日本 😀"]
    assert "größe/日本 😀".encode() in build_header(layout.tensors, None)


def test_what_a_future_version_adds_is_carried_over() -> None:
    layout = parsed({"a": GOOD | {"dtype": "F3", "scale": [0.5]}})
    (written,) = json.loads(build_header(layout.tensors, None)[8:]).values()
    assert written == GOOD | {"dtype": "F3", "scale": [0.5]}


DTYPES = ("bool", "uint8", "int16", "float16", "uint32", "float32", "int64", "complex64")

tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
    max_size=8,
)


def library_file(
    entries: Mapping[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> bytes:
    """What the library itself writes, each tensor's bytes its own."""
    arrays = {
        name: np.full(shape, number, dtype)
        for number, (name, (dtype, shape)) in enumerate(entries.items(), 1)
    }
    return save(arrays, metadata)


def rows_of(content: bytes) -> dict[str, dict[str, Any]]:
    """Each tensor's dtype, shape and bytes, read by the library."""
    return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]


@CHEAP
@given(
    tensors,
    # With empty metadata and no tensors the library writes what no JSON parser reads.
    st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), min_size=1, max_size=2),
)
def test_the_librarys_files_are_understood_and_written_again(
    entries: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    content = library_file(entries, metadata)
    length = header_length(content[:8], len(content))
    layout = parse_header(content[8 : 8 + length], len(content))

    assert {tensor.name for tensor in layout.tensors} == set(entries)
    assert layout.metadata == metadata
    assert layout.size == len(content) - 8 - length
    header = build_header(layout.tensors, layout.metadata)
    assert len(header) % 8 == 0
    assert rows_of(header + content[8 + length :]) == rows_of(content)


@CHEAP
@given(tensors, st.data())
def test_a_damaged_file_is_refused_or_fits_together(
    entries: dict[str, tuple[str, list[int]]], data: st.DataObject
) -> None:
    """Whatever happens to the header, nothing but the one error comes out."""
    content = bytearray(library_file(entries, None))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "drop", "insert"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "drop" if len(content) > 1:
                del content[at]
            case _:
                content.insert(at, data.draw(st.sampled_from(b'0123456789{}[]",:\\u- ')))
    try:
        length = header_length(bytes(content[:8]), len(content))
        layout = parse_header(bytes(content[8 : 8 + length]), len(content))
    except BadSafetensorsError:
        return
    assert layout.size == len(content) - 8 - length
    build_header(layout.tensors, layout.metadata)


@CHEAP
@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_refused(header: bytes) -> None:
    try:
        parsed(header, 0)
    except BadSafetensorsError:
        return
