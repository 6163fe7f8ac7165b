"""git and git-lfs, as they are installed: clone, fetch and push over HTTP."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from asyncpush import UploadConfig, Uploader
from asyncpush.localhub import LocalHub, serve_in_thread
from asyncpush.localhub.store import pushes
from tests.clients import installing
from tests.clients.installing import NotInstalledError
from tests.localhub.conftest import PART_SIZE, HubClient, add, add_lfs

LARGE = random.Random(7).randbytes(2_500_000)


class Work:
    """A folder where somebody works with git; nobody's settings but these."""

    def __init__(self, folder: Path, hub: LocalHub, token: str | None = "hf_local") -> None:
        self.folder = folder
        self.url = hub.url
        if token is not None:
            self.url = hub.url.replace("://", f"://ann:{token}@")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ADVICE": "0",
        }
        folder.mkdir()
        (folder / ".gitconfig").write_text("[user]\nname = Ann\nemail = ann@example.org\n")

    def __call__(self, *words: str | Path, within: str = "net", fails: bool = False) -> str:
        """Run git; what it said, on both of its streams."""
        done = subprocess.run(
            ["git", *map(str, words)],
            cwd=self.folder / within,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def clone(self, repo: str = "me/net", into: str = "net", *, fails: bool = False) -> str:
        return self("clone", f"{self.url}/{repo}", into, within=".", fails=fails)

    def commit(self, path: str, content: bytes | str, within: str = "net") -> None:
        target = self.folder / within / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        self("add", "-A", within=within)
        self("commit", "-qm", f"change {path}", within=within)

    def read(self, path: str, within: str = "net") -> bytes:
        return (self.folder / within / path).read_bytes()


@pytest.fixture
def git_lfs() -> None:
    try:
        installing.program("git-lfs")
    except NotInstalledError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with serve_in_thread(
        tmp_path / "hub",
        part_size=PART_SIZE,
        users={"me": "hf_local", "ben": "hf_ben"},
        xet=False,
    ) as hub:
        yield hub


@pytest.fixture
async def client(hub: LocalHub) -> AsyncIterator[HubClient]:
    """The owner of me/net, through the API."""
    async with aiohttp.ClientSession() as session:
        client = HubClient(hub.url, session, "hf_local")
        assert (await client.create()).status == 200
        yield client


@pytest.fixture
def work(tmp_path: Path, hub: LocalHub) -> Work:
    return Work(tmp_path / "work", hub)


@pytest.mark.parametrize("suffix", ["", ".git"])
async def test_what_is_pushed_is_there_for_all(
    suffix: str, work: Work, client: HubClient, tmp_path: Path, hub: LocalHub
) -> None:
    work.clone(f"me/net{suffix}")
    work.commit("a.txt", "from git\n")
    work("push")

    read = await client.get("/me/net/resolve/main/a.txt")
    assert read.text == "from git\n"
    await client.commit(add("b.txt", b"from the API\n"))
    work("pull", "--ff-only")
    assert work.read("b.txt") == b"from the API\n"
    stranger = Work(tmp_path / "stranger", hub, token=None)
    stranger.clone()
    assert stranger.read("a.txt") == b"from git\n"


async def test_much_is_pushed_in_pieces_and_cloned_in_part(work: Work, client: HubClient) -> None:
    """Past a megabyte git sends a body without a length, to a hub that has answered a probe."""
    text = random.Random(7).randbytes(3_000_000).hex()
    work.clone()
    work.commit("long.txt", text)
    work.commit("short.txt", "short")
    work("push")
    assert (await client.get("/me/net/resolve/main/long.txt")).text == text
    work("clone", "--depth=1", f"{work.url}/me/net", "shallow", within=".")
    assert work("rev-list", "--count", "HEAD", within="shallow").strip() == "1"
    work("clone", "--filter=blob:none", "--no-checkout", f"{work.url}/me/net", "bare", within=".")
    work("checkout", "HEAD", "--", "short.txt", within="bare")
    assert work.read("short.txt", within="bare") == b"short"


async def test_branches_tags_and_pull_requests_are_refs(work: Work, client: HubClient) -> None:
    await client.commit(add("idea.txt", b"an idea\n"), query="?create_pr=1")
    work.clone()
    work("fetch", "origin", "refs/pr/1:pr/1")
    work("checkout", "-q", "pr/1")
    work.commit("more.txt", "more of it\n")
    work("push", "origin", "pr/1:refs/pr/1")
    work("push", "origin", "pr/1:refs/heads/dev/one")
    work("tag", "-am", "the first", "v1")
    work("push", "--tags")
    work("push", "origin", ":dev/one")

    refs = (await client.get("/api/models/me/net/refs?include_prs=1")).json
    assert [ref["name"] for ref in refs["branches"]] == ["main"]
    assert [ref["name"] for ref in refs["tags"]] == ["v1"]
    assert [ref["name"] for ref in refs["pullRequests"]] == ["1"]
    merged = await client.post("/api/models/me/net/discussions/1/merge")
    assert merged.status == 200
    assert (await client.get("/me/net/resolve/main/more.txt")).text == "more of it\n"


async def test_large_files_go_and_come_by_git_lfs(
    git_lfs: None, work: Work, client: HubClient, tmp_path: Path, hub: LocalHub
) -> None:
    await client.call("PUT", "/api/models/me/net/settings", json={"private": True})
    work("lfs", "install", within=".")
    work.clone()
    work.commit("model.safetensors", LARGE)
    work("push")

    row = await client.post("/api/models/me/net/paths-info/main", {"paths": ["model.safetensors"]})
    assert row.json[0]["lfs"]["size"] == len(LARGE)
    assert (await client.get("/me/net/resolve/main/model.safetensors")).body == LARGE
    oid = await client.store(LARGE[::-1])
    await client.commit(add_lfs("reversed.bin", oid, len(LARGE)))
    work("pull", "-q")
    assert work.read("reversed.bin") == LARGE[::-1]
    other = Work(tmp_path / "other", hub)
    other("lfs", "install", within=".")
    other.clone("me/net.git")
    assert other.read("model.safetensors") == LARGE


async def test_what_no_rule_names_is_cloned_whole_as_well(
    git_lfs: None, work: Work, client: HubClient
) -> None:
    """The hub writes a rule for each file that it has in LFS."""
    large = {name: LARGE + name.encode() for name in ("tokenizer.json", "a b/[x]*!.dat", '"q".z')}
    for name, content in large.items():
        oid = await client.store(content)
        assert (await client.commit(add_lfs(name, oid, len(content)))).status == 200
    work("lfs", "install", within=".")
    work.clone()
    assert {name: work.read(name) for name in large} == large
    assert work("status", "--porcelain") == ""


async def test_what_came_by_xet_is_cloned_by_git_lfs(git_lfs: None, tmp_path: Path) -> None:
    config = UploadConfig(cache_dir=tmp_path / "cache", progress="none", transfer="xet")
    with serve_in_thread(tmp_path / "hub", xet=True) as hub:
        async with Uploader("hf_any", hub.url, config) as uploader:
            await uploader.push_to_hub("me/net", {"model.bin": LARGE})
        assert not list((hub.root / "lfs" / "objects").rglob("*/*/*"))
        work = Work(tmp_path / "work", hub)
        work("lfs", "install", within=".")
        work.clone()
        assert work.read("model.bin") == LARGE


async def test_a_repos_folder_is_cloned_with_large_files(
    git_lfs: None, work: Work, client: HubClient, hub: LocalHub
) -> None:
    oid = await client.store(LARGE)
    await client.commit(add_lfs("model.bin", oid, len(LARGE)))
    work("lfs", "install", within=".")
    work("clone", hub.root / "models/me/net.git", "net", within=".")
    assert work.read("model.bin") == LARGE


async def test_a_push_whose_objects_are_not_stored_is_refused(
    work: Work, client: HubClient
) -> None:
    oid = "ab" * 32
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12\n"
    work.clone()
    before = await client.head()
    work("config", "filter.lfs.required", "false")
    work.commit("model.bin", pointer)

    said = work("push", fails=True)

    assert "LFS pointer pointed to a file that does not exist" in said
    assert "- model.bin" in said
    assert await client.head() == before
    loose = [path for path in (work.folder.parent / "hub/models/me/net.git/objects").rglob("*")]
    assert not [path for path in loose if "tmp_objdir" in path.name]


@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        pytest.param("README.md", "---\nlicense: {\n---\n", "YAML metadata", id="a broken card"),
        pytest.param("a.txt", "x" * (10 << 20) + "x", "larger than 10 MiB", id="over 10 MiB"),
        pytest.param("a\x01b", "b", "paths that are not allowed", id="a control character"),
    ],
)
async def test_a_refused_push_names_the_reason(
    path: str, content: str, why: str, work: Work, client: HubClient
) -> None:
    before = await client.head()
    work.clone()
    work.commit(path, content)
    assert why in work("push", fails=True)
    assert await client.head() == before
    work("rm", "-q", path)
    work("commit", "-q", "--amend", "--allow-empty", "-m", "without it")
    work("push")
    assert await client.head() == work("rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("refspec", "why"),
    [
        pytest.param(":main", "Cannot delete the default branch", id="main goes"),
        pytest.param("main:refs/notes/x", "only branches, tags and pull requests", id="other ref"),
        pytest.param("main:refs/pr/7", "opened and closed on the hub", id="a pull request of none"),
        pytest.param(f"main:{'ab' * 20}", "has another meaning", id="a branch like a commit"),
        pytest.param("main^{tree}:refs/tags/t", "must lead to commits", id="a tag of a tree"),
    ],
)
async def test_refs_that_the_hub_does_not_have_are_refused(
    refspec: str, why: str, work: Work, client: HubClient
) -> None:
    work.clone()
    refspec = refspec.replace("main:ab", "main:refs/heads/ab")
    assert why in work("push", "origin", refspec, fails=True)


async def test_a_hidden_repo_is_cloned_with_the_token_alone(
    work: Work, client: HubClient, tmp_path: Path, hub: LocalHub
) -> None:
    await client.call("PUT", "/api/models/me/net/settings", json={"private": True})
    work.clone()
    stranger = Work(tmp_path / "stranger", hub, token=None)
    assert "could not read Username" in stranger.clone(fails=True)
    assert "could not read Username" in stranger.clone("me/nothing", fails=True)
    wrong = Work(tmp_path / "wrong", hub, token="hf_wrong")
    assert "Authentication failed" in wrong.clone(fails=True)
    ben = Work(tmp_path / "ben", hub, token="hf_ben")
    assert "not found" in ben.clone(fails=True)


async def test_another_user_pushes_to_their_own_pull_request_alone(
    work: Work, client: HubClient, tmp_path: Path, hub: LocalHub
) -> None:
    await client.commit(add("b.txt"), query="?create_pr=1")
    client.token = "hf_ben"
    await client.commit(add("a.txt"), query="?create_pr=1")
    ben = Work(tmp_path / "ben", hub, token="hf_ben")
    ben.clone()
    ben("fetch", "origin", "refs/pr/2:own", "refs/pr/1:other")
    ben("checkout", "-q", "own")
    ben.commit("c.txt", "c")
    ben("push", "origin", "own:refs/pr/2")
    assert "may not write to this repo" in ben("push", "origin", "own:main", fails=True)
    ben("checkout", "-q", "other")
    ben.commit("c.txt", "c")
    assert "only me and the repo's owner" in ben("push", "origin", "other:refs/pr/1", fails=True)


async def test_a_lock_of_a_killed_push_is_removed(
    work: Work, client: HubClient, hub: LocalHub
) -> None:
    work.clone()
    (hub.root / "models/me/net.git/refs/heads/main.lock").touch()
    work.commit("a.txt", "a")
    work("push")


async def test_a_clone_goes_on_when_its_repo_has_moved(
    git_lfs: None, work: Work, client: HubClient
) -> None:
    work("lfs", "install", within=".")
    work.clone()
    await client.post("/api/repos/move", {"fromRepo": "me/net", "toRepo": "me/moved"})
    work.commit("model.bin", LARGE)
    work("push")
    work("pull")
    assert (await client.get("/me/moved/resolve/main/model.bin")).body == LARGE


async def test_where_hooks_cannot_run_nothing_is_pushed_unchecked(
    work: Work, client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.clone()
    work.commit("a.txt", "a")
    before = await client.head()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "501" in work("push", fails=True)
    assert await client.head() == before


async def test_a_check_that_fails_refuses_the_push(
    work: Work, client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    work.clone()
    work.commit("a.txt", "a")
    before = await client.head()
    monkeypatch.setattr(pushes, "problems_of_push", broken)
    assert "500" in work("push", fails=True)
    assert await client.head() == before


async def test_without_git_it_is_said_what_is_missing(
    client: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = await client.get("/me/net/info/refs?service=git-upload-pack")
    assert answer.status == 501
    assert "git is not installed" in answer.json["error"]


async def test_the_page_of_a_repo_says_how_to_clone_it(client: HubClient, hub: LocalHub) -> None:
    assert f"git clone {hub.url}/me/net" in (await client.get("/me/net")).text
