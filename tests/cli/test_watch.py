"""`asyncpush watch` pushes until Ctrl-C, which pushes the last changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_output_schema import check

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").write_text("step 1\n")
    return tmp_path / "out"


def test_ctrl_c_pushes_what_is_left_and_is_no_failure(
    cli: Cli, stop_when_up: None, folder: Path
) -> None:
    ran = cli("watch", folder, "me/watched", "--every", "1m", "--quiet-for", "5s", "--json")
    document = check("watch", ran)
    assert document["pushes"] == 1
    assert document["commit_url"].endswith(document["commit_sha"])
    assert document["failures"] == []


def test_each_push_is_reported_on_stdout(cli: Cli, stop_when_up: None, folder: Path) -> None:
    ran = cli("watch", folder, "me/told")
    assert ran.code == 0
    assert "/me/told/commit/" in ran.out
    assert "1 file committed" in ran.out
    assert "Ctrl-C pushes the last changes" in ran.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--every", "soon"], "is not a duration"),
        (["--quiet-for", "5 parsecs"], "is not a duration"),
    ],
)
def test_a_bad_duration_is_a_usage_error(
    words: list[str], complaint: str, cli: Cli, folder: Path
) -> None:
    ran = cli("watch", folder, "me/watched", *words)
    assert ran.code == 2
    assert complaint in ran.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--path-in-repo", "run-7", "--revision", "dev"], "takes no --revision, --path-in-repo"),
        (["--message", "m", "--type", "dataset"], "takes no --repo-type, --message"),
    ],
)
def test_options_of_a_commit_mean_nothing_for_a_bucket(
    words: list[str], complaint: str, cli: Cli, folder: Path
) -> None:
    ran = cli("watch", folder, "hf://buckets/me/runs", *words)
    assert ran.code == 2
    assert complaint in " ".join(ran.err.split())


def test_a_swapped_order_and_a_file_are_usage_errors(cli: Cli, folder: Path) -> None:
    swapped = cli("watch", "me/watched", folder)
    assert swapped.code == 2
    assert "look swapped" in swapped.err
    assert cli("watch", folder / "train.log", "me/watched").code == 2
    assert "FOLDER is an address" in cli("watch", "hf://me/a", "me/watched").err


def test_a_permanent_failure_promises_no_other_attempt(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = cli("watch", folder, "me/watched", "--every", "0", "--quiet-for", "0")
    assert ran.code == 3
    assert "a push failed: no Hugging Face token" in ran.err
    assert "tried again" not in ran.err
