"""Folders: what is found in them, what is left out, what is wrong with them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import SourceChangedError, SourceError
from asyncpush.models import FileIdentity, PathSource
from asyncpush.options import PushOptions
from asyncpush.sources.byte_sources import read_all
from asyncpush.sources.collect import Gathered
from asyncpush.sources.paths import PatternFilter
from asyncpush.sources.problem_report import NOTICES_SHOWN, ProblemReport
from asyncpush.sources.single_files import regular_file
from asyncpush.sources.walk import Walk

NO_DEADLINE = settings(deadline=None)  # the machine may be busy


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def gather(source: Any, **options: Any) -> Gathered:
    gathered = Gathered(PushOptions(**options))
    gathered.add(source)
    gathered.finish()
    return gathered


def names(gathered: Gathered) -> list[str]:
    return [file.path_in_repo for file in gathered.files]


def problems(source: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SourceError) as caught:
        gather(source, **options)
    return caught.value.problems


def found_at(path: Path) -> PathSource:
    identity = FileIdentity.of(path.stat())
    return PathSource(str(path), identity, may_change=True, optional=True)


def test_files_are_ordered_by_path(tmp_path: Path) -> None:
    fill(tmp_path, "b", "a/z", "a/b/c/d/e/f/g/h/i/j", "a-b", "a.b", "a0", "é/ü ñ", "C")

    gathered = gather(tmp_path)

    assert names(gathered) == sorted(names(gathered))
    assert set(names(gathered)) == {
        "b", "a/z", "a/b/c/d/e/f/g/h/i/j", "a-b", "a.b", "a0", "é/ü ñ", "C",
    }  # fmt: skip
    for file in gathered.files:
        path = tmp_path / file.path_in_repo
        assert file.size == path.stat().st_size
        assert file.content == found_at(path)
    assert gathered.report.notices == ()


def test_folders_deeper_than_the_stack_are_walked(tmp_path: Path) -> None:
    folders = [f"{tmp_path}/" + "d/" * depth for depth in range(1, 1051)]
    for folder in folders:
        os.mkdir(folder)
    Path(folders[-1], "f").write_bytes(b"")

    assert names(gather(tmp_path)) == ["d/" * 1050 + "f"]

    Path(folders[-1], "f").unlink()
    for folder in reversed(folders):  # too deep for pytest to remove
        os.rmdir(folder)


def test_files_of_git_python_and_the_client_are_left_out(
    tmp_path: Path,
) -> None:
    fill(
        tmp_path,
        ".git/config",
        "sub/.git/config",
        "worktree/.git",  # a file: worktrees and submodules
        ".GIT/config",
        "__pycache__/a.pyc",
        "pkg/__pycache__/a.pyc",
        ".DS_Store",
        "a/.DS_Store",
        ".cache/huggingface/x",
        "a/.cache/huggingface/download/x.lock",
        "kept/.gitignore",
        "kept/.gitattributes",
        "kept/.cache/other",
        "kept/huggingface/x",
        "kept/my.cache/huggingface/x",
        "kept/.github/x",
        "kept/__pycache__.txt",
        "kept/file/__pycache__",
        "kept/git",
    )

    assert names(gather(tmp_path)) == sorted(
        path.relative_to(tmp_path).as_posix()
        for path in (tmp_path / "kept").rglob("*")
        if path.is_file()
    )


def test_a_source_named_like_a_skipped_folder_is_walked(tmp_path: Path) -> None:
    fill(tmp_path, "__pycache__/a.pyc")
    assert names(gather(tmp_path / "__pycache__")) == ["a.pyc"]


def test_patterns_see_the_path_within_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, "a.bin", "logs/a.bin", "logs/a.txt", "deep/logs/a.bin")

    def chosen(allow: Any = None, ignore: Any = None) -> list[str]:
        gathered = gather(tmp_path, path_in_repo="w", allow_patterns=allow, ignore_patterns=ignore)
        return names(gathered)

    assert chosen("*.bin", "logs/") == ["w/a.bin", "w/deep/logs/a.bin"]
    assert chosen(["w/*", "*.txt"]) == ["w/logs/a.txt"]
    assert chosen(ignore="*logs/*") == ["w/a.bin"]


file_names = st.text(alphabet="ab.-é", min_size=1, max_size=3).filter(
    lambda name: name.strip(".") != ""
)
trees = st.recursive(
    st.dictionaries(file_names, st.just(None), max_size=4),
    lambda children: st.dictionaries(file_names, st.none() | children, max_size=4),
)
pattern_lists = st.none() | st.lists(st.text(alphabet="ab.-*?/", max_size=4), max_size=2)


def build(folder: Path, tree: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, below in tree.items():
        if below is None:
            (folder / name).write_bytes(b"")
        else:
            build(folder / name, below)


@pytest.mark.no_cover
@NO_DEADLINE
@given(trees, pattern_lists, pattern_lists)
def test_a_walk_finds_what_the_official_client_finds(
    tree: dict[str, Any], allow: list[str] | None, ignore: list[str] | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), tree)
        official = HfApi()._prepare_upload_folder_additions(
            folder, "in/repo", allow_patterns=allow, ignore_patterns=ignore
        )
        options: Any = {"allow_patterns": allow, "ignore_patterns": ignore}
        ours = gather(folder, path_in_repo="in/repo", delete_patterns="x", **options)

    assert names(ours) == sorted(operation.path_in_repo for operation in official)


def test_links_to_files_are_files(tmp_path: Path) -> None:
    fill(tmp_path / "blobs", "1234")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.bin").symlink_to("../blobs/1234")

    (file,) = gather(snapshot).files

    assert file.size == 4
    assert file.content == found_at(snapshot / "model.bin")
    assert file.content.identity.inode == (tmp_path / "blobs/1234").stat().st_ino


def test_links_to_folders_are_skipped_and_reported(tmp_path: Path) -> None:
    fill(tmp_path, "outside/secret", "in/a")
    (tmp_path / "in" / "link").symlink_to("../outside")

    gathered = gather(tmp_path / "in")

    assert names(gathered) == ["a"]
    assert gathered.report.notices == (
        f"'{tmp_path}/in/link' is a link to a folder: skipped (follow_symlinks=True enters it)",
    )
    assert gather(tmp_path / "in", ignore_patterns="link/").report.notices == ()


def test_links_to_folders_are_entered_when_asked(tmp_path: Path) -> None:
    fill(tmp_path, "outside/deep/f", "in/a")
    (tmp_path / "in" / "link").symlink_to("../outside")
    (tmp_path / "in" / "twice").symlink_to("../outside")

    gathered = gather(tmp_path / "in", follow_symlinks=True)

    assert names(gathered) == ["a", "link/deep/f", "twice/deep/f"]
    assert gathered.report.notices == ()


def test_links_that_lead_in_circles_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path, "a/f", "b/g")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "to-b").symlink_to("../b")
    (tmp_path / "b" / "to-a").symlink_to("../a")

    gathered = gather(tmp_path, follow_symlinks=True)

    assert names(gathered) == ["a/f", "a/to-b/g", "b/g", "b/to-a/f"]
    notices = gathered.report.notices
    assert f"'{tmp_path}/a/up' leads back to a folder above it: skipped" in notices
    assert len(notices) == 6


def test_a_linked_source_folder_is_walked(tmp_path: Path) -> None:
    fill(tmp_path, "real/a")
    (tmp_path / "link").symlink_to("real")

    (file,) = gather(tmp_path / "link").files

    assert (file.path_in_repo, file.disk_path) == ("a", f"{tmp_path}/link/a")


def test_everything_that_cannot_be_a_file_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "good")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "new\nline").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9")).write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        listener.bind("socket")

        found = problems(tmp_path)

    assert found == (
        f"'{tmp_path}/broken' is a broken link, to 'nowhere'",
        f"'{tmp_path}/circle' is a link that leads back to itself",
        f"'{tmp_path}/device' is a device, not a file",
        f"path_in_repo 'latin-\\udce9' (of '{tmp_path}/latin-\\udce9')"
        " must be valid Unicode (UTF-8)",
        f"path_in_repo 'new\\nline' (of '{tmp_path}/new\\nline')"
        " must not contain control characters",
        f"'{tmp_path}/pipe' is a named pipe (FIFO), not a file",
        f"'{tmp_path}/socket' is a socket, not a file",
    )
    assert names(gather(tmp_path, allow_patterns="good")) == ["good"]


def test_files_with_undecodable_names_can_be_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "good")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9")).write_bytes(b"")
    for pattern in ("latin-\udce9", "latin-?"):
        assert names(gather(tmp_path, ignore_patterns=pattern)) == ["good"]


def test_the_message_shows_some_problems_and_counts_the_rest(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"broken-{number:02}").symlink_to("nowhere")

    with pytest.raises(SourceError) as caught:
        gather(tmp_path)

    text = str(caught.value)
    assert len(caught.value.problems) == 30
    assert text.startswith("30 problems with the files:\n")
    assert "broken-19" in text
    assert "broken-20" not in text
    assert "… and 10 more; .problems lists all\n  next: " in text


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder to which this process, though it may be root's, has no special rights inside."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(folder)


def drop_privileges() -> None:
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 0)


def test_files_and_folders_that_may_not_be_read_are_named() -> None:
    with without_privileges() as root:
        fill(root, "good", "secret", "closed/f", "ignored/f")
        for name in ("secret", "closed", "ignored"):
            (root / name).chmod(0)
        drop_privileges()

        found = problems(root, ignore_patterns="ignored/")

    assert found == (
        f"folder '{root}/closed' cannot be listed: Permission denied",
        f"'{root}/secret' cannot be read: Permission denied",
    )


def test_a_system_that_wrongly_says_no_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert names(gather(tmp_path)) == ["a"]


def test_a_file_that_vanishes_during_the_walk_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    walk = iter(Walk(str(tmp_path), PatternFilter(), ProblemReport()))
    next(walk)
    (tmp_path / "b").unlink()
    _, path = next(walk)

    with pytest.raises(Exception, match=r"^does not exist$"):
        regular_file(path)


def test_a_disk_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a")

    def fail(path: str) -> os.stat_result:
        if path.endswith("/a"):
            raise OSError(errno.EIO, "Input/output error")
        return plain_stat(path)

    plain_stat = os.stat
    monkeypatch.setattr(os, "stat", fail)
    assert problems(str(tmp_path)) == (f"'{tmp_path}/a' cannot be read: Input/output error",)


@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_a_folder_that_vanishes_during_the_walk_is_named(
    tmp_path: Path, follow_symlinks: bool
) -> None:
    fill(tmp_path, "a", "b/f")
    report = ProblemReport()
    walk = iter(Walk(str(tmp_path), PatternFilter(), report, follow_symlinks=follow_symlinks))
    assert next(walk)[0] == "a"
    shutil.rmtree(tmp_path / "b")

    assert list(walk) == []
    assert report.problems == [f"folder '{tmp_path}/b' cannot be listed: No such file or directory"]


def test_a_folder_turned_into_a_link_is_not_entered(tmp_path: Path) -> None:
    """Swapped between the listing of its parent and its own: a race for what lies outside."""
    fill(tmp_path, "outside/secret", "in/a", "in/b/f", "in/c")
    report = ProblemReport()
    walk = iter(Walk(str(tmp_path / "in"), PatternFilter(), report))
    assert next(walk)[0] == "a"
    shutil.rmtree(tmp_path / "in/b")
    (tmp_path / "in/b").symlink_to("../outside")

    assert [name for name, _ in walk] == ["c"]
    assert report.problems == [f"folder '{tmp_path}/in/b' cannot be listed: Not a directory"]


def test_a_folder_replaced_by_a_link_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, "outside/f", "in/b/f")
    (file,) = gather(tmp_path / "in").files
    shutil.rmtree(tmp_path / "in/b")
    (tmp_path / "in/b").symlink_to("../outside")

    with pytest.raises(SourceChangedError, match="replaced by another file"):
        read_all(file)


def test_a_walk_that_is_stopped_ends(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", "c")
    stopped: list[bool] = []
    walk = iter(
        Walk(str(tmp_path), PatternFilter(), ProblemReport(), stopped=lambda: bool(stopped))
    )

    assert next(walk)[0] == "a"
    stopped.append(True)
    assert list(walk) == []


def test_backslashes_in_names_become_folders_and_are_reported(tmp_path: Path) -> None:
    fill(tmp_path, "dir\\file")
    gathered = gather(tmp_path)
    assert names(gathered) == ["dir/file"]
    assert gathered.report.notices == (f"'{tmp_path}/dir\\\\file' becomes 'dir/file' in the repo",)

    fill(tmp_path, "dir/file", "..\\escape")
    assert problems(tmp_path) == (
        f"path_in_repo '..\\\\escape' (of '{tmp_path}/..\\\\escape')"
        " must not contain a '..' segment",
        f"path_in_repo 'dir/file' is named twice: by '{tmp_path}/dir/file'"
        f" and by '{tmp_path}/dir\\\\file'",
    )


def test_names_that_differ_by_case_alone_are_reported(tmp_path: Path) -> None:
    fill(tmp_path, "README.md", "Readme.md")
    assert gather(tmp_path).report.notices == (
        "'README.md' and 'Readme.md' differ only by case or Unicode form:"
        " many file systems cannot hold both",
    )


def test_names_that_the_official_client_cannot_download_are_reported(tmp_path: Path) -> None:
    fill(tmp_path, "a:b", "12:30.log")
    (notice,) = gather(tmp_path).report.notices
    assert notice.startswith("'a:b' looks like a Windows drive: the official client cannot")


def test_many_notices_of_a_kind_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    for number in range(25):
        (tmp_path / f"link-{number}").symlink_to(".")

    notices = gather(tmp_path).report.notices

    assert len(notices) == NOTICES_SHOWN + 1
    assert notices[-1] == "links to folders, skipped: 15 more"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        pytest.param("nowhere", "'{here}/nowhere' does not exist", id="missing"),
        pytest.param(
            "hf://me/m",
            "'{here}/hf:/me/m' does not exist: a source is a local path; `copy` takes what is on"
            " the Hub",
            id="an address",
        ),
        pytest.param("file/below", "'{here}/file/below' does not exist", id="below a file"),
        pytest.param("pipe", "'{here}/pipe' is a named pipe (FIFO), not a file", id="pipe"),
        pytest.param("a\0b", "'{here}/a\\x00b' cannot be a path: embedded null byte", id="NUL"),
        pytest.param("x" * 300, "'{here}/" + "x" * 300 + "' cannot be read: File name too long",
                     id="too long"),
        pytest.param("", "the source is an empty path", id="empty"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    fill(tmp_path, "file")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SourceError) as caught:
        gather(path)

    assert caught.value.problems == (problem.format(here=tmp_path),)
    assert caught.value.message == caught.value.problems[0]


def test_an_empty_folder_alone_is_a_problem(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "full/a", "full/b")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    empty, full = f"{tmp_path}/empty", f"{tmp_path}/full"

    assert problems(empty) == (f"folder '{empty}' contains no files",)
    assert problems(full, allow_patterns=[]) == (
        f"the patterns select none of the 2 files in '{full}'",
    )
    deleting = gather(empty, delete_patterns="*")
    assert deleting.files == []
    assert deleting.report.notices == (f"folder '{empty}' contains no files",)


def test_a_folder_with_nothing_to_push_says_what_is_excluded(tmp_path: Path) -> None:
    fill(tmp_path, ".git/config", "sub/__pycache__/a.pyc")

    assert problems(tmp_path) == (
        f"folder '{tmp_path}' contains no files besides '.git/', 'sub/__pycache__/', which no push"
        " includes",
    )


def test_a_folder_that_holds_skipped_links_alone_says_so(tmp_path: Path) -> None:
    fill(tmp_path, "outside/a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("../outside")

    (problem,) = problems(tmp_path / "in")

    assert problem.startswith(
        f"folder '{tmp_path}/in' contains no files; '{tmp_path}/in/link' is a"
    )


@pytest.mark.parametrize(
    ("path_in_repo", "name"),
    [
        pytest.param("", "model.bin", id="its own name"),
        pytest.param("./", "model.bin", id="its own name at the root"),
        pytest.param(".", "model.bin", id="dot"),
        pytest.param("w/", "w/model.bin", id="in a folder"),
        pytest.param("w\\", "w/model.bin", id="in a folder, Windows"),
        pytest.param("w/other.bin", "w/other.bin", id="a full name"),
    ],
)
@pytest.mark.parametrize("as_path", [Path, str])
def test_one_file_lands_where_it_is_told(
    tmp_path: Path, path_in_repo: str, name: str, as_path: Any
) -> None:
    fill(tmp_path, "model.bin")
    source = as_path(tmp_path / "model.bin")
    assert names(gather(source, path_in_repo=path_in_repo)) == [name]


def test_one_file_is_pushed_whatever_patterns_say(tmp_path: Path) -> None:
    fill(tmp_path, ".DS_Store")
    assert names(gather(tmp_path / ".DS_Store", allow_patterns="*.bin")) == [".DS_Store"]


@pytest.mark.parametrize("path_in_repo", ["../x", "/x", ".git/"])
def test_one_file_with_an_impossible_name_is_refused(tmp_path: Path, path_in_repo: str) -> None:
    fill(tmp_path, "a")
    (problem,) = problems(tmp_path / "a", path_in_repo=path_in_repo)
    assert problem.startswith("path_in_repo ")


def test_a_folder_at_an_invalid_path_reports_all_problems(
    tmp_path: Path,
) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    assert problems(tmp_path, path_in_repo="a/../b") == (
        "path_in_repo 'a/../b' must not contain a '..' segment",
        f"'{tmp_path}/broken' is a broken link, to 'nowhere'",
    )


def test_paths_stay_right_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "here/out/a", "there/b", "beside/c")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "link").symlink_to("../there")

    assert [file.disk_path for file in gather("out").files] == [f"{tmp_path}/here/out/a"]
    # By its letters alone, link/../beside would be here/beside.
    (file,) = gather("link/../beside").files
    assert file.disk_path is not None
    assert Path(file.disk_path).resolve() == tmp_path / "beside" / "c"


def test_a_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "out/a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [file.disk_path for file in gather("~/out").files] == [f"{tmp_path}/out/a"]


@pytest.mark.no_cover
@pytest.mark.timeout(300)
def test_a_hundred_thousand_files_are_walked(tmp_path: Path) -> None:
    folders, files = [f"{n:02}" for n in range(100)], [f"{n:03}" for n in range(1000)]
    fill(tmp_path / "full", *files)
    (tmp_path / "root").mkdir()
    for folder in folders:  # links, to spare the making of so many files
        (tmp_path / "root" / folder).symlink_to("../full")

    gathered = gather(tmp_path / "root", follow_symlinks=True)

    assert names(gathered) == [f"{folder}/{file}" for folder in folders for file in files]
