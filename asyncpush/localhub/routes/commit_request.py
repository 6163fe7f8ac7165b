"""The requests of a commit. Validation checks its card. Preupload says how each file should be
sent, which files are ignored and what already exists. The commit's lines are read one by one, so
that memory holds only a few."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from asyncpush.localhub.auth import require_user
from asyncpush.localhub.blobs import is_oid
from asyncpush.localhub.cards import MAX_CARD_BYTES, check_card
from asyncpush.localhub.packing import despite_packing
from asyncpush.localhub.routes.repo_admin import REPO
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store import pulls
from asyncpush.localhub.store.committing import (
    Change,
    CommitRequest,
    DeleteFile,
    DeleteFolder,
    PutFile,
    PutLfs,
    add_blob,
    check_parent,
    commit,
    commit_as_pull_request,
)
from asyncpush.localhub.store.gitrepo import FileEntry, GitRepo, LfsPointer
from asyncpush.localhub.store.ignoring import IgnoreRules
from asyncpush.localhub.store.lfs_rules import MAX_REGULAR_BYTES, not_stored
from asyncpush.localhub.store.names import RepoId, check_path, parse_repo_type
from asyncpush.localhub.web import (
    bad_request,
    flag_in_query,
    json_answer,
    parse_object,
    read_json,
    text_of,
    too_large,
)

MAX_PREUPLOAD_FILES = 256
MAX_SAMPLE_BYTES = 512
_MAX_FILE_SIZE = 1 << 53
_MAX_IGNORE_BYTES = 1 << 20

MAX_LINE_BYTES = MAX_REGULAR_BYTES * 4 // 3 + (64 << 10)
MAX_BODY_BYTES = 2 << 30
MAX_CHANGES = 100_000
# Lines are handled by the megabyte: switching to a thread for each small file would take longer
# than the work itself.
_BATCH_BYTES = 1 << 20

_PULL_REF = re.compile(r"refs/pr/([1-9][0-9]{0,8})", re.ASCII)

routes = web.RouteTableDef()


@routes.post("/api/validate-yaml", name="validate-yaml")
async def validate_yaml(request: web.Request) -> web.Response:
    body = await read_json(request)
    content = text_of(body, "content", limit=MAX_CARD_BYTES)
    repo_type = parse_repo_type(body.get("repoType") or "model")
    check = await state_of(request).run(check_card, content, repo_type)
    answer = {
        "errors": [{"message": message} for message in check.errors],
        "warnings": [{"message": message} for message in check.warnings],
    }
    return json_answer(answer, status=400 if check.errors else 200)


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
    if not isinstance(value, list) or len(value) > MAX_PREUPLOAD_FILES:
        raise bad_request(f"'files' must be a list of at most {MAX_PREUPLOAD_FILES}")
    return [_candidate(item) for item in value]


def _candidate(item: object) -> Candidate:
    if not isinstance(item, dict):
        raise bad_request("Each of 'files' must be an object")
    path, size = check_path(item.get("path")), item.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_FILE_SIZE:
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


@dataclass
class _Draft:
    """A commit that is being read."""

    header: dict[str, Any] | None = None
    changes: list[Change | _LfsFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _LfsFile:
    """A file named by the client, not looked up yet. A copy by the official client has no size."""

    path: str
    oid: str
    size: int | None


@dataclass(frozen=True, slots=True)
class _Content:
    path: str
    data: bytes


@routes.post(REPO + "/commit/{revision}", name="commit")
async def post_commit(request: web.Request) -> web.Response:
    state, user = state_of(request), require_user(request)
    revision, opens_pull = request.match_info["revision"], flag_in_query(request, "create_pr")
    if opens_pull or await _is_own_pull(request, revision, user):
        repo = await state.contributable(request)
    else:
        repo = await state.writable(request)
    draft = await _read(request, state, repo)
    if draft.header is None:
        raise bad_request("The first line must be the header")
    if not draft.changes:
        raise bad_request("The commit changes nothing: send at least one file or deletion")
    wanted = CommitRequest(
        summary=_summary(draft.header),
        description=text_of(draft.header, "description", default=""),
        changes=[await _stored(state, change) for change in draft.changes],
        author=user,
        parent_commit=check_parent(draft.header.get("parentCommit")),
    )
    make = commit_as_pull_request if opens_pull else commit
    made = await state.run_exclusively(repo, make, state.repos, repo, revision, wanted)
    url = f"{state.base_url(request)}/{repo.url_path}"
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{url}/commit/{made.oid}",
        "hookOutput": "",
    }
    if made.pull_request is not None:
        answer["pullRequestUrl"] = f"{url}/discussions/{made.pull_request}"
    return json_answer(answer)


async def _is_own_pull(request: web.Request, revision: str, user: str) -> bool:
    """Those who opened a pull request may add commits to it."""
    state, match = state_of(request), _PULL_REF.fullmatch(revision)
    if match is None:
        return False
    repo = await state.contributable(request)
    return user == await state.run(pulls.author, state.repos, repo, int(match[1]))


async def _read(request: web.Request, state: HubState, repo: RepoId) -> _Draft:
    draft = _Draft()
    async for lines in _batches_of_lines(request):
        contents: list[_Content] = []
        for line in await state.run(_parse_lines, lines):
            if isinstance(line, dict):
                if draft.header is not None or draft.changes:
                    raise bad_request("There must be one header, on the first line")
                draft.header = line
            elif isinstance(line, _Content):
                contents.append(line)
            else:
                draft.changes.append(line)
        if contents:
            data = [content.data for content in contents]
            blobs = await state.run(despite_packing, add_blob, state.repos, repo, data)
            draft.changes += (
                PutFile(content.path, blob) for content, blob in zip(contents, blobs, strict=True)
            )
        if len(draft.changes) > MAX_CHANGES:
            raise too_large(f"More than {MAX_CHANGES} changes in one commit")
    return draft


async def _batches_of_lines(request: web.Request) -> AsyncIterator[list[bytes]]:
    batch: list[bytes] = []
    held = total = 0
    rest = bytearray()
    async for piece in request.content.iter_any():
        total += len(piece)
        if total > MAX_BODY_BYTES:
            raise too_large(f"A commit's body is at most {MAX_BODY_BYTES} bytes")
        *lines, tail = piece.split(b"\n")
        if lines:
            batch += [bytes(rest + lines[0]), *lines[1:]]
            rest = bytearray()
        rest += tail
        held += len(piece)
        _check_line_length(rest, *batch[-len(lines) :] if lines else ())
        if batch and held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    yield [*batch, bytes(rest)]


def _check_line_length(*lines: bytes | bytearray) -> None:
    if any(len(line) > MAX_LINE_BYTES for line in lines):
        raise too_large(
            f"A regular file is at most {MAX_REGULAR_BYTES} bytes: send larger ones through LFS"
        )


def _parse_lines(lines: list[bytes]) -> list[dict[str, Any] | _Content | Change | _LfsFile]:
    return [_parse_line(line) for line in lines if line.strip()]


def _parse_line(line: bytes) -> dict[str, Any] | _Content | Change | _LfsFile:
    """The header as it is, and every other line as the change it describes."""
    item = parse_object(line)
    key, value = item.get("key"), item.get("value")
    if not isinstance(value, dict):
        raise bad_request("Each line must be an object with 'key' and 'value'")
    match key:
        case "header":
            return value
        case "file":
            return _parse_file(value)
        case "lfsFile":
            return _parse_lfs_file(value)
        case "deletedFile":
            return DeleteFile(check_path(value.get("path")))
        case "deletedFolder":
            return DeleteFolder(check_path(text_of(value, "path").removesuffix("/")))
        case _:
            raise bad_request(f"Unknown key {str(key)[:50]!r}")


def _parse_file(value: dict[str, Any]) -> _Content:
    path, content = check_path(value.get("path")), value.get("content")
    encoding = value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("utf-8", "base64"):
        raise bad_request(f"Invalid content of {path!r}: must be a string, in base64 or utf-8")
    try:
        data = base64.b64decode(content, validate=True) if encoding == "base64" else None
    except (binascii.Error, ValueError):
        raise bad_request(f"Invalid content of {path!r}: not base64") from None
    data = content.encode() if data is None else data
    if len(data) > MAX_REGULAR_BYTES:
        raise too_large(
            f"{path!r} has {len(data)} bytes; a regular file is at most {MAX_REGULAR_BYTES}: "
            "send larger ones through LFS"
        )
    return _Content(path, data)


def _parse_lfs_file(value: dict[str, Any]) -> _LfsFile:
    path, oid, size = check_path(value.get("path")), value.get("oid"), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not is_oid(oid):
        raise bad_request(f"Invalid LFS pointer of {path!r}: oid must be a sha256")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise bad_request(f"Invalid LFS pointer of {path!r}: size must be a number of bytes")
    return _LfsFile(path, str(oid), size)


async def _stored(state: HubState, change: Change | _LfsFile) -> Change:
    """A pointer is committed only if its object is stored, complete, and of the stated size."""
    if not isinstance(change, _LfsFile):
        return change
    size = await state.blobs.size(change.oid)
    if size is None:
        raise not_stored(change.path)
    if change.size not in (None, size):
        raise bad_request(
            f"LFS pointer of {change.path!r} says {change.size} bytes; the object has {size}"
        )
    return PutLfs(change.path, LfsPointer(change.oid, size))


def _summary(header: dict[str, Any]) -> str:
    summary = text_of(header, "summary").strip()
    if not summary:
        raise bad_request("'summary' must not be empty")
    return summary
