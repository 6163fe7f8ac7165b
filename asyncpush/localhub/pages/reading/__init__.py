"""The content of pages, read from git and the disk. Functions block, and change nothing."""

from __future__ import annotations

from asyncpush.localhub.pages.reading.folders import (
    Elsewhere,
    Source,
    read_bucket,
    read_file,
    read_folder,
)
from asyncpush.localhub.pages.reading.history import (
    read_commit,
    read_commits,
    read_discussion,
    read_discussions,
    read_index,
)

__all__ = [
    "Elsewhere",
    "Source",
    "read_bucket",
    "read_commit",
    "read_commits",
    "read_discussion",
    "read_discussions",
    "read_file",
    "read_folder",
    "read_index",
]
