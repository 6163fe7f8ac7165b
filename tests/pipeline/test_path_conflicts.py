"""A file where the repo has a folder, or the reverse, is told before a byte moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import PushOptions, SourceError, UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.faults import KINDS, FaultLayer
from tests.reading import commits_of, download

Write = Callable[..., Path]


@pytest.fixture
async def repo(uploader: Uploader, faults: FaultLayer) -> str:
    await uploader.push_to_hub("me/m", {"weights": b"file", "logs/1/a": b"a", "logs/b": b"b"})
    faults.seen.clear()
    return "me/m"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("weights/model.bin", "'weights/model.bin' cannot be added: 'weights' is a file"),
        ("weights/deep/er.bin", "'weights/deep/er.bin' cannot be added: 'weights' is a file"),
        ("logs", "'logs' cannot be added: it is a folder"),
        ("logs/1", "'logs/1' cannot be added: it is a folder"),
    ],
)
async def test_a_path_conflict_is_reported_before_a_byte_moves(
    path: str, reason: str, repo: str, uploader: Uploader, faults: FaultLayer
) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        await uploader.push_to_hub(repo, {path: b"\0" * 1000, "other": b"o"})
    assert "delete_patterns" in str(caught.value)
    assert faults.seen["batch"] == faults.seen["commit"] == 0
    assert faults.seen["preupload"] <= 1  # beside the head


async def test_every_conflict_is_named(repo: str, uploader: Uploader) -> None:
    with pytest.raises(SourceError) as caught:
        await uploader.push_to_hub(repo, {"weights/a": b"", "logs": b"", "new/file": b""})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("files", "patterns"),
    [
        ({"weights/model.bin": b"\0w"}, "weights"),
        ({"logs": b"l"}, "logs/*"),
        ({"logs": b"l", "weights/a": b"a"}, ["logs/*", "weights"]),
    ],
)
async def test_deletions_of_the_same_push_make_room(
    files: dict[str, bytes],
    patterns: list[str] | str,
    repo: str,
    uploader: Uploader,
    hub: LocalHub,
) -> None:
    options = PushOptions(delete_patterns=patterns)
    result = await uploader.push_to_hub(repo, dict(files), options)
    assert result.verified
    held = await download(hub, repo)
    assert files.items() <= held.items()
    assert len(await commits_of(hub, repo)) == 3


async def test_deletions_that_leave_something_there_make_no_room(
    repo: str, uploader: Uploader
) -> None:
    with pytest.raises(SourceError, match="'logs' cannot be added"):
        await uploader.push_to_hub(repo, {"logs": b"l"}, PushOptions(delete_patterns="logs/b"))


async def test_a_concurrent_path_conflict_is_reported_clearly(
    repo: str, uploader: Uploader, faults: FaultLayer, hub: LocalHub
) -> None:
    path = "new/model.bin"
    stored = await uploader.upload_files(repo, {path: b"\0w"})
    await uploader.push_to_hub(repo, {"new": b"file"})
    with pytest.raises(SourceError, match="'new' is a file in the repo") as caught:
        await uploader.commit(repo, stored)
    assert caught.value.suggestion.endswith("; nothing was committed")


async def test_a_conflict_in_a_series_hides_no_commit(
    uploader: Uploader, config: UploadConfig, faults: FaultLayer, hub: LocalHub
) -> None:
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"old.txt": b"0"}, dev)

    async def theirs(
        layer: FaultLayer, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        async with Uploader(TOKEN, hub.url, config) as other:
            await other.push_to_hub("me/m", {"b.txt/x": b"theirs"}, dev)
        return await handler(request)

    KINDS["theirs first"] = theirs
    try:
        faults.add("commit", "theirs first", nth=faults.seen["commit"] + 2)
        options = replace(dev, max_files_per_commit=1)
        with pytest.raises(SourceError, match=r"'b\.txt' cannot be added") as caught:
            await uploader.push_to_hub("me/m", {"a.txt": b"a", "b.txt": b"b"}, options)
    finally:
        del KINDS["theirs first"]
    assert caught.value.suggestion.endswith("; 1 of the files are already on dev")
