"""The paths of the Hub's API below the endpoint, and the URLs of the Hub's pages.

To support a Hub with the same API at other paths, only this module needs to change. Query strings
belong to the modules that build the requests.
"""

from __future__ import annotations

from urllib.parse import quote

from asyncpush.models import Repo

WHOAMI = "/api/whoami-v2"
TOKEN = "/oauth/token"
CREATE = "/api/repos/create"
VALIDATE_CARD = "/api/validate-yaml"


def api(repo: Repo) -> str:
    """The path of the repo or bucket, below which most requests go."""
    return f"/api/{repo.api_path}"


def write_check(repo: Repo) -> str:
    return f"{api(repo)}/auth-check/write"


def head(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/revision/{_whole(revision)}"


def refs(repo: Repo) -> str:
    return f"{api(repo)}/refs"


def branch(repo: Repo, name: str) -> str:
    return f"{api(repo)}/branch/{_whole(name)}"


def preupload(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/preupload/{_whole(revision)}"


def lfs_batch(repo: Repo) -> str:
    return f"/{repo.git_path}.git/info/lfs/objects/batch"


def duplicate(source: Repo) -> str:
    """Copies LFS objects of `source` to another repo."""
    return f"{api(source)}/lfs-files/duplicate"


def xet_write_token(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/xet-write-token/{_whole(revision)}"


def commit(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/commit/{_whole(revision)}"


def commits(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/commits/{_whole(revision)}"


def paths_info(repo: Repo, revision: str) -> str:
    return f"{api(repo)}/paths-info/{_whole(revision)}"


def tree(repo: Repo, revision: str, folder: str = "") -> str:
    """Without a `folder`, the root of the repo."""
    return f"{api(repo)}/tree/{_whole(revision)}" + (f"/{_whole(folder)}" if folder else "")


def content(repo: Repo, revision: str, path: str) -> str:
    """The content of a file."""
    return f"/{repo.git_path}/resolve/{_whole(revision)}/{quote(path)}"


def discussions(repo: Repo) -> str:
    """Pull requests are discussions."""
    return f"{api(repo)}/discussions"


def discussion(repo: Repo, number: int) -> str:
    return f"{discussions(repo)}/{number}"


def bucket_batch(bucket: Repo) -> str:
    return f"{api(bucket)}/batch"


def bucket_paths_info(bucket: Repo) -> str:
    return f"{api(bucket)}/paths-info"


def bucket_tree(bucket: Repo, prefix: str) -> str:
    return f"{api(bucket)}/tree" + (f"/{_whole(prefix)}" if prefix else "")


def bucket_xet_token(bucket: Repo, *, write: bool) -> str:
    return f"{api(bucket)}/xet-{'write' if write else 'read'}-token"


def is_about(repo: Repo, target: str) -> bool:
    """Whether a request to `target` concerns this repo."""
    return f"{api(repo)}/" in target or f"/{repo.git_path}.git/" in target


def page(endpoint: str, repo: Repo) -> str:
    """The URL of the repo's page."""
    return f"{endpoint}/{repo.git_path}"


def commit_page(endpoint: str, repo: Repo, oid: str) -> str:
    return f"{page(endpoint, repo)}/commit/{oid}"


def pull_request_page(endpoint: str, repo: Repo, number: int) -> str:
    return f"{page(endpoint, repo)}/discussions/{number}"


def _whole(segment: str) -> str:
    """Quoted as a whole, so that `refs/pr/1` stays one segment."""
    return quote(segment, safe="")
