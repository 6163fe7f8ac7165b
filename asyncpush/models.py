"""The values that travel through a push: frozen, and knowing nothing of how they are moved."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, get_args

from asyncpush.errors import InvalidRepoIdError, SourceError

if TYPE_CHECKING:
    from asyncpush.options import RepoType

Content: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | AsyncIterable[bytes]
Source: TypeAlias = str | os.PathLike[str] | bytes | Mapping[str, Content]
Route: TypeAlias = Literal["inline", "lfs", "xet"]
Phase: TypeAlias = Literal["hashing", "uploading", "committing", "verifying", "done"]

_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_NAME_LIMIT = 96
_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass(frozen=True, slots=True)
class Repo:
    """A repo on the Hub: `repo_id` is `namespace/name`.

    >>> Repo("me/data", "dataset").git_path
    'datasets/me/data'
    """

    repo_id: str
    repo_type: RepoType = "model"

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


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which bytes a path named when it was looked at: any change shows in one of these."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file to push: its name in the repo, its size in bytes, and where its bytes are.

    Exactly one of `path` (a file on disk, with the `identity` it had), `data` and `cut` is set.
    """

    path_in_repo: str
    size: int
    path: str | None = None
    identity: FileIdentity | None = None
    data: bytes | None = field(default=None, repr=False)
    cut: Cut | None = None

    @property
    def hash_key(self) -> tuple[str, FileIdentity] | None:
        """What a hash of these bytes may be remembered under: a name, and what must be the same
        for it to hold. None when no file on disk vouches for the bytes."""
        if self.cut is not None:
            base = self.cut.base.hash_key
            return None if base is None else (f"{base[0]}#{self.cut.digest}", base[1])
        if self.path is None or self.identity is None:
            return None
        return self.path, self.identity


@dataclass(frozen=True, slots=True)
class Cut:
    """Bytes made of another source's without a copy: `head`, then `ranges` of `base`, each its
    offset and size. `digest` tells one cut of a source from another."""

    base: FileSource
    head: bytes = field(repr=False)
    ranges: tuple[tuple[int, int], ...]
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.head)
        digest.update(repr(self.ranges).encode())
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def size(self) -> int:
        return len(self.head) + sum(size for _, size in self.ranges)


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a file that goes to one presigned URL; `number` counts from 1."""

    number: int
    offset: int
    size: int
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that the store has confirmed, waiting for its commit.

    `oid` is the sha256 for the routes lfs and xet, the git blob hash (sha1) for inline. A receipt
    of an inline file that is to be committed elsewhere carries its bytes in `content`.
    `size`, `bytes_sent` and `bytes_deduplicated` are bytes; `unchanged` means that the branch had
    the file already. Picklable, and JSON-able through `to_json` and `from_json`.

    Example:
        >>> receipt = Receipt("model.safetensors", 4 << 20, "ab" * 32, "lfs", bytes_sent=4 << 20)
        >>> Receipt.from_json(receipt.to_json()) == receipt
        True
    """

    path_in_repo: str
    size: int
    oid: str
    route: Route
    content: bytes | None = field(default=None, repr=False)
    xet_hash: str | None = None
    bytes_sent: int = 0
    bytes_deduplicated: int = 0
    unchanged: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `content` as base64."""
        row: dict[str, Any] = {
            "path_in_repo": self.path_in_repo,
            "size": self.size,
            "oid": self.oid,
            "route": self.route,
            "bytes_sent": self.bytes_sent,
            "bytes_deduplicated": self.bytes_deduplicated,
            "unchanged": self.unchanged,
        }
        if self.content is not None:
            row["content"] = base64.b64encode(self.content).decode("ascii")
        if self.xet_hash is not None:
            row["xet_hash"] = self.xet_hash
        return row

    @classmethod
    def from_json(cls, row: Any) -> Receipt:
        """Read what `to_json` wrote. Raises `SourceError` naming the field that is wrong."""
        if not isinstance(row, dict):
            raise SourceError("a receipt must be a JSON object")
        route: Any = _field(row, "route", str)
        if route not in get_args(Route):
            known = ", ".join(get_args(Route))
            raise SourceError(f"receipt: route must be one of {known}, not {route!r}")
        oid = _field(row, "oid", str)
        if len(oid) != (40 if route == "inline" else 64) or set(oid) - set("0123456789abcdef"):
            raise SourceError(f"receipt: oid {oid[:80]!r} does not fit route {route}")
        size = _count(row, "size")
        return cls(
            path_in_repo=_field(row, "path_in_repo", str),
            size=size,
            oid=oid,
            route=route,
            content=_content(row, size),
            xet_hash=_field(row, "xet_hash", str) if row.get("xet_hash") is not None else None,
            bytes_sent=_count(row, "bytes_sent", 0),
            bytes_deduplicated=_count(row, "bytes_deduplicated", 0),
            unchanged=_field(row, "unchanged", bool, False),
        )


def receipts_to_json(receipts: list[Receipt]) -> bytes:
    """Receipts as one JSON document: what `asyncpush upload --receipts` writes.

    Example:
        >>> oid = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
        >>> receipt = Receipt("config.json", 2, oid, "inline")
        >>> receipts_from_json(receipts_to_json([receipt])) == [receipt]
        True
    """
    import orjson

    return orjson.dumps({"version": 1, "receipts": [receipt.to_json() for receipt in receipts]})


def receipts_from_json(text: bytes) -> list[Receipt]:
    """Read what `receipts_to_json` wrote. Raises `SourceError` when it is anything else.

    Example:
        >>> receipts_from_json(b'{"version": 1, "receipts": []}')
        []
        >>> receipts_from_json(b"[]")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        asyncpush.errors.SourceError: not a receipts file: version 1 with a list of receipts was...
    """
    import orjson

    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise SourceError(f"not a receipts file: {exc}") from exc
    rows = document.get("receipts") if isinstance(document, dict) else None
    if not isinstance(rows, list) or document.get("version") != 1:
        raise SourceError("not a receipts file: version 1 with a list of receipts was expected")
    return [Receipt.from_json(row) for row in rows]


def _field(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = row.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SourceError(f"receipt: {name} must be of type {kind.__name__}")
    return value


def _count(row: dict[str, Any], name: str, default: Any = None) -> int:
    count: int = _field(row, name, int, default)
    if not 0 <= count < 1 << 60:
        raise SourceError(f"receipt: {name} {count} cannot be a number of bytes")
    return count


def _content(row: dict[str, Any], size: int) -> bytes | None:
    if row.get("content") is None:
        return None
    try:
        content = base64.b64decode(_field(row, "content", str), validate=True)
    except ValueError as exc:
        raise SourceError("receipt: content must be base64") from exc
    if len(content) != size:
        raise SourceError(f"receipt: content has {len(content)} bytes, size says {size}")
    return content


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """A snapshot. `bytes_sent` never falls and never passes `total_bytes`.

    `phase` is "hashing", "uploading", "committing", "verifying" or "done".
    `bytes_per_second` counts what moved lately; `eta_seconds` is None while it cannot be told.

    Example:
        >>> progress = UploadProgress(512, 2048, "a.bin", 0, 1, "uploading", bytes_per_second=512.0)
        >>> f"{progress.phase} {progress.bytes_sent / progress.total_bytes:.0%}"
        'uploading 25%'
    """

    bytes_sent: int
    total_bytes: int
    current_file: str | None
    files_completed: int
    total_files: int
    phase: Phase = "hashing"
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """A push in small: what moved and what went on in equal slices of its time, at most 128.

    `sent` are bytes handed to the network. `busy` says for how many seconds of each slice something
    of a kind went on ("hash", "send", "call", "commit", "wait", "retry"); what goes on side by side
    adds up. A few kilobytes, however long the push was.
    """

    slice_seconds: float = 0.0
    sent: tuple[int, ...] = ()
    busy: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What a dry run would do with one file of `size` bytes: send it ("inline", "lfs", "xet"), or
    "unchanged", "ignored" (by the repo's .gitignore), "delete".

    Example:
        >>> plan = [PlannedFile("a.bin", 2048, "lfs"), PlannedFile("b.bin", 512, "unchanged")]
        >>> sum(file.size for file in plan if file.action in ("inline", "lfs", "xet"))
        2048
    """

    path_in_repo: str
    size: int
    action: Route | Literal["unchanged", "ignored", "delete"]


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What the Hub confirmed.

    When nothing had changed no commit was made: `commit_sha` is the head's and `files_uploaded`
    is empty. `plan` is filled by a dry run alone. `retries` counts what had to be tried again, and
    `waited_seconds` sums the waits before (those of parallel requests add up). `activity` is the
    course of it, for the picture on the card. Sizes are bytes, times seconds. See `push_to_hub` for
    an example.
    """

    repo_url: str
    commit_sha: str
    commit_url: str
    files_uploaded: tuple[str, ...]
    bytes_transferred: int
    bytes_deduplicated: int
    verified: bool
    elapsed_seconds: float
    pr_url: str | None = None
    files_unchanged: tuple[str, ...] = ()
    files_ignored: tuple[str, ...] = ()
    files_deleted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    retries: int = 0
    waited_seconds: float = 0.0
    receipts: tuple[Receipt, ...] = field(default=(), repr=False)
    plan: tuple[PlannedFile, ...] = field(default=(), repr=False)
    activity: Activity = field(default=Activity(), repr=False, compare=False)

    def _repr_html_(self) -> str:
        """A small card for notebooks."""
        from asyncpush.listeners.card import result_card

        return result_card(self)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Local files against the repo at `commit_sha`, by size and checksum: what `Uploader.audit`
    returns. The other fields list paths in the repo: those `missing` there, those `extra` there.

    Example:
        >>> report = AuditReport("https://hub/me/m", "ab" * 20, matching=("a",), extra=("b",))
        >>> report.complete, report.exact
        (True, False)
    """

    repo_url: str
    commit_sha: str
    matching: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every local file is there with the same bytes."""
        return not self.missing and not self.different

    @property
    def exact(self) -> bool:
        """The repo holds these files and no others."""
        return self.complete and not self.extra
