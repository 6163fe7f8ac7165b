"""Publish models to the Hugging Face Hub: many files, many parts, one verified commit."""

from typing import TYPE_CHECKING, Any

from asyncpush._version import __version__

if TYPE_CHECKING:
    from asyncpush.background import BackgroundCheckpoints, BackgroundUploader, PushTicket
    from asyncpush.checkpoints import CheckpointOutcome, CheckpointPusher, CheckpointReport
    from asyncpush.errors import (
        AsyncPushError,
        AuthError,
        CommitConflictError,
        HubError,
        IntegrityError,
        InvalidRepoIdError,
        MissingTokenError,
        ProtocolError,
        RateLimitedError,
        RepoNotFoundError,
        RetriesExhaustedError,
        SourceChangedError,
        SourceError,
        VerificationError,
        WorkerLostError,
    )
    from asyncpush.handle import PushHandle
    from asyncpush.models import (
        AuditReport,
        PlannedFile,
        Receipt,
        UploadProgress,
        UploadResult,
        receipts_from_json,
        receipts_to_json,
    )
    from asyncpush.options import Push, PushOptions, UploadConfig
    from asyncpush.uploader import Uploader, push_to_hub

__all__ = [
    "AsyncPushError",
    "AuditReport",
    "AuthError",
    "BackgroundCheckpoints",
    "BackgroundUploader",
    "CheckpointOutcome",
    "CheckpointPusher",
    "CheckpointReport",
    "CommitConflictError",
    "HubError",
    "IntegrityError",
    "InvalidRepoIdError",
    "MissingTokenError",
    "PlannedFile",
    "ProtocolError",
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
    "UploadConfig",
    "UploadProgress",
    "UploadResult",
    "Uploader",
    "VerificationError",
    "WorkerLostError",
    "__version__",
    "push_to_hub",
    "receipts_from_json",
    "receipts_to_json",
]

_HOMES = {
    "background": ("BackgroundCheckpoints", "BackgroundUploader", "PushTicket"),
    "checkpoints": ("CheckpointOutcome", "CheckpointPusher", "CheckpointReport"),
    "errors": (
        "AsyncPushError",
        "AuthError",
        "CommitConflictError",
        "HubError",
        "IntegrityError",
        "InvalidRepoIdError",
        "MissingTokenError",
        "ProtocolError",
        "RateLimitedError",
        "RepoNotFoundError",
        "RetriesExhaustedError",
        "SourceChangedError",
        "SourceError",
        "VerificationError",
        "WorkerLostError",
    ),
    "handle": ("PushHandle",),
    "models": (
        "AuditReport",
        "PlannedFile",
        "Receipt",
        "UploadProgress",
        "UploadResult",
        "receipts_from_json",
        "receipts_to_json",
    ),
    "options": ("Push", "PushOptions", "UploadConfig"),
    "uploader": ("Uploader", "push_to_hub"),
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
