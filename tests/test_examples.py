"""Every example runs against the embedded Hub, as its docstring says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.reading import download, files_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


async def run(name: str, hub: LocalHub, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode()


async def test_push_folder(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    told = await run("push_folder.py", hub, "me/m", str(tmp_path / "out"))
    assert "exactly this folder" in told


async def test_async_training(hub: LocalHub) -> None:
    told = await run("async_training.py", hub, "me/m")
    steps = [line.split()[1:3] for line in told.splitlines()]
    assert sorted(number for number, _ in steps) == ["100", "200", "300"]
    assert ["300", "pushed"] in steps
    assert {status for _, status in steps} <= {"pushed", "skipped"}
    assert told.count("/commit/") == sum(status == "pushed" for _, status in steps)
    last = await download(hub, "me/m", ["model.bin"])
    assert last["model.bin"] == (300).to_bytes(4, "big") * 50_000


async def test_blocking_training(hub: LocalHub) -> None:
    told = await run("blocking_training.py", hub, "me/m")
    assert told.count("/commit/") == 3
    assert {"step-100/model.bin", "step-300/model.bin"} <= await files_of(hub, "me/m")


async def test_many_models(hub: LocalHub) -> None:
    told = await run("many_models.py", hub, "me")
    assert told.count("/commit/") == 5


async def test_many_machines(hub: LocalHub) -> None:
    told = await run("many_machines.py", hub, "me/m")
    assert told.count("/commit/") == 1
    assert len(await files_of(hub, "me/m")) == 1 + 4


async def test_opentelemetry_tracing(hub: LocalHub) -> None:
    told = await run("opentelemetry_tracing.py", hub, "me/m")
    assert told.startswith("checkpoint ")
    assert "\n  asyncpush.push " in told
    assert told.count("\n        PUT part 200 ") == 3


def test_every_example_is_tested() -> None:
    tested = {name.removeprefix("test_") + ".py" for name in globals() if name.startswith("test_")}
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested


pytestmark = pytest.mark.timeout(120)
