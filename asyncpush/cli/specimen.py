"""A small real model for `asyncpush demo`: tensors, a config, a card."""

from __future__ import annotations

import json
import random
from array import array
from math import prod
from pathlib import Path

MODEL, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
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
    """The files of the model; other weights each time, or there would be nothing to push."""
    parameters = sum(prod(shape) for shape in TENSORS.values())
    card = CARD.format(count=len(TENSORS), parameters=parameters)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    _write_tensors(folder / MODEL)


def _write_tensors(path: Path) -> None:
    from safetensors import TensorSpec, serialize_file

    # One block of weights again and again: drawing millions of them would take a second.
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
