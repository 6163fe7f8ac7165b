"""The values that travel through a push: frozen, and independent of how they are transferred."""

from asyncpush.models.files import (
    ComposedSource,
    Content,
    FileIdentity,
    FileSource,
    Part,
    Source,
    VirtualFile,
)
from asyncpush.models.repo import CARD_NAME, Repo, check_repo_id
from asyncpush.models.results import (
    PHASES,
    Activity,
    AuditReport,
    CheckpointSet,
    Phase,
    PlannedFile,
    Receipt,
    Route,
    SyncFailure,
    SyncResult,
    UploadProgress,
    UploadResult,
    receipts_from_json,
    receipts_to_json,
    show_results_as,
)
from asyncpush.options import TransferName

__all__ = [
    "CARD_NAME",
    "PHASES",
    "Activity",
    "AuditReport",
    "CheckpointSet",
    "ComposedSource",
    "Content",
    "FileIdentity",
    "FileSource",
    "Part",
    "Phase",
    "PlannedFile",
    "Receipt",
    "Repo",
    "Route",
    "Source",
    "SyncFailure",
    "SyncResult",
    "TransferName",
    "UploadProgress",
    "UploadResult",
    "VirtualFile",
    "check_repo_id",
    "receipts_from_json",
    "receipts_to_json",
    "show_results_as",
]
