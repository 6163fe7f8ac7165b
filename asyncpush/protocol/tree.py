"""The files of a repo: paths-info for named paths, and the tree page by page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from asyncpush.errors import printable
from asyncpush.models import Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    FORM_HEADERS,
    HubRequest,
    HubResponse,
    a_size,
    a_text,
    a_text_or_none,
    an_object,
    get,
    json_list,
)

PATHS_LIMIT = 500
"""Paths in one request. The Hub accepts 1,000; half of that spares it."""

OID_LIMIT = 100
"""Characters of an oid that are kept: enough for a sha256 with its algorithm as a prefix."""

_XET_HASH = re.compile("[0-9a-f]{64}")
_NEXT = re.compile(r'<([^<>]+)>\s*;[^<>,]*rel="?next"?')


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub: `oid` is the sha256 of an LFS object, else the git blob sha1. `xet_hash`
    is the Xet hash of an object that is stored by Xet, if the Hub gives it."""

    path: str
    size: int
    oid: str
    lfs: bool
    xet_hash: str | None = None

    def holds(self, size: int, oid: str) -> bool:
        """Whether the file has this content."""
        return (self.size, self.oid) == (size, oid)


def paths_info_request(repo: Repo, revision: str, paths: Sequence[str]) -> HubRequest:
    """Sent as a form, like the official client does: other Hubs (KohakuHub) refuse the JSON that
    huggingface.co also accepts."""
    form = [("paths", path) for path in paths]
    return HubRequest(
        "verify_commit",
        "POST",
        routes.paths_info(repo, revision),
        urlencode([*form, ("expand", "false")]).encode(),
        FORM_HEADERS,
        fields={"repo_id": repo.repo_id, "revision": revision, "paths": len(paths)},
    )


def parse_paths_info(response: HubResponse) -> Mapping[str, RemoteFile]:
    """The files among the requested paths; a path that does not exist is not in the answer."""
    return {file.path: file for file in _files(json_list(response))}


def parse_path_kinds(response: HubResponse) -> Mapping[str, str]:
    """For each of the requested paths, whether it is a "file" or a "directory"."""
    kinds = {}
    for row in json_list(response):
        fields = an_object(row, "[]")
        kinds[a_text(fields.get("path"), "[].path")] = a_text(fields.get("type"), "[].type")
    return kinds


def tree_request(repo: Repo, revision: str, folder: str = "") -> HubRequest:
    """The first page of all files below `folder`, or of the whole repo if it is empty."""
    return get(
        "tree",
        f"{routes.tree(repo, revision, folder.strip('/'))}?recursive=true&expand=false",
        repo_id=repo.repo_id,
        revision=revision,
    )


def next_tree_request(request: HubRequest, url: str) -> HubRequest:
    return HubRequest(request.call, request.method, url, fields=request.fields)


def parse_tree(response: HubResponse) -> tuple[list[RemoteFile], str | None]:
    """The files of one page, and the URL of the next page if there is one."""
    return list(_files(json_list(response))), next_page(response)


def next_page(response: HubResponse) -> str | None:
    """The URL of the page that follows this one; None after the last."""
    following = _NEXT.search(response.headers.get("link", ""))
    return following[1] if following else None


def _files(rows: list[Any]) -> list[RemoteFile]:
    files = []
    for row in rows:
        fields = an_object(row, "[]")
        if a_text(fields.get("type"), "[].type") != "file":
            continue
        path = a_text(fields.get("path"), "[].path")
        if fields.get("lfs") is None:
            size = a_size(fields.get("size"), "[].size")
            files.append(RemoteFile(path, size, _oid(fields.get("oid"), "[].oid"), lfs=False))
        else:
            lfs = an_object(fields["lfs"], "[].lfs")
            size = a_size(lfs.get("size"), "[].lfs.size")
            oid = _oid(lfs.get("oid"), "[].lfs.oid").removeprefix("sha256:")
            files.append(RemoteFile(path, size, oid, lfs=True, xet_hash=_xet_hash(fields)))
    return files


def _xet_hash(fields: Mapping[str, Any]) -> str | None:
    value = a_text_or_none(fields.get("xetHash"), "[].xetHash")
    return value if value is not None and _XET_HASH.fullmatch(value) else None


def _oid(value: Any, name: str) -> str:
    """Some Hubs list their own checksums for files that were uploaded in another way (KohakuHub:
    S3's MD5). These never equal an oid, but that is no reason to refuse the whole listing."""
    return printable(a_text(value, name)[:OID_LIMIT])
