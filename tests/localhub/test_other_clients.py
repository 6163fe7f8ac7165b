"""Clients of other hands: npm's, old official ones. What they say is what they take the hub for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncpush.localhub import serve_in_thread
from tests.clients import installing
from tests.clients.installing import NotInstalledError
from tests.localhub.conftest import PART_SIZE

pytestmark = pytest.mark.no_cover

NPM_SCRIPT = Path(installing.__file__).with_name("npm.mjs")
OFFICIAL_SCRIPT = Path(installing.__file__).with_name("official.py")


def said(command: Sequence[str | Path], **environment: str) -> dict[str, Any]:
    """What each call of a client's script said, by the name that the script gives it."""
    done = subprocess.run(
        [str(word) for word in command],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["call"]: line.get("value", line.get("error")) for line in lines}


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    try:
        folder = installing.npm_package("@huggingface/hub", "2.17")
        node = installing.node()
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    root = tmp_path_factory.mktemp("npm") / "hub"
    with serve_in_thread(root, part_size=PART_SIZE, xet=True, token="hf_local") as hub:
        return said([node, NPM_SCRIPT, folder, hub.url, "hf_local", "me/net"])


def test_npm_uploads_by_xet_and_by_lfs(npm: dict[str, Any]) -> None:
    assert npm["download xet"] is True, npm["upload"]
    assert npm["download"] == [True] * 5, (npm["upload again and more"], npm["upload by lfs"])
    assert ["weights/model.safetensors", 3_000_001] in npm["list"]


def test_npm_looks_at_files_and_commits(npm: dict[str, Any]) -> None:
    assert npm["file exists"] == [True, False]
    assert npm["count commits"] == 4
    assert npm["model info"] == "me/net"
    assert npm["list models"] == ["me/net"]


def test_npm_commits_to_branches_and_pull_requests(npm: dict[str, Any]) -> None:
    assert len(npm["commit to branch"]) == 40
    assert npm["pull request"].endswith("/me/net/discussions/1")
    assert "lfs.bin" not in npm["delete files"]
    assert npm["a stale parent"] == 412


@pytest.mark.parametrize("settings", [{}, {"HF_HUB_DISABLE_XET": "1"}])
def test_the_installed_official_client_works_with_the_hub(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """By Xet, which a hub grants unless told otherwise, and by LFS."""
    with serve_in_thread(tmp_path / "hub", part_size=PART_SIZE, token="hf_local") as hub:
        command: list[str | Path] = [sys.executable, OFFICIAL_SCRIPT, hub.url, "hf_local"]
        environment = {"HF_ENDPOINT": hub.url, "HOME": str(tmp_path), **settings}
        output = said([*command, "me/net", tmp_path], **environment)
        assert (hub.root / "xet" / "xorbs").exists() == (not settings)
    assert output["upload"] is True, output["upload"]
    assert output["download"] is True
    assert output["pull request"] == [1, True, True]
    assert output["delete"] is None


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """huggingface_hub 0.16: its LFS batch has Basic auth."""
    try:
        packages = installing.python_packages("huggingface_hub==0.16.4")
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    work = tmp_path_factory.mktemp("old")
    with serve_in_thread(work / "hub", part_size=PART_SIZE, token="hf_local", xet=False) as hub:
        command: list[str | Path] = [sys.executable, OFFICIAL_SCRIPT, hub.url, "hf_local"]
        environment = {"PYTHONPATH": str(packages), "HF_ENDPOINT": hub.url, "HOME": str(work)}
        return said([*command, "me/net", work], **environment)


def test_an_old_official_client_uploads_to_a_private_repo(old: dict[str, Any]) -> None:
    assert old["version"] == "0.16.4"
    assert old["upload"] is True, old["upload"]
    assert old["download"] is True
    assert old["info"] == [40, True]


def test_an_old_official_client_commits_and_deletes(old: dict[str, Any]) -> None:
    assert old["stale parent"] is True
    assert old["commits"] == ["more", "Upload folder using huggingface_hub", "initial commit"]
    assert "config.json" not in old["branch"]
    assert old["pull request"] == [1, True, True]
    assert "data/other.bin" not in old["listed at last"]
    assert old["delete"] is None
