"""In a notebook: a real kernel, real widgets' messages, real interrupts."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from asyncpush.localhub import LocalHub
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import FaultLayer
from tests.reading import commits_of, download, files_of

Write = Callable[..., Path]

QUICKSTART = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def kernel_environment(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel inherits."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def outputs(notebook: Any, cell_id: str) -> list[Any]:
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == cell_id)
    return list(cell.outputs)


def shown(output: Any, kind: str) -> str:
    return str(output.get("data", {}).get(kind, ""))


async def test_the_quickstart_runs_from_top_to_bottom(hub: LocalHub) -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)  # type: ignore[no-untyped-call]
    await NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").async_execute()

    widget, card = outputs(notebook, "push")
    assert "application/vnd.jupyter.widget-view+json" in widget.data
    assert "✓ verified" in shown(card, "text/html")
    (again,) = [shown(output, "text/html") for output in outputs(notebook, "again")][1:]
    assert "24.0 MB already there" in again
    (sent,) = [output["text"] for output in outputs(notebook, "resumed") if "text" in output]
    assert 0 < int(sent.split()[1]) < 45  # MB of 64
    printed = "".join(output.get("text", "") for output in outputs(notebook, "beside"))
    assert "done: 100% of 8,000,000 bytes" in printed
    assert "exactly this folder: True" in printed
    assert [row["title"] for row in await commits_of(hub, "me/quickstart")][:3] == [
        "Trained on",
        "Wider",
        "First weights",
    ]
    assert await files_of(hub, "me/quickstart-3") == {".gitattributes", "weights.bin"}


PUSH = """
import asyncpush
config = asyncpush.UploadConfig(max_concurrent_parts=2, initial_backoff_ms=1)
result = await asyncpush.push_to_hub("me/m", {source!r}, config=config)
result
"""

QUIET = """
import os
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
"""


def widgets(shown: list[dict[str, Any]]) -> list[str]:
    """The widgets that a cell's messages display."""
    kind = "application/vnd.jupyter.widget-view+json"
    views = [message.get("data", {}).get(kind) for message in shown]
    return [view["model_id"] for view in views if view]


class Kernel:
    """A kernel and what its cells have shown."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager = manager
        self._client = client

    async def run(self, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The reply to a cell, and the contents of its output messages."""
        messages: list[dict[str, Any]] = []
        reply = await self._client.execute_interactive(
            code, output_hook=messages.append, timeout=PATIENCE
        )
        return reply["content"], [message["content"] for message in messages]


@asynccontextmanager
async def a_kernel() -> AsyncIterator[Kernel]:
    manager = AsyncKernelManager()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=PATIENCE)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


async def test_an_interrupted_cell_resumes_when_run_again(
    hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    content = random.Random(1).randbytes(8 * PART_SIZE)
    cell = PUSH.format(source=str(write({"model.bin": content})))
    faults.add("part", "stall before reading", nth=5, times=99)
    both_held = asyncio.Event()

    def count() -> None:
        if faults.seen["part"] == 6:  # four are stored, and their answers were read
            both_held.set()
        else:
            faults.hooks["part"] = count

    faults.hooks["part"] = count
    async with a_kernel() as kernel:
        running = asyncio.create_task(kernel.run(cell))
        await both_held.wait()
        await kernel.manager.interrupt_kernel()
        reply, shown = await running
        assert reply["status"] == "error"
        assert reply["ename"] in ("CancelledError", "KeyboardInterrupt")
        assert "pipeline" not in "".join(reply["traceback"])  # the user's cell, not our insides
        assert faults.seen["commit"] == 0

        faults.rules.clear()
        reply, shown = await kernel.run(cell)
        assert reply["status"] == "ok"
        assert len(widgets(shown)) == 1
        cards = [message.get("data", {}).get("text/html", "") for message in shown]
        assert any("✓ verified" in card for card in cards)

        reply, shown = await kernel.run(QUIET + cell)
        assert reply["status"] == "ok"
        assert widgets(shown) == []
    assert faults.seen["part"] == 8 + 2  # those in flight alone were sent twice
    assert await download(hub, "me/m") == {"model.bin": content}


async def test_the_quickstart_is_committed_without_outputs() -> None:
    for cell in json.loads(QUICKSTART.read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
