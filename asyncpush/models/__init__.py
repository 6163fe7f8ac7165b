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
from asyncpush.models.receipts import Receipt, Route, receipts_from_json, receipts_to_json
from asyncpush.models.repo import Repo, check_repo_id
from asyncpush.models.results import (
    PHASES,
    Activity,
    AuditReport,
    CheckpointSet,
    Phase,
    PlannedFile,
    SyncFailure,
    SyncResult,
    UploadProgress,
    UploadResult,
)

__all__ = [
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
    "UploadProgress",
    "UploadResult",
    "VirtualFile",
    "check_repo_id",
    "receipts_from_json",
    "receipts_to_json",
]
