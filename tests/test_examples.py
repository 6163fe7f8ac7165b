"""Every example runs against the embedded Hub, as its docstring says."""

from __future__ import annotations

import asyncio
import importlib
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
from safetensors.numpy import load

from asyncpush.localhub import LocalHub, serve_in_thread
from tests.buckets import rows_of
from tests.conftest import TOKEN
from tests.reading import commits_of, download, files_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


async def run(name: str, hub: LocalHub, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_push_folder(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    output = await run("push_folder.py", hub, "me/m", str(tmp_path / "out"))
    assert "exactly this folder" in output


async def test_promote(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"weights")
    output = await run("promote.py", hub, str(tmp_path / "out"), "me/staging", "me/m", "v1.2")
    assert output.startswith("v1.2 is out: ")
    assert (await commits_of(hub, "me/m"))[0]["title"] == "v1.2"
    assert await download(hub, "me/m") == {"model.safetensors": b"weights"}


async def test_async_training(hub: LocalHub) -> None:
    output = await run("async_training.py", hub, "me/m")
    steps = [line.split()[1:3] for line in output.splitlines()]
    assert sorted(number for number, _ in steps) == ["100", "200", "300"]
    assert ["300", "pushed"] in steps
    assert {status for _, status in steps} <= {"pushed", "skipped"}
    assert output.count("/commit/") == sum(status == "pushed" for _, status in steps)
    last = await download(hub, "me/m", ["model.bin"])
    assert last["model.bin"] == (300).to_bytes(4, "big") * 50_000


async def test_checkpoints_to_bucket(hub: LocalHub) -> None:
    run_7 = "hf://buckets/me/runs/run-7"
    output = (await run("checkpoints_to_bucket.py", hub, run_7)).splitlines()
    assert output == ["5 pushed", *(f"{run_7}/step-{step} 200013" for step in (300, 400, 500))]
    assert {path.split("/")[1] for path in await rows_of(hub)} == {f"step-{n}00" for n in (3, 4, 5)}


async def test_blocking_training(hub: LocalHub) -> None:
    output = await run("blocking_training.py", hub, "me/m")
    assert output.count("/commit/") == 3
    assert {"step-100/model.bin", "step-300/model.bin"} <= await files_of(hub, "me/m")


async def test_from_memory(hub: LocalHub) -> None:
    output = await run("from_memory.py", hub, "me/m")
    assert output.count("/commit/") == 3
    found = await download(hub, "me/m", ["model.safetensors"])
    weights = load(found["model.safetensors"])
    assert weights["layers.3.weight"].shape == (512, 512)
    assert {int(step) for weight in weights.values() for step in (weight.min(), weight.max())} <= {
        *(100, 101, 200, 201, 300, 301)
    }


async def test_many_models(hub: LocalHub) -> None:
    output = await run("many_models.py", hub, "me")
    assert output.count("/commit/") == 5


async def test_torch_distributed(hub: LocalHub) -> None:
    output = await run("torch_distributed.py", hub, "me/m")
    assert output.count("/commit/") == 1
    assert len(await files_of(hub, "me/m")) == 1 + 4
    assert len(await commits_of(hub, "me/m")) == 2


def test_torch_distributed_gathers_through_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for `torch.distributed` that pickles, as the real one does."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("torch_distributed")
    dist = types.SimpleNamespace(
        init_process_group=lambda backend: None,
        get_rank=lambda: 0,
        get_world_size=lambda: 1,
        gather_object=lambda output, into: into.__setitem__(0, pickle.loads(pickle.dumps(output))),
        destroy_process_group=lambda: None,
    )
    torch = types.ModuleType("torch")
    torch.distributed = dist  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.distributed", dist)
    with serve_in_thread(tmp_path / "hub", token=TOKEN, xet=False) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        example.with_torch("me/m")
        assert len(asyncio.run(commits_of(hub, "me/m"))) == 2

        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(SystemExit, match=r"nothing is committed: .*rank 0"):
            example.with_torch("me/m")


async def test_opentelemetry_tracing(hub: LocalHub) -> None:
    output = await run("opentelemetry_tracing.py", hub, "me/m")
    assert output.startswith("checkpoint ")
    assert "\n  asyncpush.push " in output
    assert output.count("\n        PUT part 200 ") == 3


def test_every_example_is_tested() -> None:
    tested = {name.removeprefix("test_") + ".py" for name in globals() if name.startswith("test_")}
    tested.add("ray_cluster.py")  # in tests/distributed/test_ray.py, where a cluster runs
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested


pytestmark = pytest.mark.timeout(120)
