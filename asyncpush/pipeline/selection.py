"""Selects the transfer that stores the files of a push: the first one that is available and
works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from asyncpush.concurrency.task_groups import single_error
from asyncpush.errors import AsyncPushError
from asyncpush.events import TransferChosen
from asyncpush.pipeline.context import PushContext
from asyncpush.transfers.interface import Transfer, TransferFactory, TransferUnavailableError


class TransferSelector:
    """The selection for one push.

    Small files need no transfer, so it is selected for the first large file.
    `UploadConfig.transfer` names the transfer to begin with; those after it in
    `Transfers.for_repos` are used when it is unavailable or fails.
    """

    def __init__(
        self, ctx: PushContext, group: TaskGroup, factories: Sequence[TransferFactory]
    ) -> None:
        self._ctx = ctx
        self._group = group
        self._candidates = list(factories)
        self._no_choice = len(self._candidates) == 1
        self._choosing = asyncio.Lock()
        self._current: Transfer | None = None
        self._opened: list[Transfer] = []
        self._failed: tuple[Transfer, str] | None = None

    async def chosen(self) -> Transfer:
        """The transfer for the next file."""
        if self._current is None:
            async with self._choosing:
                if self._current is None:
                    self._current = await self._choose()
                    self._opened.append(self._current)
        return self._current

    def give_up(self, transfer: Transfer, reason: str) -> None:
        """`transfer` has failed: from now on `chosen` returns the next one. Further failures of the
        same transfer change nothing."""
        if self._current is transfer:
            self._current = None
            self._failed = transfer, reason

    async def abort(self) -> None:
        """Give up everything that is not finished."""
        with anyio.CancelScope(shield=True):
            for transfer in self._opened:
                await transfer.abort()

    async def _choose(self) -> Transfer:
        reasons = [] if self._failed is None else [self._failed[1]]
        if not self._candidates:
            raise AsyncPushError(
                f"no transfer can store the files: {reasons[0]}",
                suggestion="try again: what was stored is not sent again",
            )
        asked = self._ctx.config.transfer
        requested_but_unavailable = False
        while True:
            factory = self._candidates.pop(0)
            try:
                transfer = await factory.open(self._ctx, self._group)
            except TransferUnavailableError as exc:
                if not self._candidates:
                    raise
                reasons.append(str(exc))
                requested_but_unavailable |= factory.route == asked
            else:
                break
        reason = "; ".join(reasons)
        if self._failed is not None:
            failed, _ = self._failed
            self._ctx.warn(
                f"{failed.label} failed, uploading with {transfer.label} instead: {reason}"
            )
        elif requested_but_unavailable:
            self._ctx.warn(
                f"using {transfer.label} although transfer={asked!r} was requested: {reason}"
            )
        if not self._no_choice:
            self._ctx.events.emit(
                TransferChosen(
                    transfer.route,
                    reason or transfer.reason,
                    reads_while_sending=not transfer.needs_oid,
                )
            )
        return transfer


@asynccontextmanager
async def open_selector(
    ctx: PushContext, *, last_only: bool = False
) -> AsyncIterator[TransferSelector]:
    """A selector for the block. Whatever its transfers have not finished at the end is given up.
    With `last_only` it only uses the last transfer, which every Hub offers."""
    factories: Sequence[TransferFactory] = ctx.transfers.for_repos
    names = [factory.route for factory in factories]
    first = names.index(ctx.config.transfer) if ctx.config.transfer in names else 0
    factories = factories[-1:] if last_only else factories[first:]
    with single_error():
        async with anyio.create_task_group() as group:
            selector = TransferSelector(ctx, group, factories)
            try:
                yield selector
            finally:
                await selector.abort()
