"""Preupload: requesting the upload mode of files, and whether a model card is valid."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asyncpush.errors import ProtocolError
from asyncpush.models import CARD_NAME, FileSource, Repo
from asyncpush.protocol import routes
from asyncpush.protocol.http import (
    HubRequest,
    HubResponse,
    a_flag,
    a_list,
    a_text,
    a_text_or_none,
    an_object,
    json_object,
    post_json,
    protocol_error,
)

BATCH_LIMIT = 256
"""Files in one request, as in the official client."""

SAMPLE_SIZE = 512
"""The Hub asks for this many bytes from the beginning of each file."""


@dataclass(frozen=True, slots=True)
class UploadMode:
    """The Hub's answer for one path. `oid` is what the path holds now (git blob sha1 for a regular
    file, sha256 for an LFS one)."""

    mode: Literal["regular", "lfs"]
    ignored: bool
    oid: str | None


def preupload_request(
    repo: Repo,
    revision: str,
    files: Sequence[tuple[FileSource, bytes]],
    *,
    create_pr: bool = False,
    gitignore: str | None = None,
) -> HubRequest:
    """`files` are pairs of a file and its sample."""
    body: dict[str, object] = {
        "files": [
            {
                "path": file.path_in_repo,
                "size": file.size,
                "sample": base64.b64encode(sample).decode("ascii"),
            }
            for file, sample in files
        ]
    }
    if gitignore is not None:
        body["gitIgnore"] = gitignore
    query = "?create_pr=1" if create_pr else ""
    return post_json(
        "preupload",
        routes.preupload(repo, revision) + query,
        body,
        repo_id=repo.repo_id,
        file=files[0][0].path_in_repo,
        size=sum(file.size for file, _ in files),
        files=[{"file": file.path_in_repo, "size": file.size} for file, _ in files],
    )


def parse_preupload(response: HubResponse, files: Sequence[FileSource]) -> Mapping[str, UploadMode]:
    """The mode of every requested file. Empty files are always regular, because the Hub's store
    refuses empty objects."""
    modes: dict[str, UploadMode] = {}
    for row in a_list(json_object(response).get("files"), "files"):
        fields = an_object(row, "files[]")
        path = a_text(fields.get("path"), "files[].path")
        mode: Any = a_text(fields.get("uploadMode"), "files[].uploadMode")
        if mode not in ("regular", "lfs"):
            raise protocol_error(f"files[].uploadMode is {mode[:80]!r}", response)
        modes[path] = UploadMode(
            mode,
            a_flag(fields.get("shouldIgnore", False), "files[].shouldIgnore"),
            a_text_or_none(fields.get("oid"), "files[].oid"),
        )
    answered: dict[str, UploadMode] = {}
    for file in files:
        if file.path_in_repo not in modes:
            raise protocol_error(f"files[] has no entry for {file.path_in_repo!r}", response)
        mode = modes[file.path_in_repo]
        answered[file.path_in_repo] = (
            mode if file.size else UploadMode("regular", mode.ignored, mode.oid)
        )
    return answered


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """What the Hub says about the card, in sentences. With any error it would refuse the commit."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def validate_request(repo: Repo, card: str) -> HubRequest:
    return post_json(
        "validate_yaml",
        routes.VALIDATE_CARD,
        {"content": card, "repoType": repo.repo_type},
        repo_id=repo.repo_id,
        file=CARD_NAME,
        size=len(card.encode()),
    )


def parse_verdict(response: HubResponse) -> CardVerdict:
    """The Hub answers 200 with warnings, or 400 with errors."""
    answer = json_object(response)
    return CardVerdict(
        _messages(answer.get("errors"), "errors"), _messages(answer.get("warnings"), "warnings")
    )


def is_verdict(response: HubResponse) -> bool:
    """Whether a 400 is about the card, rather than about the request."""
    if response.status != 400:
        return False
    try:
        answer = json_object(response)
    except ProtocolError:
        return False
    return isinstance(answer.get("errors"), list)


def _messages(rows: Any, name: str) -> tuple[str, ...]:
    return tuple(
        a_text(an_object(row, f"{name}[]").get("message"), f"{name}[].message")
        for row in a_list(rows or [], name)
    )
