"""Files that change between hashing and sending are never committed (invariant 6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncpush import SourceChangedError, Uploader
from asyncpush.localhub import LocalHub
from tests.changes import become_a_folder, grow, replace, rewrite, shrink, vanish
from tests.conftest import PART_SIZE
from tests.faults import FaultLayer
from tests.reading import commits_of, download

pytestmark = pytest.mark.no_cover

Write = Callable[..., Path]


CHANGES = (grow, shrink, rewrite, replace, vanish, become_a_folder)


@pytest.mark.no_cover
@pytest.mark.parametrize("route", ["validate-yaml", "preupload", "batch", "part", "complete"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_large_file_that_changes_is_not_committed(
    change: Callable[[Path], None],
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    source = write({"README.md": b"# card\n", "model.bin": b"\0" * (3 * PART_SIZE)})
    faults.hooks[route] = lambda: change(source / "model.bin")
    # once the answers to its parts are in, a change comes too late to matter for the bytes sent,
    # yet the file is no longer what the user sees: that is told as well
    with pytest.raises(SourceChangedError, match=r"model\.bin"):
        await uploader.push_to_hub("me/m", source)
    if faults.seen["create"]:
        assert len(await commits_of(hub, "me/m")) == 1


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_small_file_that_changes_before_the_commit_is_not_committed(
    change: Callable[[Path], None],
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    """Inline files are read twice: for their hash, and for the commit."""
    source = write({"config.json": b"{}", "model.bin": b"\0" * PART_SIZE})
    faults.hooks["batch"] = lambda: change(source / "config.json")
    with pytest.raises(SourceChangedError, match=r"config\.json"):
        await uploader.push_to_hub("me/m", source)
    assert len(await commits_of(hub, "me/m")) == 1


async def test_a_push_of_a_folder_that_settles_is_right_the_next_time(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """The everyday case: a checkpoint is written to while it is pushed."""
    source = write({"model.bin": b"\0" * (2 * PART_SIZE), "step.txt": b"1"})
    faults.hooks["part"] = lambda: rewrite(source / "model.bin")
    with pytest.raises(SourceChangedError) as caught:
        await uploader.push_to_hub("me/m", source)
    assert "push again" in caught.value.suggestion

    await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == {
        "model.bin": b"\xff" + b"\0" * (2 * PART_SIZE - 1),
        "step.txt": b"1",
    }


async def test_new_files_that_appear_meanwhile_are_left_for_the_next_push(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.txt": b"a"})

    def appear() -> None:
        (source / "late.txt").write_text("late")

    faults.hooks["preupload"] = appear
    result = await uploader.push_to_hub("me/m", source)
    assert result.files_uploaded == ("a.txt",)
