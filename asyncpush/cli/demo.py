"""`asyncpush demo`: a push from end to end, with nothing but this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import shutil
import sys
from array import array
from contextlib import ExitStack
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from click import Context

from asyncpush.cli import arguments as arg
from asyncpush.cli.arguments import Connection
from asyncpush.cli.base import command, option
from asyncpush.cli.failures import UsageError
from asyncpush.cli.output import Output, facts, paragraph, terminal_columns
from asyncpush.cli.push import open_uploader, result_document
from asyncpush.cli.running import run
from asyncpush.errors import IntegrityError
from asyncpush.events import PartStored, Record
from asyncpush.listeners.format import format_bytes, format_rate, format_seconds
from asyncpush.models import CARD_NAME, UploadResult
from asyncpush.options import default_cache_dir


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
    """Show a whole push on this machine, without an account. Starts the embedded Hub, makes a small
    model, pushes it, downloads it back and compares."""
    show(output, keep)


REPO_ID = "demo/tiny-model"
_TIMEOUT = 30.0  # seconds


def show(output: Output, keep: Path | None) -> None:
    """Make the model in `keep` or a temporary folder and push it to an embedded Hub."""
    with ExitStack() as stack:
        from asyncpush.localhub import serve_in_thread  # needs the extra `hub`

        folder = keep or Path(stack.enter_context(TemporaryDirectory(prefix="asyncpush-demo-")))
        make_model(folder)
        root = default_cache_dir() / "hub"
        hub = stack.enter_context(serve_in_thread(root, xet=False))
        _bypass_proxies()
        output.note(*paragraph(f"the embedded Hub: {hub.url}, stored in {root}", sys.stderr))
        parts = 0

        def count_parts(record: Record) -> None:
            nonlocal parts
            parts += isinstance(record.event, PartStored)

        async def work() -> UploadResult:
            connection = Connection(endpoint=hub.url, token="demo", quiet=output.quiet)
            async with open_uploader(connection, output, listener=count_parts) as uploader:
                return await uploader.push_to_hub(REPO_ID, folder)

        result = run(work)
        compared, size = read_back(result, folder)
        facts = {"files": compared, "bytes": size, "parts": parts, "hub_root": str(root)}
        lines = _summary(result, compared, size, parts)
        if keep is not None:
            lines.append(f"The model is in {keep}.")
        lines += _way_to_the_page(result, root, hub.port)
        output.result(lines, result_document(result) | facts)


def _bypass_proxies() -> None:
    """Exclude this machine from the proxies of the environment."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{spared},127.0.0.1" if spared else "127.0.0.1"


def make_model(folder: Path) -> None:
    """Write the model to `folder`, which must contain nothing else: all of it is pushed."""
    folder.mkdir(parents=True, exist_ok=True)
    if others := {path.name for path in folder.iterdir()} - SPECIMEN:
        raise UsageError(f"--keep must name a new or empty folder; this one has {min(others)!r}")
    try:
        write_specimen(folder)
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


def _summary(result: UploadResult, files: int, size: int, parts: int) -> list[str]:
    sent, seconds = result.bytes_transferred, result.elapsed_seconds
    unchanged = len(result.files_unchanged)
    known = f", {unchanged} of them already there" if unchanged else ""
    rows = {
        "repo": result.repo_url,
        "commit": result.commit_sha,
        "files": f"{files}, {format_bytes(size)}{known}",
        "parts": f"{parts}, the ETag of each compared",
        "throughput": f"{format_rate(sent / seconds)}, {format_seconds(seconds)} in all",
        "verified": "size and checksum of each file",
        "read back": f"downloaded again and compared: {files} files equal",
    }
    return facts(rows, terminal_columns(sys.stdout))


def _called() -> str:
    """How to call this program in a shell: by name, or by path if the name is not found."""
    program = sys.argv[0]
    if shutil.which("asyncpush") is not None or os.path.basename(program) != "asyncpush":
        return "asyncpush"
    return shlex.quote(program)


def _way_to_the_page(result: UploadResult, root: Path, port: int) -> list[str]:
    shown = "The page of the repo shows files, card and commits. To see it, run"
    return [
        "",
        *paragraph(shown, sys.stdout),
        f"  {_called()} hub --root {shlex.quote(str(root))} --port {port}",
        f"and open {result.repo_url}",
    ]


MODEL, CONFIG_NAME = "model.safetensors", "config.json"
SPECIMEN = frozenset({MODEL, CONFIG_NAME, CARD_NAME})

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

_BLOCK = 1 << 16


def write_specimen(folder: Path) -> None:
    """Write the files of the model; new weights each time, so that there is something to push."""
    parameters = sum(prod(shape) for shape in TENSORS.values())
    card = CARD.format(count=len(TENSORS), parameters=parameters)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    _write_tensors(folder / MODEL)


def _write_tensors(path: Path) -> None:
    from safetensors import TensorSpec, serialize_file

    # One block of random weights, repeated: to draw millions of them takes a second.
    block = array("f", (random.gauss(0.0, 0.02) for _ in range(_BLOCK)))
    values = {name: _repeated(block, prod(shape)) for name, shape in TENSORS.items()}
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


def _repeated(block: array[float], count: int) -> array[float]:
    return (block * -(-count // len(block)))[:count]
