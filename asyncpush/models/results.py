"""What a push or an audit reports: receipts, progress, plan, result, and activity over time.
Receipts have a JSON form for the machine that commits them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any, Literal, TypeAlias, get_args

from asyncpush.errors import SourceError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.options import TransferName

Phase: TypeAlias = Literal["hashing", "uploading", "committing", "verifying", "done"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order of a push."""


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """A snapshot of a push or sync.

    Attributes:
        bytes_sent: bytes that the Hub's store has, including what it had before. It never falls and
            never passes `total_bytes`.
        total_bytes: bytes of all files; 0 until they are listed.
        current_file: path in the repo of a file that is being sent or hashed, or None.
        files_completed: files that are stored or committed, or need not be sent.
        total_files: the number of files; 0 until they are listed.
        phase: "hashing", "uploading", "committing", "verifying" or "done".
        bytes_per_second: the recent rate.
        eta_seconds: seconds until everything is sent, or None while that is unknown.
        bytes_processed: bytes that have been read and hashed. It is never less than `bytes_sent`,
            and is ahead of it with Xet, which finds out what is new before it sends.

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
    bytes_processed: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What a push did over time, in at most 128 slices of equal length. It takes a few kilobytes,
    however long the push was.

    Attributes:
        slice_seconds: the length of a slice.
        sent: for each slice, the bytes handed to the network.
        busy: for each kind of work ("hash", "send", "call", "commit", "wait", "retry"), how many
            seconds it took in each slice. Concurrent work adds up.
    """

    slice_seconds: float = 0.0
    sent: tuple[int, ...] = ()
    busy: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What a push would do with one file, as a dry run reports it.

    Attributes:
        path_in_repo: the file's path in the repo (in a bucket: the path there).
        size: its size in bytes.
        action: how it would be sent: "inline" (in the commit), "lfs" or "xet"; or "unchanged",
            "ignored" (by the Hub, usually because of the repo's .gitignore), or "delete".

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
    """The result of a push, as the Hub confirmed it. See `push_to_hub` for an example.

    Attributes:
        repo_url: the repo's page.
        commit_sha: the commit that has the files. When nothing was new, no commit was made: then it
            is the head of the branch, and `files_uploaded` is empty.
        commit_url: the page of that commit.
        files_uploaded: paths in the repo that this push added or replaced.
        bytes_transferred: bytes that were sent.
        bytes_deduplicated: bytes that were not sent, because the store had them already.
        verified: whether the Hub has shown every file at its size and checksum in that commit.
        elapsed_seconds: how long the push took.
        pr_url: the page of the pull request, if one was opened.
        files_unchanged: paths that the repo already had with the same content.
        files_ignored: paths that the Hub excludes, usually because of a .gitignore.
        files_deleted: paths that `delete_patterns` deleted.
        warnings: what should be looked at, one sentence each.
        retries: how many requests were tried again.
        waited_seconds: the waits before that; those of concurrent requests add up.
        receipts: the stored files.
        plan: what a dry run would do; empty for every other push.
        activity: what the push did over time, for the chart in a notebook.
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

    @property
    def oid(self) -> str:
        """`commit_sha`, by the name that the official client's `CommitInfo` gives it."""
        return self.commit_sha

    def _repr_html_(self) -> str:
        """What notebooks show: the card of `asyncpush.notebook` in a process that has pushed, else
        (of a result that was unpickled, say) one line with its links."""
        return _html_of(self)


def _one_line(result: UploadResult) -> str:
    from html import escape  # for notebooks alone

    repo, commit = escape(result.repo_url), escape(result.commit_url)
    sha = escape(result.commit_sha[:10])
    return f'<a href="{repo}">{repo}</a>, commit <a href="{commit}">{sha}</a>'


_html_of: Callable[[UploadResult], str] = _one_line


def show_results_as(html_of: Callable[[UploadResult], str]) -> None:
    """Have notebooks show results as this HTML: how a result is drawn is for others to say."""
    global _html_of
    _html_of = html_of


@dataclass(frozen=True, slots=True)
class SyncFailure:
    """A file of a sync that is not as expected in the bucket: its `path` there, and the `reason`.

    Example:
        >>> print(SyncFailure("run/a.bin", "missing"))
        run/a.bin: missing
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a sync did to a bucket. In a `SyncError`, it says what succeeded.

    Attributes:
        bucket_url: the bucket's page.
        files_uploaded, files_unchanged, files_deleted: paths in the bucket.
        bytes_transferred: bytes that were sent.
        bytes_deduplicated: bytes that were not sent, because the store had them already.
        verified: whether the Hub has shown every file at its size and Xet hash, and none of the
            deleted ones.
        elapsed_seconds: how long the sync took.
        warnings: what should be looked at, one sentence each.
        marker: the path of the set's `.complete.json`, if one was asked for and written.
        retries: how many requests were tried again.
        waited_seconds: the waits before that; those of concurrent requests add up.
        plan: what a dry run would do; empty for every other sync.
        activity: what the sync did over time.

    Example:
        >>> result = SyncResult("https://hub/buckets/me/r", ("a",), ("b",), (), 512, 0, True, 1.5)
        >>> result.files_uploaded, result.files_unchanged, result.verified
        (('a',), ('b',), True)
    """

    bucket_url: str
    files_uploaded: tuple[str, ...]
    files_unchanged: tuple[str, ...]
    files_deleted: tuple[str, ...]
    bytes_transferred: int
    bytes_deduplicated: int
    verified: bool
    elapsed_seconds: float
    warnings: tuple[str, ...] = ()
    marker: str | None = None
    retries: int = 0
    waited_seconds: float = 0.0
    plan: tuple[PlannedFile, ...] = field(default=(), repr=False)
    activity: Activity = field(default=Activity(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CheckpointSet:
    """A complete set of files in a bucket, as `Uploader.checkpoints_in` lists them.

    Attributes:
        address: its `hf://` address.
        name: the last part of the address.
        files: the paths of its files, within the set.
        size: the bytes of all its files.
        completed_at: when its marker was written, by the Hub's clock, in ISO 8601; empty if the Hub
            does not say.

    Example:
        >>> last = CheckpointSet("hf://buckets/me/runs/run-7/step-100", "step-100", ("a.bin",), 512)
        >>> last.name, len(last.files)
        ('step-100', 1)
    """

    address: str
    name: str
    files: tuple[str, ...]
    size: int
    completed_at: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """How local files differ from a repo or bucket, by size and checksum. Returned by
    `Uploader.audit`. All paths are paths in the repo.

    Attributes:
        repo_url: the page of the repo or bucket.
        commit_sha: the commit that was compared; empty for a bucket.
        matching: files that are the same in both.
        missing: local files that the repo does not have.
        different: files with another content in the repo.
        extra: files that only the repo has.
        ignored: local files that the repo does not have because a .gitignore, the repo's or the
            source's own, excludes them. No push would add them, so they do not count as missing.

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
    ignored: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every local file that is not ignored is in the repo with the same bytes."""
        return not self.missing and not self.different

    @property
    def exact(self) -> bool:
        """The repo holds exactly these files, apart from ignored ones."""
        return self.complete and not self.extra


Route: TypeAlias = Literal["inline", TransferName]
"""How a file gets to the Hub: in the commit itself, or by a transfer."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that the store has confirmed, waiting for its commit. It can be pickled, or written
    as JSON with `to_json`.

    Attributes:
        path_in_repo: the file's path in the repo.
        size: its size in bytes.
        oid: its sha256 for the routes "lfs" and "xet", its git blob hash (sha1) for "inline".
        route: how it is stored: "inline" (in the commit), "lfs" or "xet".
        content: its bytes, if it is an inline file that may be committed by another process.
        xet_hash: its Xet hash, if that is known.
        bytes_sent: bytes that were sent.
        bytes_deduplicated: bytes that were not sent, because the store had them already.
        unchanged: whether the branch already had this file.

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
        """The receipt as a dict for JSON, with `content` in base64."""
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
            raise _unusable("a receipt must be a JSON object")
        route: Any = _field(row, "route", str)
        if route not in get_args(Route):
            known = ", ".join(get_args(Route))
            raise _unusable(f"receipt: route must be one of {known}, not {route!r}")
        oid = _field(row, "oid", str)
        if len(oid) != (40 if route == "inline" else 64) or set(oid) - set("0123456789abcdef"):
            raise _unusable(f"receipt: oid {oid[:80]!r} does not fit route {route}")
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


def receipts_to_json(receipts: Iterable[Receipt]) -> bytes:
    """Receipts as one JSON document: what `asyncpush upload --receipts` writes. Raises `TypeError`
    for anything else.

    Example:
        >>> oid = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
        >>> receipt = Receipt("config.json", 2, oid, "inline")
        >>> receipts_from_json(receipts_to_json([receipt])) == [receipt]
        True
    """
    import orjson

    rows = []
    for receipt in receipts:
        if not isinstance(receipt, Receipt):
            raise TypeError(f"a receipt was expected, not {type(receipt).__name__}")
        rows.append(receipt.to_json())
    return orjson.dumps({"version": 1, "receipts": rows})


def receipts_from_json(text: bytes) -> list[Receipt]:
    """Read the `text` that `receipts_to_json` wrote. Raises `SourceError` for anything else.

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
        raise _unusable(f"not a receipts file: {exc}") from exc
    rows = document.get("receipts") if isinstance(document, dict) else None
    if not isinstance(rows, list) or document.get("version") != 1:
        raise _unusable("not a receipts file: version 1 with a list of receipts was expected")
    return [Receipt.from_json(row) for row in rows]


def _unusable(why: str) -> SourceError:
    return SourceError(
        why, suggestion="use receipts as upload_files (`asyncpush upload`) wrote them, unchanged"
    )


def _field(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = row.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _unusable(f"receipt: {name} must be of type {kind.__name__}")
    return value


def _count(row: dict[str, Any], name: str, default: Any = None) -> int:
    count: int = _field(row, name, int, default)
    if not 0 <= count < 1 << 60:
        raise _unusable(f"receipt: {name} {count} cannot be a number of bytes")
    return count


def _content(row: dict[str, Any], size: int) -> bytes | None:
    if row.get("content") is None:
        return None
    try:
        content = base64.b64decode(_field(row, "content", str), validate=True)
    except ValueError as exc:
        raise _unusable("receipt: content must be base64") from exc
    if len(content) != size:
        raise _unusable(f"receipt: content has {len(content)} bytes, size says {size}")
    return content
