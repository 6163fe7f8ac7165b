"""`asyncpush many`: one summary, nothing stopped by another's failure, nothing done twice."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from asyncpush.cli.manifest import read_manifest
from asyncpush.cli.many import DoneFile, ManyPush, table
from tests.cli.conftest import Cli, Site

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def manifest(tmp_path: Path, folder: Path) -> Path:
    """Three pushes, of which the second cannot succeed."""
    path = tmp_path / "many.toml"
    path.write_text(
        f"""
        [[push]]
        repo_id = "{tmp_path.name}/first"
        source = "model"
        [[push]]
        repo_id = "{tmp_path.name}/second"
        source = "model/config.json"
        revision = "no-such-branch"
        [[push]]
        repo_id = "{tmp_path.name}/third"
        source = "model/config.json"
        """
    )
    return path


def test_one_failure_does_not_stop_the_rest(
    cli: Cli, manifest: Path, tmp_path: Path, site: Site
) -> None:
    ran = cli("many", manifest)

    assert ran.code == 1
    head, first, second, third, total = ran.out.splitlines()
    assert head.split() == ["repo", "files", "bytes", "time", "commit", "or", "error"]
    assert first.split()[:4] == [f"{tmp_path.name}/first", "2", "2.50", "MB"]
    assert second.split()[1:3] == ["RepoNotFoundError:", "looking"]
    assert third.split()[:4] == [f"{tmp_path.name}/third", "1", "19", "B"]
    assert total.startswith("2 of 3 pushed, 1 failed; 2.50 MB sent in ")
    assert site.commits(f"models/{tmp_path.name}/third")[0]["id"].startswith(third.split()[-1])

    assert f"✗ Upload failed  {tmp_path.name}/second" in ran.err
    assert "✗ 1 of 3 pushes failed" in ran.err
    assert f"- {tmp_path.name}/second: RepoNotFoundError: looking up the branch failed" in ran.err
    assert "(--create-branch) creates it" in ran.err
    assert "--continue" in ran.err
    assert "Traceback" not in ran.err


def test_continue_leaves_out_what_is_done(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    cli("many", manifest)
    manifest.write_text(manifest.read_text().replace("no-such-branch", "main"))
    ran = cli("many", manifest, "--continue")

    assert ran.code == 0
    _, first, second, third, total = ran.out.splitlines()
    assert first.endswith(" (before)")
    assert not second.endswith(" (before)")
    assert third.endswith(" (before)")
    assert total.startswith("1 of 3 pushed, 2 done before; 19 B sent in ")

    assert cli("many", manifest, "--continue").out.splitlines()[-1].startswith("0 of 3 pushed, 3")


def test_without_continue_all_is_pushed_and_remembered_anew(
    cli: Cli, manifest: Path, tmp_path: Path
) -> None:
    state = tmp_path / "many.toml.state.jsonl"
    cli("many", manifest)
    before = state.read_bytes().splitlines()
    cli("many", manifest)

    assert len(before) == 2
    assert len(state.read_bytes().splitlines()) == 2


def test_done_pushes_are_remembered_by_hub(
    cli: Cli, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("many", manifest)
    ran = cli("many", manifest, "--continue", "--endpoint", "local", "--json")
    statuses = [push["status"] for push in ran.document["pushes"]]
    assert statuses == ["done", "failed", "done"]


def test_json(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    ran = cli("many", manifest, "--json", "--quiet")

    assert ran.code == 1
    assert ran.document["ok"] is False
    assert ran.document["error"]["type"] == "CommandFailed"
    first, second, _ = ran.document["pushes"]
    assert first["repo_id"] == f"{tmp_path.name}/first"
    assert first["status"] == "done"
    assert first["verified"] is True
    assert second["status"] == "failed"
    assert second["error"]["status"] == 404

    again = cli("many", manifest, "--continue", "--json", "--quiet").document["pushes"][0]
    assert again["status"] == "done before"
    assert again["commit_sha"] == first["commit_sha"]


def test_verbose_has_the_tracebacks_of_failures(cli: Cli, manifest: Path) -> None:
    assert "Traceback" in cli("many", manifest, "--verbose", "--quiet").err


def test_a_bad_manifest_starts_nothing(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text().replace("model/config.json", "gone"))
    ran = cli("many", manifest, "--json")

    assert ran.code == 2
    assert len(ran.document["error"]["problems"]) == 2
    assert not (tmp_path / "many.toml.state.jsonl").exists()


def test_no_token_ends_it_at_once(
    cli: Cli, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = cli("many", manifest)
    assert ran.code == 3
    assert ran.err.count("MissingTokenError") == 1
    assert ran.out == ""


def test_an_unwritable_state_file_is_reported_first(
    cli: Cli, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "many.toml.state.jsonl").mkdir()
    ran = cli("many", manifest)
    assert ran.code == 1
    assert "many.toml.state.jsonl" in ran.err
    assert "Upload" not in ran.err


def test_a_disk_that_fills_up_does_not_stop_the_pushes(
    cli: Cli, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, line: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("asyncpush.cli.many.append_line", full)
    ran = cli("many", manifest)
    assert ran.out.splitlines()[-1].startswith("2 of 3 pushed")
    assert "many.toml.state.jsonl is not complete: [Errno 28]" in ran.err


def test_a_row_cut_short_stands_for_a_push_not_done(tmp_path: Path) -> None:
    done = DoneFile(tmp_path / "many.toml")
    assert done.read() == {}
    done.path.write_bytes(b'["no row"]\n{"fingerprint": "a", "commit_sha": "1"}\n{"fingerpr')
    done.open(anew=False)
    done.add("b", {"commit_sha": "2"})

    assert set(done.read()) == {"a", "b"}
    assert len(done.path.read_bytes().splitlines()) == 4


class TestTable:
    @pytest.fixture
    def pushes(self, manifest: Path) -> list[ManyPush]:
        entries = read_manifest(manifest)
        row = {"commit_sha": "1" * 40, "files": 3, "bytes": 5_000, "seconds": 1.5}
        outcomes = [(row, None), (None, ValueError("no good, for reasons that take long to tell"))]
        return [
            ManyPush(entry, "", before, None, error)
            for entry, (before, error) in zip(entries, outcomes, strict=False)
        ]

    def test_it_is_cut_to_the_terminal(self, pushes: list[ManyPush]) -> None:
        assert all(len(line) <= 100 for line in table(pushes, 100))
        assert table(pushes, 100)[2].endswith("…")
        assert table(pushes, None)[2].endswith("take long to tell")

    def test_a_narrow_table_puts_the_repo_on_its_own_line(
        self, pushes: list[ManyPush], tmp_path: Path
    ) -> None:
        lines = table(pushes, 48)
        assert all(len(line) <= 48 for line in lines)
        assert lines[0] == "repo"
        assert lines[1].split() == ["files", "bytes", "time", "commit", "or", "error"]
        assert lines[3].split() == ["3", "5.00", "kB", "1.50", "s", "1" * 10, "(before)"]
