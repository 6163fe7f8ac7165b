"""`max_shard_size` from the folder to the Hub and back (with the official client)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from huggingface_hub import HfApi, snapshot_download
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from asyncpush import HubError, PushOptions, SourceChangedError, SourceError, UploadConfig, Uploader
from asyncpush.events import Event, FileHashed, Notice, PartStored, Record
from asyncpush.localhub import LocalHub
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of

pytestmark = pytest.mark.usefixtures("official_lfs")

SHARDED = PushOptions(max_shard_size="9MB")

NAMES = {
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three tensors of 4 MB: a shard of two of them has a tensor across its parts."""
    (tmp_path / "out").mkdir()
    rng = random.Random(4)
    tensors: dict[str, Any] = {
        name: np.frombuffer(rng.randbytes(4_000_000), dtype=np.float16) for name in "abc"
    }
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    os.utime(tmp_path / "out" / "model.safetensors", (1e9, 1e9))  # long settled, for the journal
    (tmp_path / "out" / "config.json").write_text("{}")
    return tmp_path / "out"


async def test_a_sharded_push_loads_shard_by_shard(
    uploader: Uploader, hub: LocalHub, folder: Path
) -> None:
    result = await uploader.push_to_hub("me/m", folder, SHARDED)

    assert result.verified
    assert set(result.files_uploaded) == NAMES | {"config.json"}
    assert await files_of(hub, "me/m") == NAMES | {"config.json", ".gitattributes"}

    def fetch() -> Any:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        path = snapshot_download("me/m", endpoint=hub.url, token=TOKEN)
        return api.get_safetensors_metadata("me/m"), Path(path)

    metadata, fetched = await anyio.to_thread.run_sync(fetch)
    assert metadata.sharded
    assert metadata.metadata == {"total_size": 12_000_000}
    assert metadata.parameter_count == {"F16": 6_000_000}
    before = load_file(folder / "model.safetensors")
    index = json.loads((fetched / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == metadata.weight_map
    for name, tensor in before.items():
        with safe_open(fetched / index["weight_map"][name], framework="numpy") as shard:
            assert shard.metadata() == {"format": "pt"}
            assert np.array_equal(
                shard.get_tensor(name).view(np.uint16),
                tensor.view(np.uint16),
            )


@pytest.mark.usefixtures("settled_files")
async def test_the_same_push_again_sends_and_hashes_nothing(
    hub: LocalHub, config: UploadConfig, folder: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        seen: list[Event] = []
        async with Uploader(TOKEN, hub.url, listening(config, seen)) as up:
            result = await up.push_to_hub("me/m", folder, SHARDED)
    assert result.bytes_transferred == 0
    assert result.files_uploaded == ()
    assert [event.cached for event in seen if isinstance(event, FileHashed)] == [True, True]


def listening(config: UploadConfig, seen: list[Event]) -> UploadConfig:
    def listen(record: Record) -> None:
        seen.append(record.event)

    return UploadConfig(
        cache_dir=config.cache_dir, progress="none", initial_backoff_ms=1, events=listen
    )


@pytest.mark.usefixtures("settled_files")
async def test_an_interrupted_push_neither_hashes_nor_sends_twice(
    hub: LocalHub, config: UploadConfig, faults: FaultLayer, folder: Path
) -> None:
    faults.add("part", "403", nth=3, times=100)
    one_by_one = UploadConfig(
        cache_dir=config.cache_dir,
        progress="none",
        initial_backoff_ms=1,
        max_concurrent_parts=1,
        max_concurrent_files=1,
    )
    async with Uploader(TOKEN, hub.url, one_by_one) as up:
        with pytest.raises(HubError):
            await up.push_to_hub("me/m", folder, SHARDED)
    faults.rules.clear()

    seen: list[Event] = []
    async with Uploader(TOKEN, hub.url, listening(config, seen)) as up:
        result = await up.push_to_hub("me/m", folder, SHARDED)
    hashed = {event.path: event.cached for event in seen if isinstance(event, FileHashed)}
    assert hashed["model-00001-of-00002.safetensors"] is True
    already = sum(e.size for e in seen if isinstance(e, PartStored) and e.resumed)
    assert already + result.bytes_deduplicated >= PART_SIZE
    assert len(await commits_of(hub, "me/m")) == 2


@pytest.mark.usefixtures("times_that_lie")
async def test_an_unseen_change_rehashes_all_shards(
    uploader: Uploader, hub: LocalHub, config: UploadConfig, folder: Path, tmp_path: Path
) -> None:
    """One shard shows it: what is remembered of the others is worth no more."""
    path = folder / "model.safetensors"
    async with (
        LocalHub(tmp_path / "first", token=TOKEN) as first,
        Uploader(TOKEN, first.url, config) as other,
    ):
        await other.push_to_hub("me/m", folder, SHARDED)
    with path.open("r+b") as file:
        for offset in (-8_000_000, -1):
            file.seek(offset, os.SEEK_END)
            file.write(b"\xff")
    os.utime(path, (1e9, 1e9))

    with pytest.raises(SourceChangedError, match="has changed since an earlier push"):
        await uploader.push_to_hub("me/m", folder, SHARDED)
    await uploader.push_to_hub("me/m", folder, SHARDED)
    report = await uploader.audit("me/m", folder, SHARDED)
    assert report.exact


@pytest.mark.parametrize("route", ["preupload", "part"])
async def test_a_model_changed_during_sharding_is_not_committed(
    route: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer, folder: Path
) -> None:
    path = folder / "model.safetensors"

    def write_to_it() -> None:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")

    faults.hooks[route] = write_to_it
    with pytest.raises(SourceChangedError, match=r"model\.safetensors' was written to"):
        await uploader.push_to_hub("me/m", folder, SHARDED)
    assert len(await commits_of(hub, "me/m")) == 1


async def test_a_damaged_part_of_a_shard_is_sent_again(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, folder: Path, tmp_path: Path
) -> None:
    faults.add("part", "reset mid-body", nth=2)
    await uploader.push_to_hub("me/m", folder, SHARDED)
    before = load_file(folder / "model.safetensors")
    after: dict[str, Any] = {}
    for name, content in (await download(hub, "me/m", NAMES)).items():
        (tmp_path / name).write_bytes(content)
        if name.endswith(".safetensors"):
            after |= load_file(tmp_path / name)
    assert {name: tensor.tobytes() for name, tensor in after.items()} == {
        name: tensor.tobytes() for name, tensor in before.items()
    }


async def test_a_dry_run_lists_the_shards(uploader: Uploader, hub: LocalHub, folder: Path) -> None:
    options = PushOptions(max_shard_size="9MB", dry_run=True)
    result = await uploader.push_to_hub("me/m", folder, options)
    assert {file.path_in_repo for file in result.plan} == NAMES | {"config.json"}


async def test_audit_compares_shards_when_told_their_size(uploader: Uploader, folder: Path) -> None:
    await uploader.push_to_hub("me/m", folder, SHARDED)
    assert (await uploader.audit("me/m", folder, SHARDED)).exact
    whole = await uploader.audit("me/m", folder)
    assert whole.missing == ("model.safetensors",)
    assert set(whole.extra) == NAMES


async def test_an_unsplit_model_goes_when_delete_patterns_name_it(
    uploader: Uploader, hub: LocalHub, folder: Path
) -> None:
    await uploader.push_to_hub("me/m", folder)
    await uploader.push_to_hub("me/m", folder, SHARDED)
    assert "model.safetensors" in await files_of(hub, "me/m")

    options = PushOptions(max_shard_size="9MB", delete_patterns="*.safetensors")
    result = await uploader.push_to_hub("me/m", folder, options)
    assert result.files_deleted == ("model.safetensors",)
    assert await files_of(hub, "me/m") == NAMES | {"config.json", ".gitattributes"}


async def test_shards_can_be_stored_here_and_committed_there(
    uploader: Uploader, hub: LocalHub, folder: Path
) -> None:
    receipts = await uploader.upload_files("me/m", folder, SHARDED)
    await uploader.commit("me/m", receipts)
    assert await files_of(hub, "me/m") == NAMES | {"config.json", ".gitattributes"}


async def test_a_tensor_that_is_too_large_is_warned_of_once(
    hub: LocalHub, config: UploadConfig, folder: Path
) -> None:
    seen: list[Event] = []
    async with Uploader(TOKEN, hub.url, listening(config, seen)) as up:
        options = PushOptions(max_shard_size="3.9MB", dry_run=True)
        result = await up.push_to_hub("me/m", folder, options)
    reported = [event.message for event in seen if isinstance(event, Notice)]
    assert sum("more than max_shard_size" in message for message in reported) == 3
    assert set(reported) == set(result.warnings)


Write = Callable[..., Path]


async def test_a_bad_header_is_refused_before_anything_is_created(
    uploader: Uploader, faults: FaultLayer, write: Write
) -> None:
    source = write({"model.safetensors": b"\xff" * 2000})
    with pytest.raises(SourceError, match=r"model\.safetensors' announces a header of"):
        await uploader.push_to_hub("me/m", source, PushOptions(max_shard_size="1KB"))
    assert not faults.seen
