""".gitignore, with git itself as the witness."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.localhub.store.ignoring import IgnoreRules


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ignoring")
    run_git(folder, "init", "-q")
    return folder


def run_git(folder: Path, *words: str, given: bytes = b"") -> bytes:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *words], cwd=folder, env=environment, input=given, capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def ignored_by_git(repo: Path, rules: bytes, paths: list[str]) -> set[str]:
    (repo / ".gitignore").write_bytes(rules)
    asked = "\0".join(paths).encode()
    said = run_git(repo, "check-ignore", "--no-index", "-z", "--stdin", given=asked)
    return set(filter(None, said.decode().split("\0")))


def ignored_by_us(rules: bytes, paths: list[str]) -> set[str]:
    ours = IgnoreRules.of(rules)
    return {path for path in paths if ours.ignores(path)}


PATHS = [
    *("a", "b.txt", "a/b", "a/b.txt", "a/b/c", "a/b/c.json", "x/a/b.txt", "key.json", "é"),
    *("é/ü.txt", "secrets/key.json", "x/secrets/key.json", "secrets/deep/key.json", "build/x"),
    *("deep/build/x", "a b", "a b ", "#a", "!a", "a]", "a\\b", "aXb", "abc", "a-c", "[a]", "*"),
    *("a*", "**", "0", "Z"),
]


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(b"secrets/\n!*.json\n", id="a file in an ignored folder"),
        pytest.param(b"*\n!*/\n!*.json\n", id="all but one kind"),
        pytest.param(b"/*\n!/a/\n/a/*\n!/a/b/\n", id="all but a folder"),
        pytest.param(b"\xef\xbb\xbfa\n", id="a byte order mark"),
        pytest.param(b"a/b\r\n*.txt\r\n", id="line ends of Windows"),
        pytest.param("a\u2028b.txt\n".encode(), id="no line end to git"),
        pytest.param(b"a \nb.txt  \na\\ b\\ \n", id="trailing spaces"),
        pytest.param(b"#a\n\\#a\n\\!a\n", id="escaped marks"),
        pytest.param(b"a/**\n!a/**/c\n", id="all below"),
        pytest.param(b"**/b.txt\na/**/c*\n", id="at any depth"),
        pytest.param(b"a**c\n/***\n!**/*c\n", id="stars that are one star"),
        pytest.param(b"?\n!a\n", id="one byte"),
        pytest.param(b"[a-c]*\n[!a]X\na[[:punct:]]*\n", id="brackets"),
        pytest.param(b"[]a]\n[[]a[]]\na[\\]]\n[a\n[\n", id="odd brackets"),
        pytest.param(b"a[x/]b\n", id="a slash in brackets"),
        pytest.param(b"a\\\nb.txt\\\n\\\n", id="a backslash at the end"),
        pytest.param(b"!\n/\n//\n\n \n!/\n", id="nothing much"),
        pytest.param(b"build/\n!build/\nbuild/x\n", id="taken back"),
        pytest.param(b"b\n!a/b\nb/c\n", id="names and paths"),
    ],
)
def test_git_and_we_ignore_the_same(rules: bytes, repo: Path) -> None:
    assert ignored_by_us(rules, PATHS) == ignored_by_git(repo, rules, PATHS)


PIECES = st.sampled_from(
    [*"abc.!#\\/ -]^", "*", "**", "?", "[", "[a", "[!a-b]", "[[:alpha:]]", "**/", "/**", "é", "\t"]
)
LINES = st.lists(st.lists(PIECES, max_size=7).map("".join), max_size=6)
NAMES = st.text("abc.! -]#é", min_size=1, max_size=3).filter(lambda name: set(name) - {"."})
ANY_PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(max_examples=150)
@given(lines=LINES, paths=st.lists(ANY_PATHS, min_size=1, max_size=8, unique=True))
def test_git_and_we_agree_on_rules_of_all_kinds(
    lines: list[str], paths: list[str], repo: Path
) -> None:
    rules = "\n".join(lines).encode()
    assert ignored_by_us(rules, paths) == ignored_by_git(repo, rules, paths)


def test_a_hostile_rule_costs_no_time() -> None:
    names = b"*a" * 60 + b"b\n"
    folders = b"**/a/" * 40 + b"b\n"
    began = time.process_time()  # a busy machine changes nothing
    rules = IgnoreRules.of(names + folders)
    assert not rules.ignores("a" * 250)
    assert not rules.ignores("a/" * 90 + "a")
    assert time.process_time() - began < 2
