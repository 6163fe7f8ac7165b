"""Buckets: creating, listing, changing in batches, and reading.

    POST/GET/DELETE /api/buckets/{namespace}/{name}         "bucket-create", "bucket", ...
    GET  /api/buckets/{namespace}                           "buckets"
    POST .../batch                                          "bucket-batch"
    POST .../paths-info                                     "bucket-paths-info"
    GET  .../tree[/{prefix, quoted whole}]                  "bucket-tree"
    GET  .../xet-{read,write}-token                         "bucket-xet-{read,write}-token"
    GET  /buckets/{namespace}/{name}/resolve/{path}         "bucket-resolve"

For clients a batch is not a transaction: failed operations are listed, the others are carried out.
A copy needs read access to its source, which must contain the file. Adding a file needs only its
Xet hash, which nobody can guess.
"""

from __future__ import annotations

import mimetypes
import operator
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from asyncpush.localhub.auth import USER, check_scope, signed_in, user_of
from asyncpush.localhub.routes.content import wanted_range
from asyncpush.localhub.routes.xet_cas import granted
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store import rewriting
from asyncpush.localhub.store.bucket_index import (
    BucketFile,
    BucketInfo,
    Buckets,
    bucket_not_found,
    make_bucket_id,
)
from asyncpush.localhub.store.names import RepoId, make_repo_id, parse_repo_type, path_problem
from asyncpush.localhub.web import (
    Refusal,
    bad_request,
    entry_not_found,
    flag_in_query,
    forbidden,
    json_answer,
    next_link,
    not_logged_in,
    number_in_query,
    read_body,
    read_json,
    repo_not_found,
    strings_of,
    wire_time,
)

OPERATIONS_LIMIT = 1000
PAGE = 1000
_EMPTY = "0" * 64
"""The Xet hash of an empty file, which no shard describes."""
_TIMES = range(-62_135_596_800_000, 253_402_300_800_000)
"""The times that a listing can show: the years 1 to 9999, in milliseconds since the epoch."""
_API = "/api/buckets/{namespace}/{name}"
_HASH = re.compile("[0-9a-f]{64}")

routes = web.RouteTableDef()


@routes.post(_API, name="bucket-create")
async def create(request: web.Request) -> web.Response:
    state, bucket = state_of(request), _named(request)
    user = _user(request, bucket)
    _check_namespace(state, bucket, user)
    body = await read_json(request)
    private = body.get("visibility") == "private" or body.get("private") is True
    url = f"{state.base_url(request)}/buckets/{bucket.full_name}"
    try:
        await state.run(lambda: _buckets(state).create(bucket, user, private=private))
    except Refusal as refusal:
        refusal.extra["url"] = url
        raise
    return json_answer({"url": url, "id": bucket.full_name})


@routes.get(_API, name="bucket")
async def info(request: web.Request) -> web.Response:
    bucket, about = await readable(request)
    return json_answer(_described(bucket, about))


@routes.delete(_API, name="bucket-delete")
async def delete(request: web.Request) -> web.Response:
    state, bucket = state_of(request), await _writable(request)
    await state.run(_buckets(state).delete, bucket)
    return json_answer({"success": True})


async def move(request: web.Request, source: str, target: str) -> str:
    """Rename a bucket. Returns the URL of its page. The old name is free again."""
    state = state_of(request)
    old, new = (make_bucket_id(*name.partition("/")[::2]) for name in (source, target))
    user = _user(request, old)
    about = await _seen(request, old)
    if not _owns(state, user, old, about):
        raise forbidden(f"{user} may not rename the bucket {old.full_name}")
    _check_namespace(state, new, user)
    await state.run(_buckets(state).move, old, new)
    return f"{state.base_url(request)}/buckets/{new.full_name}"


@routes.put(_API + "/settings", name="bucket-settings")
async def settings(request: web.Request) -> web.Response:
    state, bucket = state_of(request), await _writable(request)
    private = (await read_json(request)).get("private")
    if not isinstance(private, bool):
        raise bad_request("'private' must be true or false")
    await state.run(_buckets(state).set_private, bucket, private)
    return json_answer({"private": private})


@routes.get("/api/buckets/{namespace}", name="buckets")
async def list_buckets(request: web.Request) -> web.Response:
    state, user = state_of(request), user_of(request)
    namespace = _namespace(request)
    make_bucket_id(namespace, "any")
    search = request.query.get("search", "").lower()

    def found() -> list[dict[str, Any]]:
        shown = []
        for bucket in _buckets(state).named(namespace):
            about = _buckets(state).info(bucket)
            if search in bucket.name.lower() and _may_see(state, user, bucket, about):
                shown.append(_described(bucket, about))
        return shown

    return json_answer(await state.run(found))


@routes.get(_API + "/xet-write-token", name="bucket-xet-write-token")
async def write_token(request: web.Request) -> web.Response:
    """Granted even if the hub grants no Xet token for repos: buckets can only be written through
    Xet."""
    await _writable(request)
    return granted(request, state_of(request), "write")


@routes.get(_API + "/xet-read-token", name="bucket-xet-read-token")
async def read_token(request: web.Request) -> web.Response:
    await readable(request)
    return granted(request, state_of(request), "read")


@routes.post(_API + "/batch", name="bucket-batch")
async def batch(request: web.Request) -> web.Response:
    state, bucket = state_of(request), await _writable(request)
    rows = [line for line in (await read_body(request)).splitlines() if line.strip()]
    if not 0 < len(rows) <= OPERATIONS_LIMIT:
        raise bad_request(f"A batch has 1 to {OPERATIONS_LIMIT} operations")
    try:
        operations = [orjson.loads(row) for row in rows]
    except orjson.JSONDecodeError as error:
        raise bad_request(f"Invalid NDJSON: {error.msg}") from None
    failed = await state.run(_apply, state, user_of(request), bucket, operations)
    answer = {
        "success": not failed,
        "processed": len(rows),
        "succeeded": len(rows) - len(failed),
        "failed": failed,
    }
    return json_answer(answer, status=422 if len(failed) == len(rows) else 200)


def _apply(
    state: HubState, user: str | None, bucket: RepoId, operations: list[Any]
) -> list[dict[str, str]]:
    """Carry out the operations that are possible. Returns those that failed. Of several operations
    on one path the last one counts."""
    failed: list[dict[str, str]] = []
    sources = _Sources(state, user)
    puts: dict[str, BucketFile] = {}
    deleted: dict[str, None] = {}
    for operation in operations:
        fields = operation if isinstance(operation, dict) else {}
        path = fields.get("path")
        try:
            if not isinstance(path, str) or (problem := path_problem(path)):
                raise bad_request(f"Invalid path: {problem if isinstance(path, str) else 'none'}")
            if fields.get("type") == "copyFile":
                sources.check(fields)
            if fields.get("type") in ("addFile", "copyFile"):
                puts[path] = _file_of(state, path, fields)
                deleted.pop(path, None)
            elif fields.get("type") == "deleteFile":
                deleted[path] = None
                puts.pop(path, None)
            else:
                raise bad_request("Unknown type of operation")
        except Refusal as refusal:
            failed.append({"path": str(path), "error": refusal.message})
    _buckets(state).change(bucket, list(puts.values()), list(deleted))
    return failed


class _Sources:
    """The sources that a batch copies from. Each repo or bucket is read only once."""

    def __init__(self, state: HubState, user: str | None) -> None:
        self._state = state
        self._user = user
        self._held: dict[tuple[object, object], frozenset[str]] = {}

    def check(self, fields: dict[str, Any]) -> None:
        """Raises a 404 unless the user may read the source and it contains the file."""
        source = fields.get("sourceRepoType"), fields.get("sourceRepoId")
        if source not in self._held:
            self._held[source] = self._hashes(*source)
        xet_hash = fields.get("xetHash")
        described = self._state.xet.file(xet_hash) if isinstance(xet_hash, str) else None
        names = {xet_hash, None if described is None else described.sha256}
        if not names & self._held[source]:
            raise Refusal(404, f"{source[0]} {source[1]} holds no file with the hash {xet_hash}")

    def _hashes(self, kind: object, full_name: object) -> frozenset[str]:
        """The Xet hashes of a bucket's files, the sha256 of a repo's."""
        state, user = self._state, self._user
        namespace, _, name = str(full_name).partition("/")
        if kind == "bucket":
            bucket = make_bucket_id(namespace, name)
            if not _may_see(state, user, bucket, _buckets(state).info(bucket)):
                raise bucket_not_found()
            files = _buckets(state).below(bucket, "", "", -1)
            return frozenset(file.xet_hash for file in files)
        repo = make_repo_id(parse_repo_type(kind), namespace, name)
        info = state.repos.info(repo)
        if (info.private or info.gated) and not state.owns(user, repo, info):
            raise repo_not_found()
        return frozenset(file.oid for file in rewriting.lfs_files(state.repos, repo))


def _file_of(state: HubState, path: str, fields: dict[str, Any]) -> BucketFile:
    xet_hash, mtime = fields.get("xetHash"), fields.get("mtime")
    if not isinstance(xet_hash, str) or not _HASH.fullmatch(xet_hash):
        raise bad_request("'xetHash' must be the Xet hash of the file")
    if not isinstance(mtime, int | None) or isinstance(mtime, bool):
        raise bad_request("'mtime' must be milliseconds since the epoch")
    if mtime is not None and mtime not in _TIMES:
        raise bad_request("'mtime' must be within the years 1 to 9999")
    described = state.xet.file(xet_hash)
    if described is None and xet_hash != _EMPTY:
        raise bad_request(f"No file with the Xet hash {xet_hash} was uploaded")
    kind = fields.get("contentType")
    return BucketFile(
        path,
        xet_hash,
        0 if described is None else described.size,
        int(time.time() * 1000) if mtime is None else mtime,
        datetime.now(UTC).isoformat(),
        kind if isinstance(kind, str) else None,
    )


@routes.post(_API + "/paths-info", name="bucket-paths-info")
async def paths_info(request: web.Request) -> web.Response:
    state = state_of(request)
    bucket, _ = await readable(request)
    paths = strings_of((await read_json(request)).get("paths"), "paths", OPERATIONS_LIMIT)
    files = await state.run(_buckets(state).files, bucket, paths)
    return json_answer([_row(file) for file in files])


@routes.get(_API + "/tree", name="bucket-tree")
async def tree(request: web.Request) -> web.Response:
    return await _tree(request, "")


@routes.get(_API + "/tree/{prefix:.+}", name="bucket-tree-below")
async def tree_below(request: web.Request) -> web.Response:
    return await _tree(request, request.match_info["prefix"])


async def _tree(request: web.Request, prefix: str) -> web.Response:
    """The prefix is compared as text: "logs" also matches "logs.json"."""
    state = state_of(request)
    bucket, _ = await readable(request)
    limit = number_in_query(request, "limit", PAGE, low=1, high=PAGE)
    cursor = request.query.get("cursor", "")
    headers = None
    if flag_in_query(request, "recursive"):
        files = await state.run(_buckets(state).below, bucket, prefix, cursor, limit + 1)
        rows = [_row(file) for file in files]
    else:
        files = await state.run(_buckets(state).below, bucket, prefix, "", -1)
        # In order of path as the cursor compares it: "logs" comes before "logs.txt", although
        # "logs.txt" comes before "logs/one.txt".
        level = sorted(_level(files, prefix), key=operator.itemgetter("path"))
        rows = [row for row in level if row["path"] > cursor][: limit + 1]
    if len(rows) > limit:
        rows = rows[:limit]
        url = f"{state.base_url(request)}{request.rel_url.raw_path}"
        headers = next_link(url, request.query, cursor=rows[-1]["path"])
    return json_answer(rows, headers=headers)


def _level(files: list[BucketFile], prefix: str) -> Iterator[dict[str, Any]]:
    """The files and folders of one level: within the folder that the prefix names, otherwise next
    to it."""
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    if folder and not any(file.path.startswith(folder) for file in files):
        folder = f"{prefix.rpartition('/')[0]}/".removeprefix("/")
    listed: set[str] = set()
    for file in files:
        if not file.path.startswith(folder):
            continue
        name, slash, _ = file.path[len(folder) :].partition("/")
        if not slash:
            yield _row(file)
        elif name not in listed:
            listed.add(name)
            uploaded = wire_time(file.uploaded_at)
            yield {"type": "directory", "path": folder + name, "uploadedAt": uploaded}


@routes.get("/buckets/{namespace}/{name}/resolve/{path:.+}", name="bucket-resolve")
async def resolve(request: web.Request) -> web.StreamResponse:
    state = state_of(request)
    bucket, _ = await readable(request)
    path = request.match_info["path"]
    found = await state.run(_buckets(state).files, bucket, [path])
    if not found:
        raise entry_not_found(path)
    (file,) = found
    etag = f'"{file.xet_hash}"'
    token_url = f"{state.base_url(request)}/api/buckets/{bucket.full_name}/xet-read-token"
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "X-Xet-Hash": file.xet_hash,
        "X-Linked-Size": str(file.size),
        "X-Linked-Etag": etag,
        "Link": f'<{token_url}>; rel="xet-auth"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "no-cache",
    }
    wanted = wanted_range(request, etag, file.size)
    start, stop = wanted or (0, file.size)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
    is_text = (mimetypes.guess_type(path)[0] or "").startswith("text/")
    response.content_type = "text/plain" if is_text else "application/octet-stream"
    response.content_length = stop - start
    await response.prepare(request)
    if request.method != "HEAD" and stop > start:
        pieces = await state.run(state.xet.read_file, file.xet_hash, start, stop)
        while piece := await state.run(next, pieces, b""):
            await response.write(piece)
        await response.write_eof()
    return response


def _buckets(state: HubState) -> Buckets:
    return Buckets(state.repos.root)


def _named(request: web.Request) -> RepoId:
    return make_bucket_id(_namespace(request), request.match_info["name"])


def _namespace(request: web.Request) -> str:
    """`me` means the user's own namespace, if users have names."""
    namespace, user = request.match_info["namespace"], user_of(request)
    return namespace if namespace != "me" or user in (None, USER) else str(user)


def _user(request: web.Request, bucket: RepoId) -> str:
    """The user, if their token may write to this bucket."""
    user = signed_in(request)
    check_scope(request, f"buckets/{bucket.full_name}")
    return user


def _check_namespace(state: HubState, bucket: RepoId, user: str) -> None:
    if bucket.namespace in state.users.names - {user}:
        raise forbidden(f"You may not create a bucket under {bucket.namespace!r}")


def _may_see(state: HubState, user: str | None, bucket: RepoId, about: BucketInfo) -> bool:
    return not about.private or _owns(state, user, bucket, about)


def _owns(state: HubState, user: str | None, bucket: RepoId, about: BucketInfo) -> bool:
    if user is None:
        return False
    return state.users.is_single or user in (bucket.namespace, about.author)


async def readable(request: web.Request) -> tuple[RepoId, BucketInfo]:
    """The bucket of this URL, if it exists and this user may read it."""
    try:
        bucket = _named(request)
    except Refusal:
        raise _not_found(user_of(request)) from None
    return bucket, await _seen(request, bucket)


async def _seen(request: web.Request, bucket: RepoId) -> BucketInfo:
    """What is known about a bucket, if it exists and this user may read it."""
    state, user = state_of(request), user_of(request)
    try:
        about = await state.run(_buckets(state).info, bucket)
    except Refusal:
        raise _not_found(user) from None
    if not _may_see(state, user, bucket, about):
        raise _not_found(user)
    return about


def _not_found(user: str | None) -> Refusal:
    return not_logged_in() if user is None else bucket_not_found()


async def _writable(request: web.Request) -> RepoId:
    signed_in(request)
    bucket, about = await readable(request)
    user = _user(request, bucket)
    if not _owns(state_of(request), user, bucket, about):
        raise forbidden(f"{user} may not write to the bucket {bucket.full_name}")
    return bucket


def _described(bucket: RepoId, about: BucketInfo) -> dict[str, Any]:
    return {
        "id": bucket.full_name,
        "private": about.private,
        "createdAt": wire_time(about.created_at),
        "size": about.size,
        "totalFiles": about.total_files,
    }


def _row(file: BucketFile) -> dict[str, Any]:
    modified = datetime.fromtimestamp(file.mtime / 1000, UTC)
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "xetHash": file.xet_hash,
        "mtime": wire_time(modified),
        "uploadedAt": wire_time(file.uploaded_at),
    }
