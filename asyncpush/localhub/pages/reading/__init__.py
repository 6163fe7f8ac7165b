"""What the pages show, read from git and the disk. Blocking; nothing here changes anything."""

from __future__ import annotations

from asyncpush.localhub.pages.reading.discussions import read_discussion, read_discussions
from asyncpush.localhub.pages.reading.files import read_file, read_folder
from asyncpush.localhub.pages.reading.history import read_commit, read_commits
from asyncpush.localhub.pages.reading.index import read_index
from asyncpush.localhub.pages.reading.source import Elsewhere, Source

__all__ = [
    "Elsewhere",
    "Source",
    "read_commit",
    "read_commits",
    "read_discussion",
    "read_discussions",
    "read_file",
    "read_folder",
    "read_index",
]
