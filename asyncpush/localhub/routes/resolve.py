"""Downloads: a file's bytes and headers, whole or in a range, from git or from the store."""

from __future__ import annotations

import logging
import mimetypes
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import quote

from aiohttp import web

from asyncpush.localhub.errors import Refusal
from asyncpush.localhub.routes.xet import read_token_url
from asyncpush.localhub.state import HubState, state_of
from asyncpush.localhub.store.gitrepo import FileEntry
from asyncpush.localhub.store.names import RepoId, check_path
from asyncpush.localhub.web import flag_in_query

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
# Types that a browser shows without running anything; all else is bytes or plain text.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "audio/wav"})

logger = logging.getLogger("asyncpush.localhub")
routes = web.RouteTableDef()


_REPO = "/{prefix:(?:datasets/|spaces/|kernels/)?}{namespace}/{name}"


@routes.get(_REPO + "/resolve/{revision}/{path:.+}", name="resolve")
async def resolve(request: web.Request) -> web.StreamResponse:
    """A file's bytes, wherever they lie."""
    return await _serve(request, as_in_git=False)


@routes.get(_REPO + "/raw/{revision}/{path:.+}", name="raw")
async def raw(request: web.Request) -> web.StreamResponse:
    """What git has: of a file in LFS its pointer."""
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
    wanted = _wanted_range(request, etag, file.size)
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
    """The headers are gone already: what fails from here on is told by a body cut short."""
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
    """For clients that read chunks: the xet hash, and where they get a token for it."""
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


def _wanted_range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """`(start, stop)`, stop exclusive; None for the whole file: no range, or one not understood."""
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
