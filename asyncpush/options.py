"""Settings: immutable, checked when they are made. Each one says what it limits."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from math import inf
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from asyncpush.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from asyncpush.events import Record
    from asyncpush.models import Source, UploadProgress


RepoType = Literal["model", "dataset", "space", "kernel"]
RepoKind = RepoType | Literal["bucket"]
"""The kinds of repos that an address can name, including buckets."""
Visibility = Literal["public", "private", "protected"]
TransferName = Literal["lfs", "xet"]
"""The name of a transfer in `asyncpush.transfers`, which stores large files."""
TransferChoice = Literal["auto", TransferName]
ProgressChoice = Literal["auto", "bar", "none"]
OnChange = Literal["follow", "error"]

ProgressCallback = Callable[["UploadProgress"], Awaitable[None] | None]
EventSink = str | os.PathLike[str] | Callable[["Record"], None]
"""A path for JSON lines, or a listener."""

PUBLIC_ENDPOINT = "https://huggingface.co"

LOCAL = "local"
"""The endpoint that stands for the embedded Hub, whose files are in the cache directory."""

SPACE_SDKS = ("gradio", "docker", "static", "streamlit")

_HEX_DIGITS = frozenset("0123456789abcdef")

KIB = 1 << 10
MIB = 1 << 20

MAX_CONCURRENT_PARTS = 48
"""The default limit of parts in flight."""

PIECES_PER_WRITE = 2
"""Chunks passed to a transport at once, and encrypted there immediately. Half a MiB takes half a
millisecond. Measured: a quarter of a MiB costs 0.3 CPU s per GiB more, and a whole MiB costs no
less."""

CHUNKS_PER_PART = 2 * PIECES_PER_WRITE
"""Chunks that a part in flight holds in memory: those of one write, plain and encrypted."""


_YES = frozenset({"1", "ON", "YES", "TRUE"})

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid requests if they are true."""


def is_true(*variables: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether one of these environment variables is 1, on, yes or true, in upper or lower case, as
    in the official client."""
    environ = os.environ if environ is None else environ
    return any(environ.get(name, "").strip().upper() in _YES for name in variables)


NO_PROGRESS_VARIABLE = "HF_HUB_DISABLE_PROGRESS_BARS"


def progress_is_shown(choice: ProgressChoice, stream: TextIO | None) -> bool:
    """Whether the progress of pushes is shown on this stream, which is missing or closed in a
    program without a terminal."""
    there = stream is not None and not getattr(stream, "closed", False)
    return choice != "none" and there and not is_true(NO_PROGRESS_VARIABLE)


def endpoint_in_use(given: str | None = None) -> str:
    """The given endpoint, else `HF_ENDPOINT`, else the public Hub. An empty value counts as not
    given."""
    return given or os.environ.get("HF_ENDPOINT", "").strip() or PUBLIC_ENDPOINT


def default_cache_dir() -> Path:
    """`ASYNCPUSH_CACHE`, else `asyncpush` under `XDG_CACHE_HOME` or `~/.cache`. Without a home
    directory (a container with an unknown user id), a folder for temporary files."""
    try:
        if explicit := os.environ.get("ASYNCPUSH_CACHE"):
            return expanded(explicit)
        return _user_cache() / "asyncpush"
    except RuntimeError:
        return _temporary_cache_dir()


def is_temporary(cache_dir: Path) -> bool:
    """Whether this folder stands in for a missing home directory. Other users may have created that
    folder, so nothing that must outlive a push belongs there."""
    return cache_dir == _temporary_cache_dir() == default_cache_dir()


def _temporary_cache_dir() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(gettempdir()) / f"asyncpush-{user}"


def hf_home() -> Path:
    """The official client's folder: `HF_HOME`, else `huggingface` under `XDG_CACHE_HOME` or
    `~/.cache`. Raises `RuntimeError` when there is no home directory."""
    if explicit := os.environ.get("HF_HOME"):
        return expanded(explicit)
    return _user_cache() / "huggingface"


def expanded(path: str) -> Path:
    """The path with `~` and `$NAME` replaced, as in the official client."""
    return Path(os.path.expandvars(path)).expanduser()


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return expanded(base) if base else Path.home() / ".cache"


def _default_hash_workers() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """Settings for all pushes of an `Uploader`. Invalid values raise `ValueError`.

    Attributes:
        max_retries: how often one request is retried after a temporary failure.
        initial_backoff_ms: upper bound of the first wait, in milliseconds; it doubles each time.
        max_backoff_ms: no wait is longer than this, in milliseconds, unless the server asks for it.
        chunk_size: bytes read and sent at a time, a quarter of max_memory at most. The size of a
            *part* is chosen by the Hub.
        progress_callback: plain or async callable that is called with `UploadProgress` snapshots.
        progress: "bar" draws bars, "none" does not, "auto" draws them in a terminal or notebook.
        max_concurrent_files: files transferred at the same time, over all pushes of an `Uploader`
            (each push may always transfer one).
        max_concurrent_parts: parts in flight at the same time, over all files.
        max_memory: bytes of file content in memory at the same time (buffers and spooled streams).
            Xet needs more: below 300 MB in total at the default. It reads one large file at a time
            for each 64 MiB of this (eight at most), and sends at most one xorb, a block of up to
            64 MiB, for each 32 MiB (two at least). Near its limit it sends fewer: where the network
            is fast and the store answers late, twice the memory may be twice as fast.
        hash_workers: threads for hashing; by default, one for each CPU, four at most.
        max_bandwidth: bytes per second sent to the store, or None for no limit. It is the average
            from the first byte that an `Uploader` sends; after a pause, up to 50 ms of it are made
            up for. With Xet it limits reading (half a second is made up for): hf_xet then sends up
            to 64 MiB at a time, and files that the store has already are read at the same rate.
            LFS and Xet are limited separately, and so is each process.
        transfer: what stores large files: "lfs", "xet" (hf-xet), or "auto". "auto" uses Xet when
            hf_xet is installed, HF_HUB_DISABLE_XET is unset and the Hub grants a token, else LFS.
            When Xet fails, LFS is used instead, with a warning in the result. LFS sends identical
            new files once; Xet sends each of them, unless the store has it already. Syncs of an
            `Uploader` that send the same large files at once send them once; pushes by Xet do not:
            to publish one file in many repos, push it to one of them first.
        verify_etag: compare each part's ETag with the MD5 of the bytes sent.
        trust_mtime: take the hash of a file from the journal when its size, mtime, ctime and inode
            are the same as when it was hashed, a minute or more after its last change. This does
            not notice a program that keeps writing to a memory-mapped file. False hashes every file
            again.
        connect_timeout: seconds to open a connection.
        stall_timeout: seconds without progress of a part before it is sent again. With Xet: seconds
            without any progress before the upload is started again; what was sent already is not
            sent again. After `max_retries` times LFS takes over, with a warning. When only an
            answer is missing, the second wait is twice as long, and so on. Xet shows the progress
            of a whole push, not of a file, which may be waiting for its turn: a file that is stuck
            is noticed once the others of its push are done. While other pushes of the same
            `Uploader` make progress, a push may wait for them, ten times as long at most.
        response_timeout: seconds to wait for the Hub's answer to a commit or a completion. Small
            calls, which can be repeated safely, are sent again after at most 30 s.
        outage_timeout: seconds to wait for the network when there is no connection at all.
        max_retry_after: the longest wait, in seconds, that is accepted from a server.
        allowed_hosts: additional hosts that upload URLs may point to.
        resume: keep a journal, so that an interrupted push continues where it stopped.
        cache_dir: the folder for the journal, the hash cache and the embedded Hub; by default
            `ASYNCPUSH_CACHE`, or else `asyncpush` in `XDG_CACHE_HOME` or `~/.cache`.
        events: a path for JSON lines, a callable that is called with each
            `asyncpush.events.Record`, or a list of these.

    Example:
        >>> UploadConfig(max_bandwidth=50e6, max_concurrent_parts=8).max_retries
        5
        >>> UploadConfig(max_retries=-1)
        Traceback (most recent call last):
        ValueError: max_retries must be a whole number, 0 or more, not -1
    """

    max_retries: int = 5
    initial_backoff_ms: float = 500
    max_backoff_ms: float = 30_000
    chunk_size: int = 256 * KIB
    progress_callback: ProgressCallback | None = None
    progress: ProgressChoice = "auto"
    max_concurrent_files: int = 64
    max_concurrent_parts: int = MAX_CONCURRENT_PARTS
    max_memory: int = 64 * MIB
    hash_workers: int = field(default_factory=_default_hash_workers)
    max_bandwidth: float | None = None
    transfer: TransferChoice = "auto"
    verify_etag: bool = True
    trust_mtime: bool = True
    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    response_timeout: float = 150.0
    outage_timeout: float = 300.0
    max_retry_after: float = 900.0
    allowed_hosts: Sequence[str] | None = None
    resume: bool = True
    cache_dir: str | os.PathLike[str] = field(default_factory=default_cache_dir)
    events: EventSink | Sequence[EventSink] | None = None

    def __post_init__(self) -> None:
        at_least_one = ("max_concurrent_files", "max_concurrent_parts", "hash_workers")
        for name in at_least_one:
            _check(self, name, int, lambda value: value >= 1, "a whole number of at least 1")
        _check(self, "max_retries", int, lambda value: value >= 0, "a whole number, 0 or more")
        _check(self, "chunk_size", int, lambda value: KIB <= value <= 64 * MIB, "1 KiB to 64 MiB")
        _check(self, "max_memory", int, lambda value: value >= MIB, "at least 1 MiB")
        for name in ("initial_backoff_ms", "max_backoff_ms", "outage_timeout", "max_retry_after"):
            _check(self, name, (int, float), lambda value: value >= 0, "a number, 0 or more")
        for name in ("connect_timeout", "stall_timeout", "response_timeout"):
            _check(self, name, (int, float), lambda value: 0 < value < inf, "a number above 0")
        if self.max_bandwidth is not None:
            _check(self, "max_bandwidth", (int, float), lambda value: value > 0, "above 0, or None")
        if self.chunk_size * CHUNKS_PER_PART > self.max_memory:
            raise ValueError(f"chunk_size must be at most 1/{CHUNKS_PER_PART} of max_memory")
        if self.initial_backoff_ms > self.max_backoff_ms:
            raise ValueError("initial_backoff_ms must not exceed max_backoff_ms")
        _check_flags(self, "verify_etag", "trust_mtime", "resume")
        _check_choice(self, "progress", get_args(ProgressChoice))
        _check_choice(self, "transfer", get_args(TransferChoice))
        if self.progress_callback is not None and not callable(self.progress_callback):
            raise ValueError("progress_callback must be callable, or None")
        if isinstance(self.allowed_hosts, str):
            raise ValueError("allowed_hosts must be a list of host names, not one string")
        if self.allowed_hosts is not None and not _are_texts(self.allowed_hosts):
            raise ValueError("allowed_hosts must be a list of host names, or None")
        if not isinstance(self.cache_dir, str | os.PathLike) or not os.fspath(self.cache_dir):
            raise ValueError(f"cache_dir must be a path, not {self.cache_dir!r}")
        sinks = event_sinks(self.events)
        if not all(isinstance(sink, str | os.PathLike) or callable(sink) for sink in sinks) or (
            "" in sinks
        ):
            raise ValueError("events must be a path, a callable, a list of these, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """Options of one push. Invalid values raise `ValueError`.

    Attributes:
        repo_type: "model", "dataset", "space" or "kernel".
        create_repo: create the repo when it is missing.
        private: whether a repo that is created is private; None leaves it to the Hub.
        visibility: instead of `private`: "public", "private", or "protected" for a Space whose app
            is public and whose files are not.
        region: where a repo that is created is stored, such as "us" or "eu".
        resource_group: id of the organisation's resource group for a repo that is created.
        revision: branch to commit to.
        create_branch: create that branch when it is missing, from the default branch.
        commit_message: first line of the commit message; None describes what was pushed.
        commit_description: the rest of the commit message.
        create_pr: open a pull request instead of committing to `revision`.
        parent_commit: the commit the branch must be at; otherwise `CommitConflictError` is raised,
            before anything is sent if the branch is already elsewhere.
        path_in_repo: folder of the repo that the source goes into (for one file: its path).
        allow_patterns, ignore_patterns: fnmatch patterns of paths within the source. Whatever they
            say, no push of a folder includes `.git`, `.cache/huggingface/`, `__pycache__/` and
            `.DS_Store`, at any depth.
        delete_patterns: fnmatch patterns of remote files under `path_in_repo` to delete in the same
            commit, unless the source contains them. Files that others add during the push stay.
        model_card: text or path of the card, committed as README.md in the same commit.
        space_sdk: "gradio", "docker", "static" or "streamlit" for a Space that is created.
        follow_symlinks: walk into linked folders (links to files are always followed).
        max_files_per_commit: split a larger push into a series of commits with at most this many
            files each. They are made in a pull request and appear at once when it is merged; on a
            branch other than main they appear one by one. None makes one commit, except on main for
            more than 1,000 LFS files or 1 GiB of regular files: one call could not handle them, so
            they become such a series.
        max_shard_size: split larger `.safetensors` files between tensors, into
            `name-00001-of-0000N.safetensors` and `name.safetensors.index.json`. In bytes, or as
            text like "4GB" (1 GB = 10^9 bytes). None does not split files. Patterns apply to the
            names before the split. A `model.safetensors` that the repo has already stays, unless
            delete_patterns match it.
        timeout: seconds for the whole push, or None for no limit; then `TimeoutError` is raised.
        verify: check every file through the Hub's API after the commit.
        dry_run: report what would be done, and change nothing.
        on_change: what to do when a file changes during the push. "follow": a file that only grew,
            such as a log, is committed as it was when it was read; a file of up to 10 MiB that was
            replaced or rewritten is read again, three times at most; a file of up to 10 MiB that
            was removed from the folder is left out. A warning in the result names each of them.
            Every other change, and every change with "error", raises `SourceChangedError`, and
            nothing is committed.
        whole: a file that is removed from the source during the push is an error too, instead of
            being left out. `CheckpointPusher` sets it: a checkpoint is worthless without its files.
        strict: refuse files that look as if they contain a credential (`.env`, private keys,
            well-known kinds of tokens in text files up to 1 MiB), before anything is sent. Without
            it, there is a warning for each place.

    Example:
        >>> options = PushOptions(private=True, ignore_patterns=["logs/*"], max_shard_size="4GB")
        >>> options.revision
        'main'
        >>> PushOptions(repo_type="models")
        Traceback (most recent call last):
        ValueError: repo_type must be one of model, dataset, space, kernel, not 'models'
    """

    repo_type: RepoType = "model"
    create_repo: bool = True
    private: bool | None = None
    visibility: Visibility | None = None
    region: str | None = None
    resource_group: str | None = None
    revision: str = "main"
    create_branch: bool = False
    commit_message: str | None = None
    commit_description: str = ""
    create_pr: bool = False
    parent_commit: str | None = None
    path_in_repo: str = ""
    allow_patterns: Sequence[str] | str | None = None
    ignore_patterns: Sequence[str] | str | None = None
    delete_patterns: Sequence[str] | str | None = None
    model_card: str | os.PathLike[str] | None = None
    space_sdk: str | None = None
    follow_symlinks: bool = False
    max_files_per_commit: int | None = None
    max_shard_size: int | str | None = None
    timeout: float | None = None
    verify: bool = True
    dry_run: bool = False
    on_change: OnChange = "follow"
    whole: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        _check_flags(self, "create_repo", "create_branch", "create_pr", "follow_symlinks")
        _check_flags(self, "verify", "dry_run", "whole", "strict")
        if self.private is not None:
            _check_flags(self, "private")
        _check_choice(self, "repo_type", get_args(RepoType))
        _check_choice(self, "on_change", get_args(OnChange))
        if not self.revision or not isinstance(self.revision, str):
            raise ValueError("revision must be the name of a branch")
        if (problem := revision_problem(self.revision)) is not None:
            raise ValueError(f"revision must be the name of a branch: {self.revision!r} {problem}")
        for name in ("path_in_repo", "commit_description"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be text, not {getattr(self, name)!r}")
        if not isinstance(self.commit_message, str | None):
            raise ValueError(f"commit_message must be text, or None, not {self.commit_message!r}")
        for name in ("revision", "commit_message", "commit_description", "path_in_repo"):
            _check_unicode(name, getattr(self, name))
        for name in ("allow_patterns", "ignore_patterns", "delete_patterns"):
            value = getattr(self, name)
            if value is not None and not _are_texts(value):
                raise ValueError(f"{name} must be patterns, or None, not {value!r}")
            if name != "ignore_patterns":  # these may match files whose names are not Unicode
                for pattern in [value] if isinstance(value, str) else value or ():
                    _check_unicode(name, pattern)
        for name in ("region", "resource_group"):
            if not isinstance(getattr(self, name), str | None) or getattr(self, name) == "":
                raise ValueError(f"{name} must be text, or None, not {getattr(self, name)!r}")
        if self.visibility is not None:
            _check_choice(self, "visibility", get_args(Visibility))
            if self.private is not None:
                raise ValueError("visibility and private mean the same: set only one of them")
        if self.space_sdk is not None:
            _check_choice(self, "space_sdk", SPACE_SDKS)
        if self.repo_type != "model":  # with "model", an address may still say that it is a Space
            check_space_options(self)
        if self.parent_commit is not None and not _is_commit_oid(self.parent_commit):
            raise ValueError("parent_commit must be a commit oid (7 to 64 hex digits)")
        if self.max_files_per_commit is not None:
            _check(
                self, "max_files_per_commit", int, lambda value: value >= 1, "1 or more, or None"
            )
            if self.create_pr and self.revision != "main":
                raise ValueError("max_files_per_commit with create_pr needs revision='main'")
            if self.parent_commit is not None and self.revision == "main" and not self.create_pr:
                raise ValueError(
                    "parent_commit cannot be combined with max_files_per_commit on main, where the"
                    " commits are merged in one step: leave out one of them, or use create_pr"
                )
        if self.max_shard_size is not None:
            try:
                parse_size(self.max_shard_size)
            except ValueError as exc:
                raise ValueError(f"max_shard_size must be {exc}") from None
        if self.timeout is not None:
            _check(self, "timeout", (int, float), lambda value: value > 0, "above 0, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """Options of one sync to a bucket. Invalid values raise `ValueError`.

    Attributes:
        create_bucket: create the bucket when it is missing.
        private: whether a bucket that is created is private; None leaves it to the Hub.
        region: where a bucket that is created is stored, such as "us" or "eu".
        resource_group: id of the organisation's resource group for a bucket that is created.
        allow_patterns, ignore_patterns: fnmatch patterns of paths within the source. Files of the
            bucket that they exclude are not deleted either.
        delete: remove the bucket's files below the address that the source does not contain. Files
            are added and verified first. A source without files is an error, and deletes nothing.
        follow_symlinks: walk into linked folders (links to files are always followed).
        max_shard_size: split larger `.safetensors` files; as in `PushOptions`.
        timeout: seconds for the whole sync, or None for no limit; then `TimeoutError` is raised.
        verify: check every file's size and Xet hash after the last batch.
        dry_run: report what would be done, and change nothing.
        complete_marker: let readers tell whether all files below the address are there. A file
            `.complete.json`, which lists them, is removed first and written last, once all of them
            have been verified.
        renew_marker: write the marker again although the set is complete and unchanged, so that
            the set counts as the newest. It stays complete meanwhile. `CheckpointPusher` sets it.
        on_change: what happens when a file changes while it is sent, as in `PushOptions`; a file
            that is gone and left out is not deleted from the bucket by this sync. With
            `complete_marker` it is an error: the set would not be whole.
        strict: refuse files that look as if they held a credential, as in `PushOptions`.

    Example:
        >>> SyncOptions(delete=True, ignore_patterns="*.tmp").verify
        True
        >>> SyncOptions(complete_marker=True, verify=False)
        Traceback (most recent call last):
        ValueError: complete_marker needs verify=True: the marker says that all files were verified
    """

    create_bucket: bool = True
    private: bool | None = None
    region: str | None = None
    resource_group: str | None = None
    allow_patterns: Sequence[str] | str | None = None
    ignore_patterns: Sequence[str] | str | None = None
    delete: bool = False
    follow_symlinks: bool = False
    max_shard_size: int | str | None = None
    timeout: float | None = None
    verify: bool = True
    dry_run: bool = False
    complete_marker: bool = False
    renew_marker: bool = False
    on_change: OnChange = "follow"
    strict: bool = False

    def __post_init__(self) -> None:
        _check_flags(self, "delete", "complete_marker", "renew_marker", "create_bucket")
        self.as_push("")
        if self.renew_marker and not self.complete_marker:
            raise ValueError("renew_marker needs complete_marker=True")
        if self.complete_marker and not self.verify:
            raise ValueError(
                "complete_marker needs verify=True: the marker says that all files were verified"
            )

    def as_push(self, path: str) -> PushOptions:
        """The options that a push and a sync have in common, for files that go to `path`."""
        return PushOptions(
            private=self.private,
            region=self.region,
            resource_group=self.resource_group,
            path_in_repo=path,
            allow_patterns=self.allow_patterns,
            ignore_patterns=self.ignore_patterns,
            follow_symlinks=self.follow_symlinks,
            max_shard_size=self.max_shard_size,
            timeout=self.timeout,
            verify=self.verify,
            dry_run=self.dry_run,
            on_change=self.on_change,
            whole=self.complete_marker,
            strict=self.strict,
        )


@dataclass(frozen=True, slots=True)
class Push:
    """One of many pushes for `Uploader.push_many`.

    Attributes:
        repo_id: the destination: a repo id or an address, as for `push_to_hub`.
        source: what to push, as for `push_to_hub`.
        options: the options of this push.

    Example:
        >>> import asyncio
        >>> from asyncpush import Uploader
        >>> data = PushOptions(repo_type="dataset")
        >>> pushes = [Push("me/a", {"a": b"1"}), Push("me/b", {"b": b"2"}, data)]
        >>> async def main():
        ...     async with Uploader(endpoint="local", config=UploadConfig(progress="none")) as up:
        ...         return await up.push_many(pushes)
        >>> [result.files_uploaded for result in asyncio.run(main())]
        [('a',), ('b',)]
    """

    repo_id: str
    source: Source
    options: PushOptions = field(default_factory=PushOptions)


def check_space_options(options: PushOptions) -> None:
    """Raise `ValueError` for options that only a Space can have, unless it is one."""
    if options.repo_type != "space":
        if options.space_sdk is not None:
            raise ValueError("space_sdk needs repo_type='space'")
        if options.visibility == "protected":
            raise ValueError("visibility='protected' needs repo_type='space'")


def event_sinks(events: EventSink | Sequence[EventSink] | None) -> Sequence[EventSink]:
    """`UploadConfig.events` as a sequence, in whichever form it was given."""
    if events is None:
        return ()
    if isinstance(events, Sequence) and not isinstance(events, str):
        return events
    return (events,)


def _check_flags(options: object, *names: str) -> None:
    """Raise `ValueError` for anything but a bool: None must not switch verification off, "false"
    must not count as true, and a pattern given for `delete` must not delete everything."""
    for name in names:
        if not isinstance(getattr(options, name), bool):
            raise ValueError(f"{name} must be True or False, not {getattr(options, name)!r}")


def _are_texts(value: Any) -> bool:
    """Whether it is a sequence of strings, or one string."""
    return isinstance(value, Sequence) and all(isinstance(text, str) for text in value)


def _is_commit_oid(text: Any) -> bool:
    return isinstance(text, str) and 7 <= len(text) <= 64 and set(text) <= _HEX_DIGITS


_NOT_IN_REFS = frozenset(map(chr, range(0x21))) | set("\x7f~^:?*[\\")
_LONGEST_REF_NAME = 250
"""Bytes between two slashes. git keeps each part as the name of a file, with `.lock` while it is
written."""


def revision_problem(name: str) -> str | None:
    """Why git has no branch, tag or other ref of this name, or None (see `git check-ref-format`).

    >>> revision_problem("a..b"), revision_problem("refs/pr/1")
    ("contains '..'", None)
    """
    for letter in name:
        if letter in _NOT_IN_REFS:
            return f"contains {letter!r}"
    if name == "@" or name.startswith("-"):
        return "is an option or a shorthand to git"
    for sequence in ("..", "@{", "//"):
        if sequence in name:
            return f"contains {sequence!r}"
    for part in name.split("/"):
        if not part:
            return "begins or ends with a slash"
        if part.startswith("."):
            return "has a part that begins with a dot"
        if part.endswith((".", ".lock")):
            return "has a part that ends with '.' or '.lock'"
        if len(part.encode(errors="replace")) > _LONGEST_REF_NAME:
            return f"is longer than {_LONGEST_REF_NAME} bytes"
    return None


def _check_unicode(name: str, value: str | None) -> None:
    """Raise `ValueError` for lone surrogates, which stand for bytes that were not valid UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{name} must be valid Unicode text, not {value!r}") from exc


def _check(
    settings: object,
    name: str,
    kinds: type | tuple[type, ...],
    accepts: Callable[[Any], bool],
    wanted: str,
) -> None:
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, kinds) or not accepts(value):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _check_choice(settings: object, name: str, choices: Sequence[str]) -> None:
    value = getattr(settings, name)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


_UNITS = {"": 1, "B": 1} | {
    f"{letter}{infix}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for infix, base in (("", 1000), ("I", 1024))
}
_SIZE = r"(?a)\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*"


MAX_SIZE = 1 << 60
"""Bytes: larger than any file."""


def parse_size(size: int | str) -> int:
    """The number of bytes, from a whole number or from a number with a unit. KB to TB are powers of
    1000 (as in transformers and huggingface_hub), KiB to TiB powers of 1024. Raises `ValueError`.

    >>> parse_size("4GB"), parse_size("1.5 MiB"), parse_size(500)
    (4000000000, 1572864, 500)
    """
    if isinstance(size, int) and not isinstance(size, bool):
        count = size
    else:
        found = re.fullmatch(_SIZE, size) if isinstance(size, str) else None
        if found is None or found[2].upper() not in _UNITS:
            raise ValueError(f"a number of bytes, or text like '4GB' or '500MB', not {size!r}")
        count = int(min(float(found[1]) * _UNITS[found[2].upper()], MAX_SIZE + 1))
    if count < 1:
        raise ValueError(f"at least one byte, not {size!r}")
    if count > MAX_SIZE:
        raise ValueError(f"at most {MAX_SIZE:,} bytes")
    return count
