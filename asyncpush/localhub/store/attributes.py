"""`.gitattributes`: which files go through LFS, in new repos and as files come that no rule names.

git and git-lfs read nothing else: without a rule, a clone has a file's pointer where the file
should be. The Hub decides for itself what is large or binary, so it writes the rule as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from asyncpush.localhub.store.names import RepoType

FILE = ".gitattributes"
_RULE = "filter=lfs diff=lfs merge=lfs -text"
_MAX_RULES = 5_000
"""A file that is looked up is compared with every rule: with so many it takes a millisecond."""

_COMMON = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gguf *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack
*.npy *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors
saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
_MEDIA = """
*.avro *.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg
*.jpeg *.webp *.mp4 *.webm
"""
# What means something else in a pattern than itself.
_SPECIAL = re.compile(r"[*?\[\\]|^[!#]")


def default_attributes(repo_type: RepoType) -> bytes:
    """What a new repo begins with; one of a dataset knows media too."""
    patterns = _COMMON.split() + (_MEDIA.split() if repo_type == "dataset" else [])
    return "".join(f"{pattern} {_RULE}\n" for pattern in patterns).encode()


def with_rules(content: bytes, paths: Iterable[str], has_rule: Callable[[str], bool]) -> bytes:
    """The file with a rule for each of these paths more that has none, as far as there is room.

    >>> with_rules(b"*.bin binary", ["a b/tokenizer.json", "x.bin"], lambda path: path == "x.bin")
    b'*.bin binary\\na[[:space:]]b/tokenizer.json filter=lfs diff=lfs merge=lfs -text\\n'
    """
    known = set(content.splitlines())
    added: list[bytes] = []
    for path in paths:
        if len(known) + len(added) >= _MAX_RULES:
            break
        rule = f"{pattern_for(path)} {_RULE}".encode()
        if rule not in known and not has_rule(path):
            added.append(rule + b"\n")
    needs_end = added and content and not content.endswith(b"\n")
    return b"".join([content, b"\n" if needs_end else b"", *added])


def pattern_for(path: str) -> str:
    """The pattern of this path alone (and, without a folder, of its name in every folder)."""
    escaped = _SPECIAL.sub(lambda match: "\\" + match[0], path)
    escaped = re.sub(r"\s", "[[:space:]]", escaped)
    # A quote in front would begin a quoted pattern.
    return f'["]{escaped[1:]}' if escaped.startswith('"') else escaped
