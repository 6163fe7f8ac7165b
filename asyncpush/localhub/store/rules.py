"""What no commit may bring to a branch, whether it comes through the API or by `git push`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pygit2

from asyncpush.localhub.cards import check_card
from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.store.names import RepoType, path_problem
from asyncpush.localhub.store.pointers import MAX_POINTER_BYTES, LfsPointer, parse_pointer

CARD = "README.md"
MAX_REGULAR_BYTES = 10 << 20
MAX_CARD_BYTES = 8 << 20
_SHOWN = 10
"""Paths named in a refusal."""

StoredSize = Callable[[str], int | None]
"""The size of the stored object of this oid, or None."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that a commit adds or changes. `pointer` is what it holds, if it is in LFS."""

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
        raise Refusal(400, f"Invalid metadata in {CARD}.\n{listed}")


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
    """The files of `tree` that are not as they were in `before`."""
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
    """Why new commits cannot be taken, told as the Hub tells those who push; nothing when they can.

    `cards` are the new ones of the commits at which branches are to stand.
    """
    files = {file: None for commit in commits for file in _new_files_of(git, commit)}
    bad_paths = [f"{file.path!r}: {why}" for file in files if (why := path_problem(file.path))]
    large = [f.path for f in files if f.pointer is None and f.size > MAX_REGULAR_BYTES]
    lost = [f.path for f in files if f.pointer and stored(f.pointer.oid) != f.pointer.size]
    told = [
        ("it contains paths that are not allowed.", bad_paths),
        (
            "it contains files larger than 10 MiB. Please use https://git-lfs.com to store large"
            " files: git lfs track, then git lfs migrate import for what is committed already.",
            large,
        ),
        ("an LFS pointer pointed to a file that does not exist: git lfs push --all.", lost),
    ]
    found = [f"Your push was rejected because {why}\n{_listed(what)}" for why, what in told if what]
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
    """The card's bytes, where they are not what they were."""
    card, old = (_blob(each, CARD) if each is not None else None for each in (tree, before))
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
