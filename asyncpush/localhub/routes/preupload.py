"""Preupload: how each file should be sent, which files are ignored, and what already exists."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from asyncpush.localhub.routes.repos import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import FileEntry, GitRepo
from asyncpush.localhub.store.ignoring import IgnoreRules
from asyncpush.localhub.store.lfs_rules import MAX_REGULAR_BYTES
from asyncpush.localhub.store.names import RepoId, check_path
from asyncpush.localhub.web import bad_request, json_answer, read_json, text_of

MAX_FILES = 256
MAX_SAMPLE_BYTES = 512
_MAX_SIZE = 1 << 53
_MAX_IGNORE_BYTES = 1 << 20

routes = web.RouteTableDef()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that a client is going to send; `sample` is its beginning."""

    path: str
    size: int
    sample: bytes


@routes.post(REPO + "/preupload/{revision}", name="preupload")
async def preupload(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.contributable(request)
    body = await read_json(request)
    files = _candidates(body.get("files"))
    ignore = text_of(body, "gitIgnore") if body.get("gitIgnore") is not None else None
    revision = request.match_info["revision"]
    return json_answer(await state.run(_answer, state, repo, revision, files, ignore))


def _candidates(value: object) -> list[Candidate]:
    if not isinstance(value, list) or len(value) > MAX_FILES:
        raise bad_request(f"'files' must be a list of at most {MAX_FILES}")
    return [_candidate(item) for item in value]


def _candidate(item: object) -> Candidate:
    if not isinstance(item, dict):
        raise bad_request("Each of 'files' must be an object")
    path, size = check_path(item.get("path")), item.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise bad_request(f"Invalid size of {path!r}: must be a whole number of bytes")
    return Candidate(path, size, _sample(path, item.get("sample")))


def _sample(path: str, value: object) -> bytes:
    try:
        sample = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        sample = None
    if sample is None or len(sample) > MAX_SAMPLE_BYTES:
        raise bad_request(
            f"Invalid sample of {path!r}: must be base64 of its first {MAX_SAMPLE_BYTES} bytes"
        )
    return sample


def _answer(
    state: HubState,
    repo: RepoId,
    revision: str,
    files: Sequence[Candidate],
    ignore: str | None,
) -> dict[str, Any]:
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        rules = _ignore_rules(opened, commit, ignore)
        answers = [_answer_for(opened, commit, rules, file) for file in files]
        return {"files": answers, "commitOid": commit}


def _answer_for(repo: GitRepo, commit: str, rules: IgnoreRules, file: Candidate) -> dict[str, Any]:
    answer = {
        "path": file.path,
        "uploadMode": "lfs" if _wants_lfs(repo, commit, file) else "regular",
        "shouldIgnore": rules.ignores(file.path),
    }
    there = repo.entry(commit, file.path)
    if isinstance(there, FileEntry):
        answer["oid"] = there.lfs.oid if there.lfs else there.oid
    return answer


def _wants_lfs(repo: GitRepo, commit: str, file: Candidate) -> bool:
    """Never for empty files: an object store would refuse them."""
    if file.size == 0:
        return False
    return (
        file.size > MAX_REGULAR_BYTES
        or is_binary(file.sample)
        or repo.is_lfs_path(commit, file.path)
    )


def is_binary(sample: bytes) -> bool:
    """Not UTF-8 text. A character cut in two by the end of the sample does not count as binary."""
    if b"\0" in sample:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=False)
    except UnicodeDecodeError:
        return True
    return False


def _ignore_rules(repo: GitRepo, commit: str, given: str | None) -> IgnoreRules:
    """The client's own .gitignore, or else the repo's."""
    if given is not None:
        return IgnoreRules.of(given.encode("utf-8", "surrogateescape"))
    there = repo.entry(commit, ".gitignore")
    is_readable = isinstance(there, FileEntry) and there.size <= _MAX_IGNORE_BYTES
    return IgnoreRules.of(repo.content(there.oid) if there and is_readable else b"")
