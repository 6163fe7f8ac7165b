"""Tensors of NumPy, torch, JAX and others as bytes that can be read at any position: in C order,
little endian.

A contiguous tensor in host memory is read in place. Of any other tensor, only the requested rows
are copied to host memory, so that there is never a second full copy. No framework is imported here
that the user has not imported; values that only have `__array__` or `__dlpack__` need NumPy.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from types import ModuleType
from typing import Any

from asyncpush.lazy_dataclass import dataclass

ROW_LIMIT = 1 << 20
"""A row of this many bytes or more is read by itself, not together with others."""

SERIAL = 16 << 10
"""The most bytes that torch copies in the calling thread. For more it would start a thread pool in
each thread of ours."""

COPY_STEP = 4 << 20
"""The most bytes of a tensor that are copied at once. No other Python thread runs during a copy,
and an event loop must not stop for as long as a large tensor takes."""

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
"""Frameworks' dtype names, in the order in which safetensors writes them, with the safetensors name
and the bytes of one element."""

_RANKS = {name: rank for rank, name in enumerate(_DTYPES)}


_OTHER_SHAPE = "has a different shape or dtype than when it was passed to Tensors"


class UnusableTensorError(Exception):
    """A tensor cannot be written. Its message follows the tensor's name: "is sparse"."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's elements are in memory. `strides` are in bytes and never negative."""

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
        """Whether there are no gaps between the elements, where another tensor could have its
        own."""
        return self.end - self.pointer == self.itemsize * math.prod(self.shape)


class Array:
    """A tensor as bytes: `dtype` is the name that safetensors uses, `size` is in bytes. `place` is
    None where the memory cannot be shared with another tensor, or where it is unknown. `step` is
    the most bytes to ask for at a time while it is copied."""

    step = COPY_STEP

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
        """The shape as written in the header: float4_e2m1fn_x2 holds two numbers in each
        element."""
        if self.dtype == "F4" and self.elements:
            return (*self.elements[:-1], 2 * self.elements[-1])
        return self.elements

    def read(self, begin: int, buffer: memoryview) -> int:
        """Read bytes from `begin` on into the start of `buffer`. Returns how many were read, at
        least one. Raises `UnusableTensorError` when the tensor has changed its size or lost its
        memory."""
        raise NotImplementedError


class _InMemory(Array):
    """A contiguous tensor in host memory."""

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
    """Any tensor that can be sliced like a NumPy array; only the requested rows are converted to
    NumPy."""

    def __init__(
        self, values: Any, dtype: str, shape: Sequence[int], place: Place | None = None
    ) -> None:
        super().__init__(dtype, shape, place)
        self._values = values

    def read(self, begin: int, buffer: memoryview) -> int:
        rows, skip, size = _rows(self._values, self.elements, self.itemsize, begin, len(buffer))
        array = _as_numpy(rows)
        if array.dtype.name != self.framework_dtype or array.nbytes != skip + size:
            raise UnusableTensorError(_OTHER_SHAPE)
        piece = _bytes_of(array)[skip : skip + min(size, len(buffer))]
        for start in range(0, len(piece), COPY_STEP):
            part = piece[start : start + COPY_STEP]
            buffer[start : start + len(part)] = part
        return len(piece)


class _OnDevice(_ByRows):
    """A tensor of another framework, in memory that NumPy cannot read. It is copied to the host as
    a whole: JAX compiles a slice anew for each size (40 ms)."""

    step = sys.maxsize


class _Converted(Array):
    """A tensor that can only be converted as a whole. One such tensor is in memory at a time."""

    def __init__(
        self,
        value: object,
        dtype: str,
        shape: Sequence[int],
        latest: Latest,
        place: Place | None = None,
    ) -> None:
        super().__init__(dtype, shape, place)
        self._value = value
        self._latest = latest

    def read(self, begin: int, buffer: memoryview) -> int:
        dtype, view = self._latest.bytes_of(self._value)
        if dtype != self.framework_dtype or len(view) != self.size:
            raise UnusableTensorError(_OTHER_SHAPE)
        piece = view[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class Latest:
    """The most recent conversion, kept until another tensor is converted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: object = None
        self._dtype = ""
        self._bytes = memoryview(b"")

    def bytes_of(self, value: object) -> tuple[str, memoryview]:
        """The dtype and the bytes of a tensor."""
        with self._lock:
            if self._value is not value:
                self._value, self._bytes = None, memoryview(b"")  # free the old one first
                array = _as_numpy(value)
                self._dtype, self._bytes = array.dtype.name, _bytes_of(array)
                self._value = value
            return self._dtype, self._bytes


class _Torch(Array):
    """A torch tensor on any device. `bits` are its elements viewed as integers, so that tensors of
    every dtype can be sliced and copied."""

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
    """The `Array` for a tensor. Raises `UnusableTensorError`."""
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
    """The same tensor, copied to new memory."""
    copy = _new_memory(array.size)
    done = 0
    while done < array.size:
        done += array.read(done, copy[done : done + array.step])
    return _InMemory(array.framework_dtype, array.elements, copy)


def _new_memory(size: int) -> memoryview:
    """Memory to write to. Large pieces are mapped: `bytearray` would fill them with zeros first,
    and let no other thread run meanwhile."""
    if size < COPY_STEP:
        return memoryview(bytearray(size))
    if sys.platform == "win32":
        return memoryview(mmap.mmap(-1, size))
    # Private: a process that is forked off must not write to this one's copy.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def sharing(arrays: Mapping[str, Array]) -> list[list[str]]:
    """Groups of names whose tensors share elements."""
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
    """Of tensors whose memory ranges overlap, those that share elements. Slices of a fused weight
    can alternate in memory and share none."""
    if len(group) < 2 or all(place.dense for place in group.values()):
        return sorted(group) if len(group) > 1 else []
    found = set()
    for (one, first), (other, second) in combinations(group.items(), 2):
        if first.pointer < second.end and second.pointer < first.end and _overlap(first, second):
            found |= {one, other}
    return sorted(found)


def _overlap(one: Place, other: Place) -> bool:
    try:
        import numpy as np
    except ImportError:
        return True
    try:
        shares: Any = np.shares_memory
        return bool(shares(_outline(np, one), _outline(np, other), max_work=100_000))
    except Exception:  # too expensive to decide
        return True


def _outline(np: Any, place: Place) -> Any:
    """An array of that shape and place, only for comparing: its elements are never read."""
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
    # JAX keeps what it has fetched: fetching the whole array would leave a copy in host memory.
    return _OnDevice(array, dtype, array.shape, _identity(array))


def _of_others(value: Any, latest: Latest) -> Array:
    first = _as_numpy(value)
    if _place_of(first) == _place_of(_as_numpy(value)):  # both share its memory: nothing was copied
        return _of_numpy(_numpy(), first)
    dtype, shape = first.dtype.name, first.shape
    if shape and _slices_like_numpy(value) and tuple(getattr(value, "shape", ())) == shape:
        return _OnDevice(value, dtype, shape, _identity(value))
    return _Converted(value, dtype, shape, latest, _identity(value))


def _slices_like_numpy(value: Any) -> bool:
    """Whether `value[0]` is the first row. Of a data frame, which can be converted as well, it is a
    column."""
    is_array = hasattr(value, "__dlpack__") or hasattr(value, "__array_namespace__")
    return is_array and hasattr(value, "__getitem__")


def _identity(value: object) -> Place:
    """A place for a tensor whose memory is unknown: only the same object has the same."""
    return Place("", id(value), (), (), 1)


def _as_numpy(value: Any) -> Any:
    np: Any = _numpy()
    conversions: tuple[Callable[[], Any], ...] = (
        lambda: np.asarray(value) if hasattr(value, "__array__") else None,
        lambda: np.from_dlpack(value),
        lambda: np.from_dlpack(value, device="cpu"),  # NumPy >= 2.1: asks for a copy on the host
    )
    failure: Exception | None = None
    for convert in conversions:
        try:
            array = convert()
        except Exception as exc:
            failure = failure or exc
            continue
        if array is None:
            continue
        if array.dtype != object:
            return array
        failure = failure or TypeError("its elements are Python objects, not numbers")
    raise UnusableTensorError(f"cannot be converted to NumPy: {failure}")


def _numpy() -> ModuleType:
    try:
        import numpy
    except ImportError as exc:
        raise UnusableTensorError(
            "is not of NumPy, torch or JAX, and needs NumPy to be read: pip install numpy"
        ) from exc
    return numpy


def _place_of(array: Any) -> Place:
    """Negative strides are turned into positive ones: the same elements, starting at the other
    end."""
    pointer, strides = array.__array_interface__["data"][0], array.strides
    for count, stride in zip(array.shape, strides, strict=True):
        pointer += min(0, (count - 1) * stride)
    return Place("cpu", pointer, array.shape, tuple(map(abs, strides)), array.dtype.itemsize)


def _is_swapped(array: Any) -> bool:
    order = array.dtype.byteorder
    return bool(order == ">" or (order == "=" and sys.byteorder == "big"))


def _bytes_of(array: Any) -> memoryview:
    """The bytes of a NumPy array in C order, little endian; copied only if necessary."""
    np: Any = _numpy()
    if _is_swapped(array):
        array = array.byteswap()
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _rows(
    values: Any, shape: Sequence[int], itemsize: int, begin: int, size: int
) -> tuple[Any, int, int]:
    """Finds the rows that contain up to `size` bytes from `begin` on: rows of `values`, or, where
    one row is large, rows within it. Returns the rows, the offset of the first byte in them, and
    the number of bytes."""
    while shape:
        row = itemsize * math.prod(shape[1:])
        first, skip = divmod(begin, row)
        last = -(-(begin + size) // row)
        if len(shape) == 1 or (last - first > 1 and row <= ROW_LIMIT):
            last = min(last, shape[0])
            return values[first:last], skip, (last - first) * row - skip
        values, shape, begin, size = values[first], shape[1:], skip, min(size, row - skip)
    return values, begin, itemsize - begin
