"""`asyncpush audit`: exit code 0 means that the repo holds exactly these files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Site

pytestmark = pytest.mark.usefixtures("environment")


def test_what_was_pushed_is_there(cli: Cli, folder: Path, site: Site) -> None:
    cli("push", "me/audited", folder)
    ran = cli("audit", "me/audited", folder)

    assert ran.code == 0
    head = site.commits("models/me/audited")[0]["id"]
    assert ran.out.splitlines() == [
        f"{site.url}/me/audited at {head}",
        "2 equal, 0 missing, 0 different, 0 extra",
    ]


def test_each_difference_is_named(cli: Cli, folder: Path) -> None:
    (folder / "gone.txt").write_text("soon")
    cli("push", "me/differs", folder)
    (folder / "gone.txt").unlink()
    (folder / "new.txt").write_text("new")
    (folder / "config.json").write_text('{"hidden_size": 9}\n')
    ran = cli("audit", "me/differs", folder)

    assert ran.code == 1
    assert ran.out.splitlines()[1:] == [
        "missing    new.txt",
        "different  config.json",
        "extra      gone.txt",
        "1 equal, 1 missing, 1 different, 1 extra",
    ]
    assert ran.err.splitlines()[-1] == "✗ me/differs does not hold exactly these files"


def test_extra_files_can_be_allowed(cli: Cli, folder: Path) -> None:
    cli("push", "me/extra", folder)
    json_alone = ["audit", "me/extra", folder, "--include", "*.json"]
    assert cli(*json_alone).code == 1
    ran = cli(*json_alone, "--allow-extra")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "1 equal, 0 missing, 0 different, 1 extra"

    (folder / "new.json").write_text("{}")
    ran = cli(*json_alone, "--allow-extra")
    assert ran.code == 1
    assert "does not hold all these files" in ran.err


def test_json(cli: Cli, folder: Path) -> None:
    cli("push", "me/audit-json", folder)
    document = cli("audit", "me/audit-json", folder, "--json").document
    assert (document["ok"], document["exact"], document["complete"]) == (True, True, True)

    (folder / "new.txt").write_text("new")
    ran = cli("audit", "me/audit-json", folder, "--json")
    assert ran.code == 1
    assert ran.document["ok"] is False
    assert ran.document["missing"] == ["new.txt"]
    assert ran.document["error"]["type"] == "CommandFailed"


def test_ignored_files_are_missing_with_all_alone(cli: Cli, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "train.log").write_text("epoch 1\n")
    cli("push", "me/audit-ignored", folder)

    ran = cli("audit", "me/audit-ignored", folder)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == (
        "3 equal, 0 missing, 0 different, 0 extra, 1 ignored by a .gitignore"
    )
    assert cli("audit", "me/audit-ignored", folder, "--json").document["ignored"] == ["train.log"]

    ran = cli("audit", "me/audit-ignored", folder, "--all")
    assert ran.code == 1
    assert "missing    train.log" in ran.out.splitlines()
