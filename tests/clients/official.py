"""What users of huggingface_hub do, one call after another, with whichever version is installed.

    python official.py ENDPOINT TOKEN REPO FOLDER

Prints one JSON object a line: {"call": ..., "value": ...} or {"call": ..., "error": ...}. It runs
by itself, beside versions of many years: nothing here is newer than 0.14.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

ENDPOINT, TOKEN, REPO, WORK = sys.argv[1:5]
api = HfApi(endpoint=ENDPOINT, token=TOKEN)


def call(title: str, work: Callable[[], Any]) -> None:
    try:
        said = {"call": title, "value": work()}
    except Exception as error:
        said = {"call": title, "error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(said) + "\n")


def content_of(seed: str, count: int) -> bytes:
    pieces = (hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(count // 32 + 1))
    return b"".join(pieces)[:count]


LARGE = content_of("large", 3_000_001)
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Made long ago\n",
    "config.json": b"{}\n",
    "weights/model.safetensors": LARGE,
    "data/other.bin": content_of("other", 70_000),
}


def folder() -> str:
    root = Path(WORK) / "folder"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def download(name: str, **where: Any) -> bytes:
    cache = str(Path(WORK) / "cache")
    path = hf_hub_download(REPO, name, cache_dir=cache, token=TOKEN, **where)
    return Path(path).read_bytes()


def commit(title: str, *operations: Any, **where: Any) -> Any:
    return api.create_commit(REPO, list(operations), commit_message=title, **where)


def branch() -> list[str]:
    api.create_branch(REPO, branch="dev")
    dev = CommitOperationAdd("dev.txt", b"dev\n")
    commit("on dev", dev, CommitOperationDelete("config.json"), revision="dev")
    return sorted(api.list_repo_files(REPO, revision="dev"))


def stale_parent() -> bool:
    try:
        late = CommitOperationAdd("late.txt", b"late\n")
        commit("late", late, parent_commit=api.list_repo_commits(REPO)[1].commit_id)
    except Exception as error:
        return "412" in str(error)
    return False


def pull_request() -> list[Any]:
    opened = commit("An idea", CommitOperationAdd("idea.bin", b"\0idea" * 999), create_pr=True)
    proposed = download("idea.bin", revision=opened.pr_revision) == b"\0idea" * 999
    api.merge_pull_request(REPO, discussion_num=opened.pr_num)
    return [opened.pr_num, proposed, download("idea.bin") == b"\0idea" * 999]


call("version", lambda: huggingface_hub.__version__)
call("who am I", lambda: api.whoami()["name"])
call("create", lambda: str(api.create_repo(REPO, private=True)).endswith(REPO))
call("create again", lambda: str(api.create_repo(REPO, exist_ok=True)).endswith(REPO))
call("upload", lambda: bool(api.upload_folder(repo_id=REPO, folder_path=folder())))
call("download", lambda: all(download(name) == content for name, content in FILES.items()))
call("list", lambda: sorted(api.list_repo_files(REPO)))
call("info", lambda: [len(api.model_info(REPO).sha or ""), api.model_info(REPO).private])
call("search", lambda: len(list(api.list_models(author=REPO.split("/")[0]))))
call("commit", lambda: bool(commit("more", CommitOperationAdd("a/b.txt", b"b\n"))))
call("stale parent", stale_parent)
call("commits", lambda: [one.title for one in api.list_repo_commits(REPO)])
call("branch", branch)
call("tag", lambda: api.create_tag(REPO, tag="v1"))
call("refs", lambda: sorted(ref.name for ref in api.list_repo_refs(REPO).branches))
call("pull request", pull_request)
call("delete file", lambda: bool(api.delete_file("config.json", REPO)))
call("delete folder", lambda: bool(api.delete_folder("data", REPO)))
call("listed at last", lambda: sorted(api.list_repo_files(REPO)))
call("move", lambda: api.move_repo(REPO, REPO + "-moved"))
call("delete", lambda: api.delete_repo(REPO + "-moved"))
