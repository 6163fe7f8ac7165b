"""`asyncpush push`: what it prints, what its flags do, what scripts get."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from asyncpush import UploadResult
from tests.cli.conftest import PATIENCE, TOKEN, Cli, Site, Start
from tests.sources.test_leaks import body

pytestmark = pytest.mark.usefixtures("environment")


def test_the_commit_is_the_first_line_of_the_result(cli: Cli, folder: Path, site: Site) -> None:
    ran = cli("push", "me/first", folder)

    assert ran.code == 0
    url, counts = ran.out.splitlines()
    assert url.startswith(f"{site.url}/me/first/commit/")
    assert counts.startswith("2 files committed, 2.50 MB sent in ")
    assert counts.endswith(", verified")
    assert "✓ Upload complete  me/first" in ran.err


def test_json_is_one_object_with_every_field_of_the_result(cli: Cli, folder: Path) -> None:
    ran = cli("push", "me/json", folder, "--json")

    assert ran.code == 0
    assert ran.document["ok"] is True
    names = {field.name for field in fields(UploadResult)} - {"activity"}  # that is for pictures
    assert names <= set(ran.document)
    assert "activity" not in ran.document
    assert sorted(ran.document["files_uploaded"]) == ["config.json", "weights.bin"]
    assert ran.document["verified"] is True
    assert ran.document["bytes_transferred"] == 2_500_000 + 19
    routes = {row["path_in_repo"]: row["route"] for row in ran.document["receipts"]}
    assert routes == {"config.json": "inline", "weights.bin": "lfs"}


def test_a_second_push_says_that_nothing_is_new(cli: Cli, folder: Path) -> None:
    cli("push", "me/again", folder)
    ran = cli("push", "me/again", folder, "--no-verify")

    assert ran.out.splitlines()[1] == (
        "nothing new, no commit was needed, 2 unchanged, not verified"
    )


def test_a_push_of_ignored_files_alone_says_so(cli: Cli, folder: Path) -> None:
    (folder / ".gitignore").write_text("*\n")
    ran = cli("push", "me/all-ignored", folder)

    assert ran.code == 0
    assert ran.out.splitlines()[1] == "nothing was pushed, 3 ignored by the Hub, verified"
    assert "nothing sent, all files are ignored by .gitignore" in ran.err


def test_quiet_draws_nothing(cli: Cli, folder: Path) -> None:
    assert cli("push", "me/quiet", folder, "--quiet").err == ""


def test_a_dry_run_shows_the_plan_and_changes_nothing(cli: Cli, folder: Path) -> None:
    cli("push", "me/dry", folder)
    (folder / "new.txt").write_text("new")
    (folder / "config.json").unlink()
    ran = cli("push", "me/dry", folder, "--dry-run", "--delete", "*.json")

    assert ran.code == 0
    assert "✓ Dry run, nothing sent  me/dry" in ran.err
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["delete", "config.json"],
        ["inline", "3", "B", "new.txt"],
        ["unchanged", "2.50", "MB", "weights.bin"],
        ["1", "file", "to", "send,", "3", "B"],
    ]

    plan = cli("push", "me/dry", folder, "--dry-run", "--json").document["plan"]
    assert {"path_in_repo": "new.txt", "size": 3, "action": "inline"} in plan


def test_flags_reach_the_repo(cli: Cli, folder: Path, site: Site) -> None:
    words = ["--repo-type", "dataset", "--private", "--path-in-repo", "deep/down"]
    words += ["--include", "*.json", "--include", "*.bin", "--exclude", "*.bin"]
    words += ["--message", "The words", "--description", "More of them"]
    words += ["--model-card", "# A card\n", "--transfer", "lfs", "--max-parts", "2"]
    ran = cli("push", "me/flags", folder, *words)

    assert ran.code == 0
    assert site.files("datasets/me/flags") == {"README.md", "deep/down/config.json"}
    assert site.json("/api/datasets/me/flags")["private"] is True
    newest = site.commits("datasets/me/flags")[0]
    assert newest["title"] == "The words"
    assert newest["message"].startswith("More of them")


def test_the_words_of_hf_upload_are_understood(cli: Cli, folder: Path, site: Site) -> None:
    words = ["--type", "dataset", "--commit-message", "First", "--commit-description", "The rest"]
    ran = cli("push", "me/words", folder, "/train", *words, "-q")

    assert (ran.code, ran.err) == (0, "")
    paths = site.files("datasets/me/words") - {".gitattributes"}
    assert paths
    assert all(path.startswith("train/") for path in paths)
    newest = site.commits("datasets/me/words")[0]
    assert newest["title"] == "First"
    assert newest["message"].startswith("The rest\n")


def test_a_point_is_the_top_of_the_repo(cli: Cli, folder: Path, site: Site) -> None:
    ran = cli("push", "me/top", folder, ".")
    assert ran.code == 0
    assert "config.json" in site.files("models/me/top")


def test_a_path_in_the_repo_is_said_once(cli: Cli, folder: Path) -> None:
    ran = cli("push", "me/twice", folder, "one", "--path-in-repo", "two")
    assert ran.code == 2
    assert "PATH_IN_REPO and --path-in-repo mean the same setting: leave out one" in ran.err

    ran = cli("push", "hf://me/twice/one", folder, "two")
    assert ran.code == 2
    assert "'two' contradicts hf://me/twice/one" in ran.err


def test_a_branch_is_made_when_asked_for(cli: Cli, folder: Path, site: Site) -> None:
    cli("push", "me/branches", folder)
    (folder / "new.txt").write_text("new")
    refused = cli("push", "me/branches", folder, "--revision", "next")
    ran = cli("push", "me/branches", folder, "--revision", "next", "--create-branch")

    assert refused.code == 1
    assert "(--create-branch) creates it" in refused.err
    assert ran.code == 0
    assert "new.txt" in site.files("models/me/branches", "next")
    assert "new.txt" not in site.files("models/me/branches")


def test_a_pull_request_is_where_the_result_points(cli: Cli, folder: Path, site: Site) -> None:
    cli("push", "me/pulls", folder)
    (folder / "new.txt").write_text("new")
    ran = cli("push", "me/pulls", folder, "--create-pr")

    assert ran.out.splitlines()[0] == f"{site.url}/me/pulls/discussions/1"
    assert "new.txt" not in site.files("models/me/pulls")


def test_deletions_are_counted(cli: Cli, folder: Path, site: Site) -> None:
    cli("push", "me/deletions", folder)
    (folder / "config.json").unlink()
    ran = cli("push", "me/deletions", folder, "--delete", "*.json")

    assert ran.out.splitlines()[1] == "1 unchanged, 1 deleted, verified"
    assert site.files("models/me/deletions") == {"weights.bin"}


def test_files_that_the_hub_ignores_are_counted(cli: Cli, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log")
    (folder / "train.log").write_text("log")

    assert "1 ignored by the Hub" in cli("push", "me/ignored", folder).out


def test_events_are_written_to_the_file(cli: Cli, folder: Path, tmp_path: Path) -> None:
    cli("push", "me/events", folder, "--events", tmp_path / "events.jsonl", "--quiet")

    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert rows[0]["event"] == "push.started"
    assert rows[-1]["event"] == "push.finished"
    assert all({"event", "time", "push_id"} <= set(row) for row in rows)


def test_a_token_on_the_command_line_is_warned_of(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = cli("push", "me/visible", folder, "--token", TOKEN)

    assert ran.code == 0
    assert "set HF_TOKEN instead" in ran.err
    assert TOKEN not in ran.err


def test_verbose_shows_requests_without_the_token(cli: Cli, folder: Path) -> None:
    ran = cli("push", "me/verbose", folder, "--verbose", "--quiet")

    assert ran.code == 0
    assert "asyncpush.http" in ran.err
    assert "preupload" in ran.err
    assert TOKEN not in ran.err


def test_the_embedded_hub_is_an_endpoint(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = cli("push", "me/local", folder, "--endpoint", "local")

    assert ran.code == 0
    assert (tmp_path / "cache" / "hub").is_dir()


def test_what_looks_like_a_credential_is_warned_of(start: Start, folder: Path) -> None:
    (folder / ".env").write_text(f"GITHUB=ghp_{body(36)}\n")
    ran = start("push", "me/warned", folder, "--quiet").end()
    assert ran.code == 0
    assert "'.env' looks like a file of credentials" in ran.err
    assert "'.env', line 1, looks like a GitHub token" in ran.err
    assert body(36) not in ran.out + ran.err


@pytest.mark.parametrize(
    "command",
    [
        ["push", "me/strict", "model", "--strict"],
        ["upload", "me/strict", "model", "--receipts", "out.json", "--strict"],
        ["many", "many.toml", "--strict"],
        ["many", "strict.toml"],
    ],
    ids=" ".join,
)
def test_strict_refuses_it(cli: Cli, folder: Path, tmp_path: Path, command: list[str]) -> None:
    (folder / ".env").write_text(f"GITHUB=ghp_{body(36)}\n")
    push = '[[push]]\nrepo_id = "me/strict"\nsource = "model"\n'
    (tmp_path / "many.toml").write_text(push)
    (tmp_path / "strict.toml").write_text(f"{push}strict = true\n")

    ran = cli(*command)
    said = " ".join(ran.err.split())
    assert ran.code == 1
    assert "'.env', line 1, looks like a GitHub token" in said
    assert "--exclude" in said
    assert body(36) not in ran.out + ran.err


def test_files_written_by_the_command_are_left_out(cli: Cli, folder: Path, site: Site) -> None:
    outputs = {flag: folder / f"{flag}.json" for flag in ("events", "timeline", "receipts")}
    for path in outputs.values():  # of an earlier run
        path.write_text("")
    flags = [f"--{flag}={path}" for flag, path in outputs.items()]

    pushed = cli("push", "me/outputs", folder, *flags[:2], "--json")
    stored = cli("upload", "me/receipts", folder, *flags)

    assert pushed.code == stored.code == 0
    assert site.files("models/me/outputs") == {"config.json", "weights.bin", "receipts.json"}
    output = str(outputs["events"])
    assert (
        f"{output!r} is a file that events are written to: left out" in pushed.document["warnings"]
    )
    receipts = json.loads(outputs["receipts"].read_text())
    assert [row["path_in_repo"] for row in receipts["receipts"]] == ["config.json", "weights.bin"]


def test_where_the_output_goes_is_no_source(folder: Path, site: Site) -> None:
    with open(folder / "out.log", "wb") as out, open(folder / "err.log", "wb") as err:
        words = [sys.executable, "-m", "asyncpush", "push", "me/printed", str(folder)]
        subprocess.run(words, stdout=out, stderr=err, timeout=PATIENCE, check=True)

    assert site.files("models/me/printed") == {"config.json", "weights.bin"}


def test_push_upload_commit_and_audit_take_addresses(
    site: Site, cli: Cli, folder: Path, tmp_path: Path
) -> None:
    receipts = tmp_path / "receipts.json"
    address = "hf://kernels/me/addressed/build"
    assert cli("upload", address, folder, "--receipts", receipts).code == 0
    assert cli("commit", f"{site.url}/kernels/me/addressed", receipts).code == 0
    assert cli("audit", f"{site.url}/kernels/me/addressed/tree/main/build", folder).code == 0
    assert cli("push", f"{address}/", folder / "config.json", "--json").code == 0
    assert cli("audit", address, folder, "--json").document["complete"]
