"""`asyncpush cache`: what is remembered, and forgetting it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncpush.journal import Journal, OpenUpload
from tests.cli.conftest import Cli

pytestmark = pytest.mark.usefixtures("environment", "settled_files")


@pytest.fixture
def journal_folder(cli: Cli, folder: Path, tmp_path: Path) -> Path:
    """The journal after a push, with an upload that was left unfinished."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # the hash of what has just been written is not trusted
    cli("push", "me/cached", folder, "--quiet")
    (path,) = (tmp_path / "cache").rglob("journal.sqlite3")
    with Journal.open(path.parent.parent) as journal:
        scope = "http://hub/me/half"
        urls = tuple(f"http://hub/{number}" for number in range(4))
        upload = OpenUpload(
            "a" * 64, 4_000_000, 1_000_000, "http://hub/done", urls, None, 4e9, {}, 1e9
        )
        journal.begin_upload(scope, upload)
        journal.part_stored(scope, "a" * 64, 1, '"etag"')
    return path.parent


def test_what_can_be_resumed_is_listed(cli: Cli, journal_folder: Path) -> None:
    ran = cli("cache", "ls")

    assert ran.code == 0
    path, counts, upload = ran.out.splitlines()
    assert path.startswith(f"{journal_folder}/journal.sqlite3 (")
    assert counts == "hashes of 1 file, 1 open upload, 1 stored part, 0 open commits"
    assert upload.split()[:5] == ["upload", "a" * 12, "1/4", "parts", "4.00"]
    assert upload.endswith("  http://hub/me/half")


def test_json(cli: Cli, journal_folder: Path) -> None:
    document = cli("cache", "ls", "--json").document
    assert (document["uploads"], document["parts"]) == (1, 1)
    assert document["entries"][0]["scope"] == "http://hub/me/half"

    assert cli("cache", "clear", "--json").document == {"ok": True, "forgotten": 2}


def test_clear_forgets_all_of_it(cli: Cli, journal_folder: Path) -> None:
    assert cli("cache", "clear").out.startswith("2 entries removed from ")
    assert cli("cache", "ls").out.splitlines()[1] == (
        "hashes of 0 files, 0 open uploads, 0 stored parts, 0 open commits"
    )


def test_a_journal_that_cannot_be_used_is_a_failure_here(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    ran = cli("cache", "ls")
    assert ran.code == 1
    assert "the journal cannot be used" in ran.err


def test_cache_alone_says_what_there_is(cli: Cli) -> None:
    assert "clear" in cli("cache", "--help").out
