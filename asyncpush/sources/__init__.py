"""What to upload: from what the user names to a list of files, and reading their bytes."""

from asyncpush.sources.byte_sources import Reader, read_again, read_all, read_sample
from asyncpush.sources.collect import CollectedSources, collect
from asyncpush.sources.paths import (
    check_path_in_repo,
    folder_prefix,
    normalise_path,
    select,
)
from asyncpush.sources.spool import OpenStream

__all__ = [
    "CollectedSources",
    "OpenStream",
    "Reader",
    "check_path_in_repo",
    "collect",
    "folder_prefix",
    "normalise_path",
    "read_again",
    "read_all",
    "read_sample",
    "select",
]
