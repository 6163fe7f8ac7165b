"""Clients of other hands: npm's, old official ones. What they say is what they take the hub for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncpush.localhub import serve_in_thread
from tests.clients import installing
from tests.clients.installing import NotInstalledError
from tests.localhub.conftest import PART_SIZE

pytestmark = pytest.mark.no_cover

NPM_SCRIPT = Path(installing.__file__).with_name("npm.mjs")


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each call of npm's client said, by the name that its script gives it."""
    try:
        folder = installing.npm_package("@huggingface/hub", "2.17")
        node = installing.node()
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    root = tmp_path_factory.mktemp("npm") / "hub"
    with serve_in_thread(root, part_size=PART_SIZE, xet=True, token="hf_local") as hub:
        command = [str(node), str(NPM_SCRIPT), str(folder), hub.url, "hf_local", "me/net"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = map(json.loads, done.stdout.splitlines())
    return {line["call"]: line.get("value", line.get("error")) for line in lines}


def test_npm_uploads_by_xet_and_by_lfs(npm: dict[str, Any]) -> None:
    assert npm["download xet"] is True, npm["upload"]
    assert npm["download"] == [True] * 5, (npm["upload again and more"], npm["upload by lfs"])
    assert ["weights/model.safetensors", 3_000_001] in npm["list"]


def test_npm_commits_to_branches_and_pull_requests(npm: dict[str, Any]) -> None:
    assert len(npm["commit to branch"]) == 40
    assert npm["pull request"].endswith("/me/net/discussions/1")
    assert "lfs.bin" not in npm["delete files"]
    assert npm["a stale parent"] == 412
