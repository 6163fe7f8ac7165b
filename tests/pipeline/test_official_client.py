"""The official client as a witness: it reads what we wrote, and we find what it wrote unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import anyio
import huggingface_hub
import pytest
from huggingface_hub import HfApi

from asyncpush import PushOptions, Uploader
from asyncpush.localhub import LocalHub
from tests.conftest import PART_SIZE, TOKEN

pytestmark = pytest.mark.usefixtures("official_lfs")

Write = Callable[..., Path]


def mixed_files(count: int) -> dict[str, bytes]:
    """Files of the kinds that go wrong: sizes about a part, odd names, deep folders."""
    rng = random.Random(7)
    files = {
        "empty.bin": b"",
        "empty.txt": b"",
        "one.bin": b"\0",
        "one.txt": b"1",
        "part.bin": rng.randbytes(PART_SIZE),
        "part-1.bin": rng.randbytes(PART_SIZE - 1),
        "part+1.bin": rng.randbytes(PART_SIZE + 1),
        "two parts.safetensors": rng.randbytes(2 * PART_SIZE),
        "/".join("abcdefghij") + "/deep.txt": b"deep",
        "naïve café/日本語 файл.txt": "ünïcode".encode(),
        'quo\'te "double" & % # ? + [x].txt': b"odd",
        ".hidden/.file": b"hidden",
        "no newline": b"a",
        "crlf.txt": b"a\r\nb\r\n",
        "latin1.txt": b"caf\xe9",
    }
    while len(files) < count:
        number = len(files)
        suffix = ("txt", "json", "bin", "parquet", "py")[number % 5]
        content = rng.randbytes(rng.randrange(20_000))
        if suffix in ("txt", "json", "py"):
            content = content.hex().encode()
        files[f"folder {number % 7}/file-{number}.{suffix}"] = content
    return files


@pytest.mark.no_cover
@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
async def test_the_official_client_downloads_just_what_was_pushed(
    repo_type: str, uploader: Uploader, hub: LocalHub, write: Write, tmp_path: Path
) -> None:
    files = mixed_files(300 if repo_type == "model" else 20)
    options = PushOptions(repo_type=repo_type)  # type: ignore[arg-type]
    result = await uploader.push_to_hub("org/mixed", write(files), options)

    def snapshot() -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                "org/mixed",
                repo_type=repo_type,
                endpoint=hub.url,
                token=TOKEN,
                local_dir=tmp_path / "down",
            )
        )

    folder = await anyio.to_thread.run_sync(snapshot)
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }
    found.pop(".gitattributes")
    if repo_type == "space":
        found.pop("README.md")  # with which each Space begins
    assert found == files
    assert sorted(result.files_uploaded) == sorted(files)


async def test_what_the_official_client_pushed_is_not_sent_again(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"model.bin": random.Random(1).randbytes(PART_SIZE + 5), "a.txt": b"a"})
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def push() -> str:
        api.create_repo("me/m")
        return str(api.upload_folder(repo_id="me/m", folder_path=source).oid)

    oid = await anyio.to_thread.run_sync(push)
    result = await uploader.push_to_hub("me/m", source)
    assert result.oid == result.commit_sha == oid
    assert result.bytes_transferred == 0
    assert sorted(result.files_unchanged) == ["a.txt", "model.bin"]


async def test_the_official_client_finds_what_we_pushed_unchanged(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"model.bin": random.Random(2).randbytes(PART_SIZE + 5), "a.txt": b"a"})
    pushed = await uploader.push_to_hub("me/m", source)
    api = HfApi(endpoint=hub.url, token=TOKEN)
    again = await anyio.to_thread.run_sync(
        lambda: api.upload_folder(repo_id="me/m", folder_path=source)
    )
    assert again.oid == pushed.commit_sha


async def test_the_official_client_merges_our_pull_request(
    uploader: Uploader, hub: LocalHub
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    result = await uploader.push_to_hub(
        "me/m", {"a.txt": b"2"}, PushOptions(create_pr=True, commit_message="Better")
    )
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def merge() -> str:
        details = api.get_discussion_details("me/m", 1)
        assert details.title == "Better"
        assert details.url == result.pr_url
        api.merge_pull_request("me/m", 1)
        return Path(api.hf_hub_download("me/m", "a.txt")).read_text()

    assert await anyio.to_thread.run_sync(merge) == "2"
