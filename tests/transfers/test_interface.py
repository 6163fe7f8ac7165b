"""The interface of transfers, by one that stands in for Xet and sends its files at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from anyio.abc import TaskGroup

from asyncpush import UploadConfig, Uploader
from asyncpush.errors import AsyncPushError, SourceChangedError
from asyncpush.events import Emitter, FileRouted, TransferChosen
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource, Receipt
from asyncpush.options import TransferName
from asyncpush.transfers import open_transfers
from asyncpush.transfers.interface import (
    Transfer,
    TransferContext,
    TransferFactory,
    TransferFailedError,
    TransferUnavailableError,
)
from asyncpush.transfers.lfs import LfsFactory
from tests.conftest import TOKEN
from tests.event_recorder import EventRecorder
from tests.reading import download

FILES = {name: name.encode() * 1000 + b"\0" for name in ("a.bin", "b.bin", "c.bin")}


class LateTransfer:
    """Keeps the files until `finish`; fails where it is told to."""

    route: TransferName = "xet"
    label = "Late"
    reason = "a test wants it"
    needs_oid = True

    def __init__(self, lfs: Transfer, fails: str) -> None:
        self._lfs = lfs
        self._fails = fails
        self._kept: list[tuple[FileSource, str | None, Emitter]] = []
        self.aborted = 0

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> Receipt | None:
        if self._fails == f"store {file.path_in_repo}":
            raise TransferFailedError("no room")
        self._kept.append((file, oid, events))
        return None

    async def finish(self, changed: dict[str, SourceChangedError]) -> Sequence[Receipt]:
        if self._fails == "finish":
            raise TransferFailedError("no room")
        receipts = [await self._lfs.store(*kept) for kept in self._kept]
        return [replace(receipt, route="xet") for receipt in receipts if receipt is not None]

    async def abort(self) -> None:
        self.aborted += 1


@dataclass
class LateFactory:
    fails: str = ""
    closed: int = 0
    opened: LateTransfer | None = None
    route: TransferName = "xet"
    takes_streams = False

    def unavailable_reason(self) -> None:
        return None

    async def open(self, ctx: TransferContext, group: TaskGroup) -> Transfer:
        if self.fails == "open":
            raise TransferUnavailableError("it is not installed")
        self.opened = LateTransfer(await LfsFactory().open(ctx, group), self.fails)
        return self.opened

    async def close(self) -> None:
        self.closed += 1


async def pushed(
    hub: LocalHub,
    config: UploadConfig,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    *factories: TransferFactory,
) -> tuple[set[str], tuple[str, ...], EventRecorder]:
    """Push by these transfers: the routes of the receipts, the warnings, and the events."""
    monkeypatch.setattr(
        "asyncpush.runtime.open_transfers",
        lambda config: replace(open_transfers(config), for_repos=factories),
    )
    recorded = EventRecorder()
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as uploader:
        result = await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == FILES
    return {receipt.route for receipt in result.receipts}, result.warnings, recorded


async def test_a_transfer_is_one_class_and_one_registration(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = LateFactory()
    routes, warnings, recorded = await pushed(
        hub, config, write(FILES), monkeypatch, late, LfsFactory()
    )

    assert (routes, warnings) == ({"xet"}, ())
    assert recorded.of(TransferChosen) == [TransferChosen("xet", "a test wants it")]
    assert late.closed == 1


@pytest.mark.parametrize("fails", ["store a.bin", "store c.bin", "finish"])
async def test_a_failed_transfer_hands_on_all_its_files(
    fails: str,
    hub: LocalHub,
    config: UploadConfig,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = LateFactory(fails)
    routes, warnings, recorded = await pushed(
        hub, config, write(FILES), monkeypatch, late, LfsFactory()
    )

    assert routes == {"lfs"}
    assert warnings == ("Late failed, uploading with LFS instead: no room",)
    assert [event.engine for event in recorded.of(TransferChosen)] == ["xet", "lfs"]
    assert {event.path for event in recorded.of(FileRouted) if event.route == "lfs"} == FILES.keys()
    assert late.opened is not None
    assert late.opened.aborted == 1


class AnnouncedLater(LateTransfer):
    """Asked about the objects first; it fails then, or at the first object."""

    async def announce(self, objects: Sequence[tuple[str, int]]) -> None:
        if self._fails == "announce":
            raise TransferFailedError("no room")

    async def store(self, file: FileSource, oid: str | None, events: Emitter) -> Receipt | None:
        await super().store(file, oid, events)
        return await self._lfs.store(file, oid, events)

    async def finish(self, changed: dict[str, SourceChangedError]) -> Sequence[Receipt]:
        return ()


@pytest.mark.parametrize("fails", ["announce", "store b.bin"])
async def test_the_next_transfer_takes_all_announced_small_files(
    fails: str,
    hub: LocalHub,
    config: UploadConfig,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.transfers.test_interface.LateTransfer", AnnouncedLater)
    late = LateFactory(fails)
    routes, warnings, _ = await pushed(hub, config, write(FILES), monkeypatch, late, LfsFactory())

    assert routes == {"lfs"}
    assert warnings == ("Late failed, uploading with LFS instead: no room",)


async def test_an_unavailable_transfer_is_named_in_a_warning(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncpush.runtime.check_installed", lambda config: None)
    config = replace(config, transfer="xet")
    routes, warnings, recorded = await pushed(
        hub, config, write(FILES), monkeypatch, LateFactory("open"), LfsFactory()
    )

    assert routes == {"lfs"}
    assert warnings == ("using LFS although transfer='xet' was requested: it is not installed",)
    assert recorded.of(TransferChosen) == [TransferChosen("lfs", "it is not installed")]


async def test_a_failure_of_the_last_transfer_commits_nothing(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AsyncPushError, match="no transfer can store the files: no room"):
        await pushed(hub, config, write(FILES), monkeypatch, LateFactory("finish"))
    assert await download(hub, "me/m") == {}
