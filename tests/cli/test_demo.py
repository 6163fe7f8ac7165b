"""`asyncpush demo`: the main job, with nothing needed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from asyncpush import IntegrityError, UploadResult
from asyncpush.cli import demo
from asyncpush.cli.demo import read_back
from asyncpush.localhub import serve_in_thread
from tests.cli.conftest import Cli


def test_the_whole_job_twice(cli: Cli, tmp_path: Path) -> None:
    ran = cli("demo")

    assert ran.code == 0
    output = [re.split(" {2,}", line, maxsplit=1) for line in ran.out.splitlines()[:8]]
    names, texts = zip(*output, strict=True)
    assert names == ("repo", "commit", "files", "with LFS", "with Xet", "", "verified", "read back")
    assert texts[0].endswith("/demo/tiny-model")
    assert len(texts[1]) == 40
    assert texts[2] == "3, 22.0 MB"
    assert texts[3].startswith("3 parts, the ETag of each compared; ")
    assert re.match(r"other weights: (1[5-9]|2[0-2])\.\d/22\.0 MB sent; .* MB/s", texts[4])
    assert re.match(r"one tensor of 7 changed: [01]\.\d/22\.0 MB sent$", texts[5])
    assert "downloaded back and compared: 3 files equal" in ran.out
    assert f"asyncpush hub --root {tmp_path}/cache/hub --port " in ran.out
    assert "✓ Upload complete  demo/tiny-model" in ran.err

    ran = cli("demo", "--quiet", "--json")
    assert ran.code == 0
    facts = ran.document
    assert (facts["ok"], facts["verified"]) == (True, True)
    assert facts["files_uploaded"] == ["model.safetensors"]  # other weights, the same card
    assert (facts["files"], facts["parts"]) == (3, 3)
    lfs, other, changed = facts["pushes"]
    assert [push["route"] for push in (lfs, other, changed)] == ["lfs", "xet", "xet"]
    assert lfs["bytes_transferred"] > 10 * changed["bytes_transferred"] > 0
    assert changed["bytes_deduplicated"] > 20_000_000


def test_the_model_can_be_kept_and_is_one(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = cli("demo", "--keep", tmp_path / "kept", "--quiet")
    assert ran.code == 0
    assert f"The model is in {tmp_path}/kept." in ran.out

    with safe_open(tmp_path / "kept" / "model.safetensors", framework="np") as model:
        assert model.get_tensor("embed_tokens.weight").shape == (8192, 512)
        assert 0.01 < model.get_tensor("norm.weight").std() < 0.03
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["hidden_size"] == 512
    card = (tmp_path / "kept" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: safetensors\ntags:\n")

    monkeypatch.setitem(demo.TENSORS, "embed_tokens.weight", (64, 512))
    assert cli("demo", "--keep", tmp_path / "kept", "--quiet").code == 0


def test_other_files_are_not_pushed_by_accident(cli: Cli, folder: Path) -> None:
    ran = cli("demo", "--keep", folder)
    assert ran.code == 2
    assert "'weights.bin'" in ran.err


@pytest.mark.parametrize("missing", ["safetensors", "pygit2"])
def test_a_missing_extra_is_named(missing: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("asyncpush.localhub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    ran = cli("demo")
    assert ran.code == 1
    assert f"needs {missing}" in ran.err
    assert "pip install 'asyncpush[hub]'" in ran.err
    assert "Traceback" not in ran.err


def test_other_bytes_are_not_taken_for_the_same(cli: Cli, folder: Path, tmp_path: Path) -> None:
    with serve_in_thread(tmp_path / "open", xet=False) as hub:
        ran = cli("push", "me/m", folder, "--endpoint", hub.url, "--token", "any", "--json")
        sha = ran.document["commit_sha"]
        result = UploadResult(
            f"{hub.url}/me/m", sha, "", ("config.json",), 0, 0, True, 1.0, None, ("weights.bin",)
        )
        assert read_back(result, folder) == (2, 2_500_019)

        (folder / "config.json").write_text("changed")
        with pytest.raises(IntegrityError, match=r"the bytes of config\.json"):
            read_back(result, folder)


def test_the_demo_needs_no_network_and_no_xet(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setitem(demo.TENSORS, "embed_tokens.weight", (64, 512))
    ran = cli("demo", "--quiet")
    assert ran.code == 0
    assert "with LFS, again" in ran.out
    assert "with Xet" not in ran.out
