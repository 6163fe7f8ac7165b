"""Names from clients: repo ids, paths in a repo, branch names. Checked once, here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from asyncpush.localhub.web import Refusal, bad_request

RepoType = Literal["model", "dataset", "space", "kernel"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "space", "kernel")

# A percent-quoted path has to fit in the 8,190 bytes of aiohttp's request line.
MAX_PATH_BYTES = 2048
MAX_SEGMENT_BYTES = 255
MAX_PATH_DEPTH = 100
MAX_BRANCH_BYTES = 200

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_FORBIDDEN_IN_NAME = ("--", "..")
_FORBIDDEN_ENDINGS = (".git", ".ipynb", ".lock")
# These first segments of a URL have a meaning of their own.
_RESERVED_NAMESPACES = frozenset(
    {"api", "models", "datasets", "spaces", "kernels", "buckets", "static"}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RepoId:
    """A repo of this hub: its type and its `namespace/name`, known to be safe on disk."""

    type: RepoType
    namespace: str
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """The path of the repo's page: `me/model`, `datasets/me/data`."""
        return self.full_name if self.type == "model" else f"{self.type}s/{self.full_name}"


def parse_repo_type(value: object) -> RepoType:
    if value not in REPO_TYPES:
        raise bad_request(f"Invalid repo type: must be one of {', '.join(REPO_TYPES)}")
    return value


def make_repo_id(repo_type: RepoType, namespace: str, name: str) -> RepoId:
    """The id, or a 400 that says which half is wrong."""
    # A first segment with a leading underscore is the hub's own (see `blobs.OBJECTS_PATH`).
    reserved = namespace.startswith("_") or namespace.lower() in _RESERVED_NAMESPACES
    if reserved or not is_name(namespace):
        raise bad_request(f"Invalid namespace: {namespace[:100]!r}")
    if not is_name(name):
        raise bad_request(
            f"Invalid repo name: {name[:100]!r}. At most 96 letters, digits, '-', '_' and '.'; "
            "no '--' or '..', no '-' or '.' at either end, and not ending in .git or .ipynb"
        )
    return RepoId(repo_type, namespace, name)


def is_name(value: str) -> bool:
    """Whether a user, an organisation or a repo may have this name."""
    return (
        _NAME.fullmatch(value) is not None
        and not any(part in value for part in _FORBIDDEN_IN_NAME)
        and not value.lower().endswith(_FORBIDDEN_ENDINGS)
    )


def check_path(path: object) -> str:
    """The path of a file in a repo, or a 400 that says what is wrong with it."""
    if not isinstance(path, str) or not path:
        raise bad_request("Invalid path: must be a non-empty string")
    problem = path_problem(path)
    if problem:
        raise bad_request(f"Invalid path {path[:200]!r}: {problem}")
    return path


def path_problem(path: str) -> str | None:
    """Why no file can have this path, or None."""
    if _CONTROL.search(path):
        return "control characters and halves of characters are not allowed"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"longer than {MAX_PATH_BYTES} bytes"
    # To the Hub a backslash is a character like others; on Windows it separates folders.
    segments = path.split("/")
    if any(_opens_as_git(part) or part == ".." for part in re.split(r"[/\\]", path)):
        return "'.git' and '..' are not allowed"
    if len(segments) > MAX_PATH_DEPTH:
        return f"more than {MAX_PATH_DEPTH} levels deep"
    return next(filter(None, map(_segment_problem, segments)), None)


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "empty segment (a leading, trailing or double '/')"
    if segment in (".", ".."):
        return f"{segment!r} is not allowed"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"a name longer than {MAX_SEGMENT_BYTES} bytes"
    return None


def _opens_as_git(segment: str) -> bool:
    """Windows and macOS open these names as .git; a checkout must not write there."""
    return segment.lower().rstrip(" .") in (".git", "git~1")


def check_branch(name: object) -> str:
    """A new branch or tag name that cannot be mistaken for a commit or another kind of ref."""
    if not isinstance(name, str) or not is_ref_name(f"refs/heads/{name}"):
        raise Refusal(400, f"Invalid reference name: {str(name)[:100]!r}")
    if re.fullmatch(r"[0-9a-f]{40}", name) or name.startswith("refs/") or name == "HEAD":
        raise Refusal(400, f"Invalid reference name: {name[:100]!r} has another meaning")
    return name


_REF = re.compile(r"refs/(?:heads|tags|pr|convert)/[^\x00-\x20\x7f~^:?*\[\\]+")


def is_ref_name(ref: str) -> bool:
    """git's own rules (see git-check-ref-format), for the kinds of ref that this hub has."""
    return (
        _REF.fullmatch(ref) is not None
        and len(ref.encode("utf-8", "replace")) <= MAX_BRANCH_BYTES
        and "@{" not in ref
        and ".." not in ref
        and all(
            part and not part.startswith((".", "-")) and not part.endswith((".", ".lock"))
            for part in ref.split("/")
        )
    )
