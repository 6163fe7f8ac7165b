"""Publish models to the Hugging Face Hub: many files, many parts, one verified commit."""

from asyncpush._version import __version__
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
