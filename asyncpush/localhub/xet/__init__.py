"""Objects uploaded with Xet: chunks packed in xorbs, files described in shards, and the API
(Xet's CAS) through which clients send and read both."""

from __future__ import annotations

from asyncpush.localhub.xet.chunk_store import XetStore, with_xet

__all__ = ["XetStore", "with_xet"]
