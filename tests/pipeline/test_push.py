"""Pushes over a real socket to the embedded Hub: what goes up is what is there."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import random
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

import asyncpush
from asyncpush import (
    AsyncPushError,
    AuthError,
    CommitConflictError,
    HubError,
    InvalidRepoIdError,
    MissingTokenError,
    Push,
    PushOptions,
    RepoNotFoundError,
    SourceChangedError,
    SourceError,
    UploadConfig,
    Uploader,
    UploadProgress,
    VerificationError,
)
from asyncpush.concurrency import threads as threads_module
from asyncpush.concurrency.threads import Lane, PushThreads
from asyncpush.events import Committed, Emitter, FileHashed, Record
from asyncpush.journal import tables
from asyncpush.listeners.aggregator import ProgressAggregator
from asyncpush.localhub import LocalHub
from asyncpush.models import FileSource
from asyncpush.pipeline import changes as changes_module
from asyncpush.pipeline import changes as travelling
from asyncpush.pipeline import hashing
from asyncpush.pipeline import push as push_module
from asyncpush.pipeline.hashing import Hasher
from asyncpush.protocol import commits as commits_module
from asyncpush.sources import read_again
from asyncpush.transfers.inline import git_blob_oid
from tests.conftest import PART_SIZE, TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of, head_of

Write = Callable[..., Path]

MODEL = {
    "config.json": '{"hidden_size": 8}',
    "README.md": "---\nlicense: apache-2.0\n---\n# A model\n",
    "model.safetensors": random.Random(1).randbytes(2 * PART_SIZE + 1),
    "empty.txt": "",
}


async def test_full_upload_flow(uploader: Uploader, hub: LocalHub, write: Write) -> None:
    """REQ-001, REQ-006, REQ-008: create, preupload, LFS, one commit, verified."""
    result = await uploader.push_to_hub("me/model", write(MODEL))

    assert result.verified
    assert sorted(result.files_uploaded) == sorted(MODEL)
    assert result.repo_url == f"{hub.url}/me/model"
    assert await head_of(hub, "me/model") == result.commit_sha
    assert await download(hub, "me/model", MODEL) == {
        name: content.encode() if isinstance(content, str) else content
        for name, content in MODEL.items()
    }
    assert len(await commits_of(hub, "me/model")) == 2  # the Hub's first one, and ours


async def test_large_file_chunked(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """REQ-002: a file over 10 MB goes up in parts."""
    content = os.urandom(11_000_000)
    await uploader.push_to_hub("me/model", write({"model.bin": content}))

    assert faults.seen["part"] == 3
    assert faults.seen["complete"] == 1
    assert await download(hub, "me/model", ["model.bin"]) == {"model.bin": content}


async def test_upload_with_model_card(uploader: Uploader, hub: LocalHub, write: Write) -> None:
    """REQ-008: the card is in the same commit as the model."""
    source = write({"model.bin": b"\0" * 100})
    card = "---\nlicense: mit\n---\n# Mine\n"
    await uploader.push_to_hub("me/model", source, PushOptions(model_card=card))

    assert await download(hub, "me/model", ["README.md"]) == {"README.md": card.encode()}
    assert len(await commits_of(hub, "me/model")) == 2


async def test_upload_requires_token(hub: LocalHub, write: Write, config: UploadConfig) -> None:
    with pytest.raises(MissingTokenError, match="HF_TOKEN"):
        await asyncpush.push_to_hub("me/model", write(MODEL), endpoint=hub.url, config=config)


@pytest.mark.parametrize(
    "repo_id", ["model", "a/b/c", "me/", "/m", "me/mo del", "me/-m", "me/m.git", "me/..", "me/a--b"]
)
async def test_upload_validates_repo_id(repo_id: str, uploader: Uploader) -> None:
    with pytest.raises(InvalidRepoIdError, match="namespace/name"):
        await uploader.push_to_hub(repo_id, {"a": b"x"})


async def test_upload_creates_repo_if_needed(uploader: Uploader, faults: FaultLayer) -> None:
    await uploader.push_to_hub("me/model", {"a.txt": b"1"})
    await uploader.push_to_hub("me/model", {"a.txt": b"2"})

    assert faults.seen["create"] == 1


async def test_a_missing_repo_without_create_repo_is_an_error(uploader: Uploader) -> None:
    with pytest.raises(RepoNotFoundError, match="create_repo=True"):
        await uploader.push_to_hub("me/model", {"a.txt": b"1"}, PushOptions(create_repo=False))


async def test_upload_progress_callback(hub: LocalHub, config: UploadConfig, write: Write) -> None:
    """REQ-003: snapshots for files of every size, never falling, full at the end."""
    seen: list[UploadProgress] = []
    config = replace(config, progress_callback=seen.append)
    source = write(MODEL)
    await asyncpush.push_to_hub("me/model", source, token=TOKEN, endpoint=hub.url, config=config)

    total = sum(path.stat().st_size for path in source.iterdir())
    sent = [progress.bytes_sent for progress in seen]
    assert sent == sorted(sent)
    assert (seen[-1].bytes_sent, seen[-1].total_bytes) == (total, total)
    assert (seen[-1].files_completed, seen[-1].total_files) == (len(MODEL), len(MODEL))
    assert seen[-1].phase == "done"


async def test_upload_retry_on_network_error(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """REQ-004: a broken connection is a part sent again, not a failed push."""
    faults.add("part", "reset mid-body", nth=2)
    await uploader.push_to_hub("me/model", write(MODEL))

    assert faults.seen["part"] == 4
    assert (await download(hub, "me/model", ["model.safetensors"]))["model.safetensors"] == MODEL[
        "model.safetensors"
    ]


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
async def test_upload_verifies_success(
    repo_type: str, uploader: Uploader, faults: FaultLayer
) -> None:
    """REQ-006, REQ-007: a Hub that answers 200 and applies nothing is found out."""
    options = PushOptions(repo_type=repo_type)  # type: ignore[arg-type]
    await uploader.push_to_hub("me/repo", {"a.txt": b"1"}, options)
    faults.add("commit", "nothing applied", nth=2)
    with pytest.raises((VerificationError, HubError)):
        await uploader.push_to_hub("me/repo", {"a.txt": b"2"}, options)


async def test_nothing_changed_makes_no_commit(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write(MODEL)
    first = await uploader.push_to_hub("me/model", source)
    parts = faults.seen["part"]
    second = await uploader.push_to_hub("me/model", source)

    assert second.commit_sha == first.commit_sha
    assert second.files_uploaded == ()
    assert sorted(second.files_unchanged) == sorted(MODEL)
    assert second.bytes_transferred == 0
    assert faults.seen["commit"] == 1
    assert faults.seen["part"] == parts


async def test_identical_files_are_sent_once(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    content = os.urandom(PART_SIZE + 1)
    result = await uploader.push_to_hub("me/model", write({"a.bin": content, "b.bin": content}))

    assert faults.seen["part"] == 2
    assert result.bytes_transferred == len(content)
    assert result.bytes_deduplicated == len(content)
    assert await download(hub, "me/model", ["a.bin", "b.bin"]) == {
        "a.bin": content,
        "b.bin": content,
    }


async def test_ignored_files_are_reported_and_not_committed(
    uploader: Uploader, hub: LocalHub
) -> None:
    result = await uploader.push_to_hub(
        "me/model", {".gitignore": b"*.log\n", "train.log": b"x", "a.txt": b"y"}
    )
    assert result.files_ignored == ("train.log",)
    assert "train.log" not in await files_of(hub, "me/model")
    assert result.warnings == ()


@pytest.mark.parametrize("how", ["push", "dry run", "store"])
async def test_a_push_of_ignored_files_alone_warns(
    uploader: Uploader, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    await uploader.push_to_hub("me/model", {"README.md": b"# There"})
    source = {".gitignore": b"*\n", "a.bin": b"\0" * 100}
    if how == "store":
        assert await uploader.upload_files("me/model", source) == []
    else:
        await uploader.push_to_hub("me/model", source, PushOptions(dry_run=how == "dry run"))

    assert "nothing to upload: all 2 files are ignored by a .gitignore" in caplog.text


async def test_files_are_ignored_also_where_the_hub_shows_none(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("paths-info", "422 FastAPI", times=99)
    files = {".gitignore": b"*.log\n", "train.log": b"x"}
    result = await uploader.push_to_hub("me/m", files, PushOptions(verify=False))
    assert result.files_ignored == ("train.log",)


async def test_files_ignored_as_existing_are_unchanged(
    config: UploadConfig, tmp_path: Path
) -> None:
    """KohakuHub says `shouldIgnore` of each file that it holds already, and names no oid."""
    files = {"a.txt": b"1", "b.txt": b"2", "c.bin": b"\0", "d.txt": b"4"}

    @web.middleware
    async def ignoring(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.match_info.route.name == "preupload" and pushed:
            answer = orjson.loads(response.body)  # type: ignore[attr-defined]
            for row in answer["files"]:
                row.update(oid=None, shouldIgnore=row["path"] != "d.txt")
            return web.json_response(answer)
        return response

    pushed = False
    async with (
        open_hub(tmp_path / "other", FaultLayer(), ignoring) as other,
        Uploader(TOKEN, other.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/m", files)
        pushed = True
        changed = files | {"b.txt": b"3", "d.txt": b"5"}
        result = await uploader.push_to_hub("me/m", changed)
        assert result.files_unchanged == ("a.txt", "c.bin")
        assert result.files_ignored == ("b.txt",)
        assert result.files_uploaded == ("d.txt",)


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
async def test_every_source_lands_under_its_name(
    repo_type: str, uploader: Uploader, hub: LocalHub, tmp_path: Path
) -> None:
    on_disk = tmp_path / "weights.bin"
    on_disk.write_bytes(b"\0disk")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"\0stream"

    with on_disk.open("rb") as file:
        await uploader.push_to_hub(
            "org/repo",
            {
                "a/path.bin": on_disk,
                "a/bytes.txt": b"bytes",
                "a/file.bin": file,
                "a\\io.bin": io.BytesIO(b"\0io"),
                "a/stream.bin": stream(),
            },
            PushOptions(repo_type=repo_type, path_in_repo="below"),  # type: ignore[arg-type]
        )
    found = await download(hub, "org/repo", None, repo_type)
    if repo_type == "space":
        del found["README.md"]  # with which each Space begins
    assert found == {
        "below/a/path.bin": b"\0disk",
        "below/a/bytes.txt": b"bytes",
        "below/a/file.bin": b"\0disk",
        "below/a/io.bin": b"\0io",
        "below/a/stream.bin": b"\0stream" * 3,
    }


async def test_one_early_error_names_all_bad_files(
    uploader: Uploader, faults: FaultLayer, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        await uploader.push_to_hub(
            "me/model", {"../up": b"", ".git/config": b"", "gone": tmp_path / "gone"}
        )
    assert len(caught.value.problems) == 3
    assert not faults.seen


async def test_delete_patterns_remove_what_the_source_does_not_hold(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.push_to_hub("me/m", {"old/1.txt": b"1", "old/2.txt": b"2", "keep.md": b"k"})
    result = await uploader.push_to_hub(
        "me/m", {"old/2.txt": b"2", "new.txt": b"n"}, PushOptions(delete_patterns=["old/*"])
    )
    assert result.files_deleted == ("old/1.txt",)
    assert await files_of(hub, "me/m") == {".gitattributes", "old/2.txt", "new.txt", "keep.md"}


async def test_delete_patterns_keep_skipped_files_of_the_source(
    uploader: Uploader, hub: LocalHub, write: Callable[..., Path]
) -> None:
    await uploader.push_to_hub("me/m", {"a": b"a", "data/x": b"1", "data2": b"2"})
    folder = write({"a": b"a"}, "source")
    (folder / "data").symlink_to(write({"x": b"1"}, "elsewhere"))
    result = await uploader.push_to_hub("me/m", folder, PushOptions(delete_patterns="*"))
    assert result.files_deleted == ("data2",)
    assert any("link to a folder" in warning for warning in result.warnings)


@pytest.mark.parametrize("folder", ["./", "", "ckpt\\1", "ckpt/1/"])
async def test_delete_patterns_look_where_the_source_lands(
    folder: str, uploader: Uploader, hub: LocalHub
) -> None:
    """However the folder is written."""
    below = folder.replace("\\", "/").strip("./")
    prefix = f"{below}/" if below else ""
    await uploader.push_to_hub("me/m", {f"{prefix}old.txt": b"1"})
    options = PushOptions(path_in_repo=folder, delete_patterns="old.txt")
    result = await uploader.push_to_hub("me/m", {"new.txt": b"2"}, options)
    assert result.files_deleted == (f"{prefix}old.txt",)
    assert await files_of(hub, "me/m") == {".gitattributes", f"{prefix}new.txt"}


async def test_a_branch_is_created_only_when_asked_for(uploader: Uploader, hub: LocalHub) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    with pytest.raises(HubError, match="--create-branch"):
        await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(revision="dev/x"))
    result = await uploader.push_to_hub(
        "me/m", {"a.txt": b"2"}, PushOptions(revision="dev/x", create_branch=True)
    )
    assert await head_of(hub, "me/m", "dev/x") == result.commit_sha
    assert await download(hub, "me/m", ["a.txt"]) == {"a.txt": b"1"}


async def test_a_pull_request_leaves_the_branch_alone(uploader: Uploader, hub: LocalHub) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    result = await uploader.push_to_hub(
        "me/m",
        {"a.txt": b"2", "big.bin": os.urandom(PART_SIZE + 1)},
        PushOptions(create_pr=True, commit_description="better"),
    )
    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    assert await head_of(hub, "me/m") == first.commit_sha
    assert await head_of(hub, "me/m", "refs/pr/1") == result.commit_sha


async def test_an_outdated_pinned_parent_is_a_conflict(uploader: Uploader, hub: LocalHub) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"})
    with pytest.raises(CommitConflictError):
        await uploader.push_to_hub(
            "me/m", {"a.txt": b"3"}, PushOptions(parent_commit=first.commit_sha)
        )
    assert await download(hub, "me/m", ["a.txt"]) == {"a.txt": b"2"}


async def test_a_dry_run_changes_nothing(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1", "gone.txt": b"x", "b.txt": b"b"})
    faults.seen.clear()
    result = await uploader.push_to_hub(
        "me/m",
        {
            "a.txt": b"2",
            "b.txt": b"b",
            "big.bin": b"\0" * 1000,
            ".gitignore": b"*.log",
            "x.log": b"",
        },
        PushOptions(dry_run=True, delete_patterns="*.txt"),
    )
    assert {file.path_in_repo: file.action for file in result.plan} == {
        "a.txt": "inline",
        "b.txt": "unchanged",
        "big.bin": "lfs",
        "x.log": "ignored",
        ".gitignore": "inline",
        "gone.txt": "delete",
    }
    assert not {"create", "batch", "part", "commit"} & set(faults.seen)
    assert await head_of(hub, "me/m") == first.commit_sha


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (PushOptions(revision="dev"), "no branch 'dev': create_branch=True"),
        (PushOptions(parent_commit="0" * 40), "no commit to pin"),
    ],
)
async def test_impossible_options_create_no_repo(
    options: PushOptions, advice: str, dry_run: bool, uploader: Uploader, faults: FaultLayer
) -> None:
    with pytest.raises(RepoNotFoundError, match=advice):
        await uploader.push_to_hub("me/new", {"a": b"1"}, replace(options, dry_run=dry_run))
    assert faults.seen["create"] == 0


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("kind", ["tag", "refs/tags", "commit", "short", "HEAD"])
async def test_a_revision_that_is_no_branch_is_refused_first(
    kind: str, dry_run: bool, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    await uploader.push_to_hub("me/other", {"a.txt": b"2"})
    receipts = await uploader.upload_files("me/m", {"b.txt": b"2"})
    await tag(hub, "me/m", "v1")
    revision = {
        "tag": "v1",
        "refs/tags": "refs/tags/v1",
        "commit": first.commit_sha,
        "short": first.commit_sha[:7],
        "HEAD": "HEAD",
    }[kind]
    options = PushOptions(revision=revision, dry_run=dry_run)
    faults.seen.clear()
    for work in (
        uploader.push_to_hub("me/m", {"big.bin": b"\0" * 1000}, options),
        uploader.push_to_hub("me/m", {"b.txt": b"2"}, replace(options, create_branch=True)),
        uploader.commit("me/m", receipts, options),
        uploader.copy("me/other", "me/m", options),
    ):
        with pytest.raises(HubError, match=f"revision '{revision}' is .*, not a branch"):
            await work
    assert not {"batch", "part", "commit", "branch-create"} & set(faults.seen)
    report = await uploader.audit("me/m", {"a.txt": b"1"}, PushOptions(revision=revision))
    assert report.exact


async def test_a_branch_of_a_tags_name_can_be_pushed_to(uploader: Uploader, hub: LocalHub) -> None:
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"a.txt": b"1"}, dev)
    await tag(hub, "me/m", "dev")
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, dev)
    assert result.files_uploaded == ("a.txt",)


async def test_a_hub_that_lists_no_refs_is_pushed_to(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("refs", "404", times=99)
    dev = PushOptions(revision="dev", create_branch=True)
    await uploader.push_to_hub("me/m", {"a.txt": b"1"}, dev)
    assert (await uploader.push_to_hub("me/m", {"a.txt": b"2"}, dev)).verified


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("name", ["f" * 40, "refs/convert/parquet"])
async def test_a_branch_that_cannot_be_created_is_named(
    name: str, dry_run: bool, uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    options = PushOptions(revision=name, create_branch=True, dry_run=dry_run)
    with pytest.raises(HubError, match=f"no branch can be created with the name '{name}'"):
        await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert faults.seen["branch-create"] == 0


async def tag(hub: LocalHub, repo_id: str, name: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {hub.token}"}) as session,
        session.post(f"{hub.url}/api/models/{repo_id}/tag/main", json={"tag": name}) as answer,
    ):
        assert answer.status == 201


async def test_a_dry_run_fails_where_the_push_would(uploader: Uploader) -> None:
    await uploader.push_to_hub("me/model", {"a": b"1"})
    await uploader.push_to_hub("me/other", {"a/b": b"2"})
    below_a_file = await uploader.upload_files("me/other", {"a/b": b"2"})
    dry = PushOptions(dry_run=True)
    pinned = replace(dry, parent_commit="0" * 40)
    for options, error in ((pinned, CommitConflictError), (dry, SourceError)):
        for planned in (
            uploader.push_to_hub("me/model", {"a/b": b"2"}, options),
            uploader.copy("me/other", "me/model", options),
            uploader.commit("me/model", below_a_file, options),
        ):
            with pytest.raises(error, match=r"not at the pinned parent|'a' is a file in the repo"):
                await planned


async def test_a_dry_run_on_a_missing_repo_creates_none(
    uploader: Uploader, faults: FaultLayer
) -> None:
    result = await uploader.push_to_hub("me/new", {"a.txt": b"1"}, PushOptions(dry_run=True))
    assert [file.action for file in result.plan] == ["inline"]
    assert "would be created" in result.warnings[0]
    assert not faults.seen["create"]


async def test_wrong_card_metadata_creates_no_repo(uploader: Uploader, faults: FaultLayer) -> None:
    with pytest.raises(SourceError, match="metadata"):
        await uploader.push_to_hub("me/m", {"README.md": b"---\nlicense: [1\n---\n"})
    assert not faults.seen["create"]
    assert not faults.seen["commit"]


async def test_the_head_is_looked_at_while_the_card_is_checked(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("validate-yaml", "stall before reading")
    faults.hooks["revision"] = faults.released.set
    async with asyncio.timeout(20):
        await uploader.push_to_hub("me/m", {"README.md": b"---\nlicense: mit\n---\n"})
    assert faults.stalled.is_set()


async def test_warnings_about_the_card_are_in_the_result(uploader: Uploader) -> None:
    result = await uploader.push_to_hub("me/m", {"README.md": b"# no metadata\n"})
    assert any("README.md" in warning for warning in result.warnings)


@pytest.mark.parametrize("kind", ["404", "405", "501"])
async def test_a_hub_that_does_not_check_cards_is_pushed_to(
    kind: str, uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("validate-yaml", kind)
    result = await uploader.push_to_hub("me/m", {"README.md": b"---\nlicense: mit\n---\n"})
    assert result.warnings == (
        f"README.md: this Hub does not check metadata before a push (HTTP {kind})",
    )


async def test_a_wrong_token_is_an_auth_error(hub: LocalHub, config: UploadConfig) -> None:
    with pytest.raises(AuthError, match="create a new one in your settings on http://127"):
        await asyncpush.push_to_hub(
            "me/m", {"a": b"1"}, token="hf_wrong", endpoint=hub.url, config=config
        )


async def test_progress_can_be_iterated(uploader: Uploader, write: Write) -> None:
    handle = uploader.start_push("me/m", write(MODEL))
    snapshots = [progress async for progress in handle]
    result = await handle

    assert result.verified
    assert handle.done()
    assert snapshots[-1].phase == "done"


async def test_a_cancelled_push_commits_nothing(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "stall before reading", times=99)
    handle = uploader.start_push("me/m", write(MODEL))
    await faults.stalled.wait()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert len(await commits_of(hub, "me/m")) == 1


async def test_a_time_limit_is_for_the_whole_push(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    faults.add("part", "stall before reading", times=99)
    with pytest.raises(TimeoutError):
        await uploader.push_to_hub("me/m", write(MODEL), PushOptions(timeout=0.5))


async def test_receipts_are_committed_by_another_session(
    hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    async with Uploader(TOKEN, hub.url, config) as first:
        receipts = await first.upload_files("me/m", write(MODEL))
    assert len(await commits_of(hub, "me/m")) == 1

    text = asyncpush.receipts_to_json(receipts)
    async with Uploader(TOKEN, hub.url, config) as second:
        result = await second.commit("me/m", asyncpush.receipts_from_json(text))
    assert sorted(result.files_uploaded) == sorted(MODEL)
    assert await files_of(hub, "me/m") == {".gitattributes", *MODEL}


async def test_bytes_of_receipts_are_hashed_in_threads(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be 256 MiB of them: the loop is the user's."""
    threads: list[int] = []

    def noting(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noted(given: Any) -> Any:
            threads.append(threading.get_ident())
            return work(given)

        return noted

    monkeypatch.setattr(travelling, "read_again", noting(read_again))
    monkeypatch.setattr(travelling, "git_blob_oid", noting(git_blob_oid))
    stored = await uploader.upload_files("me/m", {"a.txt": b"1"})
    await uploader.commit("me/m", stored)
    assert len(threads) == 3  # read, and hashed on each side
    assert threading.get_ident() not in threads


async def test_work_for_many_files_runs_in_threads(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loop turn costs may not depend on how many files a push has."""
    in_loop: list[str] = []

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                in_loop.append(name)
            return real(*args, **named)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(threads_module, "FEW", 0)
    watched(push_module, "additions")
    watched(push_module, "check_limits")
    watched(push_module, "same")
    watched(push_module, "UploadResult")
    watched(changes_module, "select")
    watched(changes_module, "_done")
    watched(commits_module, "payload_size")
    await uploader.push_to_hub("me/m", {"a.txt": b"a", "b.txt": b"b"})
    await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(delete_patterns="*"))
    receipts = await uploader.upload_files("me/m", {"c.txt": b"c"})
    await uploader.commit("me/m", receipts)
    assert in_loop == []


async def test_a_small_push_goes_into_threads_for_what_may_wait_alone(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs 0.1 ms of CPU."""
    await uploader.push_to_hub("me/m", {"a.txt": b"a"})
    hops: list[object] = []
    submit = Lane.submit

    def noting(lane: Lane, work: Any, /, *args: Any, **named: Any) -> Any:
        hops.append(work)
        return submit(lane, work, *args, **named)

    monkeypatch.setattr(Lane, "submit", noting)
    await uploader.push_to_hub("me/m", {"a.txt": b"b"})
    assert len(hops) <= 9, hops


async def test_delete_patterns_apply_when_receipts_are_committed(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.push_to_hub("me/m", {"old.bin": b"1", "new.bin": b"1", "keep.txt": b"1"})
    receipts = await uploader.upload_files("me/m", {"new.bin": b"2"})
    options = PushOptions(delete_patterns="*.bin", dry_run=True)
    plan = (await uploader.commit("me/m", receipts, options)).plan
    assert {(file.path_in_repo, file.action) for file in plan} == {
        ("new.bin", "lfs"),
        ("old.bin", "delete"),
    }
    assert "old.bin" in await files_of(hub, "me/m")

    result = await uploader.commit("me/m", receipts, PushOptions(delete_patterns="*.bin"))
    assert result.files_deleted == ("old.bin",)
    assert await files_of(hub, "me/m") == {".gitattributes", "new.bin", "keep.txt"}


async def test_a_dry_run_stores_nothing(uploader: Uploader, faults: FaultLayer) -> None:
    with pytest.raises(ValueError, match="upload_files takes no dry_run"):
        await uploader.upload_files("me/m", {"a.bin": b"1"}, PushOptions(dry_run=True))
    assert not faults.seen


async def test_an_inline_receipt_needs_its_bytes(uploader: Uploader) -> None:
    receipts = await uploader.upload_files("me/m", {"a.txt": b"1"})
    with pytest.raises(SourceError, match="contain its bytes"):
        await uploader.commit("me/m", [replace(receipts[0], content=None)])


async def test_many_pushes_all_end_whatever_becomes_of_one(uploader: Uploader) -> None:
    pushes = [
        Push("me/a", {"a.txt": b"1"}),
        Push("me/b", {"../b": b"1"}),
        Push("me/c", {"c.txt": b"1"}, PushOptions(repo_type="dataset")),
    ]
    with pytest.RaisesGroup(SourceError) as caught:
        await uploader.push_many(pushes)
    assert "me/b" in str(caught.value)

    first, second, third = await uploader.push_many(pushes, return_exceptions=True)
    assert isinstance(second, SourceError)
    assert isinstance(first, asyncpush.UploadResult)
    assert isinstance(third, asyncpush.UploadResult)
    assert third.repo_url.endswith("/datasets/me/c")


async def cancelled_within() -> AsyncIterator[bytes]:
    """A stream that lets out the `CancelledError` of a task of its own."""
    yield b"begun"
    helper = asyncio.create_task(asyncio.sleep(60))
    helper.cancel()
    await helper


async def test_an_unrequested_cancellation_fails_its_push(
    uploader: Uploader,
) -> None:
    pushes = [
        Push("me/a", {"a.txt": b"1"}),
        Push("me/b", {"b.txt": cancelled_within()}),
        Push("me/c", {"c.txt": b"1"}),
    ]
    with pytest.RaisesGroup(SourceError):
        await uploader.push_many(pushes)

    with pytest.raises(SourceError, match=r"b\.txt.*CancelledError"):
        await uploader.push_to_hub("me/b", {"b.txt": cancelled_within()})


async def test_a_stray_cancellation_anywhere_is_an_error(
    hub: LocalHub, config: UploadConfig
) -> None:
    async def token() -> str:
        helper = asyncio.create_task(asyncio.sleep(60))
        helper.cancel()
        await helper
        return TOKEN

    async with Uploader(token, hub.url, config) as uploader:
        with pytest.raises(AsyncPushError, match="was not cancelled"):
            await uploader.push_to_hub("me/m", {"a.txt": b"1"})


def token_that_lets_out_a_cancellation() -> Callable[[], Awaitable[str]]:
    """Right the first time; asked again, it awaits a task of its own that is cancelled."""
    asked = iter([TOKEN])

    async def token() -> str:
        for known in asked:
            return known
        helper = asyncio.create_task(asyncio.sleep(60))
        helper.cancel()
        await helper
        raise AssertionError("never comes here")

    return token


@pytest.mark.parametrize("route", ["revision", "create", "preupload", "batch", "verify", "commit"])
async def test_a_stray_cancellation_is_no_success(
    route: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    """A group takes any `CancelledError` of a child for its own."""
    # Modes asked for before the repo is there may be cancelled, and are asked for again.
    faults.add(route, "401", times=2 if route == "preupload" else 1)
    files = {"a.bin": b"\0" * (PART_SIZE + 1), "b.bin": b"\0b", "c.bin": b"\0c"}
    async with Uploader(token_that_lets_out_a_cancellation(), hub.url, config) as uploader:
        with pytest.raises(AsyncPushError, match="was not cancelled"):
            await uploader.push_to_hub("me/m", files)
    assert faults.seen["commit"] == (route == "commit")


@pytest.mark.parametrize("route", ["preupload", "batch", "verify"])
async def test_a_stray_cancellation_gives_no_receipts(
    route: str, hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    faults.add(route, "401", times=2 if route == "preupload" else 1)
    files = {"a.bin": b"\0" * (PART_SIZE + 1), "b.bin": b"\0b"}
    async with Uploader(token_that_lets_out_a_cancellation(), hub.url, config) as uploader:
        with pytest.raises(AsyncPushError, match="was not cancelled"):
            await uploader.upload_files("me/m", files)


async def test_a_stray_cancellation_cuts_no_verification_short(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    faults.hooks["commit"] = lambda: faults.add("paths-info", "401", times=99)
    async with Uploader(token_that_lets_out_a_cancellation(), hub.url, config) as uploader:
        with pytest.raises(VerificationError, match="was not cancelled") as caught:
            await uploader.push_to_hub("me/m", {"a.bin": b"\0a"})
    assert caught.value.commit_sha == await head_of(hub, "me/m")


async def test_a_stray_cancellation_ends_a_diagnosis_with_an_error(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer
) -> None:
    faults.add("whoami", "401")
    async with Uploader(token_that_lets_out_a_cancellation(), hub.url, config) as uploader:
        with pytest.raises(AsyncPushError, match="was not cancelled"):
            await uploader.doctor("me/m")


async def test_a_closed_stderr_harms_no_push(
    hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do the bars, nor warnings that are logged there, nor a listener that fails on it."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    handler = logging.StreamHandler(closed)
    logging.getLogger("asyncpush").addHandler(handler)
    events = [lambda record: print(record, file=closed)]
    try:
        config = replace(config, progress="bar", events=events)
        async with Uploader(TOKEN, hub.url, config) as up:
            result = await up.push_to_hub("me/m", {".env": b"A=1"})
    finally:
        logging.getLogger("asyncpush").removeHandler(handler)
    assert result.verified
    assert len(result.warnings) == 1


@pytest.mark.parametrize("kind", ["404 repo", "404 revision"])
@pytest.mark.parametrize(
    ("route", "nth"), [("revision", 2), ("preupload", 1), ("batch", 1), ("commit", 1)]
)
async def test_a_repo_just_made_may_be_unknown_for_a_moment(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, route: str, nth: int, kind: str
) -> None:
    faults.add(route, kind, nth=nth, times=3)
    await uploader.push_to_hub("me/new", {"a.bin": b"\0a"})

    assert faults.seen["create"] == 1
    assert await download(hub, "me/new") == {"a.bin": b"\0a"}


async def test_a_branch_just_made_may_be_unknown_for_a_moment(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    checked = faults.seen["revision"]
    faults.add("revision", "404 revision", nth=checked + 2, times=2)
    faults.add("preupload", "404 revision", nth=faults.seen["preupload"] + 1, times=2)
    options = PushOptions(revision="dev", create_branch=True)
    result = await uploader.push_to_hub("me/m", {"b.txt": b"2"}, options)

    assert result.files_uploaded == ("b.txt",)


async def test_an_unknown_repo_of_others_is_not_retried(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/new", {"a.txt": b"1"})
    seen = faults.seen["revision"]
    with pytest.raises(RepoNotFoundError):
        await uploader.push_to_hub("me/new2", {"a.txt": b"1"}, PushOptions(create_repo=False))
    assert faults.seen["revision"] == seen + 1


async def test_a_commit_that_is_shown_late_is_waited_for(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("paths-info", "404 revision", times=9)
    assert (await uploader.push_to_hub("me/late", {"a.txt": b"1"})).verified


async def test_a_failure_after_the_commit_says_that_it_was_made(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    """3b: also where it is the push's own time that runs out."""
    faults.add("paths-info", "500", times=99)
    faults.add("tree", "500", times=99)
    with pytest.raises(VerificationError, match="was made") as caught:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert caught.value.commit_sha == await head_of(hub, "me/m")
    assert caught.value.commit_url.endswith(caught.value.commit_sha)
    assert isinstance(caught.value.__cause__, asyncpush.HubError)

    faults.rules.clear()
    faults.add("paths-info", "stall before reading", times=99)
    with pytest.raises(VerificationError, match="was made") as caught:
        await uploader.push_to_hub("me/new", {"a.txt": b"2"}, PushOptions(timeout=2))
    assert caught.value.commit_sha == await head_of(hub, "me/new")
    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("stage", ["a listener", "the progress callback", "the journal"])
async def test_listeners_and_journal_cannot_fail_a_commit(
    stage: str, hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = False

    def listener(record: Record) -> None:
        nonlocal committed
        committed = committed or isinstance(record.event, Committed)
        if committed and stage == "a listener":
            raise OSError("no space left on device")

    def progressed(progress: UploadProgress) -> None:
        if committed and stage == "the progress callback":
            raise OSError("no space left on device")

    def full(connection: sqlite3.Connection, *args: object, **named: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    if stage == "the journal":
        monkeypatch.setattr(tables, "delete_commit", full)
    config = replace(config, events=listener, progress_callback=progressed)
    async with Uploader(TOKEN, hub.url, config) as uploader:
        await uploader.push_to_hub("me/m", {"a.txt": b"1"})
        result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, PushOptions(create_pr=True))
    assert committed
    assert result.verified
    assert result.commit_sha == await head_of(hub, "me/m", "refs/pr/1")


async def test_a_push_cancelled_after_its_commit_names_it(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.hooks["commit"] = lambda: faults.add("paths-info", "stall before reading", times=99)
    handle = uploader.start_push("me/m", {"a.txt": b"1"})
    await faults.stalled.wait()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await handle
    assert await head_of(hub, "me/m") in caught.value.__notes__[0]


def rewrite(path: Path, content: bytes) -> None:
    """In place, and mtime put back, as `rsync --inplace -t` and `cp -p` do."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("settled_files")
async def test_a_file_with_a_restored_mtime_is_pushed(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    """In the same repo, where it would be called unchanged, and in another of the same Hub."""
    source = write({"model.bin": b"A" * 300_000})
    os.utime(source / "model.bin", (1, 1))
    await uploader.push_to_hub("me/m", source)

    rewrite(source / "model.bin", b"B" * 300_000)
    result = await uploader.push_to_hub("me/m", source)
    assert result.files_uploaded == ("model.bin",)
    await uploader.push_to_hub("me/other", source)
    for repo in ("me/m", "me/other"):
        assert (await download(hub, repo))["model.bin"] == b"B" * 300_000


@pytest.mark.usefixtures("times_that_lie")
@pytest.mark.parametrize("size", [300_000, 2 * PART_SIZE + 1], ids=["one PUT", "parts"])
async def test_a_remembered_hash_that_the_store_contradicts_is_forgotten(
    size: int,
    uploader: Uploader,
    hub: LocalHub,
    config: UploadConfig,
    faults: FaultLayer,
    write: Write,
    tmp_path: Path,
) -> None:
    source = write({"model.bin": b"A" * size, "same.bin": b"A" * size})
    async with (
        LocalHub(tmp_path / "first", token=TOKEN, xet=False) as first,
        Uploader(TOKEN, first.url, config) as other,
    ):
        await other.push_to_hub("me/m", source)
    rewrite(source / "model.bin", b"B" * size)
    rewrite(source / "same.bin", b"B" * size)

    result = await uploader.push_to_hub("me/m", source)

    assert await download(hub, "me/m") == {"model.bin": b"B" * size, "same.bin": b"B" * size}
    assert result.verified
    assert result.bytes_transferred <= 3 * size + 1  # each file once in vain, the bytes once more


@pytest.mark.usefixtures("times_that_lie")
async def test_a_remembered_hash_that_the_commit_contradicts_is_forgotten(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """The batch calls the old bytes stored; the commit does not find them."""
    source = write({"model.bin": b"A" * 300_000, "small.txt": b"1"})
    await uploader.push_to_hub("me/first", source)
    rewrite(source / "model.bin", b"B" * 300_000)
    faults.hooks["commit"] = lambda: shutil.rmtree(hub.root / "lfs" / "objects")

    result = await uploader.push_to_hub("me/m", source)

    assert await download(hub, "me/m") == {"model.bin": b"B" * 300_000, "small.txt": b"1"}
    assert result.bytes_transferred == 300_001


@pytest.mark.usefixtures("settled_files")
async def test_a_remembered_hash_unknown_to_the_hub_is_checked(
    config: UploadConfig, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    source = write({"model.bin": b"A" * 300_000})
    async with Uploader(TOKEN, hub.url, config) as first:
        await first.push_to_hub("me/m", source)
    shutil.rmtree(hub.root / "lfs" / "objects")
    recorded = EventRecorder()
    faults.add("verify", "404", nth=2)
    async with Uploader(TOKEN, hub.url, replace(config, events=recorded)) as again:
        await again.push_to_hub("me/other", source)
    assert [event.cached for event in recorded.of(FileHashed)] == [True, False]


@pytest.mark.usefixtures("times_that_lie")
async def test_constantly_changing_bytes_are_an_error(
    uploader: Uploader,
    config: UploadConfig,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 300_000
    source = write({"model.bin": b"A" * size})
    async with (
        LocalHub(tmp_path / "first", token=TOKEN, xet=False) as first,
        Uploader(TOKEN, first.url, config) as other,
    ):
        await other.push_to_hub("me/m", source)
    rewrite(source / "model.bin", b"B" * size)
    hash_anew, contents = Hasher.sha256_anew, iter([b"C", b"D", b"E"])

    async def and_then_it_changes(
        hasher: Hasher, file: FileSource, events: Emitter, threads: PushThreads
    ) -> str:
        oid = await hash_anew(hasher, file, events, threads)
        rewrite(source / "model.bin", next(contents) * size)
        return oid

    monkeypatch.setattr(Hasher, "sha256_anew", and_then_it_changes)
    with pytest.raises(SourceChangedError, match=r"model\.bin"):
        await uploader.push_to_hub("me/m", source, PushOptions(on_change="error"))


@pytest.mark.usefixtures("settled_files")
async def test_concurrent_pushes_share_no_wrong_hash(
    uploader: Uploader, hub: LocalHub, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is rewritten, its mtime put back, while the first of them hashes it."""
    source = write({"model.bin": b"A" * 300_000})
    os.utime(source / "model.bin", (1, 1))
    hash_file, calls = hashing._sha256, iter(range(9))
    first_hashed, second_hashes = threading.Event(), threading.Event()

    def in_step(*arguments: Any) -> str:
        if next(calls):
            second_hashes.set()
            return hash_file(*arguments)
        oid = hash_file(*arguments)
        first_hashed.set()
        assert second_hashes.wait(30)
        return oid

    monkeypatch.setattr(hashing, "_sha256", in_step)
    first = uploader.start_push("me/first", source)
    await asyncio.to_thread(first_hashed.wait, 30)
    rewrite(source / "model.bin", b"B" * 300_000)
    await uploader.push_to_hub("me/second", source)
    await first  # what it hashed is gone: the store refuses that hash for these bytes
    for repo in ("me/first", "me/second"):
        assert (await download(hub, repo))["model.bin"] == b"B" * 300_000


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux")
@pytest.mark.parametrize("name", ["cpu.txt", "cpu.bin"])
async def test_a_file_that_holds_more_than_its_size_is_refused(
    name: str, uploader: Uploader, faults: FaultLayer
) -> None:
    """Files of /proc have size 0, whatever they hold."""
    with pytest.raises(SourceError, match=r"cpuinfo.*holds more than the 0 bytes"):
        await uploader.push_to_hub("me/m", {name: "/proc/cpuinfo"})
    assert not faults.seen["commit"]


@pytest.mark.usefixtures("times_that_lie")
async def test_an_audit_and_a_distrustful_push_read_the_bytes(
    uploader: Uploader, hub: LocalHub, config: UploadConfig, write: Write
) -> None:
    source = write({"model.bin": b"A" * 300_000})
    await uploader.push_to_hub("me/m", source)
    rewrite(source / "model.bin", b"B" * 300_000)
    assert (await uploader.audit("me/m", source)).different == ("model.bin",)

    async with Uploader(TOKEN, hub.url, replace(config, trust_mtime=False)) as careful:
        await careful.push_to_hub("me/m", source)
    assert (await download(hub, "me/m"))["model.bin"] == b"B" * 300_000


async def test_an_audit_finds_what_differs(uploader: Uploader, write: Write) -> None:
    """REQ-009."""
    source = write(MODEL)
    await uploader.push_to_hub("me/m", source)
    assert (await uploader.audit("me/m", source)).exact

    (source / "config.json").write_text('{"hidden_size": 9}')
    (source / "new.txt").write_text("new")
    (source / "empty.txt").unlink()
    report = await uploader.audit("me/m", source)
    assert report.different == ("config.json",)
    assert report.missing == ("new.txt",)
    assert report.extra == ("empty.txt",)
    assert not report.complete


async def test_an_audit_finds_that_ignored_files_are_not_missing(
    uploader: Uploader, hub: LocalHub, config: UploadConfig
) -> None:
    source = {".gitignore": b"*.log\n", "train.log": b"x", "a.txt": b"y"}
    await uploader.push_to_hub("me/m", source)
    source["new.txt"] = b"z"
    report = await uploader.audit("me/m", source)
    assert (report.ignored, report.missing) == (("train.log",), ("new.txt",))

    async with Uploader(endpoint=hub.url, config=config) as anybody:  # who is told nothing of it
        assert (await anybody.audit("me/m", source)).missing == ("new.txt", "train.log")


async def test_a_failure_nobody_awaited_is_raised_at_the_end(
    hub: LocalHub, config: UploadConfig
) -> None:
    with pytest.raises(SourceError):
        async with Uploader(TOKEN, hub.url, config) as uploader:
            uploader.start_push("me/m", {"../x": b""})


async def test_events_are_written_as_json_lines(
    hub: LocalHub, config: UploadConfig, tmp_path: Path, write: Write
) -> None:
    """OBS-004: a row before and after each call, without secrets."""
    path = tmp_path / "events.jsonl"
    config = replace(config, events=path)
    await asyncpush.push_to_hub("me/m", write(MODEL), token=TOKEN, endpoint=hub.url, config=config)
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    names = [row["event"] for row in rows]
    for call in ("create", "preupload", "lfs_batch", "part", "complete", "verify", "commit"):
        assert f"hf_hub.{call}" in names
        assert f"hf_hub.{call}.response" in names
    asked = rows[names.index("hf_hub.preupload")]
    assert asked["repo_id"] == "me/m"
    assert {"file": "config.json", "size": 18} in asked["files"]
    answers = [row for row in rows if row["event"] == "hf_hub.preupload.response"]
    assert answers[0]["status"] in (200, 404)  # 404: asked before the repo was created
    answered = answers[-1]
    assert answered["status"] == 200
    assert answered["elapsed_ms"] > 0
    assert {"file": "config.json", "size": 18, "route": "inline"} in answered["files"]
    assert rows[names.index("hf_hub.lfs_batch.response")]["upload_url"].startswith(hub.url)
    assert all(row["push_id"] and row["time"] for row in rows)
    assert TOKEN not in path.read_text()
    assert "hf_hub.upload.failed" not in names


async def test_a_token_callable_is_asked_again_after_a_401(
    hub: LocalHub, config: UploadConfig
) -> None:
    tokens = iter(["hf_expired", TOKEN])

    async def fresh() -> str:
        return next(tokens)

    result = await asyncpush.push_to_hub(
        "me/m", {"a.txt": b"1"}, token=fresh, endpoint=hub.url, config=config
    )
    assert result.verified


async def test_the_embedded_hub_is_an_endpoint_of_its_own(config: UploadConfig) -> None:
    async with Uploader(endpoint="local", config=config) as uploader:
        result = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    assert result.verified
    assert (Path(config.cache_dir) / "hub" / "models" / "me" / "m.git").is_dir()


async def test_the_oid_of_a_receipt_is_that_of_its_bytes(uploader: Uploader, write: Write) -> None:
    result = await uploader.push_to_hub("me/m", write(MODEL))
    by_path = {receipt.path_in_repo: receipt for receipt in result.receipts}
    content = MODEL["model.safetensors"]
    assert isinstance(content, bytes)
    assert by_path["model.safetensors"].oid == hashlib.sha256(content).hexdigest()
    assert by_path["empty.txt"].oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


async def test_a_chain_of_commits_shows_at_once(uploader: Uploader, hub: LocalHub) -> None:
    files = {f"{number}.txt": b"%d" % number for number in range(10)}
    first = await uploader.push_to_hub("me/m", {"0.txt": b"old"})
    result = await uploader.push_to_hub("me/m", files, PushOptions(max_files_per_commit=3))

    assert await download(hub, "me/m") == files
    assert len(await commits_of(hub, "me/m", "refs/pr/1")) >= 2 + 4
    assert result.commit_sha == await head_of(hub, "me/m")
    assert result.commit_sha != first.commit_sha
    assert sorted(result.files_uploaded) == sorted(files)


async def test_a_chain_may_stay_a_pull_request(uploader: Uploader, hub: LocalHub) -> None:
    first = await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    files = {f"{number}.txt": b"x" for number in range(4)}
    options = PushOptions(max_files_per_commit=2, create_pr=True)
    result = await uploader.push_to_hub("me/m", files, options)

    assert result.pr_url == f"{hub.url}/me/m/discussions/1"
    assert await head_of(hub, "me/m") == first.commit_sha
    assert await head_of(hub, "me/m", "refs/pr/1") == result.commit_sha


async def test_a_series_on_a_branch_warns_of_partial_states(
    uploader: Uploader, hub: LocalHub
) -> None:
    files = {f"{number}.txt": b"x" for number in range(4)}
    options = PushOptions(revision="dev", create_branch=True, max_files_per_commit=2)
    result = await uploader.push_to_hub("me/m", files, options)
    assert any("one by one" in warning for warning in result.warnings)
    assert await head_of(hub, "me/m", "dev") == result.commit_sha


async def test_progress_that_nobody_can_follow_is_not_kept(
    hub: LocalHub, config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Record] = []
    on_event = ProgressAggregator.on_event

    def note(aggregator: ProgressAggregator, record: Record) -> None:
        kept.append(record)
        on_event(aggregator, record)

    monkeypatch.setattr(ProgressAggregator, "on_event", note)
    async with Uploader(TOKEN, hub.url, config) as up:
        await up.push_to_hub("me/m", {"a.txt": b"1"})
        await up.push_many([Push("me/n", {"a.txt": b"1"})])
        assert kept == []
        handle = up.start_push("me/o", {"a.txt": b"1"})
        await handle
        assert handle.progress.files_completed == 1
    seen: list[UploadProgress] = []
    async with Uploader(TOKEN, hub.url, replace(config, progress_callback=seen.append)) as up:
        await up.push_to_hub("me/p", {"a.txt": b"1"})
    assert seen[-1].files_completed == 1
