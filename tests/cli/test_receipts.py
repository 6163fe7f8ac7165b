"""`asyncpush upload` here, `asyncpush commit` there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from asyncpush.own_files import write_atomically
from tests.cli.conftest import Cli, Site

pytestmark = pytest.mark.usefixtures("environment")


def test_two_machines_store_and_one_commits(
    cli: Cli, folder: Path, site: Site, tmp_path: Path
) -> None:
    one = cli("upload", "me/parts", folder, "--include", "*.json", "--receipts", "one.json")
    two = cli("upload", "me/parts", folder, "--exclude", "*.json", "--receipts", "two.json")

    assert (one.code, two.code) == (0, 0)
    assert one.out.splitlines() == ["one.json", "1 receipt for 19 B, 0 B sent; not yet committed"]
    assert "1 receipt for 2.50 MB, 2.50 MB sent" in two.out
    assert site.files("models/me/parts") == set()

    ran = cli("commit", "me/parts", "one.json", "two.json", "--message", "Both")
    assert ran.code == 0
    assert ran.out.splitlines()[1].startswith("2 files committed")
    assert site.files("models/me/parts") == {"config.json", "weights.bin"}
    assert site.commits("models/me/parts")[0]["title"] == "Both"
    assert site.read("/me/parts/resolve/main/weights.bin") == (folder / "weights.bin").read_bytes()


def test_a_commit_of_receipts_can_delete(cli: Cli, folder: Path, site: Site) -> None:
    cli("push", "me/old", folder)
    (folder / "weights.bin").rename(folder / "renamed.bin")
    cli("upload", "me/old", folder, "--receipts", "out.json")
    assert cli("commit", "me/old", "out.json", "--delete", "*.bin").code == 0
    assert site.files("models/me/old") == {"config.json", "renamed.bin"}


def test_json(cli: Cli, folder: Path) -> None:
    ran = cli("upload", "me/receipts", folder, "--receipts", "out.json", "--json")
    assert ran.document["receipts_file"] == "out.json"
    assert ran.document["bytes_transferred"] == 2_500_000
    assert {row["path_in_repo"] for row in ran.document["receipts"]} == {
        "config.json",
        "weights.bin",
    }
    assert cli("commit", "me/receipts", "out.json", "--json").document["ok"] is True


def test_receipts_hold_the_bytes_of_small_files(cli: Cli, folder: Path, tmp_path: Path) -> None:
    cli("upload", "me/inline", folder, "--receipts", "out.json")
    rows = json.loads((tmp_path / "out.json").read_bytes())["receipts"]
    assert [("content" in row, row["route"]) for row in rows] == [(True, "inline"), (False, "lfs")]


@pytest.mark.parametrize("target", ["missing/out.json", "."])
def test_an_unwritable_receipts_file_is_reported_first(target: str, cli: Cli, folder: Path) -> None:
    ran = cli("upload", "me/early", folder, "--receipts", target)
    assert ran.code == 2
    assert "--receipts must be a file in a folder that exists" in ran.err


def test_every_unusable_file_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    ran = cli("commit", "me/none", "bad.json", "missing.json")
    assert ran.code == 1
    assert "bad.json: not a receipts file" in ran.err
    assert "missing.json: No such file or directory" in ran.err

    assert "cannot use this file: bad.json" in cli("commit", "me/none", "bad.json").err


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    write_atomically(path, b"old")

    def fail(*names: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="gone"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.json"]
