"""The official client, in LFS mode, takes the embedded Hub for the Hub."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._runtime import is_xet_available

from asyncpush.localhub import LocalHub
from tests.localhub.conftest import PART_SIZE

# The official client's own: it sends its parts with httpx's older argument.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.no_cover,
]

randbytes = random.Random(7).randbytes

README = b"---\nlicense: mit\nsdk: static\ntags: [tiny]\n---\n# A thing\n"
FILES = {
    "README.md": README,
    "config.json": b'{"layers": 2}\n',
    "empty.txt": b"",
    "deep/er/notes ö.txt": "größe\n".encode(),
    "one-part.bin": randbytes(1000),
    "exactly-one-part.bin": randbytes(PART_SIZE),
    "many-parts.safetensors": randbytes(3 * PART_SIZE + 1),
    "binary-without-rule": b"\0" * 300,
}

Repo = dict[str, Any]


@pytest.fixture
def api(hub_in_thread: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert not is_xet_available()
    return HfApi(endpoint=hub_in_thread.url, token="hf_local")


@pytest.fixture(params=["model", "dataset", "space"])
def repo(request: pytest.FixtureRequest, api: HfApi) -> Repo:
    """A new repo of each type, as the arguments that name it."""
    repo: Repo = {"repo_id": "me/thing", "repo_type": request.param}
    sdk = "static" if request.param == "space" else None
    url = api.create_repo(**repo, space_sdk=sdk)
    assert (url.repo_id, url.repo_type) == ("me/thing", request.param)
    return repo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def test_a_folder_comes_back_byte_for_byte(api: HfApi, repo: Repo, folder: Path) -> None:
    commit = api.upload_folder(**repo, folder_path=folder, commit_message="all of it")

    snapshot = Path(api.snapshot_download(**repo))

    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    assert snapshot.name == commit.oid
    info: Any = api.repo_info(**repo, files_metadata=True)
    assert info.sha == commit.oid
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert sizes.pop(".gitattributes") > 1562  # there is a rule more, for what none had named
    assert sizes == {
        **{name: len(content) for name, content in FILES.items()},
    }
    assert info.card_data.license == "mit"


def test_binary_and_ruled_files_go_through_lfs(api: HfApi, repo: Repo, folder: Path) -> None:
    api.upload_folder(**repo, folder_path=folder)

    files = [f for f in api.list_repo_tree(**repo, recursive=True) if isinstance(f, RepoFile)]

    assert {file.path for file in files if file.lfs} == {
        "one-part.bin",
        "exactly-one-part.bin",
        "many-parts.safetensors",
        "binary-without-rule",
    }


def test_an_unchanged_folder_is_skipped_by_its_oids(api: HfApi, repo: Repo, folder: Path) -> None:
    first = api.upload_folder(**repo, folder_path=folder)

    second = api.upload_folder(**repo, folder_path=folder)

    assert second.oid == first.oid
    assert len(api.list_repo_commits(**repo)) == 2


def test_files_and_folders_are_deleted(api: HfApi, repo: Repo, folder: Path) -> None:
    api.upload_folder(**repo, folder_path=folder)

    api.delete_file("config.json", **repo)
    api.delete_folder("deep", **repo)
    api.delete_files(**repo, delete_patterns=["*.bin"])

    assert sorted(api.list_repo_files(**repo)) == [
        ".gitattributes",
        "README.md",
        "binary-without-rule",
        "empty.txt",
        "many-parts.safetensors",
    ]
    with pytest.raises(EntryNotFoundError):
        api.delete_file("config.json", **repo)


def test_copies_keep_their_bytes(api: HfApi, repo: Repo, folder: Path) -> None:
    api.upload_folder(**repo, folder_path=folder)

    api.create_commit(
        **repo,
        operations=[
            CommitOperationCopy("many-parts.safetensors", "copies/large.safetensors"),
            CommitOperationCopy("config.json", "copies/config.json"),
            CommitOperationDelete("one-part.bin"),
            CommitOperationAdd("new.txt", b"new"),
        ],
        commit_message="copy",
    )

    for path, content in {
        "copies/large.safetensors": FILES["many-parts.safetensors"],
        "copies/config.json": FILES["config.json"],
        "new.txt": b"new",
    }.items():
        assert Path(api.hf_hub_download(**repo, filename=path)).read_bytes() == content
    assert not api.file_exists(**repo, filename="one-part.bin")


def test_a_pull_request_is_opened_and_merged(api: HfApi, repo: Repo) -> None:
    main = api.repo_info(**repo).sha

    commit = api.upload_file(
        path_or_fileobj=b"proposal",
        path_in_repo="idea.txt",
        **repo,
        create_pr=True,
        commit_message="An idea",
        commit_description="push-id: 42",
    )

    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert api.repo_info(**repo).sha == main
    assert api.file_exists(**repo, filename="idea.txt", revision="refs/pr/1")
    (listed,) = api.get_repo_discussions(**repo, discussion_status="open")
    assert (listed.title, listed.num, listed.is_pull_request) == ("An idea", 1, True)
    details = api.get_discussion_details(**repo, discussion_num=1)
    comment, event = details.events
    assert comment.content == "push-id: 42"  # type: ignore[attr-defined]
    assert event.oid == commit.oid  # type: ignore[attr-defined]
    assert details.diff is not None
    assert "+proposal" in details.diff

    api.merge_pull_request(**repo, discussion_num=1, comment="thanks")

    assert api.file_exists(**repo, filename="idea.txt")
    merged = api.get_discussion_details(**repo, discussion_num=1)
    assert merged.status == "merged"
    assert merged.merge_commit_oid == api.repo_info(**repo).sha


def test_a_draft_pull_request_takes_commits(api: HfApi, repo: Repo) -> None:
    pull = api.create_pull_request(title="Later", **repo)
    assert (pull.status, pull.git_reference) == ("draft", "refs/pr/1")

    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", **repo, revision=pull.git_reference)

    assert api.file_exists(**repo, filename="x.txt", revision="refs/pr/1")
    assert not api.file_exists(**repo, filename="x.txt")


def test_a_discussion_is_talked_about(api: HfApi, repo: Repo) -> None:
    opened = api.create_discussion(title="A question", description="Why?", **repo)
    number = opened.num

    answer = api.comment_discussion(**repo, discussion_num=number, comment="Because <b>.")
    api.rename_discussion(**repo, discussion_num=number, new_title="An answer")
    api.change_discussion_status(**repo, discussion_num=number, new_status="closed")

    assert answer.rendered == "<p>Because &lt;b&gt;.</p>"
    details = api.get_discussion_details(**repo, discussion_num=number)
    assert (details.title, details.status) == ("An answer", "closed")
    kinds = [event.type for event in details.events]
    assert kinds == ["comment", "comment", "title-change", "status-change"]
    assert list(api.get_repo_discussions(**repo, discussion_status="open")) == []
    assert list(api.get_repo_discussions(**repo, discussion_type="pull_request")) == []


def test_branches_and_tags_come_and_go(api: HfApi, repo: Repo) -> None:
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="n.txt", **repo)
    api.create_branch(**repo, branch="dev/one")
    api.create_branch(**repo, branch="dev/one", exist_ok=True)
    api.create_tag(**repo, tag="v1", tag_message="the first")
    api.create_tag(**repo, tag="light", revision=first.oid)
    second = api.upload_file(path_or_fileobj=b"2", path_in_repo="n.txt", **repo, revision="dev/one")

    refs = api.list_repo_refs(**repo, include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": first.oid,
        "dev/one": second.oid,
    }
    assert {ref.name: ref.target_commit for ref in refs.tags} == {
        "v1": first.oid,
        "light": first.oid,
    }
    assert refs.pull_requests == []
    path = api.hf_hub_download(**repo, filename="n.txt", revision="dev/one")
    assert Path(path).read_bytes() == b"2"
    path = api.hf_hub_download(**repo, filename="n.txt", revision="v1")
    assert Path(path).read_bytes() == b"1"

    api.delete_branch(**repo, branch="dev/one")
    api.delete_tag(**repo, tag="v1")

    assert not api.revision_exists(**repo, revision="dev/one")
    assert not api.revision_exists(**repo, revision="v1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(**repo, tag="v1")


def test_commits_are_listed_newest_first(api: HfApi, repo: Repo) -> None:
    for number in range(3):
        api.upload_file(
            path_or_fileobj=str(number).encode(),
            path_in_repo="n.txt",
            **repo,
            commit_message=f"number {number}",
            commit_description="two\nlines",
        )

    commits = api.list_repo_commits(**repo)

    titles = [commit.title for commit in commits]
    assert titles == ["number 2", "number 1", "number 0", "initial commit"]
    assert commits[0].message == "two\nlines"
    assert commits[0].authors == ["local"]


def test_repos_are_listed_and_filtered(api: HfApi, repo: Repo, folder: Path) -> None:
    api.upload_folder(**repo, folder_path=folder)
    kinds = {"model": api.list_models, "dataset": api.list_datasets, "space": api.list_spaces}
    listed: Any = kinds[repo["repo_type"]]

    for asked in ({"filter": "tiny"}, {"search": "thing"}, {"author": "me"}, {"full": True}):
        assert [found.id for found in listed(**asked)] == ["me/thing"], asked
    (found,) = listed(sort="last_modified", limit=1, filter=["tiny", "license:mit"])
    assert (found.likes, found.private) == (0, False)
    assert list(listed(filter="large")) == []
    commits = api.list_repo_commits(**repo, formatted=True)
    assert commits[0].formatted_title is not None


def test_paths_are_described(api: HfApi, repo: Repo, folder: Path) -> None:
    commit = api.upload_folder(**repo, folder_path=folder, commit_message="all of it")

    found = api.get_paths_info(
        **repo, paths=["many-parts.safetensors", "deep", "nowhere"], expand=True
    )

    large, deep = found
    assert isinstance(large, RepoFile)
    assert isinstance(deep, RepoFolder)
    assert large.lfs is not None
    assert large.size == large.lfs.size == 3 * PART_SIZE + 1
    assert large.lfs.pointer_size == 132
    assert large.last_commit is not None
    assert (large.last_commit.oid, large.last_commit.title) == (commit.oid, "all of it")


def test_a_stale_parent_is_refused(api: HfApi, repo: Repo) -> None:
    stale = api.repo_info(**repo).sha
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", **repo)

    with pytest.raises(HfHubHTTPError) as caught:
        api.upload_file(path_or_fileobj=b"2", path_in_repo="b.txt", **repo, parent_commit=stale)

    assert caught.value.response is not None
    assert caught.value.response.status_code == 412


def test_ignored_files_stay_away(api: HfApi, repo: Repo, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.bin\ndeep/\n")

    api.upload_folder(**repo, folder_path=folder)

    files = set(api.list_repo_files(**repo))
    assert not {path for path in files if path.endswith(".bin") or path.startswith("deep/")}
    assert "config.json" in files


def test_a_bad_card_stops_the_commit(api: HfApi, repo: Repo) -> None:
    with pytest.raises(ValueError, match='"license" must be a string'):
        api.upload_file(
            path_or_fileobj=b"---\nlicense: {a: b}\n---\n", path_in_repo="README.md", **repo
        )


def test_a_repo_is_there_once_and_can_go(api: HfApi, repo: Repo) -> None:
    sdk = "static" if repo["repo_type"] == "space" else None
    with pytest.raises(HfHubHTTPError):
        api.create_repo(**repo, space_sdk=sdk)
    again = api.create_repo(**repo, space_sdk=sdk, exist_ok=True)
    assert again.repo_id == "me/thing"

    api.move_repo("me/thing", "you/other", repo_type=repo["repo_type"])
    info: Any = api.repo_info(**repo)
    assert info.id == "you/other"  # where the old name leads
    assert api.file_exists(**repo, filename=".gitattributes")

    api.delete_repo("you/other", repo_type=repo["repo_type"])
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("you/other", repo_type=repo["repo_type"])
    api.delete_repo("you/other", repo_type=repo["repo_type"], missing_ok=True)


def test_a_private_repo_is_not_there_for_strangers(
    api: HfApi, repo: Repo, hub_in_thread: LocalHub
) -> None:
    stranger = HfApi(endpoint=hub_in_thread.url, token=False)
    assert stranger.repo_exists(**repo)
    api.update_repo_settings(**repo, private=True)

    assert api.repo_info(**repo).private
    assert not stranger.repo_exists(**repo)
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download(**repo, filename=".gitattributes")
    api.auth_check(**repo)
    api.auth_check(**repo, write=True)
    with pytest.raises(RepositoryNotFoundError):
        stranger.auth_check(**repo)


def test_the_user_is_reported_who_they_are(api: HfApi) -> None:
    assert api.whoami()["name"] == "local"
