"""Splits a large safetensors file into several smaller ones and an index, without copying its
bytes.

The shards are those that `save_pretrained` would have written. Tensors keep the order of the state
dict, or the order of their bytes when only a file is known. Each shard is filled up to the limit,
and `<name>.safetensors.index.json` says which tensor is in which shard. A shard of a file consists
of a new header and ranges of the existing file. Blocks: call it in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import orjson

from asyncpush.models import ComposedSource, FileSource
from asyncpush.sources.byte_sources import Reader
from asyncpush.sources.paths import check_path_in_repo, file_folder_clashes
from asyncpush.sources.problem_report import ProblemReport
from asyncpush.sources.safetensors import (
    LENGTH_SIZE,
    BadSafetensorsError,
    Layout,
    Tensor,
    build_header,
    header_length,
    parse_header,
)
from asyncpush.sources.tensors import TensorFile

SUFFIX = ".safetensors"

_SHARD_NAME = re.compile(r".*-\d+-of-\d+")
_VARIANT = re.compile(r"(?P<base>model|diffusion_pytorch_model)\.(?P<variant>[\w-]+)")


def split_large(files: Sequence[FileSource], limit: int, report: ProblemReport) -> list[FileSource]:
    """`files`, with every safetensors file of more than `limit` bytes split.

    As in transformers, `limit` bounds the bytes of a shard's tensors, and a tensor that is larger
    goes into a shard of its own, with a notice. Files that cannot be split, and names that are
    taken, are added to `report` as problems. Raises `SourceChangedError` when a file has changed
    since it was collected.
    """
    kept: list[FileSource] = []
    made: list[FileSource] = []
    for file in files:
        if not file.path_in_repo.endswith(SUFFIX) or file.size <= limit:
            kept.append(file)
            continue
        try:
            shards = _split(file, limit, report)
        except BadSafetensorsError as exc:
            report.problem(f"{_named(file)} {exc}")
            continue
        (made if shards else kept).extend(shards or [file])
    _check_names(kept, made, report)
    return kept + made


def _split(file: FileSource, limit: int, report: ProblemReport) -> list[FileSource]:
    """The shards and their index; empty when all tensors fit into one shard."""
    layout = _read_layout(file)
    for tensor in layout.tensors:
        if tensor.size > limit:
            report.notice(
                "tensors larger than max_shard_size",
                f"tensor {tensor.name!r} of {file.path_in_repo!r} has {tensor.size:,} bytes, more"
                f" than max_shard_size: its shard will be larger",
            )
    content = file.content
    given = content.tensors if isinstance(content, TensorFile) else layout.tensors
    groups = _groups(given, limit)
    if len(groups) == 1:
        return []
    stem = file.path_in_repo.removesuffix(SUFFIX)
    if _SHARD_NAME.fullmatch(stem):
        raise BadSafetensorsError(
            "is named like a shard and is larger than max_shard_size: raise the limit, or save the"
            " model again"
        )
    names = [f"{stem}-{i:05}-of-{len(groups):05}{SUFFIX}" for i in range(1, len(groups) + 1)]
    shards = [_shard(file, name, group, layout) for name, group in zip(names, groups, strict=True)]
    return [*shards, _index(_index_name(stem), names, groups, layout)]


def _index_name(stem: str) -> str:
    """The index's name. `model.fp16` is the variant fp16 of `model`: transformers and diffusers put
    the variant at the end of the index's name and look for it there."""
    folder, slash, name = stem.rpartition("/")
    if variant := _VARIANT.fullmatch(name):
        return f"{folder}{slash}{variant['base']}{SUFFIX}.index.{variant['variant']}.json"
    return f"{stem}{SUFFIX}.index.json"


def _read_layout(file: FileSource) -> Layout:
    with Reader(file) as reader:
        beginning = bytearray(min(LENGTH_SIZE, file.size))
        reader.readinto(0, memoryview(beginning))
        header = bytearray(header_length(bytes(beginning), file.size))
        reader.readinto(LENGTH_SIZE, memoryview(header))
        reader.check_unchanged()
    return parse_header(bytes(header), file.size)


def _groups(tensors: Sequence[Tensor], limit: int) -> list[list[Tensor]]:
    """The tensors of each shard: as many as fit, in order; a tensor over the limit gets its own
    shard. (The official client splits at the same places.)"""
    groups: list[list[Tensor]] = []
    current: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if tensor.size > limit:
            groups.append([tensor])
            continue
        if current and size + tensor.size > limit:
            groups.append(current)
            current, size = [], 0
        current.append(tensor)
        size += tensor.size
    return [*groups, current] if current else groups


def _shard(file: FileSource, name: str, tensors: Sequence[Tensor], layout: Layout) -> FileSource:
    if isinstance(file.content, TensorFile):
        return file.content.part(name, [tensor.name for tensor in tensors]).source
    cut = ComposedSource(file, build_header(tensors, layout.metadata), tuple(_ranges(tensors)))
    return FileSource(name, cut.size, cut)


def _ranges(tensors: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """The ranges of the tensors' bytes; adjacent tensors share one range."""
    begin = end = tensors[0].offset
    for tensor in tensors:
        if tensor.offset != end:
            yield begin, end - begin
            begin = tensor.offset
        end = tensor.offset + tensor.size
    yield begin, end - begin


def _index(
    name: str, names: Sequence[str], groups: Sequence[Sequence[Tensor]], layout: Layout
) -> FileSource:
    """The index. It names shards relative to itself, as they are in the same folder."""
    where = {
        tensor.name: shard.rpartition("/")[2]
        for shard, group in zip(names, groups, strict=True)
        for tensor in group
    }
    document = {"metadata": {"total_size": layout.size}, "weight_map": where}
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    data = orjson.dumps(document, option=options)
    return FileSource.of_bytes(name, data)


def _check_names(
    kept: Sequence[FileSource], made: Sequence[FileSource], report: ProblemReport
) -> None:
    taken = {file.path_in_repo for file in kept}
    for file in made:
        name = file.path_in_repo
        if name in taken:
            report.problem(
                f"{name!r} would be created by max_shard_size, but the source already has it"
            )
        elif problem := check_path_in_repo(name):
            report.problem(f"{name!r}, a shard's name, {problem}")
        taken.add(name)
    for path, inside in file_folder_clashes(taken) if made else ():
        report.problem(f"{path!r}, a shard's name, is also the folder of {inside!r}")


def _named(file: FileSource) -> str:
    """The file's path, together with its name in the repo if that is different."""
    path = file.disk_path
    if path is None or path.endswith(file.path_in_repo):
        return repr(path or file.path_in_repo)
    return f"{file.path_in_repo!r} (of {path!r})"
