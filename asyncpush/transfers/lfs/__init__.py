"""Stores files in the LFS store: by presigned URLs, in one PUT or in parts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from asyncpush.options import TransferName
from asyncpush.transfers.interface import TransferContext

if TYPE_CHECKING:
    from asyncpush.transfers.lfs.transfer import LfsTransfer


class LfsFactory:
    """Opens LFS transfers. LFS is always available, since every Hub offers it."""

    route: TransferName = "lfs"
    takes_streams = False

    def __init__(self) -> None:
        self._transfer: type[LfsTransfer] | None = None

    def unavailable_reason(self) -> None:
        return None

    async def open(self, ctx: TransferContext, group: TaskGroup) -> LfsTransfer:
        """Its modules are imported with the first push that needs them, in a thread, since most
        pushes of small files do not."""
        if self._transfer is None:
            self._transfer = await asyncio.to_thread(_transfer_class)
        return self._transfer(ctx, group, await ctx.part_sender())

    async def close(self) -> None:
        """Does nothing: only the session is shared."""


def _transfer_class() -> type[LfsTransfer]:
    from asyncpush.transfers.lfs.transfer import LfsTransfer

    return LfsTransfer


__all__ = ["LfsFactory"]
