"""Tensors from memory to the Hub and back, by LFS and by Xet: never a file, never a mixture."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import load, save

from asyncpush import (
    BackgroundUploader,
    CheckpointPusher,
    PushOptions,
    SourceChangedError,
    SourceError,
    Tensors,
    UploadConfig,
    Uploader,
)
from asyncpush.events import PartStored, TransferChosen
from asyncpush.localhub import LocalHub
from tests.cancelling import cancel_promptly
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer
from tests.reading import commits_of, download

RNG = random.Random(2121)

PART_SIZE = 5 << 18
"""More than is read at once."""

NAME = "model.safetensors"

Model = dict[str, Any]


def weights(dtype: Any, *shape: int) -> Any:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(bytearray(RNG.randbytes(count)), np.uint8).view(dtype).reshape(shape)


@pytest.fixture
def model() -> Model:
    """Four parts and a bit; one tensor is not contiguous, one lies across parts."""
    return {
        "embed": weights(ml_dtypes.bfloat16, 1000, 750),
        "turned": weights(np.float16, 750, 600).T,
        "deep": weights(np.float32, 3, 500, 500),
        "bias": weights(np.float32, 3),
        "step": np.array(1000),
    }


def train(array: Any) -> None:
    """Write to the last element."""
    array[(..., *([-1] * array.ndim))] = weights(array.dtype, 1)[0]


def expected(model: Model, metadata: dict[str, str] | None = None) -> bytes:
    return save({name: np.array(array, order="C") for name, array in model.items()}, metadata)


@pytest.fixture
def recorded() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def config(config: UploadConfig, recorded: EventRecorder) -> UploadConfig:
    return replace(config, events=recorded)


@pytest.fixture
async def hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path, faults, part_size=PART_SIZE) as hub:
        yield hub


@pytest.fixture
async def xet_hub(tmp_path: Path, faults: FaultLayer) -> AsyncIterator[LocalHub]:
    async with open_hub(tmp_path / "xet", faults, part_size=PART_SIZE, xet=True) as hub:
        yield hub


@pytest.fixture
async def xet_uploader(xet_hub: LocalHub, config: UploadConfig) -> AsyncIterator[Uploader]:
    async with Uploader(TOKEN, xet_hub.url, config) as uploader:
        yield uploader


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copied"])
async def test_a_state_dict_is_pushed_without_the_disk(
    uploader: Uploader, hub: LocalHub, model: Model, recorded: EventRecorder, copy: bool
) -> None:
    tensors = Tensors(model, {"format": "pt"}, copy)
    result = await uploader.push_to_hub("me/m", {NAME: tensors, "config.json": b"{}"})

    assert result.verified
    found = await download(hub, "me/m")
    assert found == {NAME: expected(model, {"format": "pt"}), "config.json": b"{}"}
    assert len(recorded.of(PartStored)) == -(-len(found[NAME]) // PART_SIZE)


async def test_tensors_alone_become_a_file_with_the_usual_name(
    uploader: Uploader, hub: LocalHub, model: Model
) -> None:
    tensors = Tensors({"bias": model["bias"]})
    for target in ("", "a/", "b/other.safetensors", "c.bin"):
        await uploader.push_to_hub("me/m", tensors, PushOptions(path_in_repo=target))
    paths = {NAME, f"a/{NAME}", "b/other.safetensors", "c.bin"}
    assert await download(hub, "me/m") == dict.fromkeys(paths, save({"bias": model["bias"]}))


@pytest.mark.parametrize("engine", ["lfs", "xet"])
async def test_one_model_in_several_concurrent_pushes(
    engine: str, hub: LocalHub, xet_hub: LocalHub, config: UploadConfig, model: Model
) -> None:
    """Also of tensors that can only be converted as a whole, and are kept one at a time."""

    class Converted:
        def __init__(self, array: Any) -> None:
            self._array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self._array.copy()

    at = xet_hub if engine == "xet" else hub
    one = Tensors({name: Converted(array) for name, array in model.items()})
    other, copy = Tensors(model), Tensors(model, copy=True)
    source = {"one.safetensors": one, "other.safetensors": other, "copy.safetensors": copy}
    async with Uploader(TOKEN, at.url, config) as uploader:
        handles = [uploader.start_push(f"me/m{number}", source) for number in range(3)]
        for handle in handles:
            assert (await handle).verified
    for number in range(3):
        assert await download(at, f"me/m{number}") == dict.fromkeys(source, expected(model))


async def test_bare_tensors_are_refused_with_a_suggestion(uploader: Uploader, model: Model) -> None:
    with pytest.raises(SourceError, match=r"Tensors\(state_dict\)"):
        await uploader.push_to_hub("me/m", model)


@pytest.mark.parametrize("name", ["embed", "turned", "deep", "bias"])
async def test_a_tensor_changed_after_hashing_is_not_committed(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model, name: str
) -> None:
    faults.hooks["batch"] = lambda: train(model[name])
    with pytest.raises(SourceChangedError, match="has changed") as caught:
        await uploader.push_to_hub("me/m", Tensors(model))
    assert "copy=True" in caught.value.suggestion
    assert len(await commits_of(hub, "me/m")) == 1

    await uploader.push_to_hub("me/m", Tensors(model))
    assert (await download(hub, "me/m"))[NAME] == expected(model)


@pytest.mark.parametrize("route", ["preupload", "part", "complete", "commit"])
async def test_tensors_are_committed_consistently(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model, route: str
) -> None:
    """Depending on what was read already, a change is seen, or comes too late or early enough."""
    before = expected(model)

    def train_all() -> None:
        for name in ("embed", "turned", "deep"):
            train(model[name])

    faults.hooks[route] = train_all
    try:
        await uploader.push_to_hub("me/m", Tensors(model))
    except SourceChangedError:
        assert len(await commits_of(hub, "me/m")) == 1
    else:
        assert (await download(hub, "me/m"))[NAME] in (before, expected(model))


class Trigger:
    """A tensor that has something done when it is first read."""

    def __init__(self, array: Any, then: Callable[[], object]) -> None:
        self._array, self._then = array, [then]
        self.shape = array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._array.copy()

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it is on a device")

    def __getitem__(self, key: Any) -> Any:
        while self._then:
            self._then.pop()()
        return self._array[key]


@pytest.mark.parametrize("engine", ["lfs", "xet"])
async def test_a_change_during_the_first_reading_is_seen(
    engine: str, hub: LocalHub, xet_hub: LocalHub, config: UploadConfig, recorded: EventRecorder
) -> None:
    first = weights(np.float32, 1 << 20)
    second = Trigger(weights(np.float32, 1 << 20), lambda: train(first))
    at = xet_hub if engine == "xet" else hub
    async with Uploader(TOKEN, at.url, config) as uploader:
        with pytest.raises(SourceChangedError, match="'a' to 'b'"):
            await uploader.push_to_hub("me/m", Tensors({"a": first, "b": second}))
    assert [event.engine for event in recorded.of(TransferChosen)][:1] == [engine]
    assert len(await commits_of(at, "me/m")) == 1


async def test_parts_are_made_again_when_they_do_not_arrive(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model
) -> None:
    faults.add("part", "reset mid-body", nth=1, times=3)
    await uploader.push_to_hub("me/m", Tensors(model))
    assert len(faults.injected) == 3
    assert (await download(hub, "me/m"))[NAME] == expected(model)


async def test_the_next_push_resumes_after_stored_parts(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model, recorded: EventRecorder
) -> None:
    faults.add("complete", "stall before reading")
    handle = uploader.start_push("me/m", Tensors(model))
    await faults.stalled.wait()
    await cancel_promptly(handle)
    sent = faults.seen["part"]
    faults.rules.clear()

    await uploader.push_to_hub("me/m", Tensors(model, copy=True))
    assert faults.seen["part"] == sent
    assert any(event.resumed for event in recorded.of(PartStored))
    assert (await download(hub, "me/m"))[NAME] == expected(model)


async def test_stored_tensors_are_not_sent_again(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model
) -> None:
    await uploader.push_to_hub("me/m", {NAME: Tensors(model)})
    sent = faults.seen["part"]
    again = await uploader.push_to_hub("me/m", {NAME: Tensors(model)})
    assert again.files_unchanged == (NAME,)
    report = await uploader.audit("me/m", {NAME: Tensors(model)})
    assert report.matching == (NAME,)
    train(model["deep"])
    report = await uploader.audit("me/m", {NAME: Tensors(model)})
    assert report.different == (NAME,)
    assert faults.seen["part"] == sent


@pytest.mark.parametrize(("limit", "shards"), [(1_750_000, 3), (1_000, 4), (1, 5)])
async def test_shards_are_those_of_save_pretrained(
    limit: int, shards: int, uploader: Uploader, hub: LocalHub, model: Model
) -> None:
    """In the order of the dict, which is not that of the bytes in the file. A tensor larger than
    the limit has a shard of its own."""
    await uploader.push_to_hub(
        "me/m", {f"a/{NAME}": Tensors(model, {"format": "pt"})}, PushOptions(max_shard_size=limit)
    )
    plan = split_state_dict_into_shards_factory(
        model,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    found = await download(hub, "me/m")
    index = json.loads(found.pop(f"a/{NAME}.index.json"))
    assert index == {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    assert found == {
        f"a/{shard}": expected({name: model[name] for name in names}, {"format": "pt"})
        for shard, names in plan.filename_to_tensors.items()
    }
    assert len(found) == shards


async def test_a_shard_whose_tensors_change_fails_the_push(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, model: Model
) -> None:
    def train_all() -> None:
        for array in model.values():
            train(array)

    faults.hooks["batch"] = train_all
    with pytest.raises(SourceChangedError):
        await uploader.push_to_hub("me/m", Tensors(model), PushOptions(max_shard_size="1750KB"))
    assert len(await commits_of(hub, "me/m")) == 1


@pytest.mark.parametrize("copy", [False, True], ids=["in place", "copied"])
async def test_xet_is_handed_the_tensors_as_a_stream(
    xet_uploader: Uploader, xet_hub: LocalHub, model: Model, recorded: EventRecorder, copy: bool
) -> None:
    source = {NAME: Tensors(model, copy=copy), "b.safetensors": Tensors({"bias": model["bias"]})}
    result = await xet_uploader.push_to_hub("me/m", source)
    assert {receipt.route for receipt in result.receipts} == {"xet"}
    bias = {"bias": model["bias"]}
    assert await download(xet_hub, "me/m") == {NAME: expected(model), "b.safetensors": save(bias)}
    assert recorded.of(PartStored) == []


async def test_lfs_takes_the_tensors_that_xet_fails_to_store(
    xet_uploader: Uploader, xet_hub: LocalHub, faults: FaultLayer, model: Model
) -> None:
    faults.add("xorb", "403", times=1000)
    result = await xet_uploader.push_to_hub("me/m", Tensors(model))
    assert any("uploading with LFS instead" in warning for warning in result.warnings)
    assert (await download(xet_hub, "me/m"))[NAME] == expected(model)


async def test_a_push_of_tensors_by_xet_is_cancelled_at_once(
    xet_uploader: Uploader, xet_hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("xorb", "stall before reading")
    model = {"noise": weights(np.uint8, 100 << 20)}
    handle = xet_uploader.start_push("me/m", Tensors(model))
    await faults.stalled.wait()
    await cancel_promptly(handle)


async def test_checkpoints_are_pushed_from_memory(uploader: Uploader, hub: LocalHub) -> None:
    array = weights(np.float32, 1000)
    async with CheckpointPusher(uploader, "me/m", policy="all") as pusher:
        for step in range(3):
            array[:] = step
            source = {f"{step}.safetensors": Tensors({"a": array}, copy=True)}
            await pusher.push(source)
        await pusher.flush()
    found = await download(hub, "me/m")
    assert [float(load(found[f"{step}.safetensors"])["a"][0]) for step in range(3)] == [0, 1, 2]


async def test_a_snapshot_of_tensors_is_a_copy_in_memory(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    array = weights(np.float32, 1000)
    before = {"a.safetensors": save({"a": array}), "b.json": b"{}"}
    faults.hooks["preupload"] = lambda: train(array)
    async with CheckpointPusher(uploader, "me/m", snapshot=True) as pusher:
        await pusher.push({"a.safetensors": Tensors({"a": array}), "b.json": b"{}"})
        train(array)
        await pusher.flush()
    assert await download(hub, "me/m") == before


def test_a_training_loop_goes_on_while_its_copy_is_pushed(
    hub_in_thread: LocalHub, config: UploadConfig, model: Model
) -> None:
    before = expected(model)
    with BackgroundUploader(TOKEN, hub_in_thread.url, config) as background:
        tensors = Tensors(model, copy=True)
        kept = weakref.ref(tensors)
        ticket = background.push("me/m", tensors)
        for array in model.values():
            train(array)
        result = ticket.result()
        assert kept() is not None
        del tensors
        gc.collect()
        assert kept() is None  # a ticket that is kept keeps no copy of a model
    assert result.verified
    assert result.receipts[0].oid == hashlib.sha256(before).hexdigest()
