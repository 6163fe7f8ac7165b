"""`asyncpush demo`: a push from end to end, with nothing but this machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import shutil
import sys
from array import array
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import Connection
from asyncpush.cli.base import command, option
from asyncpush.cli.output import Output, UsageError, facts, paragraph, terminal_columns
from asyncpush.cli.push import open_uploader, result_document
from asyncpush.cli.running import run
from asyncpush.errors import IntegrityError
from asyncpush.events import PartStored, Record
from asyncpush.listeners.format import format_bytes, format_rate, format_seconds, format_share
from asyncpush.models import CARD_NAME, UploadResult
from asyncpush.options import OFFLINE_VARIABLES, default_cache_dir


@command(
    option(
        "--keep",
        type=arg.A_PATH,
        metavar="FOLDER",
        help="Keep the model in this folder (default: a temporary folder, removed at the end).",
    ),
    *arg.OUTPUT,
)
def demo(context: Context, output: Output, /, *, keep: Path | None) -> None:
    """Show a whole push on this machine, without an account. It starts the embedded Hub, makes a
    small model, pushes it with LFS and, with changes, with Xet, downloads it back and compares it.
    """
    show(output, keep)


REPO_ID = "demo/tiny-model"
_TIMEOUT = 30.0  # seconds


def show(output: Output, keep: Path | None) -> None:
    """Make a small model in `keep` or a temporary folder, and push it to an embedded Hub: in parts
    with LFS, then other weights with Xet, then those with one tensor changed."""
    with ExitStack() as stack:
        from asyncpush.localhub import serve_in_thread  # needs the extra `hub`

        folder = keep or Path(stack.enter_context(TemporaryDirectory(prefix="asyncpush-demo-")))
        make_model(folder)
        root = default_cache_dir() / "hub"
        hub = stack.enter_context(serve_in_thread(root))
        _allow_requests_to_this_machine()
        output.note(*paragraph(f"the embedded Hub: {hub.url}, stored in {root}", sys.stderr))
        parts = 0

        def count_parts(record: Record) -> None:
            nonlocal parts
            parts += isinstance(record.event, PartStored)

        async def work() -> list[UploadResult]:
            connection = Connection(endpoint=hub.url, token="demo", quiet=output.quiet)
            by_lfs = replace(connection, config={"transfer": "lfs"})
            async with open_uploader(by_lfs, output, listener=count_parts) as uploader:
                results = [await uploader.push_to_hub(REPO_ID, folder)]
            await asyncio.to_thread(read_back, results[0], folder)
            async with open_uploader(connection, output) as uploader:
                for change in (write_weights, change_one_tensor):
                    await asyncio.to_thread(change, folder)
                    results.append(await uploader.push_to_hub(REPO_ID, folder))
            return results

        results = run(work)
        compared, size = read_back(results[-1], folder)
        pushes = [_push_document(result) for result in results]
        facts = {"files": compared, "bytes": size, "parts": parts, "hub_root": str(root)}
        lines = _summary(results, compared, size, parts)
        if keep is not None:
            lines.append(f"The model is in {keep}.")
        lines += _page_lines(results[-1], root, hub.port)
        output.result(lines, result_document(results[-1]) | facts | {"pushes": pushes})


def _allow_requests_to_this_machine() -> None:
    """Exclude it from the proxies of the environment, and end offline mode: the demo asks no other
    machine."""
    for name in OFFLINE_VARIABLES:
        os.environ.pop(name, None)
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{spared},127.0.0.1" if spared else "127.0.0.1"


def make_model(folder: Path) -> None:
    """Write the model to `folder`, which must contain nothing else: all of it is pushed."""
    folder.mkdir(parents=True, exist_ok=True)
    if others := {path.name for path in folder.iterdir()} - MODEL_FILES:
        raise UsageError(f"--keep must name a new or empty folder; this one has {min(others)!r}")
    try:
        write_weights(folder)
    except ImportError as error:
        raise ImportError(
            "the demo's model needs safetensors 0.8 or newer: pip install 'asyncpush[hub]'"
        ) from error


def read_back(result: UploadResult, folder: Path) -> tuple[int, int]:
    """Download every file at the commit and compare it; returns the counts of files and bytes.

    The standard library downloads them, so that this check shares no code with the upload.
    """
    opener = build_opener(ProxyHandler({}))
    paths = result.files_uploaded + result.files_unchanged
    size = 0
    for path in paths:
        url = f"{result.repo_url}/resolve/{result.commit_sha}/{quote(path)}"
        with opener.open(url, timeout=_TIMEOUT) as answer:
            received = hashlib.file_digest(answer, "sha256").digest()
        with open(folder / path, "rb") as file:
            sent = hashlib.file_digest(file, "sha256").digest()
            size += file.tell()
        if received != sent:
            raise IntegrityError(
                f"the bytes of {path} that were downloaded differ from those that were pushed"
            )
    return len(paths), size


def _summary(results: list[UploadResult], files: int, size: int, parts: int) -> list[str]:
    first, other, changed = results
    return facts(
        {
            "repo": [changed.repo_url],
            "commit": [changed.commit_sha],
            "files": [f"{files}, {format_bytes(size)}"],
            "with LFS": [f"{parts} parts, the ETag of each compared; {_pace(first)}"],
            f"with {_ENGINES[_route(changed)]}": [
                f"other weights: {_sent(other, size)}; {_pace(other)}",
                f"one tensor of {len(TENSORS)} changed: {_sent(changed, size)}",
            ],
            "verified": ["size and checksum of each file, in each of the 3 commits"],
            "read back": [f"downloaded back and compared: {files} files equal"],
        },
        terminal_columns(sys.stdout),
    )


_ENGINES = {"xet": "Xet", "lfs": "LFS, again"}


def _route(result: UploadResult) -> str:
    """How the model was sent: with Xet, unless it is not available here."""
    [route] = {each.route for each in result.receipts if each.path_in_repo == MODEL}
    return route


def _sent(result: UploadResult, size: int) -> str:
    if _route(result) == "xet":
        return f"{format_share(result.bytes_transferred, size)} sent"
    return f"{format_bytes(result.bytes_transferred)} sent"


def _pace(result: UploadResult) -> str:
    rate = format_rate(result.bytes_transferred / result.elapsed_seconds)
    return f"{rate}, all done in {format_seconds(result.elapsed_seconds)}"


def _push_document(result: UploadResult) -> dict[str, Any]:
    return {
        "route": _route(result),
        "commit_sha": result.commit_sha,
        "bytes_transferred": result.bytes_transferred,
        "bytes_deduplicated": result.bytes_deduplicated,
        "elapsed_seconds": result.elapsed_seconds,
    }


def _called() -> str:
    """How to call this program in a shell: by name, or by path if the name is not found."""
    program = sys.argv[0]
    if shutil.which("asyncpush") is not None or os.path.basename(program) != "asyncpush":
        return "asyncpush"
    return shlex.quote(program)


def _page_lines(result: UploadResult, root: Path, port: int) -> list[str]:
    shown = "The repo's page shows its files, card and commits. To see it, run"
    return [
        "",
        *paragraph(shown, sys.stdout),
        f"  {_called()} hub --root {shlex.quote(str(root))} --port {port}",
        f"and open {result.repo_url}",
    ]


MODEL, CONFIG_NAME = "model.safetensors", "config.json"
MODEL_FILES = frozenset({MODEL, CONFIG_NAME, CARD_NAME})

HIDDEN, VOCABULARY = 512, 8192

TENSORS = {
    "embed_tokens.weight": (VOCABULARY, HIDDEN),
    "layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "layers.0.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
    "layers.0.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
    "layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "layers.0.mlp.weight": (HIDDEN, HIDDEN),
    "norm.weight": (HIDDEN,),
}

CHANGED = "layers.0.self_attn.o_proj.weight"

CONFIG = {
    "model_type": "asyncpush-demo",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "vocab_size": VOCABULARY,
    "torch_dtype": "float32",
}

CARD = """\
---
license: apache-2.0
library_name: safetensors
tags:
- demo
- asyncpush
---

# Tiny model

Random weights, made by `asyncpush demo` to show a push from end to end. It knows nothing.

| file | what |
|---|---|
| `model.safetensors` | {count} tensors, {parameters:,} parameters in float32 |
| `config.json` | their sizes |

```python
from safetensors import safe_open

with safe_open("model.safetensors", framework="np") as model:
    print(model.get_tensor("norm.weight").shape)
```
"""


def write_weights(folder: Path) -> None:
    """Write the files of the model; new weights each time, so that there is something to push."""
    parameters = sum(prod(shape) for shape in TENSORS.values())
    card = CARD.format(count=len(TENSORS), parameters=parameters)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    _write_tensors(folder / MODEL)


def change_one_tensor(folder: Path) -> None:
    """Change only the tensor `CHANGED`, as a step of fine-tuning might."""
    with open(folder / MODEL, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = json.loads(file.read(length))[CHANGED]["data_offsets"]
        file.seek(8 + length + start)
        file.write(_weights((end - start) // 4))


def _write_tensors(path: Path) -> None:
    from safetensors import TensorSpec, serialize_file

    values = {name: array("f", _weights(prod(shape))) for name, shape in TENSORS.items()}
    specs = {}
    for name, shape in TENSORS.items():
        address, count = values[name].buffer_info()
        specs[name] = TensorSpec(
            dtype="float32",
            shape=list(shape),
            data_ptr=address,
            data_len=count * values[name].itemsize,
        )
    serialize_file(specs, str(path), metadata={"format": "pt"})


# The highest byte of a little-endian float32 of either sign from 2^-7 to 2^-5.
_HIGHEST_BYTE = bytes(0xBC if byte & 1 else 0x3C for byte in range(256))


def _weights(count: int) -> bytes:
    """Random float32 values without repeated chunks, made of random bytes: numbers would be
    slow."""
    data = bytearray(os.urandom(4 * count))
    data[3::4] = data[3::4].translate(_HIGHEST_BYTE)
    return bytes(data)
