"""What goes wrong for those who begin: each slip ends in a sentence that says what to do."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from asyncpush.cli.demo import _called
from tests.cli.conftest import Cli, Site

pytestmark = pytest.mark.usefixtures("environment")


@pytest.mark.parametrize("command", ["push", "audit", "upload"])
def test_swapped_arguments_are_seen(command: str, cli: Cli, folder: Path, tmp_path: Path) -> None:
    more = ["--receipts", tmp_path / "receipts.json"] if command == "upload" else []
    ran = cli(command, folder, "me/model", *more)
    assert ran.code == 2
    assert "look swapped" in ran.err
    assert f"next: give the repo first: me/model {folder}" in ran.err


def test_arguments_in_the_order_of_a_copy_are_seen(cli: Cli, folder: Path) -> None:
    assert "look swapped" in cli("push", folder, "hf://datasets/me/d").err


BUCKET = "hf://buckets/me/b/run"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            f"sync {BUCKET} ./out",
            f"to download it: `hf buckets sync {BUCKET} ./out`; to upload ./out: `asyncpush sync"
            f" ./out {BUCKET}`",
        ),
        ("sync hf://me/m out", "to download it: `hf download me/m --local-dir out`;"),
        (
            "sync hf://datasets/me/d@v1/train ./out",
            "`hf download me/d train --repo-type dataset --revision v1 --local-dir ./out`",
        ),
        ("sync https://example.com/me/m ./out", "use `hf download`"),
        (f"sync {BUCKET} hf://buckets/me/c", f"`asyncpush copy {BUCKET} hf://buckets/me/c`"),
        ("push me/m hf://me/n", "to copy it on the Hub: `asyncpush copy hf://me/n me/m`"),
        ("upload me/m hf://me/n --receipts r.json", "`asyncpush copy hf://me/n me/m`"),
        ("audit me/m hf://me/n", "give a local folder or file as SOURCE"),
        ("copy me/m ./out", "to download: `hf download me/m --local-dir ./out`"),
        (f"copy {BUCKET} ~/out", f"to download: `hf buckets sync {BUCKET} '~/out'`"),
        ("copy ./out me/m", "to upload: `asyncpush push me/m ./out`"),
        (f"copy ./out {BUCKET}", f"to upload: `asyncpush sync ./out {BUCKET}`"),
    ],
)
def test_the_other_direction_is_answered_with_its_command(
    words: str, advice: str, cli: Cli
) -> None:
    ran = cli(*words.split(), "--json")
    assert ran.code == 2
    assert advice in ran.document["error"]["suggestion"]
    assert "swapped" not in ran.document["error"]["message"]


@pytest.mark.parametrize("command", ["push", "audit"])
def test_an_option_that_contradicts_an_address_is_named(
    command: str, cli: Cli, folder: Path
) -> None:
    """Also one that was given the value that it has by default."""
    ran = cli(command, "hf://me/model@v1", folder, "--revision", "main")
    assert ran.code == 2
    assert "revision 'main' contradicts hf://me/model@v1, which says 'v1'" in ran.err


def test_addresses_that_cannot_be_pushed_to_are_usage_errors(cli: Cli, folder: Path) -> None:
    for address in ("hf://buckets/me/b", "https://huggingface.co/me/model", "hf://model/me/m"):
        assert cli("push", address, folder).code == 2


def test_an_id_with_a_type_suggests_the_address(cli: Cli, folder: Path) -> None:
    ran = cli("push", "datasets/me/data", folder)
    assert ran.code == 2
    assert "next: write hf://datasets/me/data" in ran.err


@pytest.mark.parametrize("command", ["push", "upload"])
def test_a_pattern_as_source_is_answered_with_include(
    command: str, cli: Cli, folder: Path, tmp_path: Path
) -> None:
    more = ["--receipts", tmp_path / "receipts.json"] if command == "upload" else []
    ran = cli(command, "me/model", folder / "*.bin", *more, "--json")
    assert ran.code == 2
    assert ran.document["error"]["suggestion"].endswith(f": {folder} --include '*.bin'")

    (folder / "[v2].bin").write_bytes(b"a name that only looks like a pattern")
    assert cli(command, "me/model", folder / "[v2].bin", *more).code == 0


def test_every_is_answered_with_watch(cli: Cli, folder: Path) -> None:
    ran = cli("push", "me/model", folder, "--every", "5")
    assert ran.code == 2
    assert f"next: run asyncpush watch {folder} me/model --every 5m" in " ".join(ran.err.split())
    assert "--every" not in cli("push", "--help").out


def test_a_missing_source_is_not_taken_for_a_repo(cli: Cli, folder: Path) -> None:
    assert "swapped" not in cli("push", folder, "not a repo id").err
    assert "does not exist" in cli("push", "me/model", "me/model").err


def test_a_cache_that_cannot_be_written_names_the_variable(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASYNCPUSH_CACHE", str(tmp_path / "file" / "cache"))
    pushed = cli("push", "me/model", folder, "--endpoint", "local")
    listed = cli("cache", "ls")
    for ran in (pushed, listed):
        assert ran.code == 1
        assert f"next: make the cache directory {tmp_path}/file/cache writable" in ran.err
        assert "ASYNCPUSH_CACHE" in ran.err


def test_an_unwritable_events_file_is_reported_first(cli: Cli, folder: Path, site: Site) -> None:
    ran = cli("push", "me/unwritten", folder, "--events", "nowhere/run.jsonl")
    assert ran.code == 2
    assert "--events must be a file in a folder that exists" in ran.err


def test_a_port_that_is_taken_is_no_riddle(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("hub", "--port", str(taken.getsockname()[1]))
    assert ran.code == 1
    assert "next: another program uses this port" in ran.err


def test_a_path_in_the_endpoint_is_not_a_missing_repo(cli: Cli, folder: Path, site: Site) -> None:
    ran = cli("push", "me/model", folder, "--endpoint", f"{site.url}/api")
    assert ran.code == 1
    assert "next: there is no Hub at that address: check HF_ENDPOINT" in ran.err


def test_help_shows_usage_and_options_in_sections(cli: Cli) -> None:
    push, cache = cli("push", "--help").out, cli("cache", "ls", "--help").out
    assert " push [OPTIONS] REPO_ID SOURCE [PATH_IN_REPO]\n" in push
    sections = [line for line in push.splitlines() if line.endswith(":") and line[0] != " "]
    assert sections == [
        "Arguments:",
        "The commit:",
        "The files:",
        "The Hub:",
        "Output:",
        "Options:",
    ]
    assert "<str>" not in push
    assert [line for line in cache.splitlines() if line.endswith(":")] == ["Options:"]


def test_the_demo_names_the_program_as_it_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [".venv/bin/asyncpush", "demo"])
    assert _called() == ".venv/bin/asyncpush"
    monkeypatch.setattr(sys, "argv", ["/x/asyncpush/__main__.py", "demo"])
    assert _called() == "asyncpush"


@pytest.mark.parametrize("command", ["push", "audit", "upload", "doctor"])
def test_offline_mode_is_reported_at_once(
    command: str, cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sources = [] if command == "doctor" else [folder]
    more = ["--receipts", tmp_path / "receipts.json"] if command == "upload" else []
    ran = cli(command, "me/m", *sources, *more, "--endpoint", "https://hub.example")
    assert ran.code == 1
    assert "HF_HUB_OFFLINE is set" in ran.err + ran.out
    assert "unset HF_HUB_OFFLINE" in ran.err + ran.out
    assert "request:" not in ran.err  # none was made


@pytest.mark.parametrize(
    "words",
    [
        ("push", "me/m", ""),
        ("audit", "me/m", ""),
        ("sync", "", "hf://buckets/me/b"),
        ("watch", "", "me/m"),
        ("many", ""),
        ("hub", "--root", ""),
        ("push", "me/m", ".", "--events", ""),
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_folder(words: tuple[str, ...], cli: Cli) -> None:
    """As in `asyncpush push me/m "$OUT"` where OUT was never set."""
    ran = cli(*words)
    assert ran.code == 2
    assert "an empty path names no file or folder" in " ".join(ran.err.split())


@pytest.mark.skipif(sys.platform == "win32", reason="a current folder cannot be deleted there")
def test_a_current_folder_that_was_deleted_is_named(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (
        ("push", "me/m", "."),
        ("upload", "me/m", ".", "--receipts", tmp_path / "r.json"),
        ("watch", ".", "me/m"),
        ("audit", "me/m", "out"),
    ):
        ran = cli(*words, "--json")
        assert ran.document["error"]["type"] == "SourceError"
        assert "the current folder has been deleted" in ran.document["error"]["message"]
        assert "absolute path" in ran.document["error"]["suggestion"]
    ran = cli("push", "me/m", folder, "--timeline", "t.json", "--json")
    assert ran.code == 2
