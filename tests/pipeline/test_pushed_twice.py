"""A folder that has not changed is not committed again, whatever is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from asyncpush.models import Content
from tests.conftest import TOKEN
from tests.reading import download

RULE = " filter=lfs diff=lfs merge=lfs -text\n"

names = st.sampled_from(("a.txt", "b.bin", "c.json", "sub/a.txt", "sub/b.bin", "sub/deep/d"))
texts = st.sampled_from((b"", b"text", b"x" * 5_000, b"version https://git-lfs\n"))
contents = texts | st.sampled_from((b"\0binary", b"\xff\xfe\xfd"))
rules = st.lists(
    st.sampled_from(("*.txt", "*.bin", "*.json", "sub/**", "*", "*.txt -filter", "d")), max_size=3
)


@st.composite
def folders(draw: DrawFn) -> dict[str, bytes]:
    files = draw(st.dictionaries(names, contents, min_size=1))
    if draw(st.booleans()):
        lines = [rule + ("\n" if " " in rule else RULE) for rule in draw(rules)]
        files[".gitattributes"] = "".join(lines).encode()
    if draw(st.booleans()):
        files[".gitignore"] = b"*.json\n"
    return files


async def push_all(
    endpoint: str, cache: Path, repo_id: str, folders: tuple[dict[str, bytes], ...]
) -> None:
    config = UploadConfig(cache_dir=cache, progress="none", initial_backoff_ms=1)
    async with Uploader(TOKEN, endpoint, config) as up:
        for files in folders:
            source = dict[str, Content](files)
            await up.push_to_hub(repo_id, source)
            again = await up.push_to_hub(repo_id, source)
            assert again.files_uploaded == ()
            assert again.bytes_transferred == 0
            assert set(again.files_unchanged) | set(again.files_ignored) == set(files)


numbers = count()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=folders(), later=folders())
def test_a_second_push_finds_nothing_new(
    files: dict[str, bytes], later: dict[str, bytes], hub_in_thread: LocalHub, tmp_path: Path
) -> None:
    """Also where rules that came with the first push, or with one in between, want files to be LFS
    that went in as regular ones, or the reverse."""
    repo_id = f"me/m{next(numbers)}"
    asyncio.run(push_all(hub_in_thread.url, tmp_path / "cache", repo_id, (files, later, files)))


async def test_rules_that_the_source_brings_stay_as_they_are(
    uploader: Uploader, hub: LocalHub, write: Callable[..., Path]
) -> None:
    """Unchanged rules that do not name a new LFS file, where the Hub would add one."""
    source = write({".gitattributes": b"", "a.txt": b"text"})
    await uploader.push_to_hub("me/m", source)
    write({"new.bin": b"\0binary"})
    result = await uploader.push_to_hub("me/m", source)
    assert result.verified
    assert await download(hub, "me/m", [".gitattributes"]) == {".gitattributes": b""}
    assert (await uploader.push_to_hub("me/m", source)).files_uploaded == ()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_regular_file_under_a_new_lfs_rule_is_unchanged(
    size: int, uploader: Uploader, hub: LocalHub, write: Callable[..., Path]
) -> None:
    text = b"text\n" * (size // 5)
    source = write({"a.txt": text, ".gitattributes": "*.txt" + RULE})
    first = await uploader.push_to_hub("me/m", source)
    second = await uploader.push_to_hub("me/m", source)
    assert second.commit_sha == first.commit_sha
    assert "a.txt" in second.files_unchanged

    (source / "a.txt").write_bytes(text + b"more")
    third = await uploader.push_to_hub("me/m", source)
    assert third.files_uploaded == ("a.txt",)
    assert third.receipts[1].route == "lfs"


async def test_an_lfs_file_without_a_rule_is_unchanged(
    uploader: Uploader, write: Callable[..., Path]
) -> None:
    source = write({".gitattributes": "*.txt" + RULE})
    await uploader.push_to_hub("me/m", source)
    write({"a.txt": b"text"})
    first = await uploader.push_to_hub("me/m", source)
    assert first.receipts[1].route == "lfs"
    write({".gitattributes": b""})
    second = await uploader.push_to_hub("me/m", source)
    assert second.files_uploaded == (".gitattributes",)
    third = await uploader.push_to_hub("me/m", source)
    assert third.files_uploaded == ()
    assert third.commit_sha == second.commit_sha
