"""The content of a revision: the tree, page by page, and single paths."""

from __future__ import annotations

import base64
import binascii
import logging
import mimetypes
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, quote

from aiohttp import web

from asyncpush.localhub.routes.repo_admin import REPO
from asyncpush.localhub.routes.xet_cas import read_token_url
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import Commit, Entry, FileEntry
from asyncpush.localhub.store.names import RepoId, check_path
from asyncpush.localhub.web import (
    Refusal,
    bad_request,
    flag_in_query,
    json_answer,
    next_link,
    number_in_query,
    parse_object,
    read_body,
    strings_of,
    wire_time,
)
from asyncpush.localhub.xet import XetStore

MAX_PATHS = 1000
PAGE = 1000
# Finding the last commit of each file means walking through the history.
EXPANDED_PAGE = 50

routes = web.RouteTableDef()


@routes.post(REPO + "/paths-info/{revision}", name="paths-info")
async def paths_info(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    paths, expand = await _wanted_paths(request)
    revision = request.match_info["revision"]
    return json_answer(await state.run(_paths_info, state, repo, revision, paths, expand))


async def _wanted_paths(request: web.Request) -> tuple[Sequence[str], bool]:
    """The body is JSON, or the form that the official client sends."""
    body = await read_body(request)
    if request.content_type == "application/json":
        value = parse_object(body)
        return strings_of(value.get("paths"), "paths", MAX_PATHS), value.get("expand") is True
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PATHS + 8)
    except ValueError:
        raise bad_request(f"Invalid form: at most {MAX_PATHS} paths, in UTF-8") from None
    paths = [value for key, value in pairs if key in ("paths", "paths[]")]
    expand = any(key == "expand" and value.lower() in ("true", "1") for key, value in pairs)
    return strings_of(paths, "paths", MAX_PATHS), expand


def _paths_info(
    state: HubState, repo: RepoId, revision: str, paths: Sequence[str], expand: bool
) -> list[dict[str, Any]]:
    """Paths that do not exist are left out."""
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        found = (opened.entry(commit, path.rstrip("/")) for path in dict.fromkeys(paths) if path)
        entries = [entry for entry in found if entry is not None]
        last = opened.changed_last(commit, [entry.path for entry in entries]) if expand else {}
        return [entry_json(entry, last, state.xet) for entry in entries]


@routes.get(REPO + "/tree/{revision}{path:(?:/.*)?}", name="tree")
async def tree(request: web.Request) -> web.Response:
    state = state_of(request)
    repo = await state.readable(request)
    path = request.match_info["path"].strip("/")
    path = check_path(path) if path else ""
    expand = flag_in_query(request, "expand")
    most = EXPANDED_PAGE if expand else PAGE
    limit = number_in_query(request, "limit", most, low=1, high=most)
    recursive = flag_in_query(request, "recursive")
    after = _parse_cursor(request.query.get("cursor"))
    revision = request.match_info["revision"]
    commit, entries = await state.run(
        _page, state, repo, revision, path, recursive, after, limit + 1, expand
    )
    headers = None
    if len(entries) > limit:
        entries.pop()
        # The next page shows the same commit, even if the branch has moved by then.
        base = f"{state.base_url(request)}/api/{repo.type}s/{repo.full_name}/tree/{commit}"
        folder = request.rel_url.raw_path.split("/tree/", 1)[1].partition("/")[2]
        url = f"{base}/{folder}" if folder else base
        headers = next_link(url, request.query, cursor=_cursor(entries[-1]["path"]))
    return json_answer(entries, headers=headers)


def _page(
    state: HubState,
    repo: RepoId,
    revision: str,
    path: str,
    recursive: bool,
    after: str | None,
    count: int,
    expand: bool,
) -> tuple[str, list[dict[str, Any]]]:
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        walk = opened.walk(commit, path, recursive=recursive, after=after)
        entries = list(islice(walk, count))
        last = opened.changed_last(commit, [entry.path for entry in entries]) if expand else {}
        return commit, [entry_json(entry, last, state.xet) for entry in entries]


def entry_json(
    entry: Entry, last: Mapping[str, Commit], xet: XetStore | None = None
) -> dict[str, Any]:
    """A file or a folder in the Hub's form."""
    answer: dict[str, Any] = {"path": entry.path, "oid": entry.oid}
    if isinstance(entry, FileEntry):
        answer |= {"type": "file", "size": entry.size}
        if entry.lfs:
            answer["lfs"] = {
                "oid": entry.lfs.oid,
                "size": entry.lfs.size,
                "pointerSize": entry.pointer_size,
            }
            if xet is not None and xet.exists and (known := xet.known(entry.lfs.oid)):
                answer["xetHash"] = known.hash
    else:
        answer |= {"type": "directory", "size": 0}
    if entry.path in last:
        commit = last[entry.path]
        date = wire_time(commit.date)
        answer["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": date}
    return answer


def _cursor(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode()


def _parse_cursor(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise bad_request("Invalid cursor") from None


_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
# Types that a browser shows without running anything; everything else is sent as bytes or plain
# text.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "audio/wav"})

logger = logging.getLogger("asyncpush.localhub")


_REPO = "/{prefix:(?:datasets/|spaces/|kernels/)?}{namespace}/{name}"


@routes.get(_REPO + "/resolve/{revision}/{path:.+}", name="resolve")
async def resolve(request: web.Request) -> web.StreamResponse:
    """A file's bytes, wherever they are stored."""
    return await _serve(request, as_in_git=False)


@routes.get(_REPO + "/raw/{revision}/{path:.+}", name="raw")
async def raw(request: web.Request) -> web.StreamResponse:
    """The content that git stores: for a file in LFS this is its pointer."""
    return await _serve(request, as_in_git=True)


async def _serve(request: web.Request, *, as_in_git: bool) -> web.StreamResponse:
    state = state_of(request)
    repo = await state.open_to_read(request)
    path = check_path(request.match_info["path"])
    revision = request.match_info["revision"]
    commit, file = await state.run(_find, state, repo, revision, path)
    if as_in_git and file.lfs:
        file = replace(file, size=file.pointer_size, lfs=None)
    etag = f'"{file.lfs.oid if file.lfs else file.oid}"'
    headers = _headers(file, commit, etag, as_attachment=flag_in_query(request, "download"))
    headers |= await _xet_headers(request, state, repo, file, commit)
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    wanted = wanted_range(request, etag, file.size)
    start, stop = wanted or (0, file.size)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
    response.content_type = _content_type(path)
    response.content_length = stop - start
    await response.prepare(request)
    if request.method != "HEAD":
        await _send(request, response, _bytes(state, repo, file, start, stop))
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]
) -> None:
    """The headers have already been sent, so a failure from here on can only cut off the body."""
    try:
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        return
    except Exception:
        logger.exception("GET %s failed", request.path)
        if request.transport is not None:
            request.transport.abort()


def _find(state: HubState, repo: RepoId, revision: str, path: str) -> tuple[str, FileEntry]:
    with state.repos.open(repo) as opened:
        commit = opened.resolve(revision)
        return commit, opened.file(commit, path)


def _headers(file: FileEntry, commit: str, etag: str, *, as_attachment: bool) -> dict[str, str]:
    name = file.path.rpartition("/")[2]
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    kind = "attachment" if as_attachment else "inline"
    headers = {
        "X-Repo-Commit": commit,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": (
            f"{kind}; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\";"
        ),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "no-cache",
    }
    if file.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}
    return headers


async def _xet_headers(
    request: web.Request, state: HubState, repo: RepoId, file: FileEntry, commit: str
) -> dict[str, str]:
    """For clients that read chunks: the Xet hash, and where to get a token for it."""
    if file.lfs is None or not state.xet.exists:
        return {}
    known = await state.run(state.xet.known, file.lfs.oid)
    if known is None:
        return {}
    link = read_token_url(state, request, repo, commit)
    return {"X-Xet-Hash": known.hash, "Link": f'<{link}>; rel="xet-auth"'}


def _content_type(path: str) -> str:
    guess, encoding = mimetypes.guess_type(path)
    if encoding or guess is None:
        return "application/octet-stream"
    if guess in _SHOWN:
        return guess
    is_text = guess.startswith("text/") or guess in ("application/json", "application/yaml")
    return "text/plain" if is_text else "application/octet-stream"


def wanted_range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """`(start, stop)`, stop exclusive. None means the whole file: there is no range, or an unknown
    kind of range."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or request.headers.get("If-Range", etag) != etag or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        message = f"The range starts behind the end: the file has {size} bytes"
        raise Refusal(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


async def _bytes(
    state: HubState, repo: RepoId, file: FileEntry, start: int, stop: int
) -> AsyncIterator[bytes]:
    if file.lfs:
        async for piece in state.blobs.read(file.lfs.oid, start, stop):
            yield piece
    else:
        yield (await state.run(_content, state, repo, file.oid))[start:stop]


def _content(state: HubState, repo: RepoId, oid: str) -> bytes:
    with state.repos.open(repo) as opened:
        return opened.content(oid)
