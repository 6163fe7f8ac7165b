"""Names of files in a repo."""

from __future__ import annotations

import os
from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncpush.sources import check_path_in_repo, folder_prefix, normalise_path
from asyncpush.sources.paths import (
    _LETTERS,
    _is_plain,
    _path_problem,
    file_folder_clashes,
    look_alikes,
)

NO_DEADLINE = settings(deadline=None)  # the machine may be busy

paths = st.text(alphabet="ab.gitGIT/\\: é\x00\x7f\ud800C", max_size=20)


@pytest.mark.parametrize(
    ("path", "normalised"),
    [
        pytest.param("a/b", "a/b", id="nothing to do"),
        pytest.param("a\\b\\c.bin", "a/b/c.bin", id="Windows separators"),
        pytest.param("./a", "a", id="leading dot"),
        pytest.param(".\\a", "a", id="leading dot, Windows"),
        pytest.param("././a", "a", id="two leading dots"),
        pytest.param("a/./b", "a/./b", id="a dot within stays, to be refused"),
        pytest.param("./", "", id="the folder itself"),
        pytest.param("/a", "/a", id="absolute stays, to be refused"),
        pytest.param("e\u0301", "e\u0301", id="NFD stays NFD"),
        pytest.param("\u00e9", "\u00e9", id="NFC stays NFC"),
    ],
)
def test_paths_are_normalised(path: str, normalised: str) -> None:
    assert normalise_path(path) == normalised


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("README.md", id="plain"),
        pytest.param("a/b/c/d/e/f/g/h/i/j.bin", id="ten deep"),
        pytest.param("späce und ünïcode 模型/модель.bin", id="spaces and Unicode"),
        pytest.param(".gitattributes", id="gitattributes"),
        pytest.param(".gitignore", id="gitignore"),
        pytest.param("a/.github/x.yml", id="github"),
        pytest.param(".cache/x", id="a cache of one's own"),
        pytest.param("...", id="three dots"),
        pytest.param("a..b", id="dots within a name"),
        pytest.param("a:b", id="colon"),
        pytest.param("C:x", id="colon after one letter, relative"),
        pytest.param("*?[]", id="wildcards"),
        pytest.param("👩‍🔬.txt", id="emoji with a joiner"),
        pytest.param("a\u00a0b", id="no-break space"),
        pytest.param("x" * 255, id="longest segment"),
        pytest.param("é" * 127, id="longest segment in UTF-8"),
        pytest.param("/".join(["x" * 63] * 64), id="longest path"),
    ],
)
def test_good_names_are_accepted(path: str) -> None:
    assert check_path_in_repo(path) is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        pytest.param("", "must not be empty", id="empty"),
        pytest.param("./", "must not be empty", id="only a dot and a slash"),
        pytest.param("/etc/passwd", "must not be absolute", id="absolute"),
        pytest.param("/", "must not be absolute", id="root"),
        pytest.param("C:\\x", "must not be absolute", id="drive"),
        pytest.param("c:/x", "must not be absolute", id="drive with a slash"),
        pytest.param("\\\\srv\\share", "must not be absolute", id="share"),
        pytest.param(".//x", "must not be absolute", id="absolute behind a dot"),
        pytest.param("..", "must not contain a '..' segment", id="parent"),
        pytest.param("../x", "must not contain a '..' segment", id="parent first"),
        pytest.param("a/../../x", "must not contain a '..' segment", id="parent within"),
        pytest.param("a\\..\\x", "must not contain a '..' segment", id="parent, Windows"),
        pytest.param(".", "must not contain a '.' segment", id="dot"),
        pytest.param("a/./b", "must not contain a '.' segment", id="dot within"),
        pytest.param("a//b", "must not contain an empty segment ('//')", id="empty segment"),
        pytest.param("a/", "must name a file, not end with a separator", id="trailing slash"),
        pytest.param("a\\", "must name a file, not end with a separator", id="trailing backslash"),
        pytest.param(".git", "must not be in .git, which belongs to git", id="git"),
        pytest.param("a/.git/config", "must not be in .git, which belongs to git", id="git within"),
        pytest.param(".GIT/x", "must not be in .git, which belongs to git", id="git, upper case"),
        pytest.param("a\x00b", "must not contain control characters", id="NUL"),
        pytest.param("a\nb", "must not contain control characters", id="newline"),
        pytest.param("a\x7f", "must not contain control characters", id="delete"),
        pytest.param("a\x85b", "must not contain control characters", id="C1 control"),
        pytest.param("a\udcffb", "must be valid Unicode (UTF-8)", id="surrogate"),
        pytest.param("x" * 256, "must not contain a segment longer than 255 bytes", id="segment"),
        pytest.param("é" * 128, "must not contain a segment longer than 255 bytes", id="in UTF-8"),
        pytest.param("/".join(["x" * 64] * 64), "must not be longer than 4096 bytes", id="path"),
        pytest.param("é/" * 1366 + "x", "must not be longer than 4096 bytes", id="path in UTF-8"),
    ],
)
def test_bad_names_are_refused(path: str, problem: str) -> None:
    assert check_path_in_repo(path) == problem


@NO_DEADLINE
@given(paths)
@example("a/b")
def test_accepted_paths_are_normal_and_within_the_repo(path: str) -> None:
    if check_path_in_repo(path) is None:
        name = normalise_path(path)
        assert os.path.normpath(name) == name
        assert not name.startswith("/")
        assert not {"", ".", "..", ".git"} & set(name.lower().split("/"))
        assert check_path_in_repo(name) is None
        assert normalise_path(name) == name


@settings(NO_DEADLINE, max_examples=30)
@given(st.text(f"{_LETTERS}\n\u00e9\\", max_size=110))
def test_names_that_are_let_through_quickly_are_good(path: str) -> None:
    assert not _is_plain(path) or _path_problem(path) is None


@pytest.mark.parametrize(
    ("path_in_repo", "prefix"),
    [
        pytest.param("", "", id="root"),
        pytest.param(".", "", id="dot"),
        pytest.param("./", "", id="dot and slash"),
        pytest.param("a", "a/", id="one"),
        pytest.param("a/b/", "a/b/", id="trailing slash"),
        pytest.param("a//", "a/", id="trailing slashes"),
        pytest.param("a\\b", "a/b/", id="Windows"),
    ],
)
def test_a_folder_becomes_a_prefix(path_in_repo: str, prefix: str) -> None:
    assert folder_prefix(path_in_repo) == prefix


@pytest.mark.parametrize("path_in_repo", ["/", "/a", "//", "\\", "..", "a/../b", ".git", "a//b"])
def test_an_impossible_folder_is_refused(path_in_repo: str) -> None:
    with pytest.raises(ValueError, match=r"^path_in_repo .* must not"):
        folder_prefix(path_in_repo)


def test_a_path_that_is_file_and_folder_is_found() -> None:
    paths = ["a", "a/b", "c/d/e", "c/d/f", "c", "g/h"]
    for some in permutations(paths):
        clashes = file_folder_clashes(some)
        assert [path for path, _ in clashes] == ["a", "c"]
        assert all(inside.startswith(f"{path}/") for path, inside in clashes)


@NO_DEADLINE
@given(st.sets(st.text(alphabet="ab/", min_size=1, max_size=7)))
def test_clashes_are_all_files_that_others_lie_below(paths: set[str]) -> None:
    good = {path for path in paths if check_path_in_repo(path) is None}
    expected = [path for path in sorted(good) if any(p.startswith(f"{path}/") for p in good)]

    assert [path for path, _ in file_folder_clashes(good)] == expected


def test_names_that_many_systems_take_for_one_are_found() -> None:
    paths = ["README.md", "Readme.md", "readme.txt", "\u00e9", "e\u0301", "STRASSE", "straße"]

    assert look_alikes(paths) == [
        ("README.md", "Readme.md"),
        ("\u00e9", "e\u0301"),
        ("STRASSE", "straße"),
    ]
