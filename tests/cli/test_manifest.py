"""The manifest: both formats, and every problem told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncpush import Push, PushOptions
from asyncpush.cli.manifest import read_manifest
from asyncpush.cli.output import UsageError


@pytest.fixture(autouse=True)
def sources(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.bin").write_bytes(b"b")
    (tmp_path / "card.md").write_text("# Card\n")


def read(tmp_path: Path, text: str, name: str = "many.toml") -> list[Push]:
    path = tmp_path / name
    path.write_text(text)
    return [entry.push for entry in read_manifest(path)]


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    return caught.value.problems


def test_toml_with_defaults(tmp_path: Path) -> None:
    text = """
        [defaults]
        private = true
        ignore_patterns = ["*.tmp"]

        [[push]]
        repo_id = "me/a"
        source = "a"

        [[push]]
        repo_id = "me/b"
        source = {"deep/b.bin" = "b.bin"}
        private = false
        timeout = 60
        """
    assert read(tmp_path, text) == [
        Push("me/a", str(tmp_path / "a"), PushOptions(private=True, ignore_patterns=["*.tmp"])),
        Push(
            "me/b",
            {"deep/b.bin": str(tmp_path / "b.bin")},
            PushOptions(private=False, ignore_patterns=["*.tmp"], timeout=60),
        ),
    ]


def test_json_lines(tmp_path: Path) -> None:
    text = '{"repo_id": "me/a", "source": "a"}\n\n{"repo_id": "me/b", "source": "b.bin"}\n'
    assert [push.repo_id for push in read(tmp_path, text, "many.jsonl")] == ["me/a", "me/b"]


def test_paths_may_be_absolute_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    other = tmp_path / "elsewhere"
    other.mkdir()
    text = f"""
        push = [
            {{repo_id = "me/a", source = "{tmp_path}/a"}},
            {{repo_id = "me/b", source = "~/b.bin"}},
        ]
        """
    sources = [push.source for push in read(other, text)]
    assert sources == [str(tmp_path / "a"), str(tmp_path / "b.bin")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("card.md", "{folder}/card.md"),
        ("missing.md", "{folder}/missing.md"),  # the push says that it is missing
        ("Some words", "Some words"),
        ("# Card\\nWords", "# Card\nWords"),
    ],
)
def test_a_card_is_a_file_or_its_text(written: str, meant: str, tmp_path: Path) -> None:
    text = f'[[push]]\nrepo_id = "me/a"\nsource = "a"\nmodel_card = "{written}"\n'
    (push,) = read(tmp_path, text)
    assert push.options.model_card == meant.format(folder=tmp_path)


def test_all_problems_are_reported_at_once_with_their_places(tmp_path: Path) -> None:
    text = """
[defaults]
privat = true
source = "a"
verify = "no"

[[push]]
repo_id = "me"
source = "a"

[[push]]
repo_id = "me/b"
source = "nowhere"
create_pr = "yes"
revision = ""
allow_patterns = [1]

[[push]]
source = []
timeout = true
max_files_per_commit = 1.5

[[push]]
repo_id = "me/c"
source = ""
dry_run = true
zzz = 1

[other]
"""
    assert problems(tmp_path, text) == (
        "[other]: unknown table, use [defaults] and [[push]]",
        "[defaults]: unknown key privat; did you mean private?",
        "[defaults]: source is not allowed here, write it in each [[push]]",
        "[defaults]: verify must be true or false, not 'no'",
        "push 1 (line 7): repo id 'me' is not namespace/name",
        "push 2 (line 11): create_pr must be true or false, not 'yes'",
        "push 2 (line 11): allow_patterns must be a list of texts or text, not [1]",
        f"push 2 (line 11): source nowhere does not exist in {tmp_path}",
        "push 2 (line 11): revision must be the name of a branch",
        "push 3 (line 18): repo_id is missing",
        "push 3 (line 18): timeout must be a number, not True",
        "push 3 (line 18): max_files_per_commit must be a whole number, not 1.5",
        "push 3 (line 18): source must be a path, or a table from paths in the repo to paths",
        "push 4 (line 23): unknown key dry_run",
        "push 4 (line 23): unknown key zzz",
        "push 4 (line 23): source must be a path, or a table from paths in the repo to paths",
    )


def test_problems_of_json_lines_name_the_line(tmp_path: Path) -> None:
    text = '{"repo_id": "me/a", "source": "a"}\n{oops\n\n[1]\n{"repo_type": 3}\n'
    assert problems(tmp_path, text) == (
        "line 2: this is not JSON: Expecting property name enclosed in double quotes, column 2",
        "line 4: must be a table",
        "line 5: repo_id is missing",
        "line 5: source is missing",
        "line 5: repo_type must be text, not 3",
    )


def test_a_push_that_stands_there_twice_is_a_slip(tmp_path: Path) -> None:
    line = '{"repo_id": "me/a", "source": "a"}\n'
    assert problems(tmp_path, line + line) == ("line 2: the same as line 1",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it contains no push"),
        ("[[push]\n", "this is not TOML: "),
        ("push = 1\n", "push must be a list of tables: [[push]]"),
        ("defaults = 1\npush = [2]\n", "defaults must be a table: [defaults]"),
        ("defaults = 1\npush = [2]\n", "push 1: must be a table"),
    ],
)
def test_what_is_no_manifest(text: str, problem: str, tmp_path: Path) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, text))


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing.toml: No such file"):
        read_manifest(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(UsageError, match=r"cannot read .*latin.toml: 'utf-8' codec"):
        read_manifest(tmp_path / "latin.toml")


def test_a_line_ends_where_json_lines_end(tmp_path: Path) -> None:
    """U+2028 and kin may stand within a JSON string; a BOM is no part of the first line."""
    path = tmp_path / "many.jsonl"
    message = "one\u2028two\x85three"
    row = f'{{"repo_id": "me/a", "source": "a", "commit_message": "{message}"}}'
    path.write_bytes(f"\ufeff{row}\r\n".encode())
    assert [entry.push.options.commit_message for entry in read_manifest(path)] == [message]


def test_addresses_stand_for_repo_ids(tmp_path: Path) -> None:
    text = """
        [[push]]
        repo_id = "hf://datasets/me/a@dev"
        source = "a"

        [[push]]
        repo_id = "http://hub.example/spaces/me/s/tree/main"
        source = "b.bin"
        """
    path = tmp_path / "many.toml"
    path.write_text(text)
    assert len(read_manifest(path, "http://hub.example")) == 2
    assert len(read_manifest(path, "local")) == 2  # whose URL nobody knows yet
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    assert "not a URL of the endpoint in use" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("address", "expected", "problem"),
    [
        ("hf://me/a@v1", 'revision = "main"', "revision 'main' contradicts hf://me/a@v1"),
        ("hf://me/a", 'repo_type = "dataset"', "repo_type 'dataset' contradicts hf://me/a"),
        ("hf://buckets/me/a", "", "hf://buckets/me/a is a bucket"),
        ("hf://model/me/a", "", "'model' is not a repo type"),
        ("me/a", 'space_sdk = "gradio"', "space_sdk needs"),
    ],
)
def test_an_address_that_contradicts_its_push_is_a_problem(
    address: str, expected: str, problem: str, tmp_path: Path
) -> None:
    text = f'[[push]]\nrepo_id = "{address}"\nsource = "a"\n{expected}\n'
    (found,) = problems(tmp_path, text)
    assert problem in found
