"""What users of datasets, transformers and hfutils do, one call after another.

    python libraries.py LIBRARY ENDPOINT TOKEN FOLDER

Prints one JSON object a line, as `official.py` does, and runs by itself like that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

LIBRARY, ENDPOINT, TOKEN, WORK = sys.argv[1:5]


def call(title: str, work: Callable[[], Any]) -> None:
    try:
        said = {"call": title, "value": work()}
    except Exception as error:
        said = {"call": title, "error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(said) + "\n")


def use_datasets() -> None:
    datasets: Any = import_module("datasets")
    rows = {"text": ["one", "two", "three"], "label": [0, 1, 0]}
    made = datasets.Dataset.from_dict(rows)

    def load(**where: Any) -> Any:
        cache = str(Path(WORK) / "cache")
        return datasets.load_dataset("me/data", cache_dir=cache, token=TOKEN, **where)

    def append() -> list[str]:
        made.push_to_hub("me/data", split="test", token=TOKEN)
        return sorted(load())

    call("version", lambda: datasets.__version__)
    call("push", lambda: bool(made.push_to_hub("me/data", private=True, token=TOKEN)))
    call("load", lambda: load(split="train").to_dict() == rows)
    call("another split", append)
    call("another config", lambda: bool(made.push_to_hub("me/data", "small", token=TOKEN)))
    call("load config", lambda: load(name="small", split="train").num_rows)
    call("pull request", lambda: bool(made.push_to_hub("me/data", token=TOKEN, create_pr=True)))


def use_transformers() -> None:
    transformers: Any = import_module("transformers")
    folder = Path(WORK) / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (folder / "vocab.txt").write_text("\n".join(words))
    cache = str(Path(WORK) / "cache")

    def tokenizer() -> list[int]:
        made = transformers.BertTokenizer(str(folder / "vocab.txt"))
        made.push_to_hub("me/bert", token=TOKEN, private=True)
        again = transformers.AutoTokenizer.from_pretrained("me/bert", token=TOKEN, cache_dir=cache)
        return list(again("hello world")["input_ids"])

    def config() -> int:
        made = transformers.BertConfig(hidden_size=48, num_attention_heads=4)
        made.push_to_hub("me/bert", token=TOKEN)
        again = transformers.AutoConfig.from_pretrained("me/bert", token=TOKEN, cache_dir=cache)
        return int(again.hidden_size)

    call("version", lambda: transformers.__version__)
    call("tokenizer", tokenizer)
    call("config", config)


def use_hfutils() -> None:
    operate: Any = import_module("hfutils.operate")
    hub: Any = import_module("huggingface_hub")
    api = hub.HfApi(endpoint=ENDPOINT, token=TOKEN)
    source = Path(WORK) / "source"
    (source / "deep").mkdir(parents=True)
    for number in range(5):
        (source / "deep" / f"{number}.bin").write_bytes(bytes([number]) * 30_000)

    def same(folder: Path) -> bool:
        names = [path.relative_to(source) for path in source.rglob("*.bin")]
        return all((folder / n).read_bytes() == (source / n).read_bytes() for n in names)

    def whole() -> bool:
        operate.upload_directory_as_directory(str(source), "me/files", "data")
        back = Path(WORK) / "back"
        operate.download_directory_as_directory(str(back), "me/files", "data")
        return same(back)

    def archive() -> bool:
        operate.upload_directory_as_archive(str(source), "me/files", "all.zip")
        back = Path(WORK) / "unpacked"
        operate.download_archive_as_directory(str(back), "me/files", "all.zip")
        return same(back)

    call("version", lambda: import_module("hfutils.config.meta").__VERSION__)
    call("create", lambda: bool(api.create_repo("me/files", repo_type="dataset", private=True)))
    call("folder", whole)
    call("archive", archive)
    call("list", lambda: len(operate.list_files_in_repository("me/files", repo_type="dataset")))
    call("squash", lambda: api.super_squash_history("me/files", repo_type="dataset"))


USES = {"datasets": use_datasets, "transformers": use_transformers, "hfutils": use_hfutils}

USES[LIBRARY]()
