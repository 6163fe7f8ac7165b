"""`--max-shard-size`, in every command that reads a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Cli, Site

pytestmark = pytest.mark.usefixtures("environment")

NAMES = {
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    tensors = {name: np.zeros(200_000, np.float32) for name in "abc"}
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


def test_a_sharded_push_passes_an_audit(cli: Cli, model: Path, site: Site) -> None:
    sharded = ("me/split", model, "--max-shard-size", "2MB")
    plan = cli("push", *sharded, "--dry-run")
    assert {line.split()[-1] for line in plan.out.splitlines()[1:-1]} == NAMES

    assert cli("push", *sharded).code == 0
    assert site.files("models/me/split") == NAMES
    assert cli("audit", *sharded).code == 0
    assert cli("audit", "me/split", model).code == 1


def test_shards_are_stored_and_committed_later(cli: Cli, model: Path, site: Site) -> None:
    ran = cli("upload", "me/later", model, "--max-shard-size", "2MB", "--receipts", "out.json")
    assert ran.out.splitlines()[1].startswith("3 receipts for 2.4")
    assert cli("commit", "me/later", "out.json").code == 0
    assert site.files("models/me/later") == NAMES


def test_a_manifest_may_say_so(cli: Cli, model: Path, site: Site, tmp_path: Path) -> None:
    manifest = tmp_path / "many.toml"
    manifest.write_text(
        '[defaults]\nmax_shard_size = "2MB"\n\n[[push]]\nrepo_id = "me/one"\nsource = "model"\n'
    )
    assert cli("many", manifest).code == 0
    assert site.files("models/me/one") == NAMES


@pytest.mark.parametrize("size", ["4XB", "0", "GB"])
def test_an_invalid_shard_size_is_a_usage_error(cli: Cli, model: Path, size: str) -> None:
    ran = cli("push", "me/m", model, "--max-shard-size", size)
    assert ran.code == 2
    assert "--max-shard-size must be" in ran.err
