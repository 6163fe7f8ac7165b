"""A repo, and what its id may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpush.errors import InvalidRepoIdError
from asyncpush.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from asyncpush.options import RepoKind

_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_NAME_LIMIT = 96
_PREFIX = {
    "model": "",
    "dataset": "datasets/",
    "space": "spaces/",
    "kernel": "kernels/",
    "bucket": "buckets/",
}

_WITH_TYPE = ("models/", *(prefix for prefix in _PREFIX.values() if prefix))

CARD_NAME = "README.md"
"""The file of a repo that is its card: metadata and text."""


@dataclass(frozen=True, slots=True)
class Repo:
    """A repo on the Hub, or a bucket: `repo_id` is `namespace/name`.

    >>> Repo("me/data", "dataset").git_path
    'datasets/me/data'
    """

    repo_id: str
    repo_type: RepoKind = "model"

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)

    @property
    def namespace(self) -> str:
        return self.repo_id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.repo_id.partition("/")[2]

    @property
    def api_path(self) -> str:
        """Below `/api/`: `models/me/m`."""
        return f"{self.repo_type}s/{self.repo_id}"

    @property
    def git_path(self) -> str:
        """Below the endpoint, as in URLs of pages and git: `me/m`, `datasets/me/d`."""
        return f"{_PREFIX[self.repo_type]}{self.repo_id}"


def check_repo_id(repo_id: str) -> None:
    """Raise `InvalidRepoIdError` unless the Hub could hold a repo of this id.

    The rules are the Hub's own: letters, digits, `-`, `_`, `.`; at most 96 characters a name; no
    `--` or `..`, no `-` or `.` at either end, no `.git` at the end.
    """
    suggestion = "use namespace/name, for example me/my-model"
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        if isinstance(repo_id, str) and repo_id.startswith(_WITH_TYPE):
            suggestion = f"write hf://{repo_id}"
        raise InvalidRepoIdError(
            f"repo id {repo_id!r} is not namespace/name", suggestion=suggestion
        )
    for part in repo_id.split("/"):
        if problem := _name_problem(part):
            raise InvalidRepoIdError(f"repo id {repo_id!r}: {problem}", suggestion=suggestion)
    if repo_id.endswith((".git", ".ipynb")):
        raise InvalidRepoIdError(
            f"repo id {repo_id!r} must not end in .git or .ipynb", suggestion=suggestion
        )


def _name_problem(name: str) -> str | None:
    if not name:
        return "a name is empty"
    if len(name) > _NAME_LIMIT:
        return f"a name is longer than {_NAME_LIMIT} characters"
    if not _NAME_CHARACTERS.issuperset(name):
        return "only letters, digits, '-', '_' and '.' are allowed"
    if name[0] in "-." or name[-1] in "-.":
        return "a name must not start or end with '-' or '.'"
    if "--" in name or ".." in name:
        return "'--' and '..' are not allowed"
    return None
