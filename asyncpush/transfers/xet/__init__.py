"""Stores files with Xet: hf_xet splits them into chunks and sends those that the store lacks.

hf_xet works in its own threads, in Rust. Its calls block, so they run in our threads; its callbacks
arrive on its threads, and are passed to the event loop. Each push has its own upload commit: all
its files count as stored when it is finished, and aborting it does not affect other pushes.
"""

from asyncpush.transfers.xet.factory import XetFactory
from asyncpush.transfers.xet.installation import library

__all__ = ["XetFactory", "library"]
