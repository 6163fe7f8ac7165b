"""A test that hangs is a failure, and not the end of all others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HANGING = """
import asyncio, threading
import pytest
from tests import timeouts

timeouts.INTERRUPTED_AGAIN = 0.3

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def fixture():
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(3600))
        yield
        task.cancel()
        print("cleaned up")

@pytest.fixture
async def hangs_at_the_start():
    await asyncio.sleep(3600)
    yield

@pytest.fixture
async def hangs_at_the_end():
    yield
    await asyncio.sleep(3600)

async def test_waiting(fixture):
    await asyncio.sleep(3600)

async def test_waiting_again_when_cancelled(fixture):
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(3600)

async def test_blocking_the_loop(fixture):
    threading.Event().wait()

async def test_start(fixture, hangs_at_the_start):
    pass

async def test_end(fixture, hangs_at_the_end):
    pass

async def test_interrupted_elsewhere(fixture):
    async def other():
        try:
            threading.Event().wait()
        except BaseException:
            pass
    task = asyncio.create_task(other())
    await asyncio.sleep(3600)

@pytest.mark.timeout(30)
async def test_the_next_one(fixture):
    pass
"""

HANGING_TESTS = set(re.findall(r"def test_(\w+)", HANGING)) - {"the_next_one"}


def test_whatever_hangs_ends_and_the_next_test_is_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    options = ["-vrA", "-p", "tests.timeouts", "-p", "no:cacheprovider", "-o", "anyio_mode=auto"]
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "--timeout=0.3",
            f"--rootdir={tmp_path}",
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    ended = re.findall(r"::test_(\w+) (PASSED|FAILED|ERROR)", ran.stdout)
    assert {name for name, outcome in ended if outcome != "PASSED"} == HANGING_TESTS
    assert ended[-1] == ("the_next_one", "PASSED")
