"""`.gitattributes`: which files use LFS, in new repos and for files that no rule matches yet.

git and git-lfs rely on this file alone: without a rule, a clone has a file's pointer instead of its
content. The Hub decides what is large or binary, so it also writes the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pygit2

from asyncpush.localhub.cards import CARD_NAME, MAX_CARD_BYTES, check_card
from asyncpush.localhub.store.gitrepo import MAX_POINTER_BYTES, LfsPointer, parse_pointer
from asyncpush.localhub.store.names import RepoType, path_problem
from asyncpush.localhub.web import Refusal

FILE = ".gitattributes"
_RULE = "filter=lfs diff=lfs merge=lfs -text"
_MAX_RULES = 5_000
"""A file is compared with every rule. With this many, that takes a millisecond."""

_COMMON = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gguf *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack
*.npy *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors
saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
_MEDIA = """
*.avro *.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg
*.jpeg *.webp *.mp4 *.webm
"""
# These have a special meaning in a pattern.
_SPECIAL = re.compile(r"[*?\[\\]|^[!#]")


def default_attributes(repo_type: RepoType) -> bytes:
    """The content for a new repo; a dataset also has rules for media."""
    patterns = _COMMON.split() + (_MEDIA.split() if repo_type == "dataset" else [])
    return "".join(f"{pattern} {_RULE}\n" for pattern in patterns).encode()


def with_rules(content: bytes, paths: Iterable[str], has_rule: Callable[[str], bool]) -> bytes:
    """The file with a rule added for each of these paths that has none, up to the limit of rules.

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
    """The pattern that matches this path only (without a folder, its name in every folder)."""
    escaped = _SPECIAL.sub(lambda match: "\\" + match[0], path)
    escaped = re.sub(r"\s", "[[:space:]]", escaped)
    # A leading quote would begin a quoted pattern.
    return f'["]{escaped[1:]}' if escaped.startswith('"') else escaped


MAX_REGULAR_BYTES = 10 << 20
_SHOWN = 10
"""How many paths the message of a refusal names."""

StoredSize = Callable[[str], int | None]
"""The size of the stored object of this oid, or None."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that a commit adds or changes. `pointer` is its content, if it is in LFS."""

    path: str
    oid: str
    size: int
    pointer: LfsPointer | None


def check_card_of_commit(content: bytes, repo_type: RepoType) -> None:
    """Refuse a README.md whose metadata is wrong, as `validate-yaml` would."""
    if len(content) > MAX_CARD_BYTES:
        return
    errors = check_card(content.decode(errors="replace"), repo_type).errors
    if errors:
        listed = "\n".join(f"- {error}" for error in errors)
        raise Refusal(400, f"Invalid metadata in {CARD_NAME}.\n{listed}")


def not_stored(path: str) -> Refusal:
    """A pointer to an object that the store does not have."""
    return Refusal(
        404,
        "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
        "For instance, this can happen if you used git push --no-verify to push your changes. "
        f"Offending file: - {path}",
    )


def new_files(
    git: pygit2.Repository, tree: pygit2.Tree, before: pygit2.Tree | None, prefix: str = ""
) -> Iterator[NewFile]:
    """The files of `tree` that differ from those in `before`."""
    known = {item.raw_name: item for item in before or ()}
    for item in tree:
        there = known.get(item.raw_name)
        if there is not None and there.id == item.id:
            continue
        path = prefix + (item.raw_name or b"").decode("utf-8", "surrogateescape")
        if isinstance(item, pygit2.Tree):
            old = there if isinstance(there, pygit2.Tree) else None
            yield from new_files(git, item, old, f"{path}/")
        elif isinstance(item, pygit2.Blob):
            _, size = git.odb.read_header(item.id)
            pointer = parse_pointer(item.data) if size <= MAX_POINTER_BYTES else None
            yield NewFile(path, str(item.id), size, pointer)


def problems_of_push(
    git: pygit2.Repository,
    commits: Sequence[pygit2.Commit],
    cards: Sequence[bytes],
    repo_type: RepoType,
    stored: StoredSize,
) -> list[str]:
    """Why new commits cannot be accepted, in the Hub's words; empty when they can. `cards` are the
    changed ones of the commits that branches will point to."""
    files = {file: None for commit in commits for file in _new_files_of(git, commit)}
    bad_paths = [f"{file.path!r}: {why}" for file in files if (why := path_problem(file.path))]
    large = [f.path for f in files if f.pointer is None and f.size > MAX_REGULAR_BYTES]
    lost = [f.path for f in files if f.pointer and stored(f.pointer.oid) != f.pointer.size]
    rejections = [
        ("it contains paths that are not allowed.", bad_paths),
        (
            "it contains files larger than 10 MiB. Please use https://git-lfs.com to store large"
            " files: git lfs track, then git lfs migrate import for what is committed already.",
            large,
        ),
        ("an LFS pointer pointed to a file that does not exist: git lfs push --all.", lost),
    ]
    found = [
        f"Your push was rejected because {why}\n{_listed(what)}" for why, what in rejections if what
    ]
    for card in cards:
        try:
            check_card_of_commit(card, repo_type)
        except Refusal as refusal:
            found.append(f"Your push was rejected during YAML metadata verification:\n{refusal}")
    return found


def _new_files_of(git: pygit2.Repository, commit: pygit2.Commit) -> Iterator[NewFile]:
    parents = commit.parents
    return new_files(git, commit.tree, parents[0].tree if parents else None)


def new_card(tree: pygit2.Tree, before: pygit2.Tree | None) -> bytes | None:
    """The card's content, if it has changed."""
    card, old = (_blob(each, CARD_NAME) if each is not None else None for each in (tree, before))
    if card is None or (old is not None and old.id == card.id) or card.size > MAX_CARD_BYTES:
        return None
    return None if parse_pointer(card.data) else card.data


def _blob(tree: pygit2.Tree, name: str) -> pygit2.Blob | None:
    try:
        found = tree[name]
    except KeyError:
        return None
    return found if isinstance(found, pygit2.Blob) else None


def _listed(paths: Sequence[str]) -> str:
    shown = [f"- {path}" for path in paths[:_SHOWN]]
    if len(paths) > _SHOWN:
        shown.append(f"- and {len(paths) - _SHOWN} more")
    return "\n".join(shown)
