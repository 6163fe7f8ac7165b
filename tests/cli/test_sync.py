"""`asyncpush sync`: what it prints, what its flags do, and buckets in `audit` and `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from asyncpush.events.schema import event_schema
from asyncpush.localhub import serve_in_thread
from tests.cli.conftest import TOKEN, Cli, Site
from tests.cli.test_output_schema import check

pytestmark = pytest.mark.usefixtures("environment")

RUN = "hf://buckets/me/runs/run-7"


def bucket(name: str) -> str:
    """One that no other test has written to: they share a Hub."""
    return f"hf://buckets/me/{name}/run-7"


def test_a_folder_goes_to_a_bucket(cli: Cli, folder: Path, site: Site) -> None:
    ran = cli("sync", folder, RUN, "--marker", "--private")
    assert ran.code == 0
    url, counts = ran.out.splitlines()
    assert url == f"{site.url}/buckets/me/runs"
    assert counts.startswith("2 files uploaded, ")
    assert counts.endswith(", verified, marked as complete")
    assert "✓ Sync complete  me/runs" in ran.err

    ran = cli("sync", folder, RUN, "--marker", "--quiet")
    assert ran.out.splitlines()[1] == "nothing new, 2 unchanged, verified, marked as complete"
    assert ran.err == ""


def test_json_is_one_object_also_of_what_failed(cli: Cli, folder: Path) -> None:
    run = bucket("json")
    planned = check("sync", cli("sync", folder, run, "--dry-run", "--json"))
    assert {file["action"] for file in planned["plan"]} == {"xet"}
    done = check("sync", cli("sync", folder, run, "--json"))
    assert done["files_uploaded"] == ["run-7/config.json", "run-7/weights.bin"]
    (folder / "config.json").unlink()
    gone = check("sync", cli("sync", folder, run, "--delete", "--json", "--no-verify"))
    assert (gone["files_deleted"], gone["verified"]) == (["run-7/config.json"], False)
    refused = check("sync", cli("sync", folder, "hf://buckets/me/none", "--no-create", "--json"))
    assert refused["error"]["type"] == "RepoNotFoundError"


def test_a_partial_sync_reports_done_and_failed_files(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    faults = ["bucket-batch=lie:1"]
    with serve_in_thread(tmp_path / "other", token=TOKEN, faults=faults) as hub:
        ran = cli("sync", folder, RUN, "--json", "--endpoint", hub.url)
    document = check("sync", ran)
    assert ran.code == 1
    assert document["error"]["type"] == "SyncError"
    assert document["error"]["problems"][0] == "run-7/config.json: missing"
    assert document["verified"] is False


def test_a_dry_run_is_a_list(cli: Cli, folder: Path) -> None:
    run = bucket("dry")
    cli("sync", folder, run)
    (folder / "new.txt").write_text("new")
    (folder / "config.json").unlink()
    ran = cli("sync", folder, run, "--dry-run", "--delete")
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["delete", "run-7/config.json"],
        ["upload", "3", "B", "run-7/new.txt"],
        ["unchanged", "2.50", "MB", "run-7/weights.bin"],
        ["1", "file", "to", "send,", "3", "B"],
    ]


def test_wrong_addresses_say_what_is_right(cli: Cli, folder: Path) -> None:
    ran = cli("sync", folder, "me/model")
    assert ran.code == 2
    assert "is not the address of a bucket" in ran.err
    ran = cli("push", RUN, folder)
    assert ran.code == 2
    assert "asyncpush sync" in ran.err
    assert "--marker needs" in cli("sync", folder, RUN, "--marker", "--no-verify").err


def test_audit_and_doctor_take_a_bucket(cli: Cli, folder: Path, site: Site) -> None:
    run = bucket("audited")
    cli("sync", folder, run)
    ran = cli("audit", run, folder)
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [f"{site.url}/buckets/me/audited", "2 equal, 0 missing, 0 different, 0 extra"],
    )
    (folder / "new.txt").write_text("new")
    assert check("audit", cli("audit", run, folder, "--json"))["missing"] == ["run-7/new.txt"]
    document = check("doctor", cli("doctor", run, "--json"))
    assert {"name": "repo", "verdict": "ok"}.items() <= next(
        row for row in document["checks"] if row["name"] == "repo"
    ).items()


def test_a_sync_writes_events_and_a_timeline(cli: Cli, folder: Path, tmp_path: Path) -> None:
    events, drawn = tmp_path / "e.jsonl", tmp_path / "t.json"
    run = bucket("events")
    ran = cli("sync", folder, run, "--events", events, "--timeline", drawn, "--quiet")
    assert ran.code == 0
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    valid = Draft202012Validator(event_schema())
    for row in rows:
        valid.validate(row)
    calls = {row["event"] for row in rows}
    assert {"hf_hub.bucket_batch", "hf_hub.bucket_batch.response", "commit.verified"} <= calls
    assert {row["push_id"] for row in rows} == {rows[0]["push_id"]}
    (batch,) = [row for row in rows if row["event"] == "hf_hub.bucket_batch"]
    assert (batch["repo_id"], batch["operations"]) == ("hf://buckets/me/events", 2)
    shown = {event["name"] for event in json.loads(drawn.read_text())["traceEvents"]}
    assert any("bucket_batch" in name for name in shown), shown
