"""Transfers: each stores one file and returns one receipt. They are inline, lfs and xet.

`interface` defines what a transfer is; `open_factories` registers the existing ones.
"""

from asyncpush.options import UploadConfig
from asyncpush.transfers.interface import TransferFactory
from asyncpush.transfers.lfs import LfsFactory
from asyncpush.transfers.xet import XetEngine, XetFactory


def open_factories(config: UploadConfig, xet: XetEngine) -> tuple[TransferFactory, ...]:
    """The transfers of one `Uploader`, the preferred one first. The last one works with every Hub:
    files go there when the others are unavailable or fail."""
    return (XetFactory(config, xet), LfsFactory())


__all__ = ["open_factories"]
