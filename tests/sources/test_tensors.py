"""Tensors as a safetensors file, byte for byte, with the format's own library as the witness."""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import TensorSpec, serialize
from safetensors.numpy import save

from asyncpush import SourceChangedError, SourceError, Tensors
from asyncpush.sources import Reader, read_all
from asyncpush.sources.arrays import COPY_STEP, Array, _ByRows, _InMemory, copied
from asyncpush.sources.tensors import BLOCK, TensorFile

RNG = random.Random(21)

OF_NUMPY = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64"),
)
OF_ML_DTYPES = (
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    "float8_e8m0fnu",
)
DTYPES = (*OF_NUMPY, *OF_ML_DTYPES)

Made = Any


def dtype_of(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name) if name in OF_ML_DTYPES else name)


def made(name: str, *shape: int) -> Made:
    dtype = dtype_of(name)
    noise = RNG.randbytes(int(np.prod(shape)) * dtype.itemsize)
    if name == "bool":
        noise = bytes(byte & 1 for byte in noise)
    # Not from `bytes`: Python has each single byte only once, and the tensors would share it.
    return np.frombuffer(bytearray(noise), np.uint8).view(dtype).reshape(shape)


def content(tensors: Tensors) -> bytes:
    return read_all(tensors.file("model.safetensors"))


def dense(tensors: dict[str, Made]) -> dict[str, Made]:
    """The library writes what lies at an array's pointer, whatever its strides."""
    return {name: np.array(array, order="C") for name, array in tensors.items()}


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copied"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_are_those_that_safetensors_writes(dtype: str, copy: bool) -> None:
    tensors = {"w": made(dtype, 5, 6), "scalar": made(dtype), "empty": made(dtype, 0, 3)}
    metadata = {"format": "pt"}
    assert content(Tensors(tensors, metadata, copy)) == save(tensors, metadata)
    assert content(Tensors(tensors, copy=copy)) == save(tensors)


def test_dtypes_are_ordered_as_by_safetensors() -> None:
    names = ["b", "a", "é", "Z", 'quo"te\\', "tab\t\x01"]
    tensors = {f"{dtype}.{name}": made(dtype, 3) for dtype in DTYPES for name in names}
    assert content(Tensors(tensors)) == save(tensors)
    assert content(Tensors({})) == save({})
    assert content(Tensors({"a": made("int8", 1)[:0]}, {})) == save({"a": np.empty(0, "int8")}, {})


shapes = st.lists(st.integers(0, 7), max_size=4)


@given(
    given_tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.tuples(st.sampled_from(DTYPES), shapes, st.sampled_from(["", "turned", "steps", ">"])),
        max_size=6,
    )
)
def test_any_memory_layout_is_written_in_c_order(
    given_tensors: dict[str, tuple[str, list[int], str]],
) -> None:
    tensors = {}
    for name, (dtype, shape, how) in given_tensors.items():
        array = made(dtype, *shape)
        if how == "turned":
            array = array.T
        elif how == "steps" and shape:
            array = array[::-2]
        elif how == ">" and dtype in OF_NUMPY:
            array = array.astype(array.dtype.newbyteorder(">"))
        tensors[name] = array
    assert content(Tensors(tensors)) == save(dense(tensors))


@pytest.mark.parametrize("copy", [False, True], ids=["compared", "copied"])
def test_any_stretch_can_be_read_in_any_order(copy: bool) -> None:
    tensors = {
        "turned": made("bfloat16", 300, 500).T,
        "deep": made("float32", 3, 2, 40, 700)[:, ::-1],
        "plain": made("uint8", 3 * BLOCK + 17),
        "small": made("int64", 2),
    }
    expected = save(dense(tensors))
    file = Tensors(tensors, copy=copy).file("m")
    with Reader(file) as reader:
        for _ in range(100):
            begin = RNG.randrange(len(expected) + 1)
            end = min(len(expected), begin + RNG.choice([0, 1, 1000, BLOCK, 300_000]))
            buffer = bytearray(end - begin)
            reader.readinto(begin, memoryview(buffer))
            assert buffer == expected[begin:end]


def test_of_a_large_row_only_a_piece_is_copied() -> None:
    class Watched:
        """Slices of an array, and how large they were when NumPy asked for them."""

        def __init__(self, array: Made, seen: list[int]) -> None:
            self._array, self._seen = array, seen

        def __getitem__(self, key: Any) -> Watched:
            return Watched(self._array[key], self._seen)

        def __array__(self, dtype: Any = None, copy: Any = None) -> Made:
            self._seen.append(self._array.nbytes)
            return self._array.copy()

    seen: list[int] = []
    array = made("uint8", 2, 3 << 20, 1)
    rows = _ByRows(Watched(array, seen), "uint8", array.shape)
    buffer = memoryview(bytearray(1000))
    for begin in (0, (3 << 20) - 10, array.nbytes - 5):
        size = rows.read(begin, buffer)
        assert size
        assert buffer[:size] == array.tobytes()[begin : begin + size]
    assert max(seen) <= 1000


class ByArray:
    def __init__(self, array: Made) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Made:
        return self.array.copy()


class ByDlpack:
    def __init__(self, array: Made) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Sliced(ByArray):
    """Slices like a NumPy array."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it is on a device")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Sliced:
        return Sliced(self.array[key])


@pytest.mark.parametrize("kind", [ByArray, ByDlpack, Sliced])
def test_what_numpy_can_convert_is_taken(kind: Any) -> None:
    arrays = {"a": made("float32", 300, 400), "b": made("int16", 7)}
    tensors = {name: kind(array) for name, array in arrays.items()}
    assert content(Tensors(tensors)) == save(arrays)
    assert content(Tensors(tensors, copy=True)) == save(arrays)


class Frame(ByArray):
    """Can be converted, and has a shape and rows, but `frame[0]` is a column: as in pandas."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Frame:
        return Frame(self.array[key] if isinstance(key, slice) else self.array[:, key])


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copied"])
def test_columns_of_a_data_frame_are_not_its_rows(copy: bool) -> None:
    table = made("float64", 512, 512)
    file = Tensors({"a": Frame(table)}, copy=copy).file("m")
    pieces = bytearray(file.size)
    with Reader(file) as reader:
        for start in range(0, file.size, 1000):
            reader.readinto(start, memoryview(pieces)[start : start + 1000])
    assert pieces == save({"a": table})


@pytest.mark.parametrize("kind", [Sliced, ByArray])
@pytest.mark.parametrize(
    "later", [made("float64", 4, 5), made("int32", 4, 5), made("float32", 4, 4)], ids=str
)
def test_a_tensor_that_is_replaced_by_another_kind_is_seen(kind: Any, later: Made) -> None:
    tensor = kind(made("float32", 4, 5))
    file = Tensors({"a": tensor}).file("m")
    tensor.array = later
    with pytest.raises(SourceChangedError, match="'a' of 'm' has a different shape or dtype"):
        read_all(file)


@pytest.mark.parametrize("kind", [Sliced, ByArray, ByDlpack])
def test_one_object_under_two_names_is_a_tied_weight(kind: Any) -> None:
    tensor = kind(made("float32", 4, 5))
    with pytest.raises(SourceError, match="'a', 'b' share memory"):
        Tensors({"a": tensor, "b": tensor, "c": kind(made("float32", 4, 5))})


def test_what_is_added_or_changed_afterwards_does_not_matter() -> None:
    arrays = {"a": made("int8", 3)}
    state, metadata = dict(arrays), {"format": "np"}
    tensors = Tensors(state, metadata)
    state["b"] = made("int8", 3)
    metadata["format"] = "pt"
    assert content(tensors) == save(arrays, {"format": "np"})


def test_a_dict_may_grow_while_its_tensors_are_looked_at() -> None:
    state: dict[str, Any] = {}

    class Growing(ByArray):
        def __array__(self, dtype: Any = None, copy: Any = None) -> Made:
            state[f"later.{len(state)}"] = made("int8", 1)
            return super().__array__()

    state["a"] = Growing(made("int8", 3))
    assert len(state) == 1
    assert repr(Tensors(state)) == "<Tensors: 1 tensor, 3 bytes>"


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_empty_tensors_and_metadata_match_safetensors(metadata: Any) -> None:
    arrays = {"a": made("float32", 0, 3)}
    assert read_all(Tensors(arrays, metadata).file("m")) == save(arrays, metadata)
    if metadata != {}:  # of nothing at all, the library writes `{},"__metadata__":{}}`
        assert read_all(Tensors({}, metadata).file("m")) == save({}, metadata)


def test_bfloat16_of_the_other_byte_order_is_swapped() -> None:
    array = made("bfloat16", 5, 7)
    swapped = array.byteswap().view(array.dtype.newbyteorder(">"))
    assert content(Tensors({"a": swapped})) == save({"a": array})


def test_numbers_of_numpy_are_tensors_without_a_shape() -> None:
    assert content(Tensors({"n": np.float32(2)})) == save({"n": np.array(2, np.float32)})


def test_tied_weights_are_refused_by_their_names() -> None:
    shared, other = made("float32", 4, 5), made("float32", 3)
    with pytest.raises(SourceError) as caught:
        Tensors({"head": shared, "embed": shared, "bias": other, "x": other[1:], "y": other[:2]})
    assert set(caught.value.problems) == {
        "the tensors 'bias', 'x', 'y' share memory",
        "the tensors 'embed', 'head' share memory",
    }
    assert "leave out all but one" in caught.value.suggestion
    assert "torch_shared_tensors" in caught.value.suggestion
    with pytest.raises(SourceError, match="share memory"):
        Tensors({"head": shared, "embed": shared.T}, copy=True)


def test_disjoint_views_are_no_tied_weights() -> None:
    fused = made("float32", 4, 3, 8)
    tensors = {name: fused[:, number] for number, name in enumerate("qkv")}
    assert content(Tensors(tensors)) == save(dense(tensors))
    tensors = {"upper": fused[:2], "lower": fused[2:], "empty": fused[:0], "none": fused[:0]}
    assert content(Tensors(tensors)) == save(dense(tensors))
    with pytest.raises(SourceError, match="'k', 'kv' share memory"):
        Tensors({"q": fused[:, 0], "k": fused[:, 1], "kv": fused[:, 1:]})


@pytest.mark.parametrize(
    ("tensors", "metadata", "problem"),
    [
        ({"a": 1}, None, "tensor 'a' is of type int, not a tensor"),
        ({1: made("int8", 1)}, None, "tensor 1 has a name of type int"),
        ({"__metadata__": made("int8", 1)}, None, "that safetensors reserves"),
        ({"\ud800": made("int8", 1)}, None, "cannot be written as UTF-8"),
        ({"a": [1.0]}, None, "of type list"),
        ({"a": np.zeros(1, [("x", "f4")])}, None, "of dtype void32"),
        ({"a": np.zeros(1, "U1")}, None, "of dtype str32"),
        ({"a": np.zeros(1, "M8[s]")}, None, "of dtype datetime64"),
        ({"a": np.zeros(1, ml_dtypes.float8_e4m3)}, None, "of dtype float8_e4m3,"),
        ({"a": ByArray(np.array(["x", 1], object))}, None, "its elements are Python objects"),
        ({"a": np.array([None])}, None, "of dtype object, which safetensors cannot write"),
        ({"a": np.zeros(1, np.complex128)}, None, "of dtype complex128"),
        ({"a": np.zeros(1, ml_dtypes.int4)}, None, "of dtype int4"),
        ({"a": np.ma.masked_array([1, 2], [True, False])}, None, "masked"),
        ([made("int8", 1)], None, "a mapping of names to tensors, not list"),
        ({}, {"step": 1}, "metadata 'step' is not text to text"),
        ({}, {"step": True}, "metadata 'step' is not text to text"),
        ({}, {1: "a"}, "metadata 1 is not text to text"),
        ({}, {"a": "\ud800"}, "metadata 'a' is not text to text"),
        ({}, "pt", "metadata is of type str"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_is_refused_at_once(
    tensors: Any, metadata: Any, problem: str
) -> None:
    with pytest.raises(SourceError, match=problem):
        Tensors(tensors, metadata)


def test_a_tensor_whose_framework_fails_is_named() -> None:
    class Lazy(Sliced):
        @property
        def shape(self) -> tuple[int, ...]:
            raise RuntimeError("it has no shape yet")

    with pytest.raises(SourceError, match="'a' cannot be inspected: RuntimeError: it has no"):
        Tensors({"a": Lazy(made("int8", 1))})


def test_all_that_is_wrong_is_named_in_one_error() -> None:
    with pytest.raises(SourceError) as caught:
        Tensors({"a": 1, "b": made("int8", 1), "c": "x"}, {"k": 2})  # type: ignore[dict-item]
    assert len(caught.value.problems) == 3


def test_a_module_is_distinguished_from_its_state_dict() -> None:
    class Module:
        def state_dict(self) -> dict[str, Made]:
            return {}

    with pytest.raises(SourceError, match=r"give its state_dict\(\)"):
        Tensors(Module())  # type: ignore[arg-type]


def test_what_needs_numpy_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = ByDlpack(made("int8", 1))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(SourceError, match="pip install numpy"):
        Tensors({"a": tensor})


def test_bytes_that_were_read_once_may_not_change_any_more() -> None:
    array = np.array(made("float32", BLOCK))
    other = made("uint8", 10)
    file = Tensors({"a": array, "z": other}).file("model.safetensors")
    before = read_all(file)
    array.view(np.uint8)[-1] ^= 1
    with Reader(file) as reader:
        buffer = memoryview(bytearray(100))
        reader.readinto(0, buffer)
        assert buffer == before[:100]
        for offset in (file.size - 100, file.size - 10 - array.nbytes, 3 * BLOCK + 50):
            whole = memoryview(bytearray(file.size - offset))
            with pytest.raises(SourceChangedError, match=r"'a'.*has changed") as caught:
                reader.readinto(offset, whole)
    assert "copy=True" in caught.value.suggestion
    read_all(Tensors({"a": array}).file("model.safetensors"))


def test_a_copy_is_what_the_tensors_were() -> None:
    array = np.array(made("float32", 100))
    expected = save({"a": array})
    plain = Tensors({"a": array})
    tensors, later = Tensors({"a": array}, copy=True), plain.copied()
    array[:] = 0
    assert content(tensors) == content(later) == expected
    assert later.is_copy
    assert tensors.copied() is tensors
    assert content(plain) == save({"a": array})
    assert repr(tensors) == "<Tensors: 1 tensor, 400 bytes, a copy>"


def test_a_copy_is_taken_in_steps() -> None:
    content = made("uint8", 2 * COPY_STEP + 5)
    asked: list[int] = []

    class Watched(Array):
        def read(self, begin: int, buffer: memoryview) -> int:
            asked.append(len(buffer))
            buffer[:] = content[begin : begin + len(buffer)].data
            return len(buffer)

    copy = copied(Watched("uint8", content.shape))
    assert asked == [COPY_STEP, COPY_STEP, 5]
    read = memoryview(bytearray(content.nbytes))
    assert copy.read(0, read) == content.nbytes
    assert read == content.data


def test_whole_rows_are_copied_from_a_device() -> None:
    """JAX compiles a slice anew for each size."""
    slices: list[Any] = []

    class Watched(Sliced):
        def __getitem__(self, key: Any) -> Sliced:
            slices.append(key)
            return super().__getitem__(key)

    array = made("uint8", 12, 900_000)
    assert content(Tensors({"a": Watched(array)}, copy=True)) == save({"a": array})
    assert slices == [slice(0, 12)]


def test_a_tensor_that_cannot_be_read_any_more_is_named() -> None:
    class Gone(Sliced):
        def __getitem__(self, key: Any) -> Sliced:
            raise RuntimeError("it was donated")

    tensors = Tensors({"a": Gone(made("int8", 5))})
    with pytest.raises(SourceError, match="'a' cannot be copied to host memory: RuntimeError"):
        tensors.copied()
    file = tensors.file("model.safetensors")
    with pytest.raises(SourceError, match=r"tensor 'a' of 'model.*RuntimeError: it was donated"):
        read_all(file)


def test_the_four_bit_dtype_counts_two_numbers_an_element() -> None:
    packed = made("uint8", 3, 4)
    array = _InMemory("float4_e2m1fn_x2", packed.shape, memoryview(packed.tobytes()))
    spec = TensorSpec(
        dtype="float4_e2m1fn_x2",
        shape=packed.shape,
        data_ptr=packed.ctypes.data,
        data_len=packed.nbytes,
    )
    file = TensorFile("m", {"a": array}, None, compare=True).source
    assert read_all(file) == bytes(serialize({"a": spec}))


@pytest.mark.heavy
def test_jax_arrays_are_read_in_place_or_row_by_row() -> None:
    jax = pytest.importorskip("jax")
    tensors = {
        "w": jax.numpy.arange(60_000, dtype="bfloat16").reshape(300, 200),
        "scalar": jax.numpy.float32(3),
        "flags": jax.numpy.arange(7) > 3,
    }
    expected = save({name: np.asarray(tensor) for name, tensor in tensors.items()})
    assert content(Tensors(tensors)) == expected
    arrays = {n: _ByRows(tensor, tensor.dtype.name, tensor.shape) for n, tensor in tensors.items()}
    assert read_all(TensorFile("m", arrays, None, compare=True).source) == expected
    with pytest.raises(SourceError, match="share memory"):
        Tensors({"a": tensors["w"], "b": tensors["w"]})
    with pytest.raises(SourceError, match="cannot write"):
        Tensors({"key": jax.random.key(0)})


@pytest.mark.heavy
def test_torch_tensors_are_written_as_by_safetensors_for_torch() -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_torch

    dtypes = [*DTYPES, "float4_e2m1fn_x2"]
    tensors = {
        f"{name}.{kind}": tensor
        for name in dtypes
        if (dtype := getattr(torch, name, None)) is not None
        for kind, tensor in (
            ("w", torch.frombuffer(bytearray(48), dtype=torch.uint8).view(dtype)),
            ("scalar", torch.zeros(8, dtype=torch.uint8).view(dtype)[:1].reshape(())),
            ("empty", torch.empty((0, 2), dtype=dtype)),
        )
        if kind == "w" or name != "float4_e2m1fn_x2"
    }
    tensors["parameter"] = torch.nn.Parameter(torch.rand(30, 40))
    assert content(Tensors(tensors)) == save_torch(tensors)

    turned = {"t": torch.rand(300, 500, dtype=torch.bfloat16).T}
    turned["c"] = torch.rand(4).to(torch.cfloat).conj()
    plain = {"t": turned["t"].contiguous(), "c": turned["c"].resolve_conj()}
    assert content(Tensors(turned)) == save_torch(plain)

    tensor = torch.rand(100)
    with pytest.raises(SourceError, match="'a', 'b' share memory"):
        Tensors({"a": tensor, "b": tensor[10:]})
    with pytest.raises(SourceError, match="meta"):
        Tensors({"a": torch.empty(3, device="meta")})
    with pytest.raises(SourceError, match="sparse"):
        Tensors({"a": torch.eye(3).to_sparse()})
    file = Tensors({"a": tensor}).file("m")
    tensor.untyped_storage().resize_(0)
    with pytest.raises(SourceChangedError, match="lost its memory"):
        read_all(file)


def test_no_warning_of_numpy_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content(Tensors({"a": ByArray(made("int8", 5)), "b": ByDlpack(made("int8", 5))}))
