"""A state dict as a safetensors file that is generated while it is read: no file, no second copy in
memory.

The header is written once. The tensors' bytes are read from their own memory, at any offset. A
contiguous tensor in host memory is copied directly into the buffer that is sent. Of other tensors
(on a device, or not contiguous) only the requested rows are copied. NumPy, torch and JAX are
imported only when the user's tensors come from them. Everything except the constructor of `Tensors`
is called in threads.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import FileSource
from asyncpush.sources.arrays import (
    Array,
    Latest,
    UnusableTensorError,
    array_of,
    copied,
    sharing,
)
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.safetensors import HEADER_LIMIT, METADATA, Tensor, build_header

BLOCK = 64 << 10
"""The size of the blocks that are compared when they are read again."""

_TIED = (
    "leave out all but one of them (safetensors' save_model does the same, and frameworks tie them"
    " again when they load the model), or give all but one as a copy (.clone(), .copy()) to store"
    " them several times; see https://huggingface.co/docs/safetensors/torch_shared_tensors"
)
_CHANGED = (
    "try again once nothing writes to these tensors any more, or give Tensors(..., copy=True),"
    " which takes a copy first"
)


class Tensors:
    """Tensors in memory, pushed as a safetensors file: by itself, or as a value in a mapping.

    await push_to_hub("me/model", {"model.safetensors": Tensors(model.state_dict()), ...})

    The tensors can be from NumPy (bfloat16 and float8 from ml_dtypes), torch or JAX, on any device,
    or anything with `__array__` or `__dlpack__`. The bytes are the same as safetensors' own writers
    would write. They are generated while they are sent: nothing is written to disk, and the push
    needs no more memory than its buffers. The file is called `model.safetensors` unless
    `path_in_repo` says otherwise. `max_shard_size` splits it in the order of the dict.

    Nothing may write to the tensors until the push has ended: the push would notice, and raise
    `SourceChangedError`. With `copy=True` they are copied to host memory before the constructor
    returns, so that a training loop can continue at once. This takes a while for large models: in a
    coroutine, call it as `await asyncio.to_thread(Tensors, state_dict, copy=True)`.

    Tensors that share memory (tied weights) are refused by name, as in safetensors. Raises
    `SourceError`, which names every tensor that cannot be written.

    Args:
        tensors: names and tensors, such as a state dict.
        metadata: text that goes into the file's header, such as `{"format": "pt"}`.
        copy: copy the tensors now.

    Example:
        >>> import numpy as np
        >>> Tensors({"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)})
        <Tensors: 2 tensors, 36 bytes>
    """

    def __init__(
        self,
        tensors: Mapping[str, object],
        metadata: Mapping[str, str] | None = None,
        copy: bool = False,
    ) -> None:
        report = ProblemReport()
        arrays = _arrays(tensors, report)
        metadata = _text(metadata, report)
        report.raise_problems("fix these, or leave them out; nothing was uploaded")
        for names in sharing(arrays):
            listed = ", ".join(map(repr, names))
            report.problem(f"the tensors {listed} share memory")
        report.raise_problems(_TIED)
        self._metadata = metadata
        self._arrays = _copies(arrays) if copy else arrays
        self._is_copy = copy
        if len(_header(self._arrays, self._metadata)) > HEADER_LIMIT:
            report.problem(f"the safetensors header is larger than {HEADER_LIMIT:,} bytes")
            report.raise_problems("give fewer tensors, or shorter names and metadata")

    def __repr__(self) -> str:
        count = len(self._arrays)
        copy = ", a copy" if self._is_copy else ""
        return f"<Tensors: {count:,} tensor{'s' * (count != 1)}, {self.nbytes:,} bytes{copy}>"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, without the file's header."""
        return sum(array.size for array in self._arrays.values())

    @property
    def is_copy(self) -> bool:
        """Whether the tensors are a private copy, which nothing else can write to."""
        return self._is_copy

    def copied(self) -> Tensors:
        """Like `copy=True`: a copy of the tensors as they are now."""
        if self._is_copy:
            return self
        taken = object.__new__(Tensors)
        taken._metadata = self._metadata
        taken._arrays = _copies(self._arrays)
        taken._is_copy = True
        return taken

    def file(self, path_in_repo: str) -> FileSource:
        """The file that a push sends. Each push has its own."""
        return TensorFile(
            path_in_repo, self._arrays, self._metadata, compare=not self._is_copy
        ).source


class TensorFile:
    """The bytes of one safetensors file, by position; called from several threads at once.

    Bytes may be read several times (to be hashed, to be sent, to be sent again), and must be the
    same each time. `compare` keeps a digest of each block, so that a tensor that was written to in
    between is never sent under its old hash.
    """

    def __init__(
        self,
        path_in_repo: str,
        arrays: Mapping[str, Array],
        metadata: Mapping[str, str] | None,
        *,
        compare: bool,
    ) -> None:
        self._path = path_in_repo
        self._given = arrays
        self._metadata = metadata
        self._compare = compare
        self._header = _header(arrays, metadata)
        self._names = _in_order(arrays)
        sizes = [arrays[name].size for name in self._names]
        # Where each tensor begins in the file, and finally where the last one ends.
        self._starts = list(accumulate(sizes, initial=len(self._header)))
        self.size = self._starts[-1]
        self._digests = _Digests(-(-self.size // BLOCK) if compare else 0)

    @property
    def may_change(self) -> bool:
        return self._compare

    @property
    def source(self) -> FileSource:
        return FileSource(self._path, self.size, self)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the order in which they were given, with their positions in the file."""
        starts = dict(zip(self._names, self._starts, strict=False))
        return tuple(
            Tensor(name, _entry(array), starts[name], array.size)
            for name, array in self._given.items()
        )

    def part(self, path_in_repo: str, names: Iterable[str]) -> TensorFile:
        """A file with some of these tensors."""
        chosen = {name: self._given[name] for name in names}
        return TensorFile(path_in_repo, chosen, self._metadata, compare=self._compare)

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`, or as much of it as the file has bytes for. Raises `SourceChangedError`,
        or `SourceError` when a tensor cannot be read."""
        buffer = buffer[: max(0, self.size - offset)]
        if not self._compare:
            self._fill(offset, buffer)
            return len(buffer)
        # Blocks that fit into the buffer as a whole are read directly into it. The blocks at its
        # edges are read in full, to be compared, and only a part of each is kept.
        end = offset + len(buffer)
        inner = min(end, -(-offset // BLOCK) * BLOCK)
        outer = end if end == self.size else max(inner, end // BLOCK * BLOCK)
        self._edge(offset, buffer[: inner - offset])
        whole = buffer[inner - offset : outer - offset]
        self._fill(inner, whole)
        for start in range(0, len(whole), BLOCK):
            self._check((inner + start) // BLOCK, whole[start : start + BLOCK])
        self._edge(outer, buffer[outer - offset :])
        return len(buffer)

    def _edge(self, offset: int, buffer: memoryview) -> None:
        """Read bytes that are a part of one block."""
        if not buffer:
            return
        number, inside = divmod(offset, BLOCK)
        block = memoryview(bytearray(min(BLOCK, self.size - number * BLOCK)))
        self._fill(number * BLOCK, block)
        self._check(number, block)
        buffer[:] = block[inside : inside + len(buffer)]

    def _check(self, number: int, block: memoryview) -> None:
        if not self._digests.same(number, block):
            begin, end = number * BLOCK, number * BLOCK + len(block)
            inside = range(self._tensor_at(begin), self._tensor_at(end - 1) + 1)
            names = [self._names[i] for i in inside if i >= 0 and self._given[self._names[i]].size]
            raise self._changed(names, "has changed since it was first read")

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            position, rest = offset + done, buffer[done:]
            number = self._tensor_at(position)
            if number < 0:
                piece = self._header[position : position + len(rest)]
                rest[: len(piece)] = piece
                done += len(piece)
                continue
            rest = rest[: self._starts[number + 1] - position]
            done += self._read(self._names[number], position - self._starts[number], rest)

    def _tensor_at(self, position: int) -> int:
        """The number of the tensor at this position of the file; -1 for the header."""
        return bisect_right(self._starts, position) - 1

    def _read(self, name: str, begin: int, buffer: memoryview) -> int:
        try:
            return self._given[name].read(begin, buffer)
        except UnusableTensorError as exc:
            raise self._changed([name], str(exc)) from exc
        except Exception as exc:  # each framework has its own exceptions
            message = f"tensor {name!r} of {self._path!r} cannot be read: {_reason(exc)}"
            raise SourceError(message, problems=[message]) from exc

    def _changed(self, names: Sequence[str], what: str) -> SourceChangedError:
        named = f"tensor {names[0]!r}" if len(names) == 1 else f"one of {len(names)} tensors"
        if len(names) > 1:
            named += f", {names[0]!r} to {names[-1]!r},"
        message = f"{named} of {self._path!r} {what}; nothing was committed"
        return SourceChangedError(message, problems=[message], suggestion=_CHANGED)


class _Digests:
    """One digest for each block of a file, from its first read."""

    _SIZE = hashlib.sha1(usedforsecurity=False).digest_size

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._known = bytearray(count)
        self._digests = bytearray(count * self._SIZE)

    def same(self, number: int, block: memoryview) -> bool:
        """Whether a block is the same as at its first read, which may be this one."""
        digest = hashlib.sha1(block, usedforsecurity=False).digest()
        place = slice(number * self._SIZE, (number + 1) * self._SIZE)
        with self._lock:
            if not self._known[number]:
                self._known[number] = 1
                self._digests[place] = digest
            return self._digests[place] == digest


def _arrays(tensors: Mapping[str, object], report: ProblemReport) -> dict[str, Array]:
    if not isinstance(tensors, Mapping):
        hint = ": give its state_dict()" if hasattr(tensors, "state_dict") else ""
        report.problem(f"Tensors takes a mapping of names to tensors, not {_kind(tensors)}{hint}")
        return {}
    arrays: dict[str, Array] = {}
    latest = Latest()
    for name, tensor in list(tensors.items()):  # another thread may add to them
        try:
            _check_name(name)
            arrays[name] = array_of(tensor, latest)
        except UnusableTensorError as exc:
            report.problem(f"tensor {name!r} {exc}")
        except Exception as exc:  # each framework has its own exceptions
            report.problem(f"tensor {name!r} cannot be inspected: {_reason(exc)}")
    return arrays


def _copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    copies: dict[str, Array] = {}
    for name, array in arrays.items():
        try:
            copies[name] = copied(array)
        except Exception as exc:  # each framework has its own exceptions
            message = f"tensor {name!r} cannot be copied to host memory: {_reason(exc)}"
            raise SourceError(message, problems=[message]) from exc
    return copies


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise UnusableTensorError(f"has a name of type {_kind(name)}, not a str")
    if name == METADATA:
        raise UnusableTensorError("has a name that safetensors reserves")
    if not _is_text(name):
        raise UnusableTensorError("has a name that cannot be written as UTF-8")


def _text(metadata: object, report: ProblemReport) -> dict[str, str] | None:
    """The metadata as it is now."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        report.problem(f"metadata is of type {_kind(metadata)}, not a mapping from text to text")
        return None
    taken = dict(metadata)
    for key, value in taken.items():
        if not (_is_text(key) and _is_text(value)):
            report.problem(f"metadata {key!r} is not text to text: use str() or json.dumps()")
    return taken


def _reason(exc: Exception) -> str:
    return f"{_kind(exc)}: {exc}" if str(exc) else _kind(exc)


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _kind(value: object) -> str:
    return type(value).__name__


def _in_order(arrays: Mapping[str, Array]) -> list[str]:
    """The order in which safetensors writes tensors: largest alignment first, then by name."""
    return sorted(arrays, key=lambda name: (arrays[name].rank, name))


def _entry(array: Array) -> dict[str, object]:
    return {"dtype": array.dtype, "shape": list(array.shape)}


def _header(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None) -> bytes:
    in_order = [(name, arrays[name]) for name in _in_order(arrays)]
    tensors = [Tensor(name, _entry(array), 0, array.size) for name, array in in_order]
    return build_header(tensors, metadata)
