"""`asyncpush copy`: what it prints, and which options go with which destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncpush.localhub import serve_in_thread
from tests.cli.conftest import TOKEN, Cli, Site
from tests.cli.test_output_schema import check

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def xet_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A Hub with buckets, which need Xet."""
    with serve_in_thread(tmp_path / "hub", token=TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield Site(hub)


def test_a_tested_commit_is_released(cli: Cli, folder: Path, site: Site) -> None:
    tested = cli("push", "me/staging", folder, "--json").document["commit_sha"]
    (folder / "later.txt").write_text("later\n")
    cli("push", "me/staging", folder)
    words = ["copy", f"hf://me/staging@{tested}", "hf://me/released", "--message", "v1.2"]
    planned = cli(*words, "--dry-run")
    assert planned.out.splitlines()[0] == f"{site.url}/me/released: dry run, nothing was changed"
    ran = cli(*words)

    assert ran.code == 0
    commit = site.commits("models/me/released")[0]
    assert commit["title"] == "v1.2"
    where, counts = ran.out.splitlines()
    assert where == f"{site.url}/me/released/commit/{commit['id']}"
    assert counts.startswith("2 files committed, ")
    assert counts.endswith(", verified")
    assert site.files("models/me/released") == site.files("models/me/staging") - {"later.txt"}
    again = check("copy", cli(*words, "--json"))
    assert (again["commit_sha"], again["files_uploaded"]) == (commit["id"], [])


def test_a_repo_is_copied_to_a_bucket(cli: Cli, folder: Path, xet_site: Site) -> None:
    cli("push", "me/staging", folder)
    words = ["copy", "me/staging", "hf://buckets/me/runs/v1"]
    ran = cli(*words)
    where, counts = ran.out.splitlines()
    assert where == f"{xet_site.url}/buckets/me/runs"
    assert counts.startswith("2 files uploaded, ")
    document = check("copy", cli(*words, "--delete", "*", "--exclude", "*.bin", "--json"))
    assert document["verified"]
    assert set(document["files_unchanged"]) >= {"v1/config.json"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--message", "v1"], "takes no --message"),
        (["--create-pr", "--path-in-repo", "x"], "takes no --create-pr, --path-in-repo"),
        (["--delete", "*.bin"], "deletes all files that are not in SRC, or none"),
    ],
)
def test_options_of_a_commit_mean_nothing_for_a_bucket(
    words: list[str], complaint: str, cli: Cli
) -> None:
    ran = cli("copy", "me/staging", "hf://buckets/me/runs", *words)
    assert ran.code == 2
    assert complaint in " ".join(ran.err.split())


def test_failures_are_those_of_a_push(cli: Cli) -> None:
    assert check("copy", cli("copy", "me/nowhere", "me/there", "--json"))["error"]["exit_code"] == 1
    assert cli("copy", "no id", "me/there").code == 2
    assert cli("copy", "hf://buckets/me/b", "me/there").code == 2
