"""An address is taken wherever a repo id is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from huggingface_hub import HfApi

from asyncpush import (
    AuditReport,
    BackgroundUploader,
    CheckpointPusher,
    InvalidRepoIdError,
    Push,
    PushOptions,
    SourceError,
    UploadConfig,
    Uploader,
)
from asyncpush.localhub import LocalHub
from asyncpush.options import RepoType
from tests.conftest import TOKEN

FILES = {"a.txt": b"one", "b.txt": b"two"}


async def files_of(
    hub: LocalHub, repo_id: str, repo_type: RepoType, revision: str = "main"
) -> set[str]:
    """As the official client lists them."""
    api = HfApi(endpoint=hub.url, token=TOKEN)
    how: dict[str, Any] = {"repo_type": repo_type, "revision": revision}
    listed = await anyio.to_thread.run_sync(lambda: api.list_repo_files(repo_id, **how))
    return set(listed) - {".gitattributes", "README.md"}  # new Spaces have a card


@pytest.mark.parametrize("repo_type", get_args(RepoType))
async def test_a_push_goes_where_its_address_says(
    hub: LocalHub, config: UploadConfig, repo_type: RepoType
) -> None:
    new = PushOptions(create_branch=True)
    async with Uploader(TOKEN, hub.url, config) as up:
        await up.push_to_hub(f"hf://{repo_type}s/me/r@dev/train", FILES, new)
        page = "" if repo_type == "model" else f"{repo_type}s/"
        handle = up.start_push(f"{hub.url}/{page}me/r/tree/main", {"c.txt": b"three"})
        result = await handle

    assert result.repo_url == f"{hub.url}/{page}me/r"
    assert handle.repo_id == "me/r"
    assert await files_of(hub, "me/r", repo_type, "dev") == {"train/a.txt", "train/b.txt"}
    assert await files_of(hub, "me/r", repo_type) == {"c.txt"}


async def test_every_call_of_an_uploader_takes_an_address(
    hub: LocalHub, config: UploadConfig
) -> None:
    address = "hf://datasets/me/d/sub"
    async with Uploader(TOKEN, hub.url, config) as up:
        receipts = await up.upload_files(address, FILES)
        await up.commit("hf://datasets/me/d", receipts)
        report: AuditReport = await up.audit(address, FILES)
        [_] = await up.push_many([Push(f"{address}/", {"c.txt": b"three"})])
        async with CheckpointPusher(up, address) as pusher:
            await pusher.push({"d.txt": b"four"})
        findings = await up.doctor(address)

    assert report.exact
    assert not [finding for finding in findings if finding.verdict == "failed"]
    names = {"a.txt", "b.txt", "c.txt", "d.txt"}
    assert await files_of(hub, "me/d", "dataset") == {f"sub/{name}" for name in names}


def test_blocking_code_checks_an_address_at_once(
    hub_in_thread: LocalHub, config: UploadConfig
) -> None:
    with BackgroundUploader(TOKEN, hub_in_thread.url, config) as bg:
        ticket = bg.push("hf://kernels/me/k", FILES)
        with pytest.raises(InvalidRepoIdError, match="contradicts"):
            bg.push("hf://kernels/me/k", FILES, PushOptions(repo_type="dataset"))
        with pytest.raises(InvalidRepoIdError, match="endpoint in use"):
            bg.push("https://huggingface.co/me/k", FILES)
        with pytest.raises(InvalidRepoIdError, match="is a bucket"):
            bg.push("hf://buckets/me/b", FILES)
        result = ticket.result()

    assert ticket.repo_id == "me/k"
    assert result.repo_url == f"{hub_in_thread.url}/kernels/me/k"


async def test_a_single_file_goes_to_the_pages_folder(
    hub: LocalHub, config: UploadConfig, write: Callable[..., Path]
) -> None:
    file = write({"new.txt": b"new"}) / "new.txt"
    async with Uploader(TOKEN, hub.url, config) as up:
        await up.push_to_hub("hf://me/m/named.txt", file)
        await up.push_to_hub(f"{hub.url}/me/m/tree/main/sub", file)

    assert await files_of(hub, "me/m", "model") == {"named.txt", "sub/new.txt"}


async def test_a_path_that_leaves_the_repo_is_refused(hub: LocalHub, config: UploadConfig) -> None:
    async with Uploader(TOKEN, hub.url, config) as up:
        with pytest.raises(SourceError, match=r"\.\."):
            await up.push_to_hub("hf://me/m/../other", FILES)
