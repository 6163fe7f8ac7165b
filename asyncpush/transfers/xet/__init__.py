"""Files to the store by Xet: hf_xet cuts them into chunks and sends those that the store has not.

hf_xet works in threads of its own, in Rust. Its calls block, so they run in ours; its callbacks
come on its threads, and are handed to the loop. One upload commit belongs to one push: all its
files count as stored when it has been finished, and aborting it disturbs no other push.
"""

from asyncpush.transfers.xet.access import (
    XetAccess,
    XetFailedError,
    XetTokens,
    cache_folder,
    files_at_once,
    is_disabled,
    is_installed,
    missing_reason,
    unavailable_reason,
)
from asyncpush.transfers.xet.engine import XetEngine, XetUpload
from asyncpush.transfers.xet.transfer import XetFactory

__all__ = [
    "XetAccess",
    "XetEngine",
    "XetFactory",
    "XetFailedError",
    "XetTokens",
    "XetUpload",
    "cache_folder",
    "files_at_once",
    "is_disabled",
    "is_installed",
    "missing_reason",
    "unavailable_reason",
]
