"""Transfers: each stores one file and returns one receipt. They are inline, lfs and xet.

`interface` defines what a transfer is; the existing ones are registered here, and nowhere else.
"""

from asyncpush.options import UploadConfig
from asyncpush.transfers import xet
from asyncpush.transfers.interface import TransferLibrary, Transfers
from asyncpush.transfers.lfs import LfsFactory

IMPORTED_LATE = (
    "asyncpush.protocol.buckets",
    "asyncpush.transfers.lfs.transfer",
    "asyncpush.transfers.xet.engine",
)
"""Modules that are imported when a push first needs them."""


def open_transfers(config: UploadConfig) -> Transfers:
    """The transfers of one `Uploader`."""
    by_xet = xet.XetFactory(config)
    return Transfers(for_repos=(by_xet, LfsFactory()), for_buckets=by_xet)


def transfer_libraries() -> tuple[TransferLibrary, ...]:
    """The libraries that transfers need."""
    return (xet.library(),)


def check_installed(config: UploadConfig) -> None:
    """Raise `ImportError` when `config.transfer` names a transfer whose library is missing."""
    for library in transfer_libraries():
        if config.transfer == library.route and not library.installed:
            message = f"transfer={library.route!r}: {library.missing_reason}"
            raise ImportError(message, name=library.module)


__all__ = ["IMPORTED_LATE", "check_installed", "open_transfers", "transfer_libraries"]
