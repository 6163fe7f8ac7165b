"""Tensors of NumPy, torch, JAX and others as bytes by position: in C order, little endian.

What lies in one piece in host memory is read where it lies. Of all else the rows that are wanted
are copied to host memory, so that nothing is ever there twice as a whole. No framework is imported
here that the user has not imported; what only has `__array__` or `__dlpack__` needs NumPy.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Any

ROW_LIMIT = 1 << 20
"""Bytes from which on a row is not read together with others."""

SERIAL = 16 << 10
"""Bytes that torch copies at once without a pool of threads of its own for each of ours."""

_DTYPES = {
    "uint64": ("U64", 8),
    "int64": ("I64", 8),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
    "float32": ("F32", 4),
    "uint32": ("U32", 4),
    "int32": ("I32", 4),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "float4_e2m1fn_x2": ("F4", 1),
    "bool": ("BOOL", 1),
}
"""By the frameworks' names, in the order in which safetensors writes them: its name, and bytes."""

_RANKS = {name: rank for rank, name in enumerate(_DTYPES)}


class UnusableTensorError(Exception):
    """Why a tensor cannot be written: a text that goes after its name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's elements lie: `strides` are bytes, none of them negative."""

    device: str
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def end(self) -> int:
        steps = zip(self.shape, self.strides, strict=True)
        return self.pointer + self.itemsize + sum((n - 1) * stride for n, stride in steps)

    @property
    def dense(self) -> bool:
        """Whether no byte of another tensor can lie between its elements."""
        return self.end - self.pointer == self.itemsize * math.prod(self.shape)


class Array:
    """A tensor as bytes: `dtype` as safetensors calls it, `size` in bytes. `place` is None where
    nobody else can have the same memory, or where it is not known."""

    def __init__(self, dtype: str, shape: Sequence[int], place: Place | None = None) -> None:
        _check_dtype(dtype)
        self.framework_dtype = dtype
        self.dtype, self.itemsize = _DTYPES[dtype]
        self.rank = _RANKS[dtype]
        self.elements = tuple(int(count) for count in shape)
        self.size = self.itemsize * math.prod(self.elements)
        self.place = place if self.size else None

    @property
    def shape(self) -> tuple[int, ...]:
        """As the header tells it: float4_e2m1fn_x2 holds two numbers in each element."""
        if self.dtype == "F4" and self.elements:
            return (*self.elements[:-1], 2 * self.elements[-1])
        return self.elements

    def read(self, begin: int, buffer: memoryview) -> int:
        """Read bytes from `begin` on into the beginning of `buffer`; how many, at least one.
        Raises `UnusableTensorError` when it is not what it was."""
        raise NotImplementedError


class _InMemory(Array):
    """Bytes in one piece, in host memory."""

    def __init__(
        self, dtype: str, shape: Sequence[int], view: memoryview, place: Place | None = None
    ) -> None:
        super().__init__(dtype, shape, place)
        self._view = view

    def read(self, begin: int, buffer: memoryview) -> int:
        piece = self._view[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class _ByRows(Array):
    """Anything that can be sliced; NumPy gets to see the rows that are wanted."""

    def __init__(
        self, values: Any, dtype: str, shape: Sequence[int], place: Place | None = None
    ) -> None:
        super().__init__(dtype, shape, place)
        self._values = values

    def read(self, begin: int, buffer: memoryview) -> int:
        rows, skip, size = _rows(self._values, self.elements, self.itemsize, begin, len(buffer))
        view = _bytes_of(_as_numpy(rows))
        piece = view[skip : skip + min(size, len(buffer))]
        if not piece:
            raise UnusableTensorError("has fewer elements than it had when it was given")
        buffer[: len(piece)] = piece
        return len(piece)


class _Converted(Array):
    """What can be had only as a whole: one such tensor is in memory at a time."""

    def __init__(self, value: object, dtype: str, shape: Sequence[int], latest: Latest) -> None:
        super().__init__(dtype, shape)
        self._value = value
        self._latest = latest

    def read(self, begin: int, buffer: memoryview) -> int:
        view = self._latest.bytes_of(self._value)
        if len(view) != self.size:
            raise UnusableTensorError("has another size than it had when it was given")
        piece = view[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class Latest:
    """The conversion that was made last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: object = None
        self._bytes = memoryview(b"")

    def bytes_of(self, value: object) -> memoryview:
        with self._lock:
            if self._value is not value:
                self._bytes = memoryview(b"")  # not both at once
                self._bytes = _bytes_of(_as_numpy(value))
                self._value = value
            return self._bytes


class _Torch(Array):
    """A torch tensor, on whatever device. `bits` are its elements as integers, so that every dtype
    can be sliced and copied."""

    def __init__(self, torch: Any, tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__"):  # DTensor, quantized and other wrappers
            hint = ": give its full_tensor()" if hasattr(tensor, "full_tensor") else ""
            raise UnusableTensorError(
                f"is a {type(tensor).__name__}, which only refers to other tensors{hint}"
            )
        if tensor.layout != torch.strided:
            raise UnusableTensorError("is sparse: give its to_dense()")
        if tensor.device.type == "meta":
            raise UnusableTensorError("is on the device 'meta', and so has no values")
        dtype = str(tensor.dtype).removeprefix("torch.")
        super().__init__(dtype, tensor.shape)
        tensor = tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = tensor.view(integers[self.itemsize])
        if self.size:
            strides = tuple(step * self.itemsize for step in bits.stride())
            device = str(bits.device)
            self.place = Place(device, bits.data_ptr(), self.elements, strides, self.itemsize)
        self._torch = torch
        self._bits = bits.reshape(-1) if bits.is_contiguous() else bits

    def read(self, begin: int, buffer: memoryview) -> int:
        bits = self._bits
        if self.place is None or bits.data_ptr() != self.place.pointer:
            raise UnusableTensorError("has lost its memory: its storage was resized")
        rows, skip, size = _rows(bits, bits.shape, self.itemsize, begin, len(buffer))
        size = min(size, len(buffer))
        source = rows.contiguous().reshape(-1).view(self._torch.uint8)[skip : skip + size]
        target = self._torch.frombuffer(buffer, dtype=self._torch.uint8, count=size)
        step = SERIAL if bits.device.type == "cpu" else size
        for start in range(0, size, step):
            target[start : start + step].copy_(source[start : start + step])
        return size


def array_of(tensor: Any, latest: Latest) -> Array:
    """Raises `UnusableTensorError`."""
    np, torch, jax = (sys.modules.get(name) for name in ("numpy", "torch", "jax"))
    if np is not None and isinstance(tensor, np.ndarray):
        return _of_numpy(np, tensor)
    if torch is not None and isinstance(tensor, torch.Tensor):
        return _Torch(torch, tensor)
    if jax is not None and isinstance(tensor, jax.Array):
        return _of_jax(tensor)
    if hasattr(tensor, "__array__") or hasattr(tensor, "__dlpack__"):
        return _of_others(tensor, latest)
    raise UnusableTensorError(
        f"is of type {type(tensor).__name__}, not a tensor of NumPy, torch, JAX or a library with"
        " __array__ or __dlpack__"
    )


def copied(array: Array) -> Array:
    """The same in memory of its own."""
    copy = memoryview(bytearray(array.size))
    done = 0
    while done < array.size:
        done += array.read(done, copy[done:])
    return _InMemory(array.framework_dtype, array.elements, copy)


def sharing(arrays: Mapping[str, Array]) -> list[list[str]]:
    """Names of those that have elements in common, group by group."""
    places = sorted(
        (array.place.device, array.place.pointer, array.place.end, name, array.place)
        for name, array in arrays.items()
        if array.place is not None
    )
    groups: list[dict[str, Place]] = []
    last: tuple[str, int] = ("", 0)
    for device, begin, end, name, place in places:
        if (device, begin) < last and device == last[0]:
            groups[-1][name] = place
            last = device, max(end, last[1])
        else:
            groups.append({name: place})
            last = device, end
    return [names for group in groups if (names := _overlapping(group))]


def _check_dtype(dtype: str) -> None:
    if dtype not in _DTYPES:
        raise UnusableTensorError(f"is of dtype {dtype}, which safetensors cannot write")


def _overlapping(group: Mapping[str, Place]) -> list[str]:
    """Of tensors whose memory reaches into each other's, those that have elements in common.
    Slices of a fused weight may lie between each other's elements and share none."""
    if len(group) < 2 or all(place.dense for place in group.values()):
        return sorted(group) if len(group) > 1 else []
    found = set()
    for (one, first), (other, second) in combinations(group.items(), 2):
        if first.pointer < second.end and second.pointer < first.end and _meet(first, second):
            found |= {one, other}
    return sorted(found)


def _meet(one: Place, other: Place) -> bool:
    try:
        import numpy as np
    except ImportError:
        return True
    try:
        shares: Any = np.shares_memory
        return bool(shares(_outline(np, one), _outline(np, other), max_work=100_000))
    except Exception:  # too hard to tell
        return True


def _outline(np: Any, place: Place) -> Any:
    """An array of that shape and place, to be compared: its elements are never looked at."""
    described = {
        "version": 3,
        "typestr": f"|V{place.itemsize}",
        "data": (place.pointer, True),
        "shape": place.shape,
        "strides": place.strides,
    }
    return np.asarray(type("Outline", (), {"__array_interface__": described})())


def _of_numpy(np: Any, array: Any) -> Array:
    if isinstance(array, np.ma.MaskedArray):
        raise UnusableTensorError("is a masked array: give its filled()")
    dtype = array.dtype.name
    _check_dtype(dtype)
    array = array.view(np.ndarray)
    place = _place_of(array)
    if array.flags.c_contiguous and not _is_swapped(array):
        return _InMemory(dtype, array.shape, _bytes_of(array), place)
    return _ByRows(array, dtype, array.shape, place)


def _of_jax(array: Any) -> Array:
    dtype = array.dtype.name
    _check_dtype(dtype)
    if not array.is_fully_addressable:
        raise UnusableTensorError(
            "is spread over several processes: gather it first, for example with"
            " jax.experimental.multihost_utils.process_allgather"
        )
    if {device.platform for device in array.devices()} == {"cpu"} and len(array.devices()) == 1:
        host = _as_numpy(array)
        return _InMemory(dtype, array.shape, _bytes_of(host), _place_of(host))
    # As a whole it would stay in host memory: JAX keeps what it has fetched.
    return _ByRows(array, dtype, array.shape)


def _of_others(value: Any, latest: Latest) -> Array:
    first = _as_numpy(value)
    if _place_of(first) == _place_of(_as_numpy(value)):  # no copy
        return _of_numpy(_numpy(), first)
    dtype, shape = first.dtype.name, first.shape
    if shape and hasattr(value, "__getitem__") and tuple(getattr(value, "shape", ())) == shape:
        return _ByRows(value, dtype, shape)
    return _Converted(value, dtype, shape, latest)


def _as_numpy(value: Any) -> Any:
    np: Any = _numpy()
    conversions: tuple[Callable[[], Any], ...] = (
        lambda: np.asarray(value) if hasattr(value, "__array__") else None,
        lambda: np.from_dlpack(value),
        lambda: np.from_dlpack(value, device="cpu"),  # NumPy 2.1: others bring it there
    )
    failure: Exception | None = None
    for convert in conversions:
        try:
            array = convert()
        except Exception as exc:
            failure = failure or exc
            continue
        if array is not None and array.dtype != object:
            return array
    raise UnusableTensorError(f"cannot be converted to NumPy: {failure}")


def _numpy() -> ModuleType:
    try:
        import numpy
    except ImportError as exc:
        raise UnusableTensorError(
            "is neither of NumPy, torch nor JAX, and needs NumPy to be read: pip install numpy"
        ) from exc
    return numpy


def _place_of(array: Any) -> Place:
    """Negative strides are turned round: the same elements, begun at the other end."""
    pointer, strides = array.__array_interface__["data"][0], array.strides
    for count, stride in zip(array.shape, strides, strict=True):
        pointer += min(0, (count - 1) * stride)
    return Place("cpu", pointer, array.shape, tuple(map(abs, strides)), array.dtype.itemsize)


def _is_swapped(array: Any) -> bool:
    order = array.dtype.byteorder
    return bool(order == ">" or (order == "=" and sys.byteorder == "big"))


def _bytes_of(array: Any) -> memoryview:
    """The bytes of a NumPy array in C order, little endian; a copy only where it must be."""
    np: Any = _numpy()
    if _is_swapped(array):
        array = array.byteswap()
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _rows(
    values: Any, shape: Sequence[int], itemsize: int, begin: int, size: int
) -> tuple[Any, int, int]:
    """The rows of `values`, or of one of its rows, that hold the bytes from `begin` on, `size` of
    them or fewer: the rows, where in them the bytes begin, and how many bytes there are."""
    while shape:
        row = itemsize * math.prod(shape[1:])
        first, skip = divmod(begin, row)
        last = -(-(begin + size) // row)
        if len(shape) == 1 or (last - first > 1 and row <= ROW_LIMIT):
            last = min(last, shape[0])
            return values[first:last], skip, (last - first) * row - skip
        values, shape, begin, size = values[first], shape[1:], skip, min(size, row - skip)
    return values, begin, itemsize - begin
