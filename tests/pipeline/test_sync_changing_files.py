"""Files that change while they are sent to a bucket: what it then holds is what they were at one
moment, and what is said of them is so."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import (
    PushOptions,
    SourceChangedError,
    SourceError,
    SyncError,
    SyncOptions,
    SyncResult,
    UploadConfig,
    Uploader,
    WatchOutcome,
)
from asyncpush.localhub import LocalHub
from asyncpush.pipeline.checkpoint_sets import MARKER
from asyncpush.transfers.xet import upload_commit
from tests.buckets import bytes_of
from tests.changes import (
    become_a_folder,
    check_trained,
    grow,
    replace,
    rewrite,
    shrink,
    training,
    vanish,
)
from tests.conftest import TOKEN, open_hub
from tests.faults import FaultLayer

pytestmark = pytest.mark.no_cover

Write = Callable[..., Path]
Change = Callable[[Path], None]

RUN = "hf://buckets/me/runs/run"
CHANGES: tuple[Change, ...] = (grow, shrink, rewrite, replace, vanish, become_a_folder)
LOG = b"step 1\n" * 2_000_000
"""More than what is copied: it goes in as the first bytes of the file itself."""

BEFORE, WHILE = "bucket-paths-info", "xorb"
"""Requests before a file is handed to hf_xet, and while it is sent."""


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, xet=True) as hub:
        yield hub


async def held(hub: LocalHub) -> dict[str, bytes]:
    return {path.removeprefix("run/"): data for path, data in (await bytes_of(hub)).items()}


@pytest.mark.parametrize("route", [BEFORE, WHILE])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_with_error_no_change_is_followed(
    change: Change,
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    source = write({"a.bin": bytes(range(256)) * 999, "b.txt": b"b"})
    faults.hooks[route] = lambda: change(source / "a.bin")
    with pytest.raises(SourceChangedError, match=r"a\.bin"):
        await uploader.sync(source, RUN, SyncOptions(on_change="error"))
    assert await held(hub) == {}


SMALL = b"{}" * 60_000
FOLLOWED: dict[Change, bytes | None] = {
    grow: SMALL + b"x",
    shrink: SMALL[:-1],
    rewrite: b"\xff" + SMALL[1:],
    replace: SMALL,
    vanish: None,
}


@pytest.mark.parametrize("marker", [False, True], ids=["", "marked"])
@pytest.mark.parametrize("route", [BEFORE, WHILE])
@pytest.mark.parametrize("change", FOLLOWED, ids=lambda change: change.__name__)
async def test_a_small_changed_file_is_stored_as_it_is_now(
    change: Change,
    route: str,
    marker: bool,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    source = write({"state.json": SMALL, "w.bin": b"w" * 200_000})
    faults.hooks[route] = lambda: change(source / "state.json")
    if marker and FOLLOWED[change] is None:  # a set without it is not whole
        with pytest.raises(SourceChangedError, match="not whole"):
            await uploader.sync(source, RUN, SyncOptions(complete_marker=True))
        assert await held(hub) == {}
        return
    result = await uploader.sync(source, RUN, SyncOptions(complete_marker=marker))
    now = FOLLOWED[change]
    found = await held(hub)
    assert (found.pop(MARKER, None) is not None) is marker
    assert found == {
        "w.bin": b"w" * 200_000,
        **({} if now is None else {"state.json": now}),
    }
    assert result.verified
    assert any("state.json" in warning for warning in result.warnings)
    assert set(result.files_uploaded) == {f"run/{path}" for path in found}
    # What was said to be there is there: nothing is sent again.
    again = await uploader.sync(source, RUN, SyncOptions(complete_marker=marker))
    assert again.files_uploaded == ()


async def test_bytes_sent_before_a_change_count_as_transferred(
    tmp_path: Path, faults: FaultLayer, config: UploadConfig, write: Write
) -> None:
    received = 0

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal received
        if request.match_info.route.name in ("xorb", "shard"):
            received += request.content_length or 0
        return await handler(request)

    noise = random.Random(20)
    first, then = noise.randbytes(200_000), noise.randbytes(300_000)
    source = write({"state.bin": first, "w.bin": b"w"})

    def rewrite_it() -> None:
        (source / "state.bin").write_bytes(then)

    faults.hooks[WHILE] = rewrite_it
    async with (
        open_hub(tmp_path, faults, count, xet=True) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        result = await uploader.sync(source, RUN)
        assert await held(hub) == {"state.bin": then, "w.bin": b"w"}
    assert received > 500_000
    assert result.bytes_transferred == received


@pytest.mark.parametrize("route", [BEFORE, WHILE])
async def test_a_growing_large_log_is_stored_consistently(
    route: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"train.log": LOG, "b.txt": b"b"})
    faults.hooks[route] = lambda: grow(source / "train.log")
    result = await uploader.sync(source, RUN)
    assert (await held(hub))["train.log"] == LOG + b"x"
    assert any("train.log" in warning for warning in result.warnings)


@pytest.mark.parametrize("route", [BEFORE, WHILE])
@pytest.mark.parametrize("change", [rewrite, replace, shrink, vanish, become_a_folder])
async def test_a_large_file_that_changes_is_an_error(
    change: Change,
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    source = write({"model.bin": LOG, "b.txt": b"b"})
    faults.hooks[route] = lambda: change(source / "model.bin")
    with pytest.raises(SourceChangedError, match=r"model\.bin"):
        await uploader.sync(source, RUN)
    assert await held(hub) == {}


async def test_a_file_that_changes_while_it_is_compared_is_sent(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """The bucket holds as many bytes already, so that both hashes are compared first."""
    source = write({"a.txt": b"1" * 5000, "b.txt": b"b"})
    await uploader.sync(source, RUN)
    faults.hooks[BEFORE] = lambda: rewrite(source / "a.txt")
    result = await uploader.sync(source, RUN)
    assert result.files_uploaded == ("run/a.txt",)
    assert result.files_unchanged == ("run/b.txt",)
    assert await held(hub) == {"a.txt": b"\xff" + b"1" * 4999, "b.txt": b"b"}


async def test_a_deleted_file_stays_until_the_next_sync(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """A folder that vanishes under a sync, such as a network drive, empties no bucket."""
    options = SyncOptions(delete=True)
    source = write({"a.txt": b"a", "b.txt": b"b"})
    await uploader.sync(source, RUN, options)
    (source / "a.txt").write_bytes(b"new")
    (source / "b.txt").write_bytes(b"new")
    faults.hooks[BEFORE] = lambda: vanish(source / "a.txt")
    result = await uploader.sync(source, RUN, options)
    assert result.files_deleted == ()
    assert result.files_uploaded == ("run/b.txt",)
    found = await held(hub)
    assert (found["a.txt"], found["b.txt"]) == (b"a", b"new")
    result = await uploader.sync(source, RUN, options)
    assert result.files_deleted == ("run/a.txt",)

    (source / "b.txt").write_bytes(b"newer")
    faults.hooks[BEFORE] = lambda: vanish(source / "b.txt")
    with pytest.raises(SourceError, match="every file of the source was removed"):
        await uploader.sync(source, RUN, options)
    assert (await held(hub))["b.txt"] == b"new"


async def test_files_sent_together_are_not_taken_for_each_other(
    uploader: Uploader, hub: LocalHub, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf_xet fails on the first file that is gone, for all that were to be sent with it."""
    source = write({f"{name}.txt": name for name in "abcd"})
    check = upload_commit.check_unchanged

    def then_change(files: Any, changed: Any = None, **how: Any) -> None:
        check(files, changed, **how)
        if (source / "b.txt").exists():
            grow(source / "a.txt")
            vanish(source / "b.txt")
            vanish(source / "d.txt")

    monkeypatch.setattr(upload_commit, "check_unchanged", then_change)
    result = await uploader.sync(source, RUN)
    assert await held(hub) == {"a.txt": b"ax", "c.txt": b"c"}
    told = [re.search(r"(\w)\.txt' (grew|was removed) .*: (.*)", each) for each in result.warnings]
    assert [match and match.groups() for match in told] == [
        ("a", "grew", "read again"),
        ("b", "was removed", "left out"),
        ("d", "was removed", "left out"),
    ]


async def test_a_set_that_loses_a_file_is_not_marked(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """As when a trainer removes an old checkpoint while it is being sent."""
    whole = SyncOptions(delete=True, complete_marker=True)
    source = write({"a.txt": b"a", "b.txt": b"b"})
    await uploader.sync(source, RUN, whole)
    before = await held(hub)
    (source / "a.txt").write_bytes(b"new")
    (source / "b.txt").write_bytes(b"new")
    faults.hooks[BEFORE] = lambda: vanish(source / "a.txt")
    with pytest.raises(SourceChangedError, match=r"not whole without run/a\.txt"):
        await uploader.sync(source, RUN, whole)
    assert await held(hub) == before


async def test_a_changed_file_makes_no_stream_be_read_twice(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield LOG[: 1 << 20]

    source = write({"a.txt": b"a" * 1000})
    faults.hooks[BEFORE] = lambda: grow(source / "a.txt")
    await uploader.sync({"a.txt": source / "a.txt", "s.bin": stream()}, RUN)
    found = await held(hub)
    assert found["a.txt"] == b"a" * 1000 + b"x"
    assert found["s.bin"] == LOG[: 1 << 20] * 11


@pytest.mark.parametrize("limited", [False, True], ids=["", "limited"])
async def test_files_that_change_all_the_time_are_followed(
    limited: bool, config: UploadConfig, hub: LocalHub, tmp_path: Path
) -> None:
    source = tmp_path / "out"
    options = SyncOptions(complete_marker=True, ignore_patterns=".state")
    if limited:
        config = replaced(config, max_bandwidth=50 << 20)
    with training(source):
        (source / "w.bin").write_bytes(b"w" * 500_000)
        async with Uploader(TOKEN, hub.url, config) as uploader:
            for step in range(3):
                result = await uploader.sync(source, f"{RUN}/{step}", options)
                assert result.verified
    found = await held(hub)
    for step in range(3):
        names = ("log.txt", "state.json", "table.bin")
        check_trained(source, {name: found[f"{step}/{name}"] for name in names})


async def test_a_watch_syncs_a_growing_log(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"train.log": b"0", "old.txt": b"old"})
    outcomes: asyncio.Queue[WatchOutcome] = asyncio.Queue()
    mirror = SyncOptions(delete=True, complete_marker=True)
    faults.hooks[BEFORE] = lambda: grow(source / "train.log")
    async with uploader.watch(
        source, RUN, mirror, every=0.0, quiet_for=0.01, on_outcome=outcomes.put_nowait
    ) as watch:
        first = (await outcomes.get()).result
        assert isinstance(first, SyncResult)
        assert (first.verified, first.marker) == (True, f"run/{MARKER}")
        # What changed meanwhile may have gone with the first sync, or goes with the next.
        with anyio.fail_after(10):
            while (await held(hub)).get("train.log") != b"0x":
                await outcomes.get()
        (source / "old.txt").unlink()
        with anyio.fail_after(10):
            while "old.txt" in await held(hub):
                await outcomes.get()
        grow(source / "train.log")
    # A set that lost a file while it was sent was not marked, and was sent again.
    assert all(isinstance(error, SourceChangedError) for error in watch.failures)
    assert isinstance(watch.last_result, SyncResult)
    found = await held(hub)
    assert found.pop(MARKER)
    assert found == {"train.log": b"0xx"}


async def test_a_watch_continues_after_a_failed_sync(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.txt": b"a"})
    outcomes: asyncio.Queue[WatchOutcome] = asyncio.Queue()
    faults.add("bucket-batch", "nothing applied")
    async with uploader.watch(
        source, RUN, every=0.0, quiet_for=0.0, on_outcome=outcomes.put_nowait
    ) as watch:
        assert isinstance((await outcomes.get()).error, SyncError)
        assert (await outcomes.get()).error is None
    assert (len(watch.failures), watch.pushes) == (1, 1)
    assert await held(hub) == {"a.txt": b"a"}


async def test_a_watch_of_a_bucket_takes_sync_options(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="takes SyncOptions, not PushOptions"):
        uploader.watch(".", RUN, PushOptions())
