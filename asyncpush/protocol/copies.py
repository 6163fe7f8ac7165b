"""Copies on the Hub: objects that another repo gets without an upload, and the content of the small
files that must be part of the commit.

Source: `copy_files` of huggingface_hub (2.4), and the requests it sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyncpush.errors import printable
from asyncpush.models import Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    a_list,
    a_sha256,
    a_text,
    an_object,
    get,
    json_object,
    post_json,
)

DUPLICATES_LIMIT = 500
"""Objects in one request, as in the official client."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in the store: its sha256, its Xet hash, and the path of a file in the source repo
    that has this content."""

    oid: str
    xet_hash: str
    path: str


def duplicate_request(source: Repo, target: Repo, objects: Sequence[StoredObject]) -> HubRequest:
    """Give the repo `target` the objects of `source`, so that a commit there may name them. The
    request goes to the source repo. Both repos must be stored in the same region."""
    body = {
        "target": {"type": target.repo_type, "name": target.repo_id},
        "files": [
            {"xetHash": each.xet_hash, "sha256": each.oid, "filename": each.path}
            for each in objects
        ],
    }
    return post_json(
        "duplicate",
        routes.duplicate(source),
        body,
        repo_id=target.repo_id,
        source=source.repo_id,
        objects=len(objects),
    )


def parse_duplicate(response: HubResponse) -> Mapping[str, str]:
    """The objects that could not be copied: the reason by sha256. Empty when all were copied."""
    failed: dict[str, str] = {}
    for row in a_list(json_object(response).get("failed") or [], "failed"):
        fields = an_object(row, "failed[]")
        oid = a_sha256(fields.get("sha256"), "failed[].sha256")
        failed[oid] = printable(a_text(fields.get("error"), "failed[].error")[:300])
    return failed


def content_request(repo: Repo, revision: str, path: str) -> HubRequest:
    """The content of a file, which is the body of the answer."""
    return get(
        "content",
        routes.content(repo, revision, path),
        repo_id=repo.repo_id,
        revision=revision,
        file=path,
    )
