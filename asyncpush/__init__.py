"""Publish models to the Hugging Face Hub: many files, many parts, one verified commit.

A short tour, here against the embedded Hub (leave `endpoint` out for the public one):

>>> import asyncio, asyncpush
>>> from asyncpush import PushOptions, UploadConfig
>>> quiet = UploadConfig(progress="none")

One call uploads, commits, and returns when the Hub has shown every file as it was sent:

>>> options = PushOptions(path_in_repo="config.json", commit_message="step 1000")
>>> push = asyncpush.push_to_hub("me/tour", b"{}", options, endpoint="local", config=quiet)
>>> result = asyncio.run(push)
>>> result.files_uploaded, result.verified
(('config.json',), True)

What to use:

Push            push_to_hub, or an Uploader for many pushes (Push, PushHandle)
On the Hub      copy: from repo to repo, or within one, without sending the bytes
Buckets         sync: files to a bucket, verified (SyncOptions, SyncResult,
                SyncHandle)
From memory     Tensors: a state dict as a safetensors file, without a file on disk
Settings        PushOptions for one push, UploadConfig for all pushes of a session
Results         UploadResult, UploadProgress; PlannedFile (of a dry run), AuditReport
Many machines   Receipt, receipts_to_json, receipts_from_json
Blocking code   BackgroundUploader, PushTicket, SyncTicket, BackgroundCheckpoints,
                BackgroundWatch
Training runs   CheckpointPusher, CheckpointReport, CheckpointOutcome; CheckpointSet;
                FolderWatch and WatchOutcome: a folder that is pushed as it changes
Errors          AsyncPushError and its kinds:
    your input  MissingTokenError, InvalidRepoIdError, SourceError, SourceChangedError
    the Hub     HubError: AuthError, RepoNotFoundError, RateLimitedError,
                RetriesExhaustedError, ProtocolError, CommitConflictError,
                PullRequestClosedError
    the data    IntegrityError, VerificationError; SyncError with a SyncFailure for each file
    machines    WorkerLostError

Each has its own help, such as help(asyncpush.PushOptions). In a shell: `asyncpush --help`.
"""

from typing import TYPE_CHECKING, Any

from asyncpush._version import __version__

if TYPE_CHECKING:
    from asyncpush.errors import (
        AsyncPushError,
        AuthError,
        CommitConflictError,
        HubError,
        IntegrityError,
        InvalidRepoIdError,
        MissingTokenError,
        ProtocolError,
        PullRequestClosedError,
        RateLimitedError,
        RepoNotFoundError,
        RetriesExhaustedError,
        SourceChangedError,
        SourceError,
        SyncError,
        VerificationError,
        WorkerLostError,
    )
    from asyncpush.models import (
        AuditReport,
        CheckpointSet,
        PlannedFile,
        Receipt,
        SyncFailure,
        SyncResult,
        UploadProgress,
        UploadResult,
        receipts_from_json,
        receipts_to_json,
    )
    from asyncpush.options import Push, PushOptions, SyncOptions, UploadConfig
    from asyncpush.sources.tensors import Tensors
    from asyncpush.training.background import (
        BackgroundCheckpoints,
        BackgroundUploader,
        BackgroundWatch,
    )
    from asyncpush.training.checkpoints import CheckpointOutcome, CheckpointPusher, CheckpointReport
    from asyncpush.training.tickets import PushTicket, SyncTicket
    from asyncpush.uploader import PushHandle, SyncHandle, Uploader, copy, push_to_hub, sync
    from asyncpush.watch import FolderWatch, WatchOutcome

__all__ = [
    "AsyncPushError",
    "AuditReport",
    "AuthError",
    "BackgroundCheckpoints",
    "BackgroundUploader",
    "BackgroundWatch",
    "CheckpointOutcome",
    "CheckpointPusher",
    "CheckpointReport",
    "CheckpointSet",
    "CommitConflictError",
    "FolderWatch",
    "HubError",
    "IntegrityError",
    "InvalidRepoIdError",
    "MissingTokenError",
    "PlannedFile",
    "ProtocolError",
    "PullRequestClosedError",
    "Push",
    "PushHandle",
    "PushOptions",
    "PushTicket",
    "RateLimitedError",
    "Receipt",
    "RepoNotFoundError",
    "RetriesExhaustedError",
    "SourceChangedError",
    "SourceError",
    "SyncError",
    "SyncFailure",
    "SyncHandle",
    "SyncOptions",
    "SyncResult",
    "SyncTicket",
    "Tensors",
    "UploadConfig",
    "UploadProgress",
    "UploadResult",
    "Uploader",
    "VerificationError",
    "WatchOutcome",
    "WorkerLostError",
    "__version__",
    "copy",
    "push_to_hub",
    "receipts_from_json",
    "receipts_to_json",
    "sync",
]

_HOMES = {
    "errors": (
        "AsyncPushError",
        "AuthError",
        "CommitConflictError",
        "HubError",
        "IntegrityError",
        "InvalidRepoIdError",
        "MissingTokenError",
        "ProtocolError",
        "PullRequestClosedError",
        "RateLimitedError",
        "RepoNotFoundError",
        "RetriesExhaustedError",
        "SourceChangedError",
        "SourceError",
        "SyncError",
        "VerificationError",
        "WorkerLostError",
    ),
    "models": (
        "AuditReport",
        "CheckpointSet",
        "PlannedFile",
        "Receipt",
        "SyncFailure",
        "SyncResult",
        "UploadProgress",
        "UploadResult",
        "receipts_from_json",
        "receipts_to_json",
    ),
    "options": ("Push", "PushOptions", "SyncOptions", "UploadConfig"),
    "sources.tensors": ("Tensors",),
    "training.background": ("BackgroundCheckpoints", "BackgroundUploader", "BackgroundWatch"),
    "training.checkpoints": ("CheckpointOutcome", "CheckpointPusher", "CheckpointReport"),
    "training.tickets": ("PushTicket", "SyncTicket"),
    "uploader": ("PushHandle", "SyncHandle", "Uploader", "copy", "push_to_hub", "sync"),
    "watch": ("FolderWatch", "WatchOutcome"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for (PEP 562): who imports this package to
    push later, or only to catch an error, does not wait for asyncio."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"asyncpush.{home}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
