"""Files that change while they are pushed: what is committed is what they were at one moment
(invariant 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from asyncpush import Push, PushOptions, Receipt, SourceChangedError, Uploader
from asyncpush.localhub import LocalHub
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
from tests.conftest import PART_SIZE
from tests.faults import FaultLayer
from tests.reading import commits_of, download

pytestmark = pytest.mark.no_cover

Write = Callable[..., Path]


CHANGES = (grow, shrink, rewrite, replace, vanish, become_a_folder)
STRICT = PushOptions(on_change="error")


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
        await uploader.push_to_hub("me/m", source, STRICT if change is grow else PushOptions())
    if faults.seen["create"]:
        assert len(await commits_of(hub, "me/m")) == 1


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_small_file_changed_before_the_commit_is_refused(
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
        await uploader.push_to_hub("me/m", source, STRICT)
    assert len(await commits_of(hub, "me/m")) == 1


async def test_a_settled_folder_is_pushed_correctly(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """The everyday case: a checkpoint is written to while it is pushed."""
    size = 3 * PART_SIZE
    source = write({"model.bin": b"\0" * size, "step.txt": b"1"})
    faults.hooks["part"] = lambda: rewrite(source / "model.bin")
    with pytest.raises(SourceChangedError) as caught:
        await uploader.push_to_hub("me/m", source)
    assert "try again" in caught.value.suggestion

    await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == {
        "model.bin": b"\xff" + b"\0" * (size - 1),
        "step.txt": b"1",
    }


async def test_new_files_during_a_push_wait_for_the_next(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.txt": b"a"})

    def appear() -> None:
        (source / "late.txt").write_text("late")

    faults.hooks["preupload"] = appear
    result = await uploader.push_to_hub("me/m", source)
    assert result.files_uploaded == ("a.txt",)


LOG = b"step 1\n" * 2_000_000
"""More than what is copied: it goes in as the first bytes of the file itself."""


@pytest.mark.parametrize("route", ["validate-yaml", "preupload", "batch", "part", "complete"])
async def test_a_growing_large_log_is_committed_consistently(
    route: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"README.md": b"# card\n", "train.log": LOG})
    faults.hooks[route] = lambda: grow(source / "train.log")
    result = await uploader.push_to_hub("me/m", source)
    assert (await download(hub, "me/m"))["train.log"] in (LOG, LOG + b"x")
    assert any("train.log" in warning and "grew" in warning for warning in result.warnings)
    assert len(await commits_of(hub, "me/m")) == 2


@pytest.mark.parametrize("route", ["part", "complete"])
async def test_a_log_rewritten_while_growing_is_not_mixed(
    route: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """Same inode, more bytes: only the hash of its first bytes shows that it did not just grow."""
    source = write({"train.log": LOG})

    def rewrite_and_grow() -> None:
        rewrite(source / "train.log")
        grow(source / "train.log")

    faults.hooks[route] = rewrite_and_grow
    await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == {"train.log": b"\xff" + LOG[1:] + b"x"}


async def test_a_large_file_that_was_only_touched_is_committed(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"model.bin": LOG})
    faults.hooks["part"] = (source / "model.bin").touch
    await uploader.push_to_hub("me/m", source)
    assert await download(hub, "me/m") == {"model.bin": LOG}


SMALL: dict[Callable[[Path], None], tuple[bytes, ...]] = {
    grow: (b"{}x", b"{}"),
    shrink: (b"{",),
    rewrite: (b"\xff}",),
    replace: (b"{}",),
}
"""What becomes of the two bytes of a small file, and which contents are right to commit."""


@pytest.mark.parametrize("change", SMALL, ids=lambda change: change.__name__)
@pytest.mark.parametrize("route", ["preupload", "batch", "commit"])
async def test_a_changing_small_file_is_committed_consistently(
    change: Callable[[Path], None],
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    faults: FaultLayer,
    write: Write,
) -> None:
    """By LFS (`state.bin`) and within the commit (`config.json`)."""
    source = write({"config.json": b"{}", "state.bin": b"{}", "model.bin": b"\0" * PART_SIZE})

    def both() -> None:
        change(source / "config.json")
        change(source / "state.bin")

    faults.hooks[route] = both
    result = await uploader.push_to_hub("me/m", source)
    held = await download(hub, "me/m")
    right = SMALL[change] if route != "commit" else (b"{}", *SMALL[change])
    assert held["config.json"] in right
    assert held["state.bin"] in (b"{}", *right)  # stored before the change was made
    assert len(await commits_of(hub, "me/m")) == 2
    assert result.verified


async def test_a_deleted_file_is_left_out_with_a_warning(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.txt": b"a", "trainer_state.json.tmp": b"{}"})
    faults.hooks["preupload"] = (source / "trainer_state.json.tmp").unlink
    result = await uploader.push_to_hub("me/m", source)
    assert result.files_uploaded == ("a.txt",)
    assert any("trainer_state.json.tmp" in warning for warning in result.warnings)
    assert await download(hub, "me/m") == {"a.txt": b"a"}


async def test_a_file_that_was_named_is_never_left_out(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    source = write({"a.txt": b"a"}) / "a.txt"
    faults.hooks["preupload"] = source.unlink
    with pytest.raises(SourceChangedError, match=r"a\.txt.* was removed"):
        await uploader.push_to_hub("me/m", {"a.txt": source})


async def pushed(up: Uploader, source: Path) -> None:
    await up.push_to_hub("me/m", source)


async def pushed_with_others(up: Uploader, source: Path) -> None:
    await up.push_many([Push("me/m", source), Push("me/other", {"a": b"a"})])


async def pushed_in_pull_request(up: Uploader, source: Path) -> None:
    await up.push_to_hub("me/m", source, PushOptions(create_pr=True))


async def pushed_in_chain(up: Uploader, source: Path) -> None:
    await up.push_to_hub("me/m", source, PushOptions(max_files_per_commit=2))


async def pushed_by_receipts(up: Uploader, source: Path) -> None:
    receipts = await up.upload_files("me/m", source)
    await up.commit("me/m", [Receipt.from_json(receipt.to_json()) for receipt in receipts])


@pytest.mark.parametrize(
    "way",
    [pushed, pushed_with_others, pushed_in_pull_request, pushed_in_chain, pushed_by_receipts],
    ids=lambda way: way.__name__,
)
async def test_constantly_changing_files_are_followed(
    way: Callable[[Uploader, Path], Awaitable[None]],
    uploader: Uploader,
    hub: LocalHub,
    tmp_path: Path,
) -> None:
    source = tmp_path / "out"
    with training(source):
        await way(uploader, source)
    revision = "refs/pr/1" if way is pushed_in_pull_request else "main"
    check_trained(source, await download(hub, "me/m", revision=revision))
