"""Stores files in the LFS store: by presigned URLs, in one PUT or in parts."""

from asyncpush.transfers.lfs.transfer import LfsFactory, LfsTransfer

__all__ = ["LfsFactory", "LfsTransfer"]
